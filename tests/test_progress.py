"""The progress of a job: one number that grows from 0 to 1000 over all its parts."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Any

import pytest

import pillow_sdl
from pillow_sdl import progress

from . import images

if TYPE_CHECKING:
    from collections.abc import Callable


def test_parts_divide_the_job() -> None:
    """Parts are fractions of what encloses them; numbers that do not grow are not reported."""
    seen: list[tuple[int, int]] = []
    with progress.job(lambda done, total: seen.append((done, total))):
        with progress.part(0, 0.5):
            progress.report(1, 2)
            progress.report(0, 2)
        with progress.part(0.5, 1), progress.part(0.5, 2):
            progress.report(0, 7)
            progress.report(7, 7)
            progress.report(8, 7)
    assert seen == [(0, 1000), (250, 1000), (750, 1000), (1000, 1000)]


def test_a_failed_job_does_not_reach_its_end() -> None:
    """An exception passes, and later reports belong to no job."""
    seen: list[int] = []
    with pytest.raises(KeyError), progress.job(lambda done, _: seen.append(done)), progress.part(0, 1):
        raise KeyError
    progress.report(1, 2)
    assert seen == [0]


def test_a_job_inside_another_one_is_a_part_of_it() -> None:
    """Its own function is not called."""
    seen: list[int] = []
    with progress.job(lambda done, _: seen.append(done)):
        with progress.part(0, 0.5), progress.job(lambda *_: pytest.fail("called")):
            progress.report(1, 2)
        with progress.part(0.5, 1), progress.part(0, 0.5), progress.job(None):
            pass
    assert seen == [0, 250, 500, 750, 1000]


def test_a_part_of_no_job_may_contain_one() -> None:
    """Functions that divide their work can be called without a job."""
    seen: list[int] = []
    with progress.part(0.5, 1), progress.job(lambda done, _: seen.append(done)):
        progress.report(1, 4)
    assert seen == [0, 250, 1000]


def test_threads_do_not_see_each_other() -> None:
    """A report in another thread belongs to no job of this one."""
    seen: list[int] = []
    with progress.job(lambda done, _: seen.append(done)):
        other = threading.Thread(target=progress.report, args=(1, 2))
        other.start()
        other.join()
    assert seen == [0, 1000]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tune": "psnr"},
        {"target_bytes": 900},
        {"effort": 6},
        {"effort": 6, "target_bytes": 900},
        {"fidelity": True},
    ],
    ids=str,
)
def test_one_progress_for_all_parts(options: dict[str, Any]) -> None:
    """Saving and loading report numbers that grow from 0 to 1000, with numbers between."""
    if "effort" in options:
        pytest.importorskip("torch")
    target = io.BytesIO()
    saving = reports_of(lambda: images.noise(80, 64).save(target, "SDL", **options))
    loading = reports_of(lambda: images.opened(target.getvalue()).load())
    for reports in (saving, loading):
        numbers = [done for done, _ in reports]
        assert {total for _, total in reports} == {1000}
        assert numbers == sorted(set(numbers))
        assert (numbers[0], numbers[-1]) == (0, 1000)
        assert len(numbers) > 3


def reports_of(work: Callable[[], object]) -> list[tuple[int, int]]:
    """Return what a function reports to the setting `progress`."""
    seen: list[tuple[int, int]] = []
    with pillow_sdl.using(progress=lambda done, total: seen.append((done, total))):
        work()
    return seen


def test_nothing_is_reported_without_a_function() -> None:
    """The setting is optional."""
    with pillow_sdl.using(progress=None):
        images.reopened(images.gradient()).load()
