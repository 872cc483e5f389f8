"""Train the embedded autoencoder: rate + squared error + LPIPS (+ DISTS), one network for all rates.

    python -m training.train --data DIR --metrics DIR --run training/runs/NAME [--steps 13000]

Writes RUN/checkpoint.pt (weights, their running mean, optimiser, step) and RUN/log.txt, a line every --every steps.
Started again with the same --run it goes on from the checkpoint.  Uses a GPU when there is one.

Loss of one crop at rate u in 0..1:  bits/pixel + weight(u) * (LPIPS + DISTS part + error_weight * MSE), MSE in
squared levels of 0..255.  Perceptual terms are ramped in after a stretch on squared error alone.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.metrics import Dists, Lpips
from pillow_sdl.models.embedded import EmbeddedAutoencoder
from training.data import Photos
from training.rate import RateModel, quantize_noisy

LOWEST_WEIGHT, HIGHEST_WEIGHT = 0.1, 24.0
"""Weight of distortion against bits per pixel at rate 0 and rate 1; between them it grows geometrically."""

FACTORIZED_SHARE = 0.5
"""Share of the factorised price in the rate; the rest is the context model's."""

WARM_UP = 200
AVERAGE_DECAY = 0.999


class Codec(nn.Module):
    """All that is trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.autoencoder = EmbeddedAutoencoder()
        self.rate_model = RateModel()


def ramp(progress: float, start: float, end: float) -> float:
    """0 before `start`, 1 after `end`, linear between."""
    return min(1.0, max(0.0, (progress - start) / (end - start)))


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then half a cosine down to a fiftieth of the peak."""
    if step < WARM_UP:
        return peak * (step + 1) / WARM_UP
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def parameter_groups(codec: Codec) -> list[dict[str, Any]]:
    """Parameters for the optimiser: networks, and the tables, which are logarithms and have further to go."""
    tables = [parameter for name, parameter in codec.rate_model.named_parameters() if "." not in name]
    chosen = {id(parameter) for parameter in tables}
    networks = [parameter for parameter in codec.parameters() if id(parameter) not in chosen]
    return [{"params": networks, "factor": 1.0}, {"params": tables, "factor": 10.0}]


@torch.no_grad()
def running_mean(
    average: tuple[Tensor, ...] | list[Tensor], current: tuple[Tensor, ...] | list[Tensor], seen: Tensor | int
) -> None:
    """Exponential mean of the weights, with a short memory at first."""
    decay = min(AVERAGE_DECAY, (1 + int(seen)) / (10 + int(seen)))
    torch._foreach_lerp_(average, current, 1 - decay)


def averaged(codec: Codec) -> torch.optim.swa_utils.AveragedModel:
    """A copy of the codec that follows it as its running mean."""
    return torch.optim.swa_utils.AveragedModel(codec, multi_avg_fn=running_mean)


def compute_loss(
    codec: Codec,
    pixels: Tensor,
    rate: Tensor,
    metrics: tuple[Lpips, Dists | None],
    options: argparse.Namespace,
    done: float,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch and its parts, for the log."""
    lpips, dists = metrics
    latent = codec.autoencoder.encoder(pixels)
    noisy, decoded, rounded = quantize_noisy(latent, codec.rate_model.steps(rate))
    area = pixels.shape[2] * pixels.shape[3]
    order0 = codec.rate_model.factorized(noisy, rate).sum((1, 2, 3)) / area
    context = codec.rate_model.conditional(noisy, decoded, rate).sum((1, 2, 3)) / area
    bits = FACTORIZED_SHARE * order0 + (1 - FACTORIZED_SHARE) * context

    output = codec.autoencoder.decoder(rounded, rate)
    error = (255 * (output - pixels)).square().mean((1, 2, 3))
    perceptual = ramp(done, *options.perceptual_ramp)
    error_weight = 0.003 * (1 - perceptual) + options.error_weight * perceptual
    distortion = error_weight * error
    parts = {"mse": error.mean().item()}
    if perceptual:
        # AlexNet looks every fourth pixel: a moving grid leaves the decoder no blind spots to hide artefacts in.
        top, left = torch.randint(0, 4, (2,)).tolist()
        seen = lpips(output[:, :, top:, left:], pixels[:, :, top:, left:])
        distortion = distortion + perceptual * options.lpips_weight * seen
        parts["lpips"] = seen.mean().item()
    if dists is not None and done >= options.dists_from:
        some = slice(0, options.dists_crops)
        seen = dists(output[some], pixels[some])
        distortion[some] += options.dists_weight * seen
        parts["dists"] = seen.mean().item()
    weight = LOWEST_WEIGHT * (HIGHEST_WEIGHT / LOWEST_WEIGHT) ** rate
    # Divided by the root of the weight, no rate drowns the others' gradients.
    loss = ((bits + weight * distortion) / weight.sqrt()).mean()
    return loss, parts | {"bpp_order0": order0.mean().item(), "bpp_context": context.mean().item()}


@torch.inference_mode()
def validate(codec: Codec, photos: Photos, lpips: Lpips, device: torch.device) -> dict[str, float]:
    """Bits per pixel (order 0, context), PSNR and LPIPS on fixed crops at three rates, symbols rounded."""
    pixels = photos.batch(16, 256, np.random.default_rng(1)).to(device)
    latent = codec.autoencoder.encoder(pixels)
    found: dict[str, float] = {}
    for level in (0.25, 0.5, 0.75):
        rate = torch.full((len(pixels),), level, device=device)
        steps = codec.rate_model.steps(rate)
        symbols = (latent / steps).round()
        output = codec.autoencoder.decoder(symbols * steps, rate).clamp(0, 1)
        area = pixels.shape[2] * pixels.shape[3] * len(pixels)
        error = (output - pixels).square().mean((1, 2, 3))
        found |= {
            f"val{level}_order0": codec.rate_model.factorized(symbols, rate).sum().item() / area,
            f"val{level}_context": codec.rate_model.conditional(symbols, symbols, rate).sum().item() / area,
            f"val{level}_psnr": (-10 * torch.log10(error)).mean().item(),
            f"val{level}_lpips": lpips(output, pixels).mean().item(),
        }
    return found


def record(checkpoint: Path, row: dict[str, float], state: dict[str, Any]) -> None:
    """Print a line of the log and add it to log.txt beside the checkpoint, which a whole new one replaces."""
    print("  ".join(f"{name} {value:.4g}" for name, value in row.items()), flush=True)
    with checkpoint.with_name("log.txt").open("a") as file:
        file.write("  ".join(f"{name} {value:.6g}" for name, value in row.items()) + "\n")
    torch.save(state, checkpoint.with_suffix(".tmp"))
    checkpoint.with_suffix(".tmp").replace(checkpoint)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of training photos")
    parser.add_argument("--validation", type=Path, help="folder of photos for the log's validation figures")
    parser.add_argument("--metrics", type=Path, required=True, help="folder with LPIPS and DISTS weights")
    parser.add_argument("--run", type=Path, required=True, help="folder of the checkpoint and the log")
    parser.add_argument("--init", type=Path, help="checkpoint whose weights a new run starts from")
    parser.add_argument("--steps", type=int, default=13_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--lpips-weight", type=float, default=1.5)
    parser.add_argument("--dists-weight", type=float, default=1.0)
    parser.add_argument("--dists-from", type=float, default=0.6, help="part of the run after which DISTS counts")
    parser.add_argument("--dists-crops", type=int, default=2, help="crops of each batch that DISTS sees")
    parser.add_argument("--error-weight", type=float, default=0.001)
    parser.add_argument("--perceptual-ramp", type=float, nargs=2, default=(0.03, 0.15), metavar=("START", "END"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    options = parser.parse_args(arguments)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    options.run.mkdir(parents=True, exist_ok=True)
    photos = Photos(options.data, options.crop)
    held_out = Photos(options.validation, 256) if options.validation else None
    print(f"{len(photos)} photos, device {device}", flush=True)
    lpips = Lpips(options.metrics).to(device)
    dists = Dists(options.metrics).to(device) if options.dists_weight else None

    codec = Codec().to(device)
    for parameter in codec.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    if options.init:
        codec.load_state_dict(torch.load(options.init, map_location=device, weights_only=True)["codec"])
    average = averaged(codec)
    optimizer = torch.optim.Adam(parameter_groups(codec), lr=options.lr, betas=(0.9, 0.99))
    checkpoint, step = options.run / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        codec.load_state_dict(state["codec"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        print(f"going on from step {step}", flush=True)

    started, history = time.monotonic(), []
    while step < options.steps:
        # Crops depend on the step alone, so a resumed run sees what an unbroken one would have seen.
        generator = np.random.default_rng((options.seed, step))
        torch.manual_seed(options.seed * 1_000_003 + step)
        pixels = photos.batch(options.batch, options.crop, generator).to(device, memory_format=torch.channels_last)
        rate = torch.from_numpy(generator.random(options.batch, dtype=np.float32)).to(device)
        loss, parts = compute_loss(codec, pixels, rate, (lpips, dists), options, step / options.steps)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(step, options.steps, options.lr)
        if torch.isfinite(norm):
            optimizer.step()
            average.update_parameters(codec)
        step += 1
        history.append(parts | {"loss": loss.item(), "norm": norm.item()})
        if step % options.every == 0 or step == options.steps:
            names = sorted({name for parts in history for name in parts})
            row: dict[str, float] = {"step": step, "seconds": time.monotonic() - started}
            row |= {name: float(np.mean([parts[name] for parts in history if name in parts])) for name in names}
            if held_out is not None:
                row |= validate(cast("Codec", average.module), held_out, lpips, device)
            state = {
                "codec": codec.state_dict(),
                "average": average.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
            }
            record(checkpoint, row, state)
            history = []


if __name__ == "__main__":
    main()
