"""Limit numpy's BLAS to one thread where more threads slow decoding down.

A worker thread of OpenBLAS keeps polling for work for a while after the last product.  It takes a CPU core from
whatever runs next, which here is the autoencoder: on two cores, decoding 512 x 512 pixels took a third longer.  The
matrix products of such a small latent gain nothing from a second thread.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_limiting = threading.Lock()
"""Held by the thread that has set the limit and will remove it."""


@cache
def _controller() -> Any:
    # This searches all libraries that the process has loaded, so it runs once.  numpy's BLAS is among them.
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Run matrix products inside the `with` block on one BLAS thread.

    The limit applies to the whole process, so products of other threads run on one BLAS thread meanwhile.  If another
    thread is inside such a block already, its limit applies here for as long as it stays there.  Separate limits for
    each thread would not work: the second thread would find a limit of 1 and restore that in the end.
    """
    if not _limiting.acquire(blocking=False):
        yield
        return
    try:
        with _controller().limit(limits=1):
            yield
    finally:
        _limiting.release()
