"""Fit the linear map of a space's preview (SPEC 8.5): from one latent position to its 3 x 8 x 8 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pillow_sdl.latent.preview import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterable


def fit(pairs: Iterable[tuple[np.ndarray, np.ndarray]], channels: int, ridge: float = 0.0) -> np.ndarray:
    """Return the map with the least squared error, float16 (C + 1, 192).  Its last row is that of a latent of zeros.

    pairs: latents (C, h, w) and their pixels in 0..1, (8 h, 8 w, 3).   channels: C.
    ridge: weight against large entries, in units of the mean variance of a channel.
    """
    size = channels + 1
    gram, cross = np.zeros((size, size)), np.zeros((size, 3 * BLOCK * BLOCK))
    for latent, pixels in pairs:
        height, width = latent.shape[1:]
        if pixels.shape != (height * BLOCK, width * BLOCK, 3):
            msg = f"a latent of {width} x {height} positions does not fit a picture of {pixels.shape[:2]} pixels"
            raise ValueError(msg)
        rows = np.pad(latent.reshape(channels, -1).T.astype(np.float64), ((0, 0), (0, 1)), constant_values=1)
        wanted = pixels.reshape(height, BLOCK, width, BLOCK, 3).transpose(0, 2, 4, 1, 3).astype(np.float64)
        gram += rows.T @ rows
        cross += rows.T @ wanted.reshape(len(rows), -1)
    if ridge:
        # The small number keeps the system solvable if a channel's symbols are all zero.
        penalty = ridge * gram.diagonal()[:-1].mean() + 1e-9
        gram[:-1, :-1] += penalty * np.eye(channels)
    return np.ascontiguousarray(np.linalg.solve(gram, cross), np.float16)
