"""Pillow image format .sdl: photos held as the quantised latent of an autoencoder.

Importing this package registers the format with Pillow:

    import pillow_sdl
    from PIL import Image

    Image.open("photo.jpg").save("photo.sdl", quality=50)
    Image.open("photo.sdl").show()

What a decoder shows is partly invented: not for evidence or medicine.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

from PIL import Image

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

if TYPE_CHECKING:
    from .pipeline import Latents, from_latents, latents, model_hash
    from .SdlImagePlugin import SdlImageFile
    from .settings import Settings, configure, using

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "ChecksumError",
    "Latents",
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
    "from_latents",
    "latents",
    "model_hash",
    "using",
]


def __getattr__(name: str) -> Any:
    if name in {"Settings", "configure", "using"}:
        from . import settings

        return getattr(settings, name)
    if name in {"Latents", "from_latents", "latents", "model_hash"}:
        from . import pipeline

        return getattr(pipeline, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


# Registered here, by functions that import the plugin when it is first wanted: a program that imports this package
# and then opens no .sdl file pays a millisecond.


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(b"\x89SDL")  # container.SIGNATURE, without the import of container


def _open(fp: IO[bytes], filename: str | bytes) -> SdlImageFile:
    from .SdlImagePlugin import SdlImageFile

    return SdlImageFile(fp, filename)


def _save(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    from .SdlImagePlugin import save

    save(im, fp, filename)


Image.register_open("SDL", _open, _accept)
Image.register_save("SDL", _save)
Image.register_extension("SDL", ".sdl")
Image.register_mime("SDL", "image/x-sdl")
