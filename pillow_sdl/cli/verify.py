"""`sdl verify`: check .sdl files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..failures import RefusedError
from ..SdlImagePlugin import SdlImageFile
from . import arguments, files, folders
from .tasks import Made, Task

if TYPE_CHECKING:
    import argparse


def add(commands: Any) -> None:
    """Add the command.   commands: what `add_subparsers` returned."""
    command = arguments.add_command(
        commands,
        "verify",
        run,
        "Check .sdl files: every checksum, the symbols, alpha and metadata, and that nothing follows the last section. "
        "Needs no network.",
    )
    arguments.add_inputs(command, folders=True)
    arguments.add_many(command, writes=False)
    arguments.add_settings(command, "max_pixels")
    arguments.add_quiet(command)


def run(options: argparse.Namespace) -> int:
    """Check every input.  Returns the exit status."""
    return folders.run(options, COMMAND)


def _make(task: Task, _: argparse.Namespace) -> Made:
    """Check an input."""
    with files.open_image(task.name) as image:
        if not isinstance(image, SdlImageFile):
            msg = "not an SDL file"
            raise RefusedError(msg)
        image.verify()
    return Made("good")


COMMAND: Final = folders.Command(_make, folders.sdl_files, "not an SDL file", "verified")
