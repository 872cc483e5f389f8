"""Latents for other programs: read the latent of a file, and write a file of a latent, without an autoencoder.

    file -> latents -> diffusion model, training -> from_latents -> file

Latents have the scale that their diffusion model uses: (z - shift_factor) * scaling_factor, where z is the output of an
encoder of diffusers (SPEC 7.1).  No network runs here.  Torch tensors are accepted, but torch is not imported.
"""

from __future__ import annotations

import os
import re
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from . import atomic, decode, registry
from .coding import LatentCoder
from .format import container
from .latent import spaces
from .models import store
from .models.hashes import model_hash
from .options import EncodeOptions, exif_and_xmp
from .reading import read_container

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HASH: Final = re.compile(rf"[0-9a-f]{{{2 * container.MODEL_HASH_LENGTH}}}")


class Latents(NamedTuple):
    """The latent of a file.

    latent: float32 (C, h, w), dequantized, in the scale of the diffusion models of its space.
    space: name of the latent space: "sd1", "sdxl", "sd3", "flux1" or "sdl".
    width, height: of the picture, in pixels.  The latent may cover a few more pixels on the right and at the bottom.
    model: hash of the decoder that the file was made for, hexadecimal.
    """

    latent: NDArray[np.float32]
    space: str
    width: int
    height: int
    model: str


def latents(file: str | os.PathLike[str] | IO[bytes]) -> Latents:
    """Return the latent of a file, dequantized, neither denoised nor decoded.

    file: a path, or a file object in binary mode.  A seekable file object is read from its start, another one from its
    current position.  For an animation, the latent is that of frame 0.  Alpha and metadata are not decoded; only their
    checksums are checked.
    Raises SdlError: MalformedError with rule F-01 if it is no SDL file, LimitError for a picture of more than twice
    `PIL.Image.MAX_IMAGE_PIXELS`, which `Image.open` refuses too.  Raises OSError if the file cannot be read.
    """
    found = read_container(file)
    header = found.header
    latent = decode.read_latent(found)
    return Latents(latent, spaces.by_code(header.space).name, header.width, header.height, header.model.hex())


def from_latents(
    latent: Any,
    file: str | os.PathLike[str] | IO[bytes],
    *,
    model: Any,
    space: str | None = None,
    size: tuple[int, int] | None = None,
    **options: Any,
) -> None:
    """Write a file of a latent, without an autoencoder.  The picture is RGB.

    latent: floating-point (C, h, w) or (1, C, h, w), of NumPy or torch, on any device, as the diffusion model gives it,
        not divided by `scaling_factor`.
    file: a path, whose file is replaced when the data is complete, or a file object in binary mode, written to once.
    model: the decoder that the header names.  It is the name of a model on this machine, as in `save`; or the
        autoencoder itself, such as `pipe.vae`, with its weights in their own dtype; or its hash in hexadecimal, from
        `model_hash` or `Latents.model`.
    space: the latent space, "sd1", "sdxl", "sd3", "flux1" or "sdl".  It may be left out if `model` is a name.
    size: (width, height) of the picture, to which the decoded picture is cropped.  The default is the latent's width
        and height times the number of pixels for each latent position.
    options: options of `Image.save`, such as quality.  Without pixels, efforts above 5 have the effect of 5, and
        fidelity and guard cannot be used.
    Raises ValueError for a latent, size, space or option that does not fit, for values that are not finite, and for
    values too large to be stored, which no autoencoder gives; TypeError for an unknown option; ModelNotFoundError for a
    name whose weights are not on this machine; OSError.
    """
    name, digest = _decoder(model, space)
    given = {option: value for option, value in options.items() if value is not None}  # as `save` takes them
    encode_options = EncodeOptions(**given | exif_and_xmp(given), model=name)
    array = _as_array(latent)
    if size is None:
        factor = registry.space(registry.model(name).space).factor
        size = array.shape[2] * factor, array.shape[1] * factor
    if encode_options.fidelity or encode_options.with_guard:
        msg = "fidelity and guard need the pixels of the picture, which a latent does not have"
        raise ValueError(msg)
    data = LatentCoder(array, *_whole(size), digest, options=encode_options).file(encode_options.target).data
    target: Any = file
    if hasattr(target, "write"):
        target.write(data)
    else:
        atomic.write(os.fsdecode(target), data)


def _decoder(model: Any, space: str | None) -> tuple[str, bytes]:
    """Return the name of a model of the latent space, and the hash of the decoder."""
    known = registry.load()
    names = tuple(entry.name for entry in known.spaces)
    if space is not None and space not in names:
        msg = f"space must be one of {', '.join(names)}, not {space!r}"
        raise ValueError(msg)
    if isinstance(model, str) and not _HASH.fullmatch(model):
        try:
            found = registry.model(model)
        except ValueError as exc:
            msg = f"{exc}; it may also be a hash of {2 * container.MODEL_HASH_LENGTH} digits from 0 to f, or an autoencoder"
            raise ValueError(msg) from None
        if space not in {None, found.space}:
            msg = f"model {found.name} has latents of the space {found.space}, not {space}"
            raise ValueError(msg)
        return found.name, bytes.fromhex(store.hash_of(found))
    if space is None:
        msg = f"space must be given where model is no model's name: one of {', '.join(names)}"
        raise ValueError(msg)
    if isinstance(model, str):
        digest = model
    elif hasattr(model, "state_dict"):
        digest = model_hash(model)
    else:
        msg = f"model must be a model's name, a hash, or an autoencoder with a state_dict, not {model!r}"
        raise ValueError(msg)
    # Any model of the space will do, because options are checked against its latent space only.
    return next(entry.name for entry in known.models if entry.space == space), bytes.fromhex(digest)


def _as_array(latent: Any) -> NDArray[np.float32]:
    """A latent of NumPy or torch as float32 (C, h, w).  Raises ValueError for another shape or type."""
    if hasattr(latent, "detach"):
        kept = latent.detach()
        # NumPy has no bfloat16.  Other types keep theirs, to be told apart below.
        latent = (kept.float() if kept.is_floating_point() else kept).cpu().numpy()
    try:
        array = np.asarray(latent)
    except ValueError as exc:  # Lists of unequal lengths; `Latents` itself, in place of its first field.
        msg = f"a latent must be one array (C, h, w) or (1, C, h, w), not {type(latent).__name__}: {exc}"
        raise ValueError(msg) from exc
    if array.dtype.kind != "f" or array.ndim not in {3, 4} or (array.ndim == 4 and len(array) != 1):
        msg = f"a latent must be floating-point (C, h, w) or (1, C, h, w), not {array.dtype} {array.shape}"
        raise ValueError(msg)
    with np.errstate(over="ignore"):  # Infinity is refused by the encoder.
        return np.ascontiguousarray(array[0] if array.ndim == 4 else array, dtype=np.float32)


def _whole(size: Any) -> tuple[int, int]:
    """A size as two numbers of Python's.  Raises ValueError."""
    try:
        width, height = (side.__index__() for side in size)
    except (TypeError, ValueError, AttributeError):
        msg = f"size must be (width, height) in whole pixels, not {size!r}"
        raise ValueError(msg) from None
    return width, height
