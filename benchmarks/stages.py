"""Time and memory of each stage with networks of Stable Diffusion 1's size, in a process of its own each.

For Linux, which tells a process's peak.  The networks are built from the published configurations, with random weights: neither depends on their values.  The
latent of such an encoder says little, so it is brought to the deviation of Stable Diffusion's before it is coded.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.runs import Row, command, middle, versions

MODEL: Final = "sd-1.5"
SPACE: Final = "sd1"

UNET: Final[dict[str, Any]] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
AUTOENCODER: Final[dict[str, Any]] = {
    "sample_size": 512,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
"""Stable Diffusion 1's, as its repositories have them; what is not named is diffusers' default."""

START = """
import json, statistics, sys, time
import numpy as np
import pillow_sdl
from pillow_sdl.latent import entropy, noise, optimize, quantize, spaces
from pillow_sdl.models import cards, store

folder, model, space, rate, repeats, denoise = json.loads(sys.argv[1])
pillow_sdl.configure(device="cpu", model_dirs=[folder], denoise=denoise)
name = f"{folder}/" + "{}.npy"
log2_steps = quantize.log2_steps(spaces.by_name(space).tables.log2_steps, rate)
steps = quantize.steps(spaces.by_name(space).tables.log2_steps, rate)
"""

END = """
def seconds(call):
    begin = time.perf_counter()
    found = call()
    return time.perf_counter() - begin, found

load_s, loaded = seconds(load)
first_s, found = seconds(lambda: run(loaded))
times = [seconds(lambda: run(loaded))[0] for _ in range(repeats)] or [first_s]
keep(found)
# Not ru_maxrss: that of a process begins with what its parent had, which here has built all networks.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps({"load_s": load_s, "first_s": first_s, "s": statistics.median(times), "peak_mb": peak / 1024}))
"""

STAGES: Final = {
    "encode": """
load = lambda: store.load(cards.by_name(model))
pixels = np.load(name.format("pixels"))
run = lambda network: network.encode(pixels)
keep = lambda latent: np.save(name.format("latent"), latent / latent.std())
""",
    "choose symbols": """
load = lambda: quantize.scale(np.load(name.format("latent")), steps)
run = lambda scaled: optimize.choose(scaled, space, log2_steps, 0.0)
keep = lambda symbols: np.save(name.format("symbols"), symbols)
""",
    "entropy encode": """
load = lambda: np.load(name.format("symbols"))
run = lambda symbols: entropy.encode(symbols, entropy.RANGE, space, log2_steps)
keep = lambda payload: np.save(name.format("payload"), np.frombuffer(payload, np.uint8))
""",
    "entropy decode": """
load = lambda: np.load(name.format("payload")).tobytes()
shape = np.load(name.format("symbols")).shape
run = lambda payload: entropy.decode(payload, shape, entropy.RANGE, space, log2_steps)
keep = lambda symbols: np.save(name.format("coded"), quantize.dequantize(symbols, steps))
""",
    "UNet step": """
load = lambda: store.load_denoiser(space)
latent = np.load(name.format("coded"))
run = lambda network: network.denoise(latent, noise.of_steps(steps), 1)
keep = lambda latent: np.save(name.format("clean"), latent)
""",
    "decode": """
load = lambda: store.load(cards.by_name(model))
latent = np.load(name.format("clean"))
run = lambda network: network.decode(latent, rate)
keep = lambda pixels: None
""",
}
"""Programs in the order of the work; each leaves what the next one reads."""


def full_size(pipeline: Path) -> None:
    """Write a pipeline's folder with random weights: 3.8 GB."""
    import diffusers
    import torch
    from safetensors.numpy import save_file

    from pillow_sdl.models import search

    torch.manual_seed(0)
    kinds: Any = diffusers  # its stubs lack half of it
    kinds.UNet2DConditionModel(**UNET).save_pretrained(pipeline / search.UNET)
    kinds.AutoencoderKL(**AUTOENCODER).save_pretrained(pipeline / "vae")
    prompt = np.random.default_rng(0).normal(size=(1, 77, UNET["cross_attention_dim"]))
    save_file({search.PROMPT_TENSOR: prompt.astype(np.float32)}, pipeline / search.PROMPT)


def run(
    photo: Path,
    output: Path,
    folder: Path,
    repeats: int,
    side: int,
    quality: int,
    build: Callable[[Path], None] = full_size,
) -> None:
    """Measure with the middle of a photo, and write JSON.

    repeats: calls after the first that a stage's time is the median of; 0: the first one's time.   build: writes the
    pipeline's folder.
    """
    import torch

    from pillow_sdl.codec import EncodeOptions

    build(folder / MODEL)
    np.save(folder / "pixels.npy", np.asarray(middle(photo, side)))
    rate = EncodeOptions(quality=quality).rate
    arguments = json.dumps([str(folder), MODEL, SPACE, rate, repeats, "unet"])
    rows: list[Row] = []
    for stage, program in STAGES.items():
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", START + program + END, arguments], check=True, stdout=subprocess.PIPE, text=True
        )
        rows.append({"stage": stage} | json.loads(done.stdout))
        print(json.dumps(rows[-1]))
    found = {
        "command": command(),
        "versions": versions(),
        "setting": {"side": side, "quality": quality, "repeats": repeats, "threads": torch.get_num_threads()},
        "payload_bytes": np.load(folder / "payload.npy").size,
        "rows": rows,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
