"""`sdl info`: say what .sdl files hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from .. import decode
from . import arguments, attempts, files, printing

if TYPE_CHECKING:
    import argparse

SECTION_NAMES: Final = {
    "header": "header",
    "i": "ICC profile",
    "e": "Exif",
    "x": "XMP",
    "f": "fidelity map",
    "g": "guard patches",
    "m": "further frames",
    "A": "alpha",
    "P": "palette",
    "L": "latent",
}


def add(commands: Any) -> None:
    """Add the command.   commands: what `add_subparsers` returned."""
    command = arguments.add_command(commands, "info", run, "Say what .sdl files hold, without decoding them.")
    arguments.add_inputs(command)
    command.add_argument("--json", action="store_true", help="print one JSON object for each input, each on one line")
    arguments.add_quiet(command)


def run(options: argparse.Namespace) -> int:
    """Describe every input.  Returns the exit status."""
    return attempts.for_each_file(options, lambda name: _info(name, options))


def _info(name: str, options: argparse.Namespace) -> None:
    found = decode.inspect(files.read_container(name))
    printing.show(json.dumps({"file": name} | found) if options.json else _text(printing.shown_input(name), found))


def _text(name: str, found: dict[str, Any]) -> str:
    """Return the description of a file as text.   found: what `decode.inspect` returned."""
    shape = " x ".join(map(str, found["latent_shape"] or ["?"]))
    names = {key: found[key] or "unknown" for key in ("model", "latent_space", "quantizer", "payload")}
    latent = [names["latent_space"], shape, f"quantizer {names['quantizer']}", _fineness(found)]
    lines = [
        name,
        f"  picture   {found['width']} x {found['height']} {found['mode']}, {found['bits_per_pixel']:.3f} bits per pixel",
        f"  format    version {found['format_version']}",
        f"  model     {names['model']}, hash {found['model_hash']}",
        f"  latent    {', '.join([*latent, 'payload ' + names['payload']])}",
    ]
    if found["durations"] is not None:
        plays = "without end" if found["loop"] == 0 else "once" if found["loop"] == 1 else f"{found['loop']} times"
        lines.append(f"  frames    {found['frames']} in {sum(found['durations']) / 1000:g} s, played {plays}")
    if found["fidelity"] is not None:
        whole = "the whole picture" if found["durations"] is None else "frame 0"
        errors = f"{found['fidelity']['mean']:g} in {whole}, {found['fidelity']['worst']:g} in the worst cell"
        lines.append(f"  fidelity  error of at most {errors}, in levels of 0 to 255, with this model")
    if found["guarded"]:
        count = len(found["guarded"])
        lines.append(f"  guarded   {count} {'part' if count == 1 else 'parts'} stored as pixels; --json lists them")
    lines += [f"  {size:>9,}  {SECTION_NAMES.get(part, f'section {part}')}" for part, size in found["bytes"].items()]
    return "\n".join([*lines, f"  {found['size']:>9,}  bytes in all"])


def _fineness(found: dict[str, Any]) -> str:
    """Return how finely the latent is quantized, as text."""
    if found["palette_size"] is None or found["dithered"] is None:
        return f"quality {found['quality']}"
    return f"{found['palette_size']} entries, {'dithered' if found['dithered'] else 'not dithered'}"
