"""One progress for a job of several parts, each of which knows only itself.  Standard library only.

with progress.job(function):        # calls function(0, 1000)
    with progress.part(0, 0.7):
        progress.report(1, 2)       # calls function(350, 1000)
                                    # calls function(1000, 1000)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

UNITS: Final = 1000

_current: ContextVar[Callable[[float], None] | None] = ContextVar("pillow_sdl_progress", default=None)
"""Takes the fraction of the current part that is done, 0..1.  None outside of all jobs."""


@contextmanager
def job(function: Callable[[int, int], None] | None) -> Iterator[None]:
    """Call a function with (done, `UNITS`) when the block reports progress.  `done` grows from 0 to `UNITS`.

    A job inside another one reports to the outer one, as all of its current part, and does not call its own function.
    """
    if _current.get() is not None:
        yield
        report(1, 1)
        return
    reached = -1

    def tell(fraction: float) -> None:
        nonlocal reached
        if function is not None and int(UNITS * fraction) > reached:
            reached = int(UNITS * fraction)
            function(reached, UNITS)

    tell(0)
    token = _current.set(tell)
    try:
        yield
    finally:
        _current.reset(token)
    tell(1)


@contextmanager
def part(start: float, stop: float) -> Iterator[None]:
    """Let the block report on a part of the enclosing part or job.   start, stop: fractions of it."""
    outer = _current.get()
    if outer is None:
        yield
        return
    token = _current.set(lambda fraction: outer(min(start + (stop - start) * fraction, 1)))
    try:
        yield
    finally:
        _current.reset(token)


def report(done: float, total: float) -> None:
    """Report that `done` of `total` is done of the current part.  Nothing happens outside of a job."""
    tell = _current.get()
    if tell is not None:
        tell(done / total)
