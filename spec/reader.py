"""A second reader of the SDL format, written from SPEC.md alone: conformance level B (SPEC 12).

It shares no code with the library, so that what both find in a file is what the text says.  Plain in place of fast:
the whole file in memory, one step after another, in the order of SPEC 10.  Standard library and zstandard; of the
library it takes the tables' files, which the format names (registry.md).

    python spec/reader.py FILE        prints what it finds as JSON; exit status 1 if it refuses the file
"""

from __future__ import annotations

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
UNSUPPORTED, LIMIT = "unsupported", "limit"

MODES = ("L", "LA", "RGB", "RGBA")
CHANNELS_AND_FACTORS = {
    1: (4, 8),
    2: (4, 8),
    3: (16, 8),
    4: (16, 8),
    16: (96, 16),
    17: (96, 16),
    18: (96, 16),
    19: (96, 16),
    20: (96, 16),
}
NAMES_OF_TABLES = {
    1: "sd1",
    2: "sdxl",
    3: "sd3",
    4: "flux1",
    16: "sdl1",
    17: "sdl2",
    18: "sdl3",
    19: "sdl4",
    20: "sdl5",
}
"""Latent spaces with a context model, by the names of their tables' files."""

WEIGHTS = Path(__file__).parent.parent / "pillow_sdl" / "weights"
METADATA = b"iex"
KNOWN = b"iexAPL"


class RefusedError(Exception):
    """The file is refused.

    kind: class of the error (SPEC 2); never "model", since none is needed here.   rule: id of the broken rule.
    """

    def __init__(self, kind: str, rule: str, message: str) -> None:
        super().__init__(f"{kind} [{rule}]: {message}")
        self.kind = kind
        self.rule = rule


class Header(NamedTuple):
    """SPEC 5, in the order of the file."""

    flags: int
    mode: int
    width: int
    height: int
    space: int
    quantiser: int
    rate: int
    payload: int
    model: bytes
    sections: int


class Container(NamedTuple):
    """What level A reads.   sections: name and data, in the order of the file.   alpha: the plane in rows, or None."""

    header: Header
    sections: list[tuple[int, bytes]]
    metadata: dict[str, bytes]
    alpha: bytes | None


class Place:
    """A file and how far it is read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > len(self.data) - self.at:
            raise RefusedError(TRUNCATED, "F-02", f"{count} bytes are declared at byte {self.at}, the file ends")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        """The varint that comes next (SPEC 3.2)."""
        value = 0
        for index in range(5):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                if index and byte == 0:
                    raise RefusedError(MALFORMED, "V-02", f"varint before byte {self.at} is not the shortest")
                return value
        raise RefusedError(MALFORMED, "V-01", f"varint of more than 5 bytes before byte {self.at}")

    def check_crc(self, start: int, rule: str) -> None:
        """Compare the CRC that comes next with that of the bytes since `start` (SPEC 3.4)."""
        expected = zlib.crc32(self.data[start : self.at])
        if int.from_bytes(self.take(4), "little") != expected:
            raise RefusedError(CHECKSUM, rule, f"CRC of bytes {start} to {self.at - 4} differs")


def read_header(place: Place) -> Header:
    """SPEC 4 and 5: the signature and the header."""
    if not place.data.startswith(b"\x89SDL"):
        raise RefusedError(NOT_SDL, "F-01", "no signature")
    place.take(4)
    version = place.take(1)[0]
    if version != 0:
        raise RefusedError(UNSUPPORTED, "H-01", f"format version {version}")
    flags, mode = place.take(2)
    width, height, space, quantiser, rate, payload = (place.varint() for _ in range(6))
    model = place.take(16)
    sections = place.varint()
    place.check_crc(0, "H-02")
    if flags & 0x0F:
        raise RefusedError(UNSUPPORTED, "H-03", f"critical flags {flags & 0x0F:#x}")
    if mode >= len(MODES):
        raise RefusedError(UNSUPPORTED, "H-04", f"mode {mode}")
    if 0 in (width, height, sections):
        raise RefusedError(MALFORMED, "H-05", f"width {width}, height {height}, {sections} sections")
    if max(width, height) > 65535:
        raise RefusedError(LIMIT, "L-01", f"{width} x {height} pixels")
    if sections > 64:
        raise RefusedError(LIMIT, "L-02", f"{sections} sections")
    if rate > 255:
        raise RefusedError(LIMIT, "L-05", f"rate {rate}")
    return Header(flags, mode, width, height, space, quantiser, rate, payload, model, sections)


def read_section(place: Place) -> tuple[int, bytes]:
    """SPEC 6.1: name and data of the section that comes next."""
    start = place.at
    name = place.take(1)[0]
    length = place.varint()
    if length > 2**31 - 1:
        raise RefusedError(LIMIT, "L-03", f"section of {length} bytes")
    data = place.take(length)
    place.check_crc(start, "S-03")
    if name not in KNOWN and not name & 0x20:
        raise RefusedError(UNSUPPORTED, "S-02", f"critical section {name:#x}")
    return name, data


def check_order(header: Header, names: list[int]) -> None:
    """SPEC 6.3."""
    if len(set(names)) < len(names):
        raise RefusedError(MALFORMED, "S-04", f"a name occurs twice in {bytes(names)!r}")
    critical = [not name & 0x20 for name in names]
    if names[-1] != ord("L") or critical != sorted(critical):
        raise RefusedError(MALFORMED, "S-05", f"order {bytes(names)!r}")
    if (ord("A") in names) != (MODES[header.mode] in ("LA", "RGBA")):
        raise RefusedError(MALFORMED, "A-01", f"mode {MODES[header.mode]} with sections {bytes(names)!r}")
    if header.quantiser in (0, 1) and (ord("P") in names) != (header.quantiser == 1):
        raise RefusedError(MALFORMED, "K-01", f"quantiser {header.quantiser} with sections {bytes(names)!r}")


def unpack_zstd(frame: bytes, limit: int, limit_rule: str = "L-04") -> bytes:
    """SPEC 3.3: content of the one frame that `frame` must be, of at most `limit` bytes."""
    try:
        # zstandard takes a skippable frame for an empty one, so the magic number is looked at here.
        size = zstandard.frame_content_size(frame) if frame.startswith(b"\x28\xb5\x2f\xfd") else None
    except zstandard.ZstdError:
        size = None
    if size is None:
        raise RefusedError(MALFORMED, "Z-01", "no zstd frame header")
    if size < 0:
        raise RefusedError(MALFORMED, "Z-02", "zstd frame without content size")
    if size > limit:
        raise RefusedError(LIMIT, limit_rule, f"zstd content of {size} bytes, {limit} are allowed")
    # In small pieces, because zstandard does not check the stated size before the frame's end.
    stream = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj()
    content = bytearray()
    at = 0
    try:
        while not stream.eof and at < len(frame) and len(content) <= size:
            content += stream.decompress(frame[at : at + 256])
            at += 256
    except zstandard.ZstdError as error:
        raise RefusedError(MALFORMED, "Z-03", f"zstd frame does not decode: {error}") from None
    if not stream.eof or stream.unused_data or at < len(frame) or len(content) != size:
        raise RefusedError(MALFORMED, "Z-03", f"zstd frame is not {size} bytes, or bytes follow it")
    return bytes(content)


def unpack_metadata(data: bytes) -> bytes:
    """SPEC 9.1."""
    if not data:
        raise RefusedError(MALFORMED, "M-01", "empty metadata section")
    if data[0] == 1:
        return unpack_zstd(data[1:], 2**24, "L-06")
    if data[0] != 0:
        raise RefusedError(UNSUPPORTED, "M-02", f"metadata stored by method {data[0]}")
    if len(data) - 1 > 2**24:
        raise RefusedError(LIMIT, "L-06", f"metadata of {len(data) - 1} bytes")
    return data[1:]


def unpack_alpha(data: bytes, width: int, height: int) -> bytes:
    """SPEC 9.2: the alpha plane in rows."""
    if not data:
        raise RefusedError(MALFORMED, "A-02", "empty alpha section")
    if data[0] > 2:
        raise RefusedError(UNSUPPORTED, "A-03", f"alpha filter {data[0]}")
    plane = bytearray(unpack_zstd(data[1:], width * height))
    if len(plane) != width * height:
        raise RefusedError(MALFORMED, "A-02", f"{len(plane)} alpha values for {width} x {height} pixels")
    for index in range(len(plane)):
        if data[0] == 1 and index % width:
            plane[index] = (plane[index] + plane[index - 1]) % 256
        elif data[0] == 2 and index >= width:
            plane[index] = (plane[index] + plane[index - width]) % 256
    return bytes(plane)


def read_container(data: bytes) -> Container:
    """Level A: header, sections, metadata, alpha of a file."""
    place = Place(data)
    header = read_header(place)
    sections = [read_section(place) for _ in range(header.sections)]
    if place.at < len(data):
        raise RefusedError(MALFORMED, "F-03", f"bytes follow the last section, which ends at byte {place.at}")
    check_order(header, [name for name, _ in sections])
    metadata = {chr(name): unpack_metadata(block) for name, block in sections if name in METADATA}
    alpha = dict(sections).get(ord("A"))
    plane = None if alpha is None else unpack_alpha(alpha, header.width, header.height)
    return Container(header, sections, metadata, plane)


def geometry(header: Header) -> tuple[int, int, int]:
    """SPEC 7.1 and 8.1: C, h, w of the latent."""
    if header.space not in CHANNELS_AND_FACTORS:
        raise RefusedError(UNSUPPORTED, "H-07", f"latent space {header.space}")
    channels, factor = CHANNELS_AND_FACTORS[header.space]
    return channels, -(-header.height // factor), -(-header.width // factor)


def unpack_plane(data: bytes, bits: int, count: int) -> list[int]:
    """SPEC 8.3: the symbols of one plane."""
    if bits == 0:
        return [0] * count
    if bits == 16:
        values = [low | high << 8 for low, high in zip(data[:count], data[count:], strict=True)]
    else:
        values = [byte >> shift & (1 << bits) - 1 for byte in data for shift in range(0, 8, bits)]
    if any(values[count:]):
        raise RefusedError(MALFORMED, "P-04", "bits left over at the end of a plane are not 0")
    return [value - (value >> bits - 1 << bits) for value in values[:count]]


def read_planes(data: bytes, channels: int, count: int) -> list[list[int]]:
    """SPEC 8.3: the symbols of payload method 0."""
    content = unpack_zstd(data, channels * (1 + 2 * count))
    bits = content[:channels]
    if len(bits) < channels:
        raise RefusedError(MALFORMED, "P-01", f"{len(bits)} of {channels} bits per symbol")
    if not set(bits) <= {0, 2, 4, 8, 16}:
        raise RefusedError(MALFORMED, "P-02", f"bits per symbol are {sorted(set(bits))}")
    sizes = [-(-b * count // 8) for b in bits]
    if len(content) != channels + sum(sizes):
        raise RefusedError(MALFORMED, "P-03", f"{len(content)} bytes of payload, {channels + sum(sizes)} are due")
    planes: list[list[int]] = [[] for _ in bits]
    at = channels
    for channel in sorted(range(channels), key=lambda channel: bits[channel]):  # stable: by width, then by channel
        planes[channel] = unpack_plane(content[at : at + sizes[channel]], bits[channel], count)
        at += sizes[channel]
    return planes


def log2_steps(table: Sequence[Sequence[int]], rate: int) -> list[int]:
    """SPEC 8.2: s_c of every channel, from the K rows of a latent space's table."""
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
        """The values of each index of the first axis."""
        size = math.prod(self.shape[1:])
        return [self.values[row * size : (row + 1) * size] for row in range(self.shape[0])]


@cache
def tensors(name: str) -> dict[str, Tensor]:
    """Integer tensors of a safetensors file: the length of a JSON text in 8 bytes, the text, the values."""
    data = (WEIGHTS / f"{name}.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for key, entry in json.loads(data[8:start]).items():
        if key != "__metadata__" and entry["dtype"] in DTYPES:
            form = f"<{math.prod(entry['shape'])}{DTYPES[entry['dtype']]}"
            found[key] = Tensor(entry["shape"], struct.unpack_from(form, data, start + entry["data_offsets"][0]))
    return found


@cache
def distributions() -> list[tuple[int, ...]]:
    """SPEC 8.6.5: frequencies of the values of each row."""
    tables = tensors("distributions")
    frequencies = iter(tables["frequencies"].values)
    return [tuple(next(frequencies) for _ in range(size)) for size in tables["sizes"].values]


# Payload method 1: model


def clamp(value: int, low: int, high: int) -> int:
    """`value`, limited to low..high."""
    return max(low, min(value, high))


@cache
def power(j: int) -> int:
    """SPEC 8.6: E_j.   2 E_j is 2^(15 + j / 256), of which eight square roots in a row give the whole part."""
    value = 1 << 15 * 256 + j
    for _ in range(8):
        value = math.isqrt(value)
    return (value + 1) // 2


def scale(a: int, e: int) -> int:
    """SPEC 8.6: a 2^(e / 256)."""
    product = a * power(e % 256)
    s = 14 - e // 256
    return (product + (1 << s >> 1)) >> s if s > 0 else product << -s


KINDS = ((1, 1), (0, 1), (1, 0))
"""SPEC 8.6.2: the passes D, H, V of each s, by the parities of their rows and columns on the grid of s."""


class Pass(NamedTuple):
    """SPEC 8.6.2 and 8.6.3: one of the passes 1 to 9.   own: the number of its `own` weights."""

    s: int
    parities: tuple[int, int]
    known: set[tuple[int, int]]
    own: int


def pass_number(k: int) -> Pass:
    """Pass k > 0."""
    step, kind = divmod(k - 1, 3)
    s = 4 >> step
    return Pass(s, KINDS[kind], {(0, 0), *KINDS[:kind]}, kind + (1 if s > 1 else 4))


def positions(k: int, height: int, width: int) -> list[tuple[int, int]]:
    """SPEC 8.6.2: rows and columns of the positions of pass k, in their order."""
    s, (odd_row, odd_column) = pass_number(k)[:2] if k else (4, (0, 0))
    return [(y, x) for y in range(s * odd_row, height, 2 * s) for x in range(s * odd_column, width, 2 * s)]


class Prediction(NamedTuple):
    """What the model says of a symbol, by the names of SPEC 8.6.3."""

    mu: int
    i: int
    q: int
    z: int
    row: int


class Latent:
    """SPEC 8.6.3: the symbols of a picture as far as they are known, and what the model says of the others.

    tables: of the context model.   steps: s_c of every channel.
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
        """Note a symbol."""
        self.planes[channel][y * self.width + x] = symbol
        self.inputs[channel][y * self.width + x] = clamp(scale(symbol, self.e[channel]), -255, 255)

    def inputs_at(self, channels: list[int], places: list[tuple[int, int]]) -> list[int]:
        """For each channel the inputs at all places, 0 outside the picture."""
        inside = [0 <= y < self.height and 0 <= x < self.width for y, x in places]
        indices = [y * self.width + x if ok else -1 for ok, (y, x) in zip(inside, places, strict=True)]
        return [self.inputs[channel][at] if at >= 0 else 0 for channel in channels for at in indices]

    def layer_1_inputs(self, group: int, k: int, y: int, x: int) -> list[int]:
        """The inputs of layer 1, in their order."""
        w = self.tables[f"{group}.earlier"].shape[2] // 2
        window = range(-w, w + 1)
        earlier = [channel for channels in self.groups[:group] for channel in channels]
        found = self.inputs_at(earlier, [(y + dy, x + dx) for dy in window for dx in window])
        if k > 0:
            found += self.inputs_at(self.groups[group], [(y + dy, x + dx) for dy, dx in self.places(k)])
        return [*found, self.rate_input]

    def places(self, k: int) -> list[tuple[int, int]]:
        """The places known in pass k > 0, as distances in positions."""
        s, (odd_row, odd_column), known, _ = pass_number(k)
        reach = self.tables["reach"].values[0]
        return [
            (s * dy, s * dx)
            for dy in range(-reach, reach + 1)
            for dx in range(-reach, reach + 1)
            if abs(dy) + abs(dx) <= reach + 1 and ((odd_row + dy) % 2, (odd_column + dx) % 2) in known
        ]

    def layer_1_weights(self, group: int, k: int) -> list[tuple[int, ...]]:
        """The rows of layer 1's weights, in the order of its inputs."""
        names = ["earlier", f"own{pass_number(k).own}", "rate"] if k else ["earlier", "rate"]
        parts = [self.tables[f"{group}.{name}"].rows() for name in names]
        return [sum(row, ()) for row in zip(*parts, strict=True)]

    def layer(self, number: int, group: int, k: int, weights: list[tuple[int, ...]], inputs: list[int]) -> list[int]:
        """The outputs of a layer's rows."""
        biases = self.tables[f"{group}.bias{number}"].rows()[k]
        shifts = self.tables[f"{group}.shift{number}"].values
        rows = zip(weights, biases, shifts, strict=True)
        return [(sum(map(mul, row, inputs)) + bias) >> shift for row, bias, shift in rows]

    def predict(self, group: int, k: int, y: int, x: int) -> list[Prediction]:
        """What the model says of the symbols of a group's channels at a position of pass k."""
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
    """SPEC 8.6.4: states and words, and how many operations were done."""

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
        """The state that the next operation works on."""
        return self.states[self.operations % len(self.states)]

    def advance(self, frequency: int, below: int) -> None:
        """End an operation.   below: d - c_v."""
        state = frequency * (self.state() // 2**16) + below
        if state < 2**16:
            if self.used == len(self.words):
                raise RefusedError(MALFORMED, "R-04", f"no word is left for operation {self.operations}")
            state = 2**16 * state + self.words[self.used]
            self.used += 1
        self.states[self.operations % len(self.states)] = state
        self.operations += 1


def read_pass(latent: Latent, coder: Coder, group: int, k: int) -> None:
    """SPEC 8.6.5: decode the symbols of one pass."""
    places = [
        (channel, y, x, prediction)
        for y, x in positions(k, latent.height, latent.width)
        for channel, prediction in zip(latent.groups[group], latent.predict(group, k, y, x), strict=True)
    ]
    rows = [distributions()[prediction.row] for *_, prediction in places]
    # Values are counted from 0, offsets from -w - 1; len(row) is 2 w + 3.
    offsets = [coder.value(row) - len(row) // 2 for row in rows]
    beyond = [index for index, row in enumerate(rows) if abs(offsets[index]) == len(row) // 2]
    exponents = [coder.number(5) for _ in beyond]
    if any(a > 16 for a in exponents):
        raise RefusedError(MALFORMED, "R-06", f"an offset of 2^{max(exponents)} or more")
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
        raise RefusedError(MALFORMED, "R-06", f"symbol of magnitude {largest}")


def read_range(data: bytes, latent: Latent) -> list[list[int]]:
    """SPEC 8.6: the symbols of payload method 1."""
    if len(data) < 2:
        raise RefusedError(MALFORMED, "R-01", f"payload of {len(data)} bytes")
    g, b = data[:2]
    if g > len(latent.groups):
        raise RefusedError(MALFORMED, "R-01", f"{g} groups, the model has {len(latent.groups)}")
    if b > 12 or (g == 0 and b > 0):
        raise RefusedError(MALFORMED, "R-02", f"{g} groups, b = {b}")
    if g == 0:
        if len(data) > 2:
            raise RefusedError(MALFORMED, "R-05", "bytes follow a payload without groups")
        return latent.planes
    count = 2 ** (b + 3) if b else 1
    length = len(data) - 2 - 4 * count
    if length < 0 or length % 2:
        raise RefusedError(MALFORMED, "R-03", f"{len(data)} bytes are not {count} states and whole words")
    numbers = struct.unpack(f"<{count}I{length // 2}H", data[2:])
    coder = Coder(numbers[:count], numbers[count:])
    if min(coder.states) < 2**16:
        raise RefusedError(MALFORMED, "R-03", f"state {min(coder.states)}")
    for group in range(g):
        for k in range(10):
            read_pass(latent, coder, group, k)
    if set(coder.states) != {2**16} or coder.used < len(coder.words):
        raise RefusedError(MALFORMED, "R-05", f"last states {coder.states}, {coder.used} words used")
    return latent.planes


def empty_latent(space: int, rate: int, height: int, width: int) -> Latent:
    """A picture of which no symbol is known."""
    if space not in NAMES_OF_TABLES:
        raise RefusedError(UNSUPPORTED, "H-07", f"latent space {space} has no context model")
    name = NAMES_OF_TABLES[space]
    steps = log2_steps(tensors(f"{name}-tables")["log2_steps"].rows(), rate)
    return Latent(tensors(f"{name}-context"), steps, height, width)


# Quantiser 1


def read_palette(data: bytes) -> list[list[int]]:
    """SPEC 8.8.2: the levels of each entry."""
    if not data:
        raise RefusedError(MALFORMED, "K-03", "empty palette section")
    size = data[0] + 1
    digits = data[1:]
    if len(digits) > 4 * size or digits.endswith(b"\0"):
        raise RefusedError(MALFORMED, "K-03", f"a number of {len(digits)} bytes for {size} entries")
    number = int.from_bytes(digits, "little")
    # A group: the levels of its entries as far as their bits are told, and how many it has.
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


def read_indices(header: Header, sections: dict[int, bytes]) -> list[list[int]]:
    """SPEC 8.8: the symbols of quantiser 1."""
    channels, height, width = geometry(header)
    if channels != 4 or header.payload != 0:
        raise RefusedError(UNSUPPORTED, "H-07", f"palette of {channels} channels, payload method {header.payload}")
    if header.rate > 1:
        raise RefusedError(UNSUPPORTED, "K-02", f"rate {header.rate} with a palette")
    palette = read_palette(sections[ord("P")])
    indices = unpack_zstd(sections[ord("L")], height * width)
    if len(indices) < height * width:
        raise RefusedError(MALFORMED, "K-05", f"{len(indices)} indices for {height * width} positions")
    if max(indices) >= len(palette):
        raise RefusedError(MALFORMED, "K-06", f"index {max(indices)}, the palette has {len(palette)} entries")
    return [[palette[index][channel] for index in indices] for channel in range(4)]


def read_symbols(container: Container) -> list[list[int]]:
    """Level B: the symbols, for each channel a list of h w integers in rows."""
    header = container.header
    if header.quantiser == 1:
        return read_indices(header, dict(container.sections))
    if header.quantiser != 0 or header.payload > 1:
        raise RefusedError(UNSUPPORTED, "H-07", f"quantiser {header.quantiser}, payload method {header.payload}")
    channels, height, width = geometry(header)
    data = dict(container.sections)[ord("L")]
    if header.payload == 0:
        return read_planes(data, channels, height * width)
    return read_range(data, empty_latent(header.space, header.rate, height, width))


def symbols_hash(symbols: list[list[int]]) -> str:
    """SHA-256 of symbols as int16, little-endian, in the order C, h, w: as the vectors' side files have it."""
    return hashlib.sha256(b"".join(struct.pack(f"<{len(plane)}h", *plane) for plane in symbols)).hexdigest()


def report(container: Container) -> dict[str, Any]:
    """What level A finds, as JSON types."""
    header, sections, metadata, alpha = container
    return {
        **header._asdict(),
        "mode": MODES[header.mode],
        "model": header.model.hex(),
        "sections": [[chr(name), len(data)] for name, data in sections],
        "metadata": {name: hashlib.sha256(data).hexdigest() for name, data in metadata.items()},
        "alpha_sha256": None if alpha is None else hashlib.sha256(alpha).hexdigest(),
    }


def main(path: str) -> int:
    """Print what the file at `path` holds; returns the exit status."""
    found: dict[str, Any] = {}
    try:
        container = read_container(Path(path).read_bytes())
        found |= report(container)
        found["latent"] = geometry(container.header)
        found["symbols_sha256"] = symbols_hash(read_symbols(container))
    except RefusedError as error:
        found |= {"refused": error.kind, "rule": error.rule, "message": str(error)}
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 1 if "refused" in found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
