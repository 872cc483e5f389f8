"""A folder of .sdl files as a data set of latents, as a training script of a diffusion model wants it.

    python -m examples.dataset FOLDER        # what such a script needs to know first: mean and deviation of the channels

Needs torch, and no autoencoder: reading a latent takes milliseconds, in as many worker processes as there are cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import pillow_sdl


class LatentFolder(Dataset[Tensor]):
    """Latents float32 (C, side, side) of all .sdl files below a folder, in the order of their names.

    side: of the square that is cut out of each latent at a random place, in latent positions: what batches are made of.
    Places follow torch's random numbers, so that `torch.manual_seed` fixes them, in workers too.
    """

    def __init__(self, folder: Path, side: int) -> None:
        """Reads all headers.  Raises ValueError for a folder without files, for files of several latent spaces, and
        for one that is too small.
        """
        self._paths = sorted(folder.rglob("*.sdl"))
        self._side = side
        spaces = set()
        for path in self._paths:
            found = pillow_sdl.latents(path)
            spaces.add(found.space)
            if min(found.latent.shape[1:]) < side:
                msg = f"{path} has {found.latent.shape[2]} x {found.latent.shape[1]} latent positions, fewer than {side}"
                raise ValueError(msg)
        if len(spaces) != 1:
            msg = f"{folder} must hold .sdl files of one latent space; found: {', '.join(sorted(spaces)) or 'no file'}"
            raise ValueError(msg)
        (self.space,) = spaces

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        latent = torch.from_numpy(pillow_sdl.latents(self._paths[index]).latent)
        top, left = (int(torch.randint(side - self._side + 1, ())) for side in latent.shape[1:])
        return latent[:, top : top + self._side, left : left + self._side]


def statistics(dataset: LatentFolder, workers: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over a data set, float64 (C,) each."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in DataLoader(dataset, batch_size=8, num_workers=workers):
        values = batch.double().transpose(0, 1).flatten(1)
        count += values.shape[1]
        total = total + values.sum(1)
        squares = squares + values.square().sum(1)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0).sqrt()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="Mean and deviation of the channels of a folder's latents.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=32, help="latent positions, default %(default)s")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    dataset = LatentFolder(options.folder, options.side)
    print(f"{len(dataset)} latents of the space {dataset.space}")
    for channel, (mean, deviation) in enumerate(zip(*statistics(dataset, options.workers), strict=True)):
        print(f"channel {channel}: mean {mean:.3f}, deviation {deviation:.3f}")


if __name__ == "__main__":
    main()
