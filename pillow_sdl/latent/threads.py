"""numpy's BLAS on one thread, where more do harm.

A worker of OpenBLAS goes on asking for work for a while after the last product, and takes a processor from whatever runs
next, here the autoencoder's network: on two cores 512 x 512 pixels took a third longer to decode.  The products of so
small a latent gain nothing from a second thread.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_limiting = threading.Lock()
"""Held by the thread that has set the limit and will lift it."""


@cache
def _controller() -> Any:
    # Looks through all libraries of the process, once; numpy's is among them.
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Products inside run on one thread.

    The limit is the process's: what other threads multiply meanwhile runs on one as well.  Where another thread is inside
    already, its limit holds, as long as it stays; had each a limit of its own, the second would lift its to the first one's.
    """
    if not _limiting.acquire(blocking=False):
        yield
        return
    try:
        with _controller().limit(limits=1):
            yield
    finally:
        _limiting.release()
