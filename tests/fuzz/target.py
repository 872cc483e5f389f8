"""Everything that a program does with a file from an unknown sender."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Final

from PIL import Image, UnidentifiedImageError

from pillow_sdl.errors import ModelNotFoundError, SdlError

if TYPE_CHECKING:
    from PIL import ImageFile

ALLOWED: Final = (SdlError, UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning)
"""Errors that refuse a file.  Any other exception of `target` is a fault."""

LARGEST: Final = 2**14
"""Most pixels of a picture that is decoded.  The network takes too long for larger ones."""

MOST_FRAMES: Final = 4
"""Most frames of an animation that are decoded."""


def target(data: bytes) -> bool:
    """Open, verify, shrink and load a file as SDL only.  Returns whether it was decoded.

    Raises one of `ALLOWED` if the file is refused, and AssertionError if verify accepts a file that cannot be loaded.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = _open(data)
        if image.width * image.height > LARGEST:
            return False
        image.verify()
        try:
            _show(data)
        except ModelNotFoundError:  # No model of its latent space is installed.  The file may be valid.
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
    for frame in range(1, min(getattr(image, "n_frames", 1), MOST_FRAMES)):
        image.seek(frame)
        image.load()
        assert (image.size, image.mode) == (size, mode)
    image.seek(0)
    preview = _open(data)
    preview.thumbnail((5, 5))
    assert max(preview.size) <= 5
    assert preview.mode == mode
    # What depends on the decoder is not in the file.
    for info in (image.info, preview.info):
        info.pop("sdl_decoder", None)
        info.get("fidelity", {}).pop("holds", None)
    assert image.info.items() >= preview.info.items()
