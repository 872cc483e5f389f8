"""Turn a training checkpoint into what ships: weights, the latent space's tables and context model, their hashes.

    python -m training.export --run training/runs/NAME --data DIR --space sdl5

Writes into pillow_sdl/weights/ SPACE.safetensors (running mean of the weights, float16), SPACE-tables.safetensors (steps
of the quantiser, linear map of the preview) and SPACE-context.safetensors (the integer context model), and their hashes
into models/cards.py, latent/spaces.py, latent/context.py and spec/registry.md, which must name the space.

Files name the latent space, and payloads need its tables to the bit.  Once files of a space are in the world, retrained
weights are another space with another number, and the old ones go on shipping; a decoder alone may be replaced.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch.nn import functional as F

from pillow_sdl.latent.preview import BLOCK
from pillow_sdl.latent.spaces import STEP_UNIT, WEIGHTS
from pillow_sdl.models.embedded import LATENT_CHANNELS
from pillow_sdl.models.store import DECODER, tensor_hash
from training.data import Photos
from training.shipping import replace_once
from training.train import Codec, read_codec

PREVIEW_CROP = 256
RIDGE = 1e-3
"""Weight against large entries in the preview's map, in units of the mean variance of a channel."""


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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="folder of training photos, for the preview's map")
    parser.add_argument("--space", required=True, help="name of the latent space")
    options = parser.parse_args(arguments)
    space = options.space
    codec = read_codec(options.run)
    tensors = {name: tensor.half().numpy() for name, tensor in codec.autoencoder.state_dict().items()}
    assert all(np.isfinite(tensor).all() for tensor in tensors.values()), "a weight overflows float16"
    # What ships is rounded to float16, and the preview's map is fitted to what ships.
    codec.autoencoder.load_state_dict({name: torch.from_numpy(tensor).float() for name, tensor in tensors.items()})
    steps = np.rint(codec.rate_model.log2_steps.detach().numpy() * STEP_UNIT).astype(np.int16)
    arrays = {
        space: tensors,
        f"{space}-tables": {"log2_steps": steps, "preview": fit_preview(codec, Photos(options.data, PREVIEW_CROP))},
        f"{space}-context": codec.rate_model.context.tensors(),
    }
    WEIGHTS.mkdir(exist_ok=True)
    digests = {}
    for name, values in arrays.items():
        path = WEIGHTS / f"{name}.safetensors"
        save_file(values, path)
        path.chmod(0o644)
        digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    decoder = {name.removeprefix(DECODER): t for name, t in tensors.items() if name.startswith(DECODER)}
    found = tensor_hash(decoder).hex()
    root = WEIGHTS.parent.parent
    registry, cards = root / "spec/registry.md", root / "pillow_sdl/models/cards.py"
    replace_once(cards, rf'(space="{space}",.*?hash=")[^"]*', found)
    replace_once(cards, rf'(space="{space}",.*?sha256=")[^"]*', digests[space])
    replace_once(registry, rf"(\| [a-z]\w* \| {space} \| )[^ ]*", found)
    for name in (f"{space}-tables", f"{space}-context"):
        replace_once(registry, rf"({name}\.safetensors` \| )[^ ]*", digests[name])
    tables = root / "pillow_sdl/latent/spaces.py"
    replace_once(tables, rf'(name="{space}",.*?tables_sha256=")[^"]*', digests[f"{space}-tables"])
    replace_once(root / "pillow_sdl/latent/context.py", rf'("{space}": ")[^"]*', digests[f"{space}-context"])
    print(f"hash {found}")


if __name__ == "__main__":
    main()
