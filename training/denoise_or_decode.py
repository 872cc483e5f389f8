"""Whether parameters do more before the decoder, as a denoiser of the latent, or in the decoder.

    python -m training.denoise_or_decode --data DIR --validation DIR --metrics DIR --output FILE [--steps 300]

All start from the decoder of a latent space whose weights ship (--space) and read the same symbols, at low rates above
all.  "as it is" trains that decoder on; "blocks" gives it four residual blocks more at 1/16, which change nothing at
first; "denoiser" puts a network with as many parameters before it, which first learns alone to undo the quantiser
(squared error in steps, --denoiser-steps of its own), then with the decoder.  The last stage is the same for all:
squared error and LPIPS, --steps steps.  Held-out photos judge, as in training.architecture.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.metrics import Dists, Lpips
from benchmarks.runs import command, versions
from pillow_sdl.models.embedded import LATENT_CHANNELS, RATE_FEATURES, Block, rate_network
from training import muon
from training.architecture import decode_times, experiment_parser, judge, kept, train
from training.compare import crops
from training.data import Photos
from training.loop import channels_last, descend, learning_rate
from training.train import Codec, reshaped, shipped

RATES = (0.0, 0.1, 0.2, 0.5)
BLOCKS = 4
"""Of 192 channels, that the decoder gets more; the denoiser has three of DENOISER_WIDTH and its two ends."""

DENOISER_WIDTH = 208


class LatentDenoiser(nn.Module):
    """Dequantised latent (B, 96, h, w) and rate (B,) in 0..1 -> what it was before the quantiser, about."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = rate_network()
        self.first = nn.Conv2d(LATENT_CHANNELS, DENOISER_WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList([Block(DENOISER_WIDTH, RATE_FEATURES) for _ in range(3)])
        self.last = nn.Conv2d(DENOISER_WIDTH, LATENT_CHANNELS, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, latent: Tensor, rate: Tensor) -> Tensor:
        """See the class."""
        features = self.rate(2 * rate[:, None] - 1)
        x = self.first(latent)
        for block in self.blocks:
            x = block(x, features)
        result: Tensor = latent + self.last(x)
        return result


class Denoised(nn.Module):
    """A decoder that a denoiser stands before."""

    def __init__(self, denoiser: LatentDenoiser, decoder: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.decoder = decoder

    def forward(self, latent: Tensor, rate: Tensor) -> Tensor:
        """Latent (B, 96, h, w) and rate (B,) in 0..1 -> pixels (B, 3, 16h, 16w)."""
        result: Tensor = self.decoder(self.denoiser(latent, rate), rate)
        return result


def learn_to_denoise(denoiser: LatentDenoiser, codec: Codec, photos: Photos, options: argparse.Namespace) -> float:
    """Squared error of the latent, in steps; returns its share of what the quantiser left, of the last tenth."""
    optimizers = muon.optimizers([(denoiser, 1.0)], options.lr, options.muon)
    shares = []
    steps_in_all = options.denoiser_steps
    for step in tqdm(range(steps_in_all), disable=None):
        generator = np.random.default_rng((options.seed + 1, step))
        pixels = photos.batch(options.batch, options.crop, generator).contiguous(memory_format=torch.channels_last)
        rate = torch.from_numpy(generator.random(options.batch, dtype=np.float32))
        with torch.no_grad():
            latent = codec.autoencoder.encoder(pixels)
            steps = codec.rate_model.steps(rate)
            coarse = (latent / steps).round() * steps
            before = ((coarse - latent) / steps).square().mean()
        loss = ((denoiser(coarse, rate) - latent) / steps).square().mean()
        descend(loss, denoiser, optimizers, learning_rate(step, steps_in_all, options.lr, steps_in_all // 10))
        shares.append((loss / before).item())
    return float(np.mean(shares[-len(shares) // 10 :]))


def main(arguments: list[str] | None = None) -> None:
    parser = experiment_parser(__doc__, steps=300, lr=3e-4)
    parser.add_argument("--denoiser-steps", type=int, default=500)
    options = parser.parse_args(arguments)
    codec = shipped(options.space).eval().requires_grad_(requires_grad=False)
    decoder, layout = codec.autoencoder.decoder, codec.autoencoder.layout
    larger = replace(layout, decoder=(layout.decoder[0] + BLOCKS, *layout.decoder[1:]))
    photos, held_out = Photos(options.data, options.crop), crops(options.validation, 256, options.limit)
    metrics = Lpips(options.metrics), Dists(options.metrics)
    torch.manual_seed(options.seed)
    networks: dict[str, nn.Module] = {
        "as it is": reshaped(decoder, layout),
        "blocks": reshaped(decoder, larger),
        "denoiser": Denoised(LatentDenoiser(), reshaped(decoder, layout)),
    }
    times = decode_times([channels_last(network).eval() for network in networks.values()])
    found = kept(options.output)
    if not found["rows"]:
        before = judge(codec.autoencoder.decoder, codec, held_out, metrics, RATES)
        found["rows"].append({"name": "before", "means": before})
    found |= {"command": command("training.denoise_or_decode"), "versions": versions()}
    done = {row["name"] for row in found["rows"]}
    for (name, network), seconds in zip(networks.items(), times, strict=True):
        if name in done:
            continue
        started = time.monotonic()
        row: dict[str, Any] = {"name": name, "seconds": seconds, "time_ratio": seconds / times[0]}
        row["parameters"] = sum(parameter.numel() for parameter in network.parameters())
        network.requires_grad_(requires_grad=True)
        if isinstance(network, Denoised):
            row["latent_error_share"] = learn_to_denoise(network.denoiser, codec, photos, options)
        trained = train(network, codec, photos, metrics[0], options, perceptual_ramp=(-1, 0))
        row["training_seconds"] = time.monotonic() - started
        row["means"] = judge(trained, codec, held_out, metrics, RATES)
        found["rows"].append(row)
        shown = "  ".join(f"{mean['psnr']:.2f} dB {mean['lpips']:.4f} {mean['dists']:.4f}" for mean in row["means"])
        print(f"{name}: {row['parameters'] / 1e6:.2f} M, time x {row['time_ratio']:.2f}  {shown}", flush=True)
        options.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
