"""Fixtures that tests share: files, a network that loses nothing, and programs in a fresh interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings
from PIL import Image, ImageCms

import pillow_sdl
from pillow_sdl import registry, settings
from pillow_sdl.latent import spaces
from pillow_sdl.models import store

from . import images

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from pillow_sdl.models.base import DifferentiableAutoencoder

# The default run tries the same examples every time.  `--hypothesis-profile=thorough` looks for new ones.
hypothesis_settings.register_profile("steady", deadline=None, derandomize=True, max_examples=100)
hypothesis_settings.register_profile("thorough", deadline=None, max_examples=5000)
hypothesis_settings.load_profile("steady")


ROOT = Path(__file__).parent.parent

MODEL = registry.model(registry.EMBEDDED)
"""The embedded model, whichever one this release ships."""

SPACE = registry.space(registry.EMBEDDED)
"""The latent space of the embedded model."""

EXIF = Image.Exif()
EXIF[0x0112] = 6  # Orientation: turn right to show.
EXIF[0x010F] = "a camera's maker"
XMP = b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>' + b"<x:xmpmeta/>" + b" " * 200 + b'<?xpacket end="w"?>'


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out modules without a test marked `plain` where torch is not installed, because they import it."""
    if collection_path.name.startswith("test_") and importlib.util.find_spec("torch") is None:
        return True if "pytest.mark.plain" not in collection_path.read_text("utf-8") else None
    return None


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real photos that PILLOW_SDL_TEST_DATA names.  Its folder edge/ holds unusual pictures."""
    named = os.environ.get("PILLOW_SDL_TEST_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip("PILLOW_SDL_TEST_DATA names no folder of photos")
    return Path(named)


@pytest.fixture(scope="session")
def srgb() -> bytes:
    """An ICC profile of RGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A square of 320 x 320 pixels of the photo in docs/, RGB."""
    with Image.open(ROOT / "docs" / "grace_hopper.jpg") as image:
        return image.convert("RGB").crop((100, 50, 420, 370))


@pytest.fixture(scope="session")
def plain_file() -> bytes:
    """A file that holds only a latent."""
    return images.saved(images.gradient(), fidelity=False, guard="off")


@pytest.fixture(scope="session")
def tiny_file() -> bytes:
    """A file of one latent position, which has few enough bytes to damage each of them."""
    return images.saved(images.gradient(SPACE.factor, SPACE.factor), quality=0, fidelity=False, guard="off")


@pytest.fixture(scope="session")
def rich_file() -> bytes:
    """A small file with every section but the palette.  Exif is compressed, the other metadata is stored as it is."""
    profile = bytes(16) + b"RGB " + bytes(range(40))
    exif = EXIF.tobytes() + b"long and dull " * 10
    image = images.noise(5, 3, "RGBA")
    metadata: dict[str, Any] = {"icc_profile": profile, "exif": exif, "xmp": b"<x:xmpmeta/>"}
    data = images.saved(image, quality=0, fidelity=True, **metadata)
    names = [section.name for section in images.parsed(data).sections]
    assert names == [b"i", b"e", b"x", b"f", b"g", b"A", b"L"]
    return data


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the settings of other tests."""
    monkeypatch.setattr(settings, "_process", None)


@pytest.fixture
def fresh_store(monkeypatch: pytest.MonkeyPatch) -> store.Store:
    """An empty store of networks for this test."""
    monkeypatch.setattr(store, "STORE", store.Store())
    return store.STORE


class PerfectModel:
    """A stand-in for the network.  It decodes every latent to the pixels that it encoded last."""

    hash = MODEL.hash
    encoder_margin = decoder_margin = 0
    exact = False

    def __init__(self) -> None:
        self.pixels = np.zeros((1, 1, 3), np.uint8)
        self.decodes = 0

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Keep the pixels and return a latent of zeros."""
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (3,)
        self.pixels = pixels.copy()
        height, width = pixels.shape[:2]
        return np.zeros(spaces.shape(SPACE, width, height), np.float32)

    def decode(self, latent: NDArray[np.float32], rate: int | None) -> NDArray[np.uint8]:
        """Return the pixels that were encoded last, padded to whole latent positions."""
        self.decodes += 1
        height, width = self.pixels.shape[:2]
        missing = SPACE.factor * latent.shape[1] - height, SPACE.factor * latent.shape[2] - width
        return np.pad(self.pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")

    def encode_part(self, pixels: NDArray[np.uint8], rows: slice, columns: slice) -> NDArray[np.float32]:
        """Keep the pixels and return a latent of zeros."""
        return self.encode(pixels)[:, rows, columns]

    def decode_part(
        self, latent: NDArray[np.float32], rate: int | None, rows: slice, columns: slice
    ) -> NDArray[np.uint8]:
        """Return a part of the pixels that were encoded last."""
        pixels = self.decode(latent, rate)
        across, down = (slice(SPACE.factor * part.start, SPACE.factor * part.stop) for part in (columns, rows))
        return pixels[down, across]

    def squared_error(
        self, latent: NDArray[np.float32], rate: int, pixels: NDArray[np.uint8]
    ) -> tuple[float, NDArray[np.float32]]:
        """Return an error and a gradient of zero."""
        assert pixels.shape == self.pixels.shape
        return 0.0, np.zeros_like(latent)

    def curvature(self, latent: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
        """Return the same curvature for every channel."""
        return np.ones(len(latent), np.float32)


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch) -> PerfectModel:
    """A network without loss in place of every model, so that everything else can be compared exactly."""
    model = PerfectModel()
    checked: DifferentiableAutoencoder = model
    monkeypatch.setattr(store, "load", lambda _: checked)
    monkeypatch.setattr(store, "load_differentiable", lambda _: checked)
    return model


@pytest.fixture(scope="session")
def python() -> Callable[..., str]:
    """A function that runs a program, given as text with its arguments, in a fresh interpreter and returns its output.

    Warnings are errors.  The function fails if the program fails or writes to standard error, and after 300 seconds.
    """

    def run(program: str, *arguments: object, timeout: float = 300) -> str:
        path = os.pathsep.join([str(Path(pillow_sdl.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
        found = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
        )
        assert (found.returncode, found.stderr) == (0, ""), found.stderr
        return found.stdout.strip()

    return run


@pytest.fixture
def plain_path(tmp_path: Path, plain_file: bytes) -> Path:
    """The file of `plain_file` on disk."""
    path = tmp_path / "plain.sdl"
    path.write_bytes(plain_file)
    return path
