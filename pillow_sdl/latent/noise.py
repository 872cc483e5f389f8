"""How much a quantizer changed a latent, which denoisers are told (SPEC 8.7).

The value is derived from the symbols of a file and never stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Noise(NamedTuple):
    """The error that a quantizer left in the values of a latent.

    deviation: root mean square of the error, in latent units, > 0.
    palette: True for the error of a palette, dithered or not.  False for the scalar quantizer, whose error is roughly
        uniform within one step.
    """

    deviation: float
    palette: bool


def of_steps(steps: NDArray[np.float32]) -> Noise:
    """Return the noise of the scalar quantizer with steps float32 (C,).

    The error is taken as uniform within a step, so its mean square is step^2 / 12.
    """
    return Noise(float(np.sqrt(np.square(steps, dtype=np.float64).mean() / 12)), palette=False)
