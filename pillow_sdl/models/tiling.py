"""Overlapping tiles, which bound memory for pictures of any size.  Standard library only.

A tile is computed with a margin on every side where the picture continues, and only its core is kept.  If the margin
covers the network's receptive field, the tiles join without seams and without blending.
"""

from __future__ import annotations

from typing import Final, NamedTuple

CORE: Final = 96
"""Latent positions along each side of a tile's core."""

WHOLE: Final = 4096
"""Largest number of latent positions of a picture that is computed in one piece: 1 megapixel at a factor of 16."""


class Span(NamedTuple):
    """The extent of a tile on one axis.

    Positions start to stop (exclusive) of the axis are computed, keep_start to keep_stop (exclusive) are kept.
    """

    start: int
    stop: int
    keep_start: int
    keep_stop: int

    @property
    def computed(self) -> slice:
        """The computed positions, relative to the axis."""
        return slice(self.start, self.stop)

    @property
    def place(self) -> slice:
        """The kept positions, relative to the axis."""
        return slice(self.keep_start, self.keep_stop)

    @property
    def kept(self) -> slice:
        """The kept positions, relative to the computed ones."""
        return slice(self.keep_start - self.start, self.keep_stop - self.start)


def spans(length: int, core: int, margin: int) -> list[Span]:
    """Return spans whose kept parts cover an axis of `length` positions exactly once, in order.

    length: at least 1.   core: positions that each span keeps, at least 1.   margin: at least 0.
    """
    return [
        Span(max(0, first - margin), min(length, first + core + margin), first, min(length, first + core))
        for first in range(0, length, core)
    ]


def tiles(height: int, width: int, margin: int, core: int | None = None) -> list[tuple[Span, Span]]:
    """Return the tiles (rows, columns) of a latent of height x width positions, row by row.

    A latent of at most `WHOLE` positions is one tile.
    core: positions along each side of a tile's core, `CORE` if None.
    """
    core = core or CORE
    if height * width <= WHOLE:
        return [(Span(0, height, 0, height), Span(0, width, 0, width))]
    return [(rows, columns) for rows in spans(height, core, margin) for columns in spans(width, core, margin)]
