"""What a forked child must not do: the threads of its parent do not exist in it."""

from __future__ import annotations

import ctypes
import os
import sys

torch_lost_its_threads = False
"""Whether this process is a forked child of one that had imported torch.  More than one thread would then hang."""


def never_free(value: object) -> None:
    """Keep an object until the process ends, also when the interpreter ends."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


def _after_fork() -> None:
    global torch_lost_its_threads  # noqa: PLW0603  a fact about the process
    torch = sys.modules.get("torch")
    if torch is not None:
        torch_lost_its_threads = True
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
