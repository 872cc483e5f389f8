"""What the documentation says is true of the code."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from pillow_sdl import cli, codec, settings
from pillow_sdl.models import cards

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def test_the_examples_run(tmp_path: Path) -> None:
    """README's Python, as it stands there, one example after the other, in a folder with the photo."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) == 2
    program, space = "\n".join(examples), cards.by_name("embedded").space
    found = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert found.stdout.splitlines() == ["(512, 600) True", f"{space} (96, 38, 32) 512 600", "(512, 256)"]
    with Image.open(tmp_path / "photo.png") as image:
        assert image.size == (512, 600)


def test_every_command_and_option_is_documented() -> None:
    """Commands of the program, options of save, settings: each stands in README."""
    commands = re.findall(r"^    sdl (\w+)", README, re.MULTILINE)
    assert set(commands) == {"encode", "decode", "info", "verify", "models"}
    for command in commands:
        arguments = [] if command == "models" else ["x.sdl"]
        assert cli._parser().parse_args([command, *arguments]).command == command
    for option in [*dataclasses.fields(codec.EncodeOptions), *dataclasses.fields(settings.Settings)]:
        assert re.search(rf"`[^`\n]*\b{option.name}\b[^`\n]*`", README), option.name


def test_links_lead_somewhere() -> None:
    """Relative links of all Markdown files that people read."""
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "spec" / "SPEC.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text("utf-8")):
            assert (path.parent / link).exists(), f"{path.name}: {link}"


def test_nothing_is_left_to_fill_in() -> None:
    """No placeholder of a figure that was to come."""
    for path in (ROOT / "README.md", ROOT / "spec" / "registry.md", ROOT / "pillow_sdl" / "weights" / "README.md"):
        assert not re.search(r"@[A-Z]+@", path.read_text("utf-8")), path.name
