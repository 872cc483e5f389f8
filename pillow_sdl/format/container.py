"""Read and write the container of a file: header and sections (SPEC 4 to 6).  Standard library only.

    signature  header  section ... section

Rule ids in comments and in `MalformedError.rule` are those of spec/SPEC.md.

The classes are named tuples, not dataclasses, because the first `Image.open` of a program imports this module, and
importing `dataclasses` would double the time that takes.
"""

from __future__ import annotations

import zlib
from enum import IntEnum
from typing import IO, TYPE_CHECKING, Final, NamedTuple

from ..errors import ChecksumError, LimitError, MalformedError, TruncatedError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNATURE: Final = b"\x89SDL"
FORMAT_VERSION: Final = 0

MAX_SIDE: Final = 65535
"""Largest width and height in pixels (SPEC 5.4)."""

MAX_SECTIONS: Final = 64
"""Largest number of sections (SPEC 5.4)."""

MAX_SECTION_LENGTH: Final = 2**31 - 1
"""Largest number of data bytes in a section (SPEC 6.1)."""

MODEL_HASH_LENGTH: Final = 16
"""Bytes of the model hash in a header (SPEC 7.2)."""

MAX_RATE: Final = 255
"""Largest rate (SPEC 5.4)."""

MAX_VARINT: Final = 2**35 - 1
"""Largest value of a varint (SPEC 3.2)."""

CRITICAL_FLAGS: Final = 0x0F
"""Header flag bits that a reader must know (SPEC 5.2).  A reader ignores other bits that it does not know."""

READ_SIZE: Final = 2**20
"""Largest number of bytes requested from a stream at once."""


class Mode(IntEnum):
    """Pillow modes that a file can have (SPEC 5.3)."""

    L = 0
    LA = 1
    RGB = 2
    RGBA = 3

    @property
    def has_alpha(self) -> bool:
        """Whether a file of this mode has an alpha section."""
        return self in (Mode.LA, Mode.RGBA)

    @property
    def opaque(self) -> Mode:
        """The mode without alpha."""
        return Mode.L if self in (Mode.L, Mode.LA) else Mode.RGB


class Name:
    """One-byte names of the sections in version 0 (SPEC 6.2).

    A capital letter names a critical section, a small letter an ignorable one.
    """

    ICC: Final = b"i"
    EXIF: Final = b"e"
    XMP: Final = b"x"
    FIDELITY: Final = b"f"
    GUARD: Final = b"g"
    FRAMES: Final = b"m"
    ALPHA: Final = b"A"
    PALETTE: Final = b"P"
    LATENT: Final = b"L"


METADATA: Final = {Name.ICC: "icc_profile", Name.EXIF: "exif", Name.XMP: "xmp"}
"""Sections of metadata, and their names in Pillow: the options of `save`, and the keys of `Image.info`."""

KNOWN: Final = frozenset({*METADATA, Name.FIDELITY, Name.GUARD, Name.FRAMES, Name.ALPHA, Name.PALETTE, Name.LATENT})


class Header(NamedTuple):
    """The header of a file (SPEC 5).

    width, height: size in pixels, 1..65535.
    mode: the Pillow mode.
    space: number of the latent space.
    quantizer: number of the quantizer.
    rate: rate code of the scalar quantizer, 0..255; 0 with the palette quantizer.
    payload: number of the payload method, which codes the symbols.
    model: first 16 bytes of the decoder's hash (SPEC 7.2).
    sections: number of sections.
    flags: bits 0-3 are critical, bits 4-7 advisory.  Version 0 defines none.
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
        """Return the signature, the header and its CRC."""
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
    """A section of a file (SPEC 6.1).   name: one byte.   data: the bytes in the file."""

    name: bytes
    data: bytes

    def to_bytes(self) -> bytes:
        """Return the section as it is written: name, length, data, CRC.

        Raises LimitError if the data are longer than `MAX_SECTION_LENGTH`.
        """
        if len(self.data) > MAX_SECTION_LENGTH:
            msg = f"section {self.label} has {len(self.data)} bytes; the limit is {MAX_SECTION_LENGTH}"
            raise LimitError(msg)
        start = self.name + write_varint(len(self.data))
        return b"".join([start, self.data, zlib.crc32(self.data, zlib.crc32(start)).to_bytes(4, "little")])

    @property
    def label(self) -> str:
        """The name as error messages show it: a letter, or the code in hexadecimal."""
        return label(self.name)


class Container(NamedTuple):
    """The contents of a file (SPEC 4): the header, and all sections in file order, including unknown ones."""

    header: Header
    sections: tuple[Section, ...]

    def get(self, name: bytes) -> bytes | None:
        """Return the data of the section with that name, or None if there is none."""
        return next((section.data for section in self.sections if section.name == name), None)

    def to_bytes(self) -> bytes:
        """Return the bytes of the file.  The header's number of sections is set to the actual one."""
        header = self.header._replace(sections=len(self.sections))
        return b"".join([header.to_bytes(), *(section.to_bytes() for section in self.sections)])


def label(name: bytes) -> str:
    """Return a section's name as error messages show it: the letter, or the code in hexadecimal if it is none."""
    return name.decode("ascii") if name.isalpha() else f"0x{name[0]:02x}"


def is_critical(name: bytes) -> bool:
    """Whether a reader that does not know a section of that name must refuse the file (SPEC 6.1).

    Bit 5 of the name of a critical section is 0.
    """
    return not name[0] & 0x20


def write_varint(value: int) -> bytes:
    """Encode an integer as unsigned LEB128 (SPEC 3.2).

    Each byte holds seven bits, the lowest first, and the top bit is set on all bytes but the last.
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_up_to(stream: IO[bytes], count: int) -> bytes:
    """Read the next `count` bytes of a stream, or fewer at its end.

    `count` comes from the file and may be false, and some streams allocate all the memory that they are asked to fill.
    The bytes are therefore read in pieces.
    """
    data = bytearray()
    while len(data) < count and (piece := stream.read(min(count - len(data), READ_SIZE))):
        data += piece
    return bytes(data)


def read_varint(next_byte: Callable[[], int], what: str, limit: int, section: str, offset: int | None = None) -> int:
    """Read a varint (SPEC 3.2).

    next_byte: returns the bytes one after another.   what, section, offset: what and where it is, for messages.
    Raises MalformedError if it has more than 5 bytes (V-01) or is not in its shortest form (V-02), and LimitError if it
    is above `limit`.
    """
    value = 0
    for shift in range(0, 35, 7):
        byte = next_byte()
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            break
    else:
        msg = f"{what} has more than 5 bytes"
        raise MalformedError(msg, offset=offset, section=section, rule="V-01")
    if shift and not byte:
        msg = f"{what} is not written in its shortest form"
        raise MalformedError(msg, offset=offset, section=section, rule="V-02")
    if value > limit:
        msg = f"{what} is {value}, above the limit of {limit}"
        raise LimitError(msg)
    return value


class _Cursor:
    """A position in a stream, and the CRC of the bytes read since `start`."""

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
            msg = f"the file ends at byte {self.offset}, within {what}"
            raise TruncatedError(msg, offset=self.offset, section=self.section, rule="F-02")
        self.crc = zlib.crc32(data, self.crc)
        return data

    def varint(self, what: str, limit: int) -> int:
        """Read a varint, see `read_varint`."""
        return read_varint(lambda: self.read(1, what)[0], what, limit, self.section, self.offset)

    def check_crc(self, rule: str) -> None:
        expected = self.crc.to_bytes(4, "little")
        if self.read(4, "a checksum") != expected:
            msg = f"wrong checksum of {self.section}: the file is damaged between bytes {self.start} and {self.offset}"
            raise ChecksumError(msg, offset=self.start, section=self.section, rule=rule)


def read_header(stream: IO[bytes]) -> tuple[Header, int]:
    """Read the header at the stream's position (SPEC 5).  Returns the header and its length in bytes.

    Reads nothing after the header.  Raises SyntaxError if the signature is missing; UnsupportedError for another format
    version, an unknown critical flag or an unknown mode; MalformedError for a header that breaks another rule; and
    LimitError for a value above a limit.
    """
    if _read_up_to(stream, len(SIGNATURE)) != SIGNATURE:
        msg = "not an SDL file"
        raise SyntaxError(msg)
    cursor = _Cursor(stream, len(SIGNATURE), "header")
    cursor.start = 0
    cursor.crc = zlib.crc32(SIGNATURE)
    version = cursor.read(1, "the format version")[0]
    if version != FORMAT_VERSION:
        msg = f"format version {version} is not supported; this reader knows only version {FORMAT_VERSION}"
        raise UnsupportedError(msg)
    flags, mode = cursor.read(2, "the flags and the mode")
    # Values are checked after the CRC, so that damage is not reported as a newer file (H-02).
    values = [
        cursor.varint(f"the {what}", MAX_VARINT)
        for what in ("width", "height", "latent space", "quantizer", "rate", "payload method")
    ]
    model = cursor.read(MODEL_HASH_LENGTH, "the model hash")
    sections = cursor.varint("the number of sections", MAX_VARINT)
    cursor.check_crc("H-02")
    if flags & CRITICAL_FLAGS:
        msg = f"critical header flags 0x{flags & CRITICAL_FLAGS:02x} are not supported; this reader knows none"
        raise UnsupportedError(msg)
    if mode not in tuple(Mode):
        known = ", ".join(f"{one} ({one.name})" for one in Mode)
        msg = f"mode {mode} is not supported; this reader knows {known}"
        raise UnsupportedError(msg)
    width, height, space, quantizer, rate, payload = values
    if not (width and height and sections):
        msg = f"width {width}, height {height} and number of sections {sections} must be at least 1"
        raise MalformedError(msg, offset=0, section="header", rule="H-05")
    if max(width, height) > MAX_SIDE:
        msg = f"the image has {width} x {height} pixels; the limit for each side is {MAX_SIDE}"
        raise LimitError(msg)
    if rate > MAX_RATE:
        msg = f"the rate is {rate}; the limit is {MAX_RATE}"
        raise LimitError(msg)
    if sections > MAX_SECTIONS:
        msg = f"the file has {sections} sections; the limit is {MAX_SECTIONS}"
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
    """Read the section at the stream's position (SPEC 6.1).  Returns the section and the offset after it.

    offset: the stream's position, counted from the start of the file.
    Raises TruncatedError, ChecksumError, MalformedError or LimitError, and UnsupportedError for an unknown critical
    section.
    """
    cursor = _Cursor(stream, offset, "a section")
    name = cursor.read(1, "a section's name")
    cursor.section = f"section {label(name)}"
    length = cursor.varint(f"the length of section {label(name)}", MAX_SECTION_LENGTH)
    data = cursor.read(length, f"section {label(name)}")
    cursor.check_crc("S-03")
    if is_critical(name) and name not in KNOWN:
        msg = f"critical section {label(name)} is not supported"
        raise UnsupportedError(msg)
    return Section(name, data), cursor.offset


def peek_name(stream: IO[bytes]) -> bytes:
    """Return the name of the next section without moving the stream.  The result is empty at the end of the file."""
    position = stream.tell()
    name = stream.read(1)
    stream.seek(position)
    return name


def read(stream: IO[bytes], *, strict: bool = False) -> Container:
    """Read a file from the stream's position and check every CRC (SPEC 4 to 6).

    strict: whether bytes after the last section are an error (F-03).  Otherwise they are ignored.
    Raises SyntaxError if the signature is missing; UnsupportedError for another format version, an unknown critical
    flag, mode or critical section; MalformedError for damage, or for a section that is missing, repeated or out of
    order; and LimitError for a value above a limit.
    """
    header, offset = read_header(stream)
    sections = []
    for _ in range(header.sections):
        section, offset = read_section(stream, offset)
        sections.append(section)
    if strict and stream.read(1):
        msg = f"bytes follow the last section, which ends at byte {offset}"
        raise MalformedError(msg, offset=offset, rule="F-03")
    _check_order(header, sections)
    return Container(header, tuple(sections))


def _check_order(header: Header, sections: list[Section]) -> None:
    """Check the order of the sections (SPEC 6.3).

    Raises MalformedError: S-04 if a name occurs twice, S-05 unless ignorable sections come first and the latent last,
    A-01 unless there is an alpha section exactly if the mode has alpha.
    """
    names = [section.name for section in sections]
    for name in names:
        if names.count(name) > 1:
            msg = f"section {label(name)} occurs {names.count(name)} times"
            raise MalformedError(msg, section=label(name), rule="S-04")
    if names[-1] != Name.LATENT:
        msg = "the last section is not the latent (L)"
        raise MalformedError(msg, section="L", rule="S-05")
    if (Name.ALPHA in names) != header.mode.has_alpha:
        msg = f"mode {header.mode.name} {'needs an' if header.mode.has_alpha else 'has no'} alpha section (A)"
        raise MalformedError(msg, section="A", rule="A-01")
    critical = [is_critical(name) for name in names]
    if critical != sorted(critical):
        msg = "an ignorable section comes after a critical one"
        raise MalformedError(msg, rule="S-05")
