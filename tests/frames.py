"""Zstd frames, valid and damaged, made without the library's own code.  Nothing here is a test."""

from __future__ import annotations

import struct
from typing import Final

import zstandard


def frame(content: bytes, *, write_content_size: bool = True, write_checksum: bool = False) -> bytes:
    """Return a zstd frame with that content."""
    compressor = zstandard.ZstdCompressor(write_content_size=write_content_size, write_checksum=write_checksum)
    return compressor.compress(content)


def stored_frame(content: bytes, *, window_log: int | None = None) -> bytes:
    """Return a frame with one raw block and a content size of 4 bytes, built by hand after RFC 8878.

    window_log: logarithm of the window's size to base 2, None for a frame of a single segment.
    """
    magic = bytes.fromhex("28b52ffd")
    size = len(content).to_bytes(4, "little")
    head = b"\xa0" + size if window_log is None else bytes([0x80, (window_log - 10) << 3]) + size
    return magic + head + (len(content) << 3 | 1).to_bytes(3, "little") + content


EMPTY: Final = stored_frame(b"")
SKIPPABLE: Final = struct.pack("<II", 0x184D2A50, 4) + b"skip"
BOMB: Final = frame(bytes(2**28))
"""256 MiB of zeros in 8 KiB."""
