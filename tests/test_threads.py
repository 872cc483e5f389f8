"""latent/threads.py: BLAS uses one thread while a small latent is coded, and its former number afterwards."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from pillow_sdl import registry
from pillow_sdl.latent import context, entropy, scalar, spaces
from pillow_sdl.latent.threads import _controller, one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.plain

SPACE = registry.space("sd1")
TIMEOUT = 60
"""Seconds after which a test fails that waits for another thread."""


def blas_threads() -> list[int]:
    """Return the number of threads of each BLAS in the process."""
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Set BLAS to two threads, even on a machine with one core."""
    # Earlier tests may have loaded more libraries with a BLAS of their own than the controller knows.
    _controller.cache_clear()
    with threadpool_limits(2, "blas"):
        if 2 not in blas_threads():
            pytest.skip("there is no BLAS here whose number of threads can be set")
        yield


@pytest.mark.parametrize(("positions", "inside"), [(16, 1), (context.POSITIONS + 1, 2)])
@pytest.mark.usefixtures("two_threads")
def test_only_small_latents_are_coded_on_one_thread(
    positions: int, inside: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoding and decoding use one thread for at most 2^14 positions, and all threads for more."""
    seen = []

    def note(walk: context.Walk) -> object:
        seen.append(max(blas_threads()))
        return places(walk)

    places = context.Walk.places
    monkeypatch.setattr(context.Walk, "places", note)
    symbols = np.zeros((SPACE.channels, 1, positions), np.int16)
    symbols[:, 0, 0] = 1
    log2_steps = scalar.log2_steps(spaces.tables(SPACE).log2_steps, 128)
    method = registry.load().payloads["range"]
    payload = entropy.encode(symbols, method, SPACE.name, log2_steps)
    found = entropy.decode(payload, (SPACE.channels, 1, positions), method, SPACE.name, log2_steps)
    assert np.array_equal(found, symbols)
    assert seen == [inside, inside]
    assert max(blas_threads()) == 2


@pytest.mark.usefixtures("two_threads")
def test_an_error_removes_the_limit() -> None:
    """The limit ends with the block, also when an exception leaves it, and can then be set again."""

    def fail() -> None:
        with one_blas_thread():
            assert max(blas_threads()) == 1
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert max(blas_threads()) == 2


@pytest.mark.parametrize("second_stays", [False, True])
@pytest.mark.usefixtures("two_threads")
def test_overlapping_threads_leave_no_limit(second_stays: bool) -> None:
    """The second thread does not wait for the first and does not keep its limit, whichever leaves first."""
    entered, leave = threading.Event(), threading.Event()

    def overlap() -> None:
        with one_blas_thread():
            entered.set()
            assert leave.wait(TIMEOUT)

    other = threading.Thread(target=overlap)
    with one_blas_thread():
        other.start()
        assert entered.wait(TIMEOUT)
        assert max(blas_threads()) == 1
        if not second_stays:
            leave.set()
            other.join()
            assert max(blas_threads()) == 1
    assert max(blas_threads()) == 2
    leave.set()
    other.join()
    assert max(blas_threads()) == 2
