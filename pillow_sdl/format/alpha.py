"""Lossless coding of the alpha plane (SPEC 9.2): one byte for the filter, then the filtered plane as a zstd frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ..errors import MalformedError, UnsupportedError
from . import zstd

if TYPE_CHECKING:
    from numpy.typing import NDArray

NONE: Final = 0
LEFT: Final = 1
UP: Final = 2
"""Filters: none, difference from the pixel on the left, difference from the pixel above.

Differences are modulo 256, and pixels outside the plane are 0.
"""


def _filter(plane: NDArray[np.uint8], kind: int) -> NDArray[np.uint8]:
    if kind == NONE:
        return plane
    axis = 1 if kind == LEFT else 0
    result: NDArray[np.uint8] = np.diff(plane, axis=axis, prepend=np.uint8(0))
    return result


def encode(plane: NDArray[np.uint8]) -> bytes:
    """Return the section data for an alpha plane, uint8 (H, W).

    The filter is the one with the shortest frame at a fast compression level.
    """

    def size(kind: int) -> int:
        return len(zstd.compress(_filter(plane, kind).tobytes(), level=zstd.FAST))

    kind = min((NONE, LEFT, UP), key=size)
    return bytes([kind]) + zstd.compress(_filter(plane, kind).tobytes())


def decode(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Return the alpha plane, uint8 (height, width), from section data.

    Raises MalformedError (A-02) for empty data or a wrong number of values, UnsupportedError (A-03) for an unknown
    filter, and MalformedError (Z-01 to Z-03) or LimitError for the zstd frame.
    """
    if not data:
        msg = "section A is empty"
        raise MalformedError(msg, section="A", rule="A-02")
    kind = data[0]
    if kind not in (NONE, LEFT, UP):
        msg = f"alpha filter {kind} is not supported; this reader knows 0, 1 and 2"
        raise UnsupportedError(msg)
    values = zstd.decompress(data[1:], limit=width * height, section="A")
    if len(values) != width * height:
        msg = f"the alpha plane has {len(values)} values instead of {width} x {height}"
        raise MalformedError(msg, section="A", rule="A-02")
    plane = np.frombuffer(values, np.uint8).reshape(height, width)
    if kind == NONE:
        return plane
    return np.add.accumulate(plane, axis=1 if kind == LEFT else 0, dtype=np.uint8)
