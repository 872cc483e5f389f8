"""Rounding to symbols, and their range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_SYMBOL: Final = 32767
"""Largest magnitude of a symbol."""


def round_to_nearest(scaled: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return the symbols nearest to a finite latent in units of its steps, float32 (C, h, w), clipped to +-32767."""
    return np.clip(np.rint(scaled), -MAX_SYMBOL, MAX_SYMBOL).astype(np.int16)
