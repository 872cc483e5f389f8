"""What encode, decode and verify do with their inputs: one file, several files, or folders in several processes.

All outputs are planned and checked before any work.  Then the main process, or several worker processes, compute the
outputs as bytes.  Only the main process writes files, so workers can be killed at any time.
"""

from __future__ import annotations

import os
import stat
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from ..failures import kind
from . import attempts, bars, files, printing, streams
from .signals import Interrupts
from .tasks import Made, Outcome, Outcomes, Task, outcome_of
from .workers import Workers

JUNCTION: Final = 0xA0000003
"""Windows' tag of a junction, which leads to another folder as a symbolic link does."""


class Command(NamedTuple):
    """What a command does with one input.

    make: makes the output of a task.  Worker processes import it, so it must be at the top level of a module.  It may
        raise any exception.
    takes: returns the extensions of the files that are taken from folders, in lower case and with their dots.
    others: what the summary calls the other files in folders.   done: the verb of the summary, such as "encoded".
    output: returns where the output of an input goes.  It gets the input's name, the options and the input's path in
        the tree, as `files.output_for` does.  None: the command has no outputs.
    plan: makes the plan.  None: `_plan` does.
    outcomes: processes all tasks and writes their outputs.  None: this module does.
    """

    make: Callable[[Task, Namespace], Made]
    takes: Callable[[], Collection[str]]
    others: str
    done: str
    output: Callable[[str, Namespace, str | None], str] | None = None
    plan: Callable[[Namespace], Plan] | None = None
    outcomes: Callable[[list[Task], Namespace], Outcomes] | None = None


def sdl_files() -> set[str]:
    """Return the extension of the files in folders that decode and verify take."""
    return {".sdl"}


def run(options: Namespace, command: Command) -> int:
    """Process every input.  Returns the exit status.

    Exits with status 2, before any work, if the inputs and the output do not go together, or if two inputs have the
    same output.
    """
    _check(options)
    with Interrupts() as interrupts:
        plan = command.plan(options) if command.plan else _plan(options, command)
        if options.dry_run:
            return _dry_run(plan, options, command)
        if _many(options):
            return _all(plan, options, command, interrupts)
        failed = [task for task in plan.tasks if attempts.attempt(task.name, _one, task, options, command, interrupts)]
    return 1 if failed or plan.failures else 0


def _many(options: Namespace) -> bool:
    """Whether there is one progress bar and a summary for all files."""
    return bool(options.recursive or options.jobs or options.ray or options.skip_existing or options.dry_run)


def fills_folder(options: Namespace) -> bool:
    """Whether -o is a folder that is made if it is missing: with --recursive, unless the only input is a file."""
    output: str = getattr(options, "output", None) or ""
    several = len(options.inputs) > 1 or any(files.is_folder(name) for name in options.inputs)
    return options.recursive and bool(output) and (several or files.names_folder(output))


def _check(options: Namespace) -> None:
    """Exit with status 2 if the inputs and the output do not go together."""
    output: str | None = getattr(options, "output", None)
    if output == "":
        options.parser.error("-o needs the name of a file or folder, or -")
    if _many(options) and streams.STREAM in {output, *options.inputs}:
        flags = "--recursive, --jobs, --skip-existing, --dry-run and --ray"
        options.parser.error(f"{flags} do not go with standard input and standard output")
    if output is not None and fills_folder(options):
        if os.path.lexists(output) and not files.is_folder(output):
            options.parser.error("with --recursive, -o must be a folder, unless the only input is a file")
    elif output is not None and len(options.inputs) > 1 and (output == streams.STREAM or not files.is_folder(output)):
        options.parser.error("with several inputs, -o must be an existing folder")
    files.check_streams(options)


# The plan


@dataclass
class Plan:
    """What is to be done, and what is not.

    skipped: number of inputs whose output is up to date.   failures: number of inputs that cannot be processed, by kind.
    ignored: number of files and folders in folders that are not taken, by kind.
    """

    tasks: list[Task] = field(default_factory=list)
    skipped: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)


def _plan(options: Namespace, command: Command) -> Plan:
    """Return the plan.  Prints an error for each input that cannot be processed.  Exits with status 2 for collisions."""
    plan, outputs = Plan(), files.Outputs(options)
    collisions: list[str] = []

    def add(name: str, inside: str | None) -> None:
        """Add an input to the plan.   inside: its path in the tree."""
        found = files.check_input(name, "--recursive takes the files in it")
        task = Task(name, size=found.st_size if found and stat.S_ISREG(found.st_mode) else 0)
        if command.output is None:
            plan.tasks.append(task)
            return
        output = command.output(name, options, inside)
        try:
            if not outputs.claim(name, output):
                plan.ignored["named twice"] += 1
                return
        except files.CollisionError as exc:
            collisions.append(str(exc))
            return
        age = _modified(output) if options.skip_existing else None
        if age is not None and found and age >= found.st_mtime_ns:
            plan.skipped += 1
            return
        task = task._replace(output=output, tree=inside is not None, replace=options.force or age is not None)
        outputs.check(name, output, tree=task.tree, replace=task.replace)
        plan.tasks.append(task)

    for name, inside in _inputs(options, command, plan):
        failure = attempts.attempt(name, add, name, inside)
        if failure:
            plan.failures[failure.kind] += 1
    if collisions:
        more = [f"and {len(collisions) - 10} more"] if len(collisions) > 10 else []
        hint = ["--keep-extension gives them different names"] if hasattr(options, "keep_extension") else []
        options.parser.error("\n".join(["two inputs have the same output:", *collisions[:10], *more, *hint]))
    return plan


def _modified(output: str) -> int | None:
    """Return when a file was modified, in nanoseconds, None if there is none."""
    try:
        found = Path(output).stat()
    except OSError:
        return None
    return found.st_mtime_ns if stat.S_ISREG(found.st_mode) else None


def _inputs(options: Namespace, command: Command, plan: Plan) -> Iterator[tuple[str, str | None]]:
    """Yield every input and its path in the tree that the output keeps, None without a tree."""
    tree = fills_folder(options)
    for name in options.inputs:
        if options.recursive and files.is_folder(name):
            yield from _files(name, command, plan)
        else:
            yield name, Path(name).name if tree else None


def _files(top: str, command: Command, plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield the files in a folder that a command takes, sorted by name, and their paths from that folder.

    Hidden files and folders, whose names begin with a dot, and links to folders are ignored, so loops are not followed.
    """
    takes = command.takes()
    folders = [""]
    while folders:
        inside = folders.pop()
        place = str(Path(top, inside))
        try:
            with os.scandir(place) as listed:
                entries = sorted(listed, key=lambda entry: entry.name)
        except OSError as exc:
            printing.error(place, exc)
            plan.failures[kind(exc)] += 1
            continue
        inner: list[str] = []
        for entry in entries:
            path = str(Path(inside, entry.name))
            what = _kind(entry, takes)
            if what == "file":
                yield str(Path(top, path)), path
            elif what == "folder":
                inner.append(path)
            else:
                plan.ignored[what or command.others] += 1
        folders += reversed(inner)


def _kind(entry: os.DirEntry[str], takes: Collection[str]) -> str:
    """Return "file" or "folder" for what is taken, otherwise why it is not, "" for a file of another kind."""
    if entry.name.startswith("."):
        return "hidden"
    try:
        if entry.is_dir():
            return "link to a folder" if _is_link(entry) else "folder"
        regular = entry.is_file() or entry.is_symlink()  # A link to nothing is an input that fails.
    except OSError:
        regular = True  # The error is noticed again, and reported, when the file is used.
    return "file" if regular and Path(entry.name).suffix.lower() in takes else ""


def _is_link(entry: os.DirEntry[str]) -> bool:
    """Whether a folder is a symbolic link or a junction."""
    return entry.is_symlink() or getattr(entry.stat(follow_symlinks=False), "st_reparse_tag", 0) == JUNCTION


# One file after the other


def _one(task: Task, options: Namespace, command: Command, interrupts: Interrupts) -> None:
    """Process one input and say what was made of it."""
    made = command.make(task, options)
    if task.output is None:
        if not options.quiet:
            printing.show(f"{printing.shown_input(task.name)}: {made.text}")
        return
    _write(task, made, interrupts)
    printing.say(options, f"{printing.shown_output(task.output)}: {made.text}")


def _write(task: Task, made: Made, interrupts: Interrupts) -> None:
    """Write an output, whole or not at all.  Raises RefusedError and BrokenPipeError."""
    assert task.output is not None
    assert made.data is not None
    # Another program may have made the file since the plan, or another input on a file system that ignores case.
    keep = not task.replace and task.output != streams.STREAM and not files.is_device(task.output)
    if keep and Path(task.output).exists():
        raise files.exists(task.output)
    with interrupts.held():
        files.write(task.output, made.data, tree=task.tree)


# Many files


def _dry_run(plan: Plan, options: Namespace, command: Command) -> int:
    """Print what would be done.  Returns the exit status."""
    if not options.quiet:
        for task in plan.tasks:
            printing.show(printing.printable(task.name if task.output is None else f"{task.name} -> {task.output}"))
    summary = [f"{_files_of(len(plan.tasks))} would be {command.done}", *_rest(plan.skipped, plan.failures)]
    printing.say(options, "\n".join([", ".join(summary), *_table(plan, plan.failures)]))
    return 1 if plan.failures else 0


def _all(plan: Plan, options: Namespace, command: Command, interrupts: Interrupts) -> int:
    """Process all tasks with one progress bar and a summary.  Returns the exit status."""
    done, before, after = 0, 0, 0
    failures = plan.failures.copy()
    started = time.monotonic()
    outcomes = _outcomes(plan.tasks, options, command, interrupts)
    try:
        with bars.files_bar(command.done, len(plan.tasks), options) as advance, closing(outcomes):
            for task, outcome in outcomes:
                failure = _finish(task, outcome, interrupts)
                if failure:
                    failures[failure.kind] += 1
                else:
                    done += 1
                    before += task.size
                    after += (len(outcome.made.data or b"") or outcome.made.size) if outcome.made else 0
                advance()
                interrupts.check()
    finally:
        left = len(plan.tasks) + plan.failures.total() - done - failures.total()
        rest = _rest(plan.skipped, failures, left)
        seconds = time.monotonic() - started
        rate = f"{seconds:.1f} s, {done / seconds:.2f} files/s" if done and seconds else f"{seconds:.1f} s"
        lines = [f"{', '.join([f'{_files_of(done)} {command.done}', *rest])}; {rate}"]
        if done:
            share = f", {after:,} after ({100 * after / max(before, 1):.1f} %)" if command.output else ""
            lines.append(f"  bytes: {before:,} before{share}" if share else f"  bytes: {before:,}")
        printing.say(options, "\n".join([*lines, *_table(plan, failures)]))
    return 1 if failures else 0


def _finish(task: Task, outcome: Outcome, interrupts: Interrupts) -> printing.Failure | None:
    """Print the messages of a task and write its output.  Returns the failure if there is one."""
    for text in outcome.messages:
        printing.message(text)
    if outcome.made is None:
        assert outcome.failure is not None
        printing.message(f"sdl: {outcome.failure.place}: {outcome.failure.text}")
        return outcome.failure
    if task.output is None or outcome.made.data is None:
        return None
    return attempts.attempt(task.name, _write, task, outcome.made, interrupts)


def _files_of(count: int) -> str:
    return f"{count:,} file" if count == 1 else f"{count:,} files"


def _rest(skipped: int, failures: Counter[str], left: int = 0) -> list[str]:
    """Return the numbers of files that were not processed, as parts of a sentence."""
    counts = {"up to date": skipped, "failed": failures.total(), "not reached": left}
    return [f"{count:,} {name}" for name, count in counts.items() if count]


def _table(plan: Plan, failures: Counter[str]) -> list[str]:
    """Return the numbers of failures and of ignored files by kind, as lines."""
    rows = [("failed", failures), ("ignored", plan.ignored)]
    return [f"  {name}: {count:,} x {kind}" for name, counts in rows for kind, count in counts.most_common()]


def _outcomes(tasks: list[Task], options: Namespace, command: Command, interrupts: Interrupts) -> Outcomes:
    """Yield what became of each task, in the order in which they end."""
    jobs = min(options.jobs or 1, len(tasks))
    # The parser and its functions cannot be sent to other processes.  There is one bar for all files.
    found = {name: value for name, value in vars(options).items() if name not in {"parser", "run"}} | {"quiet": True}
    if command.outcomes:
        yield from command.outcomes(tasks, Namespace(**found))
        return
    if jobs <= 1:
        for task in tasks:
            yield task, outcome_of(task, Namespace(**found), command.make)
        return
    with Workers(jobs, (command.make, Namespace(**found), jobs), interrupts) as workers:
        yield from workers.outcomes(tasks)
