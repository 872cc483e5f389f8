"""Scalar quantizer: one step for each channel, derived from the rate code and the space's table (SPEC 8.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ..errors import MalformedError
from . import entropy, optimize, spaces
from .base import Choices, Coded, Options, Quantized, Refine
from .noise import Noise
from .rounding import MAX_SYMBOL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..registry import Space


def log2_steps(table: NDArray[np.int16], rate: int) -> NDArray[np.int64]:
    """Return the steps of all channels at a rate code as logarithms in 1/256 octave, int64 (C,).

    table: int16 (knots, C), with knots equally spaced over rate codes 0..255.
    The interpolation is linear, in integers, and rounds halves up, so that every reader has the same steps.
    """
    last = len(table) - 1
    position = rate * last
    low = min(position // (spaces.RATES - 1), last - 1)
    weight = position - low * (spaces.RATES - 1)
    rows = table[low : low + 2].astype(np.int64)
    sums = rows[0] * (spaces.RATES - 1 - weight) + rows[1] * weight
    result: NDArray[np.int64] = (2 * sums + spaces.RATES - 1) // (2 * (spaces.RATES - 1))
    return result


def steps(table: NDArray[np.int16], rate: int) -> NDArray[np.float32]:
    """Return the steps of all channels at a rate code 0..255: float32 (C,), latent units for each symbol."""
    return np.exp2(log2_steps(table, rate) / spaces.STEP_UNIT).astype(np.float32)


def scale(latent: NDArray[np.float32], step: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a latent float32 (C, h, w) in units of its steps, float32 (C,) and > 0."""
    result: NDArray[np.float32] = latent / step[:, None, None]
    return result


def dequantize(symbols: NDArray[np.int16], step: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the centers of the symbols' bins: int16 (C, h, w), float32 (C,) -> float32 (C, h, w)."""
    result: NDArray[np.float32] = symbols.astype(np.float32) * step[:, None, None]
    return result


def noise_of(step: NDArray[np.float32]) -> Noise:
    """Return the quantizer's noise for steps float32 (C,).

    The error is about uniform within one step, so its mean square is step^2 / 12.
    """
    return Noise(float(np.sqrt(np.square(step, dtype=np.float64).mean() / 12)), palette=False)


def choose(
    latent: NDArray[np.float32], space: Space, rate: int, tune: float, refine: Refine | None = None
) -> NDArray[np.int16]:
    """Choose the symbols of a finite latent float32 (C, h, w) at a rate code: int16 (C, h, w).

    tune: squared steps that one bit is worth.   refine: see `base.Quantizer.encode`.
    """
    table = spaces.tables(space).log2_steps
    step = steps(table, rate)
    scaled = scale(latent, step)
    if refine is not None:
        scaled = refine(scaled, rate, step)
    return optimize.choose(scaled, space.name, log2_steps(table, rate), tune)


def code(symbols: NDArray[np.int16], space: Space, rate: int, payloads: tuple[int, ...]) -> Coded:
    """Code symbols int16 (C, h, w) by the payload method, of those given, that gives fewest bytes."""
    logarithms = log2_steps(spaces.tables(space).log2_steps, rate)
    coded = [(method, entropy.encode(symbols, method, space.name, logarithms)) for method in payloads]
    method, data = min(coded, key=lambda pair: len(pair[1]))
    return Coded(rate, method, data, quantized=_quantized(symbols, space, rate))


def _quantized(symbols: NDArray[np.int16], space: Space, rate: int) -> Quantized:
    step = steps(spaces.tables(space).log2_steps, rate)
    return Quantized(symbols, rate, noise_of(step), lambda: dequantize(symbols, step))


class ScalarQuantizer:
    """Implements `base.Quantizer`: its levels are the rate codes."""

    excluded_options: Final[dict[str, tuple[object, ...]]] = {}

    def level_range(self, options: Options) -> int:
        """Return the number of rate codes."""
        return spaces.RATES

    def level(self, options: Options) -> int:
        """Return the rate code of the quality."""
        return options.rate

    def check_space(self, space: Space) -> None:
        """Accept every space."""

    def check_latent(self, latent: NDArray[np.float32], space: Space, level: int | None) -> None:
        """Raise ValueError for values beyond the largest symbol, which would otherwise be clipped silently.

        No autoencoder gives such values: the latent is not in the scale of its space, or something has diverged.
        """
        table = spaces.tables(space).log2_steps
        if level is not None:
            step = steps(table, level)
        else:  # Any rate may be tried: take the finest step of all.
            step = np.exp2(table.min(axis=0) / spaces.STEP_UNIT).astype(np.float32)
        found, limit = np.maximum(latent.max(axis=(1, 2)), -latent.min(axis=(1, 2))), MAX_SYMBOL * step
        if (found > limit).any():
            channel = int(np.argmax(found > limit))
            msg = (
                f"channel {channel} of the latent has a value of magnitude {found[channel]:.6g}; at this quality "
                f"at most {limit[channel]:.6g} can be stored"
            )
            raise ValueError(msg)

    def encode(
        self, latent: NDArray[np.float32], space: Space, level: int, choices: Choices, refine: Refine | None = None
    ) -> Coded:
        """Choose symbols at a rate code and code them by the payload method that gives fewest bytes."""
        return code(choose(latent, space, level, choices.tune, refine), space, level, choices.payloads)

    def decode(self, coded: Coded, space: Space, shape: tuple[int, int, int]) -> Quantized:
        """Return the symbols.  Raises MalformedError (K-01) if there is a palette, and what `entropy.decode` raises."""
        if coded.palette is not None:
            msg = "the scalar quantizer has no palette section (P)"
            raise MalformedError(msg, section="P", rule="K-01")
        table = spaces.tables(space).log2_steps
        symbols = entropy.decode(coded.latent, shape, coded.payload, space.name, log2_steps(table, coded.rate))
        return _quantized(symbols, space, coded.rate)
