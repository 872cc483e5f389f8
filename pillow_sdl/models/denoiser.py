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

import math
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from .embedded import Block, as_parameter
from .tiled import map_latent, on_device

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from ..latent.noise import Noise
    from .store import Progress

CHANNELS: Final = 4
NOISE_FEATURES: Final = 32
STEPS: Final = (0.2, 1.7)
"""Least and largest step of the scalar quantiser that it is trained with, in latent units."""

GRID: Final = 4
"""Positions on each axis that the coarsest level sees as one: tiles begin at multiples of it."""

MARGIN: Final = 32
"""Latent positions that the network sees on each side of one: its receptive field, rounded up to the grid."""

CORE: Final = 256
"""Latent positions along a side of a tile that are kept."""


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
        told = deviation.clamp(*(step / math.sqrt(12) for step in STEPS))
        noise = self.noise(torch.stack([torch.log2(told) + 2, palette], 1))

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


class SmallDenoiser:
    """The network with its weights, on a device, from arrays to arrays.  Implements `store.Denoiser`.

    Runs in float32 whatever the weights are stored in.  Deterministic on one machine and number of threads.
    """

    def __init__(self, name: str, tensors: Mapping[str, NDArray[np.generic]], device: str) -> None:
        """name: what `image.info` says of it.   tensors: as stored.   device: see `settings.Settings`.

        Raises ValueError if the device is not to be had.
        """
        self.name = name
        with torch.device("meta"):
            network = Denoiser()
        network.load_state_dict({key: as_parameter(tensor) for key, tensor in tensors.items()}, assign=True)
        network.requires_grad_(requires_grad=False)
        self._network, self._device = on_device(network.eval(), device)

    def denoise(
        self, latent: NDArray[np.float32], noise: Noise, steps: int, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """See `store.Denoiser`; one call is all that there is."""
        deviation, palette = (torch.tensor([float(value)], device=self._device) for value in noise)

        def compute(piece: Tensor) -> Tensor:
            found: Tensor = self._network(piece, deviation, palette)
            return found

        return map_latent(compute, latent, self._device, (MARGIN, CORE, GRID), exact=True, progress=progress)
