"""Draw the grids of a fidelity map and guarded boxes as small pictures, one pixel a cell, and the legend's colors."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

TICKS: Final = (2, 4, 8, 16, 32, 64)
"""Labels of the legend, in levels of 0..255.  Values below the first one and above the last one take its color."""

COLORS: Final = ((68, 1, 84), (65, 68, 135), (42, 120, 142), (34, 168, 132), (122, 209, 81), (253, 231, 37))
"""Colors of the ticks: the scale viridis, whose order is clear without color vision too.  Others lie between."""


def colors(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the colors of values in levels, on a logarithmic scale: uint8 (..., 3) for values (...)."""
    low, high = math.log2(TICKS[0]), math.log2(TICKS[-1])
    places = (np.log2(np.maximum(values, TICKS[0])) - low) / (high - low) * (len(COLORS) - 1)
    bands = [np.interp(places, range(len(COLORS)), band) for band in zip(*COLORS, strict=True)]
    return np.stack(bands, -1).round().astype(np.uint8)


def png(values: NDArray[np.float32]) -> bytes:
    """Return a PNG file of values (rows, columns) in levels, one pixel for each."""
    target = io.BytesIO()
    Image.fromarray(colors(values)).save(target, "PNG", optimize=True)
    return target.getvalue()


def spotlight(boxes: Iterable[Sequence[int]], size: tuple[int, int], cell: int) -> bytes:
    """Return a PNG file that is clear in boxes and dark elsewhere, one pixel for each cell.

    boxes: left, top, right, bottom in pixels, whose left and top are multiples of `cell`.   size: of the picture.
    """
    width, height = (-(-side // cell) for side in size)
    alpha = Image.new("L", (width, height), 255)
    for left, top, right, bottom in boxes:
        alpha.paste(0, (left // cell, top // cell, -(-right // cell), -(-bottom // cell)))
    target = io.BytesIO()
    Image.merge("LA", [Image.new("L", alpha.size), alpha]).save(target, "PNG", optimize=True)
    return target.getvalue()


def gradient() -> str:
    """Return the scale of the legend from left to right, as CSS."""
    return f"linear-gradient(to right, {', '.join(f'rgb{color}' for color in COLORS)})"
