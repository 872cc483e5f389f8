"""Programs frozen by PyInstaller carry the weights, without an option for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.plain

PROGRAM = """
import sys

import pillow_sdl
from PIL import Image

Image.new("RGB", (40, 30), "teal").save(sys.argv[1])
with Image.open(sys.argv[1]) as image:
    image.load()
    print(image.size, image.info["sdl_decoder"])
"""


def test_a_frozen_program_saves_and_shows_a_picture(tmp_path: Path) -> None:
    """In one folder, which is PyInstaller's default.  The package must be installed for its hook to be found."""
    pytest.importorskip("PyInstaller", reason="PyInstaller is not installed")
    source = tmp_path / "program.py"
    source.write_text(PROGRAM)
    # Torch is not needed, and would be collected with all its libraries where it is installed.
    options = ["--noconfirm", "--log-level", "ERROR", "--exclude-module", "torch", "--exclude-module", "diffusers"]
    subprocess.run([sys.executable, "-m", "PyInstaller", *options, source], check=True, cwd=tmp_path, timeout=300)
    frozen = tmp_path / "dist" / "program" / "program"
    found = subprocess.run([frozen, tmp_path / "x.sdl"], check=True, capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "(40, 30) sdl"
