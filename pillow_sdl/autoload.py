"""Register the format in every program of a Python environment: the files that do it, in a folder of site-packages.

Python reads two kinds of files there when it starts: `NAME.pth`, of which it executes the lines that begin with
`import`, and from Python 3.15 on `NAME.start`, of which it calls the functions (PEP 829).  One of them, named
`STARTER`, calls `install` of a copy of `startup.py`, named `HOOK`.
"""

from __future__ import annotations

import py_compile
import re
import site
import subprocess
import sys
import sysconfig
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from . import __version__, atomic

if TYPE_CHECKING:
    from collections.abc import Iterator

HOOK: Final = "_pillow_sdl_autoload"
"""Name of the module in site-packages.  It is not in the package, whose import would import Pillow."""

STARTER: Final = "pillow_sdl_autoload"
"""Name, without its ending, of the file that makes Python import `HOOK` at its start."""

STARTERS: Final = {
    # Python reports an error of such a line at every start, so a line without its module must do nothing.
    ".pth": f'import sys; exec("try:\\n import {HOOK}\\n {HOOK}.install()\\nexcept Exception:\\n pass")\n',
    ".start": f"{HOOK}:install\n",
}
"""What follows the comment in the file `STARTER`, by its ending."""

FIRST_WITH_START: Final = (3, 15)
"""The first version of Python that reads `.start` files."""

_WRITTEN_BY: Final = re.compile(r"# Written by pillow-sdl (\S+):")

_PROBE: Final = """
from PIL import Image
if "SDL" not in Image.OPEN:
    import pillow_sdl
    raise SystemExit("the file in site-packages was not read")
"""
"""A program that does not import the package and exits with status 0 if it knows the format."""

_PROBE_SECONDS: Final = 60


class AutoloadError(Exception):
    """The files cannot be written or removed, or they have no effect.   place: the folder, or None."""

    def __init__(self, message: str, place: Path | None = None) -> None:
        super().__init__(message)
        self.place = place


@dataclass(frozen=True)
class Place:
    """The files that were found in a folder.

    user: whether it is the folder of this user.   own: whether `enable` and `disable` of this environment change it.
    files: the files, except for compiled ones.   version: of the package that wrote them, None if they do not say it.
    """

    folder: Path
    user: bool
    own: bool
    files: tuple[Path, ...]
    version: str | None

    @property
    def complete(self) -> bool:
        """Whether this version of Python finds all that it needs in the folder."""
        return set(_contents(self.folder)) <= set(self.files)

    @property
    def current(self) -> bool:
        """Whether the files are those that this version of the package writes."""
        return self.complete and all(path.read_text("utf-8") == text for path, text in _contents(self.folder).items())


def ending() -> str:
    """Return the ending of the file that this version of Python reads."""
    return ".start" if sys.version_info >= FIRST_WITH_START else ".pth"


def _contents(folder: Path) -> dict[Path, str]:
    """Return the files that `enable` writes into a folder, in the order of writing, with their texts."""
    comment = (
        f"# Written by pillow-sdl {__version__}: `sdl autoload enable`.  Programs can then open .sdl pictures through "
        "Pillow.\n# To remove it, run `sdl autoload disable`, or delete this file.\n"
    )
    hook = Path(__file__).with_name("startup.py").read_text("utf-8")
    return {
        folder / f"{HOOK}.py": comment + hook,
        folder / f"{STARTER}{ending()}": comment + STARTERS[ending()],
    }


# Folders


def _environment_folder() -> Path:
    return Path(sysconfig.get_path("purelib"))


def _user_folder() -> Path | None:
    """Return this user's folder of site-packages, None if this Python does not read it: most virtual environments."""
    return Path(site.getusersitepackages()) if site.ENABLE_USER_SITE else None


def _folder(*, user: bool) -> Path:
    """Return the folder to write into.  Raises AutoloadError if Python would not read files there."""
    if getattr(sys, "frozen", False):
        msg = "a frozen program has no site-packages: import pillow_sdl in the program"
        raise AutoloadError(msg)
    if user:
        folder = _user_folder()
        if folder is None:
            msg = "this Python does not read the user's site-packages; leave out --user"
            raise AutoloadError(msg)
        return folder
    folder = _environment_folder()
    if folder not in map(Path, site.getsitepackages()):
        msg = "this Python does not read .pth files in this folder"
        raise AutoloadError(msg, folder)
    return folder


def _own_folders() -> list[Path]:
    """Return the folders that `enable` may have written into."""
    user = _user_folder()
    return [_environment_folder(), *([user] if user else [])]


def places() -> list[Place]:
    """Return the folders that this Python reads and that hold files of this kind, in Python's order."""
    own = _own_folders()
    folders = list(dict.fromkeys([*own, *map(Path, site.getsitepackages())]))
    found = []
    for folder in folders:
        files = tuple(path for path in _paths(folder) if path.suffix != ".pyc")
        if files:
            versions = (_WRITTEN_BY.match(path.read_text("utf-8", "replace")) for path in files)
            version = next((match[1] for match in versions if match), None)
            found.append(Place(folder, folder == _user_folder(), folder in own, files, version))
    return found


def _paths(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder, in an order in which each can be deleted: first the one that needs the others."""
    named = [*(folder / f"{STARTER}{suffix}" for suffix in STARTERS), folder / f"{HOOK}.py"]
    yield from (path for path in named if path.is_file())
    yield from sorted((folder / "__pycache__").glob(f"{HOOK}.*.pyc"))


# Changes


def enable(*, user: bool = False) -> Path:
    """Write the files, and return the path of the one that Python reads at its start.

    user: whether to write into this user's folder instead of the environment's.  Files of an earlier version are
    replaced.  A new process then tries whether it knows the format.
    Raises AutoloadError if the files cannot be written, or if they have no effect; then none is left.
    """
    folder = _folder(user=user)
    hook, starter = _contents(folder).items()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic.write(hook[0], hook[1].encode())
        # Programs of users who cannot write here would compile it at every start.
        py_compile.compile(str(hook[0]), doraise=True)
        atomic.write(starter[0], starter[1].encode())
    except OSError as exc:
        with suppress(AutoloadError):
            _remove(folder)
        raise AutoloadError(_cannot_write(exc, user=user), folder) from exc
    why = failure()
    if why is not None:
        _remove(folder)
        msg = f"a new process of this Python still does not know the format: {why}"
        raise AutoloadError(msg, folder)
    return starter[0]


def _cannot_write(exc: OSError, *, user: bool) -> str:
    """Return why files cannot be written, and what can be done."""
    reason = exc.strerror or str(exc)
    if user:
        return reason
    if _user_folder() is not None:
        return f"{reason}; with --user, the format is registered for this user only"
    return f"{reason}; run sdl as the owner of this environment"


def disable() -> list[Path]:
    """Delete all files that `enable` has written, in the environment's folder and in this user's, and return them.

    Raises AutoloadError if a file cannot be deleted, and if another environment, on which this one is based, has such
    files.
    """
    removed = [path for folder in _own_folders() for path in _remove(folder)]
    for place in places():
        if place.complete:
            msg = "the environment on which this one is based has the file; run `sdl autoload disable` there"
            raise AutoloadError(msg, place.folder)
    return removed


def _remove(folder: Path) -> list[Path]:
    """Delete the files in a folder, and the folder of compiled files if nothing is left in it.  Returns the files."""
    removed = []
    try:
        for path in _paths(folder):
            path.unlink()
            removed.append(path)
    except OSError as exc:
        raise AutoloadError(exc.strerror or str(exc), folder) from exc
    if removed:
        with suppress(OSError):  # It holds the compiled files of other modules.
            (folder / "__pycache__").rmdir()
    return removed


def failure() -> str | None:
    """Return why a new process of this Python that imports Pillow does not know the format, None if it does."""
    # -P: not from the folder in which `sdl` happens to run.
    command = [sys.executable, "-P", "-c", _PROBE]
    try:
        found = subprocess.run(  # noqa: S603
            command, capture_output=True, check=False, text=True, errors="replace", timeout=_PROBE_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        return str(exc)
    if found.returncode == 0:
        return None
    lines = found.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {found.returncode}"
