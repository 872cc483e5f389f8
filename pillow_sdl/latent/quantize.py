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


def quantize(latent: NDArray[np.float32], step: NDArray[np.float32]) -> NDArray[np.int16]:
    """Symbols of a latent: the nearest multiples of the steps.

    latent: float32 (C, h, w), finite.   step: float32 (C,), > 0.   Returns int16 (C, h, w), clipped to +-32767.
    Raises ValueError if the latent is not finite.

    A dead zone (rounding magnitudes up from .55 on in place of .5) was measured: 6 % more bytes at equal LPIPS.
    """
    scaled = latent / step[:, None, None]
    if not np.isfinite(scaled).all():
        msg = "the latent holds values that are not finite"
        raise ValueError(msg)
    np.rint(scaled, out=scaled)
    np.clip(scaled, -MAX_SYMBOL, MAX_SYMBOL, out=scaled)
    return scaled.astype(np.int16)


def dequantize(symbols: NDArray[np.int16], step: NDArray[np.float32]) -> NDArray[np.float32]:
    """Latent values at the centres of the symbols' bins: int16 (C, h, w), float32 (C,) -> float32 (C, h, w)."""
    result: NDArray[np.float32] = symbols.astype(np.float32) * step[:, None, None]
    return result
