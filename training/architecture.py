"""Where a decoder's parameters do most: decoders of several shapes trained alike from nothing, for the same symbols.

    python -m training.architecture --data DIR --validation DIR --metrics DIR --output FILE [--steps 250] [--only NAME ...]

Encoder, quantiser and context model are those of a latent space whose weights ship (--space) and stay as they are, so
all decoders read the same symbols at the same bytes.  Each is trained with the same seed, crops, rates and schedule
(squared error, then LPIPS), then judged on the middles of held-out photos: PSNR, LPIPS and DISTS at three rates, by the
running mean of its weights in float32; the first once more rounded to float16, as it would ship.  seconds: of one decode of
512 x 512 pixels, median, before its training; ratios are to the first decoder's in the same run.

Short runs tell how fast a shape learns as much as what it could learn: the figures are for the training at hand.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.metrics import Dists, Lpips, psnr
from benchmarks.runs import command, versions
from pillow_sdl.models.embedded import LATENT_CHANNELS, RATE_FEATURES, Block, rate_network
from training import muon
from training.compare import crops
from training.data import Photos
from training.loop import channels_last, descend, learning_rate, ramp, running_mean
from training.rate import quantize_noisy
from training.train import Codec, shipped, start_at_identity

if TYPE_CHECKING:
    from collections.abc import Sequence

RATES = (0.15, 0.5, 0.85)
WINDOW = 8
"""Side of the windows of attention, in latent positions."""


@dataclass(frozen=True)
class Shape:
    """A decoder's shape.   widths, blocks: at 1/16, 1/8, 1/4 and 1/2 of the size.   attention: at 1/16, in windows.

    identity: whether the blocks change nothing at first.
    """

    name: str
    blocks: tuple[int, int, int, int] = (4, 3, 3, 1)
    widths: tuple[int, int, int, int] = (192, 128, 64, 32)
    kind: Literal["full", "depthwise"] = "full"
    attention: bool = False
    identity: bool = False


SHAPES = (
    Shape("as sdl2"),
    Shape("as sdl2, from identity", identity=True),
    Shape("most at 1/16", (11, 1, 1, 1)),
    Shape("most at 1/8", (2, 6, 1, 1)),
    Shape("most at 1/4", (2, 1, 6, 1)),
    Shape("most at 1/2", (2, 1, 1, 5)),
    Shape("at 1/4 and 1/2", (2, 1, 3, 3)),
    Shape("at 1/4 and 1/2, from identity", (2, 1, 3, 3), identity=True),
    Shape("wide at 1/2", (2, 1, 1, 2), (192, 128, 64, 48)),
    Shape("depthwise", (6, 5, 4, 1), (256, 160, 96, 32), "depthwise"),
    Shape("attention", (3, 3, 3, 1), attention=True),
    Shape("half", (2, 1, 1, 1)),
    Shape("double", (8, 6, 6, 2)),
)


class DepthwiseBlock(nn.Module):
    """Residual block of a 5x5 convolution of each channel and two of 1x1 over twice the channels (arXiv 2201.03545)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.wide = nn.Conv2d(channels, 2 * channels, 1)
        self.narrow = nn.Conv2d(2 * channels, channels, 1)
        self.modulate = nn.Linear(RATE_FEATURES, 4 * channels)

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        """(B, C, H, W) and (B, RATE_FEATURES) -> (B, C, H, W)."""
        scale, shift = self.modulate(rate)[:, :, None, None].chunk(2, dim=1)
        y = self.wide(self.depthwise(x)) * (1 + scale) + shift
        result: Tensor = x + self.narrow(F.leaky_relu(y, 0.1))
        return result


class WindowAttention(nn.Module):
    """Residual self-attention within windows of 8 x 8 positions (Liu et al. 2021, arXiv 2103.14030, unshifted)."""

    def __init__(self, channels: int, heads: int = 6) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, 3 * channels)
        self.position = nn.Parameter(torch.zeros(heads, WINDOW**2, WINDOW**2))
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same; windows that reach beyond the edge see zeros there."""
        batch, channels, *size = x.shape
        rows, columns = (-(-side // WINDOW) for side in size)
        whole = F.pad(x, (0, WINDOW * columns - size[1], 0, WINDOW * rows - size[0]))
        tokens = whole.view(batch, channels, rows, WINDOW, columns, WINDOW).permute(0, 2, 4, 3, 5, 1)
        tokens = tokens.reshape(batch * rows * columns, WINDOW**2, channels)
        parts = self.project(self.norm(tokens)).view(len(tokens), WINDOW**2, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=self.position)
        found = self.out(found.transpose(1, 2).reshape(tokens.shape))
        found = found.view(batch, rows, columns, WINDOW, WINDOW, channels)
        found = found.permute(0, 5, 1, 3, 2, 4).reshape(whole.shape)
        result: Tensor = x + found[:, :, : size[0], : size[1]]
        return result


class ShapedDecoder(nn.Module):
    """Latent (B, 96, h, w) and rate (B,) in 0..1 -> pixels (B, 3, 16h, 16w), as the shipped decoder, of any shape."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.rate = rate_network()
        layers: list[nn.Module] = [nn.Conv2d(LATENT_CHANNELS, shape.widths[0], 3, padding=1)]
        for level, (width, count) in enumerate(zip(shape.widths, shape.blocks, strict=True)):
            depthwise = shape.kind == "depthwise"
            layers += [DepthwiseBlock(width) if depthwise else Block(width, RATE_FEATURES) for _ in range(count)]
            if level == 0 and shape.attention:
                layers.append(WindowAttention(width))
            last = level == len(shape.widths) - 1
            wanted = 3 if last else shape.widths[level + 1]
            size = 3 if last else 1
            layers += [nn.Conv2d(width, 4 * wanted, size, padding=size // 2), nn.PixelShuffle(2)]
        self.layers = nn.ModuleList(layers)

    def forward(self, latent: Tensor, rate: Tensor) -> Tensor:
        """See the class."""
        features = self.rate(2 * rate[:, None] - 1)
        x = latent
        for layer in self.layers:
            x = layer(x, features) if isinstance(layer, Block | DepthwiseBlock) else layer(x)
        return x + 0.5


def build(shape: Shape, seed: int) -> ShapedDecoder:
    """A new decoder."""
    torch.manual_seed(seed)
    network = ShapedDecoder(shape)
    if shape.identity:
        start_at_identity(network)
    return channels_last(network)


@torch.inference_mode()
def decode_times(networks: Sequence[nn.Module], size: int = 512, rounds: int = 9) -> list[float]:
    """Median seconds of each for a picture of size x size, in turns, so that all see the same machine."""
    latent, rate = torch.randn(1, LATENT_CHANNELS, size // 16, size // 16), torch.tensor([0.5])
    times: list[list[float]] = [[] for _ in networks]
    for round_number in range(rounds + 1):
        for network, found in zip(networks, times, strict=True):
            started = time.perf_counter()
            network(latent, rate)
            if round_number:
                found.append(time.perf_counter() - started)
    return [median(found) for found in times]


def train(
    network: nn.Module,
    codec: Codec,
    photos: Photos,
    lpips: Lpips,
    options: argparse.Namespace,
    perceptual_ramp: tuple[float, float] = (0.1, 0.3),
) -> nn.Module:
    """Train on the codec's symbols, squared error first, then LPIPS too; returns the running mean."""
    optimizers = muon.optimizers([(network, 1.0)], options.lr, options.muon)
    average = [parameter.detach().clone() for parameter in network.parameters()]
    for step in tqdm(range(options.steps), disable=None):
        generator = np.random.default_rng((options.seed, step))
        pixels = photos.batch(options.batch, options.crop, generator)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        rate = torch.from_numpy(generator.random(options.batch, dtype=np.float32))
        with torch.no_grad():
            latent = quantize_noisy(codec.autoencoder.encoder(pixels), codec.rate_model.steps(rate))[2]
        output = network(latent, rate)
        perceptual = ramp(step / options.steps, *perceptual_ramp)
        loss = (0.003 * (1 - perceptual) + 0.0008 * perceptual) * (255 * (output - pixels)).square().mean((1, 2, 3))
        if perceptual:
            top, left = generator.integers(0, 4, 2).tolist()
            seen = lpips(output[:, :, top:, left:], pixels[:, :, top:, left:])
            loss = loss + 2.5 * perceptual * seen
        lr = learning_rate(step, options.steps, options.lr, options.steps // 10)
        if math.isfinite(descend(loss.mean(), network, optimizers, lr)):
            running_mean(average, list(network.parameters()), step)
    with torch.no_grad():
        for parameter, mean in zip(network.parameters(), average, strict=True):
            parameter.copy_(mean)
    return network.eval()


@torch.inference_mode()
def judge(
    network: nn.Module,
    codec: Codec,
    photos: list[Tensor],
    metrics: tuple[Lpips, Dists],
    rates: tuple[float, ...] = RATES,
) -> list[dict[str, float]]:
    """Means over the photos at each of the rates."""
    rows: list[list[list[float]]] = [[] for _ in rates]
    for pixels in photos:
        latent = codec.autoencoder.encoder(pixels)
        for level, found in zip(rates, rows, strict=True):
            rate = torch.tensor([level])
            steps = codec.rate_model.steps(rate)
            output = network((latent / steps).round() * steps, rate).clamp(0, 1)
            found.append([metric(output, pixels).item() for metric in (psnr, *metrics)])
    means = [np.mean(found, 0).tolist() for found in rows]
    names = ("rate", "psnr", "lpips", "dists")
    return [dict(zip(names, (rate, *mean), strict=True)) for rate, mean in zip(rates, means, strict=True)]


def as_shipped(network: nn.Module) -> nn.Module:
    """Its weights rounded to float16."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half().float())
    return network


def experiment_parser(description: str | None, *, steps: int, lr: float) -> argparse.ArgumentParser:
    """What `train` and `judge` are told, and where photos and results are.   steps, lr: defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of training photos")
    parser.add_argument("--validation", type=Path, required=True, help="folder of photos that no training saw")
    parser.add_argument("--metrics", type=Path, required=True, help="folder with LPIPS and DISTS weights")
    parser.add_argument("--output", type=Path, required=True, help="JSON file; what it has is not trained again")
    parser.add_argument("--space", default="sdl2", help="latent space whose encoder is read (default %(default)s)")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument(
        "--muon", type=float, default=4.0, help="Muon for the convolutions, at this times --lr; 0: Adam"
    )
    parser.add_argument("--limit", type=int, default=12, help="held-out photos")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def kept(output: Path) -> dict[str, Any]:
    """What an earlier run has written, or nothing yet."""
    found: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {"rows": []}
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = experiment_parser(__doc__, steps=250, lr=1e-3)
    parser.add_argument("--only", nargs="+", help="names of shapes, for less than all")
    options = parser.parse_args(arguments)
    shapes = [shape for shape in SHAPES if options.only is None or shape.name in options.only]
    times = decode_times([build(shape, options.seed).eval() for shape in shapes])
    found = kept(options.output)
    found["commands"] = [*found.get("commands", []), command("training.architecture")]
    found["versions"] = versions()
    done = {row["shape"]["name"] for row in found["rows"]}
    codec = shipped(options.space).eval().requires_grad_(requires_grad=False)
    photos, held_out = Photos(options.data, options.crop), crops(options.validation, 256, options.limit)
    lpips, dists = Lpips(options.metrics), Dists(options.metrics)
    for shape, seconds in zip(shapes, times, strict=True):
        if shape.name in done:
            continue
        network = build(shape, options.seed)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        started = time.monotonic()
        trained = train(network, codec, photos, lpips, options)
        row: dict[str, Any] = {
            "shape": asdict(shape),
            "parameters": parameters,
            "seconds": seconds,
            "time_ratio": seconds / times[0],
            "training_seconds": time.monotonic() - started,
            "float32": judge(trained, codec, held_out, (lpips, dists)),
        }
        if shape is shapes[0]:
            row["float16"] = judge(as_shipped(trained), codec, held_out, (lpips, dists))
        found["rows"].append(row)
        shown = "  ".join(f"{mean['psnr']:.2f} dB {mean['lpips']:.4f} {mean['dists']:.4f}" for mean in row["float32"])
        print(f"{shape.name}: {parameters / 1e6:.2f} M, time x {row['time_ratio']:.2f}  {shown}", flush=True)
        options.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
