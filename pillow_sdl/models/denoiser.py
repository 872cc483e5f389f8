"""Our own denoiser for the latents of Stable Diffusion's autoencoders, small enough for the wheel, in plain torch.

    quantised latent (B, 4, h, w)  ------------------------------------+
       | conv                                                          |
    1/1 112 x Block x 2 --------------------- + --> 112 x Block x 3    |
       | conv, stride 2                       ^ conv 1x1, shuffle 2    |
    1/2 176 x Block ------------------------- + --> 176 x Block   | conv
       | conv, stride 2                       ^ conv 1x1, shuffle 2    |
    1/4 216 x Block --------------------------+          x deviation   |
                                                               v       v
                                              latent (B, 4, h, w)  <-- +

It is told how far the quantiser moved the values, and whether that was a palette; what it gives is the latent plus a
correction in units of that deviation.  Trained by `training/denoiser.py` on what the quantisers really do, so one pass is
all: there is no noise schedule, and no noise is added.  Free of normalisation over space: what a position becomes depends
on a bounded neighbourhood (`MARGIN`), so that tiles join exactly.

Source: our own, a U-Net after Ronneberger et al. 2015 (arXiv 1505.04597) of the blocks of `embedded`.  Imports torch at
its top: only `models.store` imports this module.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from .embedded import Block

CHANNELS: Final = 4
NOISE_FEATURES: Final = 32
GRID: Final = 4
"""Positions on each axis that the coarsest level sees as one: tiles begin at multiples of it."""


class Denoiser(nn.Module):
    """Latent (B, 4, h, w) with sides of multiples of 4, deviation (B,) > 0, palette (B,) of 0 or 1 -> (B, 4, h, w)."""

    def __init__(
        self, widths: tuple[int, int, int] = (112, 176, 216), blocks: tuple[int, int, int, int, int] = (2, 1, 1, 1, 3)
    ) -> None:
        super().__init__()
        fine, middle, coarse = widths

        def run(count: int, channels: int) -> nn.ModuleList:
            return nn.ModuleList(Block(channels, NOISE_FEATURES) for _ in range(count))

        self.noise = nn.Sequential(
            nn.Linear(2, NOISE_FEATURES), nn.LeakyReLU(0.1), nn.Linear(NOISE_FEATURES, NOISE_FEATURES)
        )
        self.first = nn.Conv2d(CHANNELS, fine, 3, padding=1)
        self.down1 = run(blocks[0], fine)
        self.shrink1 = nn.Conv2d(fine, middle, 3, stride=2, padding=1)
        self.down2 = run(blocks[1], middle)
        self.shrink2 = nn.Conv2d(middle, coarse, 3, stride=2, padding=1)
        self.bottom = run(blocks[2], coarse)
        self.grow2 = nn.Sequential(nn.Conv2d(coarse, 4 * middle, 1), nn.PixelShuffle(2))
        self.up2 = run(blocks[3], middle)
        self.grow1 = nn.Sequential(nn.Conv2d(middle, 4 * fine, 1), nn.PixelShuffle(2))
        self.up1 = run(blocks[4], fine)
        self.last = nn.Conv2d(fine, CHANNELS, 3, padding=1)

    def forward(self, latent: Tensor, deviation: Tensor, palette: Tensor) -> Tensor:
        """See the class."""
        noise = self.noise(torch.stack([torch.log2(deviation) + 2, palette], 1))

        def through(blocks: nn.ModuleList, x: Tensor) -> Tensor:
            for block in blocks:
                x = block(x, noise)
            return x

        fine = through(self.down1, self.first(latent))
        middle = through(self.down2, self.shrink1(fine))
        coarse = through(self.bottom, self.shrink2(middle))
        middle = through(self.up2, middle + self.grow2(coarse))
        fine = through(self.up1, fine + self.grow1(middle))
        found: Tensor = latent + deviation[:, None, None, None] * self.last(fine)
        return found
