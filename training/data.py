"""Training photos: decoded once, kept in memory at a few sizes, cropped at random."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SCALES = (1.0, 0.75, 0.5)
"""Sizes at which each photo is held: smaller ones hide the JPEG artefacts of the source."""

GREY_SHARE = 0.03
"""Share of crops turned to grey, so that grey images stay grey."""


def _load(path: Path, smallest: int) -> list[np.ndarray]:
    image = Image.open(path).convert("RGB")
    found = []
    for scale in SCALES:
        size = round(image.width * scale), round(image.height * scale)
        if min(size) >= smallest:
            found.append(np.asarray(image if scale == 1 else image.resize(size, Image.Resampling.LANCZOS)))
    return found


def paths_of(folder: Path) -> list[Path]:
    """All photos below a folder, in the order in which training numbers them.  Raises FileNotFoundError for none."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
    if not paths:
        msg = f"no .jpg or .png below {folder}"
        raise FileNotFoundError(msg)
    return paths


class Photos:
    """All photos below a folder."""

    def __init__(self, folder: Path, crop: int) -> None:
        with ThreadPoolExecutor(2) as pool:
            loaded = pool.map(lambda path: _load(path, crop), paths_of(folder))
            self.photos = [sizes for sizes in loaded if sizes]

    def __len__(self) -> int:
        return len(self.photos)

    def batch(self, count: int, size: int, generator: np.random.Generator) -> Tensor:
        """`count` random crops: float32 (count, 3, size, size) in 0..1."""
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
            if generator.random() < GREY_SHARE:
                crop = np.repeat(crop.mean(2, keepdims=True).astype(np.uint8), 3, axis=2)
            crops.append(torch.from_numpy(crop.copy()))
        return torch.stack(crops).permute(0, 3, 1, 2).float().div_(255)
