"""What is done with hostile bytes: all that a program does with a file that it was sent."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Final

from PIL import Image, UnidentifiedImageError

from pillow_sdl.errors import ModelNotFoundError, SdlError

if TYPE_CHECKING:
    from PIL import ImageFile

ALLOWED: Final = (SdlError, UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning)
"""Ways to refuse a file.  Anything else that `target` raises is a fault."""

LARGEST: Final = 2**14
"""Pixels of pictures that are decoded: more take the network too long."""


def target(data: bytes) -> bool:
    """Open, verify, shrink and load a file, without leave to use other formats.  Returns whether it was decoded.

    Raises one of `ALLOWED` if the file is refused, AssertionError if the ways to read it disagree.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = _open(data)
        if image.width * image.height > LARGEST:
            return False
        image.verify()
        # What verify finds no fault with can be shown.
        try:
            _show(data)
        except ModelNotFoundError:  # of its latent space: no fault of the file
            raise
        except SdlError as error:
            msg = "verify accepts a file that cannot be shown"
            raise AssertionError(msg) from error
    return True


def _open(data: bytes) -> ImageFile.ImageFile:
    return Image.open(io.BytesIO(data), formats=["SDL"])


def _show(data: bytes) -> None:
    image = _open(data)
    size, mode = image.size, image.mode
    image.load()
    assert (image.size, image.mode) == (size, mode)
    assert len(image.tobytes()) == size[0] * size[1] * len(image.getbands())
    preview = _open(data)
    preview.thumbnail((5, 5))
    assert max(preview.size) <= 5
    assert preview.mode == mode
    assert image.info.items() >= {key: preview.info[key] for key in preview.info if key != "sdl_decoder"}.items()
