"""Train the embedded autoencoder: rate + squared error + LPIPS (+ DISTS), one network for all rates.

    python -m training.train --data DIR --metrics DIR --run training/runs/NAME [--steps 13000]

Writes RUN/checkpoint.pt (weights, their running mean, optimiser, step) and RUN/log.txt, a line every --every steps.
Started again with the same --run it goes on from the checkpoint.  Uses a GPU when there is one.

Loss of one crop at rate u in 0..1:  bits/pixel + weight(u) * (LPIPS + DISTS part + error_weight * MSE), MSE in
squared levels of 0..255.  Perceptual terms are ramped in after a stretch on squared error alone.

A run can start from another or from what ships (--init), with more residual blocks (--encoder-blocks, --decoder-blocks),
which at first change nothing.

Stages after the first may train the decoder alone (--decoder-only): symbols and bytes stay what they are.  With
--adversarial a discriminator joins the loss.  With perceptual terms put off for ever (--perceptual-ramp 2 3
--dists-weight 0) what comes out is the decoder of least squared error for the same files, which says what the
perceptual one costs in PSNR.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import torch
from safetensors.numpy import load_file as load_numpy
from torch import Tensor, nn

from benchmarks.metrics import Dists, Lpips
from pillow_sdl.latent.spaces import SPACES, WEIGHTS
from pillow_sdl.models.embedded import (
    LATENT_CHANNELS,
    Block,
    Decoder,
    EmbeddedAutoencoder,
    Encoder,
    Layout,
)
from training import muon
from training.context import UNIT, ContextModel
from training.data import Photos
from training.discriminator import Adversary
from training.loop import channels_last, descend, learning_rate, ramp, record, running_mean
from training.rate import KNOTS, RateModel, quantize_noisy

LOWEST_WEIGHT, HIGHEST_WEIGHT = 0.1, 54.0
"""Weight of distortion against bits per pixel at rate 0 and rate 1; between them it grows geometrically."""

ADVERSARIAL_RAMP = 0.1
"""Part of a run in which the adversarial loss grows to its weight: the discriminator learns first."""

Network = TypeVar("Network", Encoder, Decoder)

GROUPS = (4, 8, 12, 24, 24, 24)
"""Channels of the context model's groups; its hidden layers have 64 and 32 values."""


def context_model(order: np.ndarray, deviation: np.ndarray) -> ContextModel:
    """The embedded space's twin of a context model, untrained.   order, deviation: of its channels (SPEC 8.6.3)."""
    return ContextModel(order, list(GROUPS), deviation, [64, 32], window=1, reach=2)


def start_at_identity(network: nn.Module) -> None:
    """Make each residual block of an untrained network change nothing at first: deep ones learn faster so.

    Source: Goyal et al. 2017, arXiv 1706.02677, section 5.1, without the normalisation.
    """
    for block in network.modules():
        if isinstance(block, Block):
            nn.init.zeros_(block.conv2.weight)
            nn.init.zeros_(cast("Tensor", block.conv2.bias))


class Codec(nn.Module):
    """All that is trained together."""

    def __init__(self, rate_model: RateModel | None = None, layout: Layout | None = None) -> None:
        """rate_model: to go on from; a new one has steps of 4 to 0.35 and channels in the order of their numbers.

        layout: of the networks; None for that of `sdl1` and `sdl2`.
        """
        super().__init__()
        self.autoencoder = EmbeddedAutoencoder(layout)
        start_at_identity(self.autoencoder)
        if rate_model is None:
            ramp = torch.linspace(2.0, -1.5, KNOTS)[:, None].expand(KNOTS, LATENT_CHANNELS)
            rate_model = RateModel(ramp, context_model(np.arange(LATENT_CHANNELS), np.ones(LATENT_CHANNELS)))
        self.rate_model = rate_model


def shipped(space: str, stretch: float = 1.0) -> Codec:
    """The codec of a space whose weights ship, to go on from.

    stretch: what becomes rate u was rate stretch * u, for a wider range of rates.
    """
    tables = load_numpy(WEIGHTS / f"{space}-tables.safetensors")["log2_steps"]
    tensors = load_numpy(WEIGHTS / f"{space}.safetensors")
    rate_model = RateModel.from_tables(tables, load_numpy(WEIGHTS / f"{space}-context.safetensors"), stretch)
    codec = Codec(rate_model, Layout.of(tensors))
    codec.autoencoder.load_state_dict({name: torch.from_numpy(tensor).float() for name, tensor in tensors.items()})
    # The decoder's view of the rate, 2 u - 1, is stretched with it.
    first = codec.autoencoder.decoder.rate[0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        first.bias.add_((stretch - 1) * first.weight[:, 0])
        first.weight.mul_(stretch)
    return codec


def with_new_decoder(codec: Codec, layout: Layout) -> Codec:
    """The same encoder, steps and context model, before an untrained decoder.   layout: of the decoder."""
    found = Codec(codec.rate_model, replace(layout, encoder=codec.autoencoder.layout.encoder))
    found.autoencoder.encoder = codec.autoencoder.encoder
    return found


def by_place(network: Encoder | Decoder) -> dict[tuple[int, int], nn.Module]:
    """Its layers by (others than blocks up to it, blocks since the last of those)."""
    found: dict[tuple[int, int], nn.Module] = {}
    others = blocks = 0
    for layer in network.layers:
        others, blocks = (others, blocks + 1) if isinstance(layer, Block) else (others + 1, 0)
        found[others, blocks] = layer
    return found


def reshaped(network: Network, layout: Layout) -> Network:
    """A copy of a network with more blocks, which change nothing until they are trained, or fewer, at the end of each size."""
    found = type(network)(layout)
    old = by_place(network)
    found.load_state_dict({name: w for name, w in network.state_dict().items() if "layers." not in name}, strict=False)
    for place, layer in by_place(found).items():
        if place in old:
            layer.load_state_dict(old[place].state_dict())
        else:
            start_at_identity(layer)
    return found


def grown(codec: Codec, layout: Layout) -> Codec:
    """The same codec, with more residual blocks, which at first change nothing, where layout has more."""
    found = Codec(codec.rate_model, layout)
    found.autoencoder.encoder = reshaped(codec.autoencoder.encoder, layout)
    found.autoencoder.decoder = reshaped(codec.autoencoder.decoder, layout)
    return found


def read_codec(run: Path) -> Codec:
    """The running mean of a checkpoint's weights."""
    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    deviation = UNIT / np.exp2(state["exponent"].numpy() / 256)
    context = context_model(state["order"].numpy(), deviation)
    stored = {name.removeprefix("module.autoencoder."): tensor for name, tensor in state["average"].items()}
    codec = Codec(RateModel(torch.zeros(KNOTS, LATENT_CHANNELS), context), Layout.of(stored))
    average = averaged(codec)
    average.load_state_dict(state["average"])
    print(f"checkpoint of step {state['step']}")
    return cast("Codec", average.module).eval()


def optimizers_of(codec: Codec, options: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """For all parameters; the steps are logarithms and have further to go."""
    rate_model = codec.rate_model
    networks = [(codec.autoencoder.encoder, options.encoder_lr), (codec.autoencoder.decoder, 1.0)]
    more = [
        {"params": list(rate_model.context.parameters()), "factor": options.encoder_lr},
        {"params": [rate_model.log2_steps], "factor": 10 * options.encoder_lr},
    ]
    return muon.optimizers(networks, options.lr, options.muon, more)


def averaged(codec: Codec) -> torch.optim.swa_utils.AveragedModel:
    """A copy of the codec that follows it as its running mean."""
    return torch.optim.swa_utils.AveragedModel(codec, multi_avg_fn=running_mean)


@dataclass(frozen=True)
class Batch:
    """A batch on its way through the codec.   latent: dequantised.   bits: per pixel (B,), of zeros where none are wanted."""

    pixels: Tensor
    rate: Tensor
    latent: Tensor
    output: Tensor
    bits: Tensor


def through(codec: Codec, pixels: Tensor, rate: Tensor, *, decoder_only: bool) -> Batch:
    """Encode, quantise and decode pixels (B, 3, H, W) at rates (B,).   decoder_only: nothing else gets a gradient."""
    with torch.set_grad_enabled(not decoder_only):
        latent = codec.autoencoder.encoder(pixels)
        noisy, symbols, rounded = quantize_noisy(latent, codec.rate_model.steps(rate))
    bits = torch.zeros_like(rate)
    if not decoder_only:
        bits = codec.rate_model.bits(symbols, rate, noisy) / (pixels.shape[2] * pixels.shape[3])
    return Batch(pixels, rate, rounded, codec.autoencoder.decoder(rounded, rate), bits)


def compute_loss(
    batch: Batch,
    metrics: tuple[Lpips, Dists | None],
    adversary: Adversary | None,
    options: argparse.Namespace,
    step: int,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch and its parts, for the log."""
    lpips, dists = metrics
    pixels, output = batch.pixels, batch.output
    done = step / options.steps
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
    if dists is not None and done >= options.dists_from and step % options.dists_every == 0:
        some = slice(0, options.dists_crops)
        seen = dists(output[some], pixels[some])
        # VGG takes as long as all the rest: it sees few crops, which count for those that it does not see.
        share = len(seen) / (len(pixels) * options.dists_every)
        distortion = torch.cat([distortion[some] + options.dists_weight / share * seen, distortion[len(seen) :]])
        parts["dists"] = seen.mean().item()
    if adversary is not None:
        parts["discriminator"] = adversary.learn(pixels, output, batch.latent)
        seen = adversary.loss(output, batch.latent.detach())
        distortion = distortion + ramp(done, 0, ADVERSARIAL_RAMP) * options.adversarial * seen
        parts["adversarial"] = seen.mean().item()
    weight = LOWEST_WEIGHT * (HIGHEST_WEIGHT / LOWEST_WEIGHT) ** batch.rate
    # Divided by a power of the weight, no rate drowns the others' gradients.
    loss = ((batch.bits + weight * distortion) / weight**options.balance).mean()
    return loss, parts | {"bpp": batch.bits.mean().item()}


@torch.inference_mode()
def validate(codec: Codec, photos: Photos, lpips: Lpips, device: torch.device) -> dict[str, float]:
    """Bits per pixel, PSNR and LPIPS on fixed crops at three rates, symbols rounded."""
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
            f"val{level}_bpp": codec.rate_model.bits(symbols, rate).sum().item() / area,
            f"val{level}_psnr": (-10 * torch.log10(error)).mean().item(),
            f"val{level}_lpips": lpips(output, pixels).mean().item(),
        }
    return found


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    """What the command line says, combinations without an effect refused.   Raises SystemExit for those."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of training photos")
    parser.add_argument("--validation", type=Path, help="folder of photos for the log's validation figures")
    parser.add_argument("--metrics", type=Path, required=True, help="folder with LPIPS and DISTS weights")
    parser.add_argument("--run", type=Path, required=True, help="folder of the checkpoint and the log")
    parser.add_argument(
        "--init", help="what a new run starts from: a latent space whose weights ship, or a run's folder"
    )
    parser.add_argument("--stretch", type=float, default=1.0, help="of the rates of --init: rate 1 becomes this one")
    parser.add_argument("--steps", type=int, default=13_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument(
        "--muon", type=float, default=0.0, help="Muon for the autoencoder's convolutions, at this times --lr; 0: Adam"
    )
    parser.add_argument(
        "--encoder-lr", type=float, default=1.0, help="rates of encoder, steps and context model, times this"
    )
    parser.add_argument("--lpips-weight", type=float, default=2.5)
    parser.add_argument("--dists-weight", type=float, default=1.0)
    parser.add_argument("--dists-from", type=float, default=0.6, help="part of the run after which DISTS counts")
    parser.add_argument("--dists-crops", type=int, default=1, help="crops of a batch that DISTS sees")
    parser.add_argument("--dists-every", type=int, default=1, help="steps from one batch that DISTS sees to the next")
    parser.add_argument(
        "--rounded", type=float, default=0.3, help="last part of the run, with the context model rounded"
    )
    parser.add_argument(
        "--decoder-only", action="store_true", help="leave encoder, steps and context model as they are"
    )
    layout = Layout()
    parser.add_argument(
        "--encoder-blocks",
        type=int,
        nargs=3,
        help=f"residual blocks at 1/4, 1/8 and 1/16; those of --init, which may be given more, or {layout.encoder}",
    )
    parser.add_argument(
        "--decoder-blocks",
        type=int,
        nargs=4,
        help=f"likewise, at 1/16, 1/8, 1/4 and 1/2; those of --init or {layout.decoder}",
    )
    parser.add_argument(
        "--new-decoder", action="store_true", help="of --init take the encoder alone, with an untrained decoder"
    )
    parser.add_argument("--adversarial", type=float, default=0.0, help="weight of a discriminator's loss; 0: none")
    parser.add_argument("--error-weight", type=float, default=0.0008)
    parser.add_argument(
        "--balance",
        type=float,
        default=0.5,
        help="a crop's loss is divided by its rate's weight to this power: 0 for high rates alone, 1 for low ones",
    )
    parser.add_argument("--perceptual-ramp", type=float, nargs=2, default=(0.03, 0.15), metavar=("START", "END"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    options = parser.parse_args(arguments)
    if options.stretch != 1 and not names_space(options.init):
        parser.error("--stretch is of the rates of a latent space that --init names")
    if options.new_decoder and options.init is None:
        parser.error("--new-decoder replaces that of --init")
    if options.new_decoder and options.encoder_blocks:
        parser.error("--new-decoder leaves the encoder as it is")
    return options


def names_space(init: str | None) -> bool:
    """Whether --init is a latent space, not a run's folder."""
    return init in {space.name for space in SPACES}


def initial(options: argparse.Namespace) -> Codec:
    """What a new run starts from.   Raises SystemExit if it is asked to have fewer blocks than --init."""
    codec = None
    if options.init is not None:
        codec = shipped(options.init, options.stretch) if names_space(options.init) else read_codec(Path(options.init))
    before = Layout() if codec is None or options.new_decoder else codec.autoencoder.layout
    layout = Layout(tuple(options.encoder_blocks or before.encoder), tuple(options.decoder_blocks or before.decoder))
    if codec is None:
        return Codec(layout=layout)
    if options.new_decoder:
        return with_new_decoder(codec, layout)
    blocks = zip(layout.encoder + layout.decoder, before.encoder + before.decoder, strict=True)
    if any(wanted < had for wanted, had in blocks):
        msg = f"train: --init has more blocks than asked for: {before}"
        raise SystemExit(msg)
    return grown(codec, layout)


def main(arguments: list[str] | None = None) -> None:
    options = options_of(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(options.seed)
    codec = channels_last(initial(options)).to(device)
    options.run.mkdir(parents=True, exist_ok=True)
    photos = Photos(options.data, options.crop)
    held_out = Photos(options.validation, 256) if options.validation else None
    print(f"{len(photos)} photos, device {device}", flush=True)
    lpips = Lpips(options.metrics).to(device)
    dists = Dists(options.metrics).to(device) if options.dists_weight else None

    if options.decoder_only:
        codec.requires_grad_(requires_grad=False)
        codec.autoencoder.decoder.requires_grad_(requires_grad=True)
    context = codec.rate_model.context
    adversary = Adversary(device) if options.adversarial else None
    average = averaged(codec)
    optimizers = optimizers_of(codec, options)
    checkpoint, step = options.run / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        codec.load_state_dict(state["codec"])
        average.load_state_dict(state["average"])
        muon.load(optimizers, state["optimizers"])
        if adversary is not None:
            adversary.load_state_dict(state["adversary"])
        step = state["step"]
        print(f"going on from step {step}", flush=True)

    started, history = time.monotonic(), []
    while step < options.steps:
        # Crops depend on the step alone, so a resumed run sees what an unbroken one would have seen.
        generator = np.random.default_rng((options.seed, step))
        torch.manual_seed(options.seed * 1_000_003 + step)
        pixels = photos.batch(options.batch, options.crop, generator).to(device, memory_format=torch.channels_last)
        rate = torch.from_numpy(generator.random(options.batch, dtype=np.float32)).to(device)
        context.rounding.on = step >= (1 - options.rounded) * options.steps
        batch = through(codec, pixels, rate, decoder_only=options.decoder_only)
        loss, parts = compute_loss(batch, (lpips, dists), adversary, options, step)
        norm = descend(loss, codec, optimizers, learning_rate(step, options.steps, options.lr))
        if math.isfinite(norm):
            average.update_parameters(codec)
        step += 1
        history.append(parts | {"loss": loss.item(), "norm": norm})
        if step % options.every == 0 or step == options.steps:
            names = sorted({name for parts in history for name in parts})
            row: dict[str, float] = {"step": step, "seconds": time.monotonic() - started}
            row |= {name: float(np.mean([parts[name] for parts in history if name in parts])) for name in names}
            if held_out is not None:
                mean = cast("Codec", average.module)
                mean.rate_model.context.rounding.on = True
                row |= validate(mean, held_out, lpips, device)
            state = {
                "codec": codec.state_dict(),
                "average": average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step,
                "order": context.order.cpu(),
                "exponent": torch.from_numpy(context.exponent),
                "adversary": adversary.state_dict() if adversary is not None else None,
            }
            record(checkpoint, row, state)
            history = []


if __name__ == "__main__":
    main()
