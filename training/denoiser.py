r"""Train the package's own denoiser for a latent space of Stable Diffusion, in two stages.

    python -m training.latents --space sd1 --model TAESD --data PHOTOS --crop 512 --out training/runs/latents
    python -m training.denoiser --latents training/runs/latents/sd1.npz --run training/runs/denoiser --steps 3000
    python -m training.denoiser --latents training/runs/latents/sd1.npz --run training/runs/denoiser-seen --steps 3000 \
        --init training/runs/denoiser --data PHOTOS --model TAESD --metrics METRICS --batch 6 --crop 24 --lr 2e-4
    python -m training.denoiser --run training/runs/denoiser-seen --ship

The first stage minimizes the squared error of the latent.  The second stage, with --metrics, adds what people see: the
difference (LPIPS, DISTS, squared error) between the photo and the picture that an autoencoder makes of the latent.
Latents are quantized as in files: with the scalar quantizer at random steps, and with palettes (--palettes).

Writes RUN/checkpoint.pt, from which an interrupted run goes on, and RUN/log.txt.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pillow_sdl.latent import palette
from pillow_sdl.models import hashes
from pillow_sdl.models.networks.denoiser import STEPS, DenoiserNetwork
from training import latents, muon
from training.loop import CHECKPOINT, channels_last, default_device, descend, half_cosine, means, record, running_mean
from training.perceptual import GRID, Perceptual
from training.shipping import Shelf, add_root, as_float16

if TYPE_CHECKING:
    from collections.abc import Callable

PALETTE_SHARE: Final = 0.25
"""Share of the crops that a palette quantizes, once there are palettes."""

FACTOR: Final = 8
"""Pixels for each latent position, on each axis."""

WARM_UP: Final = 200


class Batch(NamedTuple):
    """A batch of crops.

    clean, coarse: latents before and after the quantizer, float32 (B, 4, h, w).
    deviation: standard deviation of the quantizer's error, (B,), > 0.
    palette: 1 where the quantizer was a palette, else 0, (B,).
    pixels: of the photos, in 0..1, (B, 3, 8 h, 8 w); None if there are no photos.
    """

    clean: Tensor
    coarse: Tensor
    deviation: Tensor
    palette: Tensor
    pixels: Tensor | None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(*(None if part is None else part.to(device) for part in self))  # type: ignore[arg-type]


class Latents:
    """Latents of photos, with crops of them quantized, and the photos if they are wanted."""

    def __init__(self, path: Path, photos: Path | None, crop: int) -> None:
        """Read latents.

        path: file that training.latents wrote.   photos: the folder that it read, None if photos are not wanted.
        crop: its --crop, in pixels.   Raises SystemExit if the folder has other photos.
        """
        self.latents = {name: latent.astype(np.float32) for name, latent in latents.read(path).items()}
        self.names = list(self.latents)
        self.palettes: dict[str, tuple[np.ndarray, float]] = {}
        self.photos: dict[str, np.ndarray] = {}
        if photos is not None:
            self.photos = dict(zip(self.names, latents.photos_of(self.names, photos, crop), strict=True))
            for name, photo in self.photos.items():
                if photo.shape[0] != FACTOR * self.latents[name].shape[1]:
                    msg = f"{name}: the photo has another size than its latent; --latents-crop must be that of {path}"
                    raise SystemExit(msg)

    def add_palettes(self, file: Path) -> None:
        """Quantize all latents with dithered palettes, and keep them, with the noise that a reader assumes, in a file.

        If the file exists, they are read from it.
        """
        if file.exists():
            with np.load(file) as archive:
                self.palettes = {
                    name: (archive[name].astype(np.float32), float(archive[f"{name}/deviation"])) for name in self.names
                }
            return
        for name, latent in self.latents.items():
            colors, indices = palette.fit_indices(latent, palette.MAX_SIZE, dither=True)
            noise = palette.noise(colors, indices, dithered=True)
            self.palettes[name] = palette.dequantize(palette.symbols(colors, indices)), noise.deviation
        arrays: dict[str, Any] = {name: found.astype(np.float16) for name, (found, _) in self.palettes.items()}
        arrays |= {f"{name}/deviation": np.float32(deviation) for name, (_, deviation) in self.palettes.items()}
        np.savez(file, **arrays)

    def batch(self, count: int, size: int, generator: np.random.Generator) -> Batch:
        """Return random crops of size x size latent positions."""
        clean, coarse, deviations, kinds, pixels = [], [], [], [], []
        names = [name for name in self.names if min(self.latents[name].shape[1:]) >= size]
        for _ in range(count):
            name = names[generator.integers(len(names))]
            latent = self.latents[name]
            top, left = (int(generator.integers(side - size + 1)) for side in latent.shape[1:])
            place = np.s_[:, top : top + size, left : left + size]
            by_palette = bool(self.palettes) and generator.random() < PALETTE_SHARE
            if by_palette:
                whole, deviation = self.palettes[name]
                found = whole[place]
            else:
                step = float(np.exp(generator.uniform(*np.log(STEPS))))
                found, deviation = np.rint(latent[place] / step) * step, step / 12**0.5
            clean.append(latent[place])
            coarse.append(found)
            deviations.append(deviation)
            kinds.append(float(by_palette))
            if self.photos:
                begin, end = (FACTOR * side for side in (top, left)), FACTOR * size
                row, column = begin
                pixels.append(self.photos[name][row : row + end, column : column + end])
        shown = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255 if pixels else None
        before, after = (torch.from_numpy(np.stack(found).astype(np.float32)) for found in (clean, coarse))
        noise, kind = (torch.tensor(values, dtype=torch.float32) for values in (deviations, kinds))
        return Batch(before, after, noise, kind, shown)


def decoder(folder: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return the decoder of an `AutoencoderTiny`, from latents to pixels about 0..1, with gradients for the latents."""
    from diffusers import AutoencoderTiny

    network: Any = AutoencoderTiny.from_pretrained(folder, local_files_only=True)  # type: ignore[no-untyped-call]
    network = network.to(device, memory_format=torch.channels_last).requires_grad_(requires_grad=False)

    def decode(latent: Tensor) -> Tensor:
        shown: Tensor = network.decode(latent.contiguous(memory_format=torch.channels_last)).sample
        return shown / 2 + 0.5

    return decode


class Seen:
    """The loss of the second stage: how the decoded picture differs from the photo."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.decode = decoder(options.model, device)
        self.perceptual = Perceptual(options.metrics, device, options.dists_crops, float32=True)
        self.options = options

    def loss(self, latent: Tensor, pixels: Tensor, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of each picture (B,), and its parts for the log."""
        shown = self.decode(latent)
        error = (shown - pixels).square().mean((1, 2, 3))
        top, left = generator.integers(0, GRID, 2).tolist()
        lpips, dists = self.perceptual(shown, pixels, (top, left))
        total = self.options.lpips_weight * lpips + self.options.error_weight * error
        total[: len(dists)] = total[: len(dists)] + self.options.dists_weight * dists
        return total, {"lpips": lpips.mean().item(), "dists": dists.mean().item(), "mse": error.mean().item()}


def read_average(run: Path) -> DenoiserNetwork:
    """Return the network with the running mean of a checkpoint's weights."""
    network = DenoiserNetwork()
    state = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
    network.load_state_dict(state["average"])
    print(f"checkpoint of step {state['step']} of {run}")
    return network


def train(options: argparse.Namespace) -> None:
    """Train a network, or go on with a run."""
    device = default_device()
    options.run.mkdir(parents=True, exist_ok=True)
    data = Latents(options.latents, options.data, options.latents_crop)
    if options.palettes:
        data.add_palettes(options.palettes)
    torch.manual_seed(options.seed)
    network = channels_last(read_average(options.init) if options.init else DenoiserNetwork()).to(device)
    average = DenoiserNetwork().to(device)
    average.load_state_dict(network.state_dict())
    optimizers = muon.optimizers([(network, 1.0)], options.lr, 0)
    seen = Seen(options, device) if options.metrics else None
    checkpoint, step = options.run / CHECKPOINT, 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        muon.load(optimizers, state["optimizers"])
        step = state["step"]
    started, history = time.monotonic(), []
    while step < options.steps:
        # Crops depend on the step alone, so a resumed run sees what an unbroken one would have seen.
        generator = np.random.default_rng((options.seed, step))
        batch = data.batch(options.batch, options.crop, generator).to(device)
        coarse = batch.coarse.contiguous(memory_format=torch.channels_last)
        found = network(coarse, batch.deviation, batch.palette)
        scale = batch.deviation[:, None, None, None]
        error = ((found - batch.clean) / scale).square().mean((1, 2, 3))
        before = ((coarse - batch.clean) / scale).square().mean((1, 2, 3))
        parts = {"latent": error.mean().item(), "share": (error / before).mean().item()}
        loss = options.latent_weight * error
        if seen is not None and batch.pixels is not None:
            visible, more = seen.loss(found, batch.pixels, generator)
            loss, parts = loss + visible, parts | more
        norm = descend(loss.mean(), network, optimizers, half_cosine(step, options.steps, options.lr, WARM_UP))
        if math.isfinite(norm):
            running_mean(list(average.parameters()), list(network.parameters()), step)
        step += 1
        history.append(parts | {"norm": norm})
        if step % options.every == 0 or step == options.steps:
            row: dict[str, float] = {"step": step, "seconds": time.monotonic() - started} | means(history)
            state = {
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step,
            }
            record(checkpoint, row, state)
            history = []


def ship(options: argparse.Namespace) -> None:
    """Put the running mean of the weights into the package as float16, and its SHA-256 into the registry."""
    tensors = as_float16(read_average(options.run).state_dict())
    with Shelf(options.root) as shelf:
        space = shelf.entry("spaces", options.space)
        shelf.store(space, "denoiser", f"{options.space}-denoiser.safetensors", tensors)
    print(f"hash of its tensors {hashes.of_arrays(tensors).hex()}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="sd1", help="name of the latent space (default %(default)s)")
    parser.add_argument("--latents", type=Path, help="file that training.latents wrote")
    parser.add_argument("--latents-crop", type=int, default=512, help="their --crop (default %(default)s)")
    parser.add_argument("--palettes", type=Path, help="file of latents quantized by palettes; made if it is missing")
    parser.add_argument("--run", type=Path, required=True, help="folder of the checkpoint and the log")
    parser.add_argument("--init", type=Path, help="run whose weights a new one starts from")
    parser.add_argument("--data", type=Path, help="second stage: the photos of the latents")
    parser.add_argument("--model", type=Path, help="second stage: folder of an AutoencoderTiny")
    parser.add_argument("--metrics", type=Path, help="second stage: folder with LPIPS and DISTS weights")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--crop", type=int, default=32, help="latent positions (default %(default)s)")
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--latent-weight", type=float, default=1.0)
    parser.add_argument("--lpips-weight", type=float, default=4.0)
    parser.add_argument("--dists-weight", type=float, default=3.0)
    parser.add_argument("--dists-crops", type=int, default=2, help="crops of each batch that DISTS sees")
    parser.add_argument(
        "--error-weight", type=float, default=20.0, help="weight of the squared error of pixels in 0..1"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--ship", action="store_true", help="do not train; put the weights of --run into the package")
    add_root(parser)
    options = parser.parse_args(arguments)
    if options.ship:
        ship(options)
        return
    if options.latents is None:
        parser.error("training needs --latents")
    if options.metrics and not (options.data and options.model):
        parser.error("--metrics needs --data and --model")
    train(options)


if __name__ == "__main__":
    main()
