"""Latents of photos, once, for the training of the context models (training/context.py).

    python -m training.latents --space sd1 --model DIR --data DIR --out training/runs/latents

--model is a folder of an `AutoencoderTiny` in diffusers' layout; without it the embedded model's encoder is used.
Writes OUT/SPACE.npz: one float16 array (C, h, w) for each photo, under the photo's name.  Each photo gives one crop
of --crop pixels from its middle, at one of three sizes in turn.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from training.data import paths_of

if TYPE_CHECKING:
    from collections.abc import Callable

SCALES = (1.0, 0.75, 0.5)


def middle(path: Path, crop: int, scale: float) -> np.ndarray:
    """The photo's middle, uint8 (H, W, 3), at most `crop` pixels each way, sides multiples of 16."""
    image = Image.open(path).convert("RGB")
    if scale != 1:
        size = round(image.width * scale), round(image.height * scale)
        image = image.resize(size, Image.Resampling.LANCZOS)
    width, height = (min(crop, side) // 16 * 16 for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)))


def encoder(space: str, model: Path | None) -> Callable[[np.ndarray], np.ndarray]:
    """Pixels uint8 (H, W, 3) -> latent float32 (C, h, w)."""
    if model is None:
        from pillow_sdl.models import cards, store

        card = next(card for card in cards.CARDS if card.space == space)
        return store.load(card).encode
    from diffusers import AutoencoderTiny

    network: Any = AutoencoderTiny.from_pretrained(model, local_files_only=True)  # type: ignore[no-untyped-call]
    network = network.to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def encode(pixels: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(pixels.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        latent = network.encode(batch.contiguous(memory_format=torch.channels_last)).latents[0]
        found: np.ndarray = latent.numpy()
        return found

    return encode


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", required=True, help="name of the latent space")
    parser.add_argument("--model", type=Path, help="folder of its autoencoder")
    parser.add_argument("--data", type=Path, required=True, help="folder of photos")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--crop", type=int, default=384, help="pixels (default %(default)s)")
    parser.add_argument("--full", action="store_true", help="no smaller sizes: each photo as it is")
    parser.add_argument("--limit", type=int, help="photos to take")
    options = parser.parse_args(arguments)
    paths = paths_of(options.data)
    paths = paths[: options.limit]
    encode = encoder(options.space, options.model)
    latents: dict[str, np.ndarray] = {}
    for index, path in enumerate(tqdm(paths)):
        scale = 1.0 if options.full else SCALES[index % len(SCALES)]
        name = path.relative_to(options.data).as_posix().replace("/", "_")
        latents[name] = encode(middle(path, options.crop, scale)).astype(np.float16)
    options.out.mkdir(parents=True, exist_ok=True)
    np.savez(options.out / f"{options.space}.npz", allow_pickle=False, **latents)


if __name__ == "__main__":
    main()
