"""How files are decoded: the options that `Image.open` has no way to take.  Standard library only."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

_DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Options of decoding and encoding that hold for the process.

    device: where networks run: "auto" (a CUDA GPU where there is one, else the CPU), "cpu", "cuda", "cuda:1",
    "mps", "xpu".  Default: the environment's PILLOW_SDL_DEVICE, else "auto".
    progress: called with (tiles done, tiles in all) while a picture is encoded or decoded, in the thread that does it;
    pictures of up to 1 megapixel are one tile.
    """

    device: str = "auto"
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        # str(): a caller without a type checker may pass anything, and must be told the same.
        if not _DEVICE.fullmatch(str(self.device)):
            msg = f"device must be auto, cpu, mps, cuda, xpu, cuda:N or xpu:N, not {self.device!r}"
            raise ValueError(msg)


_process: Settings | None = None
_context: ContextVar[Settings | None] = ContextVar("pillow_sdl_settings", default=None)


def current() -> Settings:
    """The settings in force: those of the innermost `using`, else those of `configure`, else the environment's.

    Raises ValueError if PILLOW_SDL_DEVICE holds no device.
    """
    return _context.get() or _of_process()


def _of_process() -> Settings:
    return _process or Settings(device=os.environ.get("PILLOW_SDL_DEVICE") or "auto")


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
