"""Worker processes, which do tasks for the main process."""

from __future__ import annotations

import signal
from argparse import Namespace
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from .. import settings
from ..failures import RefusedError
from . import arguments, printing
from .tasks import Made, Outcome, Outcomes, Task, outcome_of

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from types import TracebackType

    from .signals import Interrupts

PATIENCE: Final = 5.0
"""Seconds that idle worker processes have to end before they are killed."""


class _Worker(NamedTuple):
    process: Any
    connection: Connection[Any, Any]


class Workers:
    """Worker processes, each of which works on one task at a time.

    They are started by the method "spawn", which every platform has, so they inherit neither threads nor networks.
    A process that dies fails its task only, and another one takes its place.
    """

    def __init__(self, jobs: int, arguments: tuple[Any, ...], interrupts: Interrupts) -> None:
        """Set up the workers.   arguments: of `_serve`, after the connection."""
        self._jobs, self._arguments, self._interrupts = jobs, arguments, interrupts
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        with self._interrupts.held():
            for worker in self._workers:
                worker.connection.close()  # An idle worker ends at the end of its input.
                if kind is not None:
                    worker.process.kill()
            for worker in self._workers:
                worker.process.join(PATIENCE)
                worker.process.kill()
                worker.process.join()

    def _start(self) -> _Worker:
        """Start a process that does not react to SIGINT.

        It inherits a mask that blocks the signal.  Windows has no such mask: there the process ignores SIGINT from its
        first line on.
        """
        import multiprocessing

        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        with self._interrupts.held():
            if hasattr(signal, "pthread_sigmask"):
                from multiprocessing import resource_tracker

                resource_tracker.ensure_running()  # Otherwise `start` starts it, which unblocks the signal.
                mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                try:
                    process.start()
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            else:
                process.start()
            worker = _Worker(process, ours)
            self._workers.append(worker)
            theirs.close()
        return worker

    def _remove(self, worker: _Worker) -> str:
        """Free what a process that has ended holds here: its connection, among others.  Returns how it ended."""
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.join()
        status = worker.process.exitcode
        worker.process.close()
        return _end(status)

    def outcomes(self, tasks: Iterable[Task]) -> Outcomes:
        """Yield what became of each task.  Raises RefusedError if processes cannot be started."""
        from multiprocessing.connection import wait

        waiting = iter(tasks)
        busy: dict[Any, tuple[_Worker, Task]] = {}
        ready: set[Any] = set()

        def give(worker: _Worker | None = None) -> None:
            """Give a worker, or a new one, the next task, if there is one."""
            task = next(waiting, None)
            if task is None:
                return
            worker = worker or self._start()
            busy[worker.connection] = worker, task
            with suppress(OSError):  # If the process has ended, that is noticed when it should answer.
                worker.connection.send(task)

        for _ in range(self._jobs):
            give()
        while busy:
            connection: Any
            for connection in wait(list(busy)):
                worker, task = busy[connection]
                try:
                    outcome = connection.recv()
                except (EOFError, OSError):
                    end = self._remove(worker)
                    if connection not in ready:
                        msg = f"a worker process cannot be started: it {end}"
                        raise RefusedError(msg) from None
                    del busy[connection]
                    ready.remove(connection)
                    give()
                    yield task, Outcome(None, printing.Failure(task.name, f"its process {end}", f"a process {end}"))
                    continue
                if outcome is None:
                    ready.add(connection)
                    continue
                del busy[connection]
                give(worker)
                yield task, outcome


def _end(status: int) -> str:
    """Return how a process ended.   status: its exit status, negative for a signal, as in `multiprocessing`."""
    if status == -getattr(signal, "SIGKILL", 0):
        return "was killed, perhaps because memory ran out"
    return f"ended with status {status}"


def _serve(
    connection: Connection[Any, Any], make: Callable[[Task, Namespace], Made], options: Namespace, jobs: int
) -> None:
    """Process tasks that a connection brings until it is closed.  Runs in a worker process.

    Sends None when it is ready, then an `Outcome` for each task.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from threadpoolctl import threadpool_limits

    with settings.using(**arguments.settings_of(options)) as given:
        threads = max(1, (given.threads or settings.default_threads()) // jobs)
    threadpool_limits(threads, user_api="blas")
    with settings.using(**arguments.settings_of(options) | {"threads": threads}):
        try:
            connection.send(None)
            while True:
                connection.send(outcome_of(connection.recv(), options, make))
        except (EOFError, OSError):  # The main process has ended, or wants this one to end.
            return
