"""Virtual environments for scripts/demo and scripts/test, with the project and what it needs.

Standard library only; runs under any Python from 3.11.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path, folder: Path | None = ROOT) -> None:
    """Run a command in a folder (None: the caller's), and stop with its exit status if it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    status = subprocess.run([str(part) for part in command], cwd=folder, env=environment, check=False).returncode
    if status:
        sys.exit(status)


def prepare(*groups: str, name: str = ".venv") -> Path:
    """Return the Python of a virtual environment with the project and these dependency groups.

    name: folder of the environment, below the project's root.  It is made if it does not exist.
    """
    if sys.version_info < (3, 11):  # noqa: UP036  an older Python may run this script
        sys.exit(f"pillow-sdl needs Python 3.11 or later; this is {sys.version.split()[0]}")
    folder = ROOT / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--upgrade", "pip>=25.1")
    chosen = [part for group in groups for part in ("--group", group)]
    run(*pip, "-c", ROOT / "constraints.txt", "-e", ROOT, *chosen)
    return python
