"""Redraw .sdl files with Stable Diffusion: latents in, latents out, no autoencoder.

    python -m examples.img2img --pipeline FOLDER_OR_NAME --prompt "an oil painting" --output REDRAWN photo.sdl ...

The program needs diffusers, transformers and the pipeline's weights.  The files must have the latent space sd1, as
`sdl encode --model taesd` and `--model sd-1.5` write them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import pillow_sdl

SPACE = "sd1"
"""Latent space of the pipeline's UNet."""


def redraw(pipeline: Any, source: Path, target: Path, **options: Any) -> None:
    """Write a file of what a pipeline makes of the latent of another file.

    pipeline: a `StableDiffusionImg2ImgPipeline`, or another one that takes a latent as `image` and returns one with
    output_type="latent".   options: of its call, such as prompt and strength.
    Raises ValueError for a file of another latent space, SdlError for one that cannot be read.
    """
    found = pillow_sdl.latents(source)
    if found.space != SPACE:
        msg = f"{source} has latents of the space {found.space}; the pipeline takes {SPACE}"
        raise ValueError(msg)
    image = torch.from_numpy(found.latent)[None].to(pipeline.device, pipeline.unet.dtype)
    redrawn = pipeline(image=image, output_type="latent", **options).images
    # The new file names the decoder of the source, and its picture has the size of the source.
    size = found.width, found.height
    pillow_sdl.from_latents(redrawn, target, model=found.model, space=found.space, size=size, quality=80)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Redraw .sdl files with Stable Diffusion.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--pipeline", required=True, help="folder, or name on the Hugging Face hub")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--strength", type=float, default=0.5, help="0 (nothing changes) to 1, default %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    options = parser.parse_args()
    import diffusers

    kind: Any = diffusers.StableDiffusionImg2ImgPipeline
    pipeline = kind.from_pretrained(options.pipeline, vae=None, safety_checker=None, requires_safety_checker=False)
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    options.output.mkdir(parents=True, exist_ok=True)
    for path in options.files:
        generator = torch.Generator().manual_seed(options.seed)
        redraw(
            pipeline, path, options.output / path.name,
            prompt=options.prompt, strength=options.strength, generator=generator,
        )  # fmt: skip


if __name__ == "__main__":
    main()
