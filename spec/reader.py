"""A second reader of the SDL format, written from SPEC.md alone.  It has conformance level B (SPEC 12).

The program shares no code with the library.  What both readers find in a file is therefore what the text says.  The
program prefers simplicity to speed: it holds the whole file in memory and follows the order of SPEC 10.  It needs the
standard library, zstandard, the registry (SPEC 7) and the table files that the registry names.

    python spec/reader.py FILE             print what the file holds as JSON
    python spec/reader.py --verify FILE    the same, and refuse bytes after the last section (rule F-03)

The exit status is 1 if the program refuses the file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import struct
import sys
import zlib
from collections.abc import Sequence
from functools import cache
from operator import mul
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

NOT_SDL, MALFORMED, TRUNCATED, CHECKSUM = "not-sdl", "malformed", "truncated", "checksum"
UNSUPPORTED, LIMIT, MODEL = "unsupported", "limit", "model"

WEIGHTS = Path(__file__).parent.parent / "pillow_sdl" / "weights"
REGISTRY: dict[str, Any] = json.loads((WEIGHTS / "registry.json").read_text(encoding="utf-8"))
"""The registry (SPEC 7)."""

SPACES: dict[int, dict[str, Any]] = {entry["code"]: entry for entry in REGISTRY["spaces"]}
"""Registry entries of the latent spaces by number."""

SCALAR, PALETTE = REGISTRY["quantizers"]["scalar"], REGISTRY["quantizers"]["palette"]
ZSTD, RANGE = REGISTRY["payloads"]["zstd"], REGISTRY["payloads"]["range"]

EMBEDDED = 16
"""Number of the embedded model's latent space, whose meaning depends on the model hash (SPEC 7.1)."""

MODES = ("L", "LA", "RGB", "RGBA")
METADATA = b"iex"
KNOWN = b"iexfgmAPL"

KNOWN_PALETTE_FLAGS = 0x01


class RefusedError(Exception):
    """The reader refuses the file.

    kind: class of the error (SPEC 2).   rule: id of the rule that the file breaks.
    """

    def __init__(self, kind: str, rule: str, message: str) -> None:
        super().__init__(f"{kind} [{rule}]: {message}")
        self.kind = kind
        self.rule = rule


class Header(NamedTuple):
    """The header's fields (SPEC 5) in the order of the file."""

    flags: int
    mode: int
    width: int
    height: int
    space: int
    quantizer: int
    rate: int
    payload: int
    model: bytes
    sections: int


class Patches(NamedTuple):
    """Guard patches (SPEC 9.4).

    rects: left, top, width, height of each patch, in cells.   columns, rows: size of the atlas, in cells.
    data: of the WebP chunk.
    """

    method: int
    columns: int
    rows: int
    rects: list[tuple[int, ...]]
    data: bytes


class Rectangle(NamedTuple):
    """A rectangle of a further frame (SPEC 9.5), in positions or, for alpha, in pixels.   d: 0 for alpha."""

    left: int
    top: int
    width: int
    height: int
    d: int
    data: bytes


class Frames(NamedTuple):
    """Further frames (SPEC 9.5).

    durations: of all frames, in milliseconds.   latent: the rectangles of each further frame.
    alpha: the alpha plane of each further frame in rows, None without alpha.
    """

    plays: int
    durations: list[int]
    latent: list[list[Rectangle]]
    alpha: list[bytes | None]


class Container(NamedTuple):
    """What a reader of level A finds.

    sections: name and data of each section, in the order of the file.   metadata: content by section name.
    alpha: width x height bytes in rows, or None.
    fidelity: levels of all cells in rows, errors and invented structure, or None.
    patches: the guard patches, or None.   frames: the further frames, or None.
    """

    header: Header
    sections: list[tuple[int, bytes]]
    metadata: dict[str, bytes]
    alpha: bytes | None
    fidelity: tuple[list[int], list[int]] | None
    patches: Patches | None
    frames: Frames | None


class Place:
    """A file and the position of the next byte to read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if count > len(self.data) - self.at:
            raise RefusedError(TRUNCATED, "F-02", f"the file ends within {count} bytes declared at byte {self.at}")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        """Return the next varint (SPEC 3.2)."""
        value = 0
        for index in range(5):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if index and byte == 0:
                    raise RefusedError(MALFORMED, "V-02", f"the varint before byte {self.at} is not in shortest form")
                return value
        raise RefusedError(MALFORMED, "V-01", f"the varint before byte {self.at} has more than 5 bytes")

    def check_crc(self, start: int, rule: str) -> None:
        """Compare the next CRC with that of the bytes since `start` (SPEC 3.4)."""
        expected = zlib.crc32(self.data[start : self.at])
        if int.from_bytes(self.take(4), "little") != expected:
            raise RefusedError(CHECKSUM, rule, f"the CRC of bytes {start} to {self.at - 4} differs")


def read_header(place: Place) -> Header:
    """Read the signature and the header (SPEC 4 and 5)."""
    if not place.data.startswith(b"\x89SDL"):
        raise RefusedError(NOT_SDL, "F-01", "the file has no SDL signature")
    place.take(4)
    version = place.take(1)[0]
    if version != 0:
        raise RefusedError(UNSUPPORTED, "H-01", f"format version {version} is unknown")
    flags, mode = place.take(2)
    width, height, space, quantizer, rate, payload = (place.varint() for _ in range(6))
    model = place.take(16)
    sections = place.varint()
    place.check_crc(0, "H-02")
    if flags & 0x0F:
        raise RefusedError(UNSUPPORTED, "H-03", f"critical flags {flags & 0x0F:#x} are unknown")
    if mode >= len(MODES):
        raise RefusedError(UNSUPPORTED, "H-04", f"mode {mode} is unknown")
    if 0 in (width, height, sections):
        raise RefusedError(MALFORMED, "H-05", f"width {width}, height {height}, {sections} sections: 0 is not allowed")
    if max(width, height) > 65535:
        raise RefusedError(LIMIT, "L-01", f"a side of {width} x {height} pixels is above 65535")
    if sections > 64:
        raise RefusedError(LIMIT, "L-02", f"{sections} sections are more than 64")
    if rate > 255:
        raise RefusedError(LIMIT, "L-05", f"rate {rate} is above 255")
    return Header(flags, mode, width, height, space, quantizer, rate, payload, model, sections)


def read_section(place: Place) -> tuple[int, bytes]:
    """Return name and data of the next section (SPEC 6.1)."""
    start = place.at
    name = place.take(1)[0]
    length = place.varint()
    if length > 2**31 - 1:
        raise RefusedError(LIMIT, "L-03", f"a section declares {length} bytes")
    data = place.take(length)
    place.check_crc(start, "S-03")
    if name not in KNOWN and not name & 0x20:
        raise RefusedError(UNSUPPORTED, "S-02", f"critical section {name:#x} is unknown")
    return name, data


def check_order(header: Header, names: list[int]) -> None:
    """Check names and order of the sections (SPEC 6.3)."""
    if len(set(names)) < len(names):
        raise RefusedError(MALFORMED, "S-04", f"a name occurs twice in {bytes(names)!r}")
    critical = [not name & 0x20 for name in names]
    if names[-1] != ord("L") or critical != sorted(critical):
        raise RefusedError(MALFORMED, "S-05", f"the sections {bytes(names)!r} are in the wrong order")
    if (ord("A") in names) != (MODES[header.mode] in ("LA", "RGBA")):
        raise RefusedError(MALFORMED, "A-01", f"mode {MODES[header.mode]} does not fit the sections {bytes(names)!r}")


def unpack_zstd(frame: bytes, limit: int, limit_rule: str = "L-04") -> bytes:
    """Return the content, of at most `limit` bytes, of the one frame that `frame` must be (SPEC 3.3)."""
    try:
        # zstandard takes a skippable frame for an empty one, so this function checks the magic number itself.
        size = zstandard.frame_content_size(frame) if frame.startswith(b"\x28\xb5\x2f\xfd") else None
    except zstandard.ZstdError:
        size = None
    if size is None:
        raise RefusedError(MALFORMED, "Z-01", "there is no zstd frame header")
    if size < 0:
        raise RefusedError(MALFORMED, "Z-02", "the zstd frame does not state its content size")
    if size > limit:
        raise RefusedError(LIMIT, limit_rule, f"the zstd content has {size} bytes, at most {limit} are allowed")
    # Decompress in small pieces, because zstandard compares the stated size only at the frame's end.
    stream = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()
    content = bytearray()
    at = 0
    try:
        while not stream.eof and at < len(frame) and len(content) <= size:
            content += stream.decompress(frame[at : at + 256])
            at += 256
    except zstandard.ZstdError as error:
        raise RefusedError(MALFORMED, "Z-03", f"the zstd frame does not decode: {error}") from None
    if not stream.eof or stream.unused_data or at < len(frame) or len(content) != size:
        raise RefusedError(MALFORMED, "Z-03", f"the zstd frame does not hold {size} bytes, or bytes follow it")
    return bytes(content)


def unpack_metadata(data: bytes) -> bytes:
    """Return the content of a metadata section (SPEC 9.1)."""
    if not data:
        raise RefusedError(MALFORMED, "M-01", "a metadata section is empty")
    if data[0] == 1:
        return unpack_zstd(data[1:], 2**24, "L-06")
    if data[0] != 0:
        raise RefusedError(UNSUPPORTED, "M-02", f"metadata storage method {data[0]} is unknown")
    if len(data) - 1 > 2**24:
        raise RefusedError(LIMIT, "L-06", f"the metadata have {len(data) - 1} bytes, at most {2**24} are allowed")
    return data[1:]


def unpack_alpha(data: bytes, width: int, height: int) -> bytes:
    """Return the alpha plane in rows (SPEC 9.2)."""
    if not data:
        raise RefusedError(MALFORMED, "A-02", "the alpha section is empty")
    if data[0] > 2:
        raise RefusedError(UNSUPPORTED, "A-03", f"alpha filter {data[0]} is unknown")
    plane = bytearray(unpack_zstd(data[1:], width * height))
    if len(plane) != width * height:
        raise RefusedError(MALFORMED, "A-02", f"there are {len(plane)} alpha values for {width} x {height} pixels")
    for index in range(len(plane)):
        if data[0] == 1 and index % width:
            plane[index] = (plane[index] + plane[index - 1]) % 256
        elif data[0] == 2 and index >= width:
            plane[index] = (plane[index] + plane[index - width]) % 256
    return bytes(plane)


def read_container(data: bytes, *, strict: bool = False) -> Container:
    """Read a file to level A: header, sections, metadata and alpha.

    strict: refuse bytes after the last section, as a verifier must; otherwise ignore them (rule F-03).
    """
    place = Place(data)
    header = read_header(place)
    sections = [read_section(place) for _ in range(header.sections)]
    if strict and place.at < len(data):
        raise RefusedError(MALFORMED, "F-03", f"bytes follow the last section, which ends at byte {place.at}")
    check_order(header, [name for name, _ in sections])
    metadata = {chr(name): unpack_metadata(block) for name, block in sections if name in METADATA}
    alpha = dict(sections).get(ord("A"))
    plane = None if alpha is None else unpack_alpha(alpha, header.width, header.height)
    fidelity = dict(sections).get(ord("f"))
    levels = None if fidelity is None else unpack_fidelity(fidelity, header.width, header.height)
    guard = dict(sections).get(ord("g"))
    patches = None if guard is None else unpack_patches(guard, header.width, header.height)
    moving = dict(sections).get(ord("m"))
    frames = None if moving is None else unpack_frames(moving, header, plane)
    return Container(header, sections, metadata, plane, levels, patches, frames)


def geometry(header: Header) -> tuple[int, int, int]:
    """Return C, h, w of the latent (SPEC 7.1 and 8.1).

    Nothing about the latent may be derived from number 16 before the model hash is compared (rule D-01).
    """
    space = SPACES.get(header.space)
    if space is None:
        raise RefusedError(UNSUPPORTED, "H-07", f"latent space {header.space} is unknown")
    if header.space == EMBEDDED and header.model.hex() not in {
        model.get("hash") for model in REGISTRY["models"] if model["space"] == space["name"]
    }:
        raise RefusedError(MODEL, "D-01", f"model {header.model.hex()} is not the embedded model of this release")
    return space["channels"], -(-header.height // space["factor"]), -(-header.width // space["factor"])


def unpack_plane(data: bytes, bits: int, count: int) -> list[int]:
    """Return the symbols of one plane (SPEC 8.3)."""
    if bits == 0:
        return [0] * count
    if bits == 16:
        values = [low | high << 8 for low, high in zip(data[:count], data[count:], strict=True)]
    else:
        values = [byte >> shift & (1 << bits) - 1 for byte in data for shift in range(0, 8, bits)]
    if any(values[count:]):
        raise RefusedError(MALFORMED, "P-04", "the unused bits at the end of a plane are not 0")
    return [value - (value >> bits - 1 << bits) for value in values[:count]]


def read_planes(data: bytes, channels: int, count: int) -> list[list[int]]:
    """Return the symbols of payload method 0 (SPEC 8.3)."""
    content = unpack_zstd(data, channels * (1 + 2 * count))
    bits = content[:channels]
    if len(bits) < channels:
        raise RefusedError(MALFORMED, "P-01", f"the payload has {len(bits)} of {channels} widths")
    if not set(bits) <= {0, 2, 4, 8, 16}:
        raise RefusedError(MALFORMED, "P-02", f"the widths are {sorted(set(bits))}")
    sizes = [-(-b * count // 8) for b in bits]
    if len(content) != channels + sum(sizes):
        raise RefusedError(MALFORMED, "P-03", f"the payload has {len(content)} bytes, not {channels + sum(sizes)}")
    planes: list[list[int]] = [[] for _ in bits]
    at = channels
    for channel in sorted(range(channels), key=lambda channel: bits[channel]):  # stable: by width, then by channel
        planes[channel] = unpack_plane(content[at : at + sizes[channel]], bits[channel], count)
        at += sizes[channel]
    return planes


def log2_steps(table: Sequence[Sequence[int]], rate: int) -> list[int]:
    """Return s_c of every channel from the K rows of a latent space's table (SPEC 8.2)."""
    p = rate * (len(table) - 1)
    i = min(p // 255, len(table) - 2)
    v = p - 255 * i
    return [(2 * (low * (255 - v) + high * v) + 255) // 510 for low, high in zip(table[i], table[i + 1], strict=True)]


# Payload method 1: tables

DTYPES = {"I8": "b", "U8": "B", "I16": "h", "U16": "H", "I32": "i"}


class Tensor(NamedTuple):
    """Integers in C order."""

    shape: list[int]
    values: tuple[int, ...]

    def rows(self) -> list[tuple[int, ...]]:
        """Return the values at each index of the first axis."""
        size = math.prod(self.shape[1:])
        return [self.values[row * size : (row + 1) * size] for row in range(self.shape[0])]


@cache
def tensors(file: str) -> dict[str, Tensor]:
    """Return the integer tensors of a safetensors file in the weights folder.

    Such a file holds the length of a JSON text in 8 bytes, the text, and the values.
    """
    data = (WEIGHTS / file).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for key, entry in json.loads(data[8:start]).items():
        if key != "__metadata__" and entry["dtype"] in DTYPES:
            form = f"<{math.prod(entry['shape'])}{DTYPES[entry['dtype']]}"
            found[key] = Tensor(entry["shape"], struct.unpack_from(form, data, start + entry["data_offsets"][0]))
    return found


@cache
def distributions() -> list[tuple[int, ...]]:
    """Return the frequencies of the values of each row (SPEC 8.6.5)."""
    tables = tensors(REGISTRY["distributions"]["file"])
    frequencies = iter(tables["frequencies"].values)
    return [tuple(next(frequencies) for _ in range(size)) for size in tables["sizes"].values]


# Payload method 1: model


def clamp(value: int, low: int, high: int) -> int:
    """Return `value`, limited to low..high."""
    return max(low, min(value, high))


@cache
def power(j: int) -> int:
    """Return E_j (SPEC 8.6).   Eight square roots in a row give the whole part of 2 E_j = 2^(15 + j / 256)."""
    value = 1 << 15 * 256 + j
    for _ in range(8):
        value = math.isqrt(value)
    return (value + 1) // 2


def scale(a: int, e: int) -> int:
    """Return a 2^(e / 256), rounded as SPEC 8.6 says."""
    product = a * power(e % 256)
    s = 14 - e // 256
    return (product + (1 << s >> 1)) >> s if s > 0 else product << -s


KINDS = ((1, 1), (0, 1), (1, 0))
"""The passes D, H, V of each s, by the parities of their rows and columns on the grid of s (SPEC 8.6.2)."""


class Pass(NamedTuple):
    """One of the passes 1 to 9 (SPEC 8.6.2 and 8.6.3).

    known: parities of the places that are decoded before the pass.   own: number of its `own` weights.
    """

    s: int
    parities: tuple[int, int]
    known: set[tuple[int, int]]
    own: int


def pass_number(k: int) -> Pass:
    """Return pass k > 0."""
    step, kind = divmod(k - 1, 3)
    s = 4 >> step
    return Pass(s, KINDS[kind], {(0, 0), *KINDS[:kind]}, kind + (1 if s > 1 else 4))


def positions(k: int, height: int, width: int) -> list[tuple[int, int]]:
    """Return rows and columns of the positions of pass k in their order (SPEC 8.6.2)."""
    s, (odd_row, odd_column) = pass_number(k)[:2] if k else (4, (0, 0))
    return [(y, x) for y in range(s * odd_row, height, 2 * s) for x in range(s * odd_column, width, 2 * s)]


class Prediction(NamedTuple):
    """What the model predicts for a symbol, by the names of SPEC 8.6.3."""

    mu: int
    i: int
    q: int
    z: int
    row: int


class Latent:
    """The symbols of a picture that are decoded so far, and the model that predicts the others (SPEC 8.6.3).

    tables: those of the context model.   steps: s_c of every channel.
    planes: for each channel h w symbols in rows.   groups: the channels of each group.
    """

    def __init__(self, tables: dict[str, Tensor], steps: list[int], height: int, width: int) -> None:
        self.tables = tables
        self.height, self.width = height, width
        exponents = self.tables["exponent"].values
        self.e = [clamp(exponent + step, -5120, 5120) for exponent, step in zip(exponents, steps, strict=True)]
        self.rate_input = clamp(sum(self.e) // (8 * len(self.e)) - 128, -127, 127)
        channels = iter(self.tables["order"].values)
        self.groups = [[next(channels) for _ in range(size)] for size in self.tables["sizes"].values]
        self.planes = [[0] * (height * width) for _ in self.e]
        self.inputs = [[0] * (height * width) for _ in self.e]

    def put(self, channel: int, y: int, x: int, symbol: int) -> None:
        """Store a decoded symbol."""
        self.planes[channel][y * self.width + x] = symbol
        self.inputs[channel][y * self.width + x] = clamp(scale(symbol, self.e[channel]), -255, 255)

    def inputs_at(self, channels: list[int], places: list[tuple[int, int]]) -> list[int]:
        """Return for each channel the inputs at all places, 0 outside the picture."""
        inside = [0 <= y < self.height and 0 <= x < self.width for y, x in places]
        indices = [y * self.width + x if ok else -1 for ok, (y, x) in zip(inside, places, strict=True)]
        return [self.inputs[channel][at] if at >= 0 else 0 for channel in channels for at in indices]

    def layer_1_inputs(self, group: int, k: int, y: int, x: int) -> list[int]:
        """Return the inputs of layer 1 in their order."""
        w = self.tables[f"{group}.earlier"].shape[2] // 2
        window = range(-w, w + 1)
        earlier = [channel for channels in self.groups[:group] for channel in channels]
        found = self.inputs_at(earlier, [(y + dy, x + dx) for dy in window for dx in window])
        if k > 0:
            found += self.inputs_at(self.groups[group], [(y + dy, x + dx) for dy, dx in self.places(k)])
        return [*found, self.rate_input]

    def places(self, k: int) -> list[tuple[int, int]]:
        """Return the places known in pass k > 0, as distances in positions."""
        s, (odd_row, odd_column), known, _ = pass_number(k)
        reach = self.tables["reach"].values[0]
        return [
            (s * dy, s * dx)
            for dy in range(-reach, reach + 1)
            for dx in range(-reach, reach + 1)
            if abs(dy) + abs(dx) <= reach + 1 and ((odd_row + dy) % 2, (odd_column + dx) % 2) in known
        ]

    def layer_1_weights(self, group: int, k: int) -> list[tuple[int, ...]]:
        """Return the rows of layer 1's weights, each in the order of the inputs."""
        names = ["earlier", f"own{pass_number(k).own}", "rate"] if k else ["earlier", "rate"]
        parts = [self.tables[f"{group}.{name}"].rows() for name in names]
        return [sum(row, ()) for row in zip(*parts, strict=True)]

    def layer(self, number: int, group: int, k: int, weights: list[tuple[int, ...]], inputs: list[int]) -> list[int]:
        """Return the outputs of a layer's rows."""
        biases = self.tables[f"{group}.bias{number}"].rows()[k]
        shifts = self.tables[f"{group}.shift{number}"].values
        rows = zip(weights, biases, shifts, strict=True)
        return [(sum(map(mul, row, inputs)) + bias) >> shift for row, bias, shift in rows]

    def predict(self, group: int, k: int, y: int, x: int) -> list[Prediction]:
        """Return the predictions for a group's channels at a position of pass k."""
        n = len(self.groups[group])
        first = self.layer(1, group, k, self.layer_1_weights(group, k), self.layer_1_inputs(group, k, y, x))
        hidden = [clamp(value, 0, 255) for value in first[:-n]]
        for number in (2, 3):
            last = self.layer(number, group, k, self.tables[f"{group}.weight{number}"].rows(), hidden)
            hidden = [clamp(value, 0, 255) for value in last]
        found = []
        for channel, l_j, m_j, t_j in zip(self.groups[group], first[-n:], last[:n], last[n:], strict=True):
            e = self.e[channel]
            mu = clamp(scale(l_j + m_j, -e), -524272, 524272)
            i = max(0, (16 * t_j + 1378 - e >> 5) + 28)
            q = clamp((i - 48) // 8 + 1, 0, 12)
            rest = mu + (8 if q > 0 else 0) + (1 << q) // 2 >> q
            z = rest + 8 >> 4
            found.append(Prediction(mu, i, q, z, 16 * min(i - 8 * q, 47) + rest - 16 * z + 8))
        return found


# Payload method 1: coder


class Coder:
    """States and words of the coder, and the number of operations done (SPEC 8.6.4)."""

    def __init__(self, states: Sequence[int], words: Sequence[int]) -> None:
        self.states = list(states)
        self.words = list(words)
        self.used = 0
        self.operations = 0

    def value(self, frequencies: Sequence[int]) -> int:
        """Decode a value of a table's row."""
        below = self.state() % 2**16
        value = 0
        while below >= frequencies[value]:
            below -= frequencies[value]
            value += 1
        self.advance(frequencies[value], below)
        return value

    def number(self, u: int) -> int:
        """Decode a number of u bits."""
        frequency = 1 << 16 - u
        value, below = divmod(self.state() % 2**16, frequency)
        self.advance(frequency, below)
        return value

    def state(self) -> int:
        """Return the state that the next operation works on."""
        return self.states[self.operations % len(self.states)]

    def advance(self, frequency: int, below: int) -> None:
        """Complete an operation.   below: d - c_v."""
        state = frequency * (self.state() // 2**16) + below
        if state < 2**16:
            if self.used == len(self.words):
                raise RefusedError(MALFORMED, "R-04", f"no word is left for operation {self.operations}")
            state = 2**16 * state + self.words[self.used]
            self.used += 1
        self.states[self.operations % len(self.states)] = state
        self.operations += 1


def read_pass(latent: Latent, coder: Coder, group: int, k: int) -> None:
    """Decode the symbols of one pass (SPEC 8.6.5)."""
    places = [
        (channel, y, x, prediction)
        for y, x in positions(k, latent.height, latent.width)
        for channel, prediction in zip(latent.groups[group], latent.predict(group, k, y, x), strict=True)
    ]
    rows = [distributions()[prediction.row] for *_, prediction in places]
    # Values count from 0, offsets from -w - 1; len(row) is 2 w + 3.
    offsets = [coder.value(row) - len(row) // 2 for row in rows]
    beyond = [index for index, row in enumerate(rows) if abs(offsets[index]) == len(row) // 2]
    exponents = [coder.number(5) for _ in beyond]
    if any(a > 16 for a in exponents):
        raise RefusedError(MALFORMED, "R-06", f"an offset is 2^{max(exponents)} or more")
    for index, a in zip(beyond, exponents, strict=True):
        w = len(rows[index]) // 2 - 1
        size = w + 2**a + coder.number(a)
        offsets[index] = size if offsets[index] > 0 else -size
    largest = 0
    for (channel, y, x, (_, _, q, z, _)), offset in zip(places, offsets, strict=True):
        symbol = 2**q * (offset + z)
        if q > 0:
            symbol += coder.number(q) - 2 ** (q - 1)
        latent.put(channel, y, x, symbol)
        largest = max(largest, abs(symbol))
    if largest > 32767:
        raise RefusedError(MALFORMED, "R-06", f"a symbol has the magnitude {largest}")


def read_range(data: bytes, latent: Latent) -> list[list[int]]:
    """Return the symbols of payload method 1 (SPEC 8.6)."""
    if len(data) < 2:
        raise RefusedError(MALFORMED, "R-01", f"the payload has {len(data)} bytes")
    g, b = data[:2]
    if g > len(latent.groups):
        raise RefusedError(MALFORMED, "R-01", f"the payload has {g} groups, the model {len(latent.groups)}")
    if b > 12 or (g == 0 and b > 0):
        raise RefusedError(MALFORMED, "R-02", f"b is {b} with {g} groups")
    if g == 0:
        if len(data) > 2:
            raise RefusedError(MALFORMED, "R-05", "bytes follow a payload without groups")
        return latent.planes
    count = 2 ** (b + 3) if b else 1
    length = len(data) - 2 - 4 * count
    if length < 0 or length % 2:
        raise RefusedError(MALFORMED, "R-03", f"{len(data)} bytes do not hold {count} states and whole words")
    numbers = struct.unpack(f"<{count}I{length // 2}H", data[2:])
    coder = Coder(numbers[:count], numbers[count:])
    if min(coder.states) < 2**16:
        raise RefusedError(MALFORMED, "R-03", f"a state is {min(coder.states)}, below 2^16")
    for group in range(g):
        for k in range(10):
            read_pass(latent, coder, group, k)
    if set(coder.states) != {2**16} or coder.used < len(coder.words):
        raise RefusedError(MALFORMED, "R-05", f"the last states are {coder.states}, {coder.used} words are used")
    return latent.planes


def unpack_fidelity(data: bytes, width: int, height: int) -> tuple[list[int], list[int]]:
    """Return the levels of all cells of a fidelity map: errors and invented structure (SPEC 9.3)."""
    if len(data) < 4 or data[0] == 0:
        raise RefusedError(MALFORMED, "E-01", f"a fidelity map of {len(data)} bytes")
    side, i = 16 * data[0], data[3]
    columns, rows = -(-width // side), -(-height // side)
    if max(columns, rows) > 64 or i >= 48:
        raise RefusedError(MALFORMED, "E-02", f"{columns} x {rows} cells, distribution {i}")
    if len(data) < 8 or len(data) % 2:
        raise RefusedError(MALFORMED, "R-03", f"{len(data)} bytes do not hold a state and whole words")
    state, *words = struct.unpack(f"<I{len(data) // 2 - 4}H", data[4:])
    if state < 2**16:
        raise RefusedError(MALFORMED, "R-03", f"the state is {state}, below 2^16")
    coder = Coder([state], words)
    row = distributions()[16 * i + 8]
    w = (len(row) - 3) // 2
    grids = []
    for first in (7, 0):
        offsets = [coder.value(row) - w - 1 for _ in range(columns * rows)]
        for index, offset in enumerate(offsets):
            if abs(offset) == w + 1:
                offsets[index] += coder.number(5) if offset > 0 else -coder.number(5)
        grid: list[int] = []
        for index, offset in enumerate(offsets):
            known = [grid[index - 1]] if index % columns else []
            known += [grid[index - columns]] if index >= columns else []
            grid.append(((known[0] + known[-1] + 1) // 2 if known else first) + offset)
        grids.append(grid)
    error, more = grids
    invented = [a + b for a, b in zip(error, more, strict=True)]
    if min(error + invented) < 0 or max(error + invented) > 15:
        raise RefusedError(MALFORMED, "E-03", "a level is out of range")
    if coder.states != [2**16] or coder.used < len(words):
        raise RefusedError(MALFORMED, "R-05", f"the last state is {coder.states[0]}, {coder.used} words are used")
    return error, invented


def unpack_patches(data: bytes, width: int, height: int) -> Patches:
    """Return the guard patches of a section (SPEC 9.4).  Of the WebP data, only the size is looked at."""
    if len(data) < 5:
        raise RefusedError(MALFORMED, "G-01", f"guard patches of {len(data)} bytes")
    method, count, columns = struct.unpack("<BHH", data[:5])
    if method > 1:
        raise RefusedError(UNSUPPORTED, "G-01", f"method {method} is unknown")
    wide, high = -(-width // 16), -(-height // 16)
    size = 1 if max(wide, high) <= 255 else 2
    end = 5 + 4 * size * count
    if count == 0 or len(data) <= end:
        raise RefusedError(MALFORMED, "G-01", f"{count} patches in {len(data)} bytes")
    fields = struct.unpack(f"<{4 * count}{' BH'[size]}", data[5:end])
    rects = [fields[at : at + 4] for at in range(0, 4 * count, 4)]
    covered: set[tuple[int, int]] = set()
    for left, top, across, down in rects:
        cells = {(x, y) for x in range(left, left + across) for y in range(top, top + down)}
        if not cells or left + across > wide or top + down > high or cells & covered:
            raise RefusedError(MALFORMED, "G-02", f"patch {left, top, across, down} of {wide} x {high} cells")
        covered |= cells
    filled = line = rows = 0
    for _, _, across, down in rects:
        if across > columns:
            raise RefusedError(MALFORMED, "G-03", f"a patch of {across} cells in an atlas of {columns}")
        if filled + across > columns:
            filled, line = 0, rows
        filled, rows = filled + across, max(rows, line + down)
    if max(columns, rows) > 1023 or columns * rows > wide * high:
        raise RefusedError(LIMIT, "L-07", f"an atlas of {columns} x {rows} cells")
    if webp_size(method, data[end:]) != (16 * columns, 16 * rows):
        raise RefusedError(MALFORMED, "G-04", "the atlas is no WebP picture of its size")
    return Patches(method, columns, rows, rects, data[end:])


class Record(Place):
    """A position in the data of section m.  What ends there is not the file."""

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if count > len(self.data) - self.at:
            raise RefusedError(MALFORMED, "T-01", f"the further frames end at byte {len(self.data)} of their section")
        return super().take(count)

    def limited(self, limit: int) -> int:
        """Return the next varint, which has a limit."""
        value = self.varint()
        if value > limit:
            raise RefusedError(LIMIT, "L-08", f"{value} is above {limit}")
        return value

    def rectangle(self, *, has_d: bool) -> Rectangle:
        """Return the next rectangle.   has_d: whether it is one of the latent."""
        left, top, width, height, length = (self.varint() for _ in range(5))
        length, d = divmod(length, 2) if has_d else (length, 0)
        return Rectangle(left, top, width, height, d, self.take(length))


def check_rectangle(found: Rectangle, width: int, height: int) -> None:
    """Refuse a rectangle that is empty or reaches beyond an area."""
    if not (found.width and found.height) or found.left + found.width > width or found.top + found.height > height:
        raise RefusedError(MALFORMED, "T-02", f"rectangle {found[:4]} in an area of {width} x {height}")


def unpack_frames(data: bytes, header: Header, alpha: bytes | None) -> Frames:
    """Return the further frames of a section (SPEC 9.5).   alpha: the plane of frame 0."""
    place = Record(data)
    plays, count = place.limited(65535), place.limited(65535)
    if count == 0:
        raise RefusedError(MALFORMED, "T-01", "there is no further frame")
    frames = Frames(plays, [place.limited(2**24 - 1)], [], [])
    for _ in range(count):
        frames.durations.append(place.limited(2**24 - 1))
        r, a = divmod(place.limited(2 * 1024 + 1), 2)
        frames.latent.append([place.rectangle(has_d=True) for _ in range(r)])
        if a:
            if alpha is None:
                raise RefusedError(MALFORMED, "T-01", "alpha changes in a picture without alpha")
            found = place.rectangle(has_d=False)
            check_rectangle(found, header.width, header.height)
            alpha = with_rectangle(alpha, header.width, found)
        frames.alpha.append(alpha)
    if place.at < len(data):
        raise RefusedError(MALFORMED, "T-01", "bytes follow the last frame")
    return frames


def with_rectangle(plane: bytes, width: int, found: Rectangle) -> bytes:
    """Return an alpha plane with the values of a rectangle."""
    rows = unpack_alpha(found.data, found.width, found.height)
    changed = bytearray(plane)
    for y in range(found.height):
        at = (found.top + y) * width + found.left
        changed[at : at + found.width] = rows[y * found.width : (y + 1) * found.width]
    return bytes(changed)


def webp_size(method: int, data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a WebP chunk: RFC 6386, 9.1, or RFC 9649, 3.4.

    None if it does not begin like one, or if it has alpha.
    """
    if method == 0 and len(data) >= 10 and data[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", data[6:10])
        return width & 0x3FFF, height & 0x3FFF
    if method == 1 and len(data) >= 5 and data[0] == 0x2F:
        bits = int.from_bytes(data[1:5], "little")
        if bits >> 28 & 1:  # The picture has alpha.
            return None
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return None


def empty_latent(space: int, rate: int, height: int, width: int) -> Latent:
    """Return a picture without decoded symbols, with the context model of the latent space of that number."""
    entry = SPACES[space]
    if "context" not in entry:
        raise RefusedError(UNSUPPORTED, "H-07", f"latent space {space} has no context model")
    steps = log2_steps(tensors(entry["tables"]["file"])["log2_steps"].rows(), rate)
    return Latent(tensors(entry["context"]["file"]), steps, height, width)


# Quantizer 1


def read_palette(data: bytes) -> list[list[int]]:
    """Return the levels of each entry of a palette section (SPEC 8.8.2)."""
    if not data:
        raise RefusedError(MALFORMED, "K-03", "the palette section is empty")
    if data[0] & ~KNOWN_PALETTE_FLAGS:
        raise RefusedError(UNSUPPORTED, "K-02", f"palette flags {data[0]:#x} are unknown")
    if len(data) < 2:
        raise RefusedError(MALFORMED, "K-03", "the palette section ends after the flags")
    size = data[1] + 1
    digits = data[2:]
    if len(digits) > 4 * size or digits.endswith(b"\0"):
        raise RefusedError(MALFORMED, "K-03", f"the palette's number has {len(digits)} bytes for {size} entries")
    number = int.from_bytes(digits, "little")
    # A group: the bits of its entries that are known so far, as levels, and the number of entries.
    groups = [([0, 0, 0, 0], size)]
    for bit in range(32):
        parts = []
        for levels, n in groups:
            zeros = number % (n + 1)
            number //= n + 1
            ones = [level | 0x80 >> bit // 4 if channel == bit % 4 else level for channel, level in enumerate(levels)]
            parts += [(levels, zeros), (ones, n - zeros)]
        groups = [(levels, n) for levels, n in parts if n]
    if number:
        raise RefusedError(MALFORMED, "K-04", "the palette's number is too large")
    return [levels for levels, n in groups for _ in range(n)]


def read_indices(header: Header, palette: bytes, data: bytes) -> list[list[int]]:
    """Return the symbols of quantizer 1 (SPEC 8.8).   palette, data: sections P and L."""
    channels, height, width = geometry(header)
    if channels != 4 or header.payload != ZSTD:
        message = f"quantizer 1 does not support {channels} channels with payload method {header.payload}"
        raise RefusedError(UNSUPPORTED, "H-07", message)
    if header.rate != 0:
        raise RefusedError(MALFORMED, "K-07", f"the rate is {header.rate} with quantizer 1")
    entries = read_palette(palette)
    indices = unpack_zstd(data, height * width)
    if len(indices) < height * width:
        raise RefusedError(MALFORMED, "K-05", f"there are {len(indices)} indices for {height * width} positions")
    if max(indices) >= len(entries):
        raise RefusedError(MALFORMED, "K-06", f"index {max(indices)} refers to a palette of {len(entries)} entries")
    return [[entries[index][channel] for index in indices] for channel in range(4)]


def read_symbols(container: Container) -> list[list[int]]:
    """Read a file to level B: return for each channel the h w symbols in rows."""
    header, sections = container.header, dict(container.sections)
    if header.quantizer not in (SCALAR, PALETTE):
        raise RefusedError(UNSUPPORTED, "H-07", f"quantizer {header.quantizer} is unknown")
    if header.payload not in (ZSTD, RANGE):
        raise RefusedError(UNSUPPORTED, "H-07", f"payload method {header.payload} is unknown")
    _, height, width = geometry(header)
    data, palette = sections[ord("L")], sections.get(ord("P"))
    if (palette is not None) != (header.quantizer == PALETTE):
        there = "a" if palette is not None else "no"
        raise RefusedError(MALFORMED, "K-01", f"quantizer {header.quantizer} occurs with {there} palette section")
    if palette is not None:
        return read_indices(header, palette, data)
    return read_payload(header, data, height, width)


def read_payload(header: Header, data: bytes, height: int, width: int) -> list[list[int]]:
    """Return the symbols of quantizer 0 for height x width positions (SPEC 8.3 and 8.6)."""
    if header.payload == ZSTD:
        return read_planes(data, SPACES[header.space]["channels"], height * width)
    return read_range(data, empty_latent(header.space, header.rate, height, width))


def read_frames(container: Container, planes: list[list[int]]) -> list[list[list[int]]]:
    """Return the symbols of each further frame (SPEC 9.5).   planes: those of frame 0."""
    header, frames = container.header, container.frames
    if frames is None:
        return []
    if header.quantizer != SCALAR:
        raise RefusedError(UNSUPPORTED, "T-04", f"further frames with quantizer {header.quantizer}")
    _, height, width = geometry(header)
    done = []
    for rectangles in frames.latent:
        planes = [list(plane) for plane in planes]
        taken: set[int] = set()
        for found in rectangles:
            check_rectangle(found, width, height)
            rows = range(found.top, found.top + found.height)
            places = [y * width + x for y in rows for x in range(found.left, found.left + found.width)]
            if taken.intersection(places):
                raise RefusedError(MALFORMED, "T-02", f"rectangle {found[:4]} overlaps another one")
            taken.update(places)
            for plane, new in zip(planes, read_payload(header, found.data, found.height, found.width), strict=True):
                for at, symbol in zip(places, new, strict=True):
                    plane[at] = symbol + found.d * plane[at]
                    if found.d and abs(plane[at]) > 32767:
                        raise RefusedError(MALFORMED, "T-03", f"a symbol is {plane[at]}")
        done.append(planes)
    return done


def symbols_hash(symbols: list[list[int]]) -> str:
    """Return the SHA-256 of symbols as int16, little-endian, in the order C, h, w (see vectors/README.md)."""
    return hashlib.sha256(b"".join(struct.pack(f"<{len(plane)}h", *plane) for plane in symbols)).hexdigest()


def describe_patches(patches: Patches) -> dict[str, Any]:
    """Return guard patches as JSON types."""
    rects = [list(rect) for rect in patches.rects]
    return {
        "method": patches.method,
        "atlas": [patches.columns, patches.rows],
        "rects": rects,
        "data_sha256": hashlib.sha256(patches.data).hexdigest(),
    }


def describe_frames(frames: Frames) -> dict[str, Any]:
    """Return further frames as JSON types."""
    return {
        "plays": frames.plays,
        "durations": frames.durations,
        "rects": [[list(found[:5]) for found in rectangles] for rectangles in frames.latent],
        "alpha_sha256": [None if alpha is None else hashlib.sha256(alpha).hexdigest() for alpha in frames.alpha],
    }


def report(container: Container) -> dict[str, Any]:
    """Return what a reader of level A finds, as JSON types."""
    header, sections, metadata, alpha, fidelity, patches, frames = container
    return {
        **header._asdict(),
        "mode": MODES[header.mode],
        "model": header.model.hex(),
        "sections": [[chr(name), len(data)] for name, data in sections],
        "metadata": {name: hashlib.sha256(data).hexdigest() for name, data in metadata.items()},
        "alpha_sha256": None if alpha is None else hashlib.sha256(alpha).hexdigest(),
        "fidelity": None if fidelity is None else list(fidelity),
        "patches": None if patches is None else describe_patches(patches),
        "frames": None if frames is None else describe_frames(frames),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what a file holds and return the exit status.   arguments: those of the command line by default."""
    parser = argparse.ArgumentParser(description="Print what an SDL file holds as JSON.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--verify", action="store_true", help="refuse bytes after the last section")
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    try:
        container = read_container(options.file.read_bytes(), strict=options.verify)
        found |= report(container)
        found["latent"] = geometry(container.header)
        symbols = read_symbols(container)
        found["symbols_sha256"] = symbols_hash(symbols)
        found["frames_sha256"] = [symbols_hash(planes) for planes in read_frames(container, symbols)]
    except RefusedError as error:
        found |= {"refused": error.kind, "rule": error.rule, "message": str(error)}
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 1 if "refused" in found else 0


if __name__ == "__main__":
    sys.exit(main())
