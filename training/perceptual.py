"""LPIPS and DISTS as losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.metrics import Dists, Lpips
from training.loop import channels_last

if TYPE_CHECKING:
    from pathlib import Path

GRID: Final = 4
"""Distance in pixels between the places that AlexNet's first layer looks at."""


class FastDists(Dists):
    """DISTS with VGG's convolutions in bfloat16 and the statistics in float32.   folder: of the weights.

    The sides of pictures must be multiples of 16.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        for name, tensor in self.named_buffers():
            if name.startswith("conv"):
                found = tensor.bfloat16()
                setattr(self, name, found.contiguous(memory_format=torch.channels_last) if found.ndim == 4 else found)

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Return the pixels, float32, and the last activation of each of VGG-16's five stages, bfloat16."""
        found = [pixels]
        x = ((pixels - self.mean) / self.std).bfloat16()
        for stage in self.STAGES:
            if stage[0]:
                # The window of 3 x 3 is two windows of 2 x 2, one after the other, which are faster.
                x = F.avg_pool2d(F.pad(x.square(), (1, 0, 1, 0)), 2, 1)
                x = (F.avg_pool2d(x, 2, 2) + 1e-12).sqrt()
            for index in stage:
                weight, bias = getattr(self, f"conv{index}_weight"), getattr(self, f"conv{index}_bias")
                x = F.relu(F.conv2d(x, weight, bias, padding=1))
            found.append(x)
        return found

    def distance(self, x: list[Tensor], y: list[Tensor]) -> Tensor:
        """Return the distances (B,) of images whose features are given."""
        return super().distance([a.float() for a in x], [b.float() for b in y])


class Perceptual:
    """Both metrics on a device.

    folder: of their weights.   crops: crops of a batch that DISTS sees; 0: none.   float32: no bfloat16 in DISTS.
    compiled: compile DISTS' statistics, which needs a C++ compiler.  A step of training then takes a fifth less time.
    """

    def __init__(
        self, folder: Path, device: torch.device, crops: int, *, float32: bool = False, compiled: bool = False
    ) -> None:
        self.crops = crops
        self.lpips = Lpips(folder).to(device)
        self.dists = channels_last(Dists(folder) if float32 else FastDists(folder)).to(device)
        self._distance = torch.compile(self.dists.distance, dynamic=False) if compiled else self.dists.distance

    def __call__(self, output: Tensor, pixels: Tensor, offset: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return LPIPS (B,), and DISTS of the first crops (n,), of pictures (B, 3, H, W) in 0..1.

        Only `output` gets a gradient.
        offset: pixels in 0..3 that LPIPS leaves out at the top and at the left.  LPIPS looks at every fourth pixel.
        An offset that changes with every step leaves the decoder no blind spots to hide artefacts in.
        """
        top, left = offset
        with torch.autocast(pixels.device.type, enabled=False):
            lpips = self.lpips(output[:, :, top:, left:], pixels[:, :, top:, left:])
            if not self.crops:
                return lpips, lpips.new_zeros(0)
            with torch.no_grad():
                reference = self.dists.features(pixels[: self.crops])
            return lpips, self._distance(self.dists.features(output[: self.crops]), reference)
