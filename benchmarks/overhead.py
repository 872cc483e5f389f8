"""Time an autoencoder of diffusers through this package against diffusers called by hand.  Calls alternate.

By hand: the network as it is loaded, in inference mode, from a picture to a latent in memory and back.  Through the
package: whole files, including the time that reading and writing them takes.
"""

from __future__ import annotations

import io
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import diffusers
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import pillow_sdl  # noqa: F401  registers .sdl
from benchmarks.runs import command, middle, versions, write_json
from pillow_sdl import registry, settings
from pillow_sdl.models import hub

SIDE: Final = 512
"""Pixels along each side of the picture."""


def turns(actions: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each action.  Actions are called in turn, after one call each that does not count."""
    found: dict[str, list[float]] = {name: [] for name in actions}
    for count in tqdm(range(repeats + 1), unit="turn", disable=None):
        for name, action in actions.items():
            started = time.perf_counter()
            action()
            if count:
                found[name].append(time.perf_counter() - started)
    return found


def run(photo: Path, output: Path, *, model: str, repeats: int) -> None:
    """Measure with the middle of a photo, write `output`, a JSON file, and print the medians."""
    found_model = registry.model(model)
    if not found_model.repositories:
        msg = f"{model} is not a model of diffusers"
        raise SystemExit(msg)
    try:
        folder = hub.find(found_model)
    except OSError as exc:
        raise SystemExit(str(exc)) from exc
    image = middle(photo, SIDE)
    network: Any = getattr(diffusers, found_model.network).from_pretrained(folder, local_files_only=True)
    target = io.BytesIO()
    image.save(target, "SDL", model=model)
    data = target.getvalue()

    @torch.inference_mode()
    def encode_by_hand() -> torch.Tensor:
        batch = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        encoded = network.encode(batch)
        latent: torch.Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return latent

    latent = encode_by_hand()

    @torch.inference_mode()
    def decode_by_hand() -> Image.Image:
        shown = (network.decode(latent).sample[0] / 2 + 0.5).clamp(0, 1)
        return Image.fromarray((255 * shown).round().byte().permute(1, 2, 0).numpy())

    def decode(denoise: str) -> Callable[[], object]:
        def action() -> None:
            with settings.using(denoise=denoise):
                Image.open(io.BytesIO(data)).load()

        return action

    seconds = turns(
        {
            "encode_by_hand": encode_by_hand,
            "encode": lambda: image.save(io.BytesIO(), "SDL", model=model),
            "decode_by_hand": decode_by_hand,
            "decode": decode("off"),
            "decode_denoised": decode("auto"),
        },
        repeats,
    )
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    found = {
        "command": command(),
        "model": model,
        "side": SIDE,
        "bytes": len(data),
        "versions": versions(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "medians_s": medians,
        "ratios": {
            name: medians[name] / medians[f"{name.partition('_')[0]}_by_hand"]
            for name in ("encode", "decode", "decode_denoised")
        },
        "seconds": seconds,
    }
    write_json(output, found)
    print(json.dumps({name: found[name] for name in ("medians_s", "ratios")}, indent=1))
