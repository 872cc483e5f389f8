"""Float model of the rate, used in training only: what a symbol costs, and the quantiser's steps.

The price is that of payload method 1: the float twin of its context model (`training.context.ContextModel`) is trained
with the autoencoder, on symbols with uniform noise whose contexts are the rounded ones, as a decoder has them.  For the
end of a run the twin rounds its weights and activations as the integer model does, so that what ships is what was
trained.

Sources: Balle et al. 2018 (arXiv 1802.01436) for the relaxation, Cui et al. 2021 (arXiv 2003.02012) for steps that
are interpolated between rates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from training.context import ContextModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

KNOTS: Final = 8
"""Rates at which the steps stand; between them they are interpolated linearly in their logarithm."""


def interpolate(table: Tensor, rate: Tensor) -> Tensor:
    """Rows of `table` (knots, C) at `rate` (B,) in 0..1, or a little beyond -> (B, C)."""
    position = rate * (len(table) - 1)
    low = position.floor().clamp(0, len(table) - 2).long()
    weight = (position - low)[:, None]
    return table[low] * (1 - weight) + table[low + 1] * weight


class RateModel(nn.Module):
    """Steps of the quantiser and the price of its symbols.

    log2_steps: float32 (KNOTS, C), log2 in latent units.   context: the twin that prices them.
    """

    def __init__(self, log2_steps: Tensor, context: ContextModel) -> None:
        super().__init__()
        self.log2_steps = nn.Parameter(log2_steps.clone())
        self.context = context

    @classmethod
    def from_tables(cls, log2_steps: np.ndarray, context: Mapping[str, np.ndarray], stretch: float = 1.0) -> RateModel:
        """A model that goes on from a space's tables.

        log2_steps: int16 (knots, C) in 1/256 octave, as `spaces.Tables` has them.   context: the integer table of the
        space (SPEC 8.6.3).   stretch: what becomes rate u was rate stretch * u, for a wider range of rates.
        """
        table = torch.from_numpy(log2_steps.astype("float32")) / 256
        rates = torch.linspace(0, 1, KNOTS) * stretch
        return cls(interpolate(table, rates), ContextModel.from_tensors(context))

    def octaves(self, rate: Tensor) -> Tensor:
        """log2 of the quantiser's steps at `rate` (B,) -> (B, C)."""
        return interpolate(self.log2_steps, rate)

    def steps(self, rate: Tensor) -> Tensor:
        """Quantiser steps at `rate` (B,) -> (B, C, 1, 1), in latent units."""
        return torch.exp2(self.octaves(rate))[:, :, None, None]

    def bits(self, symbols: Tensor, rate: Tensor, priced: Tensor | None = None) -> Tensor:
        """Bits (B,) of symbols (B, C, h, w).   priced: the symbols with noise, which are priced in their stead."""
        found: Tensor = self.context(symbols, self.octaves(rate), priced)
        return found


def quantize_noisy(latent: Tensor, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Latent (B, C, h, w) -> symbols with uniform noise (priced), symbols rounded, latent rounded with gradient."""
    scaled = latent / steps
    noisy = scaled + torch.rand_like(scaled) - 0.5
    rounded = scaled + (scaled.round() - scaled).detach()
    return noisy, rounded.detach(), rounded * steps
