"""Training photos: decoded once, kept in memory at a few sizes, cropped at random."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SCALES: Final = (1.0, 0.75, 0.5)
"""Sizes at which each photo is held.  The smaller ones hide the JPEG artefacts of the source."""

GRAY_SHARE: Final = 0.03
"""Share of crops that are turned to gray, so that gray pictures stay gray."""


def at_scale(image: Image.Image, scale: float) -> Image.Image:
    """Return an image at a scale."""
    if scale == 1:
        return image
    size = round(image.width * scale), round(image.height * scale)
    return image.resize(size, Image.Resampling.LANCZOS)


def middle(path: Path, crop: int, scale: float) -> np.ndarray:
    """Return the middle of a photo at a scale: uint8 (H, W, 3), at most `crop` pixels a side, sides multiples of 16."""
    image = at_scale(Image.open(path).convert("RGB"), scale)
    width, height = (min(crop, side) // 16 * 16 for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)))


def paths_of(folder: Path) -> list[Path]:
    """Return all photos below a folder, in the order of training.  Raises FileNotFoundError if there are none."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if not paths:
        msg = f"no .jpg or .png below {folder}"
        raise FileNotFoundError(msg)
    return paths


class Photos:
    """All photos below a folder, at all sizes that have room for a crop."""

    def __init__(self, folder: Path, crop: int) -> None:
        def load(path: Path) -> list[np.ndarray]:
            image = Image.open(path).convert("RGB")
            found = (np.asarray(at_scale(image, scale)) for scale in SCALES)
            return [photo for photo in found if min(photo.shape[:2]) >= crop]

        with ThreadPoolExecutor(2) as pool:
            self.photos = [sizes for sizes in pool.map(load, paths_of(folder)) if sizes]

    def __len__(self) -> int:
        return len(self.photos)

    def batch(self, count: int, size: int, generator: np.random.Generator) -> Tensor:
        """Return random crops in 0..1, float32 (count, 3, size, size)."""
        crops = []
        for _ in range(count):
            sizes = self.photos[generator.integers(len(self.photos))]
            photo = sizes[generator.integers(len(sizes))]
            top = generator.integers(photo.shape[0] - size + 1)
            left = generator.integers(photo.shape[1] - size + 1)
            crop = photo[top : top + size, left : left + size]
            if generator.random() < 0.5:
                crop = crop[:, ::-1]
            if generator.random() < 0.2:
                crop = crop.swapaxes(0, 1)
            if generator.random() < GRAY_SHARE:
                crop = np.repeat(crop.mean(2, keepdims=True).astype(np.uint8), 3, axis=2)
            crops.append(torch.from_numpy(crop.copy()))
        return torch.stack(crops).permute(0, 3, 1, 2).float().div_(255)
