"""Read a folder of .sdl files as a data set of latents, for the training of a diffusion model.

    python -m examples.dataset FOLDER     # prints the mean and the deviation of each channel

The program needs torch, and no autoencoder.  Files with payload="zstd" suit training best: a latent of 512 x 512 pixels
is read in less than a millisecond, and with payload="range" in a tenth of a second.
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

    side: latent positions along each side of a square that is cut out of each latent at a random place, so that
    latents can be batched.  Places follow torch's random numbers, so `torch.manual_seed` fixes them, in workers too.
    space: latent space that all files must have.
    """

    def __init__(self, folder: Path, side: int, space: str = "sd1") -> None:
        self._paths = sorted(folder.rglob("*.sdl"))
        self._side = side
        self._space = space

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        """Return a crop of a latent.

        Raises ValueError for a file of another space or with too few positions, SdlError for one that cannot be read.
        """
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
    """Return the mean and the standard deviation of each channel of a data set, float64 (C,) each.

    dataset: must not be empty.   workers: processes that read; 0 for this one.
    """
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in DataLoader(dataset, batch_size=8, num_workers=workers):
        values = batch.double().transpose(0, 1).flatten(1)
        count += values.shape[1]
        total = total + values.sum(1)
        squares = squares + values.square().sum(1)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0).sqrt()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Mean and deviation of the channels of a folder's latents.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=32, help="latent positions, default %(default)s")
    parser.add_argument("--space", default="sd1", help="latent space of the files, default %(default)s")
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
