"""For programs that work on latents: a file's latent without its autoencoder, and a file of a latent.

    file -> latents -> diffusion model, training -> from_latents -> file

Latents are in the scale in which their diffusion model sees them: (z - shift_factor) * scaling_factor for the z of
diffusers' encoders (spec/registry.md).  No network runs here, and torch is not imported, though its tensors are taken.
"""

from __future__ import annotations

import io
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from PIL import Image

from . import atomic, codec, container
from .errors import LimitError, MalformedError
from .latent import spaces
from .models import cards, store
from .models.store import module_hash as model_hash
from .SdlImagePlugin import exif_and_xmp

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HASH: Final = re.compile(rf"[0-9a-f]{{{2 * container.MODEL_HASH_LENGTH}}}")

__all__ = ["Latents", "from_latents", "latents", "model_hash"]


class Latents(NamedTuple):
    """What a file holds.

    latent: float32 (C, h, w), dequantised, in the scale of the diffusion models of its space.
    space: "sd1", "sdxl", "sd3", "flux1", or "sdl1" to "sdl5".   width, height: of the picture, pixels; the latent's positions
    may stand for a few more on the right and at the bottom.   model: hash of the decoder that the file was made for,
    hexadecimal.
    """

    latent: NDArray[np.float32]
    space: str
    width: int
    height: int
    model: str


def latents(file: str | os.PathLike[str] | IO[bytes]) -> Latents:
    """The latent of a file, as its quantiser left it: neither denoised nor decoded.

    file: a path, or a file object in binary mode, read from its start if it can seek, else from where it is.
    Alpha and metadata are not looked at, beyond their checksums.  Raises SdlError: MalformedError with rule F-01 for
    what is no SDL file, LimitError for a picture of more than twice `PIL.Image.MAX_IMAGE_PIXELS`, which
    `Image.open` refuses too; OSError.
    """
    source: Any = file
    if hasattr(source, "read"):
        with suppress(AttributeError, io.UnsupportedOperation):
            source.seek(0)
        found = _container(source)
    else:
        with Path(os.fsdecode(source)).open("rb") as stream:
            found = _container(stream)
    header = found.header
    if Image.MAX_IMAGE_PIXELS and header.width * header.height > 2 * Image.MAX_IMAGE_PIXELS:
        msg = (
            f"a picture of {header.width} x {header.height}: more than twice PIL.Image.MAX_IMAGE_PIXELS, "
            f"{Image.MAX_IMAGE_PIXELS}, is refused"
        )
        raise LimitError(msg)
    latent = codec.read_latent(found)
    return Latents(latent, spaces.by_code(header.space).name, header.width, header.height, header.model.hex())


def _container(stream: IO[bytes]) -> container.Container:
    try:
        return container.read(stream)
    except SyntaxError as exc:
        raise MalformedError(str(exc), offset=0, section="header", rule="F-01") from exc


def from_latents(
    latent: Any,
    file: str | os.PathLike[str] | IO[bytes],
    *,
    model: Any,
    space: str | None = None,
    size: tuple[int, int] | None = None,
    **options: Any,
) -> None:
    """Write a file of a latent that a program has, without an autoencoder.  The picture is RGB.

    latent: (C, h, w) or (1, C, h, w), floating-point, of NumPy or torch, on any device, as the diffusion model gives
    it; not divided by `scaling_factor`.
    file: a path, whose file is replaced when all is known, or a file object in binary mode, written to once.
    model: names the decoder in the header, for which there are three ways: the name of a model that is on this machine,
    as in `save`; the autoencoder itself, as `pipe.vae`, with the weights' own dtype; or its hash in hexadecimal, as
    `model_hash` computes it once for many files and `Latents.model` has it.
    space: the latent's, "sd1", "sdxl", "sd3", "flux1", or "sdl1" to "sdl5"; needed unless `model` is a name.
    size: (width, height) of the picture, which is cropped to it; by default that of all positions.
    options: those of `save`, see `codec.EncodeOptions`; above effort 5 as 5, for want of pixels to refine towards.
    Raises ValueError for a latent, size, space or option that does not fit, as for a latent that is not finite or has
    values too large to be held, far beyond any that an autoencoder gives; TypeError for an unknown option,
    ModelNotFoundError for a name whose weights are not here, OSError.
    """
    name, digest = _decoder(model, space)
    given = {option: value for option, value in options.items() if value is not None}  # as `save` takes them
    encode_options = codec.EncodeOptions(**given | exif_and_xmp(given), model=name)
    array = _as_array(latent)
    if size is None:
        factor = spaces.by_name(cards.by_name(name).space).factor
        size = array.shape[2] * factor, array.shape[1] * factor
    data = codec.encode_latent(array, *_whole(size), digest, options=encode_options)
    target: Any = file
    if hasattr(target, "write"):
        target.write(data)
    else:
        atomic.write(os.fsdecode(target), data)


def _decoder(model: Any, space: str | None) -> tuple[str, bytes]:
    """Name of a card of the latent space, and the hash of the decoder."""
    names = tuple(known.name for known in spaces.SPACES)
    if space is not None and space not in names:
        msg = f"space must be one of {', '.join(names)}, not {space!r}"
        raise ValueError(msg)
    if isinstance(model, str) and not _HASH.fullmatch(model):
        try:
            card = cards.by_name(model)
        except ValueError as exc:
            msg = f"{exc}; it may also be a hash of {2 * container.MODEL_HASH_LENGTH} digits from 0 to f, or an autoencoder"
            raise ValueError(msg) from None
        if space not in {None, card.space}:
            msg = f"model {card.name} has latents of the space {card.space}, not {space}"
            raise ValueError(msg)
        return card.name, bytes.fromhex(store.hash_of(card))
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
    # Any model of the space: options are checked against the space's channels alone.
    return next(card.name for card in cards.CARDS if card.space == space), bytes.fromhex(digest)


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
