"""The program `sdl`.

`parser()` describes the whole command line; documentation can be generated from it.  Each command is a module with a
function `add`, which adds its parser, and a function `run`, which returns the exit status.  All printing of the package
is here.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from typing import Final

from .. import __version__, settings
from ..failures import RefusedError
from ..format import container
from . import autoload, decode, desktop, encode, info, models, printing, report, streams, thumbnail, verify
from .arguments import ENVIRONMENT, settings_of

COMMANDS = (encode, decode, info, verify, report, thumbnail, models, autoload, desktop)

INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
"""Exit statuses after SIGINT and SIGPIPE, as shells report them."""

EXIT_STATUS = {
    0: "every input was processed",
    1: "at least one input failed; the others were processed",
    2: "the command line is wrong; nothing was done",
    INTERRUPTED: "the program was interrupted",
    BROKEN_PIPE: "the program that reads the output stopped reading",
}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    found = argparse.ArgumentParser(
        prog="sdl",
        description="Store photos as latents of an autoencoder, in a few kilobytes each.  The decoder invents a part "
        "of the detail.",
        epilog=_table("exit status", EXIT_STATUS) + "\n" + _table("environment variables", ENVIRONMENT),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument(
        "-V", "--version", action="version", version=f"pillow-sdl {__version__}, format {container.FORMAT_VERSION}"
    )
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return found


def _table(heading: str, rows: dict[int, str] | dict[str, str]) -> str:
    width = max(len(str(name)) for name in rows)
    return f"{heading}:\n" + "".join(f"  {name!s:<{width}}  {text}\n" for name, text in rows.items())


def main(arguments: list[str] | None = None) -> int:
    """Run `sdl` and return its exit status (see `EXIT_STATUS`).   arguments: without the program's name.

    Raises SystemExit for --help, for --version and for a wrong command line.
    """
    for stream in (sys.stdout, sys.stderr):
        # Names and messages may contain characters that the terminal's encoding lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(arguments)
        finally:
            streams.flush()
    except KeyboardInterrupt:
        printing.message("sdl: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        streams.discard_output()
        return BROKEN_PIPE
    except RefusedError as exc:
        printing.error(exc.place, exc)
        return 1


def _run(arguments: list[str] | None) -> int:
    options, unknown = parser().parse_known_args(arguments)
    if unknown:
        # A shell's *.png may contain such a name.
        is_file = any(name.startswith("-") and os.path.lexists(name) for name in unknown)
        hint = "; write ./ before the name of a file that begins with -" if is_file else ""
        options.parser.error(printing.printable(f"unrecognized arguments: {' '.join(unknown)}{hint}"))
    try:
        settings.current()
    except ValueError as exc:  # An environment variable has an invalid value.
        options.parser.error(str(exc))
    with settings.using(**settings_of(options)):
        status: int = options.run(options)
    return status
