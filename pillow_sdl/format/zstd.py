"""One zstd frame to bytes and back, with bounds on everything (SPEC 3.3).  The only module that imports zstandard.

A frame must state the size of its content.  That size is compared with a limit before memory is allocated, and nothing
may follow the frame.  The `max_output_size` of zstandard is no limit: it is ignored when the frame states a size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import BackendError, LimitError, MalformedError

if TYPE_CHECKING:
    import types

LEVEL: Final = 19
FAST: Final = 3
MAGIC: Final = b"\x28\xb5\x2f\xfd"
"""First bytes of a zstd frame.  A skippable frame has others and is refused."""

MAX_WINDOW: Final = 2**27
"""Bytes of window that a reader must grant: zstd's own default (SPEC 3.3)."""


def _zstandard() -> types.ModuleType:
    try:
        import zstandard
    except ImportError as exc:
        msg = "reading or writing .sdl needs the package zstandard: pip install zstandard"
        raise BackendError(msg) from exc
    return zstandard


def compress(*parts: bytes, level: int = LEVEL) -> bytes:
    """Return one frame of all parts, with its content size and without a checksum, since the container has a CRC.

    Each part begins a new zstd block with its own Huffman tables.  That saves bytes where the statistics change.
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
    """Return the content of the one frame that `frame` must be.

    limit: most bytes of the content.   section: its name, for error messages.
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
        msg = f"the zstd frame of section {section} declares {size} bytes; at most {limit} are allowed"
        raise LimitError(msg)
    window = zstandard.get_frame_parameters(frame).window_size
    if window > MAX_WINDOW:
        msg = (
            f"the zstd frame of section {section} asks for a window of {window} bytes; at most {MAX_WINDOW} are allowed"
        )
        raise LimitError(msg)
    damaged = f"the zstd frame of section {section} is damaged, or bytes follow it"
    decompressor = zstandard.ZstdDecompressor()
    try:
        if size:
            result: bytes = decompressor.decompress(frame, allow_extra_data=False)
            return result
        # For a frame that claims to be empty zstandard does not look at the rest of it.
        stream = decompressor.decompressobj()
        found = stream.decompress(frame)
    except zstandard.ZstdError as exc:
        raise MalformedError(damaged, section=section, rule="Z-03") from exc
    if found or not stream.eof or stream.unused_data:
        raise MalformedError(damaged, section=section, rule="Z-03")
    return b""
