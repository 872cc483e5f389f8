"""Read a file from a path or a file object.  These functions decode no picture."""

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
    """Return the fidelity map of a file: how far its picture is from the original.  None if the file has no map.

    file: a path, or a file object in binary mode.  A seekable file object is read from its start, another one from its
        current position.

    No network is needed.  The map describes the picture that the file's own model decodes without a denoiser.  For an
    animation it describes frame 0.  After `load`, `image.info["fidelity"]["holds"]` says whether an opened image is
    that picture.
    Raises SdlError if the file is damaged or no SDL file, and OSError if it cannot be read.
    """
    return decode.read_fidelity(read_container(file))


def read_container(file: str | os.PathLike[str] | IO[bytes]) -> container.Container:
    """Return the header and the sections of a file.

    Raises SdlError: MalformedError with rule F-01 for something that is no SDL file, and LimitError for a picture with
    more than twice the pixels of `PIL.Image.MAX_IMAGE_PIXELS`.  `Image.open` refuses both, too.  Raises OSError if the
    file cannot be read.
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
