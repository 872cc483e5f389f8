"""Choose the symbols to write for a latent, by their cost in bits and by the picture that they decode to.

`choose` weighs the distance from the latent against the bits.  `refine` moves the latent so that its symbols decode
closer to the picture.  Both minimize squared error.  With a network that was trained with rounding to the nearest
symbol, `choose` loses more in LPIPS than its saved bits are worth, so it runs only on request.

Sources: rate-distortion optimized quantization in H.264 and HEVC encoders (Sullivan and Wiegand 1998); fitting a latent
to one picture, after Campos et al. 2019 (arXiv 1906.01223).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from .. import progress
from . import context
from .rounding import MAX_SYMBOL, round_to_nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

PACE: Final = 0.02
"""Fraction of a Newton step that `refine` takes.

It is small because the curvature lacks off-diagonal terms, and the values of a latent overlap widely in the picture.
"""

REACH: Final = 0.8
"""Largest distance that `refine` moves a value, in quantizer steps."""


def choose(scaled: NDArray[np.float32], space: str, log2_steps: NDArray[np.int64], weight: float) -> NDArray[np.int16]:
    """Choose symbols int16 (C, h, w) for a latent by rate-distortion optimization.

    scaled: the latent in units of its steps, float32 (C, h, w), finite.
    space: name of the latent space.
    log2_steps: int64 (C,), 256 * log2 of the step sizes.
    weight: squared steps that one bit is worth; 0 rounds to the nearest symbol.

    The function walks through the latent in coding order.  For each value it considers the two symbols around it and
    the next one towards zero, and takes the one with the least squared distance plus `weight` times the bits.  The bits
    are those of the context model, given the choices made so far.  All channels have the same weight in units of their
    steps, because training chose the steps so that one more bit gains the same in every channel.
    """
    if not weight:
        return round_to_nearest(scaled)
    model, table = context.model(space), context.distributions()
    nearest = round_to_nearest(scaled)
    used = [index for index, group in enumerate(model.groups, 1) if nearest[group.channels].any()]
    symbols = np.zeros(scaled.shape, np.int16)
    walk = context.Walk(model, log2_steps, max(used, default=0), *scaled.shape[1:])
    for group, pass_, places in walk.places():
        channels = walk.groups[group].channels
        wanted = np.clip(scaled[channels][:, *places], -MAX_SYMBOL, MAX_SYMBOL).astype(np.float64)
        found = walk.predict(group, pass_)
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
    """Return a latent whose nearest symbols decode closer to the picture than those of `scaled`.

    Returns `scaled` itself if no better latent is found.

    scaled: the latent in units of its steps, float32 (C, h, w).
    passes: number of gradient steps, at least 1.  `error` is called once more than that.
    curvature: returns, for whole symbols as float32 (C, h, w), the second derivative of the error by a symbol of each
        channel, float32 (C,), > 0.
    error: returns, for whole symbols as float32 (C, h, w), the squared error of the picture that they decode to, and
        its gradient by the symbols, float32 (C, h, w).
    """
    current = best = scaled
    least = np.inf
    for index in range(passes + 1):
        symbols = np.rint(current)
        with progress.part(index / (passes + 1), (index + 1) / (passes + 1)):
            found, gradient = error(symbols)
        if found < least:
            best, least = current, found
        if index == 0:
            pace = PACE / curvature(symbols)[:, None, None]
        if index < passes:
            current = np.clip(current - pace * gradient, scaled - REACH, scaled + REACH)
    return best
