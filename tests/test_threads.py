"""The BLAS runs on one thread while a small latent is coded, and as before afterwards."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from pillow_sdl.latent import context, entropy, quantize, spaces
from pillow_sdl.latent.threads import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

SPACE = "sd1"


def blas_threads() -> list[int]:
    """Of each BLAS in the process."""
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.fixture
def two_threads() -> Iterator[None]:
    """A BLAS of two threads, on a machine with one core too."""
    with threadpool_limits(2, "blas"):
        if 2 not in blas_threads():
            pytest.skip("no BLAS here that can be told how many threads to use")
        yield


@pytest.mark.parametrize(("side", "inside"), [(4, 1), (129, 2)])
@pytest.mark.usefixtures("two_threads")
def test_small_latents_are_coded_on_one_thread(side: int, inside: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways; all threads stay for a latent of more than 2^14 positions."""
    seen = []

    def note(walk: context.Walk, *rest: object) -> object:
        seen.append(max(blas_threads()))
        return places(walk, *rest)

    places = context.Walk.places
    monkeypatch.setattr(context.Walk, "places", note)
    symbols = np.zeros((4, side, side), np.int16)
    symbols[:, 0, 0] = 1
    log2_steps = quantize.log2_steps(spaces.by_name(SPACE).tables.log2_steps, 128)
    payload = entropy.encode(symbols, entropy.RANGE, SPACE, log2_steps)
    assert np.array_equal(entropy.decode(payload, symbols.shape, entropy.RANGE, SPACE, log2_steps), symbols)
    assert seen == [inside, inside]
    assert max(blas_threads()) == 2


@pytest.mark.usefixtures("two_threads")
def test_an_error_lifts_the_limit() -> None:
    """As the end does."""

    def fail() -> None:
        with one_blas_thread():
            assert max(blas_threads()) == 1
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert max(blas_threads()) == 2


@pytest.mark.usefixtures("two_threads")
def test_threads_that_overlap_leave_no_limit() -> None:
    """The second neither waits for the first nor keeps its limit, whichever leaves first."""
    for second_stays in (False, True):
        entered, leave = threading.Event(), threading.Event()

        def overlap(entered: threading.Event = entered, leave: threading.Event = leave) -> None:
            with one_blas_thread():
                entered.set()
                assert leave.wait(10)

        other = threading.Thread(target=overlap)
        with one_blas_thread():
            other.start()
            assert entered.wait(10)
            assert max(blas_threads()) == 1
            if not second_stays:
                leave.set()
                other.join()
                assert max(blas_threads()) == 1
        assert max(blas_threads()) == 2
        leave.set()
        other.join()
        assert max(blas_threads()) == 2
