"""Train the context model (payload method "range") of a latent space whose autoencoder is not ours.

    python -m training.context --space sd1 --latents training/runs/latents/sd1.npz --groups 1 1 1 1 --out FOLDER --ship

The float twin is trained on latents that are quantized at random steps.  In the last part of the training its weights
and activations are rounded as the integer model rounds them, so that the shipped model is the trained one.  Writes
OUT/SPACE-context.pt, from which --resume goes on.  With --ship it also writes
pillow_sdl/weights/SPACE-context.safetensors, and its SHA-256 in registry.json.

The context model of the embedded space is trained with the autoencoder (training.train).
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import nn

from training import latents
from training.loop import replace
from training.shipping import Shelf, add_root
from training.twin import ContextModel

CROP: Final = 40
"""Latent positions along each side of a crop."""

BATCH: Final = 8

OCTAVES: Final = (-3.3, 0.9)
"""Range of the steps in training: log2 of a step in units of the mean standard deviation of the channels."""


def crop(latent: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a random square of a latent, float32 (C, CROP, CROP).  Edges are repeated if the latent is smaller."""
    top, left = (int(generator.integers(max(side - CROP, 0) + 1)) for side in latent.shape[1:])
    found = latent[:, top : top + CROP, left : left + CROP].astype(np.float32)
    found = np.pad(found, ((0, 0), (0, CROP - found.shape[1]), (0, CROP - found.shape[2])), mode="edge")
    return found[:, :, ::-1] if generator.random() < 0.5 else found


def batch(data: list[np.ndarray], middle: float, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return crops of latents (C, h, w), float32 (BATCH, C, CROP, CROP), and log2 of their steps, float32 (BATCH, C).

    middle: log2 of the mean standard deviation of the channels.
    """
    latent = np.stack([crop(data[generator.integers(len(data))], generator) for _ in range(BATCH)])
    octaves = generator.uniform(*OCTAVES, (BATCH, 1)) + middle
    return latent, np.repeat(octaves, latent.shape[1], 1).astype(np.float32)


def train(model: ContextModel, data: list[np.ndarray], middle: float, options: argparse.Namespace) -> None:
    """Train a model on latents (C, h, w), and keep its state in a file.

    middle: log2 of the mean standard deviation of the channels.
    """
    saved = options.out / f"{options.space}-context.pt"
    optimizer = torch.optim.Adam(model.parameters(), options.rate)
    first = 0
    if options.resume and saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    options.out.mkdir(parents=True, exist_ok=True)
    begun, total = time.monotonic(), 0.0
    for index in range(first, options.steps):
        # Crops depend on the step alone, so a resumed run sees what an unbroken one would have seen.
        generator = np.random.default_rng((options.seed, index))
        done = index / options.steps
        for group in optimizer.param_groups:
            group["lr"] = options.rate * min(1, (index + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * done) + 0.01)
        model.rounding.on = done > 1 - options.rounded
        latent, octaves = batch(data, middle, generator)
        symbols = torch.from_numpy(np.rint(latent / np.exp2(octaves)[:, :, None, None]))
        # The gradient of the logarithm is the relative one, so every crop counts alike, whatever its bytes.
        loss = torch.log2(model(symbols, torch.from_numpy(octaves)) + 100).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item()
        if index % 100 == 99:
            print(f"{index + 1} log2 bits {total / 100:.4f} {time.monotonic() - begun:.0f} s", flush=True)
            total = 0.0
        if (index + 1) % options.every == 0 or index == options.steps - 1:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": index + 1}
            replace(saved, state)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", required=True, help="name of the latent space")
    parser.add_argument("--latents", type=Path, required=True, help="file that training.latents wrote")
    parser.add_argument("--groups", type=int, nargs="+", required=True, help="channels of each group")
    parser.add_argument("--hidden", type=int, nargs=2, default=[96, 48], help="values of the two hidden layers")
    parser.add_argument("--window", type=int, default=3, help="positions seen on each side in earlier groups")
    parser.add_argument("--reach", type=int, default=4, help="grid steps seen on each side in the own group")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--rounded", type=float, default=0.3, help="last part of the steps, with rounding")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=500, help="steps between two states that are kept")
    parser.add_argument("--out", type=Path, required=True, help="folder for the state of the training")
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    parser.add_argument("--ship", action="store_true", help="put the integer table into the package")
    add_root(parser)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    data = list(latents.read(options.latents).values())
    deviation = latents.deviations(data)
    order = np.arange(len(deviation))
    model = ContextModel(order, options.groups, deviation, options.hidden, options.window, options.reach)
    train(model, data, float(np.log2(deviation.mean())), options)
    if options.ship:
        with Shelf(options.root) as shelf:
            space = shelf.entry("spaces", options.space)
            shelf.store(space, "context", f"{options.space}-context.safetensors", model.tensors())


if __name__ == "__main__":
    main()
