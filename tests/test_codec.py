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
from pillow_sdl.models import cards, store, tiled, tiling

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


def size_of(data: bytes) -> int:
    """Pixels of a file, to see that it can be read."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image.width * image.height


@pytest.mark.parametrize("payload", ["auto", "zstd", "range"])
@pytest.mark.parametrize("target", [2000, 5000, 9000])
def test_a_target_is_filled_and_never_exceeded(photo: Image.Image, payload: str, target: int) -> None:
    """97 to 100 % of it."""
    data = saved(photo, target_bytes=target, payload=payload)
    assert 0.97 * target <= len(data) <= target
    assert size_of(data) == 320 * 320


def test_a_target_counts_all_of_the_file(photo: Image.Image) -> None:
    """Alpha and metadata too."""
    image = photo.convert("RGBA")
    image.putalpha(Image.radial_gradient("L").resize(image.size))
    data = saved(image, target_bytes=12_000, exif=b"Exif\0\0" + bytes(range(256)), icc_profile=b"")
    assert 0.97 * 12_000 <= len(data) <= 12_000


def test_a_target_is_met_by_a_refined_file(photo: Image.Image) -> None:
    """What refining does to the size is made up for."""
    target = 3000
    data = saved(photo, target_bytes=target, effort=7)
    assert 0.97 * target <= len(data) <= target


def test_a_target_beyond_the_best_quality_gets_the_best(photo: Image.Image) -> None:
    """There is no more to put into the file."""
    assert saved(photo, target_bytes=10**7) == saved(photo, quality=100)


def test_a_target_below_the_smallest_file_is_refused(photo: Image.Image) -> None:
    """The message tells the smallest size, and that size can be had."""
    with pytest.raises(ValueError, match=r"cannot be saved in 100 bytes; the smallest file takes \d+$") as caught:
        saved(photo, target_bytes=100)
    least = int(str(caught.value).split()[-1])
    assert saved(photo, target_bytes=least) == saved(photo, quality=0)
    with pytest.raises(ValueError, match=f"takes {least}"):
        saved(photo, target_bytes=least - 1)


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 50, "target_bytes": 1000},
        {"target_bytes": 0},
        {"target_bytes": -5},
        {"target_bytes": 1e3},
        {"target_bytes": True},
        {"effort": 10},
        {"effort": -1},
        {"effort": "fast"},
        {"payload": "huffman"},
        {"tune": "ssim"},
    ],
)
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    """Before any work, and the message names the option."""
    with pytest.raises(ValueError, match="|".join(options)):
        saved(Image.new("RGB", (8, 8)), **options)


def test_auto_is_the_smaller_payload(photo: Image.Image) -> None:
    """For a photo the context model; for one position of grey whichever it is."""
    for image in (photo, Image.new("L", (16, 16), 99)):
        sizes = {payload: len(saved(image, payload=payload)) for payload in ("zstd", "range", "auto")}
        assert sizes["auto"] == min(sizes.values())
    assert container.read(io.BytesIO(saved(photo))).header.payload == 1
    assert container.read(io.BytesIO(saved(photo, effort=0))).header.payload == 0


def test_both_payloads_hold_the_same_symbols(photo: Image.Image) -> None:
    """The method is a matter of bytes."""
    first, second = (container.read(io.BytesIO(saved(photo, payload=payload))) for payload in ("zstd", "range"))
    assert np.array_equal(codec.read_symbols(first), codec.read_symbols(second))


def test_refining_brings_the_picture_nearer(photo: Image.Image) -> None:
    """Better at nearly the same size: at least .15 dB for 3 % more bytes, and every effort is deterministic."""
    plain, refined = (saved(photo, quality=50, effort=effort) for effort in (5, 8))
    assert len(refined) < 1.03 * len(plain)
    assert psnr(Image.open(io.BytesIO(refined)), photo) > psnr(Image.open(io.BytesIO(plain)), photo) + 0.15
    assert saved(photo, quality=50, effort=8) == refined


def test_refining_in_tiles_is_refining(photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of a picture in tiles are those of the picture."""
    network = store.load(cards.by_name("embedded"))
    pixels = np.asarray(photo)
    latent = network.encode(pixels)
    error, gradient = network.squared_error(latent, 128, pixels)
    monkeypatch.setattr(tiling, "WHOLE", 0)
    monkeypatch.setattr(tiled, "GRADIENT_CORE", 8)
    error_in_tiles, gradient_in_tiles = network.squared_error(latent, 128, pixels)
    assert error_in_tiles == pytest.approx(error, rel=1e-3)
    assert np.abs(gradient_in_tiles - gradient).max() < 0.1 * np.abs(gradient).max()


def test_the_gradient_is_that_of_the_error(photo: Image.Image) -> None:
    """Along a random direction, against a difference; what padding decodes to does not count."""
    network = store.load(cards.by_name("embedded"))
    pixels = np.asarray(photo)[:90, :100]
    latent = network.encode(pixels)
    direction = np.random.default_rng(0).normal(size=latent.shape).astype(np.float32)
    _, gradient = network.squared_error(latent, 128, pixels)
    above, below = (network.squared_error(latent + sign * direction, 128, pixels)[0] for sign in (0.01, -0.01))
    assert (above - below) / 0.02 == pytest.approx(float((gradient * direction).sum()), rel=0.02)


def test_tune_psnr_takes_fewer_bytes_for_its_psnr(photo: Image.Image) -> None:
    """At about equal PSNR the file is smaller."""
    plain, tuned = saved(photo, quality=50), saved(photo, quality=52, tune="psnr")
    assert len(tuned) < len(plain)
    assert psnr(Image.open(io.BytesIO(tuned)), photo) > psnr(Image.open(io.BytesIO(plain)), photo) - 0.01


def test_the_overhead_of_a_photo_is_at_most_48_bytes(photo: Image.Image) -> None:
    """File size less the latent's data."""
    data = saved(photo)
    payload = container.read(io.BytesIO(data)).get(container.Name.LATENT)
    assert payload is not None
    assert len(data) - len(payload) <= 48
