"""Turn a run's checkpoint into the embedded model of the package.

    python -m training.ship --run training/runs/NAME --data PHOTOS

Writes into pillow_sdl/weights/ the weights (running mean, float16), the tables (steps of the quantizer, linear map of
the preview), the integer context model and the ONNX graphs, and enters them in registry.json.  Then it runs the
programs that make the test vectors and golden files of the embedded model.  It changes no other file.

Before anything is written, the network in pillow_sdl/models/networks/embedded.py must take the weights and give the
latent and the picture of the trained network.

Afterwards files of the earlier model are refused, because the embedded space is not frozen yet (SPEC 7.1).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from pillow_sdl import registry
from pillow_sdl.errors import ModelMismatchError
from pillow_sdl.latent import context
from pillow_sdl.latent.preview import BLOCK
from pillow_sdl.latent.spaces import STEP_UNIT
from pillow_sdl.models import hashes
from pillow_sdl.models.networks.embedded import EmbeddedModel
from training import graphs, preview
from training.codec import Codec, read_codec
from training.data import Photos
from training.shipping import Shelf, add_root, as_float16

if TYPE_CHECKING:
    from collections.abc import Iterator

PREVIEW_CROP: Final = 256
PREVIEW_BATCHES: Final = 40
PREVIEW_BATCH: Final = 8

RIDGE: Final = 1e-3
"""Weight against large entries of the preview's map, in units of the mean variance of a channel."""

PROBE: Final = 64
"""Pixels along each side of the picture on which the trained and the run-time network are compared."""

PROGRAMS: Final = (("spec/make_vectors.py", "--embedded"), ("tests/golden/make.py",))
"""Programs of a checkout whose output depends on the embedded model, with their arguments."""


class Shipment(NamedTuple):
    """What ships, as arrays.   codec: with the weights as they ship.   network: the same at run time."""

    codec: Codec
    network: EmbeddedModel
    weights: dict[str, np.ndarray]
    tables: dict[str, np.ndarray]
    context: dict[str, np.ndarray]


def packed(codec: Codec, photos: Photos) -> Shipment:
    """Return what ships of a codec, whose weights are rounded to float16 in place.

    Raises SystemExit if the network of the package does not take the weights, or gives something else.
    """
    weights = as_float16(codec.autoencoder.state_dict())
    codec.autoencoder.load_state_dict({name: torch.from_numpy(tensor).float() for name, tensor in weights.items()})
    network = at_run_time(codec, weights)
    log2_steps = np.rint(codec.rate_model.log2_steps.detach().numpy() * STEP_UNIT).astype(np.int16)
    tables = {"log2_steps": log2_steps, "preview": fit_preview(codec, photos)}
    integers = codec.rate_model.context.tensors()
    context.Model.from_tensors(integers)
    return Shipment(codec, network, weights, tables, integers)


def at_run_time(codec: Codec, weights: dict[str, np.ndarray]) -> EmbeddedModel:
    """Return the network of the package with the weights of a codec.

    Raises SystemExit if they do not fit, or if it gives another latent or picture than the trained network.
    """
    digest = hashes.of_arrays(hashes.decoder_part(weights)).hex()
    try:
        network = EmbeddedModel(weights, "cpu", digest)
    except ModelMismatchError as exc:
        msg = f"pillow_sdl/models/networks/embedded.py does not take the weights of this run: {exc}"
        raise SystemExit(msg) from exc
    channels = codec.rate_model.log2_steps.shape[1]
    if network.channels != channels:
        msg = f"the steps are those of {channels} channels; the network of the package has {network.channels}"
        raise SystemExit(msg)
    shown = np.random.default_rng(0).integers(0, 256, (PROBE, PROBE, 3), np.uint8)
    with torch.inference_mode():
        trained = codec.autoencoder.encoder(torch.from_numpy(shown).permute(2, 0, 1)[None].float() / 255)
        picture = codec.autoencoder.decoder(trained, torch.tensor([128 / 255]))[0].permute(1, 2, 0).clamp(0, 1)
    latent = trained[0].numpy()
    found = network.encode(shown)
    if found.shape != latent.shape or np.abs(found - latent).max() > 1e-3 * max(1.0, np.abs(latent).max()):
        msg = "the network of the package gives another latent than the trained one"
        raise SystemExit(msg)
    if np.abs(network.decode(latent, 128) - 255 * picture.numpy()).max() > 1:
        msg = "the network of the package gives another picture than the trained one"
        raise SystemExit(msg)
    return network


def fit_preview(codec: Codec, photos: Photos) -> np.ndarray:
    """Return the preview's map, fitted to latents that are dequantized at random rates."""
    channels = codec.rate_model.log2_steps.shape[1]
    return preview.fit(preview_pairs(codec, photos), channels, RIDGE)


@torch.inference_mode()
def preview_pairs(codec: Codec, photos: Photos) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield latents (C, h, w) and their pixels at `BLOCK` pixels for each position, (BLOCK h, BLOCK w, 3)."""
    for index in range(PREVIEW_BATCHES):
        generator = np.random.default_rng(index)
        pixels = photos.batch(PREVIEW_BATCH, PREVIEW_CROP, generator)
        rate = torch.from_numpy(generator.random(len(pixels), dtype=np.float32))
        steps = codec.rate_model.steps(rate)
        latents = (codec.autoencoder.encoder(pixels) / steps).round() * steps
        small = F.avg_pool2d(pixels, pixels.shape[2] // (BLOCK * latents.shape[2])).permute(0, 2, 3, 1)
        yield from zip(latents.numpy(), small.numpy(), strict=True)


def write(shipment: Shipment, shelf: Shelf) -> None:
    """Write all files of a shipment, and enter them."""
    model = shelf.entry("models", registry.EMBEDDED)
    name = model["space"]
    space, network = shelf.entry("spaces", name), shipment.network
    space |= {"channels": network.channels, "factor": network.factor}
    model["hash"] = network.hash
    weights = shelf.store(model, "weights", f"{name}.safetensors", shipment.weights)
    shelf.store(space, "tables", f"{name}-tables.safetensors", shipment.tables)
    shelf.store(space, "context", f"{name}-context.safetensors", shipment.context)
    trained = shipment.codec.autoencoder
    written = graphs.write(trained.encoder, trained.decoder, weights, channels=network.channels, factor=network.factor)
    model["graphs"] |= {"encoder_margin": network.encoder_margin, "decoder_margin": network.decoder_margin}
    for part, path in written.items():
        shelf.record(model["graphs"], part, path)
    print(f"model hash {network.hash}")


def regenerate(root: Path) -> None:
    """Run the programs of a checkout whose output depends on the embedded model."""
    for program in PROGRAMS:
        print("python", *program, flush=True)
        environment = os.environ | {"PYTHONPATH": str(root)}
        subprocess.run([sys.executable, *program], cwd=root, env=environment, check=True)  # noqa: S603


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--data", type=Path, required=True, help="folder of training photos, for the preview's map")
    parser.add_argument("--no-vectors", action="store_true", help="leave test vectors and golden files as they are")
    add_root(parser)
    options = parser.parse_args(arguments)
    codec, state = read_codec(options.run)
    print(f"checkpoint of step {state['step']} of {options.run}")
    shipment = packed(codec, Photos(options.data, PREVIEW_CROP))
    with Shelf(options.root) as shelf:
        write(shipment, shelf)
    if not options.no_vectors:
        regenerate(options.root)


if __name__ == "__main__":
    main()
