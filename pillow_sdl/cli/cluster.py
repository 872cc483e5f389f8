"""`sdl encode --ray`: the work is done by a Ray cluster, which writes the outputs itself."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Final

from .. import ray, settings
from ..errors import BackendError
from ..failures import RefusedError, reason
from . import folders, printing
from .tasks import Made, Outcome, Outcomes, Task

if TYPE_CHECKING:
    from argparse import Namespace

LOCAL: Final = "local"
"""Address that starts Ray on this machine."""


def add(command: Any) -> None:
    """Add the option --ray."""
    command.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="let a Ray cluster do the work; ADDRESS is HOST:PORT, auto (the cluster of this machine) or local (start "
        "Ray for this run); --jobs sets the number of actors, by default as many as fit; --threads sets the CPUs of "
        "each actor, default 1; inputs and OUTPUT may be URIs of folders",
    )


def is_remote(options: Namespace) -> bool:
    """Whether an input or the output is a URI."""
    return any("://" in name for name in [*options.inputs, options.output or ""])


def command(local: folders.Command, options: Namespace, given: dict[str, Any]) -> folders.Command:
    """Return a command whose work is done by Ray.

    local: the command that does the work in processes.   given: options of `save`.   Exits with status 2 if Ray is
    missing, and for URIs that cannot be used.
    """
    if is_remote(options) and not options.recursive:
        options.parser.error("URIs are those of folders, and need --recursive")
    try:
        ray.require()
    except BackendError as exc:
        options.parser.error(str(exc))
    made: list[ray.Plan] = []

    def plan(options: Namespace) -> folders.Plan:
        made.append(_remote_plan(options))
        return _shown_plan(made[0])

    def outcomes(tasks: list[Task], options: Namespace) -> Outcomes:
        return _outcomes(tasks, made[0] if made else _local_plan(tasks), options, given)

    return local._replace(plan=plan if is_remote(options) else None, outcomes=outcomes)


def _remote_plan(options: Namespace) -> ray.Plan:
    """Return the plan for URIs.  Exits with status 2 if two inputs have the same output."""
    existing = "skip" if options.skip_existing else "overwrite" if options.force else "error"
    try:
        return ray.make_plan(options.inputs, options.output, existing=existing, keep_extension=options.keep_extension)
    except ValueError as exc:
        options.parser.error(str(exc))
        raise  # Not reached: the parser exits.
    except OSError as exc:
        raise RefusedError(reason(exc)) from exc


def _shown_plan(plan: ray.Plan) -> folders.Plan:
    """Return a plan in the form of `folders`.  Prints an error for each input that cannot be processed."""
    found = folders.Plan([Task(job.path, job.output, job.input_bytes) for job in plan.jobs])
    found.ignored["not a picture, or hidden"] += plan.ignored
    for row in plan.rows:
        if row["status"] == "skipped":
            found.skipped += 1
        else:
            printing.message(f"sdl: {row['path']}: {row['error']}")
            found.failures[row["kind"]] += 1
    return found


def _local_plan(tasks: list[Task]) -> ray.Plan:
    """Return a plan for files that all machines see under the same paths."""
    from pyarrow import fs

    disk = fs.LocalFileSystem()
    paths = [(_absolute(task.name), _absolute(task.output or "")) for task in tasks]
    old = disk.get_file_info([output for _, output in paths])
    jobs = [
        ray.Job(path, output, task.size, ray.modified(info))
        for task, (path, output), info in zip(tasks, paths, old, strict=True)
    ]
    return ray.Plan(jobs, [], 0, disk, disk)


def _absolute(name: str) -> str:
    return os.path.abspath(name).replace(os.sep, "/")  # noqa: PTH100  links stay as they are


def _outcomes(tasks: list[Task], plan: ray.Plan, options: Namespace, given: dict[str, Any]) -> Outcomes:
    """Yield what became of each task.  Raises RefusedError if there is no Ray at the address."""
    cpus = settings.current().threads or 1
    work = ray.Work(options.strip, given, plan.source, plan.target, cpus)
    waiting = {job.output: task for job, task in zip(plan.jobs, tasks, strict=True)}
    if not tasks:
        return
    connected = _connect(options, cpus)
    from ray.exceptions import RayError

    try:
        for row in ray.run(plan.jobs, work, options.jobs):
            task = waiting.pop(row["output"])
            messages = tuple(f"sdl: {task.name}: warning: {text}" for text in row["warnings"])
            if row["error"]:
                failure = printing.Failure(task.name, row["error"], row["kind"])
                yield task, Outcome(None, failure, messages)
            else:
                yield task, Outcome(Made("", size=row["output_bytes"]), None, messages)
    except RayError as exc:  # Such as a worker that cannot import this package.  Its last line has the cause.
        raise RefusedError(str(exc).strip().splitlines()[-1], f"Ray at {options.ray}") from exc
    finally:
        if connected:
            ray.disconnect()


def _connect(options: Namespace, cpus: int) -> bool:
    """Connect to Ray, or start it, and keep its messages off the terminal.  Returns what `ray.connect` returns.

    cpus: for each actor.
    """
    from ray.data import DataContext

    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    more: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if options.ray == LOCAL:
        # Ray counts CPUs that it is told of.  All actors that the user asks for must have room.
        more |= {"num_cpus": max(settings.default_threads(), (options.jobs or 1) * cpus), "include_dashboard": False}
    try:
        connected = ray.connect(options.ray, **more)
    except (OSError, ValueError, RuntimeError) as exc:
        raise RefusedError(reason(exc), f"Ray at {options.ray}") from exc
    DataContext.get_current().enable_progress_bars = False
    return connected
