"""The package's own denoiser for latents of Stable Diffusion's autoencoders, small enough to ship in the wheel.

    quantized latent (B, 4, h, w)  ------------------------------------+
       | conv                                                          |
    1/1 112 x Block x 2 --------------------- + --> 112 x Block x 3    |
       | conv, stride 2                       ^ conv 1x1, shuffle 2    |
    1/2 176 x Block ------------------------- + --> 176 x Block   | conv
       | conv, stride 2                       ^ conv 1x1, shuffle 2    |
    1/4 216 x Block --------------------------+          x deviation   |
                                                               v       v
                                              latent (B, 4, h, w)  <-- +

The network is told the deviation of the quantizer's error, and whether the quantizer is the palette.  It returns the
latent plus a correction in units of that deviation.  `training/denoiser.py` trains it on the errors that the quantizers
really make, so one call is enough: there is no noise schedule, and no noise is added.  There is no normalization over
space, so each position depends on a bounded neighborhood (`MARGIN`) and tiles join exactly.

Source: own design, a U-Net after Ronneberger et al. 2015 (arXiv 1505.04597), built from the blocks of `embedded`.
This module imports torch, so import it only when a network is needed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from .embedded import Block, as_parameter
from .pytorch import map_latent, on_device

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from ...latent.noise import Noise

CHANNELS: Final = 4
NOISE_FEATURES: Final = 32
STEPS: Final = (0.2, 1.7)
"""Smallest and largest step of the scalar quantizer in training, in latent units."""

GRID: Final = 4
"""Latent positions on each axis that the coarsest level merges into one.  Tiles begin at multiples of this number."""

MARGIN: Final = 32
"""Latent positions that the network sees on each side of one position, rounded up to a multiple of `GRID`."""

CORE: Final = 256
"""Latent positions along each side of a tile's core."""


class DenoiserNetwork(nn.Module):
    """The network without the code that runs it on arrays.

    widths: channels at 1/1, 1/2 and 1/4 of the size.
    blocks: residual blocks at 1/1, 1/2 and 1/4 on the way down, then at 1/2 and 1/1 on the way up.
    """

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
        """Denoise a latent (B, 4, h, w), whose sides are multiples of 4.  The result has the same shape.

        deviation: (B,), > 0, standard deviation of the quantizer's error in latent units.
        palette: (B,), 1 for the palette quantizer, 0 for the scalar quantizer.
        """
        clamped = deviation.clamp(*(step / math.sqrt(12) for step in STEPS))
        noise = self.noise(torch.stack([torch.log2(clamped) + 2, palette], 1))

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
    """The network with its weights on a device.  Takes and returns arrays.  Implements `base.Denoiser`.

    Computes in float32, whatever the dtype of the stored weights.  Deterministic on one machine and for one number of
    threads.
    """

    def __init__(self, name: str, tensors: Mapping[str, NDArray[np.generic]], device: str) -> None:
        """Build the network and load its weights.

        name: name of the denoiser in `image.info`.   tensors: the stored weights.   device: see `settings.Settings`.
        Raises ValueError if the device is not available.
        """
        self.name = name
        with torch.device("meta"):
            network = DenoiserNetwork()
        network.load_state_dict({key: as_parameter(tensor) for key, tensor in tensors.items()}, assign=True)
        network.requires_grad_(requires_grad=False)
        self._network, self._device = on_device(network.eval(), device)

    def denoise(self, latent: NDArray[np.float32], noise: Noise, steps: int) -> NDArray[np.float32]:
        """Return a latent float32 (C, h, w) without the quantizer's error, in the same shape.

        The network is called once, so `steps` is ignored.
        """
        deviation, palette = (torch.tensor([float(value)], device=self._device) for value in noise)

        def compute(piece: Tensor) -> Tensor:
            found: Tensor = self._network(piece, deviation, palette)
            return found

        return map_latent(compute, latent, self._device, (MARGIN, CORE, GRID), exact=True)
