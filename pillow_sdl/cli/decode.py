"""`sdl decode`: turn .sdl files into pictures of another format."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any, Final

from PIL import Image

from .. import pictures
from ..failures import RefusedError, reason
from ..SdlImagePlugin import SdlImageFile
from . import arguments, bars, files, folders, origin, printing, streams
from .tasks import Made, Task

DEFAULT_FORMAT: Final = ".png"

STRIP: Final = 16
"""Width, or height, of the empty pictures that tell whether a format can hold a picture.  ICO has none below 16."""

BACKGROUND: Final = 2
"""GIF's number for frames that are cleared before the next one is shown."""


def add(commands: Any) -> None:
    """Add the command.   commands: what `add_subparsers` returned."""
    command = arguments.add_command(commands, "decode", run, "Turn .sdl files into pictures of another format.")
    arguments.add_inputs(command, folders=True)
    command.add_argument(
        "--format",
        type=_suffix,
        default=DEFAULT_FORMAT,
        metavar="EXTENSION",
        help=f"format of the output if its name has no extension, default {DEFAULT_FORMAT[1:]}",
    )
    command.add_argument(
        "--no-origin",
        dest="origin",
        action="store_false",
        help="do not say in the output's XMP that a network has made a part of the picture",
    )
    arguments.add_still(command, "write only the first frame of an animation")
    arguments.add_output(command, "INPUT.EXTENSION")
    arguments.add_many(command, writes=True)
    arguments.add_settings(command, "denoise", "denoise_steps", "device", "threads", "max_pixels")
    arguments.add_quiet(command)


def _format_of(suffix: str) -> str:
    """Return Pillow's name of the format with an extension.  Raises ValueError if it cannot be an output."""
    Image.init()
    kind = Image.registered_extensions().get(suffix)
    if kind is None or kind not in Image.SAVE:
        msg = f"Pillow writes no format with the extension {suffix}"
        raise ValueError(msg)
    if kind == SdlImageFile.format:
        msg = f"the output of decode must have another format than {suffix}"
        raise ValueError(msg)
    return kind


def _suffix(text: str) -> str:
    """Type of --format: an extension with or without its dot."""
    suffix = f".{text.lower().lstrip('.')}"
    try:
        _format_of(suffix)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None
    return suffix


def run(options: argparse.Namespace) -> int:
    """Decode every input.  Returns the exit status."""
    return folders.run(options, COMMAND)


def _output(name: str, options: argparse.Namespace, inside: str | None) -> str:
    """Return where the picture goes.  Raises RefusedError if Pillow cannot write its format."""
    output = files.output_for(name, options, options.format, inside)
    _kind(output, options)
    return output


def _kind(output: str, options: argparse.Namespace) -> str:
    """Return Pillow's name of the format of an output.  Raises RefusedError if Pillow cannot write it."""
    suffix = "" if output == streams.STREAM else Path(output).suffix.lower()
    try:
        return _format_of(suffix or options.format)
    except ValueError as exc:
        raise RefusedError(str(exc), printing.shown_output(output)) from None


def _make(task: Task, options: argparse.Namespace) -> Made:
    """Return the picture of an input."""
    assert task.output is not None
    kind, place = _kind(task.output, options), printing.shown_output(task.output)
    with files.open_image(task.name) as image:
        if not isinstance(image, SdlImageFile):
            msg = "not an SDL file"
            raise RefusedError(msg)
        _check_format(image, kind, place)
        with bars.progress_bar(task.name, options):
            image.load()
        metadata = pictures.metadata_of(image)
        xmp = metadata.pop("xmp", None)
        if options.origin:
            merged = origin.merge(xmp)
            if merged is None:
                printing.warn(printing.shown_input(task.name), "its XMP is damaged, so the origin is not stored")
            xmp = merged or xmp
        if xmp:
            metadata |= origin.save_options(kind, xmp, metadata.get("exif"))
        metadata["icc_profile"] = image.info.get("icc_profile")
        frames = _frames(image, kind, options, task.name)
        data = _save(image, kind, place, **metadata, **frames)
        width, height = image.size
        written = _count(data) if frames else 1
        size = f"{width} x {height}" + (f", {written} frames" if written > 1 else "")
    return Made(f"{size}, {len(data):,} bytes", data)


COMMAND: Final = folders.Command(_make, folders.sdl_files, "not an SDL file", "decoded", _output)


def _frames(image: SdlImageFile, kind: str, options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Return the options of Pillow's `save` that store all frames, empty for a still picture.

    Warns if the format has no animations.   kind: Pillow's name of the format.   name: the input.
    """
    if not image.is_animated or options.still:
        return {}
    if kind not in pictures.ANIMATED:
        printing.warn(printing.shown_input(name), f"only the first of {image.n_frames} frames is stored")
        return {}
    durations = []
    for index in range(image.n_frames):
        image.seek(index)
        durations.append(image.info["duration"])
    image.seek(0)
    found: dict[str, Any] = {"save_all": True, "duration": durations, "loop": image.info["loop"]}
    if kind == "GIF":
        if found["loop"] == 1:
            found["loop"] = None  # GIF has no number for one play: it leaves the number out.
        if image.mode.endswith("A"):
            found["disposal"] = BACKGROUND  # A clear pixel would show the frame before.
    return found


def _count(data: bytes) -> int:
    """Return the number of frames of a file that Pillow has written.  It merges frames that are equal."""
    with Image.open(io.BytesIO(data)) as image:
        return pictures.count_frames(image)


def _check_format(image: Image.Image, kind: str, place: str) -> None:
    """Raise RefusedError, which names the output, if a format cannot hold the mode or the sides of an opened image."""
    width, height = image.size
    for size in (width, min(height, STRIP)), (min(width, STRIP), height):
        _save(Image.new(image.mode, size), kind, place)


def _save(image: Image.Image, kind: str, place: str, **metadata: Any) -> bytes:
    """Return an image in a format.  Raises RefusedError, which names the output, if that fails."""
    target = io.BytesIO()
    try:
        image.save(target, kind, **metadata)
    except Exception as exc:
        msg = f"{kind} cannot hold this picture of mode {image.mode}: {reason(exc)}"
        raise RefusedError(msg, place) from exc
    return target.getvalue()
