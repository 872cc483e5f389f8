"""Measure what `sdl autoload enable` adds to a start of Python, and to the import of Pillow.

Two virtual environments differ in nothing but the files of the command.  Their starts alternate, so that other load on
the machine falls on both.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path
from typing import Any, Final

from benchmarks.runs import command, versions, write_json

ROOT: Final = Path(__file__).resolve().parent.parent

PROGRAMS: Final = {"empty": "pass", "Pillow": "import PIL.Image"}
"""A program that does nothing, and one that imports Pillow, by the names of their results."""

HOOK: Final = """
import sys, time
sys.path.append(sys.argv[1])
start = time.perf_counter()
import _pillow_sdl_autoload
_pillow_sdl_autoload.install()
print(time.perf_counter() - start)
"""
"""What the file in site-packages does at a start, timed in a process that has read no such file (-S)."""


def _environment(folder: Path) -> tuple[Path, Path]:
    """Make an environment that sees the packages of this one and the checkout: its Python and its site-packages."""
    venv.create(folder, symlinks=os.name != "nt")
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "installed_base": sys.base_prefix}))
    here = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    (packages / "dependencies.pth").write_text("\n".join([str(ROOT), *here]) + "\n")
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"), packages


def _run(*arguments: object) -> str:
    """Run a command without the caller's variables for Python, and return what it prints."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(  # noqa: S603
        [str(part) for part in arguments], check=True, capture_output=True, text=True, env=inherited
    ).stdout


def _start(python: Path, program: str) -> tuple[float, float]:
    """Return the seconds of a process, from its start to its end: on the clock, and of the processor."""

    def processor() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    clock, used = time.perf_counter(), processor()
    _run(python, "-c", program)
    return time.perf_counter() - clock, processor() - used


def run(output: Path, *, starts: int) -> None:
    """Measure, write `output`, a JSON file, and print it.   starts: processes that a median is taken of."""
    found: dict[str, Any] = {
        "command": command(),
        "versions": versions(),
        "machine": platform.machine(),
        "starts": starts,
    }
    with tempfile.TemporaryDirectory() as name:
        without, _ = _environment(Path(name, "without"))
        enabled, packages = _environment(Path(name, "enabled"))
        _run(enabled, "-m", "pillow_sdl", "autoload", "enable")
        for title, program in PROGRAMS.items():
            times: dict[Path, list[tuple[float, float]]] = {without: [], enabled: []}
            for python in times:  # Compiled files are written, and the disk's cache is filled.
                _start(python, program)
            for _ in range(starts):
                for python, row in times.items():
                    row.append(_start(python, program))
            found[title] = {
                f"{kind}_{place}_s": statistics.median(row[part] for row in times[python])
                for part, kind in enumerate(("clock", "processor"))
                for place, python in (("without", without), ("enabled", enabled))
            }
        hook = [float(_run(enabled, "-S", "-c", HOOK, packages)) for _ in range(starts)]
        found["hook_s"] = statistics.median(hook)
    write_json(output, found)
    print(json.dumps(found, indent=1))
