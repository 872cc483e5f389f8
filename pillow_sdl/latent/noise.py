"""How much a quantizer changed a latent, which denoisers are told (SPEC 8.7).

The value is derived from the symbols of a file and never stored.
"""

from __future__ import annotations

from typing import NamedTuple


class Noise(NamedTuple):
    """The error that a quantizer left in the values of a latent.

    deviation: root mean square of the error, in latent units, > 0.
    palette: True for the error of a palette, dithered or not.  False for the scalar quantizer, whose error is roughly
        uniform within one step.
    """

    deviation: float
    palette: bool
