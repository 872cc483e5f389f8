"""A second reader of the SDL format, written from SPEC.md alone: conformance level B (SPEC 12).

It shares no code with the library, so that what both find in a file is what the text says.  Plain in place of fast:
the whole file in memory, one step after another, in the order of SPEC 10.  Standard library and zstandard.

    python spec/reader.py FILE        prints what it finds as JSON; exit status 1 if it refuses the file
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

NOT_SDL, MALFORMED, TRUNCATED, CHECKSUM = "not-sdl", "malformed", "truncated", "checksum"
UNSUPPORTED, LIMIT = "unsupported", "limit"

MODES = ("L", "LA", "RGB", "RGBA")
CHANNELS_AND_FACTORS = {16: (96, 16)}
METADATA = b"iex"
KNOWN = b"iexAL"


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


def read_symbols(container: Container) -> list[list[int]]:
    """Level B: the symbols, for each channel a list of h w integers in rows."""
    header = container.header
    if header.quantiser != 0 or header.payload != 0:
        raise RefusedError(UNSUPPORTED, "H-07", f"quantiser {header.quantiser}, payload method {header.payload}")
    channels, height, width = geometry(header)
    count = height * width
    content = unpack_zstd(dict(container.sections)[ord("L")], channels * (1 + 2 * count))
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


def log2_steps(table: list[list[int]], rate: int) -> list[int]:
    """SPEC 8.2: s_c of every channel, from the K rows of a latent space's table."""
    p = rate * (len(table) - 1)
    i = min(p // 255, len(table) - 2)
    v = p - 255 * i
    return [(2 * (low * (255 - v) + high * v) + 255) // 510 for low, high in zip(table[i], table[i + 1], strict=True)]


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
