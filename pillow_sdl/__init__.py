"""Pillow image format .sdl: photos stored as the quantized latent of an autoencoder, a few kilobytes each.

Importing this package registers the format with Pillow:

    import pillow_sdl
    from PIL import Image

    Image.open("photo.jpg").save("photo.sdl", quality=50)
    Image.open("photo.sdl").show()

The decoder invents a part of what it shows: do not use such pictures as evidence or in medicine.

The public API consists of the names in `__all__` of this module and of the modules `pillow_sdl.errors`,
`pillow_sdl.ray` and `pillow_sdl.SdlImagePlugin`.  All other modules are private and may change without notice.
"""

from __future__ import annotations

from importlib import import_module
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
    from PIL import ImageFile

    from .fidelity_map import Fidelity
    from .latent_io import Latents, from_latents, latents
    from .models.hashes import model_hash
    from .models.store import release
    from .reading import fidelity
    from .SdlImagePlugin import SdlImageFile
    from .settings import Settings, configure, using

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "ChecksumError",
    "Fidelity",
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
    "fidelity",
    "from_latents",
    "latents",
    "model_hash",
    "register",
    "release",
    "using",
]


_LAZY = {
    **dict.fromkeys(("Settings", "configure", "using"), "settings"),
    **dict.fromkeys(("Latents", "from_latents", "latents"), "latent_io"),
    "Fidelity": "fidelity_map",
    "fidelity": "reading",
    "model_hash": "models.hashes",
    "release": "models.store",
}
"""Public names that need NumPy, and the modules that define them."""


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


# The handlers import the plugin when it is first needed: a program that imports this package and opens no .sdl file pays
# about a millisecond.


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(b"\x89SDL")  # container.SIGNATURE, without the import of container


def _open(fp: IO[bytes], filename: str | bytes) -> SdlImageFile:
    from .SdlImagePlugin import SdlImageFile

    return SdlImageFile(fp, filename)


def _save(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    from .SdlImagePlugin import save

    save(im, fp, filename)


def _save_all(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    from .SdlImagePlugin import save_all

    save_all(im, fp, filename)


def _decoder(mode: str, *arguments: Any) -> ImageFile.PyDecoder:
    from .SdlImagePlugin import SdlDecoder

    return SdlDecoder(mode, *arguments)


def register() -> None:
    """Register the format with Pillow.  Importing the package does it; calling this again changes nothing."""
    Image.register_decoder("sdl", _decoder)  # type: ignore[arg-type]  # Pillow calls it like the class
    Image.register_open("SDL", _open, _accept)
    Image.register_save("SDL", _save)
    Image.register_save_all("SDL", _save_all)
    Image.register_extension("SDL", ".sdl")
    Image.register_mime("SDL", "image/x-sdl")


register()
