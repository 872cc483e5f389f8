"""Float model of the rate, used in training only: what a symbol costs, and the quantiser's steps.

Two prices are put on the same symbols.  `factorized`: one distribution per channel and rate, which is about what
zstd achieves on planar symbols.  `context`: the same distribution moved and scaled by a small network that sees
symbols decoded earlier (three groups of channels, each in two checkerboard passes), the float twin of an integer
context coder.  Training on a mixture of both keeps the latent cheap for either.

Sources: Balle et al. 2018 (arXiv 1802.01436) for the relaxation, He et al. 2021 (arXiv 2103.15306) for the
checkerboard, Cui et al. 2021 (arXiv 2003.02012) for gains that are interpolated between rates.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from pillow_sdl.models.embedded import LATENT_CHANNELS

KNOTS: Final = 8
"""Rates at which the tables stand; between them they are interpolated linearly (steps: in their logarithm)."""

GROUPS: Final = 3
HIDDEN: Final = 96


def interpolate(table: Tensor, rate: Tensor) -> Tensor:
    """Rows of `table` (KNOTS, C) at `rate` (B,) in 0..1 -> (B, C, 1, 1)."""
    position = rate * (len(table) - 1)
    low = position.floor().clamp(0, len(table) - 2).long()
    weight = (position - low)[:, None]
    return (table[low] * (1 - weight) + table[low + 1] * weight)[:, :, None, None]


def _probability(distance: Tensor, scale: Tensor) -> Tensor:
    """Probability of the unit-wide bin whose centre lies `distance` from a logistic's mean."""
    d = distance.abs()
    return torch.sigmoid((0.5 - d) / scale) - torch.sigmoid((-0.5 - d) / scale)


def _code_length(probability: Tensor) -> Tensor:
    return -torch.log2(probability.clamp_min(1e-9))


class RateModel(nn.Module):
    """Steps of the quantiser and the two prices of its symbols."""

    def __init__(self) -> None:
        super().__init__()
        ramp = torch.linspace(2.0, -1.5, KNOTS)[:, None].expand(KNOTS, LATENT_CHANNELS)
        self.log2_steps = nn.Parameter(ramp.clone())
        self.mean = nn.Parameter(torch.zeros(KNOTS, LATENT_CHANNELS))
        self.log_narrow = nn.Parameter(torch.full((KNOTS, LATENT_CHANNELS), -1.5))
        self.log_wide = nn.Parameter(torch.full((KNOTS, LATENT_CHANNELS), 0.0))
        self.mixture = nn.Parameter(torch.zeros(KNOTS, LATENT_CHANNELS))
        size = LATENT_CHANNELS // GROUPS
        self.context = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d((group + 1) * size + 2, HIDDEN, 3, padding=1),
                nn.LeakyReLU(0.1),
                nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1),
                nn.LeakyReLU(0.1),
                nn.Conv2d(HIDDEN, 2 * size, 1),
            )
            for group in range(GROUPS)
        )
        for network in self.context:
            for parameter in list(network.parameters())[-2:]:  # Weight and bias of its last layer.
                nn.init.zeros_(parameter)

    def steps(self, rate: Tensor) -> Tensor:
        """Quantiser steps at `rate` (B,) -> (B, C, 1, 1), in latent units."""
        return torch.exp2(interpolate(self.log2_steps, rate))

    def factorized(self, symbols: Tensor, rate: Tensor) -> Tensor:
        """Bits of each symbol (B, C, h, w) under its channel's own distribution."""
        distance = symbols - interpolate(self.mean, rate)
        narrow = _probability(distance, interpolate(self.log_narrow, rate).exp())
        wide = _probability(distance, interpolate(self.log_wide, rate).exp())
        weight = torch.sigmoid(interpolate(self.mixture, rate))
        return _code_length(weight * narrow + (1 - weight) * wide)

    def conditional(self, symbols: Tensor, decoded: Tensor, rate: Tensor) -> Tensor:
        """Bits of each symbol given those that a decoder knows by then.

        symbols: the (noisy) symbols priced.  decoded: the same, rounded: what contexts are made of.
        """
        batch, _, height, width = symbols.shape
        rows = torch.arange(height, device=symbols.device)[:, None]
        columns = torch.arange(width, device=symbols.device)[None, :]
        anchors = ((rows + columns) % 2 == 0).to(symbols.dtype)[None, None]
        rate_plane = rate[:, None, None, None].expand(batch, 1, height, width)
        size = LATENT_CHANNELS // GROUPS
        base_mean, base_scale = interpolate(self.mean, rate), interpolate(self.log_wide, rate)
        bits = []
        for group, network in enumerate(self.context):
            own = slice(group * size, (group + 1) * size)
            earlier = decoded[:, : group * size]
            first, second = [
                network(torch.cat([earlier, decoded[:, own] * known, known.expand_as(rate_plane), rate_plane], 1))
                for known in (torch.zeros_like(anchors), anchors)
            ]
            shift, log_scale = (anchors * first + (1 - anchors) * second).chunk(2, dim=1)
            distance = symbols[:, own] - base_mean[:, own] - shift
            scale = (base_scale[:, own] + log_scale).clamp(-4, 6).exp()
            bits.append(_code_length(_probability(distance, scale)))
        return torch.cat(bits, 1)


def quantize_noisy(latent: Tensor, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Latent (B, C, h, w) -> symbols with uniform noise (priced), symbols rounded, latent rounded with gradient."""
    scaled = latent / steps
    noisy = scaled + torch.rand_like(scaled) - 0.5
    rounded = scaled + (scaled.round() - scaled).detach()
    return noisy, rounded.detach(), rounded * steps
