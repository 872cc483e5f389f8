"""Compare runs of training.train, and the model that ships, on held-out photos.

    python -m training.compare --photos DIR --metrics DIR --run training/runs/A training/runs/B shipped [--output FILE]

`shipped` stands for the embedded model of the package.  Each photo gives the crop of --crop pixels from its middle.
Figures are means of bits per pixel, PSNR, LPIPS and DISTS at a few rates.  bpp counts the bytes of the payload, coded
by the integer context model.  float_bpp is what the float twin says of the same symbols, so their difference is the
cost of integers.  With --output a JSON file gets the means and the command.

A decoder trained on squared error alone for the same symbols (`--decoder-only --lpips-weight 0 --dists-weight 0`) shows
how much PSNR a perceptual loss costs at the same bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.metrics import Dists, Lpips, psnr
from benchmarks.runs import command
from pillow_sdl.latent import context, rans, spaces
from training.codec import Codec, read_codec, shipped
from training.data import middle, paths_of

FIGURES: Final = ("bpp", "float_bpp", "psnr", "lpips", "dists")

SHIPPED: Final = "shipped"
"""Name of the model in the package among the runs."""


def crops(folder: Path, size: int, limit: int | None) -> list[Tensor]:
    """Return the middles of the first photos by name, each (1, 3, H, W) in 0..1."""
    found = (torch.from_numpy(middle(path, size, 1.0).copy()) for path in paths_of(folder)[:limit])
    return [pixels.permute(2, 0, 1)[None].float() / 255 for pixels in found]


def payload_size(model: context.Model, symbols: np.ndarray, octaves: np.ndarray) -> int:
    """Return the bytes of a payload of the method "range".

    symbols: (C, h, w), whole numbers.   octaves: log2 of the steps, (C,).
    """
    log2_steps = np.rint(spaces.STEP_UNIT * octaves).astype(np.int64)
    walk = context.Walk(model, log2_steps, len(model.groups), *symbols.shape[1:])
    coder = rans.Encoder()
    context.code(walk, context.distributions(), symbols.astype(np.int16), coder)
    return 2 + len(coder.finish(1))


@torch.inference_mode()
def measure(
    codecs: dict[str, Codec], photos: list[Tensor], rates: list[float], lpips: Lpips, dists: Dists
) -> dict[tuple[str, float], dict[str, float]]:
    """Return the means over photos of each codec at each rate in 0..1."""
    integers = {name: context.Model.from_tensors(codec.rate_model.context.tensors()) for name, codec in codecs.items()}
    rows: dict[tuple[str, float], list[list[float]]] = {(name, rate): [] for name in codecs for rate in rates}
    for pixels in tqdm(photos, disable=None):
        references = [(metric, metric.features(pixels)) for metric in (lpips, dists)]
        for name, codec in codecs.items():
            latent = codec.autoencoder.encoder(pixels)
            for rate in rates:
                level = torch.tensor([rate])
                octaves = codec.rate_model.octaves(level)
                steps = torch.exp2(octaves)[:, :, None, None]
                symbols = (latent / steps).round()
                # Pictures have whole levels, as a reader gives them.
                output = (255 * codec.autoencoder.decoder(symbols * steps, level).clamp(0, 1)).round() / 255
                coded = payload_size(integers[name], symbols[0].numpy(), octaves[0].numpy())
                area = pixels.shape[2] * pixels.shape[3]
                bits = torch.tensor(8 * coded / area), codec.rate_model.bits(symbols, level) / area
                seen = [metric.distance(metric.features(output), features) for metric, features in references]
                rows[name, rate].append([value.item() for value in (*bits, psnr(output, pixels), *seen)])
    return {key: dict(zip(FIGURES, np.mean(found, 0).tolist(), strict=True)) for key, found in rows.items()}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photos that no training saw")
    parser.add_argument("--metrics", type=Path, required=True, help="folder with LPIPS and DISTS weights")
    parser.add_argument("--run", type=Path, nargs="+", required=True, help=f"folders of runs, or {SHIPPED}")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.15, 0.35, 0.55, 0.85], help="in 0..1")
    parser.add_argument("--crop", type=int, default=256, help="pixels (default %(default)s)")
    parser.add_argument("--limit", type=int, help="only the first photos")
    parser.add_argument("--output", type=Path, help="JSON file for the means")
    options = parser.parse_args(arguments)
    photos = crops(options.photos, options.crop, options.limit)
    codecs = {run.name: shipped() if str(run) == SHIPPED else read_codec(run)[0] for run in options.run}
    found = measure(codecs, photos, options.rates, Lpips(options.metrics), Dists(options.metrics))
    means: list[dict[str, Any]] = [{"run": name, "rate": rate, **mean} for (name, rate), mean in found.items()]
    for mean in means:
        shown = f"{mean['bpp']:.4f} bpp  float {mean['float_bpp']:.4f}  {mean['psnr']:.2f} dB"
        print(f"{mean['run']}  rate {mean['rate']}  {shown}  LPIPS {mean['lpips']:.4f}  DISTS {mean['dists']:.4f}")
    if options.output:
        about = {"command": command("training.compare"), "photos": len(photos), "crop": options.crop}
        options.output.write_text(json.dumps(about | {"means": means}, indent=1) + "\n")


if __name__ == "__main__":
    main()
