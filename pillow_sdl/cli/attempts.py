"""Work on each input: exceptions and warnings become messages, and a failure becomes the exit status."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from . import files, printing

if TYPE_CHECKING:
    from collections.abc import Callable


def for_each(names: list[str], work: Callable[[str], None]) -> int:
    """Call a function with each name.  Returns the exit status: 1 if it raised an exception for one of them, else 0."""
    failed = [name for name in names if attempt(name, work, name) is not None]
    return 1 if failed else 0


def attempt(name: str, work: Callable[..., None], *arguments: Any) -> printing.Failure | None:
    """Call a function that works on an input.  Prints the exception that it raises, and returns the failure.

    BrokenPipeError passes.
    """
    try:
        with printing.warnings_about(printing.shown_input(name)):
            work(*arguments)
    except BrokenPipeError:
        raise
    except Exception as exc:  # noqa: BLE001  plugins of other formats raise anything
        found = printing.failure(printing.shown_input(name), exc)
        printing.error(found.place, exc)
        return found
    return None


def for_each_file(options: argparse.Namespace, work: Callable[[str], None]) -> int:
    """Call a function with each input.  Returns the exit status as `for_each` does.

    Exits with status 2, before any work, if standard input is not the only input.
    """
    files.check_streams(options)

    def checked_work(name: str) -> None:
        files.check_input(name, "name the files in it")
        work(name)

    return for_each(options.inputs, checked_work)
