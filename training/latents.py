"""Write the latents of photos, from which context models, tables and denoisers are trained.

    python -m training.latents --space sd1 --model TAESD --data DIR --out training/runs/latents

--model is a folder of an `AutoencoderTiny` in diffusers' layout.  Without it, the package's model of the space is used.
Writes OUT/SPACE.npz: one float16 array (C, h, w) for each photo, under the photo's name.  Each photo gives one crop of
--crop pixels from its middle, at one of three sizes in turn.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from tqdm import tqdm

from benchmarks.peers import encoder
from training.data import SCALES, middle, paths_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

CROP: Final = 384
"""Pixels along each side of a photo's crop, unless --crop says otherwise."""


def name_of(path: Path, folder: Path) -> str:
    """Return the name of a photo's latent.   folder: of all photos."""
    return path.relative_to(folder).as_posix().replace("/", "_")


def photos_of(names: list[str], folder: Path, crop: int) -> Iterator[np.ndarray]:
    """Yield the photos of latents, uint8 (H, W, 3), as `main` encoded them.

    names: of the latents, which may be only the first ones.   folder, crop: those of the command that wrote them.
    Raises SystemExit if the folder has other photos.
    """
    paths = paths_of(folder)[: len(names)]
    if [name_of(path, folder) for path in paths] != names:
        msg = f"these are not the latents of the photos in {folder}"
        raise SystemExit(msg)
    for index, path in enumerate(paths):
        yield middle(path, crop, SCALES[index % len(SCALES)])


def read(path: Path) -> dict[str, np.ndarray]:
    """Return the latents of a file by name, float16 (C, h, w) each."""
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def deviations(found: Collection[np.ndarray]) -> np.ndarray:
    """Return the root mean square of each channel over latents (C, h, w): float32 (C,)."""
    energy = np.mean([np.square(latent, dtype=np.float32).mean((1, 2)) for latent in found], 0)
    deviation: np.ndarray = np.sqrt(energy)
    return deviation


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", required=True, help="name of the latent space")
    parser.add_argument("--model", type=Path, help="folder of its autoencoder")
    parser.add_argument("--data", type=Path, required=True, help="folder of photos")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--crop", type=int, default=CROP, help="pixels (default %(default)s)")
    parser.add_argument("--limit", type=int, help="only the first photos")
    options = parser.parse_args(arguments)
    encode = encoder(options.space, options.model)
    names = [name_of(path, options.data) for path in paths_of(options.data)[: options.limit]]
    photos = photos_of(names, options.data, options.crop)
    pairs = zip(tqdm(names, disable=None), photos, strict=True)
    latents = {name: encode(pixels).astype(np.float16) for name, pixels in pairs}
    options.out.mkdir(parents=True, exist_ok=True)
    np.savez(options.out / f"{options.space}.npz", allow_pickle=False, **latents)


if __name__ == "__main__":
    main()
