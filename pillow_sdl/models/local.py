"""Find the weights of models that are on this machine: in the configured folders and in the hub's cache.

A denoiser consists of a pipeline's folders `unet` and `scheduler` and of a file with the embedding of the empty prompt.
That file is computed once and kept in the pipeline's folder or in the hub's cache of assets.  This module does not use
the internet.  The hub's client obeys the variables HF_HOME and HF_HUB_CACHE.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from .. import settings
from ..errors import ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..registry import Model

CONFIG: Final = "config.json"
WEIGHT_FILES: Final = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
"""Names of files of weights in diffusers' layout, in order of preference."""

TEXT_WEIGHT_FILES: Final = ("model.safetensors", "model.fp16.safetensors")
"""Names of files of weights of a text encoder, in transformers' layout."""

UNET: Final = "unet"
SCHEDULER: Final = "scheduler/scheduler_config.json"
TEXT_ENCODER: Final = "text_encoder"
TOKENIZER: Final = "tokenizer"
"""Where a pipeline's folder has its parts."""

PROMPT: Final = "empty_prompt.safetensors"
PROMPT_TENSOR: Final = "prompt_embeds"
"""File of the empty prompt's embedding, and the tensor in it, (1, 77, D)."""


class DenoiserFiles(NamedTuple):
    """unet: folder with config.json and weights.   scheduler, prompt: files; the scheduler's may be missing."""

    unet: Path
    scheduler: Path
    prompt: Path


def weights_file(folder: Path, names: tuple[str, ...] = WEIGHT_FILES) -> Path | None:
    """Return the file of weights in a folder in diffusers' layout, None if it is no such folder."""
    if not (folder / CONFIG).is_file():
        return None
    return next((folder / name for name in names if (folder / name).is_file()), None)


def autoencoder(model: Model) -> Path | None:
    """Return the folder of a model's autoencoder in the configured folders or the hub's cache, None if it has none.

    A configured folder belongs to a model if it has the name of the model or of one of its repositories.  The weights
    may be in the folder itself or in its subfolder, as in a whole pipeline.
    """
    for folder in _folders_of(model):
        subfolders = {repository.subfolder for repository in model.repositories}
        for place in (folder, *(folder / name for name in sorted(subfolders) if name)):
            if weights_file(place):
                return place
    for repository in model.repositories:
        found = cached(repository.name, repository.revision, repository.subfolder)
        if found:
            return found
    return None


def unet(model: Model) -> Path | None:
    """Return the folder `unet` of a model's pipeline, None if it is not on this machine."""
    return part(model, UNET, WEIGHT_FILES)


def part(model: Model, subfolder: str, names: tuple[str, ...]) -> Path | None:
    """Return a subfolder of a model's pipeline that holds weights, None if it is not on this machine."""
    for folder in _folders_of(model):
        if weights_file(folder / subfolder, names):
            return folder / subfolder
    for repository in model.repositories:
        found = cached(repository.name, repository.revision, subfolder, names)
        if found:
            return found
    return None


def denoiser(model: Model) -> DenoiserFiles | None:
    """Return the parts of a model's denoiser, None if the UNet or the prompt's embedding is not on this machine."""
    folder = unet(model)
    if folder is None:
        return None
    for prompt in (folder.parent / PROMPT, kept_prompt(model)):
        if prompt is not None and prompt.is_file():
            return DenoiserFiles(folder, folder.parent / SCHEDULER, prompt)
    return None


def kept_prompt(model: Model) -> Path | None:
    """Return where the embedding of the empty prompt is kept for a model, None without the hub's client.

    `huggingface_hub.cached_assets_path` names the same place, but it creates the folder.  A look must not create
    anything, and must not fail in a cache that cannot be written.
    """
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    return Path(constants.HF_ASSETS_CACHE).expanduser() / "pillow_sdl" / model.name / "prompt" / PROMPT


def cached(repository: str, revision: str, subfolder: str, names: tuple[str, ...] = WEIGHT_FILES) -> Path | None:
    """Return a folder of a repository in the hub's cache, None if the cache does not hold it or there is no client.

    names: of files of weights, in order of preference.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        return None
    prefix = f"{subfolder}/" if subfolder else ""
    for name in names:
        try:
            root = snapshot_download(
                repository, revision=revision, allow_patterns=[prefix + CONFIG, prefix + name], local_files_only=True
            )
        except LocalEntryNotFoundError:
            continue  # The cache may hold another of these files.
        place = Path(root) / subfolder
        if weights_file(place, names):
            return place
    return None


def searched(model: Model) -> tuple[str, ...]:
    """Return the places where the functions of this module look, for error messages."""
    folders = tuple(str(name) for name in settings.current().model_dirs)
    return (*folders, *(f"the hub's cache of {repository.name}" for repository in model.repositories))


def denoiser_missing(model: Model) -> ModelNotFoundError:
    """Return the error for a denoiser that is not on this machine: what is missing and the command that gets it."""
    assert model.unet is not None
    places = searched(model)
    if unet(model):
        what, does = "the empty prompt's embedding for the UNet", "encodes it"
    else:
        what = "the UNet"
        does = f"downloads it ({model.unet.megabytes} MB, and once {model.unet.text_megabytes} MB of text encoder)"
    msg = (
        f"{what} of model {model.name} is not on this machine; searched: {', '.join(places)}; "
        f"`sdl models fetch --denoiser {model.name}` {does}"
    )
    return ModelNotFoundError(msg, model_id=model.name, searched=places)


def _folders() -> Iterator[Path]:
    """The configured folders and the folders in them."""
    for name in settings.current().model_dirs:
        folder = Path(name)
        yield folder
        if folder.is_dir():
            yield from sorted(path for path in folder.iterdir() if path.is_dir())


def _folders_of(model: Model) -> Iterator[Path]:
    """The configured folders that have the name of a model or of one of its repositories."""
    names = {model.name, *(repository.name.rpartition("/")[2] for repository in model.repositories)}
    # A link may have the name, or the folder that it leads to.
    return (folder for folder in _folders() if {folder.name, folder.resolve().name} & names)
