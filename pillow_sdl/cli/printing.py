"""What the program prints: messages and errors on standard error, results on standard output, and names in them."""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, NamedTuple

from ..failures import kind, reason
from . import streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Characters that command a terminal, break a line, or change the direction of a text."""


class Failure(NamedTuple):
    """Why an input failed.   place: the file or stream that is wrong.   text: the reason.   kind: for a summary."""

    place: str
    text: str
    kind: str


def printable(text: str) -> str:
    r"""Return a text on one line, with escapes such as \n and \x1b for characters that are not shown.

    Names of files may hold such characters.  A terminal would obey them.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def _printable_lines(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


def to_stderr(text: str) -> None:
    """Print lines on standard error as they are, unless it is closed."""
    if sys.stderr is not None:  # print(file=None) would print on standard output.
        print(text, file=sys.stderr)


_print_message: ContextVar[Callable[[str], None]] = ContextVar("pillow_sdl_message", default=to_stderr)


def message(text: str) -> None:
    """Print lines on standard error, which are never mixed with a picture on standard output."""
    _print_message.get()(_printable_lines(text))


@contextmanager
def messages_to(function: Callable[[str], None]) -> Iterator[None]:
    """Give the messages of a `with` block to a function instead of printing them."""
    token = _print_message.set(function)
    try:
        yield
    finally:
        _print_message.reset(token)


def say(options: argparse.Namespace, text: str) -> None:
    """Print a line on standard error unless --quiet is given."""
    if not options.quiet:
        message(text)


def warn(place: str, text: str) -> None:
    """Print a warning about an input."""
    message(f"sdl: {printable(place)}: warning: {text}")


def error(place: str | None, exc: Exception) -> None:
    """Print an error.   place: the file or stream that is wrong."""
    message(": ".join(filter(None, ["sdl", printable(place or ""), reason(exc)])))


def failure(place: str, exc: Exception) -> Failure:
    """Return why an input failed.   place: the input, which counts if the exception has no place of its own."""
    return Failure(printable(getattr(exc, "place", None) or place), reason(exc), kind(exc))


def show(text: str) -> None:
    """Print a result on standard output.  Raises RefusedError if it is closed or cannot be written."""
    streams.check_open()
    with streams.writing(streams.STANDARD_OUTPUT):
        print(_printable_lines(text))


def shown_input(name: str) -> str:
    """Return how messages name an input."""
    return streams.STANDARD_INPUT if name == streams.STREAM else printable(name) or "''"


def shown_output(output: str) -> str:
    """Return how messages name an output."""
    return streams.STANDARD_OUTPUT if output == streams.STREAM else printable(output)


@contextmanager
def warnings_about(place: str) -> Iterator[None]:
    """Print Python's warnings as messages of this program."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda found, *_, **__: warn(place, str(found))
        yield
