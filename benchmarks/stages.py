"""Measure time and memory of each stage with networks of Stable Diffusion 1's size, each in a process of its own.

It runs on Linux, which tells a process's peak.  The networks are built from the published configurations with random
weights, because time and memory do not depend on the values.  The latent of such an encoder is scaled to the standard
deviation of Stable Diffusion's latents before it is coded.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.runs import Row, command, middle, versions, write_json

if TYPE_CHECKING:
    from PIL import Image

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
"""Configurations of Stable Diffusion 1, as in its repositories.  What is not named is diffusers' default."""

START = """
import json, statistics, sys, time
import numpy as np
import pillow_sdl
from pillow_sdl import registry
from pillow_sdl.latent import entropy, optimize, scalar, spaces
from pillow_sdl.models import store

folder, model, space, rate, repeats, denoise = json.loads(sys.argv[1])
pillow_sdl.configure(device="cpu", model_dirs=[folder], denoise=denoise)
name = f"{folder}/" + "{}.npy"
method = registry.load().payloads["range"]
table = spaces.tables(registry.space(space)).log2_steps
log2_steps, steps = scalar.log2_steps(table, rate), scalar.steps(table, rate)
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
# Not ru_maxrss, which begins with what the parent had, and the parent has built all networks.
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps({"load_s": load_s, "first_s": first_s, "s": statistics.median(times), "peak_mb": peak / 1024}))
"""

STAGES: Final = {
    "encode": """
load = lambda: store.load(registry.model(model))
pixels = np.load(name.format("pixels"))
run = lambda network: network.encode(pixels)
keep = lambda latent: np.save(name.format("latent"), latent / latent.std())
""",
    "choose symbols": """
load = lambda: scalar.scale(np.load(name.format("latent")), steps)
run = lambda scaled: optimize.choose(scaled, space, log2_steps, 0.0)
keep = lambda symbols: np.save(name.format("symbols"), symbols)
""",
    "entropy encode": """
load = lambda: np.load(name.format("symbols"))
run = lambda symbols: entropy.encode(symbols, method, space, log2_steps)
keep = lambda payload: np.save(name.format("payload"), np.frombuffer(payload, np.uint8))
""",
    "entropy decode": """
load = lambda: np.load(name.format("payload")).tobytes()
shape = np.load(name.format("symbols")).shape
run = lambda payload: entropy.decode(payload, shape, method, space, log2_steps)
keep = lambda symbols: np.save(name.format("coded"), scalar.dequantize(symbols, steps))
""",
    "UNet step": """
load = lambda: store.load_denoiser(space)
latent = np.load(name.format("coded"))
run = lambda network: network.denoise(latent, scalar.noise_of(steps), 1)
keep = lambda latent: np.save(name.format("clean"), latent)
""",
    "decode": """
load = lambda: store.load(registry.model(model))
latent = np.load(name.format("clean"))
run = lambda network: network.decode(latent, rate)
keep = lambda pixels: None
""",
}
"""Programs in the order of the work.  Each writes the file that the next one reads."""


def full_size(pipeline: Path) -> None:
    """Write the folder of a pipeline with random weights, 3.8 GB."""
    import diffusers
    import torch
    from safetensors.numpy import save_file

    from pillow_sdl.models import local

    torch.manual_seed(0)
    kinds: Any = diffusers  # Its stubs lack these classes.
    kinds.UNet2DConditionModel(**UNET).save_pretrained(pipeline / local.UNET)
    kinds.AutoencoderKL(**AUTOENCODER).save_pretrained(pipeline / "vae")
    prompt = np.random.default_rng(0).normal(size=(1, 77, UNET["cross_attention_dim"]))
    save_file({local.PROMPT_TENSOR: prompt.astype(np.float32)}, pipeline / local.PROMPT)


def measure(folder: Path, image: Image.Image, rate: int, repeats: int, build: Callable[[Path], None]) -> list[Row]:
    """Return a row for each stage, whose files stay in a folder.

    build: writes the folder of the pipeline.   The other parameters are those of `run`.
    """
    build(folder / MODEL)
    np.save(folder / "pixels.npy", np.asarray(image))
    arguments = json.dumps([str(folder), MODEL, SPACE, rate, repeats, "unet"])
    rows: list[Row] = []
    for stage, program in STAGES.items():
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", START + program + END, arguments], check=True, stdout=subprocess.PIPE, text=True
        )
        rows.append({"stage": stage} | json.loads(done.stdout))
        print(json.dumps(rows[-1]))
    return rows


def run(photo: Path, output: Path, *, repeats: int, side: int, quality: int) -> None:
    """Measure with the middle of a photo, and write `output`, a JSON file.

    The networks take 4 GB in a temporary folder; TMPDIR says where that is.
    repeats: calls after the first one that a stage's time is the median of; 0 for the time of the first one.
    side: of the middle, in pixels.   quality: as in `save`.
    """
    import torch

    from pillow_sdl.options import EncodeOptions

    image = middle(photo, side)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = measure(folder, image, EncodeOptions(quality=quality).rate, repeats, full_size)
        payload = np.load(folder / "payload.npy").size
    found = {
        "command": command(),
        "versions": versions(),
        "setting": {"side": side, "quality": quality, "repeats": repeats, "threads": torch.get_num_threads()},
        "payload_bytes": payload,
        "rows": rows,
    }
    write_json(output, found)
