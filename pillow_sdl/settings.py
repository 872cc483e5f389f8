"""Settings for decoding and encoding that cannot be passed to `Image.open`.  Standard library only."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

_DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:\d+)?")

DTYPES = ("float32", "float16", "bfloat16")

DENOISE_CHOICES = ("auto", "off", "small", "unet", "buehlmann")

MAX_DENOISE_STEPS = 50

MAX_THREADS = 1024

_NUMBERS = ("threads", "max_pixels", "denoise_steps")


def _is_whole(value: Any, most: int | None = None) -> bool:
    """Whether a value is a whole number of at least 1 and at most `most`.  Booleans do not count as numbers."""
    if isinstance(value, bool):
        return False
    try:
        number = operator.index(value)
    except TypeError:
        return False
    return number >= 1 and (most is None or number <= most)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings for decoding and encoding.

    device: where networks run: "auto", "cpu", "cuda", "cuda:1", "mps" or "xpu".  "auto" is a CUDA GPU if there is one,
        otherwise the CPU.  It keeps the embedded model on the CPU; "cuda" with the extra `pillow-sdl[torch]` moves it
        to the GPU.  Environment variable: PILLOW_SDL_DEVICE.
    dtype: type in which decoders and UNets of the Stable Diffusion family compute: "float32", "float16" or "bfloat16".
        Environment variable: PILLOW_SDL_DTYPE.
    threads: number of CPU threads for networks, 1 to 1024.  None: OMP_NUM_THREADS if it is set, otherwise all
        processors that the process may use.  Environment variable: PILLOW_SDL_THREADS.
    max_pixels: largest width x height of a file that is decoded, at least 1.  None: no limit besides Pillow's own.
        Environment variable: PILLOW_SDL_MAX_PIXELS.
    model_dirs: folders with models in diffusers' layout, or folders that contain such folders.  They are searched
        before the cache of the Hugging Face hub.  Environment variable: PILLOW_SDL_MODELS, folders separated by
        `os.pathsep`.
    download: whether models may be downloaded.  Environment variable: PILLOW_SDL_DOWNLOAD, 1 or 0.
    denoise: the denoiser that runs before the decoder, for latent spaces that have one: "auto" (the UNet of the latent
        space if it is installed, otherwise the package's own denoiser, otherwise none), "off" (none), "small" (the
        package's own), "unet", or "buehlmann" (the UNet with the three steps of 2022, for comparison).  Environment
        variable: PILLOW_SDL_DENOISE.
    denoise_steps: number of UNet calls, 1 to 50, for "auto" and "unet".  Environment variable:
        PILLOW_SDL_DENOISE_STEPS.
    progress: called with (done, 1000) while a picture is saved or loaded, in the thread that does the work.  `done`
        grows from 0 to 1000.

    An environment variable gives the value of a setting that the program does not set.  An empty one counts as not set.
    """

    device: str = "auto"
    dtype: str = "float32"
    threads: int | None = None
    max_pixels: int | None = None
    model_dirs: Iterable[str | os.PathLike[str]] = ()
    download: bool = False
    denoise: str = "auto"
    denoise_steps: int = 1
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        given: Any = self  # A caller without a type checker may pass a value of any type, and must get the same error.
        if not isinstance(given.device, str) or not _DEVICE.fullmatch(self.device):
            msg = f"device must be auto, cpu, mps, cuda, xpu, cuda:N or xpu:N, not {self.device!r}"
            raise ValueError(msg)
        if self.dtype not in DTYPES:
            msg = f"dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}"
            raise ValueError(msg)
        if isinstance(given.model_dirs, (str, bytes, os.PathLike)) or not isinstance(given.model_dirs, Iterable):
            msg = f"model_dirs must be a list of folders, not {self.model_dirs!r}"
            raise ValueError(msg)  # noqa: TRY004  wrong values of all settings raise ValueError
        if not isinstance(given.download, bool):
            msg = f"download must be True or False, not {self.download!r}"
            raise ValueError(msg)  # noqa: TRY004
        if self.denoise not in DENOISE_CHOICES:
            msg = f"denoise must be one of {', '.join(DENOISE_CHOICES)}, not {self.denoise!r}"
            raise ValueError(msg)
        if not _is_whole(self.denoise_steps, MAX_DENOISE_STEPS):
            msg = f"denoise_steps must be a whole number from 1 to {MAX_DENOISE_STEPS}, not {self.denoise_steps!r}"
            raise ValueError(msg)
        if self.threads is not None and not _is_whole(self.threads, MAX_THREADS):
            msg = f"threads must be None or a whole number from 1 to {MAX_THREADS}, not {self.threads!r}"
            raise ValueError(msg)
        if self.max_pixels is not None and not _is_whole(self.max_pixels):
            msg = f"max_pixels must be None or a whole number of at least 1, not {self.max_pixels!r}"
            raise ValueError(msg)
        if given.progress is not None and not callable(given.progress):
            msg = f"progress must be None or a function, not {self.progress!r}"
            raise ValueError(msg)
        object.__setattr__(self, "model_dirs", tuple(self.model_dirs))


_process: Settings | None = None
_context: ContextVar[Settings | None] = ContextVar("pillow_sdl_settings", default=None)


def current() -> Settings:
    """Return the settings in force: those of the innermost `using`, or of `configure`, or of the environment.

    Raises ValueError if an environment variable has an invalid value (see `Settings`).
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
    for option in ("device", "dtype", "denoise", *_NUMBERS):
        variable = f"PILLOW_SDL_{option.upper()}"
        text = os.environ.get(variable)
        if not text:
            continue
        try:
            named[option] = int(text) if option in _NUMBERS and text.isdecimal() else text
            Settings(**{option: named[option]})
        except ValueError as exc:
            msg = f"{variable}: {exc}"
            raise ValueError(msg) from None
    return Settings(
        **named,
        model_dirs=tuple(filter(None, os.environ.get("PILLOW_SDL_MODELS", "").split(os.pathsep))),
        download=download == "1",
    )


def default_threads() -> int:
    """Return the number of threads for networks: OMP_NUM_THREADS, else the processors that this process may use.

    At most `MAX_THREADS`.
    """
    named = os.environ.get("OMP_NUM_THREADS", "")
    if re.fullmatch(r"0*[1-9]\d{0,17}", named):
        return min(int(named), MAX_THREADS)
    if hasattr(os, "sched_getaffinity"):  # A container may allow fewer processors than the machine has.
        return min(len(os.sched_getaffinity(0)), MAX_THREADS)
    return min(os.cpu_count() or 1, MAX_THREADS)


def configure(**options: Any) -> Settings:
    """Change settings for all threads of the process, as in `configure(device="cpu")`.  Returns the new settings.

    Other settings keep their values.  Raises TypeError for an unknown setting, and ValueError for an invalid value.
    """
    global _process  # noqa: PLW0603  one immutable object replaces another, so threads never see a mixture
    _process = replace(_of_process(), **options)
    return _process


@contextmanager
def using(**options: Any) -> Iterator[Settings]:
    """Change settings inside a `with` block, for this thread or asyncio task only.  Yields the new settings.

    Other settings keep their values.  Raises TypeError for an unknown setting, and ValueError for an invalid value.
    """
    token = _context.set(replace(current(), **options))
    try:
        yield current()
    finally:
        _context.reset(token)
