"""Train the embedded autoencoder for rate, squared error, LPIPS and DISTS, one network for all rates.

    python -m training.train --data DIR --validation DIR --metrics DIR --run RUN --init RUN/start.pt [--steps 20000]

Writes RUN/checkpoint.pt (weights, their running mean, optimizers, step) and RUN/log.txt, one line each --every steps.
A second call with the same --run goes on from the checkpoint.  --steps may then be another number, because the learning
rate is constant until the last part of a run (--cooldown).  Networks run in bfloat16 unless --float32 is given.

The loss of one crop at rate u in 0..1 is bits per pixel + w(u) * (LPIPS + DISTS + MSE), each with its weight, and MSE
in squared levels of 0..255.  w grows geometrically with u.  With --decoder-only the encoder, the steps and the context
model do not change, so files do not change either.
"""

from __future__ import annotations

import argparse
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
from torch import Tensor

from benchmarks.metrics import Dists, Lpips
from training import muon
from training.codec import Codec, read_codec, started, trainable
from training.data import Photos
from training.discriminator import Adversary
from training.loop import (
    CHECKPOINT,
    channels_last,
    default_device,
    descend,
    means,
    ramp,
    record,
    running_mean,
    trapezoid,
)
from training.perceptual import GRID, Perceptual
from training.rate import quantize_noisy
from training.synthetic import mix_in

if TYPE_CHECKING:
    from torch.optim.swa_utils import AveragedModel

LOWEST_WEIGHT, HIGHEST_WEIGHT = 0.1, 80.0
"""Weight of distortion against bits per pixel at rate 0 and rate 1; between them it grows geometrically."""

ADVERSARIAL_RAMP: Final = 0.1
"""Part of a run in which the adversarial loss grows to its weight, so that the discriminator learns first."""

TRUNK: Final = ("head", "at2", "down4", "at4", "down8", "at8", "tail", "up4", "up2", "transform")
"""Layers that come from the tiny autoencoder.  Their learning rate is lower."""

SHIPPED: Final = "shipped"
"""Value of --init for the weights of the package."""

VALIDATION_RATES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
VALIDATION_CROP: Final = 256


def optimizers_of(codec: Codec, options: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Return the optimizers of all parameters.

    The tiny autoencoder's layers learn slowly.  The steps are logarithms and have further to go.
    """
    networks = []
    for network, factor in ((codec.autoencoder.encoder, options.encoder_lr), (codec.autoencoder.decoder, 1.0)):
        for name, layer in network.named_children():
            networks.append((layer, factor * (options.trunk_lr if name in TRUNK else 1.0)))
    more = [
        {"params": list(codec.rate_model.context.parameters()), "factor": options.context_lr * options.encoder_lr},
        {"params": [codec.rate_model.log2_steps], "factor": 10 * options.encoder_lr},
    ]
    return muon.optimizers(networks, options.lr, options.muon, more)


@dataclass(frozen=True)
class Batch:
    """A batch after the codec.

    pixels, output: in 0..1, (B, 3, H, W).   rate: (B,) in 0..1.   latent: dequantized, (B, C, h, w).
    bits: per pixel, (B,); zeros if only the decoder is trained.
    """

    pixels: Tensor
    rate: Tensor
    latent: Tensor
    output: Tensor
    bits: Tensor


def through(codec: Codec, pixels: Tensor, rate: Tensor, *, decoder_only: bool, learn_rate_alone: bool = False) -> Batch:
    """Encode, quantize and decode pixels (B, 3, H, W) in 0..1 at rates (B,).

    decoder_only: only the decoder gets a gradient.
    learn_rate_alone: the gradient of the bits reaches only the context model, and the steps get no gradient.
    """
    bits = torch.zeros_like(rate)
    with torch.set_grad_enabled(not decoder_only):
        latent = codec.autoencoder.encoder(pixels).float()
        with torch.autocast(pixels.device.type, enabled=False):
            octaves = codec.rate_model.octaves(rate)
            if learn_rate_alone:
                octaves = octaves.detach()
            noisy, symbols, rounded = quantize_noisy(latent, torch.exp2(octaves)[:, :, None, None])
            if not decoder_only:
                priced = noisy.detach() if learn_rate_alone else noisy
                bits = codec.rate_model.context(symbols, octaves, priced) / (pixels.shape[2] * pixels.shape[3])
    output = codec.autoencoder.decoder(rounded, rate).float()
    return Batch(pixels, rate, rounded, output, bits)


def compute_loss(
    batch: Batch, perceptual: Perceptual, adversary: Adversary | None, options: argparse.Namespace, step: int
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of a batch (), and its parts for the log."""
    pixels, output = batch.pixels, batch.output
    error = (255 * (output - pixels)).square().mean((1, 2, 3))
    top, left = torch.randint(0, GRID, (2,)).tolist()
    lpips, dists = perceptual(output, pixels, (top, left))
    distortion = options.error_weight * error + options.lpips_weight * lpips
    parts = {"mse": error.mean().item(), "lpips": lpips.mean().item()}
    if count := len(dists):
        # VGG takes as long as all the rest.  The crops that it sees stand for those that it does not see.
        share = count / len(pixels)
        distortion = torch.cat([distortion[:count] + options.dists_weight / share * dists, distortion[count:]])
        parts["dists"] = dists.mean().item()
    if adversary is not None:
        parts["discriminator"] = adversary.learn(pixels, output, batch.latent)
        seen = adversary.loss(output, batch.latent.detach())
        weight = ramp(step / options.steps, 0, ADVERSARIAL_RAMP) * options.adversarial
        distortion = distortion + weight * seen
        parts["adversarial"] = seen.mean().item()
    weights = LOWEST_WEIGHT * (HIGHEST_WEIGHT / LOWEST_WEIGHT) ** batch.rate
    # Divided by a power of the weight, so that the gradients of high rates do not drown those of low ones.
    loss = ((batch.bits + weights * distortion) / weights**options.balance).mean()
    return loss, parts | {"bpp": batch.bits.mean().item()}


@torch.inference_mode()
def validate(codec: Codec, photos: Photos, metrics: tuple[Lpips, Dists], device: torch.device) -> dict[str, float]:
    """Return bits per pixel, PSNR, LPIPS and DISTS of fixed crops at a few rates, symbols rounded."""
    pixels = photos.batch(16, VALIDATION_CROP, np.random.default_rng(1)).to(device)
    latent = codec.autoencoder.encoder(pixels)
    found: dict[str, float] = {}
    for level in VALIDATION_RATES:
        rate = torch.full((len(pixels),), level, device=device)
        steps = codec.rate_model.steps(rate)
        symbols = (latent / steps).round()
        output = codec.autoencoder.decoder(symbols * steps, rate).clamp(0, 1)
        area = pixels.shape[2] * pixels.shape[3] * len(pixels)
        error = (output - pixels).square().mean((1, 2, 3))
        found |= {
            f"val{level}_bpp": codec.rate_model.bits(symbols, rate).sum().item() / area,
            f"val{level}_psnr": (-10 * torch.log10(error)).mean().item(),
            f"val{level}_lpips": metrics[0](output, pixels).mean().item(),
            f"val{level}_dists": metrics[1](output, pixels).mean().item(),
        }
    return found


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of training photos")
    parser.add_argument("--validation", type=Path, help="folder of photos for the log's validation figures")
    parser.add_argument("--metrics", type=Path, required=True, help="folder with LPIPS and DISTS weights")
    parser.add_argument("--run", type=Path, required=True, help="folder of the checkpoint and the log")
    parser.add_argument(
        "--init", type=Path, help="what a new run starts from: a start.pt, a run's folder, or `shipped`: the package"
    )
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--cooldown", type=float, default=0.25, help="part of the steps with a falling learning rate")
    parser.add_argument("--warm-up", type=int, default=200, help="steps with a rising learning rate")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128, help="pixels (default %(default)s)")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--muon", type=float, default=4.0, help="Muon for convolutions, at this times --lr; 0: Adam")
    parser.add_argument("--trunk-lr", type=float, default=0.25, help="factor on --lr for the tiny autoencoder's layers")
    parser.add_argument("--encoder-lr", type=float, default=1.0, help="factor on --lr for all that writes files")
    parser.add_argument("--context-lr", type=float, default=3.0, help="factor on --lr for the context model")
    parser.add_argument("--context-first", type=int, default=0, help="steps in which the rate moves only its model")
    parser.add_argument("--lpips-weight", type=float, default=2.0)
    parser.add_argument("--dists-weight", type=float, default=1.5)
    parser.add_argument("--dists-crops", type=int, default=4, help="crops of a batch that DISTS sees")
    parser.add_argument("--error-weight", type=float, default=0.0007)
    parser.add_argument(
        "--rounded", type=float, default=0.25, help="last part of the run, in which the context model is rounded"
    )
    parser.add_argument("--decoder-only", action="store_true", help="leave all that writes files as it is")
    parser.add_argument("--adversarial", type=float, default=0.0, help="weight of a discriminator's loss; 0: none")
    parser.add_argument(
        "--balance",
        type=float,
        default=0.75,
        help="a crop's loss is divided by its rate's weight to this power; 0 favors high rates, 1 low ones",
    )
    parser.add_argument(
        "--rate-power",
        type=float,
        default=1.5,
        help="rates are uniform numbers to this power; above 1 favors low rates",
    )
    parser.add_argument("--synthetic", type=float, default=0.12, help="share of crops that are drawn on")
    parser.add_argument("--float32", action="store_true", help="do not use bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile a part of the loss; needs a C++ compiler")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    return parser.parse_args(arguments)


def beginning(options: argparse.Namespace) -> tuple[Codec, dict[str, Any] | None]:
    """Return the codec that a run goes on with, and its checkpoint; None for a new run.

    Raises SystemExit if there is neither a checkpoint nor --init.
    """
    if (options.run / CHECKPOINT).exists():
        return read_codec(options.run, average=False)
    if options.init is None:
        msg = f"{options.run} has no checkpoint, and --init names nothing to start from"
        raise SystemExit(msg)
    if options.init == Path(SHIPPED):
        return trainable(), None
    if options.init.is_dir():
        codec, _ = read_codec(options.init)
        return codec, None
    return started(options.init), None


def state_of(
    codec: Codec,
    average: AveragedModel,
    optimizers: list[torch.optim.Optimizer],
    adversary: Adversary | None,
    step: int,
) -> dict[str, Any]:
    """Return what a checkpoint holds."""
    context = codec.rate_model.context
    return {
        "codec": codec.state_dict(),
        "average": average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
        "layout": asdict(codec.autoencoder.layout),
        "order": context.order.cpu(),
        "exponent": torch.from_numpy(context.exponent),
        "adversary": adversary.state_dict() if adversary is not None else None,
    }


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    options = options_of(arguments)
    device = default_device()
    torch.manual_seed(options.seed)
    codec, state = beginning(options)
    codec = channels_last(codec.train()).to(device)
    if options.decoder_only:
        codec.requires_grad_(requires_grad=False)
        codec.autoencoder.decoder.requires_grad_(requires_grad=True)
    average = torch.optim.swa_utils.AveragedModel(codec, multi_avg_fn=running_mean)
    optimizers = optimizers_of(codec, options)
    adversary = Adversary(codec.autoencoder.layout.channels, device) if options.adversarial else None
    step = 0
    if state is not None:
        average.load_state_dict(state["average"])
        muon.load(optimizers, state["optimizers"])
        step = state["step"]
        if adversary is not None and state["adversary"] is not None:
            adversary.load_state_dict(state["adversary"])
        print(f"goes on from step {step}", flush=True)
    crops_seen = options.dists_crops if options.dists_weight else 0
    perceptual = Perceptual(options.metrics, device, crops_seen, float32=options.float32, compiled=options.compile)
    metrics = Lpips(options.metrics).to(device), Dists(options.metrics).to(device)
    photos = Photos(options.data, options.crop)
    held_out = Photos(options.validation, VALIDATION_CROP) if options.validation else None
    print(f"{len(photos)} photos", flush=True)
    options.run.mkdir(parents=True, exist_ok=True)
    begun, history = time.monotonic(), []
    while step < options.steps:
        # Crops depend on the step alone, so a resumed run sees what an unbroken one would have seen.
        generator = np.random.default_rng((options.seed, step))
        torch.manual_seed(options.seed * 1_000_003 + step)
        crops = photos.batch(options.batch, options.crop, generator)
        mix_in(crops, options.synthetic, generator)
        pixels = crops.to(device, memory_format=torch.channels_last)
        rate = torch.from_numpy(generator.random(options.batch, dtype=np.float32) ** options.rate_power).to(device)
        codec.rate_model.context.rounding.on = step >= (1 - options.rounded) * options.steps
        first = step < options.context_first
        with nullcontext() if options.float32 else torch.autocast(device.type, torch.bfloat16):
            batch = through(codec, pixels, rate, decoder_only=options.decoder_only, learn_rate_alone=first)
            loss, parts = compute_loss(batch, perceptual, adversary, options, step)
        lr = trapezoid(step, options.steps, options.lr, options.warm_up, options.cooldown)
        norm = descend(loss, codec, optimizers, lr)
        if math.isfinite(norm):
            average.update_parameters(codec)
        step += 1
        history.append(parts | {"loss": loss.item(), "norm": norm})
        if step % options.every == 0 or step == options.steps:
            row: dict[str, float] = {"step": step, "seconds": time.monotonic() - begun} | means(history)
            if held_out is not None and step % (2 * options.every) == 0:
                mean = cast("Codec", average.module)
                mean.rate_model.context.rounding.on = True
                row |= validate(mean, held_out, metrics, device)
            record(options.run / CHECKPOINT, row, state_of(codec, average, optimizers, adversary, step))
            history = []


if __name__ == "__main__":
    main()
