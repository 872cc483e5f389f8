"""What the documentation says is true of the code, and its pages build."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
from PIL import Image

import pillow_sdl
from docs import docstrings, generate, measured
from pillow_sdl import cli, options, registry, settings

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md")) + sorted((ROOT / "docs" / "models").glob("*.md"))
DOCUMENTS = [README, *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY")), *PAGES]
"""All Markdown that people read, except for the specification."""

STAND_INS = ROOT / "tests" / "golden" / "models"
"""A small network in the place of taesd."""

_FENCE = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """A block of code.   language: what follows the fence.   reason: why it cannot run in a test, or None."""

    language: str
    code: str
    reason: str | None


def blocks(path: Path) -> list[Block]:
    """Return the blocks of code of a Markdown file, in order."""
    found = _FENCE.finditer(path.read_text("utf-8"))
    return [Block(match["language"], match["code"], match["reason"]) for match in found]


def name(path: Path) -> str:
    """Return the path of a document from the project's root, for the names of tests."""
    return path.relative_to(ROOT).as_posix()


def runnable(path: Path) -> list[Block]:
    """Return the blocks of a document that run, in order."""
    return [block for block in blocks(path) if block.language in {"python", "sh"} and not block.reason]


READER: Final = """
import json, subprocess, sys
names = {"__name__": "__main__"}
for language, code in json.loads(sys.argv[1]):
    if language == "python":
        exec(code, names)
    else:
        subprocess.run(["bash", "-euo", "pipefail", "-c", code], check=True)
"""
"""A program that runs blocks one after the other."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the photo and the animation that the documents use, and with the program `sdl` in bin/."""
    (tmp_path / "docs").mkdir()
    for target in ("photo.jpg", "docs/grace_hopper.jpg"):
        shutil.copy(ROOT / "docs" / "grace_hopper.jpg", tmp_path / target)
    frames = [Image.new("RGB", (48, 32), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "anim.gif", save_all=True, append_images=frames[1:], duration=100, loop=0)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "sdl"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pillow_sdl "$@"\n')
    program.chmod(0o755)
    return tmp_path


def run(command: list[str], folder: Path) -> str:
    """Run a command in a folder and return its output.  Fails with what it printed if its exit status is not 0."""
    environment = {
        **os.environ,
        "XDG_DATA_HOME": str(folder / "data"),  # `sdl desktop install` writes there.
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PILLOW_SDL_MODELS": str(STAND_INS),
    }
    found = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


# Code


def test_every_block_has_a_known_language() -> None:
    """A block in another language would not be tested."""
    for path in DOCUMENTS:
        assert path.read_text("utf-8").count("```") == 2 * len(blocks(path)), name(path)
        for block in blocks(path):
            assert block.language in {"python", "sh"} or block.language.startswith("{"), f"{name(path)}: {block}"


def test_blocks_do_not_run_for_a_good_reason_only() -> None:
    """A block without a reason runs."""
    for path in DOCUMENTS:
        for block in blocks(path):
            assert block.reason is None or re.match(r"(installs|downloads|needs) ", block.reason), (
                f"{name(path)}: {block}"
            )


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if runnable(path)], ids=name)
def test_a_document_runs_in_the_order_in_which_it_is_read(path: Path, folder: Path) -> None:
    """All Python and all commands of a document, in one folder with a photo.  Blocks of Python share their names."""
    code = [
        (block.language, block.code) for block in runnable(path) if block.language == "python" or shutil.which("bash")
    ]
    run([sys.executable, "-W", "error", "-c", READER, json.dumps(code)], folder)


def test_the_readme_example_writes_the_picture(folder: Path) -> None:
    """The first example of README does what its comments say."""
    example = next(block for block in blocks(README) if block.language == "python")
    assert len(example.code.strip().splitlines()) == 6
    run([sys.executable, "-c", example.code], folder)
    assert (folder / "picture.sdl").read_bytes().startswith(b"\x89SDL")
    with Image.open(folder / "picture.png") as image:
        assert image.size == (512, 600)


NOT_RUN = [(path, block) for path in DOCUMENTS for block in blocks(path) if block.reason]


@pytest.mark.parametrize(("path", "block"), NOT_RUN, ids=[name(path) for path, _ in NOT_RUN])
def test_blocks_that_do_not_run_are_well_formed(path: Path, block: Block) -> None:
    """Python compiles; the shell reads it; `sdl` knows the options; the extras and the groups exist."""
    if block.language == "python":
        compile(block.code, name(path), "exec")
        return
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    for line in block.code.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["sdl"]:
            cli.parser().parse_args(words[1:])
        for extras in re.findall(r"pillow-sdl\[([^]]+)\]", line):
            assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
        for group in re.findall(r"--group (\S+)", line):
            assert group in project["dependency-groups"]
        for file in re.findall(r"(?<![\w./-])(?:scripts|docs)/[\w.]+", line):
            assert (ROOT / file).exists(), file


# Completeness


def test_the_readme_shows_every_command() -> None:
    """All commands of the program are in README."""
    shown = {line.split()[1] for block in blocks(README) for line in block.code.splitlines() if line.startswith("sdl ")}
    assert shown == {command.split()[1] for command, _ in generate.commands()}


def test_the_api_reference_is_complete() -> None:
    """Every public name has its entry."""
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    entries = re.findall(r"^\.\. auto\w+:: pillow_sdl\.(\w+)$", text, re.MULTILINE)
    assert sorted(entries) == sorted(set(pillow_sdl.__all__) - {"__version__"})


def test_links_lead_somewhere() -> None:
    """Relative links, those of the specification included."""
    for path in [*DOCUMENTS, *(ROOT / "spec").glob("*.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", path.read_text("utf-8")):
            assert (path.parent / link).exists() or "_generated" in link, f"{name(path)}: {link}"


def test_lines_are_short() -> None:
    """At most 120 characters, but for tables; README is about 120 lines."""
    assert len(README.read_text("utf-8").splitlines()) <= 130
    for path in DOCUMENTS:
        for line in path.read_text("utf-8").splitlines():
            assert len(line) <= 120 or line.startswith("|"), f"{name(path)}: {line}"


def test_nothing_is_left_to_fill_in() -> None:
    """No placeholder of a figure that was to come."""
    for path in [*DOCUMENTS, ROOT / "NOTICE"]:
        assert "TODO" not in path.read_text("utf-8"), name(path)


def test_the_notice_has_the_license_of_what_weights_derive_from() -> None:
    """TAESD's license asks for its copyright line and its text."""
    text = (ROOT / "NOTICE").read_text("utf-8")
    assert "Copyright (c) 2023 Ollin Boer Bohan" in text
    assert "The above copyright notice and this permission notice shall be included" in text


# Generated parts


def test_the_readme_table_is_that_of_the_results() -> None:
    """`python docs/generate.py --readme` writes it."""
    found = measured.results("rd")
    assert found is not None
    _, table, _ = generate.between_markers(README.read_text("utf-8"))
    assert table == f"{measured.readme_table(found)}\n"
    names = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert sorted(names) == sorted(["SDL", "AVIF", "WebP", "JPEG", "HEIC", "JPEG XL"])


def test_markers_that_are_missing_are_an_error() -> None:
    """Nothing is written into a README without them."""
    with pytest.raises(ValueError, match="README needs a line"):
        generate.between_markers("no markers")


def test_every_option_is_described() -> None:
    """Of `save` and of the settings, with the flag of the command line where there is one."""
    saving, setting = generate.options_page(options.EncodeOptions), generate.options_page(settings.Settings)
    for text, kind in ((saving, options.EncodeOptions), (setting, settings.Settings)):
        headings = re.findall(r"^### (.*)$", text, re.MULTILINE)
        described = [part.strip("`") for heading in headings for part in heading.split(", ")]
        assert sorted(described) == sorted(field.name for field in dataclasses.fields(kind))
    assert "Command line: `--target-bytes`." in saving
    assert "`PILLOW_SDL_MAX_PIXELS`" in setting


def test_an_option_without_a_description_is_an_error() -> None:
    """So that no page lacks it."""

    @dataclasses.dataclass
    class Options:
        """Options.

        first: the first one.
        """

        first: int = 1
        second: int = 2

    with pytest.raises(ValueError, match="the docstring of Options does not describe second"):
        generate.options_page(Options)


def test_the_command_page_is_that_of_the_parser() -> None:
    """Every argument of every command has an entry."""
    text = generate.command_page()
    for command, parser in generate.commands():
        section = text.split(f"## `{command}`\n")[1].split("\n## ")[0]
        for action in parser._actions:
            if not isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
                shown = action.option_strings[-1] if action.option_strings else str(action.metavar)
                assert re.search(rf"^`.*{re.escape(shown)}.*`\n: ", section, re.MULTILINE), f"{command}: {shown}"


def test_all_models_are_in_the_table() -> None:
    """Those of the registry, each with its license."""
    text = generate.models_page()
    for model in registry.load().models:
        assert re.search(
            rf"^\| `{re.escape(model.name)}` \| `{model.space}` .*{re.escape(model.license)}", text, re.MULTILINE
        )


def mean(kind: str, target: float = 0.15, off: int = 0, lpips: float = 0.2) -> dict[str, Any]:
    """Return one point of results, as benchmarks.report writes it."""
    measured = {"psnr": 25.0, "ms_ssim": 0.9, "lpips": lpips, "dists": 0.1, "bpp": target}
    return {"target": target, "format": kind, "photos": 24, "off_target": off, **measured}


def test_rates_that_a_format_misses_are_marked() -> None:
    """Its row has a star, and the note says for how many photos."""
    text = measured.rate_tables({"means": [mean("JPEG", off=3), mean("SDL", lpips=0.1234)]})
    assert "### 0.15 bits per pixel" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[2] == "| SDL | 0.150 | 0.123 | 0.100 | 25.0 | 0.900 |"
    assert rows[3].startswith(r"| JPEG | 0.150\* |")
    assert "JPEG 3 of 24" in text


def test_results_of_another_model_say_so() -> None:
    """By the hash of the weights that the results record."""
    weights = registry.model(registry.EMBEDDED).weights
    assert weights is not None
    assert measured.model_note({"setting": {"models": {"sdl": weights.sha256}}}) == ""
    assert "earlier" in measured.model_note({"setting": {"models": {"sdl": "0" * 64}}})
    assert "do not record" in measured.model_note({})


def test_sdl_with_a_model_that_is_gone_is_left_out() -> None:
    """Committed results may hold rows of models that the registry no longer has."""
    assert [measured.is_shown(kind) for kind in ("SDL", "SDL taesd", "SDL effort 8", "SDL gone", "AVIF")] == [
        True, True, True, False, True
    ]  # fmt: skip


def test_differences_are_words() -> None:
    """A negative BD-rate is fewer bytes."""
    pairs = [
        {"format": "SDL", "anchor": "AVIF", "metric": metric, "percent": percent}
        for metric, percent in (("psnr", 12.4), ("ms_ssim", None), ("lpips", -63.6), ("dists", -0.6))
    ]
    *_, row = measured.bd_rates({"bd_rates": pairs}).splitlines()
    assert row == "| AVIF | 64 % fewer | 1 % fewer | 12 % more | no common quality |"


def test_results_that_are_missing_are_named_as_such(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A page does not fail for a benchmark that has not been run for this release."""
    shutil.copy(measured.RESULTS / "rd.json", tmp_path)
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    assert generate.fragments()["stages"] == "Not measured for this release."


# Docstrings


def test_docstrings_are_read_in_parts() -> None:
    """Paragraphs, descriptions, continuation lines, two descriptions on a line, exceptions."""
    found = docstrings.parse(
        [
            "Return it.",
            "",
            "first: the first",
            "    one: it goes on.",
            "second, third: in pixels.   fourth: another.",
            "Raises ValueError for this,",
            "and OSError.",
            "",
            "Note: this is a paragraph.",
            "It has two lines.",
        ],
        ["first", "second", "third", "fourth"],
    )
    assert found.before == ["Return it."]
    assert found.entries == {
        ("first",): "the first one: it goes on.",
        ("second", "third"): "in pixels.",
        ("fourth",): "another.",
    }
    assert found.raises == ["Raises ValueError for this, and OSError."]
    assert found.after == ["Note: this is a paragraph.\nIt has two lines."]


def test_docstrings_are_written_as_lists() -> None:
    """Descriptions, and links to the project's exceptions."""
    found = docstrings.parse(["Read.", "", "size: of it.", "Raises LimitError, ValueError."], ["size"])
    assert [line for line in docstrings.to_rst(found, "Parameters") if line] == [
        "Read.",
        ":Parameters:",
        "    ``size``",
        "        Of it.",
        ":Raises:",
        "    :py:exc:`~pillow_sdl.LimitError`, ValueError.",
    ]


# Pages


def test_the_pages_build_and_need_nothing_from_elsewhere(tmp_path: Path) -> None:
    """Without a warning; no page loads a script, a style, a font or a picture from another place."""
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    command = [sys.executable, str(ROOT / "docs" / "build.py"), "--strict", "--output", str(tmp_path)]
    run(command, ROOT)
    pages = {page.relative_to(tmp_path).as_posix() for page in tmp_path.rglob("*.html")}
    assert {page.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for page in PAGES} <= pages
    for page in sorted(pages):
        text = (tmp_path / page).read_text("utf-8")
        assert not re.search(r"""<(?:script|img|iframe)[^>]+src=["'](?:https?:)?//""", text), page
        assert not re.search(r"""<link[^>]+rel=["'](?:stylesheet|preload)["'][^>]+href=["'](?:https?:)?//""", text), (
            page
        )
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?(?:https?:)?//", style.read_text("utf-8")), style.name
    index = (tmp_path / "searchindex.js").read_text("utf-8")
    assert "target_bytes" in json.dumps(index)
