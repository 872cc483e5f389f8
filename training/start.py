"""Make the start of a training: the tiny autoencoder without its full-resolution stages, its latent transformed.

    python -m training.start --teacher TAESD3 --data DIR --metrics DIR --run training/runs/NAME [--steps 600]

The networks take the weights of a tiny autoencoder where both have the same layers.  The layers that replace its
full-resolution stages are trained to give what those gave.  Then the Karhunen-Loeve transform of 2 x 2 positions of the
latent is measured on training photos.  Channels beyond that transform begin as random features that the tiny
autoencoder's latent does not hold.  Writes RUN/start.pt.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.metrics import Lpips
from pillow_sdl.models.networks.embedded import Block, EmbeddedAutoencoder, Layout, Modulation
from training import muon
from training.data import Photos
from training.loop import channels_last, default_device, descend, half_cosine, running_mean

LEARNING_RATE: Final = 1.5e-3
WARM_UP: Final = 30
BATCH: Final = 8
CROP: Final = 128
"""Pixels of the crops that the new layers are trained on."""

TRANSFORM_BATCHES: Final = 40
TRANSFORM_CROP: Final = 256
"""Batches and pixels of the crops that the transform is measured on."""

EXTRA_DEVIATION: Final = 0.5
"""Standard deviation of each channel beyond the transform, before any training."""

TRUNK: Final = ("at2", "down4", "at4", "down8", "at8", "up4", "up2")
"""Layers that follow the new ones at a lower learning rate."""

ENCODER_STAGES: Final = (("at2", 3), ("at4", 7), ("at8", 11))
DECODER_STAGES: Final = (("at8", 2), ("at4", 7), ("at2", 12))
"""Stages of three blocks, and the number of the first one's layer in the tiny autoencoder."""

KEPT: Final = {1: (0,), 2: (0, 2), 3: (0, 1, 2)}
"""Which of a stage's three blocks are taken over, by their number.  Without the second one least changes."""


class Teacher:
    """The tiny autoencoder of a folder in diffusers' layout, an `AutoencoderTiny` with the layers of TAESD.

    base: channels of its latent.   width: channels of its layers.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        from diffusers import AutoencoderTiny

        network: Any = AutoencoderTiny.from_pretrained(folder, local_files_only=True)  # type: ignore[no-untyped-call]
        network = channels_last(network.float()).to(device).requires_grad_(requires_grad=False)
        self.encoder: nn.Sequential = network.encoder.layers
        self.decoder: nn.Sequential = network.decoder.layers
        self.base: int = network.config.latent_channels
        self.width: int = network.config.encoder_block_out_channels[0]

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return features at 1/2 before its blocks, and the latent, of pixels in 0..1."""
        first = self.encoder[:3](pixels)
        return first, self.encoder[3:](first)

    def decode(self, latent: Tensor) -> Tensor:
        """Return pixels, about 0..1."""
        result: Tensor = self.decoder(3 * torch.tanh(latent / 3))
        return result


@torch.no_grad()
def silence_new_layers(network: EmbeddedAutoencoder) -> None:
    """Set weights to zero, so that the layers beside the tiny autoencoder's change nothing until they are trained.

    These are the blocks, what they add to the tiny autoencoder's layers, and the modulation by the rate.
    Source: Goyal et al. 2017, arXiv 1706.02677, section 5.1, without the normalization.
    """
    encoder, decoder = network.encoder, network.decoder
    silent = [encoder.coarse[-1], decoder.mend, decoder.inject]
    silent += [module.conv2 for module in network.modules() if isinstance(module, Block)]
    silent += [module for module in network.modules() if isinstance(module, Modulation)]
    for layer in silent:
        for parameter in layer.parameters():
            parameter.zero_()


def take_over(network: EmbeddedAutoencoder, teacher: Teacher) -> None:
    """Copy the weights of all layers that both have."""
    encoder, decoder = network.encoder, network.decoder
    for part, source, stages in (
        (encoder, teacher.encoder, ENCODER_STAGES),
        (decoder, teacher.decoder, DECODER_STAGES),
    ):
        for name, first in stages:
            blocks = getattr(part, name)
            for block, number in zip(blocks, KEPT[len(blocks)], strict=True):
                copy(block.conv, source[first + number].conv)
    copy(encoder.down4, teacher.encoder[6])
    copy(encoder.down8, teacher.encoder[10])
    copy(encoder.tail, teacher.encoder[14])
    copy(decoder.head, teacher.decoder[0])
    copy(decoder.up4, teacher.decoder[6])
    copy(decoder.up2, teacher.decoder[11])


def copy(layer: nn.Module, source: Any) -> None:
    """Give a layer the weights of another one.  Raises RuntimeError if they do not fit."""
    layer.load_state_dict(source.state_dict())


def train_new_layers(network: EmbeddedAutoencoder, teacher: Teacher, photos: Photos, lpips: Lpips, steps: int) -> None:
    """Train the layers that replace the full-resolution stages.

    The layers beside them follow at a lower learning rate.  The network gets the running mean of the weights.
    """
    encoder, decoder = network.encoder, network.decoder
    device = next(network.parameters()).device
    networks = [(encoder.head, 1.0), (decoder.tail, 1.0)]
    networks += [(layer, 0.2) for part in (encoder, decoder) for name, layer in part.named_children() if name in TRUNK]
    optimizers = muon.optimizers(networks, LEARNING_RATE, 1.0)
    average = torch.optim.swa_utils.AveragedModel(network, multi_avg_fn=running_mean)
    begun = time.monotonic()
    for step in range(steps):
        crops = photos.batch(BATCH, CROP, np.random.default_rng((0, step)))
        pixels = crops.to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                teacher_first, teacher_z = teacher.encode(pixels)
                taught = teacher.decode(teacher_z).float()
            first, _, z = encoder.trunk(pixels)
            output = decoder.trunk(teacher_z).float()
        features = (first - teacher_first).float().square().mean() / teacher_first.float().square().mean()
        latents = (z - teacher_z).float().square().mean()
        error = (output - pixels).square().mean() + (output - taught).square().mean()
        seen = lpips(output, pixels).mean()
        loss = features + 4 * latents + 60 * error + seen
        descend(loss, network, optimizers, half_cosine(step, steps, LEARNING_RATE, WARM_UP))
        average.update_parameters(network)
        if step % 50 == 49:
            shown = (features.item(), latents.item(), error.item(), seen.item())
            print(step + 1, f"{time.monotonic() - begun:.0f} s", *(f"{value:.4g}" for value in shown), flush=True)
    network.load_state_dict(average.module.state_dict())


@torch.inference_mode()
def measure_transform(network: EmbeddedAutoencoder, photos: Photos) -> Tensor:
    """Set both transforms to the Karhunen-Loeve transform of 2 x 2 positions of the tiny autoencoder's latent.

    Channels beyond the transform get random features of the encoder's blocks at 1/16, scaled to `EXTRA_DEVIATION`.
    Returns the standard deviations of the channels, float32 (C,), those of the transform first, largest first.
    """
    encoder, decoder = network.encoder, network.decoder
    components = 4 * network.layout.base
    last = encoder.coarse[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    assert encoder.transform.bias is not None
    assert decoder.transform.bias is not None
    nn.init.normal_(last.weight[components:])
    generator = np.random.default_rng(0)
    found, extra = [], []
    for _ in range(TRANSFORM_BATCHES):
        pixels = photos.batch(BATCH, TRANSFORM_CROP, generator).to(last.weight.device)
        _, at8, z = encoder.trunk(pixels)
        found.append(F.pixel_unshuffle(z, 2).permute(0, 2, 3, 1).flatten(0, 2))
        extra.append(encoder.coarse(at8)[:, components:].permute(0, 2, 3, 1).flatten(0, 2))
    values, others = torch.cat(found).double(), torch.cat(extra)
    mean = values.mean(0)
    eigenvalues, vectors = torch.linalg.eigh((values - mean).T @ (values - mean) / len(values))
    matrix = vectors.flip(1).T.float()
    mean = mean.float()
    for layer in (encoder.transform, decoder.transform):
        for parameter in layer.parameters():
            parameter.zero_()
    encoder.transform.weight[:components] = matrix[:, :, None, None]
    encoder.transform.bias[:components] = -matrix @ mean
    decoder.transform.weight[:, :components] = matrix.T[:, :, None, None]
    decoder.transform.bias.copy_(mean)
    scale = EXTRA_DEVIATION / others.std(0)
    last.weight[components:] *= scale[:, None, None, None]
    last.bias[components:] = -scale * others.mean(0)
    deviation = eigenvalues.flip(0).clamp_min(1e-4).sqrt().float()
    return torch.cat([deviation, deviation.new_full((network.layout.channels - components,), EXTRA_DEVIATION)])


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="folder of a tiny autoencoder in diffusers' layout")
    parser.add_argument("--data", type=Path, required=True, help="folder of training photos")
    parser.add_argument("--metrics", type=Path, required=True, help="folder with LPIPS weights")
    parser.add_argument("--run", type=Path, required=True, help="folder to write start.pt into")
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    device = default_device()
    teacher = Teacher(options.teacher, device)
    layout = Layout(base=teacher.base, width=teacher.width)
    network = channels_last(EmbeddedAutoencoder(layout)).to(device)
    silence_new_layers(network)
    take_over(network, teacher)
    photos = Photos(options.data, TRANSFORM_CROP)
    train_new_layers(network, teacher, photos, Lpips(options.metrics).to(device), options.steps)
    deviation = measure_transform(network, photos)
    print("deviations", " ".join(f"{value:.3f}" for value in deviation.tolist()))
    options.run.mkdir(parents=True, exist_ok=True)
    state = {
        "layout": asdict(layout),
        "network": {name: tensor.cpu() for name, tensor in network.state_dict().items()},
        "deviation": deviation.cpu(),
    }
    torch.save(state, options.run / "start.pt")


if __name__ == "__main__":
    main()
