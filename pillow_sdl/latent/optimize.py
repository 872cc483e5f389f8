"""Which symbols to write for a latent: by what they cost in the file, and by what the decoder makes of them.

`choose` weighs the distance from the latent against the bits; `refine` moves the latent so that its symbols decode
nearer to the picture.  Both serve squared error.  A network that was trained with rounding to the nearest loses by
LPIPS where `choose` saves bits, so that is left to who asks for it.

Sources: rate-distortion optimised quantisation of H.264 and HEVC encoders (Sullivan and Wiegand 1998); fitting a latent
to one picture after Campos et al. 2019 (arXiv 1906.01223).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from . import context
from .quantize import MAX_SYMBOL, round_off

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

PACE: Final = 0.02
"""Part of Newton's step, for a curvature without its off-diagonal terms, that `refine` takes: they overlap widely."""

REACH: Final = 0.8
"""How far `refine` may move a value, in steps."""


def choose(scaled: NDArray[np.float32], space: str, log2_steps: NDArray[np.int64], weight: float) -> NDArray[np.int16]:
    """Symbols int16 (C, h, w) of a latent in units of its steps, float32 (C, h, w), finite.

    weight: squared steps that one bit is worth; 0 rounds to the nearest.
    A walk through the latent in the order of coding.  Each symbol is chosen among the two around its value and the
    next one towards zero: the least squared distance plus `weight` times the bits under the context model, which sees
    the choices made so far.  Channels count alike in units of their steps: the training set these where one more bit
    buys the same everywhere.
    """
    if not weight:
        return round_off(scaled)
    model, table = context.model(space), context.distributions()
    nearest = round_off(scaled)
    used = [index for index, group in enumerate(model.groups, 1) if nearest[group.channels].any()]
    symbols = np.zeros(scaled.shape, np.int16)
    walk = context.Walk(model, log2_steps, max(used, default=0), *scaled.shape[1:])
    for group, step, places in walk.places():
        channels = walk.groups[group].channels
        wanted = np.clip(scaled[channels][:, *places], -MAX_SYMBOL, MAX_SYMBOL).astype(np.float64)
        found = walk.predict(group, step)
        below = np.floor(wanted)
        middle = np.rint(wanted)
        candidates = np.stack([middle, 2 * below + 1 - middle, middle - np.sign(middle)]).astype(np.int64)
        candidates = np.clip(candidates, -MAX_SYMBOL, MAX_SYMBOL)
        cost = [(wanted - values) ** 2 + weight * context.lengths(found, table, values) for values in candidates]
        best = np.take_along_axis(candidates, np.argmin(cost, axis=0)[None], 0)[0]
        walk.learn(group, places, best)
        for channel, plane in zip(channels, best, strict=True):
            symbols[channel][places] = plane
    return symbols


def refine(
    scaled: NDArray[np.float32],
    passes: int,
    curvature: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    error: Callable[[NDArray[np.float32]], tuple[float, NDArray[np.float32]]],
) -> NDArray[np.float32]:
    """A latent whose nearest symbols decode nearer to the picture than those of `scaled`, or that latent itself.

    scaled: in units of its steps, float32 (C, h, w).   passes: at least 1; each asks for the error and its gradient.
    error: squared error of the picture that whole symbols, given as float32, decode to; its gradient, float32
    (C, h, w), by symbols.   curvature: second derivative of the error, float32 (C,), > 0, for symbols.
    """
    current = best = scaled
    least = np.inf
    for index in range(passes + 1):
        symbols = np.rint(current)
        found, gradient = error(symbols)
        if found < least:
            best, least = current, found
        if index == 0:
            pace = PACE / curvature(symbols)[:, None, None]
        if index < passes:
            current = np.clip(current - pace * gradient, scaled - REACH, scaled + REACH)
    return best
