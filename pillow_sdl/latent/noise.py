"""What a quantiser did to a latent, as a denoiser is told: derived from the file's symbols, never stored (SPEC 8.7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Noise(NamedTuple):
    """deviation: root mean square of the error of a value, in latent units, > 0.

    palette: whether the error is a palette's, dithered or not; else it is about uniform within one step.
    """

    deviation: float
    palette: bool


def of_steps(steps: NDArray[np.float32]) -> Noise:
    """Of the scalar quantiser with steps float32 (C,): uniform within a step, mean square step^2 / 12."""
    return Noise(float(np.sqrt(np.square(steps, dtype=np.float64).mean() / 12)), palette=False)
