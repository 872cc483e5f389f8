"""One zstd frame <-> bytes, with everything bounded (SPEC 3.3).  The only module that imports zstandard.

A frame states the size of its content, that size is compared with a limit before anything is allocated, and
nothing may follow it.  `max_output_size` of zstandard is no such limit: it is ignored when the frame states a size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .errors import BackendError, LimitError, MalformedError, UnsupportedError

if TYPE_CHECKING:
    import types

LEVEL: Final = 19
FAST: Final = 3
MAGIC: Final = b"\x28\xb5\x2f\xfd"
"""First bytes of a zstd frame; a skippable frame has others, and is none here."""

MAX_WINDOW: Final = 2**27
"""Bytes of window that a reader must grant, zstd's own default (SPEC 3.3)."""


def _zstandard() -> types.ModuleType:
    try:
        import zstandard
    except ImportError as exc:
        msg = "reading or writing .sdl needs the package zstandard: pip install zstandard"
        raise BackendError(msg) from exc
    return zstandard


def compress(*parts: bytes, level: int = LEVEL) -> bytes:
    """One frame of all parts, with its content size and without a checksum: the container's CRC covers it.

    Each part begins a new zstd block, and so has Huffman tables of its own: worth it where statistics change.
    """
    zstandard = _zstandard()
    compressor = zstandard.ZstdCompressor(level=level, write_content_size=True, write_checksum=False)
    if len(parts) == 1:
        result: bytes = compressor.compress(parts[0])
        return result
    stream = compressor.compressobj(size=sum(map(len, parts)))
    pieces = [stream.compress(part) + stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for part in parts if part]
    return b"".join([*pieces, stream.flush()])


def decompress(frame: bytes, *, limit: int, section: str) -> bytes:
    """Content of the one frame that `frame` must be.

    limit: bytes that the content may have at most.   section: its name, for errors.
    Raises MalformedError (Z-01 no frame, Z-02 no content size, Z-03 damaged or followed by bytes), LimitError.
    """
    zstandard = _zstandard()
    if not frame.startswith(MAGIC):
        msg = f"section {section} does not hold a zstd frame"
        raise MalformedError(msg, section=section, rule="Z-01")
    try:
        size = zstandard.frame_content_size(frame)
    except zstandard.ZstdError as exc:
        msg = f"section {section} does not hold a zstd frame"
        raise MalformedError(msg, section=section, rule="Z-01") from exc
    if size < 0:
        msg = f"the zstd frame of section {section} does not state the size of its content"
        raise MalformedError(msg, section=section, rule="Z-02")
    if size > limit:
        msg = f"the zstd frame of section {section} declares {size} bytes, {limit} are allowed"
        raise LimitError(msg)
    window = zstandard.get_frame_parameters(frame).window_size
    if window > MAX_WINDOW:
        msg = f"the zstd frame of section {section} asks for a window of {window} bytes, {MAX_WINDOW} are granted"
        raise LimitError(msg)
    damaged = f"the zstd frame of section {section} is damaged, or bytes follow it"
    decompressor = zstandard.ZstdDecompressor()
    try:
        if size:
            result: bytes = decompressor.decompress(frame, allow_extra_data=False)
            return result
        # zstandard believes a frame that says it is empty without a look at the rest of it.
        stream = decompressor.decompressobj()
        found = stream.decompress(frame)
    except zstandard.ZstdError as exc:
        raise MalformedError(damaged, section=section, rule="Z-03") from exc
    if found or not stream.eof or stream.unused_data:
        raise MalformedError(damaged, section=section, rule="Z-03")
    return b""


STORED: Final = 0
ZSTD: Final = 1

MAX_METADATA: Final = 2**24
"""Bytes that one of ICC profile, Exif, XMP may have once unpacked (SPEC 9.1)."""


def pack(data: bytes) -> bytes:
    """Metadata as it stands in a section (SPEC 9.1): a byte, then the data stored or compressed, if that is shorter."""
    frame = compress(data)
    return bytes([ZSTD]) + frame if len(frame) < len(data) else bytes([STORED]) + data


def unpack(block: bytes, *, section: str) -> bytes:
    """What `pack` was given.   section: its name, for errors.

    Raises MalformedError (M-01), UnsupportedError for another first byte,
    LimitError, and what `decompress` raises.
    """
    if not block:
        msg = f"section {section} is empty"
        raise MalformedError(msg, section=section, rule="M-01")
    if block[0] == ZSTD:
        return decompress(block[1:], limit=MAX_METADATA, section=section)
    if block[0] != STORED:
        msg = f"section {section} is packed by method {block[0]}; this reader knows 0 (stored) and 1 (zstd)"
        raise UnsupportedError(msg)
    if len(block) - 1 > MAX_METADATA:
        msg = f"section {section} holds {len(block) - 1} bytes, {MAX_METADATA} are allowed"
        raise LimitError(msg)
    return block[1:]
