"""models/networks/autoencoders.py: models of the Stable Diffusion family, run through diffusers with random weights."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import TYPE_CHECKING, Any

import diffusers
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from pillow_sdl import cli, decode, registry, settings
from pillow_sdl.errors import BackendError, ModelError, ModelMismatchError, ModelNotFoundError
from pillow_sdl.models import local, store, tiling
from pillow_sdl.models.networks import autoencoders

from . import images, networks
from .networks import kl, photo, tiny

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TAESD, MSE = registry.model("taesd"), registry.model("sd-vae-ft-mse")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models taesd and sd-vae-ft-mse."""
    folder = tmp_path_factory.mktemp("models")
    tiny(0).save_pretrained(folder / "taesd")
    kl(1).save_pretrained(folder / "sd-vae-ft-mse")
    return folder


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_store: store.Store) -> None:
    """Hide the models of the machine's owner, and forbid the network."""
    networks.isolate(monkeypatch, tmp_path)


@pytest.fixture
def present(models: Path) -> Iterator[Path]:
    """The folder of models, in the settings."""
    with settings.using(model_dirs=[models]):
        yield models


def listed_hash(path: Path) -> str:
    """Return the model hash of a safetensors file (SPEC 7.2), computed with the standard library alone."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + size])
    listing = b""
    names = {name.removeprefix("decoder."): name for name in entries if name.startswith(("decoder.", "post_quant_"))}
    for name in sorted(names, key=str.encode):
        entry = entries[names[name]]
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        shape = ",".join(map(str, entry["shape"]))
        listing += f"{name}\0{entry['dtype']}\0{shape}\0".encode() + data[begin:end]
    return hashlib.sha256(listing).hexdigest()[:32]


# Encode and decode


@pytest.mark.parametrize("model", ["taesd", "sd-vae-ft-mse"])
def test_a_picture_is_saved_and_opened_through_a_model(present: Path, model: str) -> None:
    """The file names the decoder by its hash, its space is sd1, and the size is that of the picture."""
    data = images.saved(photo(50, 35), model=model)
    with images.opened(data) as image:
        image.load()
    assert image.size == (50, 35)
    assert image.info["sdl_decoder"] == model
    assert image.info["sdl_model"] == listed_hash(present / model / local.WEIGHT_FILES[0])
    found = decode.inspect(images.parsed(data))
    assert (found["model"], found["latent_space"], found["latent_shape"]) == (model, "sd1", [4, 5, 7])


@pytest.mark.parametrize("model", [TAESD, MSE], ids=lambda model: model.name)
def test_a_model_computes_what_diffusers_computes(present: Path, model: registry.Model) -> None:
    """The latent is the mean in the scale of the UNet.  The pixels are those of diffusers."""
    pixels = np.asarray(photo(96, 80))
    network: Any = getattr(diffusers, model.network).from_pretrained(present / model.name)
    batch = torch.tensor(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        encoded = network.encode(batch)
        if model is TAESD:
            mean = own = encoded.latents
        else:
            own = encoded.latent_dist.mode()
            mean = (own - 0.1) * 0.5
        shown = ((network.decode(own).sample[0] / 2 + 0.5) * 255).round().clamp(0, 255).permute(1, 2, 0).numpy()
    found = store.load(model)
    assert np.allclose(found.encode(pixels), mean[0].numpy(), atol=1e-4)
    assert np.abs(found.decode(mean[0].numpy(), 100).astype(int) - shown).max() <= 1


@pytest.mark.parametrize("model", [TAESD, MSE], ids=lambda model: model.name)
def test_the_rate_does_not_matter(present: Path, model: registry.Model) -> None:
    """Networks of this family are not told the rate, so the latents of palettes, which have none, decode too."""
    network = store.load(model)
    latent = network.encode(np.asarray(photo(40, 40)))
    assert np.array_equal(network.decode(latent, None), network.decode(latent, 200))


@pytest.mark.parametrize("options", [{}, {"dither": False, "palette_size": 7}])
def test_a_palette_is_saved_and_opened_through_a_model(present: Path, options: dict[str, Any], tmp_path: Path) -> None:
    """The picture is that of the latent in the file, and `sdl encode` writes the same bytes as `save`."""
    data = images.saved(photo(80, 64), model="taesd", quantizer="palette", **options)
    file = images.parsed(data)
    with settings.using(denoise="off"), images.opened(data) as image:
        image.load()
    expected = store.load(TAESD).decode(decode.read_latent(file), None)
    assert np.array_equal(np.asarray(image), expected[:64, :80])
    path = tmp_path / "photo.png"
    photo(80, 64).save(path)
    flags = ["--no-dither", "--palette-size", "7"] if options else []
    assert cli.main(["encode", str(path), "--quiet", "--model", "taesd", "--quantizer", "palette", *flags]) == 0
    assert path.with_suffix(".sdl").read_bytes() == data


def test_all_other_sections_precede_a_palette(present: Path) -> None:
    """The order of the sections is that which SPEC 6.3 recommends, and the picture has its alpha."""
    options: dict[str, Any] = {"exif": b"Exif\0\0MM", "xmp": b"<x/>", "fidelity": True}
    data = images.saved(images.MODES["RGBA"](), model="taesd", quantizer="palette", **options)
    assert [section.name for section in images.parsed(data).sections] == [b"e", b"x", b"f", b"A", b"P", b"L"]
    with images.opened(data) as image:
        image.load()
        assert image.mode == "RGBA"


def test_efforts_with_gradients_work_in_another_space(present: Path) -> None:
    """Networks of diffusers give gradients too, and the refined file is nearer to the picture."""
    image = photo()
    with settings.using(denoise="off"):
        plain, refined = (
            images.difference(image, images.reopened(image, model="taesd", quality=30, effort=effort))
            for effort in (5, 9)
        )
    assert refined < plain


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_decoding_in_half_precision_gives_nearly_the_same_picture(present: Path, dtype: str) -> None:
    """The setting dtype changes the mean sample by less than 3 levels, and changes something."""
    data = images.saved(photo(), model="taesd")
    exact = images.values(images.opened(data))
    with settings.using(dtype=dtype):
        near = images.values(images.opened(data))
    assert 0 < np.abs(exact - near).mean() < 3


# Other weights


def test_another_model_of_the_space_decodes_a_file(models: Path) -> None:
    """The image says which model decoded it in place of its own (D-02)."""
    with settings.using(model_dirs=[models]):
        data = images.saved(photo(), model="taesd")
    own = images.parsed(data).header.model.hex()
    with settings.using(model_dirs=[models / "sd-vae-ft-mse"]), images.opened(data) as image:
        image.load()
    assert image.info["sdl_decoder"] == f"sd-vae-ft-mse in place of {own}"
    assert image.size == (96, 80)


def test_other_weights_under_the_name_of_a_model_are_recognized(models: Path, tmp_path: Path) -> None:
    """A folder named taesd may hold other weights than the file was made with."""
    with settings.using(model_dirs=[models]):
        data = images.saved(photo(), model="taesd")
    tiny(99).save_pretrained(tmp_path / "taesd")
    with settings.using(model_dirs=[tmp_path]), images.opened(data) as image:
        image.load()
    assert image.info["sdl_decoder"] == f"taesd in place of {image.info['sdl_model']}"


def test_the_fidelity_map_holds_in_float32_only(present: Path) -> None:
    """The specification says nothing about other types."""
    data = images.saved(images.gradient(), model="taesd", fidelity=True)
    for dtype, holds in (("float32", True), ("bfloat16", False)):
        with settings.using(dtype=dtype, denoise="off"):
            image = images.opened(data)
            image.load()
            assert image.info["fidelity"]["holds"] is holds


def test_pixels_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    """They must not become a black picture."""
    network = tiny(0)
    torch.nn.init.constant_(network.decoder.layers[-1].bias, float("nan"))
    network.save_pretrained(tmp_path / "taesd")
    with settings.using(model_dirs=[tmp_path]), pytest.raises(ModelError, match="not finite"):
        images.saved(images.gradient(), model="taesd", fidelity=True)


@pytest.mark.parametrize(("dtype", "variant"), [(torch.bfloat16, None), (torch.float16, "fp16")])
def test_half_precision_weights_are_read(tmp_path: Path, dtype: torch.dtype, variant: str | None) -> None:
    """The hash in a file is that of the weights as they are stored."""
    folder = tmp_path / "taesd"
    tiny(0).to(dtype).save_pretrained(folder, variant=variant)
    with settings.using(model_dirs=[folder]):
        data = images.saved(photo(), model="taesd")
        assert images.opened(data).tobytes()
    (path,) = folder.glob("*.safetensors")
    assert images.parsed(data).header.model.hex() == listed_hash(path)


@pytest.mark.parametrize("damage", ["weights", "a tensor", "config", "channels", "class"])
def test_a_damaged_model_is_named(tmp_path: Path, damage: str) -> None:
    """The error is ModelMismatchError with the folder.  Missing tensors must not be filled with random numbers."""
    folder = tmp_path / "taesd"
    tiny(0).save_pretrained(folder)
    if damage == "weights":
        (folder / local.WEIGHT_FILES[0]).write_bytes(b"\x10" + bytes(40))
    elif damage == "a tensor":
        tensors = load_file(folder / local.WEIGHT_FILES[0])
        del tensors[min(tensors)]
        save_file(tensors, folder / local.WEIGHT_FILES[0])
    elif damage == "config":
        (folder / local.CONFIG).write_text("{")
    elif damage == "channels":
        tiny(0, latent_channels=16).save_pretrained(folder)
    else:
        kl(0).save_pretrained(folder)
    with settings.using(model_dirs=[tmp_path]), pytest.raises(ModelMismatchError) as caught:
        images.saved(photo(), model="taesd")
    assert str(folder) in str(caught.value)


def test_a_missing_model_names_the_command(models: Path, tmp_path: Path) -> None:
    """To encode and to decode, the error names the places that were searched and the command that fetches the model."""
    with settings.using(model_dirs=[tmp_path / "nowhere"]):
        with pytest.raises(ModelNotFoundError, match=r"sdl models fetch sd-1\.5") as caught:
            images.saved(photo(), model="sd-1.5")
        assert str(tmp_path / "nowhere") in str(caught.value)
        assert str(tmp_path / "nowhere") in caught.value.searched
    with settings.using(model_dirs=[models]):
        data = images.saved(photo(), model="taesd")
    with pytest.raises(ModelNotFoundError, match="sdl models fetch taesd") as caught:
        images.opened(data).load()
    assert caught.value.model_id == images.parsed(data).header.model.hex()
    images.opened(data).verify()
    with images.opened(data) as image:
        image.thumbnail((24, 24))
        assert image.info["sdl_decoder"] == "preview"


def test_without_diffusers_the_error_names_the_extra(present: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that must be fetched need the extra `diffusion`."""
    monkeypatch.setitem(sys.modules, autoencoders.__name__, None)
    monkeypatch.delattr(autoencoders.__name__)
    with pytest.raises(BackendError, match=r"model taesd needs diffusers: pip install 'pillow-sdl\[diffusion\]'"):
        images.saved(photo(), model="taesd")


# Tiles


def test_tiles_of_convolutions_join_exactly(present: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny autoencoder sees no farther than its margin."""
    model = store.load(TAESD)
    pixels = np.asarray(photo(320, 400))
    latent = model.encode(pixels)
    shown = model.decode(latent, 9).astype(int)
    monkeypatch.setattr(tiling, "WHOLE", 1)
    monkeypatch.setattr(tiling, "CORE", 16)
    assert np.allclose(model.encode(pixels), latent, atol=1e-4)
    assert np.abs(model.decode(latent, 9).astype(int) - shown).max() <= 1


def test_tiles_that_depend_on_the_whole_picture_are_blended(present: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Group normalization differs from tile to tile, but no step at a tile's edge is larger than those within tiles."""
    model = store.load(MSE)
    latent = model.encode(np.asarray(photo(320, 400)))
    monkeypatch.setattr(tiling, "WHOLE", 1)
    monkeypatch.setattr(autoencoders.KLModel, "core", 16)
    shown = model.decode(latent, 9).astype(int)
    steps = np.abs(np.diff(shown, axis=1)).mean((0, 2))
    for place in (16, 32):
        edges = steps[(place - 12) * 8 : (place + 12) * 8]
        assert edges.max() < 1.5 * np.percentile(steps, 95)
