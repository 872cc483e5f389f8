"""Write the parts of the documentation that repeat facts of the code, the registry and the benchmarks' results.

    python docs/generate.py             # docs/_generated/, as every build of the documentation does
    python docs/generate.py --readme    # also the chart docs/lpips.svg and the table in README.md

Pages include the files of docs/_generated/.  A test compares README's table with the results.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import report
from docs import measured
from docs.docstrings import capitalized, parse
from docs.tables import left, table
from pillow_sdl import cli, registry
from pillow_sdl.options import EncodeOptions
from pillow_sdl.settings import Settings

DOCS: Final = Path(__file__).resolve().parent
ROOT: Final = DOCS.parent
FOLDER: Final = DOCS / "_generated"
README: Final = ROOT / "README.md"
CHART: Final = DOCS / "lpips.svg"

BEGIN: Final = "<!-- table: begin -->"
END: Final = "<!-- table: end -->"


# Options and commands


def _described(options: type[Any]) -> dict[tuple[str, ...], str]:
    """Return the descriptions of the fields of a dataclass, from its docstring."""
    names = {field.name for field in dataclasses.fields(options)}
    entries = parse((inspect.getdoc(options) or "").splitlines(), names).entries
    missing = names.difference(*entries)
    if missing:
        msg = f"the docstring of {options.__name__} does not describe {', '.join(sorted(missing))}"
        raise ValueError(msg)
    return {group: _sentence(text) for group, text in entries.items()}


def _sentence(text: str) -> str:
    """Return a description as a sentence in Markdown, with values, variables and flags as code."""
    text = re.sub(r'(?<!`)("[\w.:,]+"|\b[A-Za-z]+(?:_[A-Za-z]+)+\b|(?<!\w)--[a-z-]+)(?!`)', r"`\1`", text)
    return capitalized(text.rstrip(".")) + "."


def _flags() -> dict[str, str]:
    """Return the options of the commands that set an option of `save` or a setting, by the name of that."""
    found: dict[str, str] = {}
    for _, command in commands():
        for action in command._actions:
            if action.option_strings:
                found.setdefault(action.dest, ", ".join(f"`{flag}`" for flag in action.option_strings))
    return found


def options_page(options: type[Any]) -> str:
    """Return a heading and a description for the fields of a dataclass of options."""
    flags, parts = _flags(), []
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    for names, text in _described(options).items():
        facts = []
        if (default := defaults[names[0]]) not in (None, b"", ()):
            facts.append("Default: `" + (f'"{default}"' if isinstance(default, str) else repr(default)) + "`")
        if names[0] in flags:
            facts.append(f"Command line: {flags[names[0]]}")
        parts.append(f"### {', '.join(f'`{name}`' for name in names)}\n\n{text}\n")
        if facts:
            parts.append(f"{'. '.join(facts)}.\n")
    return "\n".join(parts)


def commands() -> list[tuple[str, argparse.ArgumentParser]]:
    """Return the program's commands with the parsers of their arguments, those with subcommands first."""
    found: list[tuple[str, argparse.ArgumentParser]] = []

    def walk(parser: argparse.ArgumentParser) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for command in action.choices.values():
                    found.append((command.prog, command))
                    walk(command)

    walk(cli.parser())
    return found


def _argument(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return an argument and its description as an item of a definition list."""
    formatter = parser._get_formatter()
    if action.option_strings:
        value = "" if action.nargs == 0 else f" {formatter._format_args(action, action.dest.upper())}"
        term = ", ".join(f"`{flag}{value}`" for flag in action.option_strings)
    else:
        term = f"`{action.metavar or action.dest}`"
    return f"{term}\n: {_sentence(formatter._expand_help(action))}\n"


def command_page() -> str:
    """Return the description of all commands, from their parsers."""
    os.environ |= {"COLUMNS": "80", "NO_COLOR": "1"}
    parts = []
    for name, command in commands():
        usage = command.format_usage().removeprefix("usage: ")
        parts.append(f"## `{name}`\n\n{command.description}\n\n```text\n{usage}```\n")
        parts += [
            _argument(command, action)
            for action in command._actions
            if not isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
        ]
    epilog = (cli.parser().epilog or "").strip()
    return "\n".join([*parts, f"## Exit status and environment\n\n```text\n{epilog}\n```\n"])


# Registry


def models_page() -> str:
    """Return the table of models."""
    rows = []
    for model in registry.load().models:
        size = f"{model.megabytes} MB" if model.repositories else "in the package"
        repository = model.repositories[0].name if model.repositories else ""
        unet = f"{model.unet.megabytes / 1000:.1f} GB" if model.unet else ""
        rows.append([f"`{model.name}`", f"`{model.space}`", size, model.license, unet, repository])
    titles = ["model", "latent space", "download", "license", "its UNet", "first repository on the hub"]
    return left(table(titles, rows))


def spaces_page() -> str:
    """Return the table of latent spaces."""
    rows = [
        [f"`{space.name}`", str(space.channels), f"{space.factor} x {space.factor}", "yes" if space.denoiser else "no"]
        for space in registry.load().spaces
    ]
    return left(table(["latent space", "channels", "pixels for a position", "denoiser in the package"], rows))


def _weights_size(name: str) -> str:
    size = (registry.WEIGHTS_FOLDER / name).stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.0f} KB"


def embedded_page() -> str:
    """Return the facts of the embedded model that the registry and its files hold."""
    model, space = registry.model(registry.EMBEDDED), registry.space(registry.EMBEDDED)
    assert model.weights is not None
    assert model.graphs is not None
    files = [
        f"`{stored.file}`, {_weights_size(stored.file)} ({what})"
        for stored, what in (
            (model.weights, "weights"),
            (model.graphs.encoder, "graph of the encoder"),
            (model.graphs.decoder, "graph of the decoder"),
            (space.tables, "quantizer steps, preview"),
            (space.context, "context model"),
        )
    ]
    rows = [
        ["Name", f"`{model.name}`, the default of `save`"],
        ["Files", "; ".join(files)],
        ["Latent space", f"`{space.name}`, number {space.code} in a header"],
        ["Latent", f"{space.channels} channels, one position for {space.factor} x {space.factor} pixels"],
        ["Hash", f"`{model.hash}`"],
        ["License", f"{model.license}, as the project; see NOTICE"],
    ]
    return left(table(["", ""], rows))


# All of it


def between_markers(text: str) -> tuple[str, str, str]:
    """Return the parts of a text before, between and after README's markers, which stay with the outer parts."""
    before, begin, rest = text.partition(f"{BEGIN}\n")
    inside, end, after = rest.partition(END)
    if not (begin and end):
        msg = f"README needs a line {BEGIN} and after it a line {END}"
        raise ValueError(msg)
    return before + begin, inside, end + after


def fragments() -> dict[str, str]:
    """Return the text of every generated file by its name."""
    found = measured.results("rd")
    assert found is not None
    pages = {
        "options": options_page(EncodeOptions),
        "settings": options_page(Settings),
        "command-line": command_page(),
        "models": models_page(),
        "spaces": spaces_page(),
        "embedded": embedded_page(),
        "summary": measured.summary(found),
        "rates": measured.rate_tables(found),
        "bd-rates": measured.bd_rates(found),
        "setting": measured.setting(found),
        "limit": measured.limit(found),
        "qualities": measured.qualities(found),
    }
    benchmarks = {
        "coders": ("rd_latents", measured.latents_table),
        "default-and-taesd": ("rd_latents", measured.default_and_taesd),
        "entropy-sdl": ("entropy_sdl", measured.entropy_table),
        "entropy-sd1": ("entropy_sd1", measured.entropy_table),
        "read-times": ("entropy_sd1", measured.read_times),
        "speed": ("speed_512", measured.speed_table),
        "large": ("speed", measured.large_table),
        "fidelity": ("fidelity", measured.fidelity_tables),
        "animation": ("animation", measured.animation_tables),
        "denoise": ("denoise_taesd", measured.denoise_table),
        "against-palette": ("denoise_taesd", measured.against_palette),
        "overhead": ("overhead_taesd", measured.overhead_text),
        "stages": ("stages", measured.stages_table),
        "palette": ("palette", measured.palette_text),
    }
    for page, (file, show) in benchmarks.items():
        result = measured.results(file)
        pages[page] = measured.NOT_MEASURED if result is None else show(result)
    return pages


def main(folder: Path = FOLDER) -> None:
    """Write all files.  Files whose content has not changed are not touched, so that Sphinx does not read them again."""
    folder.mkdir(exist_ok=True)
    for name, text in fragments().items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text("utf-8") != f"{text}\n":
            path.write_text(f"{text}\n", "utf-8")
    found = measured.results("rd")
    assert found is not None
    for metric in ("lpips", "dists", "psnr"):
        report.chart(found["means"], folder / f"{metric}.svg", metric)


def update_readme() -> None:
    """Write README's table and chart from the results."""
    found = measured.results("rd")
    assert found is not None
    before, _, after = between_markers(README.read_text("utf-8"))
    README.write_text(f"{before}{measured.readme_table(found)}\n{after}", "utf-8")
    report.chart(found["means"], CHART)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the generated parts of the documentation.")
    parser.add_argument("--readme", action="store_true", help="also README's table and chart")
    arguments = parser.parse_args()
    main()
    if arguments.readme:
        update_readme()
