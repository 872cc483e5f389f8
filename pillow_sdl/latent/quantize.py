"""Scalar quantiser: one step per channel, derived from a rate code and the latent space's table (SPEC 8.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from .spaces import RATES, STEP_UNIT

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALAR: Final = 0
"""Number of this quantiser in a header."""

MAX_SYMBOL: Final = 32767
"""Largest magnitude of a symbol."""


def log2_steps(table: NDArray[np.int16], rate: int) -> NDArray[np.int64]:
    """Steps of all channels at a rate code, as logarithms in 1/256 octave.

    table: int16 (knots, C), knots equally spaced over rate codes 0..255.   Returns int64 (C,).
    Linear interpolation in integers, rounded half up, so that every reader has the same steps.
    """
    last = len(table) - 1
    position = rate * last
    low = min(position // (RATES - 1), last - 1)
    weight = position - low * (RATES - 1)
    rows = table[low : low + 2].astype(np.int64)
    sums = rows[0] * (RATES - 1 - weight) + rows[1] * weight
    result: NDArray[np.int64] = (2 * sums + RATES - 1) // (2 * (RATES - 1))
    return result


def steps(table: NDArray[np.int16], rate: int) -> NDArray[np.float32]:
    """Steps of all channels at a rate code 0..255: float32 (C,), latent units per symbol."""
    return np.exp2(log2_steps(table, rate) / STEP_UNIT).astype(np.float32)


def scale(latent: NDArray[np.float32], step: NDArray[np.float32]) -> NDArray[np.float32]:
    """A latent float32 (C, h, w) in units of its steps, float32 (C,) and > 0."""
    result: NDArray[np.float32] = latent / step[:, None, None]
    return result


def round_off(scaled: NDArray[np.float32]) -> NDArray[np.int16]:
    """The symbols nearest to a latent in units of its steps, float32 (C, h, w), finite; clipped to +-32767."""
    return np.clip(np.rint(scaled), -MAX_SYMBOL, MAX_SYMBOL).astype(np.int16)


def dequantize(symbols: NDArray[np.int16], step: NDArray[np.float32]) -> NDArray[np.float32]:
    """Latent values at the centres of the symbols' bins: int16 (C, h, w), float32 (C,) -> float32 (C, h, w)."""
    result: NDArray[np.float32] = symbols.astype(np.float32) * step[:, None, None]
    return result
