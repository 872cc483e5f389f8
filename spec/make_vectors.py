"""Make spec/vectors/: small files that each show one thing SPEC.md says, and what a reader finds in them.

    python spec/make_vectors.py               write NAME.sdl and NAME.json for every function below, README.md,
                                              and the example of SPEC 8.6.6
    python spec/make_vectors.py --embedded    write only the vectors that depend on the embedded model's tables
    python spec/make_vectors.py --check       compare with the files in the folder and write nothing

Every vector is one function.  Its name is the file's name, its docstring the comment in README.md.  This program puts
the bytes together itself, apart from the library and from spec/reader.py, so that no vector hides a mistake of theirs.
Only the context model's predictions come from reader.py; the library has to read the result.  Most zstd frames are
written by hand and consist of uncompressed blocks.  The frames of the zstandard package may differ between its
versions, so `--check` compares what the files hold, not their bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import shutil
import struct
import sys
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import reader
import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

FOLDER = Path(__file__).parent / "vectors"
TEXT = Path(__file__).parent / "SPEC.md"
MODEL = bytes(range(0xA0, 0xB0))
"""Model hash of the vectors.  No model has it, and reading symbols needs none outside of latent space 16."""

CODES: dict[str, int] = {entry["name"]: entry["code"] for entry in reader.REGISTRY["spaces"]}
SD1, SDXL, SD3, FLUX1, EMBEDDED = (CODES[name] for name in ("sd1", "sdxl", "sd3", "flux1", "sdl"))

SPACE = SD1
CHANNELS: int = reader.SPACES[SPACE]["channels"]
"""Latent space of most vectors, and its channels."""

EMBEDDED_MODEL = bytes.fromhex(next(entry["hash"] for entry in reader.REGISTRY["models"] if entry["space"] == "sdl"))
"""Model hash of the embedded model, which files of its latent space must name (SPEC 7.1)."""

MODES = {"L": 0, "LA": 1, "RGB": 2, "RGBA": 3}


class Vector(NamedTuple):
    """A file and the content of its side file without the comment."""

    data: bytes
    side: dict[str, Any]


MAKERS: dict[str, Callable[[], Vector]] = {}


def vector(maker: Callable[[], Vector]) -> Callable[[], Vector]:
    """Register a function that makes a vector."""
    MAKERS[maker.__name__] = maker
    return maker


# Bytes of the format


def varint(value: int) -> bytes:
    """Return a varint (SPEC 3.2)."""
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def crc(data: bytes) -> bytes:
    """Return the CRC of `data` (SPEC 3.4)."""
    return struct.pack("<I", zlib.crc32(data))


def header(
    width: int | bytes = 1,
    height: int | bytes = 1,
    *,
    mode: int | str = "RGB",
    space: int = SPACE,
    quantizer: int = 0,
    rate: int = 128,
    payload: int = 0,
    model: bytes | None = None,
    sections: int = 1,
    flags: int = 0,
    version: int = 0,
) -> bytes:
    """Return a header (SPEC 5).

    width, height: as bytes where they are not in the one valid form.   model: MODEL by default, or the embedded model's
    hash in its latent space.
    """
    numbers: tuple[int | bytes, ...] = (width, height, space, quantizer, rate, payload)
    body = b"\x89SDL" + bytes([version, flags, MODES[mode] if isinstance(mode, str) else mode])
    body += b"".join(number if isinstance(number, bytes) else varint(number) for number in numbers)
    body += (model or (EMBEDDED_MODEL if space == EMBEDDED else MODEL)) + varint(sections)
    return body + crc(body)


def section(name: str | int, data: bytes, length: bytes = b"") -> bytes:
    """Return a section (SPEC 6.1).   length: as bytes where it is not that of the data."""
    body = bytes([ord(name) if isinstance(name, str) else name]) + (length or varint(len(data))) + data
    return body + crc(body)


def file(*sections: bytes, **fields: Any) -> bytes:
    """Return a header with those fields, followed by the sections."""
    return header(sections=len(sections), **fields) + b"".join(sections)


def flip(data: bytes, index: int) -> bytes:
    """Return `data` with the lowest bit of one byte changed."""
    changed = bytearray(data)
    changed[index] ^= 1
    return bytes(changed)


# Zstd frames, RFC 8878

MAGIC = b"\x28\xb5\x2f\xfd"
BLOCK = 2**17
"""Most bytes of one zstd block."""


def raw_block(data: bytes, *, last: bool = True) -> bytes:
    """Return an uncompressed block."""
    return (len(data) << 3 | last).to_bytes(3, "little") + data


def run_block(size: int, *, last: bool = True) -> bytes:
    """Return a block of `size` zero bytes."""
    return (size << 3 | 1 << 1 | last).to_bytes(3, "little") + b"\0"


def frame_of(blocks: bytes, size: int) -> bytes:
    """Return a frame that states its content size in 4 bytes and no window."""
    return MAGIC + b"\xa0" + struct.pack("<I", size) + blocks


def frame(content: bytes) -> bytes:
    """Return a frame of one uncompressed block."""
    return frame_of(raw_block(content), len(content))


def zeros_frame(size: int) -> bytes:
    """Return a frame of `size` zero bytes, which takes 4 bytes for every block."""
    starts = range(0, size, BLOCK)
    runs = [run_block(min(BLOCK, size - start), last=start == starts[-1]) for start in starts]
    return frame_of(b"".join(runs), size)


# Symbols

Planes = list[list[int]]


def noise(seed: int, count: int, bits: int = 8) -> list[int]:
    """Return `count` symbols of `bits` bits from a linear congruential generator."""
    symbols = []
    for _ in range(count):
        seed = (seed * 1103515245 + 12345) % 2**31
        symbols.append((seed >> 8) % 2**bits - 2 ** (bits - 1))
    return symbols


def noise_order(count: int) -> list[int]:
    """Return the numbers 0 to `count` - 1 in a pseudo-random order."""
    return sorted(range(count), key=noise(7, count, 16).__getitem__)


def zero_planes(count: int = 1) -> Planes:
    """Return planes of `count` zero symbols each."""
    return [[0] * count for _ in range(CHANNELS)]


def noise_planes(count: int, widths: Sequence[int], space: int = SPACE) -> Planes:
    """Return planes of `count` symbols, where channel c has `widths[c % len(widths)]` bits."""
    bits = [widths[channel % len(widths)] for channel in range(reader.SPACES[space]["channels"])]
    return [noise(1 + channel, count, b) if b else [0] * count for channel, b in enumerate(bits)]


def sparse_planes(count: int, widths: Sequence[int]) -> Planes:
    """Return `noise_planes` with four symbols of five set to zero, which zstd stores as compressed blocks."""
    planes = noise_planes(count, widths)
    return [[symbol if index % 5 == 0 else 0 for index, symbol in enumerate(plane)] for plane in planes]


def needed_bits(plane: list[int]) -> int:
    """Return the smallest width that holds a plane."""
    if not any(plane):
        return 0
    return next(b for b in (2, 4, 8, 16) if all(-(2 ** (b - 1)) <= symbol < 2 ** (b - 1) for symbol in plane))


def pack_plane(plane: list[int], bits: int) -> bytes:
    """Return the bytes of one plane (SPEC 8.3)."""
    if bits == 16:
        words = struct.pack(f"<{len(plane)}h", *plane)
        return words[0::2] + words[1::2]
    number = sum(symbol % (1 << bits) << index * bits for index, symbol in enumerate(plane))
    return number.to_bytes(-(-len(plane) * bits // 8), "little")


def pack_groups(planes: Planes, bits: list[int] | None = None) -> list[bytes]:
    """Return the list of widths and the planes of each width (SPEC 8.3)."""
    bits = bits or [needed_bits(plane) for plane in planes]
    groups = [bytes(bits)]
    for width in (2, 4, 8, 16):
        chosen = [plane for plane, b in zip(planes, bits, strict=True) if b == width]
        groups.append(b"".join(pack_plane(plane, width) for plane in chosen))
    return groups


def pack(planes: Planes, bits: list[int] | None = None) -> bytes:
    """Return the content of the payload's frame (SPEC 8.3)."""
    return b"".join(pack_groups(planes, bits))


class Operation(NamedTuple):
    """One step of the coder (SPEC 8.6.4).   below: c_v, the sum of the frequencies of the values before v."""

    below: int
    frequency: int


def number(value: int, u: int) -> Operation:
    """Return the operation that codes a number of u bits."""
    return Operation(value << 16 - u, 2 ** (16 - u))


class Symbol(NamedTuple):
    """A symbol in the order of coding, its place, and the model's prediction.   k: number of the pass."""

    k: int
    y: int
    x: int
    channel: int
    value: int
    model: reader.Prediction


def coded_symbols(
    planes: Planes, groups: int, rate: int, height: int, width: int, space: int = SPACE
) -> list[list[Symbol]]:
    """Return the symbols of each pass for a picture of height x width positions (SPEC 8.6.2)."""
    picture = reader.empty_latent(space, rate, height, width)
    for channel, plane in enumerate(planes):
        for index, symbol in enumerate(plane):
            picture.put(channel, index // width, index % width, symbol)
    return [
        [
            Symbol(k, y, x, channel, planes[channel][y * width + x], found)
            for y, x in reader.positions(k, height, width)
            for channel, found in zip(picture.groups[group], picture.predict(group, k, y, x), strict=True)
        ]
        for group in range(groups)
        for k in range(10)
    ]


def operations(symbols: list[Symbol]) -> list[Operation]:
    """Return the operations of a pass (SPEC 8.6.5)."""
    offsets, lengths, excesses, low = [], [], [], []
    for symbol in symbols:
        q, z = symbol.model.q, symbol.model.z
        row = reader.distributions()[symbol.model.row]
        w = (len(row) - 3) // 2
        shifted = symbol.value + 2**q // 2
        offset = shifted // 2**q - z
        value = min(max(offset, -w - 1), w + 1) + w + 1
        offsets.append(Operation(sum(row[:value]), row[value]))
        if abs(offset) > w:
            a = (abs(offset) - w).bit_length() - 1
            lengths.append(number(a, 5))
            excesses.append(number(abs(offset) - w - 2**a, a))
        if q:
            low.append(number(shifted % 2**q, q))
    return offsets + lengths + excesses + low


def coded(done: list[Operation], states: int, first: int = 2**16) -> bytes:
    """Return states and words (SPEC 8.6.4).   first: value of all states after the last operation."""
    state, words = [first] * states, []
    for t in reversed(range(len(done))):
        x, (below, frequency) = state[t % states], done[t]
        if x >= frequency << 16:
            words.append(x & 0xFFFF)
            x >>= 16
        state[t % states] = (x // frequency << 16) + x % frequency + below
    return struct.pack(f"<{states}I{len(words)}H", *state, *reversed(words))


def range_payload(
    planes: Planes, groups: int, b: int = 0, *, rate: int = 128, height: int = 1, width: int = 1, space: int = SPACE
) -> bytes:
    """Return the payload of method 1 for a picture of height x width positions (SPEC 8.6)."""
    passes = coded_symbols(planes, groups, rate, height, width, space)
    done = [operation for symbols in passes for operation in operations(symbols)]
    return bytes([groups, b]) + coded(done, 8 << b if b else 1)


Palette = list[tuple[int, int, int, int]]


def entry_bits(entry: tuple[int, int, int, int]) -> str:
    """Return the 32 bits of an entry in their order (SPEC 8.8.2)."""
    return "".join(f"{level:08b}"[place] for place in range(8) for level in entry)


def palette_number(entries: Palette) -> int:
    """Return N (SPEC 8.8.2)."""
    number, value = 0, 1
    groups = [[entry_bits(entry) for entry in entries]]
    for bit in range(32):
        parts = []
        for group in groups:
            zeros = [entry for entry in group if entry[bit] == "0"]
            number += value * len(zeros)
            value *= len(group) + 1
            parts += [zeros, [entry for entry in group if entry[bit] == "1"]]
        groups = [part for part in parts if part]
    return number


def palette(entries: Palette, more: int = 0, flags: int = 0) -> bytes:
    """Return section P.   more: added to N.   flags: 1 for dithered."""
    found = palette_number(entries) + more
    data = bytes([flags, len(entries) - 1]) + found.to_bytes(-(-found.bit_length() // 8), "little")
    return section("P", data)


Grids = tuple[list[int], list[int]]
"""Levels of the cells of a fidelity map, in rows: errors and invented structure."""


def fidelity_map(grids: Grids, columns: int, *, s: int = 3, i: int = 20, head: bytes | None = None) -> bytes:
    """Section f (SPEC 9.3).   columns: cells in a row.   head: the first four bytes, where they are not the right ones."""
    error, invented = grids
    w = (len(reader.distributions()[16 * i + 8]) - 3) // 2
    done = []
    for grid, first in ((error, 7), ([b - a for a, b in zip(error, invented, strict=True)], 0)):
        values, beyond = [], []
        for index, level in enumerate(grid):
            left = grid[index - 1] if index % columns else grid[index - columns] if index else first
            upper = grid[index - columns] if index >= columns else left
            offset = level - (left + upper + 1) // 2
            values.append(operation_of_row(16 * i + 8, min(max(offset, -w - 1), w + 1) + w + 1))
            if abs(offset) > w:
                beyond.append(number(abs(offset) - w - 1, 5))
        done += values + beyond
    start = head or bytes([s, max(error) << 4 | 5, max(invented) << 4, i])
    return section("f", start + coded(done, 1))


def operation_of_row(row: int, value: int) -> Operation:
    """SPEC 8.6.4: a value of a row of the distributions."""
    frequencies = reader.distributions()[row]
    return Operation(sum(frequencies[:value]), frequencies[value])


def latent(planes: Planes | None = None) -> bytes:
    """Return section L with uncompressed content."""
    return section("L", frame(pack(planes or zero_planes())))


# Expectations


def sha256(data: bytes) -> str:
    """Return the SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def success(
    data: bytes,
    planes: Planes | None = None,
    *,
    size: tuple[int, int] = (1, 1),
    mode: str = "RGB",
    rate: int = 128,
    alpha: bytes | None = None,
    metadata: dict[str, bytes] | None = None,
    fidelity: Grids | None = None,
    patches: dict[str, Any] | None = None,
    frames: dict[str, Any] | None = None,
    further: Sequence[Planes] = (),
    rule: str | None = None,
) -> Vector:
    """Return a vector that is read, with what a reader finds in it.   further: planes of each further frame."""
    side = {
        "expect": "success",
        "verify": "success",
        "rule": rule,
        "size": list(size),
        "mode": mode,
        "rate": rate,
        "symbols_sha256": symbols_sha256(planes or zero_planes()),
        "alpha_sha256": None if alpha is None else sha256(alpha),
        "metadata": {name: sha256(content) for name, content in (metadata or {}).items()},
        "fidelity": fidelity and list(fidelity),
        "patches": patches,
        "frames": frames,
        "frames_sha256": [symbols_sha256(planes) for planes in further],
    }
    return Vector(data, side)


def symbols_sha256(planes: Planes) -> str:
    """Return the SHA-256 of symbols as int16, little-endian, in the order C, h, w."""
    return sha256(b"".join(struct.pack(f"<{len(plane)}h", *plane) for plane in planes))


LOSSY = bytes.fromhex(
    "1004009d012a1000100002c04c25b00274730178036c03f402efffd003fc06f35feb77c007fcc08a8000feeb96dff45bfbd35fffa6a49688c3"
    "dc0c9ba7d733f4e1b8b114a98e55786e2b6863cd8574bbfe3210d89f42ff4dff1fabf5ff9624a3a88d301d5ca2c3600000"
)
LOSSLESS = bytes.fromhex("2f1fc0030020d2b63156ffce4e777a0ae45320f77f029490f3a0a202")
"""Data of the WebP chunks `VP8 `, 16 x 16 pixels, and `VP8L`, 32 x 16 pixels: a square on a ground, by libwebp."""

TALL = bytes.fromhex(
    "2f1fc00b0085a248521c2728462c0e32ec8b0b3f8140923fca303309090863ac974cecff0450c024780745f90bf8e13398bf2721fcdf00"
)
"""Data of the WebP chunk `VP8L`, 32 x 48 pixels: rectangles, by libwebp."""

Rects = list[tuple[int, int, int, int]]


def guard(rects: Rects, columns: int, data: bytes, *, method: int, size: int = 1, count: int | None = None) -> bytes:
    """Return a section with guard patches (SPEC 9.4).

    rects: left, top, width and height in cells.   size: bytes of each number.   count: as it stands, if it is not right.
    """
    head = struct.pack("<BHH", method, len(rects) if count is None else count, columns)
    fields = b"".join(number.to_bytes(size, "little") for rect in rects for number in rect)
    return section("g", head + fields + data)


def patches_of(rects: Rects, columns: int, rows: int, data: bytes, *, method: int) -> dict[str, Any]:
    """Return what a reader finds in guard patches."""
    shown = [list(rect) for rect in rects]
    return {"method": method, "atlas": [columns, rows], "rects": shown, "data_sha256": sha256(data)}


def refused(data: bytes, rule: str, kind: str = "malformed") -> Vector:
    """Return a vector that is refused."""
    return Vector(data, {"expect": kind, "verify": kind, "rule": rule})


def partly_read(*sections: bytes, rule: str = "H-07", kind: str = "unsupported", **fields: Any) -> Vector:
    """Return a vector whose symbols are refused, while size, mode, rate, alpha and metadata can be read.

    sections: critical ones other than A and L.
    """
    alpha = section("A", b"\0" + frame(b"\x40\x41"))
    whole = [section("i", b"\0profile"), *sections, alpha, section("L", b"of another kind")]
    side = {
        **refused(b"", rule, kind).side,
        "size": [2, 1],
        "mode": "RGBA",
        "rate": fields.get("rate", 128),
        "alpha_sha256": sha256(b"\x40\x41"),
        "metadata": {"i": sha256(b"profile")},
        "fidelity": None,
        "patches": None,
        "frames": None,
    }
    return Vector(file(*whole, width=2, mode="RGBA", **fields), side)


# Files that are read: pictures and symbols


@vector
def ok_minimal() -> Vector:
    """A picture of one pixel whose symbols are all zero: no plane takes any bytes."""
    return success(file(latent()))


@vector
def ok_mode_l() -> Vector:
    """A picture of mode L."""
    return success(file(latent(), mode="L"), mode="L")


@vector
def ok_mode_la() -> Vector:
    """A picture of mode LA with alpha of one pixel."""
    return success(file(section("A", b"\0" + frame(b"\x7f")), latent(), mode="LA"), mode="LA", alpha=b"\x7f")


@vector
def ok_rate_0() -> Vector:
    """The smallest rate."""
    return success(file(latent(), rate=0), rate=0)


@vector
def ok_rate_255() -> Vector:
    """The largest rate."""
    return success(file(latent(), rate=255), rate=255)


@vector
def ok_odd_size() -> Vector:
    """A picture of 17 x 33 pixels and 3 x 5 positions: the latent covers more than the picture."""
    planes = noise_planes(15, (2, 4, 8))
    return success(file(latent(planes), width=17, height=33), planes, size=(17, 33))


@vector
def ok_whole_positions() -> Vector:
    """A picture of 16 x 8 pixels, which are exactly 2 x 1 positions."""
    planes = noise_planes(2, (4, 8))
    return success(file(latent(planes), width=16, height=8), planes, size=(16, 8))


@vector
def ok_width_65535() -> Vector:
    """A picture of the largest width."""
    return success(file(latent(), width=65535), zero_planes(8192), size=(65535, 1))


@vector
def ok_height_65535() -> Vector:
    """A picture of the largest height."""
    return success(file(latent(), height=65535), zero_planes(8192), size=(1, 65535))


@vector
def ok_all_widths() -> Vector:
    """Planes of 0, 2, 4, 8 and 16 bits, mixed among 16 channels, in the order of their widths."""
    planes = noise_planes(4, (16, 2, 0, 8, 4), space=SD3)
    return success(file(latent(planes), width=32, space=SD3), planes, size=(32, 1))


@vector
def ok_bits_left_over() -> Vector:
    """Planes of three symbols of 2 or 4 bits: the unused bits at each plane's end are 0."""
    planes = noise_planes(3, (2, 4))
    return success(file(latent(planes), width=24), planes, size=(24, 1))


@vector
def ok_extremes() -> Vector:
    """The smallest and the largest symbol of each width, including -32768."""
    planes = zero_planes(2)
    for channel, bits in enumerate((2, 4, 8, 16)):
        planes[channel] = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1]
    return success(file(latent(planes), width=16), planes, size=(16, 1))


@vector
def ok_wider_than_needed() -> Vector:
    """Zeros and small symbols in planes of 16 bits: the payload has the largest allowed size."""
    planes = noise_planes(4, (2, 0))
    content = pack(planes, [16] * CHANNELS)
    return success(file(section("L", frame(content)), width=16, height=16), planes, size=(16, 16))


@vector
def ok_payload_compressed() -> Vector:
    """A payload with compressed zstd blocks."""
    planes = sparse_planes(256, (2, 0, 4))
    content = zstandard.ZstdCompressor(level=19, write_content_size=True).compress(pack(planes))
    assert len(content) < len(pack(planes))
    return success(file(section("L", content), width=128, height=128), planes, size=(128, 128))


@vector
def ok_payload_block_for_each_width() -> Vector:
    """A payload that begins a compressed zstd block with each width."""
    planes = sparse_planes(256, (2, 4, 8, 0))
    groups = pack_groups(planes)
    stream = zstandard.ZstdCompressor(level=19).compressobj(size=sum(map(len, groups)))
    pieces = [stream.compress(group) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for group in groups if group]
    data = b"".join([*pieces, stream.flush()])
    assert len(data) < len(b"".join(groups))
    return success(file(section("L", data), width=128, height=128), planes, size=(128, 128))


# Files that are read: payload method 1


def group_count(space: int) -> int:
    """Return the number of groups of a latent space's context model."""
    return len(reader.empty_latent(space, 0, 1, 1).groups)


GROUPS = group_count(SPACE)


def as_range(
    planes: Planes,
    groups: int = GROUPS,
    b: int = 0,
    *,
    rate: int = 128,
    positions: tuple[int, int] = (1, 1),
    space: int = SPACE,
) -> Vector:
    """Return a vector of method 1.

    positions: width and height of the latent.  The picture is one pixel narrower and lower than they cover.
    """
    width, height = positions
    factor = reader.SPACES[space]["factor"]
    size = (factor * width - 1, factor * height - 1)
    data = range_payload(planes, groups, b, rate=rate, height=height, width=width, space=space)
    whole = file(section("L", data), width=size[0], height=size[1], rate=rate, payload=1, space=space)
    return success(whole, planes, size=size, rate=rate)


def first_groups(planes: Planes, groups: int, space: int = SPACE) -> Planes:
    """Return `planes` with all channels zero that are not in the first groups."""
    kept = {channel for group in reader.empty_latent(space, 0, 1, 1).groups[:groups] for channel in group}
    return [plane if channel in kept else [0] * len(plane) for channel, plane in enumerate(planes)]


def example_planes() -> Planes:
    """Return the symbols of the picture in SPEC 8.6.6."""
    return [[20, -3], [-12, 300], [9, -40], [0, 0]]


EXAMPLE_GROUPS = 3
EXAMPLE_RATE = 255


def example() -> str:
    """Return payload and predictions of that picture, in the form of SPEC 8.6.6."""
    planes = example_planes()
    data = range_payload(planes, EXAMPLE_GROUPS, rate=EXAMPLE_RATE, width=2)
    e = reader.empty_latent(SPACE, EXAMPLE_RATE, 1, 2).e
    lines = [f"    {data[at : at + 24].hex(' ').upper()}" for at in range(0, len(data), 24)]
    lines += ["", "    k  row  column  channel     e    mu   i   q   z  row of the table  symbol"]
    lines += [
        f"    {s.k}{s.y:5}{s.x:8}{s.channel:9}{e[s.channel]:6}{s.model.mu:6}{s.model.i:4}{s.model.q:4}{s.model.z:4}"
        f"{s.model.row:18}{s.value:8}"
        for symbols in coded_symbols(planes, EXAMPLE_GROUPS, EXAMPLE_RATE, 1, 2)
        for s in symbols
    ]
    return "\n".join(lines) + "\n"


def with_example(text: str) -> str:
    """Return SPEC.md with the example replaced: two indented blocks after the sentence that names the vector."""
    start = re.search(r"`vectors/ok_range_example\.sdl`.*?\n\n(?=    )", text, flags=re.DOTALL)
    assert start is not None
    end = re.compile(r"(?:    .*\n|\n(?=    ))*").match(text, start.end())
    assert end is not None
    return text[: start.end()] + example() + text[end.end() :]


@vector
def ok_range_zero() -> Vector:
    """Method 1 without a coded group: all symbols are zero and the payload has two bytes."""
    data = file(section("L", bytes(2)), width=65535, payload=1)
    return success(data, zero_planes(8192), size=(65535, 1))


@vector
def ok_range_example() -> Vector:
    """Method 1, three groups of two positions: the example of SPEC 8.6.6."""
    return as_range(example_planes(), EXAMPLE_GROUPS, rate=EXAMPLE_RATE, positions=(2, 1))


@vector
def ok_range_zero_in_groups() -> Vector:
    """Method 1, all groups coded although all symbols are zero: a writer would omit them."""
    return as_range(zero_planes())


@vector
def ok_range_rate_0() -> Vector:
    """Method 1 at the smallest rate, all groups."""
    return as_range(noise_planes(2, (2, 0, 0)), rate=0, positions=(1, 2))


@vector
def ok_range_rate_255() -> Vector:
    """Method 1 at the largest rate, all groups."""
    return as_range(noise_planes(2, (2, 4, 0)), rate=255, positions=(2, 1))


@vector
def ok_range_passes() -> Vector:
    """Method 1, 9 x 10 positions, two groups: every pass, four positions in the first, all edges."""
    return as_range(first_groups(noise_planes(90, (2, 4)), 2), 2, positions=(9, 10))


@vector
def ok_range_one_row() -> Vector:
    """Method 1, 11 x 1 positions, which are in pass 0 and in the passes H."""
    return as_range(first_groups(noise_planes(11, (2, 4)), 3), 3, positions=(11, 1))


@vector
def ok_range_one_column() -> Vector:
    """Method 1, 1 x 6 positions, which are in pass 0 and in the passes V."""
    return as_range(first_groups(noise_planes(6, (2, 4)), 4), 4, positions=(1, 6))


BEYOND_SIDE = 5
"""Width and height, in positions, of the picture that `beyond` makes."""


def beyond(rate: int) -> Planes:
    """Return symbols that all lie beyond their rows, on both sides: by 1, 2, 3, ... 8, then by powers of 2."""
    side = BEYOND_SIDE
    picture = reader.empty_latent(SPACE, rate, side, side)
    count = 0
    for group, k in itertools.product(range(GROUPS), range(10)):
        places = reader.positions(k, side, side)
        # The predictions of a pass do not depend on its own symbols.
        predictions = [picture.predict(group, k, y, x) for y, x in places]
        for (y, x), found in zip(places, predictions, strict=True):
            for channel, prediction in zip(picture.groups[group], found, strict=True):
                excess = count + 1 if count < 8 else 2 ** (count // 7)
                offset = len(reader.distributions()[prediction.row]) // 2 - 1 + excess
                symbol = 2**prediction.q * (prediction.z + (offset if count % 2 else -offset))
                picture.put(channel, y, x, symbol)
                count += 1
    return picture.planes


@vector
def ok_range_beyond() -> Vector:
    """Method 1, every symbol beyond its row, by 1 up to 2^14, on both sides."""
    return as_range(beyond(40), rate=40, positions=(BEYOND_SIDE, BEYOND_SIDE))


@vector
def ok_range_low_bits() -> Vector:
    """Method 1 with large symbols that have low bits, at a rate where the model expects them."""
    planes = noise_planes(4, (8, 4))
    assert any(symbol.model.q for symbols in coded_symbols(planes, GROUPS, 255, 2, 2) for symbol in symbols)
    return as_range(planes, rate=255, positions=(2, 2))


@vector
def ok_range_extremes() -> Vector:
    """Method 1 with the smallest and the largest symbol in every channel."""
    return as_range(
        [[-32767, 32767] if channel % 2 else [32767, -32767] for channel in range(CHANNELS)], positions=(1, 2)
    )


@vector
def ok_range_16_states() -> Vector:
    """Method 1 with 16 states and symbols beyond their rows: numbers of 0 bits are operations."""
    return as_range(beyond(40), b=1, rate=40, positions=(BEYOND_SIDE, BEYOND_SIDE))


@vector
def ok_range_128_states() -> Vector:
    """Method 1 with 128 states, which are more than there are operations."""
    return as_range(first_groups(noise_planes(2, (2,)), 2), 2, 4, positions=(2, 1))


# Files that are read: other latent spaces


@vector
def ok_space_sd1() -> Vector:
    """Latent space sd1, method 0: 17 x 9 pixels are 3 x 2 positions of 4 channels."""
    planes = noise_planes(6, (2, 4, 8, 0), SD1)
    return success(file(latent(planes), width=17, height=9, space=SD1), planes, size=(17, 9))


@vector
def ok_space_sd1_range() -> Vector:
    """Latent space sd1, method 1: 5 x 3 positions, all groups."""
    return as_range(noise_planes(15, (4, 2), SD1), group_count(SD1), positions=(5, 3), space=SD1)


@vector
def ok_space_sd3_range() -> Vector:
    """Latent space sd3, method 1: 3 x 2 positions, two of its four groups."""
    planes = noise_planes(6, (4, 2), SD3)
    return as_range(first_groups(planes, 2, SD3), 2, positions=(3, 2), space=SD3)


@vector
def ok_space_sdxl_range() -> Vector:
    """Latent space sdxl, method 1: 5 x 3 positions, all groups."""
    return as_range(noise_planes(15, (4, 2), SDXL), group_count(SDXL), positions=(5, 3), space=SDXL)


@vector
def ok_space_flux1_range() -> Vector:
    """Latent space flux1, method 1: 3 x 2 positions, all groups."""
    return as_range(noise_planes(6, (4, 2), FLUX1), group_count(FLUX1), positions=(3, 2), space=FLUX1)


# Files that depend on the embedded model's tables.  `--embedded` writes these alone.


@vector
def ok_embedded() -> Vector:
    """The embedded model's latent space, method 0: 2 x 1 positions."""
    planes = noise_planes(2, (2, 4, 8, 0), EMBEDDED)
    width = 2 * reader.SPACES[EMBEDDED]["factor"]
    return success(file(latent(planes), width=width, space=EMBEDDED), planes, size=(width, 1))


@vector
def ok_embedded_range() -> Vector:
    """The embedded model's latent space, method 1: 2 x 1 positions, half of its groups."""
    groups = -(-group_count(EMBEDDED) // 2)
    planes = first_groups(noise_planes(2, (4, 2, 2), EMBEDDED), groups, EMBEDDED)
    return as_range(planes, groups, positions=(2, 1), space=EMBEDDED)


ON_EMBEDDED = (ok_embedded, ok_embedded_range)


# Files that are read: quantizer 1


def with_palette(
    entries: Palette, indices: list[int], *, size: tuple[int, int], flags: int = 0, space: int = SD1
) -> Vector:
    """Return a vector of quantizer 1.   indices: into the entries in the order of their bits, which is the file's."""
    ordered = sorted(entries, key=entry_bits)
    planes = [[ordered[index][channel] for index in indices] for channel in range(4)]
    sections = palette(entries, flags=flags), section("L", frame(bytes(indices)))
    data = file(*sections, width=size[0], height=size[1], space=space, quantizer=1, rate=0)
    return success(data, planes, size=size, rate=0)


def noise_entries(count: int, bits: int = 8) -> Palette:
    """Return `count` entries of levels around the middle."""
    planes = noise_planes(count, (bits,), SD1)
    return [(128 + a, 128 + b, 128 + c, 128 + d) for a, b, c, d in zip(*planes, strict=True)]


@vector
def ok_palette_example() -> Vector:
    """Quantizer 1, dithered: the example of SPEC 8.8.4."""
    entries = [(128, 127, 96, 161), (120, 130, 100, 140), (128, 127, 96, 160)]
    return with_palette(entries, [0, 1, 1, 2, 2, 0], size=(24, 16), flags=1)


@vector
def ok_palette_plain() -> Vector:
    """Quantizer 1, not dithered."""
    return with_palette(noise_entries(5), [4, 0, 3, 1, 2, 2], size=(17, 9))


@vector
def ok_palette_sdxl() -> Vector:
    """Quantizer 1 in latent space sdxl."""
    return with_palette(noise_entries(2), [0, 1, 1], size=(1, 24), space=SDXL)


@vector
def ok_palette_256() -> Vector:
    """Quantizer 1 with 256 entries, each used once."""
    entries = noise_entries(256)
    assert len(set(entries)) == 256
    return with_palette(entries, noise_order(256), size=(128, 128))


@vector
def ok_palette_one_entry() -> Vector:
    """Quantizer 1 with one entry whose bits are all 1: N is 0 and takes no bytes."""
    made = with_palette([(255, 255, 255, 255)], [0], size=(8, 8))
    assert palette_number([(255, 255, 255, 255)]) == 0
    return made


@vector
def ok_palette_largest() -> Vector:
    """Quantizer 1 with the largest N of one entry, whose bits are all 0: 4 bytes of 255."""
    assert palette_number([(0, 0, 0, 0)]) == 2**32 - 1
    return with_palette([(0, 0, 0, 0)], [0], size=(1, 1))


@vector
def ok_palette_equal_entries() -> Vector:
    """Quantizer 1 with entries that are equal, which a writer should avoid."""
    return with_palette([(7, 8, 9, 10)] * 3 + [(7, 8, 9, 11)], [3, 2, 1, 0], size=(32, 1))


@vector
def ok_palette_and_more() -> Vector:
    """Quantizer 1 with an ignorable section, and with the palette before the alpha plane."""
    sections = section("q", b"?"), palette([(1, 2, 3, 4)]), section("A", b"\0" + frame(b"\x7f"))
    data = file(*sections, section("L", frame(b"\0")), mode="LA", space=SD1, quantizer=1, rate=0)
    return success(data, [[1], [2], [3], [4]], mode="LA", rate=0, alpha=b"\x7f")


# Files that are read: zstd frames


def with_icc(packed: bytes, content: bytes) -> Vector:
    """Return a vector whose ICC section holds `content` as the zstd frame `packed`."""
    return success(file(section("i", b"\1" + packed), latent()), metadata={"i": content})


@vector
def ok_zstd_blocks() -> Vector:
    """A zstd frame of three blocks: a raw one, a run, and an empty last one."""
    blocks = raw_block(b"abc", last=False) + run_block(5, last=False) + raw_block(b"")
    return with_icc(frame_of(blocks, 8), b"abc" + bytes(5))


@vector
def ok_zstd_checksum() -> Vector:
    """A zstd frame with zstd's own checksum, which a writer should not add."""
    return with_icc(zstandard.ZstdCompressor(write_checksum=True).compress(b"checked" * 9), b"checked" * 9)


@vector
def ok_zstd_size_in_1_byte() -> Vector:
    """A zstd frame that states its content size in one byte."""
    return with_icc(MAGIC + b"\x20\x03" + raw_block(b"abc"), b"abc")


@vector
def ok_zstd_size_in_2_bytes() -> Vector:
    """A zstd frame that states its content size in two bytes, as the size less 256."""
    return with_icc(MAGIC + b"\x60\x04\x00" + run_block(260), bytes(260))


@vector
def ok_zstd_size_in_8_bytes() -> Vector:
    """A zstd frame that states its content size in eight bytes."""
    return with_icc(MAGIC + b"\xe0" + struct.pack("<Q", 3) + raw_block(b"abc"), b"abc")


@vector
def ok_zstd_window_2_27() -> Vector:
    """A zstd frame that asks for the largest window that every reader must grant."""
    return with_icc(MAGIC + b"\x80" + bytes([(27 - 10) << 3]) + struct.pack("<I", 3) + raw_block(b"abc"), b"abc")


@vector
def ok_zstd_empty() -> Vector:
    """A zstd frame without content."""
    return with_icc(frame(b""), b"")


# Files that are read: alpha

ALPHA = bytes([250, 5, 130, 3, 0, 255, 128, 127, 1])
"""A plane of 3 x 3 values whose differences wrap around."""


def with_alpha(kind: int, filtered: list[int]) -> Vector:
    """Return a vector of 3 x 3 pixels with the plane ALPHA, filtered."""
    block = bytes([kind]) + frame(bytes(value % 256 for value in filtered))
    data = file(section("A", block), latent(), width=3, height=3, mode="RGBA")
    return success(data, size=(3, 3), mode="RGBA", alpha=ALPHA)


@vector
def ok_alpha_filter_0() -> Vector:
    """Alpha filter 0: the plane as it is."""
    return with_alpha(0, list(ALPHA))


@vector
def ok_alpha_filter_1() -> Vector:
    """Alpha filter 1: the difference from the left value, modulo 256."""
    return with_alpha(1, [ALPHA[k] - (ALPHA[k - 1] if k % 3 else 0) for k in range(9)])


@vector
def ok_alpha_filter_2() -> Vector:
    """Alpha filter 2: the difference from the value above, modulo 256."""
    return with_alpha(2, [ALPHA[k] - (ALPHA[k - 3] if k >= 3 else 0) for k in range(9)])


# Files that are read: metadata, sections, flags


@vector
def ok_metadata_stored() -> Vector:
    """ICC profile, Exif and XMP, stored as they are."""
    contents = {"i": b"profile", "e": b"II*\0", "x": b"<x:xmpmeta/>"}
    sections = [section(name, b"\0" + content) for name, content in contents.items()]
    return success(file(*sections, latent()), metadata=contents)


@vector
def ok_metadata_zstd() -> Vector:
    """ICC profile, Exif and XMP, as zstd frames."""
    contents = {"i": b"profile" * 40, "e": b"Exif\0\0MM\0*" * 40, "x": b"<x:xmpmeta/>" * 40}
    packed = {name: zstandard.ZstdCompressor(level=19).compress(content) for name, content in contents.items()}
    return success(file(*(section(name, b"\1" + data) for name, data in packed.items()), latent()), metadata=contents)


@vector
def ok_metadata_another_order() -> Vector:
    """Exif and XMP before the ICC profile: a writer should avoid this order, but a reader accepts it."""
    contents = {"x": b"<x:xmpmeta/>", "e": b"MM\0*", "i": b"profile"}
    sections = [section(name, b"\0" + content) for name, content in contents.items()]
    return success(file(*sections, latent()), metadata=contents)


@vector
def ok_metadata_without_content() -> Vector:
    """A stored ICC profile of no bytes."""
    return success(file(section("i", b"\0"), latent()), metadata={"i": b""})


@vector
def ok_metadata_2_24() -> Vector:
    """Metadata of 2^24 bytes, the largest size."""
    return with_icc(zeros_frame(2**24), bytes(2**24))


@vector
def ok_everything() -> Vector:
    """All metadata sections, an unknown section, alpha and latent."""
    planes = noise_planes(15, (2, 0, 4, 0, 8))
    contents = {"i": b"profile", "e": b"II*\0", "x": b"<x:xmpmeta/>"}
    sections = [section(name, b"\0" + content) for name, content in contents.items()]
    alpha = bytes(symbol % 256 for symbol in noise(7, 17 * 33))
    tail = [section("q", b"unknown"), section("A", b"\0" + frame(alpha)), latent(planes)]
    data = file(*sections, *tail, width=17, height=33, mode="RGBA")
    return success(data, planes, size=(17, 33), mode="RGBA", alpha=alpha, metadata=contents, rule="S-01")


@vector
def ok_ignorable_section() -> Vector:
    """An unknown section whose name is a small letter."""
    return success(file(section("q", b"anything"), latent()), rule="S-01")


@vector
def ok_ignorable_section_empty() -> Vector:
    """An unknown ignorable section without data whose name is no letter."""
    return success(file(section(0xFF, b""), latent()), rule="S-01")


@vector
def ok_sections_64() -> Vector:
    """The largest number of sections."""
    names = [name for name in range(256) if name & 0x20 and chr(name) not in "iexfgm"][:63]
    return success(file(*(section(name, b"") for name in names), latent()), rule="S-01")


@vector
def ok_advisory_flags() -> Vector:
    """Unknown advisory flags, bits 4 to 7."""
    return success(file(latent(), flags=0xF0), rule="H-06")


# Files that are refused: signature, ends, varints


@vector
def bad_empty() -> Vector:
    """A file of no bytes."""
    return refused(b"", "F-01", "not-sdl")


@vector
def bad_signature_cut() -> Vector:
    """The first three bytes of the signature."""
    return refused(b"\x89SD", "F-01", "not-sdl")


@vector
def bad_signature_other() -> Vector:
    """The signature of PNG before a valid header."""
    return refused(b"\x89PNG" + file(latent())[4:], "F-01", "not-sdl")


WHOLE = file(section("i", b"\0profile"), latent(), width=300)
HEADER = len(header(width=300))


def cut(length: int) -> Vector:
    """Return a vector of the first bytes of a valid file."""
    assert length < len(WHOLE)
    return refused(WHOLE[:length], "F-02", "truncated")


@vector
def bad_cut_after_signature() -> Vector:
    """The file ends after the signature."""
    return cut(4)


@vector
def bad_cut_before_mode() -> Vector:
    """The file ends before the mode."""
    return cut(6)


@vector
def bad_cut_in_varint() -> Vector:
    """The file ends within the width, after a byte whose top bit is 1."""
    return cut(8)


@vector
def bad_cut_in_model_hash() -> Vector:
    """The file ends within the model hash."""
    return cut(HEADER - 10)


@vector
def bad_cut_in_header_crc() -> Vector:
    """The file ends within the header's CRC."""
    return cut(HEADER - 1)


@vector
def bad_cut_after_header() -> Vector:
    """The file ends after the header, which declares two sections."""
    return cut(HEADER)


@vector
def bad_cut_after_name() -> Vector:
    """The file ends after a section's name."""
    return cut(HEADER + 1)


@vector
def bad_cut_in_section() -> Vector:
    """The file ends within a section's data."""
    return cut(HEADER + 4)


@vector
def bad_cut_in_section_crc() -> Vector:
    """The file ends within the last section's CRC."""
    return cut(len(WHOLE) - 1)


@vector
def bad_cut_between_sections() -> Vector:
    """The file ends after a section and before the last one that the header declares."""
    return cut(HEADER + len(section("i", b"\0profile")))


@vector
def bad_length_2_31_less_1() -> Vector:
    """A section declares the greatest length, and the file ends."""
    return refused(header() + section("L", bytes(9), length=varint(2**31 - 1)), "F-02", "truncated")


@vector
def bad_hole_after_header() -> Vector:
    """Sixteen zero bytes before the first section: read as a section, their CRC is wrong."""
    return refused(header() + bytes(16) + latent(), "S-03", "checksum")


@vector
def bad_hole_between_sections() -> Vector:
    """Sixteen zero bytes between two sections: read as a section, their CRC is wrong."""
    return refused(header(sections=2) + section("q", b"") + bytes(16) + latent(), "S-03", "checksum")


@vector
def bad_varint_of_6_bytes() -> Vector:
    """A width of 1 in six bytes."""
    return refused(file(latent(), width=b"\x81\x80\x80\x80\x80\x00"), "V-01")


@vector
def bad_varint_long_form() -> Vector:
    """A width of 1 in two bytes."""
    return refused(file(latent(), width=b"\x81\x00"), "V-02")


@vector
def bad_varint_zero_in_2_bytes() -> Vector:
    """A height of 0 in two bytes."""
    return refused(file(latent(), height=b"\x80\x00"), "V-02")


@vector
def bad_varint_long_form_of_length() -> Vector:
    """A section's length in one byte more than necessary."""
    return refused(file(section("q", b"abc", length=b"\x83\x00"), latent()), "V-02")


@vector
def bad_varint_of_length_6_bytes() -> Vector:
    """A section's length in six bytes."""
    return refused(file(section("q", b"abc", length=b"\x83\x80\x80\x80\x80\x00"), latent()), "V-01")


# Files that are refused: header


@vector
def bad_crc_of_header() -> Vector:
    """One bit of the header's CRC differs."""
    return refused(flip(header(), -1) + latent(), "H-02", "checksum")


@vector
def bad_crc_and_width() -> Vector:
    """One bit of the width differs."""
    return refused(flip(header(), 7) + latent(), "H-02", "checksum")


@vector
def bad_crc_and_flag() -> Vector:
    """A flag that no writer sets and a CRC that differs: the file is damaged."""
    return refused(flip(header(), 5) + latent(), "H-02", "checksum")


@vector
def bad_crc_and_mode() -> Vector:
    """An unknown mode and a CRC that differs: the file is damaged."""
    return refused(flip(header(mode=4), -1) + latent(), "H-02", "checksum")


@vector
def bad_crc_and_size() -> Vector:
    """A width above the limit and a CRC that differs: the file is damaged."""
    return refused(flip(header(width=65536), -1) + latent(), "H-02", "checksum")


@vector
def bad_crc_and_size_of_35_bits() -> Vector:
    """The largest varint as width and a CRC that differs: the file is damaged."""
    return refused(flip(header(width=2**35 - 1), -1) + latent(), "H-02", "checksum")


@vector
def bad_width_0() -> Vector:
    """A width of 0."""
    return refused(file(latent(), width=0), "H-05")


@vector
def bad_height_0() -> Vector:
    """A height of 0."""
    return refused(file(latent(), height=0), "H-05")


@vector
def bad_sections_0() -> Vector:
    """A number of sections of 0."""
    return refused(file(), "H-05")


# Files that are refused: sections


@vector
def bad_crc_of_latent() -> Vector:
    """One bit of the latent's data differs."""
    return refused(header() + flip(latent(), 8), "S-03", "checksum")


@vector
def bad_crc_of_ignorable_section() -> Vector:
    """One bit differs in an unknown ignorable section, whose CRC counts too."""
    return refused(header(sections=2) + flip(section("q", b"abc"), 3) + latent(), "S-03", "checksum")


@vector
def bad_crc_of_critical_section() -> Vector:
    """An unknown critical section and a CRC that differs: the file is damaged."""
    return refused(header(sections=2) + flip(section("Q", b"abc"), -1) + latent(), "S-03", "checksum")


@vector
def bad_metadata_twice() -> Vector:
    """Two ICC profiles."""
    return refused(file(section("i", b"\0a"), section("i", b"\0b"), latent()), "S-04")


@vector
def bad_ignorable_section_twice() -> Vector:
    """Two unknown sections of the same name."""
    return refused(file(section("q", b"a"), section("q", b"a"), latent()), "S-04")


@vector
def bad_latent_twice() -> Vector:
    """Two latents."""
    return refused(file(latent(), latent()), "S-04")


@vector
def bad_no_latent() -> Vector:
    """Metadata without a latent."""
    return refused(file(section("i", b"\0a")), "S-05")


@vector
def bad_latent_not_last() -> Vector:
    """Alpha after the latent."""
    return refused(file(latent(), section("A", b"\0" + frame(b"\0")), mode="RGBA"), "S-05")


@vector
def bad_metadata_after_latent() -> Vector:
    """Metadata after the latent."""
    return refused(file(latent(), section("i", b"\0a")), "S-05")


@vector
def bad_metadata_after_alpha() -> Vector:
    """Metadata between alpha and latent: an ignorable section follows a critical one."""
    data = file(section("A", b"\0" + frame(b"\0")), section("i", b"\0a"), latent(), mode="RGBA")
    return refused(data, "S-05")


@vector
def bad_alpha_missing() -> Vector:
    """A mode with alpha and no alpha section."""
    return refused(file(latent(), mode="RGBA"), "A-01")


@vector
def bad_alpha_not_wanted() -> Vector:
    """An alpha section in a mode without alpha."""
    return refused(file(section("A", b"\0" + frame(b"\0")), latent(), mode="L"), "A-01")


# Files that are refused: alpha and metadata


@vector
def bad_alpha_short() -> Vector:
    """An alpha plane of 8 values for 3 x 3 pixels."""
    block = b"\0" + frame(ALPHA[:8])
    return refused(file(section("A", block), latent(), width=3, height=3, mode="RGBA"), "A-02")


@vector
def bad_alpha_empty() -> Vector:
    """An alpha section without any bytes."""
    return refused(file(section("A", b""), latent(), mode="RGBA"), "A-02")


@vector
def bad_metadata_empty() -> Vector:
    """An ICC section without data."""
    return refused(file(section("i", b""), latent()), "M-01")


# Files that are refused: zstd frames


def with_frame(data: bytes, rule: str, kind: str = "malformed") -> Vector:
    """Return a vector whose ICC section holds a zstd frame that is refused."""
    return refused(file(section("i", b"\1" + data), latent()), rule, kind)


@vector
def bad_zstd_magic() -> Vector:
    """The content of a zstd frame without the frame."""
    return with_frame(b"profile", "Z-01")


@vector
def bad_zstd_nothing() -> Vector:
    """A latent section without data."""
    return refused(file(section("L", b"")), "Z-01")


@vector
def bad_zstd_header_cut() -> Vector:
    """A zstd frame that ends within its content size."""
    return with_frame(frame(b"abc")[:7], "Z-01")


@vector
def bad_zstd_reserved_bit() -> Vector:
    """A zstd frame header whose reserved bit is set."""
    return with_frame(MAGIC + b"\x28\x03" + raw_block(b"abc"), "Z-01")


@vector
def bad_zstd_skippable() -> Vector:
    """A skippable frame in place of a zstd frame."""
    return with_frame(b"\x50\x2a\x4d\x18" + bytes(4), "Z-01")


@vector
def bad_zstd_no_size() -> Vector:
    """A zstd frame that does not state its content size."""
    return with_frame(MAGIC + b"\x00\x00" + raw_block(b"abc"), "Z-02")


@vector
def bad_zstd_trailing_byte() -> Vector:
    """One byte after a zstd frame."""
    return with_frame(frame(b"abc") + b"\0", "Z-03")


@vector
def bad_zstd_trailing_byte_in_latent() -> Vector:
    """One byte after the payload's zstd frame."""
    return refused(file(section("L", frame(pack(zero_planes())) + b"\0")), "Z-03")


@vector
def bad_zstd_second_frame() -> Vector:
    """Two zstd frames."""
    return with_frame(frame(b"abc") + frame(b"def"), "Z-03")


@vector
def bad_zstd_skippable_after_frame() -> Vector:
    """A skippable frame after the zstd frame."""
    return with_frame(frame(b"abc") + b"\x50\x2a\x4d\x18" + bytes(4), "Z-03")


@vector
def bad_zstd_trailing_byte_after_empty_frame() -> Vector:
    """A byte after a zstd frame without content."""
    return with_frame(frame(b"") + b"\0", "Z-03")


@vector
def bad_zstd_empty_frame_cut() -> Vector:
    """A zstd frame without content and without its last byte."""
    return with_frame(frame(b"")[:-1], "Z-03")


@vector
def bad_zstd_cut() -> Vector:
    """A zstd frame without its last byte."""
    return with_frame(frame(b"abc")[:-1], "Z-03")


@vector
def bad_zstd_no_last_block() -> Vector:
    """A zstd frame that ends before its last block."""
    return with_frame(frame_of(raw_block(b"abc", last=False), 3), "Z-03")


@vector
def bad_zstd_shorter() -> Vector:
    """A zstd frame that states one byte more than it has."""
    return with_frame(frame_of(raw_block(b"abc"), 4), "Z-03")


@vector
def bad_zstd_longer() -> Vector:
    """A zstd frame that states one byte less than it has."""
    return with_frame(frame_of(raw_block(b"ab", last=False) + raw_block(b"c"), 2), "Z-03")


@vector
def bad_zstd_bomb_of_blocks() -> Vector:
    """A zstd frame that states 9 bytes and whose blocks hold 32 MiB."""
    blocks = run_block(BLOCK, last=False) * 256 + raw_block(b"")
    return with_frame(MAGIC + b"\x80\x88" + struct.pack("<I", 9) + blocks, "Z-03")


@vector
def bad_zstd_content_of_empty_frame() -> Vector:
    """A zstd frame that states no content and has some."""
    return with_frame(frame_of(raw_block(b"abc"), 0), "Z-03")


@vector
def bad_zstd_reserved_block() -> Vector:
    """A zstd block of the reserved type."""
    return with_frame(frame_of((3 << 3 | 3 << 1 | 1).to_bytes(3, "little") + b"abc", 3), "Z-03")


@vector
def bad_zstd_checksum() -> Vector:
    """A zstd frame whose own checksum differs."""
    good = zstandard.ZstdCompressor(write_checksum=True).compress(b"abc")
    return with_frame(flip(good, -1), "Z-03")


@vector
def bad_zstd_dictionary() -> Vector:
    """A zstd frame that asks for dictionary 7."""
    return with_frame(MAGIC + b"\x21\x07\x03" + raw_block(b"abc"), "Z-03")


# Files that are refused: payload


def with_payload(content: bytes, rule: str, width: int = 1) -> Vector:
    """Return a vector whose payload is refused."""
    return refused(file(section("L", frame(content)), width=width), rule)


@vector
def bad_payload_empty() -> Vector:
    """A payload without content."""
    return with_payload(b"", "P-01")


@vector
def bad_payload_widths_cut() -> Vector:
    """A payload of one byte fewer than there are channels."""
    return with_payload(bytes(CHANNELS - 1), "P-01")


@vector
def bad_payload_3_bits() -> Vector:
    """A plane of 3 bits per symbol."""
    return with_payload(bytes([3]) + bytes(CHANNELS - 1) + b"\0", "P-02")


@vector
def bad_payload_32_bits() -> Vector:
    """A plane of 32 bits per symbol."""
    return with_payload(bytes([32]) + bytes(CHANNELS - 1) + bytes(4), "P-02")


@vector
def bad_payload_short() -> Vector:
    """A payload without the last plane's last byte."""
    return with_payload(pack(noise_planes(2, (8,)))[:-1], "P-03", width=16)


@vector
def bad_payload_long() -> Vector:
    """A payload with one byte after its planes."""
    return with_payload(pack(zero_planes()) + b"\0", "P-03")


@vector
def bad_left_over_bits_of_2() -> Vector:
    """A plane of one symbol of 2 bits whose byte has its top bit set."""
    return with_payload(bytes([2]) + bytes(CHANNELS - 1) + b"\x81", "P-04")


@vector
def bad_left_over_bits_of_4() -> Vector:
    """A plane of three symbols of 4 bits whose last four bits are not 0."""
    return with_payload(bytes([4]) + bytes(CHANNELS - 1) + b"\x21\x13", "P-04", width=24)


def with_range(data: bytes, rule: str, width: int = 1) -> Vector:
    """Return a vector whose payload of method 1 is refused."""
    return refused(file(section("L", data), width=width, payload=1), rule)


RANGE = range_payload(noise_planes(1, (2, 4)), GROUPS)
"""A valid payload of one position with one state."""


@vector
def bad_range_empty() -> Vector:
    """A payload of method 1 without any bytes."""
    return with_range(b"", "R-01")


@vector
def bad_range_one_byte() -> Vector:
    """A payload of method 1 that ends after the number of groups, which is 0."""
    return with_range(b"\0", "R-01")


@vector
def bad_range_groups() -> Vector:
    """A payload of method 1 with one group more than the model has."""
    return with_range(bytes([GROUPS + 1]) + RANGE[1:], "R-01")


@vector
def bad_range_states_13() -> Vector:
    """A payload of method 1 with b = 13."""
    return with_range(RANGE[:1] + bytes([13]) + RANGE[2:], "R-02")


@vector
def bad_range_states_without_groups() -> Vector:
    """A payload of method 1 without groups and with states."""
    return with_range(bytes([0, 1]) + struct.pack("<I", 2**16) * 16, "R-02")


@vector
def bad_range_state_cut() -> Vector:
    """A payload of method 1 that ends within its one state."""
    return with_range(RANGE[:5], "R-03")


@vector
def bad_range_states_cut() -> Vector:
    """A payload of method 1 that ends before the last of its 16 states."""
    return with_range(bytes([1, 1]) + struct.pack("<I", 2**16) * 15, "R-03")


@vector
def bad_range_odd() -> Vector:
    """A payload of method 1 with half a word at its end."""
    return with_range(RANGE + b"\0", "R-03")


@vector
def bad_range_state_low() -> Vector:
    """A payload of method 1 whose state is 2^16 - 1."""
    return with_range(RANGE[:2] + struct.pack("<I", 2**16 - 1) + RANGE[6:], "R-03")


@vector
def bad_range_one_state_low() -> Vector:
    """A payload of method 1 with 16 states, the last of which is 0."""
    return with_range(bytes([1, 1]) + struct.pack("<16I", *[2**16] * 15, 0), "R-03")


@vector
def bad_range_word_missing() -> Vector:
    """A payload of method 1 without its last word."""
    return with_range(RANGE[:-2], "R-04")


@vector
def bad_range_word_missing_16_states() -> Vector:
    """A payload of method 1 with 16 states and without its last word."""
    data = range_payload(noise_planes(16, (2, 4)), GROUPS, 1, width=16)
    assert len(data) > 2 + 4 * 16
    return with_range(data[:-2], "R-04", width=128)


@vector
def bad_range_word_left() -> Vector:
    """A payload of method 1 with one word after its last symbol."""
    return with_range(RANGE + b"\0\0", "R-05")


@vector
def bad_range_last_state() -> Vector:
    """A payload of method 1 whose state is 2^16 + 1 after the last symbol."""
    done = [operation for symbols in coded_symbols(zero_planes(), 1, 128, 1, 1) for operation in operations(symbols)]
    return with_range(bytes([1, 0]) + coded(done, 1, first=2**16 + 1), "R-05")


@vector
def bad_range_unused_state() -> Vector:
    """A payload of method 1 with 128 states and 4 symbols: an unused state is not 2^16."""
    data = range_payload(zero_planes(), GROUPS, 4)
    return with_range(flip(data, 2 + 4 * 127), "R-05")


@vector
def bad_range_bytes_without_groups() -> Vector:
    """A payload of method 1 without groups that continues after its two bytes."""
    return with_range(bytes(4), "R-05")


def with_offset(a: int) -> Vector:
    """Return a vector of method 1 whose first symbol is beyond its row by 2^a or more."""
    (symbols, *_) = coded_symbols(zero_planes(), 1, 128, 1, 1)
    wild = [symbols[0]._replace(value=-32767), *symbols[1:]]
    done = operations(wild)
    assert len(done) > len(symbols) + 1
    done[len(symbols)] = number(a, 5)
    done[len(symbols) + 1] = number(0, min(a, 16))
    return with_range(bytes([1, 0]) + coded(done, 1), "R-06")


@vector
def bad_range_offset_2_16() -> Vector:
    """An offset of 2^16, the largest that can be coded: its symbol is out of range."""
    return with_offset(16)


@vector
def bad_range_offset_2_17() -> Vector:
    """An offset that claims 17 bits."""
    return with_offset(17)


@vector
def bad_range_offset_2_31() -> Vector:
    """An offset that claims 31 bits."""
    return with_offset(31)


@vector
def bad_range_symbol_high() -> Vector:
    """A symbol of 32768."""
    return with_range(range_payload([[32768], *zero_planes()[1:]], GROUPS), "R-06")


@vector
def bad_range_symbol_low() -> Vector:
    """A symbol of -32768, which only method 0 allows."""
    return with_range(range_payload([*zero_planes()[1:], [-32768]], GROUPS), "R-06")


PALETTE: Palette = [(120, 130, 100, 140), (128, 127, 96, 160), (128, 127, 96, 161)]


def by_palette(*sections: bytes, **fields: Any) -> bytes:
    """Return a file of quantizer 1, 2 x 1 positions and those sections, whose other fields are valid."""
    return file(*sections, **{"width": 16, "height": 8, "space": SD1, "quantizer": 1, "rate": 0} | fields)


TWO = section("L", frame(b"\0\2"))
"""Two indices."""


@vector
def bad_palette_missing() -> Vector:
    """Quantizer 1 without a palette; metadata and alpha can be read."""
    return partly_read(quantizer=1, rate=0, rule="K-01", kind="malformed")


@vector
def bad_palette_unused() -> Vector:
    """Quantizer 0 with a palette; metadata and alpha can be read."""
    return partly_read(palette(PALETTE), rule="K-01", kind="malformed")


@vector
def bad_palette_rate() -> Vector:
    """Quantizer 1 with a rate of 1; metadata and alpha can be read."""
    return partly_read(palette(PALETTE), quantizer=1, rate=1, rule="K-07", kind="malformed")


@vector
def bad_palette_last() -> Vector:
    """A palette after the latent."""
    return refused(by_palette(TWO, palette(PALETTE)), "S-05")


@vector
def bad_palette_twice() -> Vector:
    """Two palettes."""
    return refused(by_palette(palette(PALETTE), palette(PALETTE), TWO), "S-04")


@vector
def bad_palette_empty() -> Vector:
    """A section P without any bytes."""
    return refused(by_palette(section("P", b""), TWO), "K-03")


@vector
def bad_palette_flags_only() -> Vector:
    """A section P that ends after the flags."""
    return refused(by_palette(section("P", b"\1"), TWO), "K-03")


@vector
def bad_palette_zero_byte() -> Vector:
    """A palette's number with an unnecessary last byte of 0."""
    number = palette_number(PALETTE)
    whole = b"\0\2" + number.to_bytes((number.bit_length() + 7) // 8 + 1, "little")
    return refused(by_palette(section("P", whole), TWO), "K-03")


@vector
def bad_palette_five_bytes() -> Vector:
    """A palette's number of 5 bytes for one entry."""
    return refused(by_palette(section("P", b"\0\0\0\0\0\0\1"), section("L", frame(bytes(2)))), "K-03")


@vector
def bad_palette_long() -> Vector:
    """A palette's number of 64 KiB, which would take long to divide."""
    return refused(by_palette(section("P", b"\0\2" + b"\xff" * 2**16), TWO), "K-03")


@vector
def bad_palette_number() -> Vector:
    """The smallest palette's number that is too large: that of 3 entries of zeros, plus one."""
    entries: Palette = [(0, 0, 0, 0)] * 3
    assert palette_number(entries) == 4**32 - 1
    return refused(by_palette(palette(entries, more=1), TWO), "K-04")


@vector
def bad_palette_indices_few() -> Vector:
    """One index for two positions."""
    return refused(by_palette(palette(PALETTE), section("L", frame(b"\0"))), "K-05")


@vector
def bad_palette_no_indices() -> Vector:
    """An empty frame of indices."""
    return refused(by_palette(palette(PALETTE), section("L", frame(b""))), "K-05")


@vector
def bad_palette_index() -> Vector:
    """An index that equals K."""
    return refused(by_palette(palette(PALETTE), section("L", frame(b"\2\3"))), "K-06")


@vector
def bad_palette_frame() -> Vector:
    """A byte after the zstd frame of the indices."""
    return refused(by_palette(palette(PALETTE), section("L", frame(b"\0\2") + b"\0")), "Z-03")


@vector
def limit_palette_indices() -> Vector:
    """Three indices for two positions."""
    return refused(by_palette(palette(PALETTE), section("L", frame(b"\0\1\2"))), "L-04", "limit")


# Files of newer writers


@vector
def new_version() -> Vector:
    """Format version 1 and a header that version 0 cannot read."""
    return refused(b"\x89SDL\1a header of another form", "H-01", "unsupported")


@vector
def new_version_255() -> Vector:
    """Format version 255 in a file that is otherwise of version 0."""
    return refused(file(latent(), version=255), "H-01", "unsupported")


@vector
def new_version_and_nothing() -> Vector:
    """Format version 1 and the end of the file: a reader refuses it before it reads on."""
    return refused(b"\x89SDL\1", "H-01", "unsupported")


@vector
def new_flag_bit_0() -> Vector:
    """The lowest critical flag."""
    return refused(file(latent(), flags=0x01), "H-03", "unsupported")


@vector
def new_flag_bit_3() -> Vector:
    """The highest critical flag and all advisory flags."""
    return refused(file(latent(), flags=0xF8), "H-03", "unsupported")


@vector
def new_mode_4() -> Vector:
    """Mode 4."""
    return refused(file(latent(), mode=4), "H-04", "unsupported")


@vector
def new_mode_255() -> Vector:
    """Mode 255."""
    return refused(file(latent(), mode=255), "H-04", "unsupported")


@vector
def new_space() -> Vector:
    """An unknown latent space; metadata and alpha can be read."""
    return partly_read(space=300)


@vector
def new_space_5() -> Vector:
    """The smallest number that has no latent space."""
    return partly_read(space=5)


@vector
def new_space_of_35_bits() -> Vector:
    """The largest varint as the number of a latent space."""
    return partly_read(space=2**35 - 1)


@vector
def new_quantizer() -> Vector:
    """An unknown quantizer; metadata and alpha can be read."""
    return partly_read(quantizer=2)


@vector
def new_palette_flag_1() -> Vector:
    """A palette with the lowest unknown flag."""
    return refused(by_palette(palette(PALETTE, flags=0x02), TWO), "K-02", "unsupported")


@vector
def new_palette_flag_7() -> Vector:
    """A section P that ends after the flags, the highest of which is set."""
    return refused(by_palette(section("P", b"\x81"), TWO), "K-02", "unsupported")


@vector
def new_palette_payload_method() -> Vector:
    """Quantizer 1 with payload method 1."""
    return refused(by_palette(palette(PALETTE), TWO, payload=1), "H-07", "unsupported")


@vector
def new_palette_space() -> Vector:
    """Quantizer 1 in a latent space of 16 channels."""
    return refused(by_palette(palette(PALETTE), TWO, space=SD3), "H-07", "unsupported")


@vector
def new_quantizer_with_palette() -> Vector:
    """An unknown quantizer with a palette, to which rule K-01 does not apply."""
    return refused(by_palette(palette(PALETTE), TWO, quantizer=2), "H-07", "unsupported")


@vector
def new_payload_method() -> Vector:
    """An unknown payload method; metadata and alpha can be read."""
    return partly_read(payload=2)


@vector
def new_critical_section() -> Vector:
    """An unknown section whose name is a capital."""
    return refused(file(section("Q", b"anything"), latent()), "S-02", "unsupported")


@vector
def new_critical_section_named_0() -> Vector:
    """An unknown section whose name is the byte 0, where bit 5 is 0."""
    return refused(file(section(0, b""), latent()), "S-02", "unsupported")


@vector
def new_metadata_method() -> Vector:
    """Metadata with storage method 2."""
    return refused(file(section("x", b"\2abc"), latent()), "M-02", "unsupported")


@vector
def new_alpha_filter() -> Vector:
    """Alpha filter 3."""
    return refused(file(section("A", b"\3" + frame(b"\0")), latent(), mode="LA"), "A-03", "unsupported")


# Files of another embedded model


@vector
def model_of_another_release() -> Vector:
    """Latent space 16 with another model hash; metadata and alpha can be read."""
    return partly_read(space=EMBEDDED, model=MODEL, rule="D-01", kind="model")


# Files followed by bytes that a program ignores unless it verifies them


def with_tail(tail: bytes) -> Vector:
    """Return a vector whose last section is followed by `tail`."""
    data, side = success(file(section("i", b"\0profile"), latent()), metadata={"i": b"profile"}, rule="F-03")
    return Vector(data + tail, side | {"verify": "malformed"})


@vector
def tail_byte() -> Vector:
    """One byte after the last section."""
    return with_tail(b"\0")


@vector
def tail_section() -> Vector:
    """A valid section after the last one that the header declares."""
    return with_tail(section("q", b""))


@vector
def tail_file() -> Vector:
    """A whole file after the last section."""
    return with_tail(file(latent()))


# Fidelity map

STEEP: Grids = ([0, 15, 3, 7, 7, 8], [15, 0, 3, 6, 2, 9])
SMOOTH: Grids = ([7, 7, 8, 6, 7, 8], [5, 6, 6, 4, 5, 6])


@vector
def ok_fidelity() -> Vector:
    """A fidelity map of 3 x 2 cells."""
    data = file(fidelity_map(SMOOTH, 3), latent(zero_planes(18 * 12)), width=144, height=96)
    return success(data, zero_planes(18 * 12), size=(144, 96), fidelity=SMOOTH, rule="E-01")


@vector
def ok_fidelity_beyond() -> Vector:
    """A fidelity map with offsets beyond the row of the distributions."""
    data = file(fidelity_map(STEEP, 3, i=0), latent(zero_planes(18 * 12)), width=144, height=96)
    return success(data, zero_planes(18 * 12), size=(144, 96), fidelity=STEEP, rule="E-03")


@vector
def ok_fidelity_one_cell() -> Vector:
    """A fidelity map of a picture of one pixel."""
    return success(file(fidelity_map(([3], [0]), 1), latent()), fidelity=([3], [0]), rule="E-01")


@vector
def ok_fidelity_most_cells() -> Vector:
    """A fidelity map of 64 cells in a row, the last one cut off, with the last distribution."""
    grids = [index * 7 % 16 for index in range(64)], [index * 5 % 3 for index in range(64)]
    planes = zero_planes(128)
    data = file(fidelity_map(grids, 64, s=1, i=47), latent(planes), width=1017)
    return success(data, planes, size=(1017, 1), fidelity=grids, rule="E-02")


@vector
def bad_fidelity_short() -> Vector:
    """A fidelity map that ends before its distribution."""
    return refused(file(section("f", b"\x03\x00\x00"), latent()), "E-01")


@vector
def bad_fidelity_side_0() -> Vector:
    """A fidelity map with cells of no pixels."""
    return refused(file(fidelity_map(([3], [0]), 1, head=b"\x00\x35\x00\x14"), latent()), "E-01")


@vector
def bad_fidelity_cells_65() -> Vector:
    """A fidelity map with 65 cells in a row."""
    data = file(fidelity_map(([3], [0]), 1, s=1), latent(zero_planes(130)), width=1040)
    return refused(data, "E-02")


@vector
def bad_fidelity_rows_65() -> Vector:
    """A fidelity map with 65 cells in a column."""
    data = file(fidelity_map(([3], [0]), 1, s=1), latent(zero_planes(130)), height=1040)
    return refused(data, "E-02")


@vector
def bad_fidelity_distribution_48() -> Vector:
    """A fidelity map with a distribution that does not exist."""
    return refused(file(fidelity_map(([3], [0]), 1, head=b"\x03\x35\x00\x30"), latent()), "E-02")


@vector
def bad_fidelity_level_16() -> Vector:
    """A fidelity map with an error of 16."""
    return refused(file(fidelity_map(([16], [0]), 1, head=b"\x03\xf5\x00\x14"), latent()), "E-03")


@vector
def bad_fidelity_invented_negative() -> Vector:
    """A fidelity map with an invented structure of -1."""
    return refused(file(fidelity_map(([3], [-1]), 1, head=b"\x03\x35\x00\x14"), latent()), "E-03")


# Guard patches


@vector
def ok_guard_lossy() -> Vector:
    """A guard patch of one cell, coded with loss, in the corner of a picture of 3 x 2 cells."""
    rects = [(2, 1, 1, 1)]
    found = patches_of(rects, 1, 1, LOSSY, method=0)
    data = file(guard(rects, 1, LOSSY, method=0), latent(zero_planes(6 * 4)), width=41, height=30)
    return success(data, zero_planes(6 * 4), size=(41, 30), patches=found, rule="G-01")


@vector
def ok_guard_lossless() -> Vector:
    """Two guard patches beside each other, coded without loss: the atlas has them in one line."""
    rects = [(1, 0, 1, 1), (0, 0, 1, 1)]
    found = patches_of(rects, 2, 1, LOSSLESS, method=1)
    data = file(guard(rects, 2, LOSSLESS, method=1), latent(zero_planes(6 * 4)), width=48, height=32)
    return success(data, zero_planes(6 * 4), size=(48, 32), patches=found, rule="G-02")


@vector
def ok_guard_wide_picture() -> Vector:
    """A picture of 256 cells in a row: the numbers of a guard patch have two bytes."""
    rects = [(254, 0, 2, 1)]
    found = patches_of(rects, 2, 1, LOSSLESS, method=1)
    planes = zero_planes(511)
    data = file(guard(rects, 2, LOSSLESS, method=1, size=2), latent(planes), width=4081)
    return success(data, planes, size=(4081, 1), patches=found, rule="G-03")


@vector
def ok_guard_lines() -> Vector:
    """Three guard patches of two heights in an atlas of two lines: the second line is below the highest patch."""
    rects = [(2, 0, 1, 2), (0, 0, 1, 1), (1, 1, 1, 1)]
    found = patches_of(rects, 2, 3, TALL, method=1)
    data = file(guard(rects, 2, TALL, method=1), latent(zero_planes(6 * 4)), width=48, height=32)
    return success(data, zero_planes(6 * 4), size=(48, 32), patches=found, rule="G-03")


@vector
def bad_guard_short() -> Vector:
    """Guard patches that end within the width of the atlas."""
    return refused(file(section("g", b"\0\x01\0\x01"), latent()), "G-01")


@vector
def new_guard_method() -> Vector:
    """Guard patches of an unknown method."""
    return refused(file(guard([(0, 0, 1, 1)], 1, LOSSY, method=2), latent()), "G-01", "unsupported")


@vector
def bad_guard_none() -> Vector:
    """A section without a guard patch."""
    return refused(file(guard([], 1, LOSSY, method=0), latent()), "G-01")


@vector
def bad_guard_no_data() -> Vector:
    """A guard patch without WebP data."""
    return refused(file(guard([(0, 0, 1, 1)], 1, b"", method=0), latent()), "G-01")


@vector
def bad_guard_empty_patch() -> Vector:
    """A guard patch without a cell."""
    return refused(file(guard([(0, 0, 1, 0)], 1, LOSSY, method=0), latent()), "G-02")


@vector
def bad_guard_beyond() -> Vector:
    """A guard patch that reaches beyond the picture."""
    return refused(file(guard([(0, 0, 2, 1)], 2, LOSSLESS, method=1), latent()), "G-02")


@vector
def bad_guard_below() -> Vector:
    """A guard patch that reaches beyond the lower edge of the picture."""
    data = file(guard([(0, 1, 1, 1)], 1, LOSSY, method=0), latent(zero_planes(4 * 2)), width=32, height=16)
    return refused(data, "G-02")


@vector
def bad_guard_no_width() -> Vector:
    """A guard patch without a column of cells."""
    return refused(file(guard([(0, 0, 0, 1)], 1, LOSSY, method=0), latent()), "G-02")


@vector
def bad_guard_overlap() -> Vector:
    """Two guard patches that share a cell."""
    rects = [(0, 0, 1, 1), (0, 0, 1, 1)]
    data = file(guard(rects, 2, LOSSLESS, method=1), latent(zero_planes(6 * 4)), width=48, height=32)
    return refused(data, "G-02")


@vector
def bad_guard_narrow_atlas() -> Vector:
    """A guard patch that is wider than the atlas."""
    data = file(guard([(0, 0, 2, 1)], 1, LOSSY, method=0), latent(zero_planes(4 * 2)), width=32, height=16)
    return refused(data, "G-03")


@vector
def limit_guard_atlas() -> Vector:
    """An atlas with more cells than the picture."""
    return refused(file(guard([(0, 0, 1, 1)], 2, LOSSLESS, method=1), latent()), "L-07", "limit")


@vector
def bad_guard_webp_size() -> Vector:
    """An atlas whose WebP picture is wider than it should be."""
    data = file(guard([(0, 0, 1, 1)], 1, LOSSLESS, method=1), latent(zero_planes(4 * 2)), width=32, height=16)
    return refused(data, "G-04")


@vector
def bad_guard_webp_alpha() -> Vector:
    """An atlas whose WebP picture, of the right size, says that it has alpha: bit 28 of its header."""
    data = LOSSLESS[:1] + bytes([15]) + LOSSLESS[2:4] + bytes([LOSSLESS[4] | 0x10]) + LOSSLESS[5:]
    return refused(file(guard([(0, 0, 1, 1)], 1, data, method=1), latent()), "G-04")


@vector
def bad_guard_webp_kind() -> Vector:
    """An atlas whose data are those of the other method."""
    data = file(guard([(0, 0, 1, 1)], 1, LOSSY, method=1), latent(zero_planes(4 * 2)), width=32, height=16)
    return refused(data, "G-04")


# Further frames

PLACES = 3, 2
"""Width and height, in positions, of the vectors with further frames."""

Move = tuple[int, int, int, int, int, bytes]
"""A rectangle: left, top, width, height, d, and its data."""


def record(duration: int, moves: Sequence[Move] = (), alpha: Move | None = None) -> bytes:
    """Return the record of a further frame (SPEC 9.5)."""
    done = varint(duration) + varint(2 * len(moves) + (alpha is not None))
    for *box, d, data in moves:
        done += b"".join(map(varint, box)) + varint(2 * len(data) + d) + data
    if alpha is not None:
        *box, _, data = alpha
        done += b"".join(map(varint, box)) + varint(len(data)) + data
    return done


def moving(*records: bytes, plays: int = 0, count: int | None = None, duration: int = 40, tail: bytes = b"") -> bytes:
    """Return a section with further frames.   count: as it stands, if it is not right."""
    head = varint(plays) + varint(len(records) if count is None else count) + varint(duration)
    return section("m", head + b"".join(records) + tail)


def moved(planes: Planes, move: tuple[int, int, int, int], new: Planes, d: int = 0) -> Planes:
    """Return the planes of a frame of PLACES after new symbols in a rectangle."""
    left, top, width, height = move
    places = [y * PLACES[0] + x for y in range(top, top + height) for x in range(left, left + width)]
    found = [list(plane) for plane in planes]
    for plane, symbols in zip(found, new, strict=True):
        for at, symbol in zip(places, symbols, strict=True):
            plane[at] = symbol + d * plane[at]
    return found


def frames_of(
    durations: list[int], rects: list[list[list[int]]], plays: int = 0, alpha: Sequence[bytes | None] | None = None
) -> dict[str, Any]:
    """Return what a reader of level A finds in further frames.   alpha: planes of the further frames."""
    planes = alpha or [None] * len(rects)
    hashes = [None if plane is None else sha256(plane) for plane in planes]
    return {"plays": plays, "durations": durations, "rects": rects, "alpha_sha256": hashes}


def animated(section_m: bytes, planes: Planes | None = None, **fields: Any) -> bytes:
    """Return a file of PLACES with a section of further frames."""
    sections = [section_m]
    if fields.get("mode") == "RGBA":
        sections.append(section("A", b"\0" + frame(bytes(17 * 9))))
    data = latent(planes or zero_planes(6)) if fields.get("payload", 0) == 0 else fields.pop("latent")
    return file(*sections, data, width=17, height=9, **fields)


def animation(
    section_m: bytes, frames: dict[str, Any], further: list[Planes], planes: Planes | None = None, **facts: Any
) -> Vector:
    """Return a vector of an RGB picture of PLACES with further frames."""
    planes = planes or zero_planes(6)
    return success(animated(section_m, planes), planes, size=(17, 9), frames=frames, further=further, **facts)


@vector
def ok_frames_repeat() -> Vector:
    """An animation of three frames without changes, which plays twice."""
    planes = noise_planes(6, (2, 4))
    found = frames_of([40, 0, 2**24 - 1], [[], []], plays=2)
    return animation(moving(record(0), record(2**24 - 1), plays=2), found, [planes, planes], planes, rule="T-01")


@vector
def ok_frames_replace() -> Vector:
    """Two latent rectangles of one frame, and one in the frame after it, with new symbols."""
    planes = noise_planes(6, (4, 8))
    first, second, third = noise_planes(2, (2,)), noise_planes(1, (8,)), noise_planes(6, (16,))
    boxes = [(0, 0, 1, 2), (2, 1, 1, 1), (0, 0, 3, 2)]
    moves = [(*box, 0, frame(pack(new))) for box, new in zip(boxes, (first, second, third), strict=True)]
    after = moved(moved(planes, boxes[0], first), boxes[1], second)
    found = frames_of([40, 50, 60], [[[*boxes[0], 0], [*boxes[1], 0]], [[*boxes[2], 0]]])
    data = moving(record(50, moves[:2]), record(60, moves[2:]))
    return animation(data, found, [after, third], planes, rule="T-02")


@vector
def ok_frames_differences() -> Vector:
    """Symbols that are added to those of the frame before, twice, up to the largest sum."""
    planes, box = [[32000] * 6 for _ in range(CHANNELS)], (1, 0, 2, 1)
    new = [[767, -32000] for _ in range(CHANNELS)]
    move = (*box, 1, frame(pack(new)))
    again = (*box, 1, frame(pack([[-1, -1] for _ in range(CHANNELS)])))
    once = moved(planes, box, new, 1)
    twice = moved(once, box, [[-1, -1] for _ in range(CHANNELS)], 1)
    found = frames_of([40, 50, 60], [[[*box, 1]], [[*box, 1]]])
    return animation(moving(record(50, [move]), record(60, [again])), found, [once, twice], planes, rule="T-03")


@vector
def ok_frames_range() -> Vector:
    """Rectangles coded by payload method 1: the model sees nothing outside of them."""
    planes, new, change = noise_planes(6, (2, 0, 4)), noise_planes(4, (4,)), noise_planes(2, (2,))
    boxes = [(1, 0, 2, 2), (0, 1, 2, 1)]
    once = moved(planes, boxes[0], new)
    twice = moved(once, boxes[1], change, 1)
    count = group_count(SPACE)
    moves = [
        (*boxes[0], 0, range_payload(new, count, height=2, width=2)),
        (*boxes[1], 1, range_payload(change, count, height=1, width=2)),
    ]
    payload = section("L", range_payload(planes, count, height=2, width=3))
    data = animated(moving(record(7, moves[:1]), record(8, moves[1:])), payload=1, latent=payload)
    found = frames_of([40, 7, 8], [[[*boxes[0], 0]], [[*boxes[1], 1]]])
    return success(data, planes, size=(17, 9), frames=found, further=[once, twice], rule="T-03")


@vector
def ok_frames_alpha() -> Vector:
    """A frame that changes alpha only, with the left filter, and one that changes nothing."""
    box, values = (15, 8, 2, 1), bytes([200, 100])
    block = b"\1" + frame(bytes([200, 156]))
    alpha = bytes(17 * 9 - 2) + values
    data = animated(moving(record(50, alpha=(*box, 0, block)), record(60)), mode="RGBA")
    found = frames_of([40, 50, 60], [[], []], alpha=[alpha, alpha])
    planes = zero_planes(6)
    return success(data, planes, size=(17, 9), mode="RGBA", alpha=bytes(17 * 9), frames=found, further=[planes, planes])


@vector
def ok_frames_alpha_twice() -> Vector:
    """Two frames that change alpha at different places: the second one keeps the change of the first."""
    boxes = [(15, 8, 2, 1), (0, 0, 1, 1)]
    blocks = [b"\0" + frame(bytes([200, 100])), b"\0" + frame(bytes([7]))]
    once = bytes(17 * 9 - 2) + bytes([200, 100])
    twice = bytes([7]) + once[1:]
    records = [record(50, alpha=(*box, 0, block)) for box, block in zip(boxes, blocks, strict=True)]
    found = frames_of([40, 50, 50], [[], []], alpha=[once, twice])
    planes = zero_planes(6)
    data = animated(moving(*records), mode="RGBA")
    return success(data, planes, size=(17, 9), mode="RGBA", alpha=bytes(17 * 9), frames=found, further=[planes, planes])


@vector
def ok_frames_side_by_side() -> Vector:
    """Latent rectangles of one frame that touch each other and do not overlap."""
    planes, new = noise_planes(6, (4, 8)), noise_planes(2, (4,))
    boxes = [(0, 0, 1, 2), (1, 0, 1, 2)]
    after = moved(moved(planes, boxes[0], new), boxes[1], new)
    moves = [(*box, 0, frame(pack(new))) for box in boxes]
    found = frames_of([40, 50], [[[*box, 0] for box in boxes]])
    return animation(moving(record(50, moves)), found, [after], planes, rule="T-02")


@vector
def bad_frames_none() -> Vector:
    """A section without a further frame."""
    return refused(animated(moving()), "T-01")


@vector
def bad_frames_few() -> Vector:
    """One further frame of the two that are announced."""
    return refused(animated(moving(record(40), count=2)), "T-01")


@vector
def bad_frames_many() -> Vector:
    """Bytes after the last further frame."""
    return refused(animated(moving(record(40), tail=b"\0")), "T-01")


@vector
def bad_frames_data_cut() -> Vector:
    """A section that ends within the data of a rectangle."""
    data = moving(tail=record(40, [(0, 0, 1, 1, 0, frame(pack(zero_planes())))])[:-1], count=1)
    return refused(animated(data), "T-01")


@vector
def bad_frames_alpha_not_wanted() -> Vector:
    """A frame that changes alpha in a picture without alpha."""
    return refused(animated(moving(record(40, alpha=(0, 0, 1, 1, 0, b"\0" + frame(b"a"))))), "T-01")


@vector
def bad_frames_varint() -> Vector:
    """A duration that is not in its shortest form."""
    return refused(animated(moving(tail=b"\x80\0\0", count=1)), "V-02")


@vector
def limit_frames_rectangles() -> Vector:
    """A frame that announces 1025 rectangles."""
    return refused(animated(moving(tail=varint(40) + varint(2 * 1025), count=1)), "L-08", "limit")


@vector
def bad_frames_empty_rectangle() -> Vector:
    """A latent rectangle without a position."""
    return refused(animated(moving(record(40, [(0, 0, 0, 1, 0, b"")]))), "T-02")


@vector
def bad_frames_no_height() -> Vector:
    """A latent rectangle without a row of positions."""
    return refused(animated(moving(record(40, [(0, 0, 1, 0, 0, b"")]))), "T-02")


@vector
def bad_frames_below() -> Vector:
    """A latent rectangle that reaches beyond the lower edge of the latent."""
    move = (0, 1, 1, 2, 0, frame(pack(zero_planes(2))))
    return refused(animated(moving(record(40, [move]))), "T-02")


@vector
def bad_frames_beyond() -> Vector:
    """A latent rectangle that reaches beyond the latent."""
    move = (2, 0, 2, 1, 0, frame(pack(zero_planes(2))))
    return refused(animated(moving(record(40, [move]))), "T-02")


@vector
def bad_frames_overlap() -> Vector:
    """Two latent rectangles of one frame that share a position."""
    moves = [(0, 0, 2, 1, 0, frame(pack(zero_planes(2)))), (1, 0, 1, 2, 0, frame(pack(zero_planes(2))))]
    return refused(animated(moving(record(40, moves))), "T-02")


@vector
def bad_frames_alpha_beyond() -> Vector:
    """An alpha rectangle that reaches beyond the picture."""
    move = (16, 0, 2, 1, 0, b"\0" + frame(b"ab"))
    return refused(animated(moving(record(40, alpha=move)), mode="RGBA"), "T-02")


@vector
def bad_frames_alpha_short() -> Vector:
    """An alpha rectangle with a value too few."""
    move = (15, 0, 2, 1, 0, b"\0" + frame(b"a"))
    return refused(animated(moving(record(40, alpha=move)), mode="RGBA"), "A-02")


@vector
def bad_frames_payload() -> Vector:
    """A rectangle whose payload has a plane too few symbols."""
    move = (0, 0, 2, 1, 0, frame(bytes([16] + [0] * (CHANNELS - 1)) + bytes(2)))
    return refused(animated(moving(record(40, [move]))), "P-03")


@vector
def bad_frames_sum() -> Vector:
    """A difference that leads to the symbol 32768."""
    planes = [[32767] * 6 for _ in range(CHANNELS)]
    move = (0, 0, 1, 1, 1, frame(pack([[1]] * CHANNELS)))
    return refused(animated(moving(record(40, [move])), planes), "T-03")


@vector
def new_frames_quantizer() -> Vector:
    """Further frames in a picture with a palette."""
    sections = moving(record(40)), palette([(1, 2, 3, 4)]), section("L", frame(b"\0"))
    return refused(file(*sections, quantizer=1, rate=0), "T-04", "unsupported")


@vector
def limit_frames_65536() -> Vector:
    """More further frames than the limit."""
    return refused(animated(moving(tail=bytes(2 * 65536), count=65536)), "L-08", "limit")


@vector
def limit_frames_plays() -> Vector:
    """More plays than the limit."""
    return refused(animated(moving(record(40), plays=65536)), "L-08", "limit")


@vector
def limit_frames_duration() -> Vector:
    """A duration of 2^24 ms."""
    return refused(animated(moving(record(2**24))), "L-08", "limit")


@vector
def limit_frames_payload() -> Vector:
    """A rectangle of one position whose zstd frame holds more than its planes can take."""
    move = (0, 0, 1, 1, 0, zeros_frame(CHANNELS * 3 + 1))
    return refused(animated(moving(record(40, [move]))), "L-04", "limit")


# Files above a limit


@vector
def limit_width_65536() -> Vector:
    """A width of 65536."""
    return refused(file(latent(), width=65536), "L-01", "limit")


@vector
def limit_height_65536() -> Vector:
    """A height of 65536."""
    return refused(file(latent(), height=65536), "L-01", "limit")


@vector
def limit_width_of_35_bits() -> Vector:
    """The largest varint as width."""
    return refused(file(latent(), width=2**35 - 1), "L-01", "limit")


@vector
def limit_sections_65() -> Vector:
    """One section more than the limit."""
    names = [name for name in range(256) if name & 0x20 and chr(name) not in "iex"][:64]
    return refused(file(*(section(name, b"") for name in names), latent()), "L-02", "limit")


@vector
def limit_length_2_31() -> Vector:
    """A section declares one byte more than the limit."""
    return refused(header() + section("L", bytes(9), length=varint(2**31)), "L-03", "limit")


@vector
def limit_rate_256() -> Vector:
    """A rate of 256."""
    return refused(file(latent(), rate=256), "L-05", "limit")


@vector
def limit_payload() -> Vector:
    """A payload whose zstd frame holds one byte more than planes of 16 bits."""
    return refused(file(section("L", zeros_frame(CHANNELS * 3 + 1))), "L-04", "limit")


@vector
def limit_payload_bomb() -> Vector:
    """A payload whose zstd frame holds 64 MiB for a picture of one pixel."""
    return refused(file(section("L", zeros_frame(2**26))), "L-04", "limit")


@vector
def limit_payload_2_63() -> Vector:
    """A payload whose zstd frame declares 2^63 bytes."""
    data = MAGIC + b"\xc0\x88" + struct.pack("<Q", 2**63) + raw_block(b"abc")
    return refused(file(section("L", data)), "L-04", "limit")


@vector
def limit_alpha() -> Vector:
    """An alpha plane of 10 values for 3 x 3 pixels."""
    block = b"\0" + frame(ALPHA + b"\0")
    return refused(file(section("A", block), latent(), width=3, height=3, mode="RGBA"), "L-04", "limit")


@vector
def limit_metadata() -> Vector:
    """Metadata of 2^24 + 1 bytes."""
    return with_frame(zeros_frame(2**24 + 1), "L-06", "limit")


# Files


INTRODUCTION = """# Test vectors

`spec/make_vectors.py` writes this folder and this page. NAME.json says what a reader finds in NAME.sdl:

- `expect`: the result of opening and decoding the file: `success` or the class of error (SPEC 2).
- `verify`: what a verifier finds. It differs from `expect` only where bytes follow the last section (rule F-03).
- `rule`: the rule that the file breaks or shows, or null.
- `comment`: what the file tests.
- `size`, `mode`, `rate`: width and height in pixels, the mode, and the quality index in the header.
- `symbols_sha256`: SHA-256 of the symbols as int16, little-endian, in the order C, h, w.
- `alpha_sha256`: SHA-256 of the alpha plane in rows, or null.
- `metadata`: SHA-256 of each metadata section's content, by the section's name.
- `fidelity`: levels of the fidelity map's cells in rows, errors and invented structure, or null.
- `frames_sha256`: like `symbols_sha256`, a list with one hash for each further frame.
- `frames`: the further frames, or null: `plays`; `durations` of all frames; `rects`, for each further frame left, top,
  width, height and d of its latent rectangles; `alpha_sha256`, of each further frame's alpha plane, or null.
- `patches`: the guard patches, or null: `method`; `atlas`, its width and height in cells; `rects`, left, top, width and
  height of each patch in cells; `data_sha256`, of the WebP chunk's data.

Of the files that are refused, those have the keys from `size` on whose comment says that metadata and alpha can be read,
and those with an unknown latent space or payload method. They never have `symbols_sha256`. A file that breaks no other
rule is refused for its `rule`.

Names begin with `ok_` if the file is read, `bad_` if it breaks a rule, `new_` if it needs a newer reader, `limit_` if
it is above a limit, `model_` if it needs another model, and `tail_` if bytes follow its last section.

Only {embedded} depend on the embedded model's tables.
`python spec/make_vectors.py --embedded` writes them anew for another embedded model.

| vector | what it tests | rule |
|---|---|---|
"""


def readme(sides: dict[str, dict[str, Any]]) -> str:
    """Return the page that lists the vectors, in Markdown."""
    rows = [f"| {name} | {side['comment']} | {side['rule'] or ''} |" for name, side in sides.items()]
    embedded = " and ".join(f"`{maker.__name__}`" for maker in ON_EMBEDDED)
    return INTRODUCTION.format(embedded=embedded) + "\n".join(rows) + "\n"


def write(folder: Path, makers: Iterable[Callable[[], Vector]]) -> dict[str, dict[str, Any]]:
    """Write vectors and their side files; return what the side files hold, by name."""
    sides = {}
    for maker in makers:
        data, side = maker()
        first = {"expect": side["expect"], "verify": side["verify"], "rule": side["rule"], "comment": maker.__doc__}
        sides[maker.__name__] = first | side
        path = folder / f"{maker.__name__}.sdl"
        path.write_bytes(data)
        path.with_suffix(".json").write_text(json.dumps(first | side, indent=2) + "\n", encoding="utf-8")
    return sides


def contents(path: Path) -> dict[str, Any]:
    """Return what spec/reader.py finds in a file, in the form of a side file."""
    data = path.read_bytes()
    found: dict[str, Any] = {"expect": "success", "verify": "success"}
    try:
        container = reader.read_container(data)
        facts = reader.report(container)
        found |= {"size": [facts["width"], facts["height"]]}
        found |= {key: facts[key] for key in ("mode", "rate", "alpha_sha256", "metadata")}
        symbols = reader.read_symbols(container)
        further = reader.read_frames(container, symbols)
        found["symbols_sha256"] = reader.symbols_hash(symbols)
        found["frames_sha256"] = [reader.symbols_hash(planes) for planes in further]
        reader.read_container(data, strict=True)
    except reader.RefusedError as error:
        found |= {"verify": error.kind, "rule": error.rule}
        if "symbols_sha256" not in found:
            found["expect"] = error.kind
    return found


def differences(made: Path, kept: Path) -> list[str]:
    """Return how the vectors of two folders differ, apart from the bytes of compressed blocks."""
    names = [{path.name for path in folder.iterdir()} for folder in (made, kept)]
    found = [f"{name} is in one of the folders only" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        if name.endswith(".sdl"):
            if contents(made / name) != contents(kept / name):
                found.append(f"{name} holds something else")
        elif (made / name).read_bytes() != (kept / name).read_bytes():
            found.append(f"{name} differs")
        if name.endswith(".json"):
            side = json.loads((kept / name).read_text(encoding="utf-8"))
            read = contents((made / name).with_suffix(".sdl"))
            found += [f"{name}: {key} is {read[key]!r}" for key in read.keys() & side.keys() if read[key] != side[key]]
    return found


def main() -> int:
    """Write or check the vectors and return the exit status."""
    parser = argparse.ArgumentParser(description="Write spec/vectors.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="compare with the vectors in the folder, write nothing")
    choice.add_argument("--embedded", action="store_true", help="write only vectors that depend on the embedded model")
    options = parser.parse_args()
    if options.embedded:
        write(FOLDER, ON_EMBEDDED)
        return 0
    text = TEXT.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary)
        page = readme(write(made, MAKERS.values()))
        (made / "README.md").write_text(page, encoding="utf-8")
        if options.check:
            found = differences(made, FOLDER)
            found += ["SPEC.md has another example in 8.6.6"] if with_example(text) != text else []
            sys.stdout.write("".join(f"{line}\n" for line in found))
            return 1 if found else 0
        # Copy a complete folder, so that no vector remains whose function is gone.
        shutil.rmtree(FOLDER, ignore_errors=True)
        shutil.copytree(made, FOLDER)
        TEXT.write_text(with_example(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
