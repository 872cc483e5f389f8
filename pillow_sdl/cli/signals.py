"""SIGINT, which waits while something must not be interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import FrameType


class Interrupts:
    """Turns SIGINT into KeyboardInterrupt.  Inside a block of `held`, the exception waits for the end of the block."""

    def __init__(self) -> None:
        self._came = self._held = False
        self._before: Any = None

    def __enter__(self) -> Self:
        # A shell starts background jobs with SIGINT ignored.  Only the main thread may set handlers.
        if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, _: int, __: FrameType | None) -> None:
        self._came = True
        if not self._held:
            raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if SIGINT came, also if other code has swallowed the exception."""
        if self._came:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let SIGINT wait until the end of a `with` block."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        self.check()
