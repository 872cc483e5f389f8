"""What tests share: files, a stand-in for the network, programs in a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings
from PIL import Image, ImageCms

import pillow_sdl
from pillow_sdl import settings
from pillow_sdl.models import cards, store

from . import images

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# The default run tries the same examples every time.  `--hypothesis-profile=thorough` looks for new ones.
hypothesis_settings.register_profile("steady", deadline=None, derandomize=True, max_examples=100)
hypothesis_settings.register_profile("thorough", deadline=None, max_examples=5000)
hypothesis_settings.load_profile("steady")


ROOT = Path(__file__).parent.parent

EXIF = Image.Exif()
EXIF[0x0112] = 6  # orientation: turn right to show
EXIF[0x010F] = "a camera's maker"
XMP = b'<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>' + b"<x:xmpmeta/>" + b" " * 200 + b'<?xpacket end="w"?>'


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real photos, in PILLOW_SDL_TEST_DATA; its folder edge/ has awkward ones."""
    named = os.environ.get("PILLOW_SDL_TEST_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip("PILLOW_SDL_TEST_DATA names no folder of photos")
    return Path(named)


@pytest.fixture(scope="session")
def srgb() -> bytes:
    """An ICC profile of RGB."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="session")
def plain_file() -> bytes:
    """A file with nothing but a latent."""
    return images.saved(images.gradient())


@pytest.fixture(scope="session")
def tiny_file() -> bytes:
    """The same for a picture of one latent position: few enough bytes to damage each of them."""
    return images.saved(images.gradient(16, 16), quality=0)


@pytest.fixture(scope="session")
def rich_file() -> bytes:
    """A file of every section of version 0, still few bytes.  Exif is stored packed, the others as they are."""
    profile = bytes(16) + b"RGB " + bytes(range(40))
    exif = EXIF.tobytes() + b"long and dull " * 10
    image = images.noise(5, 3, "RGBA")
    data = images.saved(image, quality=0, icc_profile=profile, exif=exif, xmp=b"<x:xmpmeta/>")
    assert [section.name for section in images.parsed(data).sections] == [b"i", b"e", b"x", b"A", b"L"]
    return data


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings of another."""
    monkeypatch.setattr(settings, "_process", None)


@pytest.fixture
def fresh_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are looked for anew, and those that a test has found are forgotten after it."""
    for name in ("_loaded", "_unets", "_small"):
        monkeypatch.setattr(store, name, {})


class PerfectModel:
    """Stands in for the network: decodes to the pixels that it encoded last, whatever the latent."""

    hash = cards.by_name("embedded").hash

    def __init__(self) -> None:
        self.pixels = np.zeros((1, 1, 3), np.uint8)
        self.decodes = 0

    def encode(self, pixels: NDArray[np.uint8], progress: store.Progress | None = None) -> NDArray[np.float32]:
        """See `store.Autoencoder`; the latent is zero."""
        assert pixels.dtype == np.uint8
        assert pixels.shape[2:] == (3,)
        self.pixels = pixels.copy()
        height, width = pixels.shape[:2]
        return np.zeros((96, -(-height // 16), -(-width // 16)), np.float32)

    def decode(
        self, latent: NDArray[np.float32], rate: int, progress: store.Progress | None = None
    ) -> NDArray[np.uint8]:
        """See `store.Autoencoder`."""
        self.decodes += 1
        height, width = self.pixels.shape[:2]
        missing = 16 * latent.shape[1] - height, 16 * latent.shape[2] - width
        return np.pad(self.pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")

    def squared_error(
        self, latent: NDArray[np.float32], rate: int, pixels: NDArray[np.uint8]
    ) -> tuple[float, NDArray[np.float32]]:
        """See `store.Autoencoder`: there is none."""
        assert pixels.shape == self.pixels.shape
        return 0.0, np.zeros_like(latent)

    def curvature(self, latent: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
        """See `store.Autoencoder`."""
        return np.ones(len(latent), np.float32)


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch) -> PerfectModel:
    """A network without loss, so that all else can be compared exactly."""
    model = PerfectModel()
    checked: store.Autoencoder = model
    monkeypatch.setattr(store, "load", lambda _: checked)
    return model


@pytest.fixture(scope="session")
def python() -> Callable[..., str]:
    """A function that runs a program, given as text with its arguments, in a fresh interpreter: what it prints.

    Warnings are errors.  Fails if the program does, or if it writes to standard error.
    """

    def run(program: str, *arguments: object) -> str:
        path = os.pathsep.join([str(Path(pillow_sdl.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
        found = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env={**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)},
        )
        assert (found.returncode, found.stderr) == (0, ""), found.stderr
        return found.stdout.strip()

    return run


@pytest.fixture
def plain_path(tmp_path: Path, plain_file: bytes) -> Path:
    """`plain_file` on disk."""
    path = tmp_path / "plain.sdl"
    path.write_bytes(plain_file)
    return path
