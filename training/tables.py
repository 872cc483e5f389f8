"""Make the tables of a latent space that others trained: steps of the quantiser, linear map of the preview.

    python -m training.tables --space sd1 --latents training/runs/latents/sd1.npz --data PHOTOS --ship

LATENTS is what training.latents wrote from PHOTOS.  Writes pillow_sdl/weights/SPACE-tables.safetensors; --ship puts
its hash into latent/spaces.py and spec/registry.md.

All channels of a space have the same step, over the range that its context model was trained for.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import save_file
from tqdm import tqdm

from pillow_sdl.latent.preview import BLOCK
from pillow_sdl.latent.spaces import STEP_UNIT, WEIGHTS
from training.context import OCTAVES
from training.data import paths_of
from training.latents import SCALES, middle
from training.shipping import replace_once

if TYPE_CHECKING:
    from collections.abc import Iterable

CROP = 384
"""Pixels, as training.latents has them unless told otherwise."""


def steps_table(latents: Iterable[np.ndarray]) -> np.ndarray:
    """Steps at the lowest and the highest rate, log2 in 1/256 octave: int16 (2, C), from latents (C, h, w)."""
    energy = np.mean([np.square(latent, dtype=np.float32).mean((1, 2)) for latent in latents], 0)
    deviation = math.log2(np.sqrt(energy).mean())
    ends = [round(STEP_UNIT * (octave + deviation)) for octave in reversed(OCTAVES)]
    return np.array([[end] * len(energy) for end in ends], np.int16)


def fit_preview(latents: Iterable[np.ndarray], photos: Iterable[np.ndarray], channels: int) -> np.ndarray:
    """Least squares from a position's latent to its 3 x 8 x 8 pixels, float16 (C + 1, 192).

    latents: (C, h, w).   photos: uint8 (8 h, 8 w, 3).   channels: C.
    """
    size = channels + 1
    gram, cross = np.zeros((size, size)), np.zeros((size, 3 * BLOCK * BLOCK))
    for latent, pixels in zip(latents, photos, strict=True):
        height, width = latent.shape[1:]
        assert pixels.shape == (height * BLOCK, width * BLOCK, 3), "these are not the latents of these photos"
        rows = np.pad(latent.reshape(channels, -1).T.astype(np.float64), ((0, 0), (0, 1)), constant_values=1)
        wanted = pixels.reshape(height, BLOCK, width, BLOCK, 3).transpose(0, 2, 4, 1, 3) / 255
        gram += rows.T @ rows
        cross += rows.T @ wanted.reshape(len(rows), -1)
    # In C order: safetensors writes an array as it lies in memory.
    return np.ascontiguousarray(np.linalg.solve(gram, cross), np.float16)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", required=True, help="name of the latent space")
    parser.add_argument("--latents", type=Path, required=True, help="as training.latents wrote them")
    parser.add_argument("--data", type=Path, required=True, help="folder of photos that they are of")
    parser.add_argument("--ship", action="store_true", help="put the file's hash into the code and the registry")
    options = parser.parse_args(arguments)
    with np.load(options.latents) as archive:
        latents = {name: archive[name] for name in archive.files}
    # All paths, in the order of training.latents, which may have stopped before the end: it gives each its size.
    paths = paths_of(options.data)
    names = [path.relative_to(options.data).as_posix().replace("/", "_") for path in paths[: len(latents)]]
    assert names == list(latents), "these are not the latents of these photos"
    photos = (middle(path, CROP, SCALES[index % len(SCALES)]) for index, path in enumerate(paths[: len(latents)]))
    log2_steps = steps_table(latents.values())
    preview = fit_preview(tqdm(latents.values()), photos, log2_steps.shape[1])
    path = WEIGHTS / f"{options.space}-tables.safetensors"
    save_file({"log2_steps": log2_steps, "preview": preview}, path)
    path.chmod(0o644)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"{path}: {digest}")
    if options.ship:
        root = WEIGHTS.parent.parent
        source = root / "pillow_sdl/latent/spaces.py"
        replace_once(source, rf'(name="{options.space}",.*?tables_sha256=")[^"]*', digest)
        replace_once(root / "spec/registry.md", rf"(`[^`]*/{options.space}-tables\.safetensors` \| )[^ ]*", digest)


if __name__ == "__main__":
    main()
