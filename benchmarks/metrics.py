"""Image-quality metrics on torch tensors: PSNR, MS-SSIM, LPIPS and DISTS.

Pixels are float32 (B, 3, H, W) in 0..1.  The project has its own implementations because the packaged ones (lpips, piq,
pyiqa, torchmetrics) download the weights of their networks at run time.  Here the caller gives a folder with the
published weights, in these files:

- lpips_alex.safetensors: AlexNet's convolutions, conv0 to conv4, and the linear heads of LPIPS 0.1, lin0 to lin4.
- vgg16_fp16.safetensors: VGG-16's convolutions, conv0 to conv12.
- dists.safetensors: the weights alpha and beta of DISTS, (1, 1475, 1, 1) each.

Training also needs gradients, and features of a reference that are computed once.

Sources: LPIPS, Zhang et al. 2018 (arXiv 1801.03924), version 0.1, AlexNet; DISTS, Ding et al. 2020 (arXiv 2004.07728);
MS-SSIM, Wang, Simoncelli and Bovik 2003, "Multiscale structural similarity for image quality assessment".
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

# Mean and standard deviation of ImageNet, for pixels in 0..1, and the same numbers as LPIPS rounds them, for -1..1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LPIPS_SHIFT = (-0.030, -0.088, -0.188)
LPIPS_SCALE = (0.458, 0.448, 0.450)

# MS-SSIM: exponents of the five scales, finest first; the window; the constants for pixels in 0..1.
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW = 11
WINDOW_SIGMA = 1.5
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2
SMALLEST_SIDE = WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)
"""Fewest pixels along a side: the coarsest scale then has room for one window, 11 x 16 = 176."""


def _per_channel(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image in dB, (B,)."""
    return -10 * torch.log10((x - y).square().mean((1, 2, 3)))


def _blurred(x: Tensor) -> Tensor:
    """Return the weighted means over the Gaussian window wherever it fits: (B, C, H - 10, W - 10)."""
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    window = torch.exp(-offsets.square() / (2 * WINDOW_SIGMA**2))
    kernel = (window / window.sum()).expand(x.shape[1], 1, 1, WINDOW)
    x = F.conv2d(x, kernel, groups=x.shape[1])
    return F.conv2d(x, kernel.mT, groups=x.shape[1])


def _similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return SSIM, and its factors contrast and structure without luminance, as means over the image, (B, C) each."""
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x = _blurred(x.square()) - mean_x.square()
    var_y = _blurred(y.square()) - mean_y.square()
    covariance = _blurred(x * y) - mean_x * mean_y
    contrast = (2 * covariance + SSIM_C2) / (var_x + var_y + SSIM_C2)
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x.square() + mean_y.square() + SSIM_C1)
    return (luminance * contrast).mean((2, 3)), contrast.mean((2, 3))


def ms_ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the multi-scale structural similarity, mean over the channels: (B,), 1 for equal images.

    A scale that correlates negatively counts as 0, because a negative number has no real fractional power.
    Raises ValueError for images with a side below 176 pixels.
    """
    if min(x.shape[-2:]) < SMALLEST_SIDE:
        msg = f"MS-SSIM needs {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels or more, not {x.shape[-1]} x {x.shape[-2]}"
        raise ValueError(msg)
    # In flat areas the variance is a difference of nearly equal squares, and float32 would be 2e-4 off.
    x, y = x.double(), y.double()
    result = x.new_ones(x.shape[:2])
    for scale, weight in enumerate(SCALE_WEIGHTS):
        if scale:
            # An odd last row or column is averaged with itself, as in the authors' program.
            x, y = (F.avg_pool2d(image, 2, ceil_mode=True) for image in (x, y))
        ssim, contrast = _similarity(x, y)
        coarsest = scale == len(SCALE_WEIGHTS) - 1
        result = result * (ssim if coarsest else contrast).clamp(min=0) ** weight
    return result.mean(1).float()


class Lpips(nn.Module):
    """LPIPS 0.1 with AlexNet.  Distances are (B,), 0 for equal images.   folder: of the weights."""

    shift: Tensor
    scale: Tensor

    def __init__(self, folder: Path) -> None:
        super().__init__()
        for name, tensor in load_file(folder / "lpips_alex.safetensors").items():
            self.register_buffer(name.replace(".", "_"), tensor)
        self.register_buffer("shift", _per_channel(LPIPS_SHIFT))
        self.register_buffer("scale", _per_channel(LPIPS_SCALE))

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Return the features of AlexNet's five convolutions, scaled to unit length."""
        x = (2 * pixels - 1 - self.shift) / self.scale
        found = []
        for index, (stride, padding, pool) in enumerate(
            [(4, 2, False), (1, 2, True), (1, 1, True), (1, 1, False), (1, 1, False)]
        ):
            if pool:
                x = F.max_pool2d(x, 3, 2)
            weight, bias = getattr(self, f"conv{index}_weight"), getattr(self, f"conv{index}_bias")
            x = F.relu(F.conv2d(x, weight, bias, stride, padding))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distances of two batches of images, pairwise."""
        return self.distance(self.features(x), self.features(y))

    def distance(self, x: list[Tensor], y: list[Tensor]) -> Tensor:
        """Return the distances of images whose features are given."""
        total = x[0].new_zeros(len(x[0]))
        for index, (a, b) in enumerate(zip(x, y, strict=True)):
            difference = F.conv2d((a - b).square(), getattr(self, f"lin{index}_weight"))
            total = total + difference.mean((1, 2, 3))
        return total


class Dists(nn.Module):
    """DISTS on VGG-16 with L2 pooling.  Distances are (B,), 0 for equal images.   folder: of the weights."""

    alpha: Tensor
    beta: Tensor
    mean: Tensor
    std: Tensor
    hanning: Tensor

    STAGES = ((0, 1), (2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12))

    def __init__(self, folder: Path) -> None:
        super().__init__()
        for name, tensor in load_file(folder / "vgg16_fp16.safetensors").items():
            if name.startswith("conv"):
                self.register_buffer(name.replace(".", "_"), tensor.float())
        weights = load_file(folder / "dists.safetensors")
        total = weights["alpha"].sum() + weights["beta"].sum()
        self.register_buffer("alpha", weights["alpha"] / total)
        self.register_buffer("beta", weights["beta"] / total)
        self.register_buffer("mean", _per_channel(IMAGENET_MEAN))
        self.register_buffer("std", _per_channel(IMAGENET_STD))
        window = torch.hann_window(5, periodic=False)[1:-1]
        kernel = window[:, None] * window[None, :]
        self.register_buffer("hanning", (kernel / kernel.sum())[None, None])

    def _l2_pool(self, x: Tensor) -> Tensor:
        kernel = self.hanning.expand(x.shape[1], 1, -1, -1)
        return (F.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Return the pixels and the last activation of each of VGG-16's five stages."""
        found = [pixels]
        x = (pixels - self.mean) / self.std
        for stage in self.STAGES:
            if stage[0]:
                x = self._l2_pool(x)
            for index in stage:
                weight, bias = getattr(self, f"conv{index}_weight"), getattr(self, f"conv{index}_bias")
                x = F.relu(F.conv2d(x, weight, bias, padding=1))
            found.append(x)
        return found

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distances of two batches of images, pairwise."""
        return self.distance(self.features(x), self.features(y))

    def distance(self, x: list[Tensor], y: list[Tensor]) -> Tensor:
        """Return the distances of images whose features are given."""
        c1 = c2 = 1e-6
        similarity = x[0].new_zeros(len(x[0]))
        start = 0
        for a, b in zip(x, y, strict=True):
            alpha = self.alpha[:, start : start + a.shape[1]]
            beta = self.beta[:, start : start + a.shape[1]]
            start += a.shape[1]
            mean_a, mean_b = a.mean((2, 3), keepdim=True), b.mean((2, 3), keepdim=True)
            texture = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
            var_a = (a - mean_a).square().mean((2, 3), keepdim=True)
            var_b = (b - mean_b).square().mean((2, 3), keepdim=True)
            covariance = (a * b).mean((2, 3), keepdim=True) - mean_a * mean_b
            structure = (2 * covariance + c2) / (var_a + var_b + c2)
            similarity = similarity + (alpha * texture + beta * structure).sum((1, 2, 3))
        return 1 - similarity
