"""Where the weights of a model lie: configured folders, the hub's cache, the hub.

A denoiser is a pipeline's folders unet and scheduler, and the empty prompt's embedding in a file, which is computed
once and lies in the pipeline's folder or in the hub's cache of assets.

Never a network access unless downloads are allowed; the hub's own HF_HUB_OFFLINE, HF_HOME and HF_ENDPOINT hold.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .. import settings
from ..errors import BackendError, ModelMismatchError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .cards import ModelCard, Repository

CONFIG: Final = "config.json"
WEIGHTS: Final = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
"""Files with weights in diffusers' layout, the one to prefer first."""

TEXT_WEIGHTS: Final = ("model.safetensors", "model.fp16.safetensors")
"""The same of a text encoder, in transformers' layout."""

UNET: Final = "unet"
SCHEDULER: Final = "scheduler/scheduler_config.json"
TEXT_ENCODER: Final = "text_encoder"
TOKENIZER: Final = "tokenizer/tokenizer_config.json"
"""Where a pipeline's folder has them."""

PROMPT: Final = "empty_prompt.safetensors"
PROMPT_TENSOR: Final = "prompt_embeds"
"""The file of the empty prompt's embedding, and the tensor in it, (1, 77, D)."""


class DenoiserFiles(NamedTuple):
    """unet: folder with config.json and weights.   scheduler, prompt: files; the former may be missing."""

    unet: Path
    scheduler: Path
    prompt: Path


def weights_file(folder: Path, names: tuple[str, ...] = WEIGHTS) -> Path | None:
    """The file with the weights of a folder in diffusers' layout, None if it is no such folder."""
    if not (folder / CONFIG).is_file():
        return None
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _folders() -> Iterator[Path]:
    """The configured folders and the folders in them."""
    for name in settings.current().model_dirs:
        folder = Path(name)
        yield folder
        if folder.is_dir():
            yield from sorted(path for path in folder.iterdir() if path.is_dir())


def _folders_of(card: ModelCard) -> Iterator[Path]:
    """Those that have the name of a card or of one of its repositories."""
    names = {card.name, *(repository.name.rpartition("/")[2] for repository in card.repositories)}
    return (folder for folder in _folders() if folder.resolve().name in names)


def local(card: ModelCard) -> Path | None:
    """The folder of a model's autoencoder in the configured folders or the hub's cache; None if it is in neither.

    A folder is a model's if it has the name of its card or of one of its repositories; the autoencoder may lie in
    it, or in its subfolder, as in a whole pipeline's.
    """
    for folder in _folders_of(card):
        subfolders = {repository.subfolder for repository in card.repositories}
        for place in (folder, *(folder / name for name in sorted(subfolders) if name)):
            if weights_file(place):
                return place
    for repository in card.repositories:
        found = _snapshot(repository, repository.subfolder, download=False)
        if found:
            return found
    return None


def searched(card: ModelCard) -> tuple[str, ...]:
    """Where `local` looks, for people."""
    folders = tuple(str(name) for name in settings.current().model_dirs)
    return (*folders, *(f"the hub's cache of {repository.name}" for repository in card.repositories))


def find(card: ModelCard) -> Path:
    """The folder of a model's autoencoder: a local one, else downloaded if the settings allow it.

    Raises ModelNotFoundError, which names the folders searched and the command that fetches the model.
    """
    folder = local(card)
    if folder is not None:
        return folder
    if settings.current().download:
        return fetch(card)
    msg = (
        f"model {card.name} is not on this machine; searched: {', '.join(searched(card))}; "
        f"`sdl models fetch {card.name}` downloads it ({card.megabytes} MB)"
    )
    raise ModelNotFoundError(msg, model_id=card.hash or card.name, searched=searched(card))


def fetch(card: ModelCard, *, progress: bool = False) -> Path:
    """Download a model's autoencoder into the hub's cache, from the first of its repositories that has it.

    progress: whether the hub's client shows its bars.
    Raises ModelNotFoundError, which tells of every repository why it failed; ModelMismatchError if what came is not what
    the card says, which the hub's client does not check; BackendError without huggingface_hub.
    """
    return _downloaded(card, _Wanted(None, WEIGHTS, sha256=None), progress=progress)


def local_unet(card: ModelCard) -> Path | None:
    """The folder unet of a model's pipeline in the configured folders or the hub's cache; None if it is in neither."""
    return _local_part(card, UNET, WEIGHTS)


def _local_part(card: ModelCard, part: str, names: tuple[str, ...]) -> Path | None:
    for folder in _folders_of(card):
        if weights_file(folder / part, names):
            return folder / part
    for repository in card.repositories:
        found = _snapshot(repository, part, names=names, download=False)
        if found:
            return found
    return None


def local_denoiser(card: ModelCard) -> DenoiserFiles | None:
    """All parts of a model's denoiser, None if the UNet or the empty prompt's embedding is not on this machine."""
    unet = local_unet(card)
    if unet is None:
        return None
    for prompt in (unet.parent / PROMPT, _kept_prompt(card)):
        if prompt is not None and prompt.is_file():
            return DenoiserFiles(unet, unet.parent / SCHEDULER, prompt)
    return None


def _kept_prompt(card: ModelCard) -> Path | None:
    """Where the empty prompt of a model is kept, None without the hub's client.

    That of huggingface_hub.cached_assets_path, which makes the folder: a look must not, nor fail in a cache that
    cannot be written.
    """
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    return Path(constants.HF_ASSETS_CACHE).expanduser() / "pillow_sdl" / card.name / "prompt" / PROMPT


def denoiser_missing(card: ModelCard) -> ModelNotFoundError:
    """The error for a denoiser that is not on this machine: what is missing, where it was looked for, the command."""
    assert card.unet is not None
    places = searched(card)
    if local_unet(card):
        what, does = "the empty prompt's embedding for the UNet", "encodes it"
    else:
        what = "the UNet"
        does = f"downloads it ({card.unet.megabytes} MB, and once {card.unet.text_megabytes} MB of text encoder)"
    msg = (
        f"{what} of model {card.name} is not on this machine; searched: {', '.join(places)}; "
        f"`sdl models fetch --denoiser {card.name}` {does}"
    )
    return ModelNotFoundError(msg, model_id=card.name, searched=places)


def fetch_denoiser(card: ModelCard, *, half: bool = False, progress: bool = False) -> DenoiserFiles:
    """All parts of a model's denoiser: what is not here is downloaded, and the empty prompt encoded, once.

    half: prefer weights of float16, half the download.   progress: whether the hub's client shows its bars.
    Raises ValueError for a model that has none, BackendError without transformers where the prompt must be encoded,
    otherwise as `fetch`.
    """
    from . import prompt

    if card.unet is None:
        msg = f"model {card.name} has no denoiser"
        raise ValueError(msg)
    found = local_denoiser(card)
    if found is not None:
        return found
    kept = _kept_prompt(card)
    if kept is None or not kept.is_file():
        prompt.text_model()  # What is missing is told before gigabytes are downloaded.
    unet = local_unet(card)
    if unet is None:
        names = WEIGHTS[::-1] if half else WEIGHTS
        unet = _downloaded(card, _Wanted(UNET, names, (SCHEDULER,), card.unet.sha256), progress=progress)
    found = local_denoiser(card)
    if found is not None:
        return found
    encoder = next(
        (
            place
            for place in (unet.parent / TEXT_ENCODER, _local_part(card, TEXT_ENCODER, TEXT_WEIGHTS))
            if place and weights_file(place, TEXT_WEIGHTS) and (place.parent / TOKENIZER).is_file()
        ),
        None,
    )
    if encoder is None:
        wanted = _Wanted(TEXT_ENCODER, TEXT_WEIGHTS, (TOKENIZER,))
        encoder = _downloaded(card, wanted, progress=progress)
    _keep_prompt(card, prompt.encode(encoder, encoder.parent / TOKENIZER))
    found = local_denoiser(card)
    assert found is not None
    return found


def _keep_prompt(card: ModelCard, embedding: NDArray[Any]) -> None:
    """Write an embedding to where it is looked for.  Raises BackendError without the hub's client."""
    from safetensors.numpy import save

    path = _kept_prompt(card)
    if path is None:
        raise _no_client()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")  # Readable for all who read the cache, which mkstemp's is not.
    temporary.write_bytes(save({PROMPT_TENSOR: embedding}))
    temporary.replace(path)


class _Wanted(NamedTuple):
    """A part of a repository.

    subfolder: None: the repository's own, of the autoencoder.   names: of weights, the one to prefer first.
    further: files beside.   sha256: of the first of `WEIGHTS`; None: the repository's own; empty: not known.
    """

    subfolder: str | None
    names: tuple[str, ...]
    further: tuple[str, ...] = ()
    sha256: str | None = ""


def _downloaded(card: ModelCard, wanted: _Wanted, *, progress: bool) -> Path:
    """The folder of a part, from the first of a card's repositories that has it.  Errors as for `fetch`."""
    failures = []
    for repository in card.repositories:
        subfolder = repository.subfolder if wanted.subfolder is None else wanted.subfolder
        try:
            found = _snapshot(
                repository, subfolder, names=wanted.names, further=wanted.further, download=True, progress=progress
            )
        except (OSError, ValueError) as exc:  # Whatever the hub's client and the network raise is one of these.
            failures.append(f"{repository.name}: {_first_line(exc)}")
            continue
        if found is not None:
            _check(repository.name, found, repository.sha256 if wanted.sha256 is None else wanted.sha256)
            return found
        failures.append(
            f"{repository.name}: it has no {' or '.join(wanted.names)} beside {CONFIG} in {subfolder or '/'}"
        )
    msg = f"model {card.name} cannot be downloaded: {'; '.join(failures)}"
    raise ModelNotFoundError(msg, model_id=card.hash or card.name, searched=searched(card))


def _check(source: str, folder: Path, expected: str) -> None:
    """Raise ModelMismatchError, and drop the file, if the float32 weights in a folder have another SHA-256."""
    path = weights_file(folder)
    if path is None or path.name != WEIGHTS[0] or not expected:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        path.unlink()
        msg = f"{source} sent weights with SHA-256 {found}; {expected} was expected; they are not kept"
        raise ModelMismatchError(msg, expected=expected, found=found)


def _first_line(exc: Exception) -> str:
    return next((line for line in str(exc).splitlines() if line.strip()), type(exc).__name__)


def _no_client() -> BackendError:
    return BackendError("downloading models needs the hub's client: pip install huggingface_hub")


def _snapshot(
    repository: Repository,
    subfolder: str,
    *,
    download: bool,
    names: tuple[str, ...] = WEIGHTS,
    further: tuple[str, ...] = (),
    progress: bool = False,
) -> Path | None:
    """The folder of weights in the hub's cache, None if it is not there.  Errors of the hub's client pass.

    names: of files with weights, the first to be tried first.   further: files of the repository to come with them.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as exc:
        if not download:
            return None
        raise _no_client() from exc
    from tqdm.asyncio import tqdm_asyncio

    class _Silent(tqdm_asyncio):  # type: ignore[type-arg]
        """The hub's client has no other switch for one call."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options | {"disable": True})

    prefix = f"{subfolder}/" if subfolder else ""
    for name in names:
        try:
            root = snapshot_download(
                repository.name,
                revision=repository.revision,
                allow_patterns=[prefix + CONFIG, prefix + name, *further],
                local_files_only=not download,
                tqdm_class=None if progress else _Silent,
            )
        except LocalEntryNotFoundError:
            if download:
                raise
            continue  # The hub's client knows that the repository has this file, and another of them may be here.
        place = Path(root) / subfolder
        if weights_file(place, names):
            return place
    return None
