"""`sdl report`: write an HTML page that compares photos with their SDL files and other formats of the same size."""

from __future__ import annotations

import argparse
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .. import pictures, report
from ..failures import RefusedError, reason
from ..options import EncodeOptions
from . import arguments, attempts, bars, encode, files, printing, streams

if TYPE_CHECKING:
    from PIL import Image

    from ..report.page import Panel

DEFAULT_OUTPUT: Final = "report.html"
SUFFIXES: Final = (".html", ".htm")

OPTIONS: Final = ("quality", "target_bytes", "effort", "model")
"""Options of `Image.save` for SDL."""


def add(commands: Any) -> None:
    """Add the command.   commands: what `add_subparsers` returned."""
    command = arguments.add_command(
        commands,
        "report",
        run,
        "Write an HTML page that compares photos with their JPEG, WebP, AVIF and SDL files of the same size.",
    )
    command.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="a photo, a folder of photos, or - for standard input"
    )
    size = command.add_mutually_exclusive_group()
    size.add_argument("-q", "--quality", **_number("quality"))
    size.add_argument("--target-bytes", **_number("target_bytes"))
    command.add_argument("--effort", **_number("effort"))
    command.add_argument(
        "--model",
        choices=encode.CHOICES["model"],
        default=argparse.SUPPRESS,
        metavar="NAME",
        help=encode.HELP["model"],
    )
    command.add_argument(
        "--max-side",
        type=_side,
        default=report.MAX_SIDE,
        metavar="N",
        help=f"scale larger photos down to N pixels along their longer side, default {report.MAX_SIDE}",
    )
    command.add_argument("--strip", action="store_true", help="do not show the photos' Exif")
    command.add_argument(
        "-o",
        "--output",
        metavar="OUTPUT",
        default=DEFAULT_OUTPUT,
        help=f"a file whose name ends in .html, or - for standard output; default {DEFAULT_OUTPUT}",
    )
    command.add_argument("-f", "--force", action="store_true", help="replace an output that exists")
    arguments.add_settings(command, "denoise", "denoise_steps", "device", "threads")
    arguments.add_quiet(command)
    command.set_defaults(dry_run=False)  # `files.Outputs` asks for it.


def _number(name: str) -> dict[str, Any]:
    """Return how argparse is told of an option of `Image.save` that is a whole number."""
    return {
        "type": arguments.checked(EncodeOptions, name),
        "default": argparse.SUPPRESS,
        "metavar": "N",
        "help": encode.HELP[name],
    }


def _side(text: str) -> int:
    """Type of --max-side."""
    if not text.isdecimal() or not report.SMALLEST_SIDE <= int(text) <= report.LARGEST_SIDE:
        msg = f"it must be a whole number from {report.SMALLEST_SIDE} to {report.LARGEST_SIDE}, not {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Compare every photo and write the page.  Returns the exit status."""
    from ..report import page

    given = {name: getattr(options, name) for name in OPTIONS if hasattr(options, name)}
    _check(options, given)
    options.inputs, refused = _photos(options.inputs)
    panels: list[Panel] = []
    failures: list[tuple[str, str]] = []

    def work(name: str) -> None:
        try:
            _check_photo(name, refused)
            outputs.check(name, options.output, tree=False, replace=options.force)
            panels.append(_panel(name, options, given, len(panels) + 1))
        except Exception as exc:
            failures.append((_shown(name), reason(exc)))
            raise

    outputs = files.Outputs(options)
    outputs.check(streams.STREAM, options.output, tree=False, replace=options.force)
    status = attempts.for_each(options.inputs, work)
    if panels:
        data = page.page(panels, failures)
        files.write(options.output, data)
        counts = f"{len(panels)} of {len(options.inputs)} photos, {len(data):,} bytes"
        printing.say(options, f"{printing.shown_output(options.output)}: {counts}")
    return status


def _check(options: argparse.Namespace, given: dict[str, Any]) -> None:
    """Exit with status 2 for options that do not go together and for an output with a wrong name."""
    try:
        EncodeOptions(**given)
    except ValueError as exc:
        options.parser.error(str(exc))
    if streams.STREAM in options.inputs and len(options.inputs) > 1:
        options.parser.error("standard input must be the only input")
    output = options.output
    if output == streams.STREAM or files.is_device(output):
        return
    if Path(output).suffix.lower() not in SUFFIXES:
        options.parser.error(f"report writes HTML, so the name of the output must end in .html: {output!r}")


def _photos(inputs: list[str]) -> tuple[list[str], dict[str, Exception]]:
    """Return the inputs with each folder replaced by the photos in it, and the errors of folders without photos.

    Hidden files, whose names begin with a dot, do not count.  A folder without photos stays in the list.
    """
    found: list[str] = []
    refused: dict[str, Exception] = {}
    for name in inputs:
        if not files.is_folder(name):
            found.append(name)
            continue
        try:
            photos = _photos_in(name)
        except OSError as exc:
            refused[name] = exc
            photos = []
        if not photos:
            refused.setdefault(name, RefusedError("there are no photos in this folder"))
        found += photos or [name]
    return found, refused


def _photos_in(folder: str) -> list[str]:
    """Return the photos in a folder, sorted by name.  Raises OSError if the folder cannot be listed."""
    takes = pictures.extensions()
    with os.scandir(folder) as entries:
        return sorted(
            entry.path
            for entry in entries
            if entry.is_file() and not entry.name.startswith(".") and Path(entry.name).suffix.lower() in takes
        )


def _check_photo(name: str, refused: dict[str, Exception]) -> None:
    """Raise RefusedError or OSError for an input that is no file.   refused: errors of folders, by name."""
    if name in refused:
        raise refused[name]
    files.check_input(name, "name the photos in it")


def _shown(name: str) -> str:
    """Return how the page names an input."""
    return streams.STANDARD_INPUT if name == streams.STREAM else Path(name).name


def _panel(name: str, options: argparse.Namespace, given: dict[str, Any], number: int) -> Panel:
    """Return a photo's part of the page."""
    from ..report import compare, page

    with files.open_image(name) as image:
        with bars.progress_bar(name, options):
            found = compare.compare(image, _shown(name), _size(name, image), given, max_side=options.max_side)
        return page.panel(found, number, len(options.inputs), with_exif=not options.strip)


def _size(name: str, image: Image.Image) -> int | None:
    """Return the bytes of an input."""
    if name != streams.STREAM:
        return Path(name).stat().st_size
    stream = getattr(image, "fp", None)
    return len(stream.getbuffer()) if isinstance(stream, io.BytesIO) else None
