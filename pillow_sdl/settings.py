"""How files are decoded: the options that `Image.open` has no way to take.  Standard library only."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

_DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:\d+)?")

DTYPES = ("float32", "float16", "bfloat16")

DENOISERS = ("auto", "off", "small", "unet", "buehlmann")

MAX_DENOISE_STEPS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Options of decoding and encoding that hold for the process.

    device: where networks run: "auto" (a CUDA GPU where there is one, else the CPU), "cpu", "cuda", "cuda:1",
    "mps", "xpu".  Default: the environment's PILLOW_SDL_DEVICE, else "auto".
    dtype: what decoders and UNets of the Stable Diffusion family compute in: "float32", "float16", "bfloat16".
    model_dirs: folders with models in diffusers' layout, or folders of such folders, before the hub's cache.  Default:
    PILLOW_SDL_MODELS, separated as the system separates paths.
    download: whether models may be downloaded.  Default: PILLOW_SDL_DOWNLOAD, 1 or 0, else no.
    denoise: what is run before the decoder, for latent spaces that have a denoiser: "auto" (the space's UNet if it is
    on this machine, else the package's own denoiser, else nothing), "off", "small" (the package's own), "unet",
    "buehlmann" (the UNet with the three steps of 2022, for comparison).  Default: PILLOW_SDL_DENOISE, else "auto".
    denoise_steps: calls of the UNet, 1 to 50, for "auto" and "unet".
    progress: called with (tiles done, tiles in all) while a picture is encoded or decoded, in the thread that does it;
    pictures of up to 4096 latent positions are one tile.  A denoiser counts its tiles first, from 1, once for every
    step; the decoder then counts its own from 1 again.
    """

    device: str = "auto"
    dtype: str = "float32"
    model_dirs: Iterable[str | os.PathLike[str]] = ()
    download: bool = False
    denoise: str = "auto"
    denoise_steps: int = 1
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        # str(): a caller without a type checker may pass anything, and must be told the same.
        if not _DEVICE.fullmatch(str(self.device)):
            msg = f"device must be auto, cpu, mps, cuda, xpu, cuda:N or xpu:N, not {self.device!r}"
            raise ValueError(msg)
        if self.dtype not in DTYPES:
            msg = f"dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}"
            raise ValueError(msg)
        if isinstance(self.model_dirs, (str, os.PathLike)):
            msg = f"model_dirs must be a list of folders, not {self.model_dirs!r}"
            raise ValueError(msg)  # noqa: TRY004  as for all options
        if self.download not in {True, False}:
            msg = f"download must be True or False, not {self.download!r}"
            raise ValueError(msg)
        if self.denoise not in DENOISERS:
            msg = f"denoise must be one of {', '.join(DENOISERS)}, not {self.denoise!r}"
            raise ValueError(msg)
        steps: Any = self.denoise_steps
        if not isinstance(steps, SupportsIndex) or steps is True or not 1 <= steps.__index__() <= MAX_DENOISE_STEPS:
            msg = f"denoise_steps must be a whole number from 1 to {MAX_DENOISE_STEPS}, not {steps!r}"
            raise ValueError(msg)
        object.__setattr__(self, "model_dirs", tuple(self.model_dirs))


_process: Settings | None = None
_context: ContextVar[Settings | None] = ContextVar("pillow_sdl_settings", default=None)


def current() -> Settings:
    """The settings in force: those of the innermost `using`, else those of `configure`, else the environment's.

    Raises ValueError if PILLOW_SDL_DEVICE holds no device, PILLOW_SDL_DENOISE no choice, or PILLOW_SDL_DOWNLOAD
    neither 0 nor 1.
    """
    return _context.get() or _of_process()


def _of_process() -> Settings:
    if _process is not None:
        return _process
    download = os.environ.get("PILLOW_SDL_DOWNLOAD") or "0"
    if download not in {"0", "1"}:
        msg = f"PILLOW_SDL_DOWNLOAD must be 0 or 1, not {download!r}"
        raise ValueError(msg)
    named: dict[str, Any] = {}
    for option in ("device", "denoise"):
        variable = f"PILLOW_SDL_{option.upper()}"
        named[option] = os.environ.get(variable) or "auto"
        try:
            Settings(**{option: named[option]})
        except ValueError as exc:
            msg = f"{variable}: {exc}"
            raise ValueError(msg) from None
    return Settings(
        device=named["device"],
        denoise=named["denoise"],
        model_dirs=tuple(filter(None, os.environ.get("PILLOW_SDL_MODELS", "").split(os.pathsep))),
        download=download == "1",
    )


def configure(**options: Any) -> Settings:
    """Change settings for the whole process, all threads: `configure(device="cpu")`.  Returns the new settings.

    Options not named keep their value.  Raises TypeError for an unknown option, ValueError for a bad value.
    """
    global _process  # noqa: PLW0603  one immutable object is replaced, which threads see whole
    _process = replace(_of_process(), **options)
    return _process


@contextmanager
def using(**options: Any) -> Iterator[Settings]:
    """Change settings within a `with` block, in this thread or task only.  Errors as for `configure`."""
    token = _context.set(replace(current(), **options))
    try:
        yield current()
    finally:
        _context.reset(token)
