"""Progress bars: one for the work on each file, or one for many files."""

from __future__ import annotations

import argparse
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from .. import settings
from . import printing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BAR_LENGTH: Final = 1000
"""Steps of the progress bar of one file."""

FILE_BAR: Final = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"
FILES_BAR: Final = "{desc}: {n_fmt} of {total_fmt} files |{bar}| {rate_noinv_fmt}, {remaining} left"
"""What the progress bars of one file and of many files show, in tqdm's notation."""


@contextmanager
def progress_bar(name: str, options: argparse.Namespace) -> Iterator[None]:
    """Show one progress bar for the work on one input, on a terminal, unless --quiet is given."""
    bar = None
    if not options.quiet:
        label, count = printing.shown_input(name), len(options.inputs)
        if count > 1:
            label += f" ({options.inputs.index(name) + 1} of {count})"
        bar = _bar(desc=label, total=BAR_LENGTH, miniters=1, bar_format=FILE_BAR)
    if bar is None:
        yield
        return

    def progress(done: int, total: int) -> None:
        reached = BAR_LENGTH * done // total
        if reached > bar.n:
            bar.update(reached - bar.n)

    with bar, settings.using(progress=progress):
        yield


@contextmanager
def files_bar(label: str, count: int, options: argparse.Namespace) -> Iterator[Callable[[], None]]:
    """Show one progress bar for many files, on a terminal, unless --quiet is given.

    Yields a function to call after each file.  Messages are printed above the bar.
    """
    bar = None if options.quiet or not count else _bar(desc=label, total=count, unit=" files", bar_format=FILES_BAR)
    if bar is None:
        yield lambda: None
        return

    def above(text: str) -> None:
        bar.clear()
        printing.to_stderr(text)
        bar.refresh()

    with bar, printing.messages_to(above):
        yield bar.update


def _bar(**shown: Any) -> Any:
    """Return a new bar at 0 %, which only a terminal shows; None without tqdm or without standard error."""
    if sys.stderr is None:
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(leave=False, disable=None, **shown)  # Disabled unless standard error is a terminal.
