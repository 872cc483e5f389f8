"""`sdl autoload`: let every program of this environment open .sdl files, without an import."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .. import __version__, autoload
from ..failures import RefusedError
from . import arguments, printing

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def add(commands: Any) -> None:
    """Add the command.   commands: what `add_subparsers` returned."""
    text = "Register the format in every program of this Python environment that imports Pillow."
    # A subcommand is required, so this function is never called.
    parts = arguments.add_command(commands, "autoload", run_status, text).add_subparsers(
        metavar="COMMAND", required=True
    )
    enable = arguments.add_command(
        parts,
        "enable",
        run_enable,
        "Write two small files into site-packages, with which `import PIL.Image` registers the format.",
    )
    enable.add_argument("--user", action="store_true", help="write into the site-packages of this user")
    arguments.add_quiet(enable)
    disable = arguments.add_command(
        parts, "disable", run_disable, "Delete all files that `sdl autoload enable` has written."
    )
    arguments.add_quiet(disable)
    status = arguments.add_command(
        parts, "status", run_status, "Say whether the format is registered, by which files, and whether they work."
    )
    status.add_argument("--json", action="store_true", help="print one JSON object")


@contextmanager
def _refused() -> Iterator[None]:
    """Turn AutoloadError into an error of the command."""
    try:
        yield
    except autoload.AutoloadError as exc:
        raise RefusedError(str(exc), str(exc.place) if exc.place else None) from exc


def run_enable(options: argparse.Namespace) -> int:
    """Write the files.  Returns the exit status."""
    with _refused():
        path = autoload.enable(user=options.user)
    printing.say(options, f"enabled: {path}")
    return 0


def run_disable(options: argparse.Namespace) -> int:
    """Delete the files.  Returns the exit status."""
    with _refused():
        removed = autoload.disable()
    for path in removed:
        printing.say(options, f"deleted: {path}")
    if not removed:
        printing.say(options, "disabled already: there is nothing to delete")
    return 0


def run_status(options: argparse.Namespace) -> int:
    """Describe the files.  Returns the exit status: 1 if a folder lacks some of them, or if they have no effect."""
    places = autoload.places()
    enabled = any(place.complete for place in places)
    why = autoload.failure() if enabled else None
    if options.json:
        found = {
            "enabled": enabled,
            "works": enabled and why is None,
            "version": __version__,
            "places": [_describe(place) for place in places],
        }
        printing.show(json.dumps(found))
    else:
        for line in _text(places):
            printing.show(line)
    if why is not None:
        printing.message(f"sdl: a new process of this Python does not know the format: {why}")
        return 1
    return 0 if all(place.complete for place in places) else 1


def _describe(place: autoload.Place) -> dict[str, Any]:
    """Return a folder with files as JSON types."""
    return {
        "folder": str(place.folder),
        "files": [str(path) for path in place.files],
        "user": place.user,
        "own": place.own,
        "complete": place.complete,
        "version": place.version,
        "current": place.current,
    }


def _text(places: list[autoload.Place]) -> Iterator[str]:
    """Yield the lines for all folders with files."""
    if not any(place.complete for place in places):
        yield "disabled"
    for place in places:
        if not place.complete:
            yield f"incomplete: {', '.join(map(str, place.files))}; `sdl autoload disable` deletes it"
            continue
        yield f"enabled: {place.files[0]}"
        if not place.current:
            yield f"  written by pillow-sdl {place.version}; `sdl autoload enable` renews it"
        if not place.own:
            yield "  belongs to the environment on which this one is based"
