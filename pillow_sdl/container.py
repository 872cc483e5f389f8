"""Bytes of a file <-> header and sections.  Standard library only; knows nothing of pixels or networks.

    signature  header  section ... section        (spec/SPEC.md, sections 4 to 6)

Rule ids in comments and in `MalformedError.rule` are those of the specification.  Named tuples in place of data
classes: the first `Image.open` of a program waits for this module's import, and `dataclasses` would double it.
"""

from __future__ import annotations

import zlib
from enum import IntEnum
from typing import IO, Final, NamedTuple

from .errors import ChecksumError, LimitError, MalformedError, TruncatedError, UnsupportedError

SIGNATURE: Final = b"\x89SDL"
FORMAT_VERSION: Final = 0

MAX_SIDE: Final = 65535
MAX_SECTIONS: Final = 64
MAX_SECTION_LENGTH: Final = 2**31 - 1
MODEL_HASH_LENGTH: Final = 16
MAX_RATE: Final = 255
MAX_VARINT: Final = 2**35 - 1
CRITICAL_FLAGS: Final = 0x0F
"""Header flag bits that a reader must know; the others are advice that it may ignore."""

READ_SIZE: Final = 2**20
"""Bytes asked of a stream at a time."""


class Mode(IntEnum):
    """Pillow modes that a file can hold (SPEC 5.3)."""

    L = 0
    LA = 1
    RGB = 2
    RGBA = 3

    @property
    def has_alpha(self) -> bool:
        """Whether a file of this mode carries an alpha section."""
        return self in (Mode.LA, Mode.RGBA)


class Name:
    """One-byte names of the sections of version 0 (SPEC 6.2).  Capitals are critical, small letters ignorable."""

    ICC: Final = b"i"
    EXIF: Final = b"e"
    XMP: Final = b"x"
    ALPHA: Final = b"A"
    PALETTE: Final = b"P"
    LATENT: Final = b"L"


METADATA: Final = (Name.ICC, Name.EXIF, Name.XMP)
KNOWN: Final = frozenset({*METADATA, Name.ALPHA, Name.PALETTE, Name.LATENT})

_HAS_PALETTE: Final = {0: False, 1: True}
"""Whether a file of a quantiser has a palette section, for those of version 0 (K-01)."""


class Header(NamedTuple):
    """What stands before the sections (SPEC 5).

    width, height: pixels, 1..65535.   space: latent space.   quantizer, rate: how the latent was quantised.
    payload: how the symbols were coded.   model: first 16 bytes of the decoder's hash.
    sections: how many follow.   flags: bits 0-3 critical, 4-7 advisory; version 0 defines none.
    """

    width: int
    height: int
    mode: Mode
    space: int
    quantizer: int
    rate: int
    payload: int
    model: bytes
    sections: int = 1
    flags: int = 0

    def to_bytes(self) -> bytes:
        """The signature and the header with its CRC."""
        body = b"".join(
            [
                SIGNATURE,
                bytes([FORMAT_VERSION, self.flags, self.mode]),
                *map(write_varint, (self.width, self.height, self.space, self.quantizer, self.rate, self.payload)),
                self.model,
                write_varint(self.sections),
            ]
        )
        return body + zlib.crc32(body).to_bytes(4, "little")


class Section(NamedTuple):
    """A named run of bytes.   name: one byte.   data: as it stands in the file."""

    name: bytes
    data: bytes

    def to_bytes(self) -> bytes:
        """Name, length, data, CRC.  LimitError if the data is longer than a section may be."""
        if len(self.data) > MAX_SECTION_LENGTH:
            msg = f"section {self.label} has {len(self.data)} bytes; at most {MAX_SECTION_LENGTH} are allowed"
            raise LimitError(msg)
        start = self.name + write_varint(len(self.data))
        return b"".join([start, self.data, zlib.crc32(self.data, zlib.crc32(start)).to_bytes(4, "little")])

    @property
    def label(self) -> str:
        """The name as error messages show it."""
        return label(self.name)


class Container(NamedTuple):
    """A whole file: the header and its sections in file order, those unknown to this reader included."""

    header: Header
    sections: tuple[Section, ...]

    def get(self, name: bytes) -> bytes | None:
        """Data of the section of that name, or None."""
        return next((section.data for section in self.sections if section.name == name), None)

    def to_bytes(self) -> bytes:
        """The file."""
        header = self.header._replace(sections=len(self.sections))
        return b"".join([header.to_bytes(), *(section.to_bytes() for section in self.sections)])


def label(name: bytes) -> str:
    """A section's name for people: the letter, or its code where it is none."""
    return name.decode("ascii") if name.isalpha() else f"0x{name[0]:02x}"


def is_critical(name: bytes) -> bool:
    """Whether a reader that does not know the section must refuse the file: bit 5 of the name is 0 (SPEC 6.1)."""
    return not name[0] & 0x20


def write_varint(value: int) -> bytes:
    """Unsigned LEB128 (SPEC 3.2): seven bits a byte, lowest first, top bit set on all but the last."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_up_to(stream: IO[bytes], count: int) -> bytes:
    """The next `count` bytes of a stream, or what there is.

    In pieces: a stream may set aside all that it is asked for, and `count` is only what the file claims.
    """
    data = bytearray()
    while len(data) < count and (piece := stream.read(min(count - len(data), READ_SIZE))):
        data += piece
    return bytes(data)


class _Cursor:
    """A place in a stream, with the CRC of the bytes read since `start`."""

    def __init__(self, stream: IO[bytes], offset: int, section: str) -> None:
        self.stream = stream
        self.offset = offset
        self.section = section
        self.start = offset
        self.crc = 0

    def read(self, count: int, what: str) -> bytes:
        data = _read_up_to(self.stream, count)
        self.offset += len(data)
        if len(data) < count:
            msg = f"file ends at byte {self.offset}, within {what}"
            raise TruncatedError(msg, offset=self.offset, section=self.section, rule="F-02")
        self.crc = zlib.crc32(data, self.crc)
        return data

    def varint(self, what: str, limit: int) -> int:
        """A varint of at most `limit`: shortest form only, at most 5 bytes (rules V-01, V-02)."""
        start, value = self.offset, 0
        for shift in range(0, 35, 7):
            byte = self.read(1, what)[0]
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                break
        else:
            msg = f"{what} takes more than 5 bytes"
            raise MalformedError(msg, offset=start, section=self.section, rule="V-01")
        if byte == 0 and self.offset - start > 1:
            msg = f"{what} is not written in its shortest form"
            raise MalformedError(msg, offset=start, section=self.section, rule="V-02")
        if value > limit:
            msg = f"{what} is {value}, above the limit of {limit}"
            raise LimitError(msg)
        return value

    def check_crc(self, rule: str) -> None:
        expected = self.crc.to_bytes(4, "little")
        if self.read(4, "a checksum") != expected:
            msg = (
                f"checksum of {self.section} differs: the file is damaged between bytes {self.start} and {self.offset}"
            )
            raise ChecksumError(msg, offset=self.start, section=self.section, rule=rule)


def read_header(stream: IO[bytes]) -> tuple[Header, int]:
    """The header at the stream's position, and its length.  Reads no further than the header.

    Raises SyntaxError if the signature is missing, UnsupportedError for another version or an unknown critical
    flag, else MalformedError, LimitError.
    """
    if _read_up_to(stream, len(SIGNATURE)) != SIGNATURE:
        msg = "not an SDL file"
        raise SyntaxError(msg)
    cursor = _Cursor(stream, len(SIGNATURE), "header")
    cursor.start = 0
    cursor.crc = zlib.crc32(SIGNATURE)
    version = cursor.read(1, "the format version")[0]
    if version != FORMAT_VERSION:
        msg = f"format version {version} found; this reader knows version {FORMAT_VERSION} only"
        raise UnsupportedError(msg)
    flags, mode = cursor.read(2, "the flags and the mode")
    # Values are judged after the CRC: a damaged header is damage, not a newer file (H-02).
    values = [
        cursor.varint(f"the {what}", MAX_VARINT)
        for what in ("width", "height", "latent space", "quantizer", "rate", "payload method")
    ]
    model = cursor.read(MODEL_HASH_LENGTH, "the model hash")
    sections = cursor.varint("the number of sections", MAX_VARINT)
    cursor.check_crc("H-02")
    if flags & CRITICAL_FLAGS:
        msg = f"critical header flags 0x{flags & CRITICAL_FLAGS:02x} found; this reader knows none"
        raise UnsupportedError(msg)
    if mode not in tuple(Mode):
        msg = f"mode {mode} found; this reader knows {', '.join(f'{known} ({known.name})' for known in Mode)}"
        raise UnsupportedError(msg)
    width, height, space, quantizer, rate, payload = values
    if not (width and height and sections):
        msg = f"width {width}, height {height} and number of sections {sections} must be at least 1"
        raise MalformedError(msg, offset=0, section="header", rule="H-05")
    if max(width, height) > MAX_SIDE:
        msg = f"image of {width} x {height}: no side may be longer than {MAX_SIDE}"
        raise LimitError(msg)
    if rate > MAX_RATE:
        msg = f"rate {rate}: at most {MAX_RATE} is allowed"
        raise LimitError(msg)
    if sections > MAX_SECTIONS:
        msg = f"{sections} sections: at most {MAX_SECTIONS} are allowed"
        raise LimitError(msg)
    header = Header(
        width=width,
        height=height,
        mode=Mode(mode),
        space=space,
        quantizer=quantizer,
        rate=rate,
        payload=payload,
        model=model,
        sections=sections,
        flags=flags,
    )
    return header, cursor.offset


def read_section(stream: IO[bytes], offset: int) -> tuple[Section, int]:
    """The section at `offset`, which is the stream's position, and the offset after it.  Checks its CRC."""
    cursor = _Cursor(stream, offset, "a section")
    name = cursor.read(1, "a section's name")
    cursor.section = f"section {label(name)}"
    length = cursor.varint(f"the length of section {label(name)}", MAX_SECTION_LENGTH)
    data = cursor.read(length, f"section {label(name)}")
    cursor.check_crc("S-03")
    if is_critical(name) and name not in KNOWN:
        msg = f"critical section {label(name)} found, which this reader does not know"
        raise UnsupportedError(msg)
    return Section(name, data), cursor.offset


def peek_name(stream: IO[bytes]) -> bytes:
    """Name of the next section, with the stream left before it; empty at the end of the file."""
    position = stream.tell()
    name = stream.read(1)
    stream.seek(position)
    return name


def read(stream: IO[bytes]) -> Container:
    """The whole file from the stream's position to its end, every CRC checked.

    Raises what `read_header` raises, and MalformedError for a section that is missing, doubled or out of order
    and for bytes after the last section.
    """
    header, offset = read_header(stream)
    sections = []
    for _ in range(header.sections):
        section, offset = read_section(stream, offset)
        sections.append(section)
    if stream.read(1):
        msg = f"bytes follow the last section, which ends at byte {offset}"
        raise MalformedError(msg, offset=offset, rule="F-03")
    _check_order(header, sections)
    return Container(header, tuple(sections))


def _check_order(header: Header, sections: list[Section]) -> None:
    """Rules S-04 (no name twice), S-05 (metadata first, latent last), A-01 and K-01 (alpha, palette as the header says)."""
    names = [section.name for section in sections]
    for name in names:
        if names.count(name) > 1:
            msg = f"section {label(name)} occurs {names.count(name)} times"
            raise MalformedError(msg, section=label(name), rule="S-04")
    if names[-1] != Name.LATENT:
        msg = "the last section is not the latent (L)"
        raise MalformedError(msg, section="L", rule="S-05")
    if (Name.ALPHA in names) != header.mode.has_alpha:
        msg = f"mode {header.mode.name} {'needs' if header.mode.has_alpha else 'has no'} alpha section (A)"
        raise MalformedError(msg, section="A", rule="A-01")
    has_palette = Name.PALETTE in names
    if _HAS_PALETTE.get(header.quantizer, has_palette) != has_palette:
        msg = f"quantizer {header.quantizer} {'has no' if has_palette else 'needs a'} palette section (P)"
        raise MalformedError(msg, section="P", rule="K-01")
    critical = [is_critical(name) for name in names]
    if critical != sorted(critical):
        msg = "an ignorable section stands after a critical one"
        raise MalformedError(msg, rule="S-05")
