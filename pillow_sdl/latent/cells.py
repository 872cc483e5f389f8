"""Coding of the fidelity map: two small grids of levels, one value for each cell of the picture (SPEC 9.3).

Levels are integers 0..15, logarithmic bounds of an error.  The grids are coded one after the other, each cell as the
difference from a prediction by its left and upper neighbors.  The differences are coded by `rans` with one distribution
of the table that payloads use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from ..errors import MalformedError
from ..format import fidelity
from ..format.fidelity import LEVELS, SECTION, UNIT
from . import context, rans

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_CELLS: Final = 64
"""Most cells along a side of the picture."""

SMALLEST: Final = 48
"""Side of a cell, in pixels, of pictures that are not too large for it."""

_FIRST: Final = 7
"""Prediction of the first cell."""


class Grids(NamedTuple):
    """A fidelity map as levels.   side: of a cell, in pixels.   error, invented: uint8 (rows, columns), 0..15."""

    side: int
    error: NDArray[np.uint8]
    invented: NDArray[np.uint8]


def side_for(width: int, height: int) -> int:
    """Return the side of a cell, in pixels, for a picture: at least 48, and at most 64 cells along each side."""
    needed = -(-max(width, height) // MAX_CELLS)
    return max(SMALLEST, -(-needed // UNIT) * UNIT)


def shape_of(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the (rows, columns) of cells of a picture."""
    return -(-height // side), -(-width // side)


def pack(grids: Grids, mean_error: int) -> bytes:
    """Return the data of section f.   mean_error: level 0..15 of the whole picture."""
    error = grids.error.astype(np.int64)
    offsets = _offsets(error, _FIRST), _offsets(grids.invented - error, 0)
    best = min((_coded(offsets, spread) for spread in range(context.SPREADS)), key=len)
    worst = int(grids.error.max()), int(grids.invented.max())
    return fidelity.pack(fidelity.Summary(grids.side, worst[0], mean_error, worst[1])) + best


def unpack(data: bytes, width: int, height: int) -> Grids:
    """Return the grids of a section's data, for a picture of width x height pixels.

    Raises MalformedError: E-01 for the summary, E-02 for more cells than allowed or a distribution that does not exist,
    E-03 for a level out of range, R-03 to R-05 for the coder.
    """
    side = fidelity.unpack(data).side
    rows, columns = shape_of(width, height, side)
    if max(rows, columns) > MAX_CELLS or data[3] >= context.SPREADS:
        msg = f"a fidelity map of {columns} x {rows} cells with distribution {data[3]}"
        raise MalformedError(msg, section=SECTION, rule="E-02")
    table = context.distributions()
    row = _row(data[3])
    reach = int(context.largest_offset(table, np.array(row)))
    coder = rans.Decoder(data[4:], 1)
    found: list[NDArray[np.uint8]] = []
    reference = np.zeros((rows, columns), np.int64)
    for _ in range(2):
        grid = np.zeros((rows, columns), np.int64)
        offsets = coder.entries(table, np.full(rows * columns, row)) - table.first[row] - reach - 1
        beyond = np.flatnonzero(np.abs(offsets) > reach)
        offsets[beyond] = np.sign(offsets[beyond]) * (reach + 1 + coder.uniform(np.full(len(beyond), 5)))
        for index, offset in enumerate(offsets.tolist()):
            y, x = divmod(index, columns)
            grid[y, x] = _predict(grid, y, x, _FIRST if not found else 0) + offset
        level = grid + reference
        if level.min() < 0 or level.max() >= LEVELS:
            msg = "a level of the fidelity map is out of range"
            raise MalformedError(msg, section=SECTION, rule="E-03")
        found.append(level.astype(np.uint8))
        reference = level
    coder.finish()
    return Grids(side, *found)


def _row(spread: int) -> int:
    """The row of the table for a spread: the distribution with a mean of zero."""
    return context.FRACTIONS * spread + context.FRACTIONS // 2


def _predict(grid: NDArray[np.int64], y: int, x: int, first: int) -> int:
    """Predict a cell: the mean of the left and the upper one, rounded up, or the one that exists."""
    if not y and not x:
        return first
    left = int(grid[y, x - 1]) if x else int(grid[y - 1, x])
    upper = int(grid[y - 1, x]) if y else left
    return (left + upper + 1) // 2


def _offsets(grid: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    """Return what a grid (rows, columns) has beyond the predictions by `_predict`, row by row (rows * columns,)."""
    upper = np.concatenate([grid[:1], grid[:-1]])
    left = np.concatenate([upper[:, :1], grid[:, :-1]], 1)
    upper[0] = left[0]
    predicted = (left + upper + 1) // 2
    predicted[0, 0] = first
    found: NDArray[np.int64] = (grid - predicted).ravel()
    return found


def _coded(grids: tuple[NDArray[np.int64], ...], spread: int) -> bytes:
    """Return the number of a spread, and the offsets of some grids coded with it."""
    table, row = context.distributions(), _row(spread)
    reach = int(context.largest_offset(table, np.array(row)))
    coder = rans.Encoder()
    for offsets in grids:
        coder.entries(table, table.first[row] + reach + 1 + np.clip(offsets, -reach - 1, reach + 1))
        beyond = np.abs(offsets) - reach - 1
        beyond = beyond[beyond >= 0]
        coder.uniform(beyond, np.full_like(beyond, 5))
    return bytes([spread]) + coder.finish(1)
