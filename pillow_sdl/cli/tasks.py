"""One input as a task: where its output goes, what a command made of it, or why it failed."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Generator
from typing import NamedTuple, TypeAlias

from . import printing


class Made(NamedTuple):
    """What a command made of an input.

    text: what is said of it.   data: of the output, None for a command without outputs and for an output that another
    process has written.   size: of that output, in bytes.
    """

    text: str
    data: bytes | None = None
    size: int = 0


class Task(NamedTuple):
    """An input that is to be processed.

    output: where its output goes, None for a command without outputs.   size: of the input in bytes, 0 for a stream.
    tree: whether missing folders are made for the output.   replace: whether the output may exist.
    """

    name: str
    output: str | None = None
    size: int = 0
    tree: bool = False
    replace: bool = False


class Outcome(NamedTuple):
    """What became of a task.   made: None after a failure.   messages: warnings that were not printed yet."""

    made: Made | None
    failure: printing.Failure | None = None
    messages: tuple[str, ...] = ()


Outcomes: TypeAlias = Generator[tuple[Task, Outcome], None, None]


def outcome_of(task: Task, options: Namespace, make: Callable[[Task, Namespace], Made]) -> Outcome:
    """Process an input, except that nothing is written and nothing is printed."""
    messages: list[str] = []
    with printing.messages_to(messages.append), printing.warnings_about(task.name):
        try:
            return Outcome(make(task, options), None, tuple(messages))
        except Exception as exc:  # noqa: BLE001  plugins of other formats raise anything
            return Outcome(None, printing.failure(task.name, exc), tuple(messages))
