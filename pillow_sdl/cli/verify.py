"""`sdl verify`: check .sdl files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..SdlImagePlugin import SdlImageFile
from . import common

if TYPE_CHECKING:
    import argparse


def add(commands: Any) -> None:
    """Add the command.   commands: what `add_subparsers` returned."""
    command = common.add_command(
        commands,
        "verify",
        run,
        "Check .sdl files: every checksum, the symbols, alpha and metadata, and that nothing follows the last section. "
        "Needs no network.",
    )
    common.add_inputs(command)
    common.add_settings(command, "max_pixels")
    common.add_quiet(command)


def run(options: argparse.Namespace) -> int:
    """Check every input.  Returns the exit status."""
    return common.for_each_file(options, lambda name: _verify(name, options))


def _verify(name: str, options: argparse.Namespace) -> None:
    with common.open_image(name) as image:
        if not isinstance(image, SdlImageFile):
            msg = "not an SDL file"
            raise common.RefusedError(msg)
        image.verify()
    if not options.quiet:
        common.show(f"{common.shown_input(name)}: good")
