"""The wheel: all that works offline is in it, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pillow_sdl.latent.spaces import SPACES
from pillow_sdl.models import cards

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_has_the_network(wheel: Path) -> None:
    """Weights, tables, their card, the types' marker; no tests and no training.

    16 MB at most, and 8 MB of denoiser, and the networks of before, for their files.
    """
    names = set(zipfile.ZipFile(wheel).namelist())
    *before, now = [space.name for space in SPACES if space.name.startswith("sdl")]
    assert cards.by_name("embedded").space == now
    files = [f"{space}{part}" for space in (*before, now) for part in ("", "-tables", "-context")]
    weights = [f"weights/{name}.safetensors" for name in (*files, "sd1-denoiser")]
    for name in (*weights, "weights/README.md", "py.typed"):
        assert f"pillow_sdl/{name}" in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"pillow_sdl"}
    sizes = {info.filename: info.compress_size for info in zipfile.ZipFile(wheel).infolist()}
    denoiser = sizes["pillow_sdl/weights/sd1-denoiser.safetensors"]
    assert denoiser < 8e6
    networks = [sizes[f"pillow_sdl/weights/{space}.safetensors"] for space in before]
    assert max(networks) < 15e6
    assert wheel.stat().st_size - denoiser - sum(networks) < 16e6


def test_the_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Unpacked somewhere else, it saves and loads."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = (
        "import pillow_sdl; from PIL import Image; assert pillow_sdl.__file__.startswith(__import__('sys').argv[1]);"
        "Image.new('RGB', (20, 10)).save('x.sdl'); assert Image.open('x.sdl').convert('L').size == (20, 10)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=tmp_path, check=True, capture_output=True)
