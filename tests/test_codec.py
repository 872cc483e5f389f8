"""The composition without Pillow, and the network within a program that has plans of its own for torch."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pillow_sdl import codec, container
from pillow_sdl.container import Mode
from pillow_sdl.errors import MalformedError, ModelError, ModelMismatchError
from pillow_sdl.latent import spaces
from pillow_sdl.models import cards, store

PHOTO = Path(__file__).parent.parent / "docs" / "grace_hopper.jpg"


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """A photo, in part."""
    with Image.open(PHOTO) as image:
        return image.convert("RGB").crop((100, 50, 420, 370))


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio in dB of two images of one size."""
    error = np.asarray(a).astype(float) - np.asarray(b).astype(float)
    return float(10 * np.log10(255**2 / np.square(error).mean()))


def saved(image: Image.Image, **options: object) -> bytes:
    """A file in memory."""
    target = io.BytesIO()
    image.save(target, "SDL", **options)
    return target.getvalue()


def test_a_photo_comes_back_as_that_photo(photo: Image.Image) -> None:
    """Better with more bytes, and near the original at the best quality."""
    files = [saved(photo, quality=quality) for quality in (10, 50, 100)]
    assert len(files[0]) < len(files[1]) < len(files[2]) < 320 * 320 * 3 / 10
    levels = [psnr(Image.open(io.BytesIO(data)), photo) for data in files]
    assert levels[0] < levels[1] < levels[2]
    assert levels[0] > 21
    assert levels[2] > 25.5


def test_a_thumbnail_is_that_of_the_photo(photo: Image.Image) -> None:
    """The linear map comes near what shrinking the original gives."""
    small = Image.open(io.BytesIO(saved(photo, quality=80)))
    small.thumbnail((64, 64))
    wanted = photo.copy()
    wanted.thumbnail((64, 64))
    assert psnr(small, wanted) > 20


@pytest.mark.parametrize(
    ("pixels", "alpha", "mode"),
    [
        (np.zeros((4, 4, 3), np.uint8), None, Mode.RGBA),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), Mode.RGB),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8), Mode.LA),
        (np.zeros((4, 4, 4), np.uint8), None, Mode.RGB),
        (np.zeros((4, 4, 3), np.float32), None, Mode.RGB),
        (np.zeros((0, 4, 3), np.uint8), None, Mode.RGB),
    ],
)
def test_arrays_that_do_not_fit_are_refused(pixels: np.ndarray, alpha: np.ndarray | None, mode: Mode) -> None:
    """What would make a file that no reader takes is a ValueError."""
    with pytest.raises(ValueError, match=r"pixels|alpha"):
        codec.encode(pixels, alpha, mode=mode)


def test_torch_may_be_set_to_anything(photo: Image.Image) -> None:
    """Default type, autocast and gradients of the caller change neither files nor pixels."""
    data = saved(photo)
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
            assert saved(photo) == data
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    finally:
        torch.set_default_dtype(default)


def test_what_torch_raises_is_a_model_error(photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory on a GPU, for one."""

    def fail(*_: object) -> torch.Tensor:
        msg = "out of memory\nand a long story"
        raise RuntimeError(msg)

    monkeypatch.setattr(torch.nn.PixelUnshuffle, "forward", fail)
    with pytest.raises(ModelError, match=r"out of memory$"):
        saved(photo)


def test_wrong_tables_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of another space would give wrong pixels without a word."""
    space = spaces.by_name("sdl1")
    name = f"{space.name}-tables.safetensors"
    data = bytearray((spaces.WEIGHTS / name).read_bytes())
    data[-1] ^= 1
    (tmp_path / name).write_bytes(data)
    monkeypatch.setattr(spaces, "WEIGHTS", tmp_path)
    spaces._tables.cache_clear()
    try:
        with pytest.raises(ModelMismatchError, match=space.tables_sha256):
            _ = space.tables
    finally:
        spaces._tables.cache_clear()


def test_a_damaged_encoder_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's hash is the decoder's: the rest of the file is held by its SHA-256."""
    from safetensors.numpy import load_file, save_file

    card = cards.by_name("embedded")
    tensors = load_file(store.WEIGHTS / card.file)
    name = next(name for name in tensors if name.startswith("encoder."))
    tensors[name] = tensors[name] + np.float16(1)
    save_file(tensors, tmp_path / card.file)
    monkeypatch.setattr(store, "WEIGHTS", tmp_path)
    monkeypatch.setattr(store, "_loaded", {})
    with pytest.raises(ModelMismatchError, match=card.sha256):
        store.load(card)


def test_a_draft_after_a_failed_load_is_whole(photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who cannot decode falls back to the preview, which must not lie in a corner of an empty picture."""
    image = Image.open(io.BytesIO(saved(photo)))

    def fail(*_: object) -> None:
        msg = "no torch"
        raise ModelError(msg)

    with monkeypatch.context() as patched:
        patched.setattr(codec, "decode", fail)
        with pytest.raises(ModelError):
            image.load()
    image.draft(None, (40, 40))
    image.load()
    assert image.size == image.copy().size == image.convert("L").size == (40, 40)


@pytest.mark.parametrize("change", ["size", "format"])
def test_a_file_that_changes_between_open_and_load_is_noticed(photo: Image.Image, change: str, tmp_path: Path) -> None:
    """It is an error of the file, whatever has taken its place."""
    path = tmp_path / "photo.sdl"
    path.write_bytes(saved(photo))
    with Image.open(path) as image:
        other = saved(photo.crop((0, 0, 300, 300))) if change == "size" else b"something else" * 9999
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_TRUNC), "wb") as file:
            file.write(other)
        assert image.fp is not None
        image.fp.seek(1 << 16)  # Past what the file object has read ahead.
        with pytest.raises(MalformedError, match="changed"):
            image.load()


def test_exif_of_nothing_but_a_place_is_kept() -> None:
    """Pillow counts an Exif with only a GPS part as empty."""
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    data = saved(Image.new("RGB", (8, 8)), exif=exif)
    assert Image.open(io.BytesIO(data)).info["exif"] == exif.tobytes()


@pytest.mark.parametrize("option", ["target_bytes", "effort"])
def test_options_of_later_versions_are_not_ignored(option: str) -> None:
    """Who asks for a size must not get another without a word."""
    with pytest.raises(ValueError, match=f"{option} is not available"):
        saved(Image.new("RGB", (8, 8)), **{option: 5})


def test_the_overhead_of_a_photo_is_at_most_48_bytes(photo: Image.Image) -> None:
    """File size less the latent's data."""
    data = saved(photo)
    payload = container.read(io.BytesIO(data)).get(container.Name.LATENT)
    assert payload is not None
    assert len(data) - len(payload) <= 48
