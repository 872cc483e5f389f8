"""Turn a training checkpoint into what ships: weights, the latent space's tables, the model's hash.

    python -m training.export --run training/runs/NAME --data DIR

Writes pillow_sdl/weights/sdl1.safetensors (running mean of the weights, float16), sdl1-tables.safetensors (steps of
the quantiser, linear map of the preview), and their hashes into models/cards.py, latent/spaces.py and spec/registry.md.

Files name the latent space.  Once files of sdl1 are in the world, retrained weights are another space: give it a new
name and number here and in the registry, and keep the old weights.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.numpy import save_file
from torch.nn import functional as F

from pillow_sdl.latent.preview import BLOCK
from pillow_sdl.latent.spaces import STEP_UNIT, WEIGHTS
from pillow_sdl.models.embedded import LATENT_CHANNELS
from pillow_sdl.models.store import DECODER, tensor_hash
from training.data import Photos
from training.train import Codec, averaged

PREVIEW_CROP = 256
RIDGE = 1e-3
"""Weight against large entries in the preview's map, in units of the mean variance of a channel."""


def read_codec(run: Path) -> Codec:
    """The running mean of a checkpoint's weights."""
    codec = Codec()
    average = averaged(codec)
    state = torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    average.load_state_dict(state["average"])
    print(f"checkpoint of step {state['step']}")
    return cast("Codec", average.module).eval()


@torch.inference_mode()
def fit_preview(codec: Codec, photos: Photos, batches: int = 40) -> np.ndarray:
    """Least squares from a position's latent, dequantised at random rates, to its 3 x 8 x 8 preview pixels."""
    size = LATENT_CHANNELS + 1
    gram = torch.zeros(size, size, dtype=torch.float64)
    cross = torch.zeros(size, 3 * BLOCK * BLOCK, dtype=torch.float64)
    for index in range(batches):
        generator = np.random.default_rng(index)
        pixels = photos.batch(8, PREVIEW_CROP, generator)
        rate = torch.from_numpy(generator.random(len(pixels), dtype=np.float32))
        steps = codec.rate_model.steps(rate)
        latent = (codec.autoencoder.encoder(pixels) / steps).round() * steps
        wanted = F.pixel_unshuffle(F.avg_pool2d(pixels, 2), BLOCK)
        rows = F.pad(latent.permute(0, 2, 3, 1).reshape(-1, LATENT_CHANNELS), (0, 1), value=1.0).double()
        gram += rows.T @ rows
        cross += rows.T @ wanted.permute(0, 2, 3, 1).reshape(len(rows), -1).double()
    mean_variance = gram.diagonal()[:-1].mean()
    # The small number keeps the system solvable where every symbol is zero.
    penalty = (RIDGE * mean_variance + 1e-9) * torch.eye(size, dtype=torch.float64)
    penalty[-1, -1] = 0
    # In C order: safetensors writes an array as it lies in memory.
    return np.ascontiguousarray(torch.linalg.solve(gram + penalty, cross).numpy(), np.float16)


def replace_once(path: Path, pattern: str, value: str) -> None:
    """Put `value` after the pattern's first group in a text file."""
    text, count = re.subn(pattern, lambda match: match[1] + value, path.read_text(), count=1, flags=re.DOTALL)
    assert count == 1, f"{path} has nothing like {pattern}"
    path.write_text(text)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="folder of training photos, for the preview's map")
    options = parser.parse_args(arguments)
    codec = read_codec(options.run)
    tensors = {name: tensor.half().numpy() for name, tensor in codec.autoencoder.state_dict().items()}
    assert all(np.isfinite(tensor).all() for tensor in tensors.values()), "a weight overflows float16"
    WEIGHTS.mkdir(exist_ok=True)
    save_file(tensors, WEIGHTS / "sdl1.safetensors")
    steps = codec.rate_model.log2_steps.detach().numpy()
    tables = {
        "log2_steps": np.rint(steps * STEP_UNIT).astype(np.int16),
        "preview": fit_preview(codec, Photos(options.data, PREVIEW_CROP)),
    }
    save_file(tables, WEIGHTS / "sdl1-tables.safetensors")
    decoder = {name.removeprefix(DECODER): t for name, t in tensors.items() if name.startswith(DECODER)}
    found = tensor_hash(decoder).hex()
    digests = {}
    for path in WEIGHTS.glob("sdl1*.safetensors"):
        path.chmod(0o644)
        digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    tables_digest = digests["sdl1-tables.safetensors"]
    root = WEIGHTS.parent.parent
    replace_once(root / "pillow_sdl/models/cards.py", r'(name="embedded",.*?hash=")[^"]+', found)
    replace_once(root / "spec/registry.md", r"(\| embedded \| sdl1 \| )[^ ]+", found)
    replace_once(root / "spec/registry.md", r"(sdl1-tables.safetensors` \| )[^ ]+", tables_digest)
    replace_once(root / "pillow_sdl/latent/spaces.py", r'(name="sdl1",.*?tables_sha256=")[^"]+', tables_digest)
    replace_once(
        root / "pillow_sdl/models/cards.py", r'(name="embedded",.*?sha256=")[^"]+', digests["sdl1.safetensors"]
    )
    print(f"hash {found}")


if __name__ == "__main__":
    main()
