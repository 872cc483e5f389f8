"""Standard input and standard output: their names, and what is done when they are closed or full."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from ..failures import RefusedError, reason

if TYPE_CHECKING:
    from collections.abc import Iterator

STREAM: Final = "-"
"""The name that stands for standard input and standard output."""

STANDARD_INPUT: Final = "standard input"
STANDARD_OUTPUT: Final = "standard output"


def flush() -> None:
    """Write what standard output still holds.  Raises RefusedError if that fails, and BrokenPipeError."""
    if sys.stdout is not None and not sys.stdout.closed:
        with writing(STANDARD_OUTPUT):
            sys.stdout.flush()


def discard_output() -> None:
    """Discard what is still written to standard output and standard error if they are closed or full.

    Python flushes both once more when it ends, and would report the error again.
    """
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if stream is None:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):  # A closed stream, or one without a file descriptor.
                os.dup2(null, stream.fileno())


def check_stdout() -> None:
    """Raise RefusedError if standard output cannot take a file, because it is closed or a terminal."""
    check_open()
    if sys.stdout.isatty():
        msg = "a terminal cannot show this file: name a file as output, or redirect the output"
        raise RefusedError(msg, STANDARD_OUTPUT)


@contextmanager
def writing(place: str) -> Iterator[None]:
    """Turn an OSError into a RefusedError that names the output.  BrokenPipeError passes."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as exc:
        if place == STANDARD_OUTPUT:
            discard_output()
        raise RefusedError(reason(exc), place) from exc


def check_open() -> None:
    """Raise RefusedError if standard output is closed."""
    if sys.stdout is None:
        msg = "it is closed"
        raise RefusedError(msg, STANDARD_OUTPUT)
