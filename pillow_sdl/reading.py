"""Read a file by its path or from a file object, for functions that need no picture."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from PIL import Image

from . import decode
from .errors import LimitError, MalformedError
from .format import container

if TYPE_CHECKING:
    from .fidelity_map import Fidelity


def fidelity(file: str | os.PathLike[str] | IO[bytes]) -> Fidelity | None:
    """Return how far a file's picture is from its original, None if the file does not say.  Needs no network.

    file: a path, or a file object in binary mode.  It is read from its start if it can seek, else from where it is.
    The bounds hold for the picture that the file's own model decodes, without a denoiser; of an animation, for frame 0.
    `image.info["sdl_model"]` and `image.info["sdl_decoder"]` say whether that was so.
    Raises SdlError if it is no SDL file or damaged, OSError if it cannot be read.
    """
    return decode.read_fidelity(read_container(file))


def read_container(file: str | os.PathLike[str] | IO[bytes]) -> container.Container:
    """Return the header and the sections of a file.

    Raises SdlError: MalformedError with rule F-01 if it is no SDL file, LimitError for a picture of more than twice
    `PIL.Image.MAX_IMAGE_PIXELS`, which `Image.open` refuses too.  Raises OSError if the file cannot be read.
    """
    source: Any = file
    if hasattr(source, "read"):
        with suppress(AttributeError, OSError):
            source.seek(0)
        found = _container(source)
    else:
        with Path(os.fsdecode(source)).open("rb") as stream:
            found = _container(stream)
    header = found.header
    if Image.MAX_IMAGE_PIXELS and header.width * header.height > 2 * Image.MAX_IMAGE_PIXELS:
        msg = (
            f"a picture of {header.width} x {header.height} is refused: it has more than twice the pixels of "
            f"PIL.Image.MAX_IMAGE_PIXELS, {Image.MAX_IMAGE_PIXELS}"
        )
        raise LimitError(msg)
    return found


def _container(stream: IO[bytes]) -> container.Container:
    try:
        return container.read(stream)
    except SyntaxError as exc:
        raise MalformedError(str(exc), offset=0, section="header", rule="F-01") from exc
