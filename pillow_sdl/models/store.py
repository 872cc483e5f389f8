"""Find a model's weights, check that they are the right ones, and build the network once per process.

Denoisers too, which no file names: what is on this machine is used, as the settings say.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import numpy as np

from .. import settings
from ..errors import BackendError, ModelMismatchError, ModelNotFoundError
from ..latent import spaces
from . import cards, schedule, search

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ..latent.noise import Noise
    from .cards import ModelCard
    from .unet import UNet

WEIGHTS: Final = spaces.WEIGHTS
HASH_LENGTH: Final = 16
DECODER: Final = "decoder."
AFTER_QUANTISER: Final = "post_quant_conv."

# Dtype names of NumPy and torch in the spelling of safetensors, which the hash is defined on.
_DTYPES: Final = {
    "bool": "BOOL",
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}


Progress: TypeAlias = "Callable[[int, int], None]"
"""Called with (tiles done, tiles in all) after every tile; a denoiser counts its tiles once for every step."""


class Autoencoder(Protocol):
    """What the rest of the package knows of a network.   hash: of its decoder (SPEC 7.2), hexadecimal."""

    hash: str

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


class Denoiser(Protocol):
    """What the rest of the package knows of a denoiser.   name: what `image.info` says of it."""

    name: str

    def denoise(
        self, latent: NDArray[np.float32], noise: Noise, steps: int, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """A latent float32 (C, h, w) less what the quantiser did to it, the same shape.  Deterministic.

        steps: calls of the network, 1 or more, for denoisers that have a choice.
        """


def tensor_hash(tensors: Mapping[str, NDArray[np.generic]]) -> bytes:
    """First 16 bytes of SHA-256 over the canonical listing of tensors (SPEC 7.2).

    The listing has, for each tensor in the order of the names' UTF-8 bytes: name, 0, dtype as safetensors spells
    it, 0, shape in decimal with commas between, 0, the values little-endian in C order.  The same weights saved by
    another tool have the same hash.
    """
    return _listing_hash(
        (name, _DTYPES[t.dtype.name], t.shape, np.ascontiguousarray(t, dtype=t.dtype.newbyteorder("<")).data)
        for name, t in tensors.items()
    )


def module_hash(autoencoder: Any) -> str:
    """Hash of the decoder of an autoencoder that a program has loaded: diffusers' layout (SPEC 7.2), hexadecimal.

    autoencoder: anything whose `state_dict()` gives torch tensors, on any device.  The hash is that of the dtype that
    they have: weights that were converted when they were loaded are other weights.
    Raises ValueError for an object without a decoder, or whose tensors hold no values or have a dtype that safetensors
    has no name for.
    """
    listing = []
    for name, tensor in autoencoder.state_dict().items():
        if not name.startswith((DECODER, AFTER_QUANTISER)):
            continue
        dtype = _DTYPES.get(str(tensor.dtype).removeprefix("torch."))
        if dtype is None or tensor.is_meta:
            msg = f"tensor {name} has {'no values' if tensor.is_meta else f'the dtype {tensor.dtype}, which no file can have'}"
            raise ValueError(msg)
        listing.append((name.removeprefix(DECODER), dtype, tuple(tensor.shape), _values(tensor)))
    if not listing:
        msg = (
            f"{type(autoencoder).__name__} has no decoder in diffusers' layout: no tensor's name begins with {DECODER}"
        )
        raise ValueError(msg)
    return _listing_hash(listing).hex()


def _values(tensor: Any) -> memoryview:
    """Little-endian bytes of a tensor, in C order: as integers, since NumPy lacks some of torch's types."""
    import torch

    word = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    values = tensor.detach().cpu().contiguous().flatten().view(word).numpy()
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).data


def _listing_hash(listing: Iterable[tuple[str, str, Sequence[int], bytes | memoryview]]) -> bytes:
    """The same from names, dtypes, shapes and values as they stand in the listing, in any order."""
    digest = hashlib.sha256()
    for name, dtype, shape, values in sorted(listing, key=lambda entry: entry[0].encode()):
        digest.update(f"{name}\0{dtype}\0{','.join(map(str, shape))}\0".encode())
        digest.update(values)
    return digest.digest()[:HASH_LENGTH]


_loaded: dict[tuple[str, ...], Autoencoder] = {}
_unets: dict[tuple[str, ...], UNet] = {}
_small: dict[tuple[str, str], Denoiser] = {}
_hashes: dict[tuple[Path, int, int], str] = {}
_lock = threading.RLock()


def load(card: ModelCard) -> Autoencoder:
    """The network of a card, on the device of the settings in force, built at the first call.  Thread-safe.

    Raises ModelNotFoundError, ModelMismatchError if the weights' hash is not the card's, BackendError without torch.
    """
    options = settings.current()
    folder = search.find(card) if card.repositories else WEIGHTS
    key = card.name, options.device, options.dtype, str(folder)
    with _lock:
        if key not in _loaded:
            _loaded[key] = _build(card, folder)
        return _loaded[key]


def release() -> None:
    """Forget all networks, so that their memory can be freed once no decode uses them."""
    with _lock:
        _loaded.clear()
        _unets.clear()
        _small.clear()


def has_denoiser(space: str) -> bool:
    """Whether there is any denoiser of a latent space, be it on this machine or not."""
    return space in cards.DENOISERS or any(card.unet and card.space == space for card in cards.CARDS)


def load_denoiser(space: str) -> Denoiser | None:
    """The denoiser that the settings want for a latent space, built at the first call; None for none.  Thread-safe.

    None too for a space that no denoiser was made for.  Raises ModelNotFoundError, which names the command that
    fetches it, for one that is asked for by name and is not on this machine; ModelMismatchError, BackendError.
    """
    choice = settings.current().denoise
    if choice == "off" or not has_denoiser(space):
        return None
    if choice != "small":
        found = _load_unet(space)
        if found is not None:
            from . import unet

            return unet.BuehlmannDenoiser(found) if choice == "buehlmann" else unet.UNetDenoiser(found)
    if choice in {"unet", "buehlmann"}:
        of_space = [card for card in cards.CARDS if card.unet and card.space == space]
        if of_space:
            raise search.denoiser_missing(next((card for card in of_space if search.local_unet(card)), of_space[0]))
    elif space in cards.DENOISERS:
        return _load_small(space)
    if choice == "auto":
        return None
    msg = f"there is no denoiser {choice!r} for the latent space {space}"
    raise ModelNotFoundError(msg, model_id=choice)


def _load_small(space: str) -> Denoiser:
    """Our own denoiser of a latent space.  Raises ModelNotFoundError, ModelMismatchError, BackendError."""
    name, device = f"{space}-denoiser", settings.current().device
    with _lock:
        if (name, device) not in _small:
            tensors = spaces.read_arrays(name, cards.DENOISERS[space])
            try:
                from . import denoiser
            except ImportError as exc:
                raise _no_torch() from exc
            _small[name, device] = denoiser.SmallDenoiser(name, tensors, device)
        return _small[name, device]


def _load_unet(space: str) -> UNet | None:
    """The first UNet of a latent space that is on this machine with all its parts; None if none is."""
    options = settings.current()
    for card in cards.CARDS:
        files = search.local_denoiser(card) if card.unet and card.space == space else None
        if card.unet is None or files is None:
            continue
        key = card.name, options.device, options.dtype, *map(str, files)
        with _lock:
            if key not in _unets:
                try:
                    from . import unet
                except ImportError as exc:
                    raise _no_diffusers(card) from exc
                plan = schedule.read(files.scheduler, card.unet.prediction)
                space_of = spaces.by_name(space)
                _unets[key] = unet.UNet(card.name, files, space_of, plan, options.device, options.dtype)
            return _unets[key]
    return None


def hash_of(card: ModelCard) -> str:
    """Hash of a model's decoder, hexadecimal: the card's, else that of the weights that are found.

    Raises ModelNotFoundError, ModelMismatchError.
    """
    return card.hash or _hash_of(search.find(card), card)


def choose(model: bytes, space: str) -> ModelCard:
    """The card that decodes a file: of the model with that hash, else of another of its latent space.

    Among others, those on this machine come first, in the order of the table.  Raises ModelNotFoundError.
    """
    of_space = [card for card in cards.CARDS if card.space == space]
    wanted = model.hex()
    for card in of_space:
        if card.hash == wanted and (not card.repositories or settings.current().download or search.local(card)):
            return card
    present = [card for card in of_space if not card.repositories or search.local(card)]
    for card in present:
        if hash_of(card) == wanted:
            return card
    if present:
        return present[0]
    if of_space and settings.current().download:
        return of_space[0]
    msg = f"no model of the latent space {space} is on this machine: the file was made with model {wanted}"
    where: tuple[str, ...] = ()
    if of_space:
        where = search.searched(of_space[0])
        names = ", ".join(card.name for card in of_space)
        msg += (
            f"; any of {names} decodes it; searched: {', '.join(where)}; "
            f"`sdl models fetch {of_space[0].name}` downloads one ({of_space[0].megabytes} MB)"
        )
    raise ModelNotFoundError(msg, model_id=wanted, searched=where)


def _build(card: ModelCard, folder: Path) -> Autoencoder:
    options = settings.current()
    if card.architecture != "embedded":
        found = _hash_of(folder, card)
        if card.hash:
            _compare(folder, card.name, card.hash, found)
        try:
            from . import diffusion
        except ImportError as exc:
            raise _no_diffusers(card) from exc
        network = diffusion.ARCHITECTURES[card.architecture]
        return network(folder, spaces.by_name(card.space), options.device, options.dtype, found)
    tensors = _read(card)
    try:
        from . import embedded
    except ImportError as exc:
        raise _no_torch() from exc
    return embedded.EmbeddedModel(tensors, options.device, card.hash)


def _no_torch() -> BackendError:
    return BackendError("encoding and decoding .sdl pictures needs PyTorch: pip install torch")


def _no_diffusers(card: ModelCard) -> BackendError:
    return BackendError(f"model {card.name} needs diffusers: pip install 'pillow-sdl[diffusion]'")


def _hash_of(folder: Path, card: ModelCard) -> str:
    """Hash of the decoder in a folder in diffusers' layout: tensors of `decoder.`, without it, and `post_quant_conv.`."""
    from safetensors import SafetensorError, deserialize

    path = search.weights_file(folder)
    if path is None:
        msg = f"the weights of model {card.name} are missing: {folder}"
        raise ModelNotFoundError(msg, model_id=card.hash or card.name, searched=(str(folder),))
    state = path.stat()
    key = path, state.st_mtime_ns, state.st_size
    if key not in _hashes:
        try:
            # Not as arrays: much of the world's weights are bfloat16, which NumPy has not.
            tensors = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
        except (SafetensorError, OSError) as exc:
            msg = f"the weights of model {card.name} cannot be read: {path}: {exc}"
            raise ModelMismatchError(msg, expected=card.hash) from exc
        listing = (
            (name.removeprefix(DECODER), tensor["dtype"], tensor["shape"], tensor["data"])
            for name, tensor in tensors
            if name.startswith((DECODER, AFTER_QUANTISER))
        )
        _hashes[key] = _listing_hash(listing).hex()
    return _hashes[key]


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
