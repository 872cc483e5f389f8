"""Choose the network for a file, check its weights, and build it once in each process.

Denoisers are chosen here too.  No file names a denoiser: the settings decide among those that are on this machine.
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from .. import registry, settings
from ..errors import BackendError, ModelMismatchError, ModelNotFoundError
from ..latent import spaces
from . import forks, hashes, hub, local, schedule
from .base import DifferentiableAutoencoder

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from pathlib import Path

    from .base import Autoencoder, Denoiser

T = TypeVar("T")


class Store:
    """What this module has built or computed in this process: networks by kind and settings, hashes by file.

    Thread-safe.  A forked child starts with an empty store, because the threads of an inference runtime do not survive
    a fork.
    """

    def __init__(self) -> None:
        self._networks: dict[Hashable, Any] = {}
        self._hashes: dict[Hashable, str] = {}
        self._lock = threading.RLock()

    def network(self, key: Hashable, build: Callable[[], T]) -> T:
        """Return the network of a key; `build` makes it at the first call."""
        with self._lock:
            if key not in self._networks:
                self._networks[key] = build()
            found: T = self._networks[key]
            return found

    def hash_of_file(self, path: Path, compute: Callable[[], str]) -> str:
        """Return a hash that belongs to a file; `compute` makes it at the first call and after a change of the file."""
        state = path.stat()
        key = path, state.st_mtime_ns, state.st_size
        if key not in self._hashes:
            self._hashes[key] = compute()
        return self._hashes[key]

    def release(self) -> None:
        """Forget all networks, so that their memory is freed when no decode uses them any more."""
        with self._lock:
            self._networks.clear()

    def after_fork(self) -> None:
        """Empty the store of a forked child, and replace its lock, which a thread of the parent may have held."""
        self._lock = threading.RLock()
        # A session of ONNX Runtime waits, when it is freed, for threads that only the parent has.
        forks.never_free(self._networks)
        self._networks = {}


STORE = Store()


def _after_fork() -> None:
    STORE.after_fork()  # Tests replace STORE, so it is looked up when the process forks.


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def release() -> None:
    """Free the memory of all networks.  They are built again when they are needed."""
    STORE.release()


# Autoencoders


def load(model: registry.Model) -> Autoencoder:
    """Return the network of a model, on the device of the settings in force.

    Raises ModelNotFoundError, ModelMismatchError if the weights' hash is not the registry's, BackendError if a package
    is missing.
    """
    options = settings.current()
    if model.weights is not None:
        if options.device in {"auto", "cpu"}:
            return _on_onnx(model, options.threads)
        return _on_torch(model, model.weights, options.device)
    folder = hub.find(model)
    key = model.name, options.device, options.dtype, str(folder)
    return STORE.network(key, lambda: _diffusers(model, folder, options.device, options.dtype))


def load_differentiable(model: registry.Model) -> DifferentiableAutoencoder:
    """Return the network of a model in a form that gives gradients, which needs PyTorch.  Errors as for `load`."""
    if model.weights is not None:
        device = settings.current().device
        return _on_torch(model, model.weights, "cpu" if device == "auto" else device)
    network = load(model)
    assert isinstance(network, DifferentiableAutoencoder)
    return network


def _on_onnx(model: registry.Model, threads: int | None) -> Autoencoder:
    """A model that ships in the package, on ONNX Runtime."""
    try:
        from .networks import onnx
    except ImportError as exc:
        msg = "encoding and decoding .sdl pictures needs ONNX Runtime: pip install onnxruntime"
        raise BackendError(msg) from exc
    count = threads or settings.default_threads()

    def build() -> Autoencoder:
        assert model.weights is not None
        assert model.graphs is not None
        for stored in (model.weights, model.graphs.encoder, model.graphs.decoder):
            _checked_bytes(model, stored)
        return onnx.OnnxAutoencoder(model, count)

    return STORE.network((model.name, "onnx", count), build)


def _on_torch(model: registry.Model, weights: registry.StoredFile, device: str) -> DifferentiableAutoencoder:
    """A model that ships in the package, on PyTorch."""

    def build() -> DifferentiableAutoencoder:
        data = _checked_bytes(model, weights)
        try:
            from .networks import embedded
        except ImportError as exc:
            raise no_torch() from exc
        from safetensors.numpy import load as load_arrays

        return embedded.EmbeddedModel(load_arrays(data), device, model.hash)

    return STORE.network((model.name, "torch", device), build)


def _diffusers(model: registry.Model, folder: Path, device: str, dtype: str) -> Autoencoder:
    found = _folder_hash(folder, model)
    if model.hash:
        _compare(folder, model.name, model.hash, found)
    try:
        from .networks import autoencoders
    except ImportError as exc:
        raise _no_diffusers(model) from exc
    network = autoencoders.NETWORKS[model.network]
    return network(folder, registry.space(model.space), device, dtype, found)


def hash_of(model: registry.Model) -> str:
    """Return the hash of a model's decoder, hexadecimal: the registry's, else that of the weights that are found.

    Raises ModelNotFoundError, ModelMismatchError.
    """
    return model.hash or _folder_hash(hub.find(model), model)


def choose(model_hash: bytes, space: str) -> registry.Model:
    """Return the model that decodes a file: the one with that hash, else another one of its latent space.

    Among the others, those on this machine come first, in the order of the registry.  The embedded space has one
    model only, whose weights are not frozen yet, so no other model stands in for it (SPEC 7.1).
    Raises ModelNotFoundError.
    """
    of_space = [model for model in registry.load().models if model.space == space]
    wanted = model_hash.hex()
    for model in of_space:
        if model.hash == wanted and (model.weights or settings.current().download or local.autoencoder(model)):
            return model
    if space == registry.EMBEDDED:
        msg = (
            f"the file was written with another release of the embedded model: its hash is {wanted}, that of this "
            f"release is {registry.model(space).hash}; install the release of pillow-sdl that wrote it"
        )
        raise ModelNotFoundError(msg, model_id=wanted)
    present = [model for model in of_space if model.weights or local.autoencoder(model)]
    for model in present:
        if hash_of(model) == wanted:
            return model
    if present:
        return present[0]
    if of_space and settings.current().download:
        return of_space[0]
    msg = f"no model of the latent space {space} is on this machine; the file was made with model {wanted}"
    where: tuple[str, ...] = ()
    if of_space:
        where = local.searched(of_space[0])
        names = ", ".join(model.name for model in of_space)
        msg += (
            f"; any of {names} decodes it; searched: {', '.join(where)}; "
            f"`sdl models fetch {of_space[0].name}` downloads one ({of_space[0].megabytes} MB)"
        )
    raise ModelNotFoundError(msg, model_id=wanted, searched=where)


def name_of(model_hash: bytes, space: str) -> str | None:
    """Return the name of the model with that hash, None if no model on this machine has it."""
    wanted = model_hash.hex()
    for model in registry.load().models:
        if model.space == space:
            found = model.hash
            if not found and (folder := local.autoencoder(model)):
                found = _folder_hash(folder, model)
            if found == wanted:
                return model.name
    return None


# Denoisers


def has_denoiser(space: str) -> bool:
    """Whether there is any denoiser of a latent space, on this machine or elsewhere."""
    return registry.space(space).denoiser is not None or any(_with_unet(space))


def load_denoiser(space: str) -> Denoiser | None:
    """Return the denoiser that the settings choose for a latent space, None for none or if the space has none.

    Raises ModelNotFoundError, which names the command that fetches it, for one that is asked for by name and is not on
    this machine; ModelMismatchError; BackendError.
    """
    choice = settings.current().denoise
    if choice == "off" or not has_denoiser(space):
        return None
    if choice != "small" and (found := _unet(space, choice)) is not None:
        return found
    with_unet = _with_unet(space)
    if choice in {"unet", "buehlmann"}:
        if with_unet:
            raise local.denoiser_missing(next((model for model in with_unet if local.unet(model)), with_unet[0]))
    elif registry.space(space).denoiser is not None:
        return _small(space)
    if choice == "auto":
        return None
    msg = f"there is no denoiser {choice!r} for the latent space {space}"
    raise ModelNotFoundError(msg, model_id=choice)


def _with_unet(space: str) -> list[registry.Model]:
    return [model for model in registry.load().models if model.unet and model.space == space]


def _small(space: str) -> Denoiser:
    """Our own denoiser of a latent space.  Raises ModelNotFoundError, ModelMismatchError, BackendError."""
    device = settings.current().device
    stored = registry.space(space).denoiser
    assert stored is not None

    def build() -> Denoiser:
        tensors = spaces.read_arrays(stored)
        try:
            from .networks import denoiser
        except ImportError as exc:
            raise no_torch() from exc
        return denoiser.SmallDenoiser(f"{space}-denoiser", tensors, device)

    return STORE.network(("small denoiser", space, device), build)


def _unet(space: str, choice: str) -> Denoiser | None:
    """The first UNet of a latent space that is on this machine with all its parts, None if there is none."""
    options = settings.current()
    for model in _with_unet(space):
        files = local.denoiser(model)
        if model.unet is None or files is None:
            continue
        try:
            from .networks import unet
        except ImportError as exc:
            raise _no_diffusers(model) from exc
        plan = schedule.read(files.scheduler, model.unet.prediction)
        network = STORE.network(
            ("unet", model.name, options.device, options.dtype, *map(str, files)),
            lambda: unet.UNet(model.name, files, registry.space(space), plan, options.device, options.dtype),  # noqa: B023  called at once
        )
        return unet.BuehlmannDenoiser(network) if choice == "buehlmann" else unet.UNetDenoiser(network)
    return None


# Weights


def no_torch() -> BackendError:
    """Return the error for a task that needs PyTorch."""
    return BackendError("this needs PyTorch: pip install 'pillow-sdl[torch]'")


def _no_diffusers(model: registry.Model) -> BackendError:
    return BackendError(f"model {model.name} needs diffusers: pip install 'pillow-sdl[diffusion]'")


def _folder_hash(folder: Path, model: registry.Model) -> str:
    """The hash of the decoder in a folder in diffusers' layout, hexadecimal."""
    path = local.weights_file(folder)
    if path is None:
        msg = f"the weights of model {model.name} are missing: {folder}"
        raise ModelNotFoundError(msg, model_id=model.hash or model.name, searched=(str(folder),))

    def compute() -> str:
        from safetensors import SafetensorError, deserialize

        try:
            # Not as arrays: many weights are bfloat16, which NumPy does not have.
            tensors = dict(deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
        except (SafetensorError, OSError) as exc:
            msg = f"the weights of model {model.name} cannot be read: {path}: {exc}"
            raise ModelMismatchError(msg, expected=model.hash) from exc
        listing = ((name, t["dtype"], t["shape"], t["data"]) for name, t in hashes.decoder_part(tensors).items())
        return hashes.of_listing(listing).hex()

    return STORE.hash_of_file(path, compute)


def _checked_bytes(model: registry.Model, stored: registry.StoredFile) -> bytes:
    """The bytes of a file of a model that ships in the package.

    Raises ModelNotFoundError if it is missing, ModelMismatchError if its SHA-256 is not the registry's.
    """
    try:
        data = stored.path.read_bytes()
    except FileNotFoundError as exc:
        msg = f"the weights of model {model.name} are missing: {stored.path}; reinstall pillow-sdl"
        raise ModelNotFoundError(msg, model_id=model.hash, searched=(str(stored.path),)) from exc
    _compare(stored.path, model.name, stored.sha256, hashlib.sha256(data).hexdigest())
    return data


def _compare(path: Path, name: str, expected: str, found: str) -> None:
    if found != expected:
        msg = f"the file {path} of model {name} has hash {found}; the registry names {expected}"
        raise ModelMismatchError(msg, expected=expected, found=found)
