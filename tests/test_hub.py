"""models/hub.py and `sdl models`: models are downloaded from a hub, checked, and then used without it.

The hub is a server on the loopback address, and the networks are small ones with random weights.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from pillow_sdl import cli, registry, settings
from pillow_sdl.errors import BackendError, ModelMismatchError, ModelNotFoundError
from pillow_sdl.models import hub as downloads
from pillow_sdl.models import local, prompt, store

from . import hub, images, networks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TAESD, SD14, SD15, SDXL = (registry.model(name) for name in ("taesd", "sd-1.4", "sd-1.5", "sdxl"))
FLOAT32, FLOAT16 = local.WEIGHT_FILES


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_store: store.Store) -> None:
    """Hide the models of the machine's owner, and forbid the network."""
    networks.isolate(monkeypatch, tmp_path)


@pytest.fixture
def taesd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.Hub]:
    """A hub with the repository of taesd only, which the hub's client of this process asks."""
    networks.tiny(0).save_pretrained(tmp_path / "taesd")
    with hub.serving({TAESD.repositories[0].name: tmp_path / "taesd"}) as found:
        hub.connect(monkeypatch, found)
        yield found


def pipeline(folder: Path, *, with_text_encoder: bool = True) -> Path:
    """Write a repository with everything that a denoiser needs.  Returns the folder."""
    networks.pipeline(folder, with_prompt=False)
    if with_text_encoder:
        pytest.importorskip("transformers", reason="transformers is not installed")
        networks.tokenizer(folder / local.TOKENIZER)
        networks.text_encoder(folder / local.TEXT_ENCODER)
    return folder


# Autoencoders


def test_a_model_is_downloaded_once(taesd: hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration and the weights are downloaded, and then found without the hub."""
    hub.accept_any_weights(monkeypatch)
    model = registry.model("taesd")
    assert local.autoencoder(model) is None
    place = downloads.fetch(model)
    assert taesd.downloads() == {local.CONFIG, FLOAT32}
    assert local.weights_file(place) == place / FLOAT32
    taesd.requests.clear()
    assert local.autoencoder(model) == downloads.find(model) == place
    assert store.load(model).hash == store.hash_of(model)
    assert taesd.requests == []


def test_a_download_needs_permission(taesd: hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the setting `download` the error names the command, and the hub is not asked."""
    hub.accept_any_weights(monkeypatch)
    command = rf"`sdl models fetch taesd` downloads it \({TAESD.megabytes} MB\)"
    with pytest.raises(ModelNotFoundError, match=command) as caught:
        images.saved(images.gradient(), model="taesd")
    assert caught.value.searched == local.searched(TAESD)
    assert taesd.requests == []
    with settings.using(download=True):
        assert images.saved(images.gradient(), model="taesd")
    assert taesd.downloads() == {local.CONFIG, FLOAT32}


def test_weights_that_are_not_those_of_the_registry_are_deleted(taesd: hub.Hub, tmp_path: Path) -> None:
    """The error has both hashes, and the model is not present afterwards."""
    with pytest.raises(ModelMismatchError, match=f"{TAESD.repositories[0].name} sent weights") as caught:
        downloads.fetch(TAESD)
    found = hashlib.sha256((tmp_path / "taesd" / FLOAT32).read_bytes()).hexdigest()
    assert (caught.value.expected, caught.value.found) == (TAESD.repositories[0].sha256, found)
    assert all(part in str(caught.value) for part in (caught.value.expected, caught.value.found))
    assert local.autoencoder(TAESD) is None
    # The next download does not take what the first one left in the cache.
    taesd.requests.clear()
    with pytest.raises(ModelMismatchError):
        downloads.fetch(TAESD)
    assert FLOAT32 in taesd.downloads()


def test_the_next_repository_is_asked_if_one_is_gone(
    taesd: hub.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are in the subfolder that the registry names."""
    hub.accept_any_weights(monkeypatch)
    first, second = SD15.repositories
    networks.kl(3).save_pretrained(tmp_path / "mirror" / second.subfolder)
    taesd.repositories[second.name] = tmp_path / "mirror"
    place = downloads.fetch(registry.model("sd-1.5"))
    assert any(first.name in request for request in taesd.requests)
    assert taesd.downloads() == {f"{second.subfolder}/{name}" for name in (local.CONFIG, FLOAT32)}
    assert local.autoencoder(registry.model("sd-1.5")) == place


def test_a_model_that_no_repository_has_says_why(taesd: hub.Hub, tmp_path: Path) -> None:
    """The error names every repository with its reason: it is gone, or it lacks the files."""
    first, second = SD15.repositories
    taesd.repositories[second.name] = tmp_path / "taesd"
    with pytest.raises(ModelNotFoundError, match=r"model sd-1\.5 cannot be downloaded") as caught:
        downloads.fetch(SD15)
    assert f"{first.name}: " in str(caught.value)
    assert f"{second.name}: it has no {FLOAT32} or {FLOAT16} beside {local.CONFIG} in vae" in str(caught.value)
    assert caught.value.searched == local.searched(SD15)


REASON = "\nthe connection was lost\nmore"


class ConnectionLostError(Exception):
    """Stands for the errors of the network library below the hub's client, which are not OSError."""


@pytest.mark.parametrize("error", [OSError, ValueError, ConnectionLostError])
def test_every_error_of_the_client_is_reported(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that breaks off raises errors of httpx or of requests, by the version of the client."""
    hub_client: Any = pytest.importorskip("huggingface_hub")

    def fail(*_: object, **__: object) -> str:
        raise error(REASON)

    monkeypatch.setattr(hub_client, "snapshot_download", fail)
    with pytest.raises(ModelNotFoundError, match=f"{TAESD.repositories[0].name}: the connection was lost$"):
        downloads.fetch(TAESD)


def test_nothing_is_downloaded_offline(
    taesd: hub.Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hub's own variable HF_HUB_OFFLINE counts, also for the command."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match=TAESD.repositories[0].name):
        downloads.fetch(TAESD)
    assert cli.main(["models", "fetch", "taesd"]) == 1
    assert "cannot be downloaded" in capsys.readouterr().err
    assert taesd.requests == []


def test_without_the_hub_s_client_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is BackendError."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(BackendError, match=r"pip install 'pillow-sdl\[diffusion\]'"):
        downloads.fetch(TAESD)


# Denoisers


@pytest.fixture
def sd14(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.Hub]:
    """A hub with the pipeline of sd-1.4, which the hub's client of this process asks."""
    hub.accept_any_weights(monkeypatch)
    repository = pipeline(tmp_path / "repository")
    with hub.serving({SD14.repositories[0].name: repository}) as found:
        hub.connect(monkeypatch, found)
        yield found


def test_a_denoiser_is_downloaded_with_its_prompt(sd14: hub.Hub, tmp_path: Path) -> None:
    """UNet, schedule, text encoder and tokenizer are downloaded once.  The prompt's embedding is kept."""
    model = registry.model("sd-1.4")
    files = downloads.fetch_denoiser(model)
    needed = {f"unet/{local.CONFIG}", f"unet/{FLOAT32}", local.SCHEDULER, "text_encoder/model.safetensors"}
    assert needed | {"tokenizer/vocab.json", "tokenizer/merges.txt"} <= sd14.downloads()
    assert files == local.denoiser(model)
    assert tmp_path / "assets" in files.prompt.parents
    assert [path.name for path in files.prompt.parent.iterdir()] == [local.PROMPT]
    repository = tmp_path / "repository"
    wanted = prompt.encode(repository / local.TEXT_ENCODER, repository / local.TOKENIZER)
    assert np.array_equal(load_file(files.prompt)[local.PROMPT_TENSOR], wanted)
    sd14.requests.clear()
    assert downloads.fetch_denoiser(model) == files
    found = store.load_denoiser("sd1")
    assert found is not None
    assert found.name == "sd-1.4 UNet"
    assert sd14.requests == []


@pytest.mark.parametrize(("both", "wanted"), [(True, FLOAT16), (False, FLOAT32)])
def test_half_precision_is_downloaded_if_there_is_any(sd14: hub.Hub, tmp_path: Path, both: bool, wanted: str) -> None:
    """The option `half` prefers float16 weights and accepts float32."""
    if both:
        networks.unet(0).half().save_pretrained(tmp_path / "repository" / local.UNET, variant="fp16")
    downloads.fetch_denoiser(registry.model("sd-1.4"), half=True)
    weights = {name for name in sd14.downloads() if name.startswith("unet/diffusion")}
    assert weights == {f"unet/{wanted}"}


def test_a_unet_that_is_not_that_of_the_registry_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has both hashes, and no UNet is present afterwards."""
    assert SD15.unet is not None
    repository = pipeline(tmp_path / "repository", with_text_encoder=False)
    with hub.serving({SD15.repositories[0].name: repository}) as found:
        hub.connect(monkeypatch, found)
        monkeypatch.setattr(prompt, "require", lambda: None)
        with pytest.raises(ModelMismatchError) as caught:
            downloads.fetch_denoiser(SD15)
    assert caught.value.expected == SD15.unet.sha256
    assert caught.value.found == hashlib.sha256((repository / "unet" / FLOAT32).read_bytes()).hexdigest()
    assert local.unet(SD15) is None


def test_the_prompt_of_a_local_pipeline_is_encoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all other parts on this machine nothing is downloaded, and the pipeline's folder is not changed."""
    folder = pipeline(tmp_path / "models" / "sd-1.5")
    with settings.using(model_dirs=[tmp_path / "models"]):
        before = sorted(folder.rglob("*"))
        assert cli.main(["models", "fetch", "--denoiser", "sd-1.5"]) == 0
        assert str(folder / "unet") in capsys.readouterr().err
        with monkeypatch.context() as patch:
            patch.setattr(prompt, "encode", lambda *_: pytest.fail("the prompt was encoded twice"))
            assert cli.main(["models", "fetch", "--denoiser", "sd-1.5"]) == 0
        assert sorted(folder.rglob("*")) == before
        files = local.denoiser(SD15)
        assert files is not None
        assert tmp_path / "assets" in files.prompt.parents
        wanted = prompt.encode(folder / local.TEXT_ENCODER, folder / local.TOKENIZER)
        assert np.array_equal(load_file(files.prompt)[local.PROMPT_TENSOR], wanted)


def test_without_transformers_nothing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the extra, for a local UNet without a prompt and for one that would be downloaded."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    pipeline(tmp_path / "sd-1.5", with_text_encoder=False)
    with hub.serving({}) as found:
        hub.connect(monkeypatch, found)
        with settings.using(model_dirs=[tmp_path]), pytest.raises(BackendError, match=r"pillow-sdl\[prompt\]"):
            downloads.fetch_denoiser(SD15)
        assert cli.main(["models", "fetch", "--denoiser", "sd-2.1"]) == 1
        assert "pip install 'pillow-sdl[prompt]'" in capsys.readouterr().err
        assert found.requests == []


# The command line


@pytest.mark.parametrize("model", [registry.model(registry.EMBEDDED), SDXL], ids=lambda model: model.name)
def test_a_model_without_a_denoiser_has_none_to_download(
    model: registry.Model, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 1."""
    assert cli.main(["models", "fetch", "--denoiser", model.name]) == 1
    assert f"model {model.name} has no denoiser" in capsys.readouterr().err


def test_the_list_of_models_says_what_is_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every model has its folder, or the size of its download, and so has every UNet."""
    networks.tiny(0).save_pretrained(tmp_path / "taesd")
    networks.pipeline(tmp_path / "sd-1.5")
    networks.pipeline(tmp_path / "sd-2.1", with_prompt=False)
    with settings.using(model_dirs=[tmp_path]):
        assert cli.main(["models", "--json"]) == 0
        found = {entry["name"]: entry for entry in map(json.loads, capsys.readouterr().out.splitlines())}
        assert cli.main(["models"]) == 0
        lines = capsys.readouterr().out.splitlines()
    known = registry.load().models
    assert list(found) == [model.name for model in known]
    present = {name for name, entry in found.items() if entry["present"]}
    assert present == {model.name for model in known if model.weights} | {"taesd"}
    assert found["taesd"]["folder"] == str(tmp_path / "taesd")
    unets = {name: entry["unet"] for name, entry in found.items() if "unet" in entry}
    assert unets.keys() == {model.name for model in known if model.unet}
    assert {name for name, unet in unets.items() if unet["present"]} == {"sd-1.5"}
    assert unets["sd-2.1"]["folder"] == str(tmp_path / "sd-2.1" / "unet")
    missing = [model for model in known if not model.weights and model.name != "taesd"]
    assert sum("MB to fetch" in line and "--denoiser" not in line for line in lines) == len(missing)
    assert sum("its UNet" in line for line in lines) == len(unets)
    assert sum("MB to fetch with --denoiser" in line for line in lines) == len(unets) - 2
    assert sum("not ready, to fetch with --denoiser" in line for line in lines) == 1


def test_an_unknown_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The message lists the models, and the exit status is 1."""
    assert cli.main(["models", "fetch", "nonsense"]) == 1
    assert "model must be one of" in capsys.readouterr().err


def test_a_user_downloads_a_model_and_its_denoiser_once(tmp_path: Path) -> None:
    """Both are downloaded and then used in fresh processes.  With --quiet nothing is printed."""
    repository = pipeline(tmp_path / "repository")
    networks.kl(1).save_pretrained(repository / "vae")
    picture, file, shown = (tmp_path / name for name in ("photo.png", "photo.sdl", "shown.png"))
    networks.photo().save(picture)
    with hub.serving({SD14.repositories[0].name: repository}) as server:
        for arguments, fetched in (
            (("models", "fetch", "sd-1.4"), {f"vae/{name}" for name in (local.CONFIG, FLOAT32)}),
            (("encode", "-q", "10", "--model", "sd-1.4", str(picture)), set()),
            (("models", "fetch", "--denoiser", "sd-1.4"), {f"unet/{local.CONFIG}", f"unet/{FLOAT32}"}),
            (("decode", "--denoise", "unet", str(file), "-o", str(shown)), set()),
        ):
            server.requests.clear()
            found = hub.sdl(server, tmp_path / "home", *arguments, "--quiet")
            assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
            assert fetched <= server.downloads()
            assert bool(fetched) == bool(server.requests)
    assert images.opened(shown.read_bytes()).size == (96, 80)
