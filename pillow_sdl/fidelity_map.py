"""The fidelity map: how far a file's picture is from the original, in each cell of a coarse grid (SPEC 9.3).

The encoder decodes its own file and stores two bounds for each cell:

- the error: root mean square difference between the decoded and the original samples, in levels of 0..255;
- invented structure: the root mean square of that part of the decoded fine detail which does not follow the original's
  detail, in levels.  A blurred area has an error and invents nothing.  An area with made-up texture invents much.

Reading a map needs no network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from .format import fidelity
from .latent import cells

if TYPE_CHECKING:
    from numpy.typing import NDArray

LUMA: Final = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a gray value: ITU-R BT.601, as in Pillow's conversion to L."""

TOLERANCE: Final = 1.1
"""Root mean square, in levels, by which a conforming decoder may differ from the reference in a cell (SPEC 12)."""

RADIUS: Final = 3
"""Fine detail is what a blur over 2 * RADIUS + 1 pixels removes."""

BOUNDS: Final = np.array([fidelity.bound(level) for level in range(fidelity.LEVELS)], np.float32)
"""The bounds that levels stand for, in levels of 0..255."""


class Fidelity(NamedTuple):
    """How far a picture is from its original.

    cell: side of a cell, in pixels; the last column and row of cells may be cut off by the picture's edge.
    error: float32 (rows, columns), upper bound of the root mean square error of each cell, in levels of 0..255.
    invented: float32 (rows, columns), upper bound of the invented structure of each cell, in levels: the root mean
        square of the decoded fine detail that does not follow the original's detail.
    worst, mean: upper bounds of the error of the worst cell, and of the whole picture, in levels.
    """

    cell: int
    error: NDArray[np.float32]
    invented: NDArray[np.float32]
    worst: float
    mean: float


def level_of(value: NDArray[np.float64] | np.float64) -> NDArray[np.uint8]:
    """Return the lowest levels whose bounds are not below values >= 0."""
    return np.minimum(np.searchsorted(BOUNDS, value), fidelity.LEVELS - 1).astype(np.uint8)


def measure(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> bytes:
    """Return the data of section f.   original, decoded: uint8 (H, W, bands) without alpha."""
    height, width = original.shape[:2]
    side = cells.side_for(width, height)
    bands = np.full(original.shape[2], 1 / original.shape[2], np.float32)  # A product is faster than a mean over bands.
    error, invented = [], []
    for top in range(0, height, side):  # One row of cells at a time: floats take four times the memory of pixels.
        rows = slice(top, min(top + side, height))
        square: NDArray[np.float32] = np.square(original[rows].astype(np.float32) - decoded[rows]) @ bands
        error.append(_means(square, side))
        invented.append(_invented(detail(luminance(original, rows)), detail(luminance(decoded, rows)), side))
    power = np.concatenate(error)
    counts = [np.diff([*range(0, length, side), length]) for length in (height, width)]
    whole = np.sqrt((power * np.outer(*counts)).sum() / (height * width)) + TOLERANCE
    levels = level_of(np.sqrt(power) + TOLERANCE), level_of(np.concatenate(invented) + TOLERANCE)
    return cells.pack(cells.Grids(side, *levels), int(level_of(whole)))


def expected_size(width: int, height: int) -> int:
    """Return about how many bytes section f takes for a picture of width x height pixels."""
    rows, columns = cells.shape_of(width, height, cells.side_for(width, height))
    return 24 + rows * columns // 2


def read(data: bytes, width: int, height: int) -> Fidelity:
    """Return the map of section f of a picture of width x height pixels.  Raises MalformedError."""
    grids = cells.unpack(data, width, height)
    brief = fidelity.unpack(data)
    return Fidelity(
        grids.side,
        BOUNDS[grids.error],
        BOUNDS[grids.invented],
        float(BOUNDS[brief.worst_error]),
        float(BOUNDS[brief.mean_error]),
    )


def _means(values: NDArray[np.float32], side: int) -> NDArray[np.float64]:
    """Return the mean of values (H, W) over each cell, float64 (rows, columns)."""
    height, width = values.shape
    sums = np.add.reduceat(values, range(0, height, side), 0, np.float64)
    sums = np.add.reduceat(sums, range(0, width, side), 1)
    counts = [np.diff([*range(0, length, side), length]) for length in (height, width)]
    result: NDArray[np.float64] = sums / np.outer(*counts)
    return result


def luminance(pixels: NDArray[np.uint8], rows: slice) -> NDArray[np.float32]:
    """Return the luminance of some rows and of `RADIUS` pixels around them, float32 (rows + 2 RADIUS, W + 2 RADIUS).

    pixels: uint8 (H, W, bands).   rows: they may reach beyond the picture, whose last rows and columns repeat there.
    """
    wanted = np.clip(np.arange(rows.start - RADIUS, rows.stop + RADIUS), 0, len(pixels) - 1)
    weights = np.array(LUMA if pixels.shape[2] == 3 else (1,), np.float32)
    return np.pad(pixels[wanted].astype(np.float32) @ weights, ((0, 0), (RADIUS, RADIUS)), mode="edge")


def detail(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the fine detail of a luminance: what a box blur removes.  It is smaller by `RADIUS` on each side."""
    size = 2 * RADIUS + 1
    height, width = (length - 2 * RADIUS for length in gray.shape)
    # Sums of shifted views take a fifth of the time of means over sliding windows.
    total = _sum([gray[shift : shift + height] for shift in range(size)])
    total = _sum([total[:, shift : shift + width] for shift in range(size)])
    result: NDArray[np.float32] = gray[RADIUS:-RADIUS, RADIUS:-RADIUS] - total / np.float32(size**2)
    return result


def _sum(arrays: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    total = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    return total


def _invented(original: NDArray[np.float32], decoded: NDArray[np.float32], side: int) -> NDArray[np.float64]:
    """Return the root mean square, in each cell, of the decoded detail that no multiple of the original's explains."""
    power, own, common = (_means(p, side) for p in (original**2, decoded**2, original * decoded))
    explained = np.square(np.maximum(common, 0)) / np.maximum(power, 1e-6)
    result: NDArray[np.float64] = np.sqrt(np.maximum(own - explained, 0))
    return result
