"""`sdl encode`: turn pictures of any format that Pillow reads into .sdl files."""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import re
from pathlib import Path
from typing import Any, Final

from .. import decode, pictures, registry
from .. import options as opt
from ..failures import reason
from ..format import container
from ..latent.entropy import METHODS
from ..latent.quantizers import QUANTIZERS
from ..options import EncodeOptions
from . import arguments, bars, cluster, files, folders, printing, streams
from .tasks import Made, Task

SUFFIX: Final = ".sdl"

FIELDS: Final = {field.name: field for field in dataclasses.fields(EncodeOptions)}

DEFAULTS: Final[dict[str, Any]] = {name: field.default for name, field in FIELDS.items()}

CHOICES: Final = {
    "payload": (opt.AUTO, *METHODS),
    "tune": tuple(opt.TUNES),
    "model": tuple(model.name for model in registry.load().models),
    "quantizer": tuple(QUANTIZERS),
}
"""Values of options that are names.  The other options are whole numbers or switches."""

HELP: Final = {
    "quality": f"0 (fewest bytes) to 100, default {opt.DEFAULT_QUALITY}",
    "target_bytes": "use the best quality whose file has at most N bytes",
    "effort": f"0 (fastest) to {opt.MAX_EFFORT} (closest to the picture for its bytes), default {DEFAULTS['effort']}",
    "payload": f"entropy coder, default {DEFAULTS['payload']}: the one that gives the smaller file",
    "tune": f"choose symbols for the look of the picture or for its PSNR, default {DEFAULTS['tune']}",
    "fidelity": "store, or do not store, a map of how far the decoded picture is from the original; default: "
    + (
        f"store it from effort {opt.FIDELITY_EFFORT} on" if opt.FIDELITY_EFFORT <= opt.MAX_EFFORT else "do not store it"
    ),
    "guard": 'parts to store as real pixels: auto, off, text, faces, "text,faces", boxes LEFT,TOP,RIGHT,BOTTOM;..., or the '
    "file of a mask; default: no parts, but tiny pictures and drawings as a whole",
    "guard_share": f"largest part of the file that these pixels take, default {DEFAULTS['guard_share']}",
    "model": f"a model that `sdl models` lists, default {DEFAULTS['model']}",
    "quantizer": f"how the latent is quantized, default {DEFAULTS['quantizer']}; palette works with models that have 4 "
    "latent channels",
    "palette_size": "with --quantizer palette: largest number of entries, 1 to 256, default "
    f"{DEFAULTS['palette_size']}",
    "dither": "with --quantizer palette: do not pass errors on to neighbors",
}
"""Help texts of `options.SAVE_OPTIONS`."""

SIZE_OPTIONS: Final = ("quality", "target_bytes")
"""Options that exclude each other."""

PALETTE_OPTIONS: Final = ("palette_size", "dither")
"""Options that only the palette quantizer has."""

BOXES: Final = re.compile(r"\d+(,\d+){3}(;\d+(,\d+){3})*")
"""Boxes as --guard takes them."""


def add(commands: Any) -> None:
    """Add the command.   commands: what `add_subparsers` returned."""
    command = arguments.add_command(
        commands, "encode", run, "Turn pictures of any format that Pillow reads into .sdl files."
    )
    arguments.add_inputs(command, folders=True)
    size = command.add_mutually_exclusive_group()
    for name in opt.SAVE_OPTIONS:
        _add_option(size if name in SIZE_OPTIONS else command, name)
    command.add_argument("--strip", action="store_true", help="do not store Exif, XMP and the ICC profile")
    arguments.add_still(command, "store only the first frame of an animation")
    arguments.add_output(command, f"INPUT{SUFFIX}")
    arguments.add_many(command, writes=True)
    command.add_argument(
        "--keep-extension",
        action="store_true",
        help="write photo.jpg.sdl in place of photo.sdl, so that photo.jpg and photo.png have different outputs",
    )
    cluster.add(command)
    arguments.add_settings(command, "device", "threads")
    arguments.add_quiet(command)


def _add_option(group: Any, name: str) -> None:
    """Add one of `options.SAVE_OPTIONS`.  An option that is not given is missing in the parsed arguments."""
    flags = ["-q", _flag(name)] if name == "quality" else [_flag(name)]
    parts: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": HELP[name]}
    if DEFAULTS[name] is True:
        parts["action"] = "store_false"
    elif "bool" in str(FIELDS[name].type):
        parts["action"] = argparse.BooleanOptionalAction
    elif name == "guard":
        parts |= {"type": _guard, "metavar": "WHAT"}
    elif name == "guard_share":
        parts |= {"type": arguments.checked(EncodeOptions, name), "metavar": "SHARE"}
    elif name in CHOICES:
        parts["choices"] = CHOICES[name]
        if name == "model":
            parts["metavar"] = "NAME"
    else:
        parts |= {"type": arguments.checked(EncodeOptions, name), "metavar": "N"}
    group.add_argument(*flags, **parts)


def _guard(text: str) -> Any:
    """Return the value of --guard: boxes, a mask, or a word.  Raises ArgumentTypeError."""
    value: Any = text
    if BOXES.fullmatch(text):
        value = [tuple(map(int, box.split(","))) for box in text.split(";")]
    try:
        EncodeOptions(guard=value)
    except ValueError as exc:
        if not os.path.isfile(text):  # noqa: PTH113  Path.is_file raises for a name that is too long
            msg = f"{exc}; there is no file of this name"
            raise argparse.ArgumentTypeError(msg) from exc
    else:
        return value
    try:
        with files.open_image(text) as image:
            image.load()
    except Exception as exc:  # Pillow raises many kinds.
        msg = f"{text}: {reason(exc)}"
        raise argparse.ArgumentTypeError(msg) from exc
    return image


def _flag(name: str) -> str:
    return arguments.flag(f"no_{name}" if DEFAULTS[name] is True else name)


def run(options: argparse.Namespace) -> int:
    """Encode every input.  Returns the exit status."""
    _check(options)
    command = cluster.command(COMMAND, options, _given(options)) if options.ray else COMMAND
    return folders.run(options, command)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `save` that the command line gives."""
    return {name: getattr(options, name) for name in opt.SAVE_OPTIONS if hasattr(options, name)}


def _check(options: argparse.Namespace) -> None:
    """Exit with status 2 for options that do not go together and for an output with a wrong name."""
    given = _given(options)
    unused = [name for name in PALETTE_OPTIONS if name in given]
    if unused and given.get("quantizer", DEFAULTS["quantizer"]) != "palette":
        options.parser.error(f"{_flag(unused[0])} goes with --quantizer palette only")
    try:
        EncodeOptions(**given)
    except ValueError as exc:
        options.parser.error(str(exc))
    output: str | None = options.output
    if not output or output == streams.STREAM or files.is_folder(output) or files.names_folder(output):
        return
    if options.ray and cluster.is_remote(options):
        return
    is_file = len(options.inputs) == 1 and not folders.fills_folder(options) and not files.is_device(output)
    if is_file and Path(output).suffix.lower() != SUFFIX:
        folder = "; end the name of a folder with /" if options.recursive else ""
        name = printing.printable(output)
        options.parser.error(f"encode writes SDL files, so the name of the output must end in {SUFFIX}: {name}{folder}")


def _output(name: str, options: argparse.Namespace, inside: str | None) -> str:
    return files.output_for(name, options, SUFFIX, inside, keep=options.keep_extension)


def _make(task: Task, options: argparse.Namespace) -> Made:
    """Return the SDL file of an input."""
    name = task.name
    with files.open_image(name) as image:
        for text in pictures.losses(image, still=options.still):
            printing.warn(printing.shown_input(name), text)
        with bars.progress_bar(name, options):
            data = pictures.encoded(image, strip=options.strip, still=options.still, **_given(options))
        width, height = image.size
    # Those of the output: an APNG file may have one more, a still picture for other programs, which is left out.
    stored = decode.read_frames(container.read(io.BytesIO(data)))
    frames = len(stored.durations) if stored else 1
    bits = 8 * len(data) / (width * height * frames)
    size = f"{width} x {height}" + (f", {frames} frames" if frames > 1 else "")
    return Made(f"{size}, {len(data):,} bytes, {bits:.3f} bits per pixel", data)


COMMAND: Final = folders.Command(_make, pictures.extensions, "not a picture", "encoded", _output)
