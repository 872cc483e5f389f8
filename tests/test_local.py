"""models/local.py: weights in the configured folders and in the hub's cache, found without the network."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from pillow_sdl import registry, settings
from pillow_sdl.models import local

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.plain

TAESD = registry.model("taesd")
SD15 = registry.model("sd-1.5")
SD14 = registry.model("sd-1.4")
FLOAT32, FLOAT16 = local.WEIGHT_FILES


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the hub's client, and with it the hub's cache of this machine."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder that the settings name."""
    with settings.using(model_dirs=[tmp_path]):
        yield tmp_path


def put(folder: Path, *names: str) -> Path:
    """Write files that only have to be there.  Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or (local.CONFIG, FLOAT32):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


# Autoencoders


@pytest.mark.parametrize("name", ["sd-1.5", "stable-diffusion-v1-5"])
@pytest.mark.parametrize("subfolder", ["", "vae"])
def test_a_folder_is_found_by_the_name_of_its_model(folder: Path, name: str, subfolder: str) -> None:
    """The folder has the model's name or that of a repository, and the weights in it or in the subfolder."""
    place = put(folder / name / subfolder)
    assert local.autoencoder(SD15) == place
    assert local.autoencoder(SD14) is None
    with settings.using(model_dirs=[folder / name]):
        assert local.autoencoder(SD15) == place


def test_a_link_is_found_by_the_name_of_its_target(folder: Path) -> None:
    """A configured folder may be a symbolic link."""
    put(folder / "real" / "taesd")
    link = folder / "link"
    try:
        link.symlink_to(folder / "real" / "taesd", target_is_directory=True)
    except OSError:
        pytest.skip("symbolic links cannot be made here")
    with settings.using(model_dirs=[link]):
        assert local.autoencoder(TAESD) == link


def test_a_link_is_found_by_its_own_name(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The folder that it leads to may have any name."""
    target = put(tmp_path_factory.mktemp("elsewhere") / "8f3a")
    link = folder / "taesd"
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:
        pytest.skip("symbolic links cannot be made here")
    assert local.autoencoder(TAESD) == link
    with settings.using(model_dirs=[link]):
        assert local.autoencoder(TAESD) == link


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((local.CONFIG, FLOAT32), FLOAT32),
        ((local.CONFIG, FLOAT16), FLOAT16),
        ((local.CONFIG, FLOAT16, FLOAT32), FLOAT32),
        ((FLOAT32,), None),
        ((local.CONFIG,), None),
        ((local.CONFIG, "diffusion_pytorch_model.bin"), None),
    ],
    ids=["float32", "float16", "both", "no configuration", "no weights", "pickle"],
)
def test_weights_are_safetensors_beside_a_configuration(
    folder: Path, names: tuple[str, ...], found: str | None
) -> None:
    """Float32 weights are preferred.  Files of pickle are never looked at, because reading them runs code."""
    place = put(folder / "taesd", *names)
    assert local.weights_file(place) == (found and place / found)
    assert local.autoencoder(TAESD) == (place if found else None)


def test_the_first_configured_folder_wins(tmp_path: Path) -> None:
    """Folders that do not exist are skipped."""
    first, second = put(tmp_path / "one" / "taesd"), put(tmp_path / "two" / "taesd")
    for names, found in ((("one", "two"), first), (("two", "one"), second), (("missing", "two"), second)):
        with settings.using(model_dirs=[tmp_path / name for name in names]):
            assert local.autoencoder(TAESD) == found


def test_the_environment_names_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PILLOW_SDL_MODELS holds several folders, separated as in PATH."""
    place = put(tmp_path / "taesd")
    monkeypatch.setenv("PILLOW_SDL_MODELS", os.pathsep.join([str(tmp_path / "missing"), str(tmp_path)]))
    assert local.autoencoder(TAESD) == place


def test_the_places_that_are_searched_are_listed(folder: Path) -> None:
    """They are the configured folders, then the hub's cache of each repository."""
    caches = [f"the hub's cache of {repository.name}" for repository in SD15.repositories]
    assert local.searched(SD15) == (str(folder), *caches)


# Denoisers


def pipeline(folder: Path) -> Path:
    """Write the parts of a denoiser."""
    return put(folder, f"unet/{local.CONFIG}", f"unet/{FLOAT32}", local.SCHEDULER, local.PROMPT)


def test_a_denoiser_needs_a_unet_and_a_prompt(folder: Path) -> None:
    """The scheduler's configuration may be missing."""
    place = pipeline(folder / "sd-1.5")
    wanted = local.DenoiserFiles(place / "unet", place / local.SCHEDULER, place / local.PROMPT)
    assert local.denoiser(SD15) == wanted
    assert local.denoiser(SD14) is None
    wanted.scheduler.unlink()
    assert local.denoiser(SD15) == wanted
    wanted.prompt.unlink()
    assert local.denoiser(SD15) is None
    assert local.unet(SD15) == wanted.unet


def test_a_prompt_that_was_kept_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline's own file is preferred to that in the cache of assets."""
    kept = folder / "assets" / "prompt"
    monkeypatch.setattr(local, "kept_prompt", lambda _: kept)
    place = pipeline(folder / "sd-1.5")
    put(folder / "assets", "prompt")
    found = local.denoiser(SD15)
    assert found is not None
    assert found.prompt == place / local.PROMPT
    found.prompt.unlink()
    found = local.denoiser(SD15)
    assert found is not None
    assert found.prompt == kept


def test_a_missing_denoiser_is_described(folder: Path) -> None:
    """The error says whether the UNet or the prompt is missing, where it was searched, and which command gets it."""
    assert SD15.unet is not None
    error = local.denoiser_missing(SD15)
    sizes = f"{SD15.unet.megabytes} MB, and once {SD15.unet.text_megabytes} MB of text encoder"
    assert f"the UNet of model sd-1.5 is not on this machine; searched: {folder}, " in str(error)
    assert f"`sdl models fetch --denoiser sd-1.5` downloads it ({sizes})" in str(error)
    assert error.model_id == "sd-1.5"
    assert error.searched == local.searched(SD15)
    (pipeline(folder / "sd-1.5") / local.PROMPT).unlink()
    error = local.denoiser_missing(SD15)
    assert "the empty prompt's embedding for the UNet of model sd-1.5 is not on this machine" in str(error)
    assert "`sdl models fetch --denoiser sd-1.5` encodes it" in str(error)


# The hub's client


def test_without_the_hub_s_client_the_folders_are_searched(folder: Path) -> None:
    """There is no cache then, and no place to keep a prompt."""
    repository = TAESD.repositories[0]
    assert local.cached(repository.name, repository.revision, repository.subfolder) is None
    assert local.kept_prompt(TAESD) is None
    assert local.autoencoder(TAESD) is None
    put(folder / "taesd")
    assert local.autoencoder(TAESD) == folder / "taesd"
