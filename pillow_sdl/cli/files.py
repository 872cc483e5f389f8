"""Input and output files: what their names stand for, how they are opened and written, and what is checked first."""

from __future__ import annotations

import argparse
import errno
import io
import os
import stat
import sys
import tempfile
import unicodedata
from pathlib import Path
from typing import IO

from PIL import Image

from .. import atomic
from ..failures import RefusedError
from ..format import container
from . import printing, streams


class CollisionError(Exception):
    """Two inputs would be written to the same output."""


# Inputs


def check_streams(options: argparse.Namespace) -> None:
    """Exit with status 2 if standard input is one of several inputs."""
    if len(options.inputs) > 1 and streams.STREAM in options.inputs:
        options.parser.error("standard input must be the only input")


def check_input(name: str, advice: str) -> os.stat_result | None:
    """Return the status of an input that is a file, None for standard input.

    advice: what to do with a folder.   Raises RefusedError or OSError for a name that is not that of a file.
    """
    if name == streams.STREAM:
        if sys.stdin is None:
            msg = "it is closed"
            raise RefusedError(msg)
        return None
    if not name:
        msg = "the name of an input is empty"
        raise RefusedError(msg)
    found = Path(name).stat()
    if stat.S_ISDIR(found.st_mode):
        msg = f"this is a folder; {advice}"
        raise RefusedError(msg)
    return found


def is_folder(name: str) -> bool:
    """Whether there is a folder of that name."""
    try:
        return bool(name) and Path(name).is_dir()
    except OSError:  # Such as a name that is too long.
        return False


def is_device(name: str) -> bool:
    """Whether a name is that of something other than a regular file or a folder, such as /dev/null."""
    try:
        mode = Path(name).stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def open_image(name: str) -> Image.Image:
    """Open an input with Pillow."""
    source: str | IO[bytes] = io.BytesIO(sys.stdin.buffer.read()) if name == streams.STREAM else name
    return Image.open(source)


def read_container(name: str) -> container.Container:
    """Read the header and the sections of an input.  Raises RefusedError if it is not an SDL file."""
    try:
        if name == streams.STREAM:
            return container.read(sys.stdin.buffer)
        with Path(name).open("rb") as file:
            return container.read(file)
    except SyntaxError as exc:
        raise RefusedError(str(exc)) from exc


# Outputs


def output_for(
    name: str, options: argparse.Namespace, suffix: str, inside: str | None = None, *, keep: bool = False
) -> str:
    """Return where the output for an input goes: a path or `streams.STREAM`.

    suffix: of the output, with a dot.   inside: path of the input in the tree that -o keeps, None without a tree.
    keep: whether the suffix follows the extension of the input instead of replacing it.
    """

    def renamed(path: Path) -> str:
        return str(path.with_name(path.name + suffix) if keep else path.with_suffix(suffix))

    given: str | None = options.output
    if given is None:
        return streams.STREAM if name == streams.STREAM else renamed(Path(name))
    if given == streams.STREAM:
        return streams.STREAM
    if inside is not None:
        return renamed(Path(given, inside))
    if is_folder(given):
        if name == streams.STREAM:
            msg = "standard input has no name for a file in this folder: name the file with -o"
            raise RefusedError(msg, given)
        return renamed(Path(given, Path(name).name))
    if names_folder(given):
        msg = "there is no such folder"
        raise RefusedError(msg, given)
    return given


def names_folder(output: str) -> bool:
    """Whether an output must be a folder because its name ends in a separator."""
    return output.endswith(("/", os.sep))


class Outputs:
    """Checks of the outputs of one run, to be made before any work is done.   options: of the command."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._inputs: dict[str, str] = {}
        self._folders: set[Path] = set()

    def claim(self, name: str, output: str) -> bool:
        """Note that an input goes to an output.  Returns false if that is known already.

        Raises CollisionError, which names both inputs, if another input goes there.
        """
        if output == streams.STREAM or is_device(output):
            return True
        with streams.writing(output):
            place = os.path.normcase(os.path.realpath(output))
        if sys.platform == "darwin":  # Its file systems ignore case and the form of accents, usually.
            place = unicodedata.normalize("NFC", place.casefold())
        if place not in self._inputs:
            self._inputs[place] = name
            return True
        earlier = self._inputs[place]
        if os.path.realpath(earlier) == os.path.realpath(name):
            return False
        msg = printing.printable(f"{earlier} and {name} would both be written to {output}")
        raise CollisionError(msg)

    def check(self, name: str, output: str, *, tree: bool, replace: bool) -> None:
        """Raise RefusedError for an output that cannot be written, or that would destroy something.

        name: the input.   tree: whether missing folders will be made.   replace: whether the output may exist.
        """
        if output == streams.STREAM:
            streams.check_stdout()
            return
        if is_device(output):
            if not os.access(output, os.W_OK):
                raise RefusedError(os.strerror(errno.EACCES), output)
            return
        with streams.writing(output):
            path = Path(os.path.realpath(output))
            if path.is_dir():
                msg = "this is a folder"
                raise RefusedError(msg, output)
            folder = path.parent
            while tree and not os.path.lexists(folder):
                folder = folder.parent
            if not folder.is_dir():
                missing = folder if Path(output).is_symlink() else Path(output).parent
                msg = f"{folder} is not a folder" if tree else f"there is no folder {missing}"
                raise RefusedError(msg, output)
            if path.exists():
                if name != streams.STREAM and path.samefile(name):
                    msg = "output and input are the same file"
                    raise RefusedError(msg, output)
                if not replace:
                    raise exists(output)
            self._check_folder(folder)

    def _check_folder(self, folder: Path) -> None:
        """Raise OSError if no file can be made in a folder."""
        if folder in self._folders:
            return
        if not self._options.dry_run:
            with tempfile.TemporaryFile(dir=folder):  # `atomic.write` creates one there, too.
                pass
        elif not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        self._folders.add(folder)


def exists(output: str) -> RefusedError:
    """Return the error for an output that exists and is to be kept."""
    return RefusedError("the file exists; -f replaces it", output)


def write(output: str, data: bytes, *, tree: bool = False, in_place: bool = False) -> None:
    """Write an output.   tree: whether its folder is made if it is missing.

    in_place: write into the file that is there, for programs that have it open.  Otherwise it is replaced when the data
    is complete.
    Raises RefusedError if that fails, and BrokenPipeError.
    """
    if output == streams.STREAM:
        with streams.writing(streams.STANDARD_OUTPUT):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    else:
        with streams.writing(output):
            if in_place:
                Path(output).write_bytes(data)
                return
            if tree:
                Path(output).parent.mkdir(parents=True, exist_ok=True)
            atomic.write(output, data)
