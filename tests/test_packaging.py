"""The wheel holds everything that works offline, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from typing import TYPE_CHECKING

import pytest

import pillow_sdl
from pillow_sdl import registry

from .conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.plain


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


def stored_files() -> set[str]:
    """Return the names of all files that the registry names in the package."""
    known = registry.load()
    spaces = [part for space in known.spaces for part in (space.tables, space.context, space.denoiser)]
    models = [model.weights for model in known.models]
    graphs = [part for model in known.models if model.graphs for part in (model.graphs.encoder, model.graphs.decoder)]
    return {part.file for part in (known.distributions, *spaces, *models, *graphs) if part}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """No tests, no training, and every file of the package: weights, graphs, registry and the marker for types."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for path in (ROOT / "pillow_sdl").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert names == {path.relative_to(ROOT).as_posix() for path in files}
    needed = {f"pillow_sdl/weights/{name}" for name in stored_files() | {"registry.json"}} | {"pillow_sdl/py.typed"}
    assert needed <= names


def test_everything_but_stored_files_is_small(wheel: Path) -> None:
    """Code and documents take at most 1 MB of the wheel, and the wheel at most 30 MB."""
    sizes = {info.filename: info.compress_size for info in zipfile.ZipFile(wheel).infolist()}
    stored = sum(sizes[f"pillow_sdl/weights/{name}"] for name in stored_files())
    assert sum(sizes.values()) - stored < 1e6
    assert wheel.stat().st_size < 30e6


def test_the_wheel_needs_no_torch(wheel: Path) -> None:
    """PyTorch and the packages of diffusion models are extras."""
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = HeaderParser().parsestr(archive.read(name).decode())
    assert metadata["Version"] == pillow_sdl.__version__
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert required
    assert not [line for line in required if line.startswith(("torch", "diffusers", "transformers"))]
    assert set(metadata.get_all("Provides-Extra", [])) >= {"torch", "diffusion", "prompt"}


def test_the_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Unpacked in an empty folder, it saves and loads."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    program = (
        "import sys, pillow_sdl; from PIL import Image; assert pillow_sdl.__file__.startswith(sys.argv[1]);"
        "Image.new('RGB', (20, 10)).save('x.sdl'); assert Image.open('x.sdl').convert('L').size == (20, 10)"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
