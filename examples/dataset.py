"""A folder of .sdl files as a data set of latents, as a training script of a diffusion model wants it.

    python -m examples.dataset FOLDER     # what such a script needs to know first: mean and deviation of channels

Needs torch, and no autoencoder.  Files with payload="zstd" are the ones to train on: a latent of 512 x 512 pixels is
read in less than a millisecond, and in a tenth of a second with payload="range".
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
    space: that all files must be of.
    """

    def __init__(self, folder: Path, side: int, space: str = "sd1") -> None:
        self._paths = sorted(folder.rglob("*.sdl"))
        self._side = side
        self._space = space

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        """Raises ValueError for a file of another space or too few positions, SdlError for one that cannot be read."""
        path = self._paths[index]
        found = pillow_sdl.latents(path)
        if found.space != self._space or min(found.latent.shape[1:]) < self._side:
            msg = (
                f"{path} has {found.latent.shape[2]} x {found.latent.shape[1]} latent positions of the space "
                f"{found.space}; at least {self._side} x {self._side} of {self._space} are needed"
            )
            raise ValueError(msg)
        latent = torch.from_numpy(found.latent)
        top, left = (int(torch.randint(side - self._side + 1, ())) for side in latent.shape[1:])
        return latent[:, top : top + self._side, left : left + self._side]


def statistics(dataset: LatentFolder, workers: int = 0) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over a data set that is not empty, float64 (C,) each."""
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
    parser.add_argument("--space", default="sd1", help="that the files are of, default %(default)s")
    parser.add_argument("--workers", type=int, default=0, help="processes that read, default %(default)s: this one")
    options = parser.parse_args()
    dataset = LatentFolder(options.folder, options.side, options.space)
    if not len(dataset):
        parser.error(f"there is no .sdl file below {options.folder}")
    print(f"{len(dataset)} latents")
    for channel, (mean, deviation) in enumerate(zip(*statistics(dataset, options.workers), strict=True)):
        print(f"channel {channel}: mean {mean:.3f}, deviation {deviation:.3f}")


if __name__ == "__main__":
    main()
