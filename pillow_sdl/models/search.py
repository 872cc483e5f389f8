"""Where the weights of a model lie: configured folders, the hub's cache, the hub.

Never a network access unless downloads are allowed; the hub's own HF_HUB_OFFLINE, HF_HOME and HF_ENDPOINT hold.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .. import settings
from ..errors import BackendError, ModelMismatchError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .cards import ModelCard, Repository

CONFIG: Final = "config.json"
WEIGHTS: Final = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
"""Files with weights in diffusers' layout, the one to prefer first."""


def weights_file(folder: Path) -> Path | None:
    """The file with the weights of a folder in diffusers' layout, None if it is no such folder."""
    if not (folder / CONFIG).is_file():
        return None
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def _folders() -> Iterator[Path]:
    """The configured folders and the folders in them."""
    for name in settings.current().model_dirs:
        folder = Path(name)
        yield folder
        if folder.is_dir():
            yield from sorted(path for path in folder.iterdir() if path.is_dir())


def local(card: ModelCard) -> Path | None:
    """The folder of a model's autoencoder in the configured folders or the hub's cache; None if it is in neither.

    A folder is a model's if it has the name of its card or of one of its repositories; the autoencoder may lie in
    it, or in its subfolder, as in a whole pipeline's.
    """
    names = {card.name, *(repository.name.rpartition("/")[2] for repository in card.repositories)}
    for folder in _folders():
        if folder.resolve().name in names:
            subfolders = {repository.subfolder for repository in card.repositories}
            for place in (folder, *(folder / name for name in sorted(subfolders) if name)):
                if weights_file(place):
                    return place
    for repository in card.repositories:
        found = _snapshot(repository, download=False)
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
    failures = []
    for repository in card.repositories:
        try:
            found = _snapshot(repository, download=True, progress=progress)
        except (OSError, ValueError) as exc:  # Whatever the hub's client and the network raise is one of these.
            failures.append(f"{repository.name}: {_first_line(exc)}")
            continue
        if found is not None:
            _check(repository, found)
            return found
        failures.append(f"{repository.name}: it has no {' or '.join(WEIGHTS)} beside {CONFIG}")
    msg = f"model {card.name} cannot be downloaded: {'; '.join(failures)}"
    raise ModelNotFoundError(msg, model_id=card.hash or card.name, searched=searched(card))


def _check(repository: Repository, folder: Path) -> None:
    path = weights_file(folder)
    if path is None or path.name != WEIGHTS[0] or not repository.sha256:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != repository.sha256:
        path.unlink()
        msg = (
            f"{repository.name} sent weights with SHA-256 {found}; {repository.sha256} was expected; they are not kept"
        )
        raise ModelMismatchError(msg, expected=repository.sha256, found=found)


def _first_line(exc: Exception) -> str:
    return next((line for line in str(exc).splitlines() if line.strip()), type(exc).__name__)


def _snapshot(repository: Repository, *, download: bool, progress: bool = False) -> Path | None:
    """The folder of an autoencoder in the hub's cache, None if it is not there.  Errors of the hub's client pass."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as exc:
        if not download:
            return None
        msg = "downloading models needs the hub's client: pip install huggingface_hub"
        raise BackendError(msg) from exc
    from tqdm.asyncio import tqdm_asyncio

    class _Silent(tqdm_asyncio):  # type: ignore[type-arg]
        """The hub's client has no other switch for one call."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options | {"disable": True})

    prefix = f"{repository.subfolder}/" if repository.subfolder else ""
    for name in WEIGHTS:
        try:
            root = snapshot_download(
                repository.name,
                revision=repository.revision,
                allow_patterns=[prefix + CONFIG, prefix + name],
                local_files_only=not download,
                tqdm_class=None if progress else _Silent,
            )
        except LocalEntryNotFoundError:
            if download:
                raise
            return None
        place = Path(root) / repository.subfolder
        if weights_file(place):
            return place
    return None
