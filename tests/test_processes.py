"""Processes: pools of every start method, and forks of a process that has run a network or is building one.

Each test runs a program under a hard time limit, because the fault that it looks for is a process that waits for ever.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from .conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LIMIT = 120
"""Seconds after which a program has failed.  It needs a few."""

START = """
import hashlib, io, multiprocessing, os, sys, threading, time
from concurrent.futures import ProcessPoolExecutor

import pillow_sdl
from PIL import Image
from pillow_sdl.models import store
from tests import images

def work(effort):
    "Save a picture and load the file.  Returns hashes of the file and of the pixels."
    data = images.saved(images.gradient(20, 12), effort=effort)
    return hashlib.sha256(data).hexdigest(), hashlib.sha256(images.opened(data).tobytes()).hexdigest()

def ended(pid):
    "Wait for a child.  Returns its exit code."
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

POOLS = """
if __name__ == "__main__":
    method, effort = sys.argv[1], int(sys.argv[2])
    pillow_sdl.configure(threads=2)
    if effort > 5:
        import torch
        torch.set_num_threads(2)
    expected = work(effort)
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.map(work, [effort] * 4, chunksize=1) == [expected] * 4
    print("Pool")
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        assert list(executor.map(work, [effort] * 4)) == [expected] * 4
    print("ProcessPoolExecutor")
    assert work(effort) == expected  # The parent can go on, too.
"""

BUILDING = """
if __name__ == "__main__":
    building, forked = threading.Event(), threading.Event()

    def build():
        building.set()
        assert forked.wait(60)
        return "network"

    thread = threading.Thread(target=lambda: store.STORE.network("slow", build))
    thread.start()
    assert building.wait(60)
    pid = os.fork()
    if not pid:
        work(5)
        os._exit(7)
    assert ended(pid) == 7
    forked.set()
    thread.join()
    assert store.STORE.network("slow", lambda: "another") == "network"
    print("done")
"""

EXITING = """
if __name__ == "__main__":
    expected = work(5)
    for use in (False, True):
        pid = os.fork()
        if not pid:
            assert not use or work(5) == expected
            pillow_sdl.release()
            sys.exit(7)
        assert ended(pid) == 7
    assert work(5) == expected
    print("done")
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., str]:
    """A function that runs a program with arguments from a file, as the start methods need it, and returns its output.

    After `LIMIT` seconds the program and its children are killed and the test fails.
    """

    def run(program: str, *arguments: object) -> str:
        path = tmp_path / "program.py"
        path.write_text(START + program, "utf-8")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        process = subprocess.Popen(
            [sys.executable, str(path), *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"the program did not end within {LIMIT} seconds; it printed: {process.communicate()[0]}")
        assert process.returncode == 0, output
        return output.strip()

    return run


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")


@pytest.mark.plain
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_pools_save_and_load(method: str, run: Callable[..., str]) -> None:
    """After the parent has done the same with two threads.  Files and pixels are equal."""
    assert run(POOLS, method, 5).splitlines()[-2:] == ["Pool", "ProcessPoolExecutor"]


@needs_fork
def test_forked_pools_refine_with_torch(run: Callable[..., str]) -> None:
    """After the parent has run torch with two threads, which do not exist in a forked child."""
    pytest.importorskip("torch")
    assert run(POOLS, "fork", 6).splitlines()[-2:] == ["Pool", "ProcessPoolExecutor"]


@needs_fork
@pytest.mark.plain
def test_a_fork_while_a_network_is_built_can_load(run: Callable[..., str]) -> None:
    """Another thread of the parent holds the lock of the store at that moment.  The child gets a new lock."""
    assert run(BUILDING).endswith("done")


@needs_fork
@pytest.mark.plain
def test_a_forked_child_frees_its_networks_and_ends(run: Callable[..., str]) -> None:
    """With `release` and a normal exit, whether or not it has used a network.  The parent's networks still work."""
    assert run(EXITING).endswith("done")
