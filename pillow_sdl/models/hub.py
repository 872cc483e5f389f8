"""Download models from the Hugging Face hub.

Nothing is downloaded unless the user runs `sdl models fetch` or turns the setting `download` on.  The hub's client
obeys the variables HF_HUB_OFFLINE, HF_HOME and HF_ENDPOINT.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import atomic, settings
from ..errors import BackendError, ModelMismatchError, ModelNotFoundError, first_line
from . import local

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..registry import Model, Repository


class _Part(NamedTuple):
    """A part of a repository to download.

    subfolder: None stands for the repository's own, which holds the autoencoder.
    names: of files of weights, in order of preference.   further: patterns of files that come with them.
    sha256: of the first of `local.WEIGHT_FILES`.  None stands for the repository's own, "" for unknown.
    """

    subfolder: str | None
    names: tuple[str, ...]
    further: tuple[str, ...] = ()
    sha256: str | None = ""


def find(model: Model) -> Path:
    """Return the folder of a model's autoencoder.  Downloads it if it is not on this machine and the settings allow it.

    Raises ModelNotFoundError, which names the folders searched and the command that fetches the model.
    """
    folder = local.autoencoder(model)
    if folder is not None:
        return folder
    if settings.current().download:
        return fetch(model)
    places = local.searched(model)
    msg = (
        f"model {model.name} is not on this machine; searched: {', '.join(places)}; "
        f"`sdl models fetch {model.name}` downloads it ({model.megabytes} MB)"
    )
    raise ModelNotFoundError(msg, model_id=model.hash or model.name, searched=places)


def fetch(model: Model, *, progress: bool = False) -> Path:
    """Download a model's autoencoder into the hub's cache, from the first of its repositories that has it.

    progress: whether the hub's client shows its progress bars.
    Raises ModelNotFoundError, which says for each repository why it failed; ModelMismatchError if the file is not the
    one that the registry names, which the hub's client does not check; BackendError without huggingface_hub.
    """
    return _download(model, _Part(None, local.WEIGHT_FILES, sha256=None), progress=progress)


def fetch_denoiser(model: Model, *, half: bool = False, progress: bool = False) -> local.DenoiserFiles:
    """Download the parts of a model's denoiser that are missing, and encode the empty prompt once.

    half: prefer float16 weights, half the download.   progress: whether the hub's client shows its progress bars.
    Raises ValueError for a model that has no denoiser, BackendError without transformers if the prompt must be
    encoded, and otherwise what `fetch` raises.
    """
    from . import prompt

    if model.unet is None:
        msg = f"model {model.name} has no denoiser"
        raise ValueError(msg)
    found = local.denoiser(model)
    if found is not None:
        return found
    kept = local.kept_prompt(model)
    if kept is None or not kept.is_file():
        prompt.require()  # A missing package is reported before gigabytes are downloaded.
    unet = local.unet(model)
    if unet is None:
        names = local.WEIGHT_FILES[::-1] if half else local.WEIGHT_FILES
        unet = _download(model, _Part(local.UNET, names, (local.SCHEDULER,), model.unet.sha256), progress=progress)
    found = local.denoiser(model)
    if found is not None:
        return found
    encoder = next(
        (
            place
            for place in (
                unet.parent / local.TEXT_ENCODER,
                local.part(model, local.TEXT_ENCODER, local.TEXT_WEIGHT_FILES),
            )
            if place
            and local.weights_file(place, local.TEXT_WEIGHT_FILES)
            and prompt.has_tokenizer(place.parent / local.TOKENIZER)
        ),
        None,
    )
    if encoder is None:
        wanted = _Part(local.TEXT_ENCODER, local.TEXT_WEIGHT_FILES, (f"{local.TOKENIZER}/*",))
        encoder = _download(model, wanted, progress=progress)
    _keep_prompt(model, prompt.encode(encoder, encoder.parent / local.TOKENIZER))
    found = local.denoiser(model)
    assert found is not None
    return found


def _keep_prompt(model: Model, embedding: NDArray[Any]) -> None:
    """Write an embedding to where `local.denoiser` looks for it.  Raises BackendError without the hub's client."""
    from safetensors.numpy import save

    path = local.kept_prompt(model)
    if path is None:
        raise _no_client()
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(path, save({local.PROMPT_TENSOR: embedding}))


def _download(model: Model, wanted: _Part, *, progress: bool) -> Path:
    """Return the folder of a part, from the first of a model's repositories that has it.  Errors as for `fetch`."""
    failures = []
    for repository in model.repositories:
        subfolder = repository.subfolder if wanted.subfolder is None else wanted.subfolder
        try:
            found = _snapshot(repository, subfolder, wanted, progress=progress)
        except BackendError:
            raise
        except Exception as exc:  # noqa: BLE001  errors of the client, of the file system, and of httpx or requests
            failures.append(f"{repository.name}: {first_line(exc)}")
            continue
        if found is not None:
            _check(repository.name, found, repository.sha256 if wanted.sha256 is None else wanted.sha256)
            return found
        names = " or ".join(wanted.names)
        failures.append(f"{repository.name}: it has no {names} beside {local.CONFIG} in {subfolder or '/'}")
    msg = f"model {model.name} cannot be downloaded: {'; '.join(failures)}"
    raise ModelNotFoundError(msg, model_id=model.hash or model.name, searched=local.searched(model))


def _check(source: str, folder: Path, expected: str) -> None:
    """Raise ModelMismatchError, and delete the file, if the float32 weights in a folder have another SHA-256."""
    path = local.weights_file(folder)
    if path is None or path.name != local.WEIGHT_FILES[0] or not expected:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        # The file in the snapshot may be a link.  What it names must go too, or the next download takes it again.
        kept = path.resolve()
        path.unlink()
        kept.unlink(missing_ok=True)
        msg = f"{source} sent weights with SHA-256 {found}; {expected} was expected; the file was deleted"
        raise ModelMismatchError(msg, expected=expected, found=found)


def _no_client() -> BackendError:
    return BackendError("downloading models needs the hub's client: pip install 'pillow-sdl[diffusion]'")


def _snapshot(repository: Repository, subfolder: str, wanted: _Part, *, progress: bool) -> Path | None:
    """Download a folder of a repository; None if the repository does not have it.  Errors of the hub's client pass."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as exc:
        raise _no_client() from exc
    from tqdm.asyncio import tqdm_asyncio

    class _Silent(tqdm_asyncio):  # type: ignore[type-arg]
        """A progress bar that is not shown.  The hub's client has no other switch for one call."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options | {"disable": True})

    prefix = f"{subfolder}/" if subfolder else ""
    for name in wanted.names:
        root = snapshot_download(
            repository.name,
            revision=repository.revision,
            allow_patterns=[prefix + local.CONFIG, prefix + name, *wanted.further],
            tqdm_class=None if progress else _Silent,
        )
        place = Path(root) / subfolder
        if local.weights_file(place, wanted.names):
            return place
    return None
