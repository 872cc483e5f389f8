"""Metadata sections: ICC profile, Exif and XMP, stored as they are or compressed (SPEC 9.1)."""

from __future__ import annotations

from typing import Final

from ..errors import LimitError, MalformedError, UnsupportedError
from . import zstd

STORED: Final = 0
COMPRESSED: Final = 1
"""First byte of the section's data: how the rest is stored."""

MAX_LENGTH: Final = 2**24
"""Most bytes of one of ICC profile, Exif and XMP, unpacked."""


def pack(data: bytes) -> bytes:
    """Return metadata as it stands in a section: a byte, then the data, compressed if that is shorter."""
    frame = zstd.compress(data)
    return bytes([COMPRESSED]) + frame if len(frame) < len(data) else bytes([STORED]) + data


def unpack(block: bytes, *, section: str) -> bytes:
    """Return the metadata of a section's data.   section: its name, for error messages.

    Raises MalformedError (M-01) for empty data, UnsupportedError (M-02) for an unknown first byte, LimitError, and what
    `zstd.decompress` raises.
    """
    if not block:
        msg = f"section {section} is empty"
        raise MalformedError(msg, section=section, rule="M-01")
    if block[0] == COMPRESSED:
        return zstd.decompress(block[1:], limit=MAX_LENGTH, section=section)
    if block[0] != STORED:
        msg = f"section {section} is packed by method {block[0]}; this reader knows 0 (stored) and 1 (zstd)"
        raise UnsupportedError(msg)
    if len(block) - 1 > MAX_LENGTH:
        msg = f"section {section} holds {len(block) - 1} bytes; at most {MAX_LENGTH} are allowed"
        raise LimitError(msg)
    return block[1:]
