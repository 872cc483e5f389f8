"""Float model of the rate, used in training only: what a symbol costs, and the quantizer's steps.

The price is that of the payload method "range".  The float twin of its context model (`training.twin.ContextModel`) is
trained with the autoencoder, on symbols with uniform noise.  The contexts of these symbols are rounded, as a decoder
has them.  In the last part of a run the twin rounds its weights and activations as the integer model does, so that the
shipped model is the trained one.

Sources: Balle et al. 2018 (arXiv 1802.01436) for the relaxation; Cui et al. 2021 (arXiv 2003.02012) for steps that
are interpolated between rates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from pillow_sdl.latent.spaces import STEP_UNIT
from training.twin import ContextModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

KNOTS: Final = 8
"""Number of rates for which steps are trained.  Between them the logarithm of a step is interpolated linearly."""


def interpolate(table: Tensor, rate: Tensor) -> Tensor:
    """Return the rows of a table (knots, C) at rates (B,) in 0..1: (B, C).  Rates a little beyond are extrapolated."""
    position = rate * (len(table) - 1)
    low = position.floor().clamp(0, len(table) - 2).long()
    weight = (position - low)[:, None]
    return table[low] * (1 - weight) + table[low + 1] * weight


class RateModel(nn.Module):
    """Steps of the quantizer, and the price of its symbols.

    log2_steps: float32 (KNOTS, C), log2 in latent units.   context: the twin that prices symbols.
    """

    def __init__(self, log2_steps: Tensor, context: ContextModel) -> None:
        super().__init__()
        self.log2_steps = nn.Parameter(log2_steps.clone())
        self.context = context

    @classmethod
    def from_tables(cls, log2_steps: np.ndarray, context: Mapping[str, np.ndarray]) -> RateModel:
        """Return the model of a latent space that ships.

        log2_steps: int16 (knots, C) in 1/256 octave, as `spaces.Tables` has them.   context: the integer table of the
        space (SPEC 8.6.3).
        """
        table = torch.from_numpy(log2_steps.astype("float32")) / STEP_UNIT
        return cls(interpolate(table, torch.linspace(0, 1, KNOTS)), ContextModel.from_tensors(context))

    def octaves(self, rate: Tensor) -> Tensor:
        """Return log2 of the quantizer's steps at rates (B,): (B, C)."""
        return interpolate(self.log2_steps, rate)

    def steps(self, rate: Tensor) -> Tensor:
        """Return the quantizer's steps at rates (B,), in latent units: (B, C, 1, 1)."""
        return torch.exp2(self.octaves(rate))[:, :, None, None]

    def bits(self, symbols: Tensor, rate: Tensor, priced: Tensor | None = None) -> Tensor:
        """Return the bits (B,) that symbols (B, C, h, w) cost at rates (B,).

        priced: symbols with noise, whose price is wanted; the contexts come from `symbols`.  None for `symbols`.
        """
        found: Tensor = self.context(symbols, self.octaves(rate), priced)
        return found


def quantize_noisy(latent: Tensor, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Quantize a latent (B, C, h, w) in three ways.

    Returns the symbols with uniform noise, which are priced; the rounded symbols; and the latent that a decoder gets,
    whose gradient is that of no rounding.
    """
    scaled = latent / steps
    noisy = scaled + torch.rand_like(scaled) - 0.5
    rounded = scaled + (scaled.round() - scaled).detach()
    return noisy, rounded.detach(), rounded * steps
