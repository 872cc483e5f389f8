"""`sdl thumbnail`: make a small PNG of an .sdl file, as file managers ask for it."""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path
from typing import Any, Final

from PIL import ImageOps

from ..failures import RefusedError, reason
from ..format.container import SIGNATURE
from ..SdlImagePlugin import SdlImageFile
from . import arguments, attempts, files, streams

DEFAULT_SIZE: Final = 256
MAX_SIZE: Final = 4096


def add(commands: Any) -> None:
    """Add the command.   commands: what `add_subparsers` returned."""
    command = arguments.add_command(
        commands,
        "thumbnail",
        run,
        "Write a small PNG of an .sdl file.  The preview, which needs no network, is taken if it is large enough.  "
        "An output that exists is replaced, unless it is an .sdl file.",
    )
    command.add_argument(
        "-s",
        "--size",
        type=_size,
        default=DEFAULT_SIZE,
        metavar="N",
        help=f"pixels of the longer side, 1 to {MAX_SIZE}, default {DEFAULT_SIZE}; smaller pictures keep their size",
    )
    command.add_argument("input", metavar="INPUT", help="a file, or - for standard input")
    command.add_argument("output", metavar="OUTPUT", help="a file, or - for standard output")
    arguments.add_settings(command, "device", "threads", "max_pixels")


def _size(text: str) -> int:
    """Type of --size."""
    if not re.fullmatch(r"\d{1,5}", text) or not 1 <= int(text) <= MAX_SIZE:
        msg = f"the size must be 1 to {MAX_SIZE}, not {text}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def _check_output(output: str) -> None:
    """Raise RefusedError for an output that is an .sdl file, which `sdl thumbnail *.sdl` would replace.

    Standard output must not be closed or a terminal.
    """
    if output == streams.STREAM:
        streams.check_stdout()
        return
    path = Path(output)
    try:
        if not path.is_file():
            return
        with path.open("rb") as file:
            found = file.read(len(SIGNATURE))
    except OSError as exc:
        raise RefusedError(reason(exc), output) from exc
    if found == SIGNATURE:
        msg = "this is an SDL file, and a thumbnail does not replace it"
        raise RefusedError(msg, output)


def run(options: argparse.Namespace) -> int:
    """Write the thumbnail.  Returns the exit status."""
    if not options.output:
        options.parser.error("OUTPUT needs the name of a file, or -")

    def work(name: str) -> None:
        files.check_input(name, "name a file in it")
        target = io.BytesIO()
        with files.open_image(name) as image:
            if not isinstance(image, SdlImageFile):
                msg = "not an SDL file"
                raise RefusedError(msg)
            _check_output(options.output)
            image.thumbnail((options.size, options.size))
            upright = ImageOps.exif_transpose(image)
            upright.save(target, "PNG", icc_profile=image.info.get("icc_profile"))
        # Thumbnailers make the output first and keep it open, so a new file in its place would not be seen.
        files.write(options.output, target.getvalue(), in_place=True)

    return attempts.for_each([options.input], work)
