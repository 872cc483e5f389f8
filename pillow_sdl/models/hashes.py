"""The model hash, by which a file names its decoder (SPEC 7.2)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

T = TypeVar("T")

HASH_LENGTH: Final = 16
"""Bytes of a model hash."""

DECODER: Final = "decoder."
AFTER_QUANTIZER: Final = "post_quant_conv."
"""How the names of a decoder's tensors begin.  The first prefix is not part of the hashed name, the second one is."""

# Names of dtypes in NumPy and torch, and in safetensors, whose spelling the hash uses.
_DTYPES: Final = {
    "bool": "BOOL",
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}


def of_listing(listing: Iterable[tuple[str, str, Sequence[int], bytes | memoryview]]) -> bytes:
    """Return the first 16 bytes of SHA-256 over the canonical listing of tensors (SPEC 7.2).

    listing: name, dtype as safetensors spells it, shape, and values little-endian in C order, in any order.
    """
    digest = hashlib.sha256()
    for name, dtype, shape, values in sorted(listing, key=lambda entry: entry[0].encode()):
        digest.update(f"{name}\0{dtype}\0{','.join(map(str, shape))}\0".encode())
        digest.update(values)
    return digest.digest()[:HASH_LENGTH]


def of_arrays(tensors: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Return the hash of tensors under the names that they have here: those of a decoder, see `decoder_part`."""
    return of_listing((name, _DTYPES[t.dtype.name], t.shape, _little_endian(t)) for name, t in tensors.items())


def decoder_part(tensors: Mapping[str, T]) -> dict[str, T]:
    """Return the tensors of the decoder under the names that the hash uses."""
    return {name.removeprefix(DECODER): tensor for name, tensor in tensors.items() if is_decoder(name)}


def is_decoder(name: str) -> bool:
    """Whether the tensor of that name belongs to the decoder."""
    return name.startswith((DECODER, AFTER_QUANTIZER))


def model_hash(autoencoder: Any) -> str:
    """Return the hash of the decoder of an autoencoder that a program has loaded, hexadecimal (SPEC 7.2).

    autoencoder: an object in diffusers' layout, whose `state_dict()` gives torch tensors, on any device.  The hash
    depends on their dtype: weights that were converted when they were loaded are other weights.
    Raises ValueError for an object without a decoder, and for tensors that hold no values or have a dtype that
    safetensors has no name for.
    """
    listing = []
    for name, tensor in decoder_part(autoencoder.state_dict()).items():
        dtype = _DTYPES.get(str(tensor.dtype).removeprefix("torch."))
        if tensor.is_meta:
            msg = f"tensor {name} has no values"
            raise ValueError(msg)
        if dtype is None:
            msg = f"tensor {name} has the dtype {tensor.dtype}, which safetensors cannot store"
            raise ValueError(msg)
        listing.append((name, dtype, tuple(tensor.shape), _values(tensor)))
    if not listing:
        msg = (
            f"{type(autoencoder).__name__} has no decoder in diffusers' layout: no tensor's name begins with {DECODER}"
        )
        raise ValueError(msg)
    return of_listing(listing).hex()


def _little_endian(array: NDArray[np.generic]) -> memoryview:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data


def _values(tensor: Any) -> memoryview:
    """The bytes of a torch tensor, read as integers because NumPy lacks some of torch's types."""
    import torch

    word = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return _little_endian(tensor.detach().cpu().contiguous().flatten().view(word).numpy())
