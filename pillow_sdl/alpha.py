"""Lossless coding of the alpha plane (SPEC 9.2): a byte naming a filter, then a zstd frame of the filtered plane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from . import zstdframe
from .errors import MalformedError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

NONE: Final = 0
LEFT: Final = 1
UP: Final = 2
"""Filters: nothing; difference from the pixel on the left; from the pixel above.  Modulo 256, 0 beyond the edge."""


def _filter(plane: NDArray[np.uint8], kind: int) -> NDArray[np.uint8]:
    if kind == NONE:
        return plane
    axis = 1 if kind == LEFT else 0
    result: NDArray[np.uint8] = np.diff(plane, axis=axis, prepend=np.uint8(0))
    return result


def encode(plane: NDArray[np.uint8]) -> bytes:
    """Section data of an alpha plane, uint8 (H, W): with the filter whose frame is shortest at a fast level."""

    def size(kind: int) -> int:
        return len(zstdframe.compress(_filter(plane, kind).tobytes(), level=zstdframe.FAST))

    kind = min((NONE, LEFT, UP), key=size)
    return bytes([kind]) + zstdframe.compress(_filter(plane, kind).tobytes())


def decode(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Alpha plane uint8 (height, width) of a section's data.

    Raises MalformedError (A-02: wrong number of values), UnsupportedError for an unknown filter, LimitError.
    """
    if not data:
        msg = "section A is empty"
        raise MalformedError(msg, section="A", rule="A-02")
    kind = data[0]
    if kind not in (NONE, LEFT, UP):
        msg = f"alpha filter {kind} found; this reader knows 0, 1 and 2"
        raise UnsupportedError(msg)
    values = zstdframe.decompress(data[1:], limit=width * height, section="A")
    if len(values) != width * height:
        msg = f"the alpha plane has {len(values)} values in place of {width} x {height}"
        raise MalformedError(msg, section="A", rule="A-02")
    plane = np.frombuffer(values, np.uint8).reshape(height, width)
    if kind == NONE:
        return plane
    return np.add.accumulate(plane, axis=1 if kind == LEFT else 0, dtype=np.uint8)
