"""Make the tables of a latent space whose autoencoder is not ours: steps of the quantizer, map of the preview.

    python -m training.tables --space sd1 --latents training/runs/latents/sd1.npz --data PHOTOS

LATENTS is what training.latents wrote from PHOTOS.  Writes pillow_sdl/weights/SPACE-tables.safetensors and its SHA-256
in registry.json.

All channels of a space have the same step.  The steps cover the range that the context model is trained for.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pillow_sdl.latent.spaces import STEP_UNIT
from training import latents, preview
from training.context import OCTAVES
from training.shipping import Shelf, add_root

if TYPE_CHECKING:
    from collections.abc import Collection


def steps_table(found: Collection[np.ndarray]) -> np.ndarray:
    """Return the steps at the lowest and the highest rate, log2 in 1/256 octave: int16 (2, C).

    found: latents (C, h, w).
    """
    deviation = latents.deviations(found)
    middle = math.log2(deviation.mean())
    ends = [round(STEP_UNIT * (octave + middle)) for octave in reversed(OCTAVES)]
    return np.array([[end] * len(deviation) for end in ends], np.int16)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", required=True, help="name of the latent space")
    parser.add_argument("--latents", type=Path, required=True, help="file that training.latents wrote")
    parser.add_argument("--data", type=Path, required=True, help="folder of the photos that it read")
    add_root(parser)
    options = parser.parse_args(arguments)
    found = latents.read(options.latents)
    photos = latents.photos_of(list(found), options.data, latents.CROP)
    pairs = ((latent, pixels / 255) for latent, pixels in zip(found.values(), photos, strict=True))
    log2_steps = steps_table(found.values())
    arrays = {"log2_steps": log2_steps, "preview": preview.fit(pairs, log2_steps.shape[1])}
    with Shelf(options.root) as shelf:
        space = shelf.entry("spaces", options.space)
        shelf.store(space, "tables", f"{options.space}-tables.safetensors", arrays)


if __name__ == "__main__":
    main()
