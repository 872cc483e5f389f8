"""Pillow image format .sdl: photos held as the quantised latent of an autoencoder.

Importing this package registers the format with Pillow:

    import pillow_sdl
    from PIL import Image

    Image.open("photo.jpg").save("photo.sdl", quality=50)
    Image.open("photo.sdl").show()

What a decoder shows is partly invented: not for evidence or medicine.
"""

from __future__ import annotations

from . import SdlImagePlugin as SdlImagePlugin
from .errors import (
    BackendError,
    ChecksumError,
    LimitError,
    MalformedError,
    ModelError,
    ModelMismatchError,
    ModelNotFoundError,
    SdlError,
    TruncatedError,
    UnsupportedError,
)
from .settings import Settings, configure, using

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "ChecksumError",
    "LimitError",
    "MalformedError",
    "ModelError",
    "ModelMismatchError",
    "ModelNotFoundError",
    "SdlError",
    "Settings",
    "TruncatedError",
    "UnsupportedError",
    "__version__",
    "configure",
    "using",
]
