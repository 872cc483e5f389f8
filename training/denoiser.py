r"""Train our own denoiser for a latent space of Stable Diffusion, in two stages.

    python -m training.latents --space sd1 --model TAESD --data PHOTOS --crop 512 --out training/runs/latents
    python -m training.denoiser --latents training/runs/latents/sd1.npz --run training/runs/denoiser --steps 3000
    python -m training.denoiser --latents training/runs/latents/sd1.npz --run training/runs/denoiser-seen --steps 3000 \\
        --init training/runs/denoiser --data PHOTOS --model TAESD --metrics METRICS --batch 6 --crop 24 --lr 2e-4
    python -m training.denoiser --run training/runs/denoiser-seen --ship

First stage: squared error of the latent.  Second, with --metrics: besides, what people see of the picture that an
autoencoder makes of it (LPIPS, DISTS, squared error), against the photo.  Latents are quantised as files are: with the
scalar quantiser at random steps, and with palettes of their own (--palettes).

Writes RUN/checkpoint.pt, from which a run that was interrupted goes on, and RUN/log.txt.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor

from benchmarks.metrics import Dists, Lpips
from pillow_sdl.latent import palette
from pillow_sdl.latent.spaces import WEIGHTS
from pillow_sdl.models.denoiser import STEPS, Denoiser
from pillow_sdl.models.store import tensor_hash
from training import muon
from training.data import paths_of
from training.latents import SCALES, middle
from training.loop import channels_last, descend, learning_rate, record, running_mean
from training.shipping import replace_once

if TYPE_CHECKING:
    from collections.abc import Callable

PALETTE_SHARE = 0.25
"""Share of the crops that a palette quantises, once there are palettes."""

FACTOR = 8


class Batch(NamedTuple):
    """Crops.   clean, coarse: latents float32 (B, 4, h, w), as they were and quantised.   deviation: (B,), > 0.

    palette: (B,), 1 where a palette did it.   pixels: (B, 3, 8 h, 8 w) in 0..1, or None.
    """

    clean: Tensor
    coarse: Tensor
    deviation: Tensor
    palette: Tensor
    pixels: Tensor | None

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(*(None if part is None else part.to(device) for part in self))  # type: ignore[arg-type]


class Latents:
    """Latents of photos, quantised; the photos themselves where they are wanted."""

    def __init__(self, path: Path, photos: Path | None, crop: int) -> None:
        """path: as training.latents wrote it.   photos: the folder that it read.   crop: its --crop, in pixels."""
        with np.load(path) as archive:
            self.latents = {name: archive[name].astype(np.float32) for name in archive.files}
        self.names = list(self.latents)
        self.palettes: dict[str, tuple[np.ndarray, float]] = {}
        self.photos: dict[str, np.ndarray] = {}
        if photos is not None:
            found = paths_of(photos)
            assert len(found) >= len(self.names), "these are not the photos of these latents"
            for index, (name, file) in enumerate(zip(self.names, found, strict=False)):
                self.photos[name] = middle(file, crop, SCALES[index % len(SCALES)])
                assert self.photos[name].shape[0] == FACTOR * self.latents[name].shape[1], name

    def add_palettes(self, file: Path) -> None:
        """What palettes with dithering make of the latents, and the noise that a reader takes it for; kept in a file."""
        if file.exists():
            with np.load(file) as archive:
                self.palettes = {
                    name: (archive[name].astype(np.float32), float(archive[f"{name}/deviation"])) for name in self.names
                }
            return
        for name, latent in self.latents.items():
            colours, indices = palette.encode(latent, palette.MAX_SIZE, dither=True)
            noise = palette.noise(colours, indices, dithered=True)
            self.palettes[name] = palette.dequantize(palette.symbols(colours, indices)), noise.deviation
        arrays: dict[str, Any] = {name: found.astype(np.float16) for name, (found, _) in self.palettes.items()}
        arrays |= {f"{name}/deviation": np.float32(deviation) for name, (_, deviation) in self.palettes.items()}
        np.savez(file, **arrays)

    def batch(self, count: int, size: int, generator: np.random.Generator) -> Batch:
        """Random crops of size x size positions."""
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
    """Latents -> pixels about 0..1, by an `AutoencoderTiny`, with gradients for the latents."""
    from diffusers import AutoencoderTiny

    network: Any = AutoencoderTiny.from_pretrained(folder, local_files_only=True)  # type: ignore[no-untyped-call]
    network = network.to(device, memory_format=torch.channels_last).requires_grad_(requires_grad=False)

    def decode(latent: Tensor) -> Tensor:
        shown: Tensor = network.decode(latent.contiguous(memory_format=torch.channels_last)).sample
        return shown / 2 + 0.5

    return decode


class Seen:
    """What the second stage adds: how the decoded picture differs from the photo."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.decode = decoder(options.model, device)
        self.lpips = Lpips(options.metrics).to(device)
        self.dists = Dists(options.metrics).to(device)
        self.options = options

    def loss(self, latent: Tensor, pixels: Tensor, generator: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        """Of each picture (B,), and its parts for the log."""
        shown = self.decode(latent)
        error = (shown - pixels).square().mean((1, 2, 3))
        # AlexNet looks every fourth pixel: a moving grid leaves no blind spots.
        top, left = generator.integers(0, 4, 2)
        lpips = self.lpips(shown[:, :, top:, left:], pixels[:, :, top:, left:])
        some = slice(0, self.options.dists_crops)
        dists = self.dists(shown[some], pixels[some])
        total = self.options.lpips_weight * lpips + self.options.error_weight * error
        total[some] = total[some] + self.options.dists_weight * dists
        return total, {"lpips": lpips.mean().item(), "dists": dists.mean().item(), "mse": error.mean().item()}


def read_average(run: Path) -> Denoiser:
    """The running mean of a checkpoint's weights."""
    network = Denoiser()
    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    network.load_state_dict(state["average"])
    print(f"checkpoint of step {state['step']} of {run}")
    return network


def train(options: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.run.mkdir(parents=True, exist_ok=True)
    data = Latents(options.latents, options.data, options.latents_crop)
    if options.palettes:
        data.add_palettes(options.palettes)
    torch.manual_seed(options.seed)
    network = channels_last(read_average(options.init) if options.init else Denoiser()).to(device)
    average = Denoiser().to(device)
    average.load_state_dict(network.state_dict())
    optimizers = muon.optimizers([(network, 1.0)], options.lr, 0)
    seen = Seen(options, device) if options.metrics else None
    checkpoint, step = options.run / "checkpoint.pt", 0
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
        norm = descend(loss.mean(), network, optimizers, learning_rate(step, options.steps, options.lr))
        if math.isfinite(norm):
            running_mean(list(average.parameters()), list(network.parameters()), step)
        step += 1
        history.append(parts | {"norm": norm})
        if step % options.every == 0 or step == options.steps:
            row: dict[str, float] = {"step": step, "seconds": time.monotonic() - started}
            row |= {name: float(np.mean([parts[name] for parts in history])) for name in history[0]}
            state = {
                "network": network.state_dict(),
                "average": average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": step,
            }
            record(checkpoint, row, state)
            history = []


def ship(options: argparse.Namespace) -> None:
    """Put the weights into the package as float16, and their hash into the code and the registry."""
    network = read_average(options.run)
    tensors = {name: np.ascontiguousarray(t.half().numpy()) for name, t in network.state_dict().items()}
    assert all(np.isfinite(tensor).all() for tensor in tensors.values()), "a weight overflows float16"
    path = WEIGHTS / f"{options.space}-denoiser.safetensors"
    save_file(tensors, path)
    path.chmod(0o644)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    root = WEIGHTS.parent.parent
    replace_once(root / "pillow_sdl/models/cards.py", rf'(DENOISERS: .*?"{options.space}": ")[^"]*', digest)
    replace_once(root / "spec/registry.md", rf"(`[^`]*/{options.space}-denoiser\.safetensors` \| )[^ ]*", digest)
    print(f"{path}: {path.stat().st_size} bytes, SHA-256 {digest}, hash of its tensors {tensor_hash(tensors).hex()}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="sd1", help="name of the latent space (default %(default)s)")
    parser.add_argument("--latents", type=Path, help="as training.latents wrote them")
    parser.add_argument("--latents-crop", type=int, default=512, help="their --crop (default %(default)s)")
    parser.add_argument("--palettes", type=Path, help="file of the latents by palettes, made if it is missing")
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
    parser.add_argument("--error-weight", type=float, default=20.0, help="of pixels in 0..1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--ship", action="store_true", help="train no more: put the weights of --run into the package")
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
