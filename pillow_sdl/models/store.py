"""Find a model's weights, check that they are the right ones, and build the network once per process."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import numpy as np

from .. import settings
from ..errors import BackendError, ModelMismatchError, ModelNotFoundError
from ..latent import spaces

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from .cards import ModelCard

WEIGHTS: Final = spaces.WEIGHTS
HASH_LENGTH: Final = 16
DECODER: Final = "decoder."

# NumPy's dtype names in the spelling of safetensors, which the hash is defined on.
_DTYPES: Final = {
    "bool": "BOOL",
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
}


Progress: TypeAlias = "Callable[[int, int], None]"
"""Called with (tiles done, tiles in all) after every tile."""


class Autoencoder(Protocol):
    """What the rest of the package knows of a network."""

    def encode(self, pixels: NDArray[np.uint8], progress: Progress | None = None) -> NDArray[np.float32]:
        """Pixels uint8 (H, W, 3) -> latent float32 (C, h, w)."""

    def decode(self, latent: NDArray[np.float32], rate: int, progress: Progress | None = None) -> NDArray[np.uint8]:
        """Latent float32 (C, h, w), quantised at a rate code -> pixels uint8 (factor * h, factor * w, 3)."""

    def squared_error(
        self, latent: NDArray[np.float32], rate: int, pixels: NDArray[np.uint8]
    ) -> tuple[float, NDArray[np.float32]]:
        """Squared error, in all, of the picture that a latent decodes to; its gradient by the latent.

        Of pixels in 0..1, uint8 (H, W, 3) as they were given to `encode`.
        """

    def curvature(self, latent: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
        """Second derivative of the squared error by a value of each channel: float32 (C,), about."""


def tensor_hash(tensors: Mapping[str, NDArray[np.generic]]) -> bytes:
    """First 16 bytes of SHA-256 over the canonical listing of tensors (SPEC 7.2).

    The listing has, for each tensor in the order of the names' UTF-8 bytes: name, 0, dtype as safetensors spells
    it, 0, shape in decimal with commas between, 0, the values little-endian in C order.  The same weights saved by
    another tool have the same hash.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors, key=str.encode):
        tensor = tensors[name]
        shape = ",".join(map(str, tensor.shape))
        digest.update(f"{name}\0{_DTYPES[tensor.dtype.name]}\0{shape}\0".encode())
        digest.update(np.ascontiguousarray(tensor, dtype=tensor.dtype.newbyteorder("<")).data)
    return digest.digest()[:HASH_LENGTH]


_loaded: dict[tuple[str, str], Autoencoder] = {}
_lock = threading.Lock()


def load(card: ModelCard) -> Autoencoder:
    """The network of a card, on the device of the settings in force, built at the first call.  Thread-safe.

    Raises ModelNotFoundError, ModelMismatchError if the weights' hash is not the card's, BackendError without torch.
    """
    key = card.name, settings.current().device
    with _lock:
        if key not in _loaded:
            _loaded[key] = _build(card, key[1])
        return _loaded[key]


def release() -> None:
    """Forget all networks, so that their memory can be freed once no decode uses them."""
    with _lock:
        _loaded.clear()


def _build(card: ModelCard, device: str) -> Autoencoder:
    tensors = _read(card)
    try:
        from . import embedded
    except ImportError as exc:
        msg = "encoding and decoding .sdl pictures needs PyTorch: pip install torch"
        raise BackendError(msg) from exc
    return embedded.EmbeddedModel(tensors, device)


def _read(card: ModelCard) -> dict[str, NDArray[np.generic]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = WEIGHTS / card.file
    try:
        data = path.read_bytes()
    except FileNotFoundError as exc:
        msg = f"the weights of model {card.name} are missing: {path}; reinstall pillow-sdl"
        raise ModelNotFoundError(msg, model_id=card.hash, searched=(str(path),)) from exc
    try:
        tensors: dict[str, NDArray[np.generic]] = load(data)
    except (SafetensorError, KeyError, TypeError) as exc:  # the latter two: a dtype that NumPy has not, as bfloat16
        msg = f"the weights of model {card.name} cannot be read: {path}; reinstall pillow-sdl"
        raise ModelMismatchError(msg, expected=card.hash) from exc
    decoder = {name.removeprefix(DECODER): t for name, t in tensors.items() if name.startswith(DECODER)}
    _compare(path, card.name, card.hash, tensor_hash(decoder).hex())
    _compare(path, card.name, card.sha256, hashlib.sha256(data).hexdigest())
    return tensors


def _compare(path: Path, name: str, expected: str, found: str) -> None:
    if found != expected:
        msg = f"the weights in {path} have hash {found}; model {name} has {expected}"
        raise ModelMismatchError(msg, expected=expected, found=found)
