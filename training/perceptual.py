"""LPIPS and DISTS as losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.metrics import Dists, Lpips
from training.loop import channels_last

if TYPE_CHECKING:
    from pathlib import Path

GRID = 4
"""Distance in pixels between the places that AlexNet's first layer looks at."""


class Perceptual:
    """Both metrics on a device.   folder: of their weights.   crops: crops of a batch that DISTS sees; 0: none."""

    def __init__(self, folder: Path, device: torch.device, crops: int) -> None:
        self.crops = crops
        self.lpips = Lpips(folder).to(device)
        self.dists = channels_last(Dists(folder)).to(device)

    def __call__(self, output: Tensor, pixels: Tensor, offset: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return LPIPS (B,), and DISTS of the first crops (n,), of pictures (B, 3, H, W) in 0..1.

        offset: pixels in 0..3 that LPIPS leaves out at the top and at the left.  LPIPS looks at every fourth pixel.
        An offset that changes with every step leaves the decoder no blind spots to hide artefacts in.
        """
        top, left = offset
        with torch.autocast(pixels.device.type, enabled=False):
            lpips = self.lpips(output[:, :, top:, left:], pixels[:, :, top:, left:])
        return lpips, self._dists(output[: self.crops], pixels[: self.crops])

    def _dists(self, output: Tensor, pixels: Tensor) -> Tensor:
        """Return DISTS with features in the type of autocast, and statistics in float32."""
        if not len(output):
            return output.new_zeros(0)
        with torch.no_grad():
            reference = [feature.float() for feature in self.dists.features(pixels)]
        features = [feature.float() for feature in self.dists.features(output)]
        with torch.autocast(pixels.device.type, enabled=False):
            return self.dists.distance(features, reference)
