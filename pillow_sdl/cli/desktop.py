"""`sdl desktop`: make file managers of a Linux desktop know .sdl files and show thumbnails of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import desktop
from ..failures import RefusedError, reason
from . import arguments, printing

if TYPE_CHECKING:
    import argparse


def add(commands: Any) -> None:
    """Add the command.   commands: what `add_subparsers` returned."""
    text = "Make the file managers of a Linux desktop know .sdl files and show thumbnails of them."
    # A subcommand is required, so this function is never called.
    parts = arguments.add_command(commands, "desktop", run_install, text).add_subparsers(
        metavar="COMMAND", required=True
    )
    for name, run, description in (
        ("install", run_install, "Write the media type and the thumbnailer into the data folder of this user."),
        ("uninstall", run_uninstall, "Delete what `sdl desktop install` has written."),
    ):
        command = arguments.add_command(parts, name, run, description)
        command.add_argument(
            "--prefix",
            type=Path,
            metavar="FOLDER",
            help="take FOLDER/share in place of the user's data folder, such as /usr/local for all users",
        )
        arguments.add_quiet(command)


def _folder(options: argparse.Namespace) -> Path:
    """Return the data folder that is changed.  Raises RefusedError for a user without a home."""
    prefix: Path | None = options.prefix
    try:
        return desktop.data_folder() if prefix is None else prefix / "share"
    except RuntimeError as exc:
        msg = "this user has no home folder: name a folder with --prefix"
        raise RefusedError(msg) from exc


def _updated(folder: Path, options: argparse.Namespace) -> None:
    """Make the desktop read the media types again.  If that fails, tell the user, because the next login does it."""
    problem = desktop.update(folder)
    if problem is not None:
        printing.say(options, f"the desktop may not notice the change before the next login: {problem}")


def run_install(options: argparse.Namespace) -> int:
    """Write the files.  Returns the exit status."""
    folder = _folder(options)
    try:
        written = desktop.install(folder)
    except OSError as exc:
        raise RefusedError(reason(exc), str(folder)) from exc
    for path in written:
        printing.say(options, f"installed: {path}")
    _updated(folder, options)
    return 0


def run_uninstall(options: argparse.Namespace) -> int:
    """Delete the files.  Returns the exit status."""
    folder = _folder(options)
    try:
        removed = desktop.uninstall(folder)
        if removed:
            _updated(folder, options)
        desktop.remove_empty_folders(folder)
    except OSError as exc:
        raise RefusedError(reason(exc), str(folder)) from exc
    for path in removed:
        printing.say(options, f"deleted: {path}")
    if not removed:
        printing.say(options, "there is nothing to delete")
    return 0
