"""A small picture computed directly from the latent by one matrix product, without a network (SPEC 8.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .spaces import Tables

BLOCK: Final = 8
"""Pixels per latent position on each axis in the preview table."""

SCALES: Final = (1, 2, 4, 8)
"""Pixels per latent position on each axis that a preview can have.  The table is averaged over squares."""


def preview(latent: NDArray[np.float32], tables: Tables, scale: int) -> NDArray[np.uint8]:
    """Return the preview of a latent float32 (C, h, w): pixels uint8 (scale * h, scale * w, 3).

    scale: one of `SCALES`.

    Row c of the table is what one unit of channel c adds to the 3 x 8 x 8 values (color, row, column, in 0..1) of its
    position.  The last row holds the values for a latent of zeros.
    """
    channels, height, width = latent.shape
    square = BLOCK // scale
    table = tables.preview.reshape(channels + 1, 3, scale, square, scale, square).mean((3, 5)).reshape(channels + 1, -1)
    values = latent.reshape(channels, -1).T @ table[:-1] + table[-1]
    pixels = np.clip(np.rint(255 * values), 0, 255).astype(np.uint8).reshape(height, width, 3, scale, scale)
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 4, 2)).reshape(height * scale, width * scale, 3)
