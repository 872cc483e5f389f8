"""Overlapped tiles: bounded memory for any size.  Plain Python; knows nothing of networks.

A tile is computed with a margin on every side where the picture goes on, and only its core is kept.  With a margin
that covers the network's receptive field the tiles join without a seam and without blending.
"""

from __future__ import annotations

from typing import Final, NamedTuple

CORE: Final = 96
"""Latent positions along a side of a tile that are kept."""

WHOLE: Final = 4096
"""Latent positions of a picture that is still done in one piece: 1 megapixel at 16 pixels a position."""


class Span(NamedTuple):
    """A stretch of one axis: positions start..stop are computed, keep_start..keep_stop of the axis are kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int

    @property
    def computed(self) -> slice:
        """What is computed, as a part of the axis."""
        return slice(self.start, self.stop)

    @property
    def place(self) -> slice:
        """What is kept, as a part of the axis."""
        return slice(self.keep_start, self.keep_stop)

    @property
    def kept(self) -> slice:
        """What is kept, as a part of what is computed."""
        return slice(self.keep_start - self.start, self.keep_stop - self.start)


def spans(length: int, core: int, margin: int) -> list[Span]:
    """Stretches whose kept parts cover 0..length once, in order.  length, core >= 1; margin >= 0."""
    return [
        Span(max(0, first - margin), min(length, first + core + margin), first, min(length, first + core))
        for first in range(0, length, core)
    ]


def tiles(height: int, width: int, margin: int, core: int | None = None) -> list[tuple[Span, Span]]:
    """Tiles (rows, columns) of a latent of height x width positions: one if it is small enough, else many."""
    core = core or CORE
    if height * width <= WHOLE:
        return [(Span(0, height, 0, height), Span(0, width, 0, width))]
    return [(rows, columns) for rows in spans(height, core, margin) for columns in spans(width, core, margin)]
