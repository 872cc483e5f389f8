"""Models of the Stable Diffusion family: found in folders, in the hub's cache and on a hub; their latents and tiles.

The networks are diffusers' own classes with small random weights, made here.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import pillow_sdl
from pillow_sdl import cli, codec, settings
from pillow_sdl.errors import ModelMismatchError, ModelNotFoundError
from pillow_sdl.models import cards, diffusion, search, store, tiling

from . import hub as loopback
from . import images

ROOT = Path(__file__).parent.parent


Tiny: Any = diffusers.AutoencoderTiny  # its stubs lack half of it
KL: Any = diffusers.AutoencoderKL


def tiny(seed: int) -> Any:
    """An AutoencoderTiny for 4 channels at 1/8."""
    torch.manual_seed(seed)
    return Tiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    )


def kl(seed: int) -> Any:
    """An AutoencoderKL for 4 channels at 1/8, with a scale of its own."""
    torch.manual_seed(seed)
    return KL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        scaling_factor=0.5,
        shift_factor=0.1,
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: taesd and sd-vae-ft-mse."""
    folder = tmp_path_factory.mktemp("models")
    tiny(0).save_pretrained(folder / "taesd")
    kl(1).save_pretrained(folder / "sd-vae-ft-mse")
    return folder


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_store: None) -> None:
    """No model of the machine's owner, and no network."""
    import huggingface_hub.constants

    monkeypatch.delenv("PILLOW_SDL_MODELS", raising=False)
    monkeypatch.delenv("PILLOW_SDL_DOWNLOAD", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def present(models: Path, _no_hub: None) -> Any:
    """The folder is configured."""
    with settings.using(model_dirs=[models]):
        yield models


def saved(image: Image.Image, **options: object) -> bytes:
    """A file in memory."""
    target = io.BytesIO()
    image.save(target, "SDL", **options)
    return target.getvalue()


def photo(width: int = 96, height: int = 80) -> Image.Image:
    """A part of the portrait in docs/."""
    with Image.open(ROOT / "docs" / "grace_hopper.jpg") as image:
        return image.convert("RGB").crop((150, 60, 150 + width, 60 + height))


def listed_hash(path: Path, prefix: str = "decoder.") -> str:
    """SPEC 7.2 from the bytes of a safetensors file, by the standard library alone."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + size])
    entries.pop("__metadata__", None)
    listing = b""
    names = {name.removeprefix(prefix): name for name in entries if name.startswith((prefix, "post_quant_conv."))}
    for name in sorted(names, key=str.encode):
        entry = entries[names[name]]
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        shape = ",".join(map(str, entry["shape"]))
        listing += f"{name}\0{entry['dtype']}\0{shape}\0".encode() + data[begin:end]
    return hashlib.sha256(listing).hexdigest()[:32]


# Encode and decode


@pytest.mark.parametrize("model", ["taesd", "sd-vae-ft-mse"])
def test_a_picture_is_saved_and_opened_through_a_model(present: Path, model: str) -> None:
    """The file names the decoder by its hash, the space is sd1, and the size is the picture's."""
    data = saved(photo(50, 35), model=model)
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.size == (50, 35)
    assert image.info["sdl_decoder"] == model
    assert image.info["sdl_model"] == listed_hash(present / model / "diffusion_pytorch_model.safetensors")
    found = codec.inspect(images.parsed(data))
    assert (found["latent_space"], found["latent_shape"]) == ("sd1", [4, 5, 7])


@pytest.mark.parametrize("model", ["taesd", "sd-vae-ft-mse"])
def test_the_model_computes_what_diffusers_computes(present: Path, model: str) -> None:
    """Latents are the mean in the UNet's scale; pixels are those of diffusers called by hand."""
    pixels = np.asarray(photo(96, 80))
    network = getattr(diffusers, cards.by_name(model).architecture).from_pretrained(present / model)
    batch = torch.tensor(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.inference_mode():
        encoded = network.encode(batch)
        mean = encoded.latents if model == "taesd" else (encoded.latent_dist.mode() - 0.1) * 0.5
        own = mean if model == "taesd" else mean / 0.5 + 0.1
        shown = ((network.decode(own).sample[0] / 2 + 0.5) * 255).round().clamp(0, 255).permute(1, 2, 0).numpy()
    ours = store.load(cards.by_name(model))
    assert np.allclose(ours.encode(pixels), mean[0].numpy(), atol=1e-4)
    assert np.abs(ours.decode(mean[0].numpy(), 100).astype(int) - shown).max() <= 1


def test_any_model_of_the_space_decodes_a_file(models: Path, tmp_path: Path) -> None:
    """Without the file's own model another of its space does, and the image says so."""
    with settings.using(model_dirs=[models]):
        data = saved(photo(), model="taesd")
    own = images.parsed(data).header.model.hex()
    with settings.using(model_dirs=[models / "sd-vae-ft-mse"]):
        image = Image.open(io.BytesIO(data))
        image.load()
    assert image.info["sdl_decoder"] == f"sd-vae-ft-mse in place of {own}"
    assert image.size == (96, 80)


def test_other_weights_under_a_model_s_name_are_told_apart(models: Path, tmp_path: Path) -> None:
    """What is called taesd need not be what the file was made with."""
    with settings.using(model_dirs=[models]):
        data = saved(photo(), model="taesd")
    tiny(99).save_pretrained(tmp_path / "taesd")
    with settings.using(model_dirs=[tmp_path]):
        image = Image.open(io.BytesIO(data))
        image.load()
    assert image.info["sdl_decoder"] == f"taesd in place of {image.info['sdl_model']}"


def test_files_are_the_same_whatever_holds_the_weights(models: Path, tmp_path: Path) -> None:
    """bfloat16 and fp16 variants are read too; their hash is that of what lies there."""
    for dtype, variant in ((torch.bfloat16, None), (torch.float16, "fp16")):
        folder = tmp_path / str(dtype) / "taesd"
        tiny(0).to(dtype).save_pretrained(folder, variant=variant)
        with settings.using(model_dirs=[folder]):
            data = saved(photo(), model="taesd")
            assert Image.open(io.BytesIO(data)).tobytes()
        (file,) = folder.glob("*.safetensors")
        assert images.parsed(data).header.model.hex() == listed_hash(file)


def test_tiles_of_convolutions_are_exact(present: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny autoencoder sees no further than its margin."""
    model = store.load(cards.by_name("taesd"))
    pixels = np.asarray(photo(320, 400))
    latent, shown = model.encode(pixels), None
    shown = model.decode(latent, 9)
    monkeypatch.setattr(tiling, "WHOLE", 1)
    monkeypatch.setattr(tiling, "CORE", 16)
    assert np.allclose(model.encode(pixels), latent, atol=1e-4)
    assert np.abs(model.decode(latent, 9).astype(int) - shown).max() <= 1


def test_tiles_that_see_the_whole_are_blended(present: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statistics differ by tile, so pixels do; but no step at a tile's edge is larger than within tiles."""
    model = store.load(cards.by_name("sd-vae-ft-mse"))
    latent = model.encode(np.asarray(photo(320, 400)))
    monkeypatch.setattr(tiling, "WHOLE", 1)
    monkeypatch.setattr(diffusion.KLModel, "core", 16)
    shown = model.decode(latent, 9).astype(int)
    steps = np.abs(np.diff(shown, axis=1)).mean((0, 2))
    for place in (16, 32):
        edges = steps[(place - 12) * 8 : (place + 12) * 8]
        assert edges.max() < 1.5 * np.percentile(steps, 95)


def test_a_refined_file_of_another_space(present: Path) -> None:
    """Gradients of diffusers' networks serve as well."""
    assert Image.open(io.BytesIO(saved(photo(), model="taesd", effort=6))).size == (96, 80)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_decoding_in_half_precision_is_near(present: Path, dtype: str) -> None:
    """What `configure(dtype=...)` is for."""
    data = saved(photo(), model="taesd")
    exact = np.asarray(Image.open(io.BytesIO(data))).astype(float)
    with settings.using(dtype=dtype):
        near = np.asarray(Image.open(io.BytesIO(data))).astype(float)
    assert 0 < np.abs(exact - near).mean() < 3


# Finding


def test_a_missing_model_says_what_to_do(models: Path, tmp_path: Path) -> None:
    """To encode and to decode: where it was looked for, and the command."""
    with settings.using(model_dirs=[tmp_path / "nowhere"]):
        with pytest.raises(ModelNotFoundError, match=r"sdl models fetch sd-1\.5") as caught:
            saved(photo(), model="sd-1.5")
        assert str(tmp_path / "nowhere") in str(caught.value)
        assert str(tmp_path / "nowhere") in caught.value.searched
    with settings.using(model_dirs=[models]):
        data = saved(photo(), model="taesd")
    with pytest.raises(ModelNotFoundError, match="sdl models fetch taesd") as caught:
        Image.open(io.BytesIO(data)).load()
    assert caught.value.model_id == images.parsed(data).header.model.hex()
    image = Image.open(io.BytesIO(data))
    image.verify()
    image = Image.open(io.BytesIO(data))
    image.thumbnail((24, 24))
    assert image.info["sdl_decoder"] == "preview"


def test_a_model_is_found_in_a_pipeline_s_folder(models: Path, tmp_path: Path) -> None:
    """Named as the repository, the autoencoder in vae/."""
    kl(5).save_pretrained(tmp_path / "stable-diffusion-v1-5" / "vae")
    with settings.using(model_dirs=[tmp_path]):
        assert search.local(cards.by_name("sd-1.5")) == tmp_path / "stable-diffusion-v1-5" / "vae"
        assert search.local(cards.by_name("sd-1.4")) is None


def test_weights_that_are_no_safetensors_are_not_looked_at(models: Path, tmp_path: Path) -> None:
    """Pickle runs code."""
    folder = tmp_path / "taesd"
    folder.mkdir()
    (folder / "config.json").write_bytes((models / "taesd" / "config.json").read_bytes())
    torch.save({}, folder / "diffusion_pytorch_model.bin")
    with settings.using(model_dirs=[tmp_path]):
        assert search.local(cards.by_name("taesd")) is None


@pytest.mark.parametrize("damage", ["weights", "config", "channels"])
def test_a_damaged_model_is_an_error_of_ours(models: Path, tmp_path: Path, damage: str) -> None:
    """ModelMismatchError, which names the folder."""
    folder = tmp_path / "taesd"
    tiny(0).save_pretrained(folder)
    if damage == "weights":
        (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"\x10" + bytes(40))
    elif damage == "config":
        (folder / "config.json").write_text("{")
    else:
        Tiny(latent_channels=16).save_pretrained(folder)
    with settings.using(model_dirs=[tmp_path]), pytest.raises(ModelMismatchError, match="taesd"):
        saved(photo(), model="taesd")


def test_the_environment_names_folders(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PILLOW_SDL_MODELS, several of them."""
    monkeypatch.setattr(settings, "_process", None)
    monkeypatch.setenv("PILLOW_SDL_MODELS", os.pathsep.join([str(tmp_path), str(models)]))
    assert search.local(cards.by_name("taesd")) == models / "taesd"
    assert pillow_sdl.Settings(model_dirs=[models]).model_dirs == (models,)


@pytest.mark.parametrize(
    "options",
    [{"model_dirs": "one/folder"}, {"download": "yes"}, {"dtype": "int8"}],
    ids=lambda options: next(iter(options)),
)
def test_wrong_settings_are_refused(options: dict[str, object]) -> None:
    """The message names the option."""
    with pytest.raises(ValueError, match=next(iter(options))):
        pillow_sdl.Settings(**options)  # type: ignore[arg-type]


def test_the_list_of_models_says_what_is_where(present: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`sdl models --json`: one object a line."""
    assert cli.main(["models", "--json"]) == 0
    found = {entry["name"]: entry for entry in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(found) == {card.name for card in cards.CARDS}
    assert found["taesd"]["folder"] == str(present / "taesd")
    assert not found["sd-1.5"]["present"]
    assert cli.main(["models"]) == 0
    assert "335 MB to fetch" in capsys.readouterr().out
    assert cli.main(["models", "fetch", "nonsense"]) == 1
    assert "model must be one of" in capsys.readouterr().err


# The hub


ANY_WEIGHTS = """
import dataclasses, sys
from pillow_sdl import cli
from pillow_sdl.models import cards

def unchecked(card):
    places = tuple(dataclasses.replace(place, sha256="") for place in card.repositories)
    return dataclasses.replace(card, repositories=places)

cards.CARDS = tuple(map(unchecked, cards.CARDS))
sys.exit(cli.main(sys.argv[1:]))
"""
"""`sdl` that takes other weights than the real ones from a hub."""


def program(
    hub: loopback.Hub, home: Path, *arguments: str, any_weights: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """`sdl` with that hub and an empty cache."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PILLOW_SDL_"))}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *(("-c", ANY_WEIGHTS) if any_weights else ("-m", "pillow_sdl")), *arguments],
        env=kept | {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_model_is_fetched_once_and_then_used_without_the_hub(models: Path, tmp_path: Path) -> None:
    """Refused, fetched, used: as a user does it."""
    photo().save(picture := tmp_path / "photo.png")
    with loopback.serving({"madebyollin/taesd": models / "taesd"}) as hub:
        encode = ("encode", "--model", "taesd", str(picture))
        refused = program(hub, tmp_path / "home", *encode)
        assert refused.returncode == 1
        assert "sdl models fetch taesd" in refused.stderr
        assert hub.requests == []
        offline = program(hub, tmp_path / "home", "models", "fetch", "taesd", HF_HUB_OFFLINE="1")
        assert offline.returncode == 1
        assert hub.requests == []
        fetched = program(hub, tmp_path / "home", "models", "fetch", "taesd")
        assert fetched.returncode == 0, fetched.stderr
        assert any(request.endswith("diffusion_pytorch_model.safetensors") for request in hub.requests)
        hub.requests.clear()
        for arguments in (encode, ("decode", str(picture.with_suffix(".sdl")), "-o", str(tmp_path / "back.png"))):
            done = program(hub, tmp_path / "home", *arguments)
            assert done.returncode == 0, done.stderr
        assert hub.requests == []
    with Image.open(tmp_path / "back.png") as image:
        assert image.size == (96, 80)


def test_a_model_is_downloaded_when_the_user_allows_it(models: Path, tmp_path: Path) -> None:
    """PILLOW_SDL_DOWNLOAD=1; a second repository stands in for one that has vanished."""
    photo().save(picture := tmp_path / "photo.png")
    mirror = tmp_path / "mirror"
    kl(3).save_pretrained(mirror / "vae")
    (first, second, *_) = cards.by_name("sd-1.5").repositories
    with loopback.serving({second.name: mirror}) as hub:
        done = program(hub, tmp_path / "home", "encode", "--model", "sd-1.5", str(picture), PILLOW_SDL_DOWNLOAD="1")
        assert done.returncode == 0, done.stderr
        assert any(first.name in request for request in hub.requests)
        gone = program(hub, tmp_path / "home", "models", "fetch", "sd-2.1")
        assert gone.returncode == 1
        for repository in cards.by_name("sd-2.1").repositories:
            assert repository.name in gone.stderr


def test_weights_that_are_not_the_card_s_are_refused(models: Path, tmp_path: Path) -> None:
    """The error has both hashes, and what came is not used."""
    file = models / "taesd" / "diffusion_pytorch_model.safetensors"
    with loopback.serving({"madebyollin/taesd": models / "taesd"}) as hub:
        found = program(hub, tmp_path / "home", "models", "fetch", "taesd", any_weights=False)
        assert found.returncode == 1
        assert hashlib.sha256(file.read_bytes()).hexdigest() in found.stderr
        assert cards.by_name("taesd").repositories[0].sha256 in found.stderr
        listed = program(hub, tmp_path / "home", "models", "--json", any_weights=False)
    states = [json.loads(line) for line in listed.stdout.splitlines()]
    assert not next(state for state in states if state["name"] == "taesd")["present"]
