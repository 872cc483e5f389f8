"""The arguments and options that several commands have, with their types, and the settings that options change."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .. import settings

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_JOBS: Final = 60
"""Largest number of worker processes.  Windows can wait for 63 objects at once."""


class Setting(NamedTuple):
    """An option that changes a setting.   metavar: the name of its value in the help.   help: its description."""

    metavar: str
    help: str


SETTINGS: Final = {
    "device": Setting("DEVICE", "where the networks run: auto, cpu, cuda, cuda:N, mps or xpu"),
    "threads": Setting("N", f"number of CPU threads for the networks, 1 to {settings.MAX_THREADS}"),
    "max_pixels": Setting("N", "refuse files with more than N pixels (width x height)"),
    "denoise": Setting(
        "NAME", f"what denoises the latent before the decoder runs: {', '.join(settings.DENOISE_CHOICES)}"
    ),
    "denoise_steps": Setting("N", f"number of calls of the UNet, 1 (default) to {settings.MAX_DENOISE_STEPS}"),
}
"""Options that change settings, by the names in `settings.Settings`."""

ENVIRONMENT: Final = {
    **{f"PILLOW_SDL_{name.upper()}": option.help for name, option in SETTINGS.items()},
    "PILLOW_SDL_DTYPE": f"type in which models of the Stable Diffusion family compute: {', '.join(settings.DTYPES)}",
    "PILLOW_SDL_MODELS": "folders with models in diffusers' layout, separated as in PATH",
    "PILLOW_SDL_DOWNLOAD": "1: download models that are missing when they are needed",
}
"""Environment variables with their help texts."""


def add_command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> Any:
    """Return the parser of a new command.   commands: what `add_subparsers` returned.   text: its description."""
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run, parser=command)
    return command


def add_inputs(command: argparse.ArgumentParser, *, folders: bool = False) -> None:
    """Add the argument INPUT, one or more.   folders: whether the command has the option --recursive."""
    text = "a file, with --recursive also a folder, or - for standard input"
    command.add_argument(
        "inputs", nargs="+", metavar="INPUT", help=text if folders else "a file, or - for standard input"
    )


def add_many(command: argparse.ArgumentParser, *, writes: bool) -> None:
    """Add the options for many files.   writes: whether the command writes files."""
    command.add_argument(
        "-r",
        "--recursive",
        action="store_true",
        help="also take the files in folders that are inputs, and in their subfolders"
        + (
            "; with a folder or several files as inputs, OUTPUT is a folder, which is made if it is missing and keeps "
            "the tree"
            if writes
            else ""
        ),
    )
    command.add_argument(
        "-j",
        "--jobs",
        type=_jobs,
        metavar="N",
        help=f"number of processes, 1 (default) to {MAX_JOBS}; the CPU threads are divided among them",
    )
    command.set_defaults(skip_existing=False, ray=None)
    if writes:
        command.add_argument(
            "--skip-existing",
            action="store_true",
            help="skip an input whose output exists and is not older than the input; replace an older output",
        )
    command.add_argument("--dry-run", action="store_true", help="print what would be done, and write nothing")


def _jobs(text: str) -> int:
    """Type of --jobs."""
    if not re.fullmatch(r"\d{1,4}", text) or not 1 <= int(text) <= MAX_JOBS:
        msg = f"the number of processes must be 1 to {MAX_JOBS}, not {text}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def add_still(command: argparse.ArgumentParser, text: str) -> None:
    """Add the option --still.   text: its help."""
    command.add_argument("--still", action="store_true", help=text)


def add_quiet(command: argparse.ArgumentParser) -> None:
    """Add the option --quiet."""
    command.add_argument("--quiet", action="store_true", help="print only warnings and errors, and no progress bar")


def add_output(command: argparse.ArgumentParser, default: str) -> None:
    """Add the options that say where the output goes.   default: the default, as the help shows it."""
    command.add_argument(
        "-o",
        "--output",
        metavar="OUTPUT",
        help=f"a file, an existing folder, or - for standard output; default {default}, and - if INPUT is -",
    )
    command.add_argument("-f", "--force", action="store_true", help="replace an output that exists")


def add_settings(command: argparse.ArgumentParser, *names: str) -> None:
    """Add options that change settings, see `SETTINGS`."""
    for name in names:
        command.add_argument(
            flag(name),
            type=checked(settings.Settings, name),
            default=argparse.SUPPRESS,
            help=SETTINGS[name].help,
            metavar=SETTINGS[name].metavar,
        )


def flag(option: str) -> str:
    """Return the name of an option on the command line: "--target-bytes" for "target_bytes"."""
    return f"--{option.replace('_', '-')}"


def checked(kind: Callable[..., object], option: str) -> Callable[[str], Any]:
    """Return an argparse type that accepts what a class accepts for one keyword argument: a number or a text."""

    def parse(text: str) -> Any:
        try:
            value: Any = int(text) if re.fullmatch(r"-?\d+", text) else text
            value = float(text) if re.fullmatch(r"-?\d*\.\d+", text) else value
            kind(**{option: value})
        except ValueError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from None
        return value

    return parse


def settings_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the command line gives."""
    return {name: getattr(options, name) for name in SETTINGS if hasattr(options, name)}
