"""PSNR and SSIM of two pictures, with NumPy alone.

SSIM: Wang, Bovik, Sheikh and Simoncelli 2004, "Image quality assessment: from error visibility to structural
similarity", IEEE Transactions on Image Processing 13(4), doi:10.1109/TIP.2003.819861, with the constants of section
III.C.  Both metrics compare pixel by pixel: detail that a decoder invents counts as an error, however natural it looks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..fidelity_map import LUMA

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.floating[Any]]

WINDOW: Final = 11
SIGMA: Final = 1.5
"""Side, in pixels, and standard deviation of SSIM's Gaussian window."""

C1: Final = (0.01 * 255) ** 2
C2: Final = (0.03 * 255) ** 2


def psnr(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio over all samples in dB, infinite for equal pictures of one shape."""
    error = float(np.square(first.astype(np.float32) - second).mean(dtype=np.float64))
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float | None:
    """Return the structural similarity of the luma of two pictures, at most 1, which equal pictures have.

    first, second: uint8 (H, W) or (H, W, 3).  Returns None if a side is shorter than the window of 11 pixels.
    """
    if min(first.shape[:2]) < WINDOW:
        return None
    x, y = _luma(first), _luma(second)
    mean_x, mean_y = _blurred(x), _blurred(y)
    variances = _blurred(x * x + y * y) - mean_x**2 - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return float((luminance * (2 * covariance + C2) / (variances + C2)).mean())


def _luma(pixels: NDArray[np.uint8]) -> Floats:
    """Return the gray values, float64 (H, W).  In float32 the variance of flat areas would be too inexact."""
    values = pixels.astype(np.float64)
    return values if values.ndim == 2 else values @ np.array(LUMA)


def _blurred(values: Floats) -> Floats:
    """Return the weighted means over the window wherever it fits: (H - 10, W - 10)."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    height, width = (side - WINDOW + 1 for side in values.shape)
    rows: Floats = sum(weight * values[index : index + height] for index, weight in enumerate(weights))
    result: Floats = sum(weight * rows[:, index : index + width] for index, weight in enumerate(weights))
    return result
