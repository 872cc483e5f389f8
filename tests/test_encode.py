"""Encoding of arrays and latents: quality, target sizes, efforts, and arrays that are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from pillow_sdl import coding, decode, encode, registry
from pillow_sdl.errors import ModelError, ModelMismatchError
from pillow_sdl.format.container import Mode, Name
from pillow_sdl.latent import spaces
from pillow_sdl.options import EncodeOptions

from . import images
from .conftest import MODEL, SPACE

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.plain

PAYLOADS = registry.load().payloads


def psnr_of(data: bytes, photo: Image.Image) -> float:
    """Return the PSNR in dB of a file's picture against a photo."""
    return images.psnr(images.opened(data), photo)


# Quality


def test_more_bytes_give_a_better_picture(photo: Image.Image) -> None:
    """The best quality is near the original and takes less than a tenth of its samples."""
    files = [images.saved(photo, quality=quality) for quality in (10, 50, 100)]
    assert len(files[0]) < len(files[1]) < len(files[2]) < photo.width * photo.height * 3 / 10
    levels = [psnr_of(data, photo) for data in files]
    assert levels[0] < levels[1] < levels[2]
    assert levels[0] > 21
    assert levels[2] > 25.5


def test_a_photo_has_at_most_48_bytes_around_its_latent(photo: Image.Image) -> None:
    """Header, framing and CRCs of a file without metadata and fidelity map."""
    data = images.saved(photo, fidelity=False, guard="off")
    payload = images.parsed(data).get(Name.LATENT)
    assert payload is not None
    assert len(data) - len(payload) <= 48


# Arrays


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
def test_arrays_that_no_reader_could_show_are_refused(
    pixels: NDArray[Any], alpha: NDArray[np.uint8] | None, mode: Mode
) -> None:
    """Alpha that does not belong to the mode, and pixels of a wrong shape or dtype, raise ValueError."""
    with pytest.raises(ValueError, match=r"pixels|alpha"):
        encode.encode(pixels, alpha, mode=mode)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_latents_that_are_not_finite_are_refused(value: float) -> None:
    """One value is enough."""
    latent = np.zeros(spaces.shape(SPACE, 16, 16), np.float32)
    latent[-1, 0, 0] = value
    with pytest.raises(ValueError, match="not finite"):
        coding.LatentCoder(latent, 16, 16, bytes(16), options=EncodeOptions())


def test_latents_of_another_shape_are_refused() -> None:
    """The message names both shapes."""
    channels, height, width = spaces.shape(SPACE, 16, 16)
    latent = np.zeros((channels, height + 1, width), np.float32)
    with pytest.raises(
        ValueError, match=rf"\({channels}, {height}, {width}\), not \({channels}, {height + 1}, {width}\)"
    ):
        coding.LatentCoder(latent, 16, 16, bytes(16), options=EncodeOptions())


# Payload methods


def test_the_automatic_payload_is_the_smaller_one(photo: Image.Image) -> None:
    """A photo takes the context model.  For a gray picture of one position either may be smaller."""
    for image in (photo, Image.new("L", (16, 16), 99)):
        sizes = {payload: len(images.saved(image, payload=payload)) for payload in ("auto", *PAYLOADS)}
        assert sizes["auto"] == min(sizes.values())
    assert images.parsed(images.saved(photo)).header.payload == PAYLOADS["range"]


def test_effort_0_uses_zstd(photo: Image.Image) -> None:
    """Unless the payload option asks for the context model."""
    assert images.parsed(images.saved(photo, effort=0)).header.payload == PAYLOADS["zstd"]
    assert images.parsed(images.saved(photo, effort=0, payload="range")).header.payload == PAYLOADS["range"]


def test_all_payloads_hold_the_same_symbols(photo: Image.Image) -> None:
    """The payload method changes the bytes only."""
    symbols = [decode.quantized(images.parsed(images.saved(photo, payload=payload))).symbols for payload in PAYLOADS]
    assert len(symbols) > 1
    for found in symbols[1:]:
        assert np.array_equal(found, symbols[0])


# Target sizes


@pytest.fixture(scope="module")
def span(photo: Image.Image) -> tuple[int, int]:
    """Sizes of the photo's smallest and largest file."""
    sizes = len(images.saved(photo, quality=0)), len(images.saved(photo, quality=100))
    assert sizes[1] > 4 * sizes[0]
    return sizes


@pytest.mark.parametrize("payload", ["auto", *PAYLOADS])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_target_size_is_filled_and_never_exceeded(
    photo: Image.Image, span: tuple[int, int], payload: str, share: float
) -> None:
    """Files take 97 to 100 % of targets that are spread over the sizes that the photo can have.

    With zstd it is 95 %, because the files of neighboring quality indices differ by up to 4 % in size.
    """
    target = round(span[0] * (span[1] / span[0]) ** share)
    data = images.saved(photo, target_bytes=target, payload=payload)
    assert (0.95 if payload == "zstd" else coding.FILL) * target <= len(data) <= target
    assert images.opened(data).load() is not None


def test_a_target_size_includes_alpha_and_metadata(photo: Image.Image, span: tuple[int, int]) -> None:
    """The whole file counts."""
    image = photo.convert("RGBA")
    image.putalpha(Image.radial_gradient("L").resize(image.size))
    options = {"exif": b"Exif\0\0" + bytes(range(256)), "icc_profile": b""}
    target = len(images.saved(image, quality=0, **options)) + (span[1] - span[0]) // 2
    data = images.saved(image, target_bytes=target, **options)
    assert coding.FILL * target <= len(data) <= target


def test_a_target_above_the_largest_file_gives_the_best_quality(photo: Image.Image) -> None:
    """A file is not padded."""
    assert images.saved(photo, target_bytes=10**7) == images.saved(photo, quality=100)


def test_a_target_below_the_smallest_file_is_refused(photo: Image.Image) -> None:
    """The message states the smallest size, and that size can be written.  The fidelity map is left out for it."""
    with pytest.raises(ValueError, match=r"cannot be saved in 100 bytes; the smallest file takes \d+$") as caught:
        images.saved(photo, target_bytes=100, fidelity=True)
    least = int(str(caught.value).split()[-1])
    assert images.saved(photo, target_bytes=least, fidelity=True) == images.saved(
        photo, quality=0, fidelity=False, guard="off"
    )
    with pytest.raises(ValueError, match=f"takes {least}"):
        images.saved(photo, target_bytes=least - 1, fidelity=True)


# Tuning


def test_tune_psnr_takes_fewer_bytes(photo: Image.Image) -> None:
    """At the same quality the tuned file is smaller, and loses less than 0.1 dB."""
    plain, tuned = images.saved(photo, quality=50), images.saved(photo, quality=50, tune="psnr")
    assert len(tuned) < 0.99 * len(plain)
    assert psnr_of(tuned, photo) > psnr_of(plain, photo) - 0.1


# The network


def test_errors_of_the_run_time_become_model_errors(photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the first line of the run time's own, such as that memory is exhausted."""

    def fail(*_: object) -> None:
        msg = "out of memory\nand a long story"
        raise RuntimeError(msg)

    data = images.saved(photo)
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", fail)
    with pytest.raises(ModelError, match=r"out of memory$"):
        images.saved(photo)
    with pytest.raises(ModelError, match=r"out of memory$"):
        images.opened(data).load()


@pytest.mark.usefixtures("fresh_store")
def test_a_damaged_encoder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model hash covers the decoder only.  The SHA-256 of the file covers the encoder."""
    from safetensors.numpy import load_file, save_file

    weights = MODEL.weights
    assert weights is not None
    tensors = load_file(weights.path)
    name = next(name for name in tensors if name.startswith("encoder."))
    tensors[name] = tensors[name] + np.float16(1)
    save_file(tensors, tmp_path / weights.file)
    monkeypatch.setattr(registry, "WEIGHTS_FOLDER", tmp_path)
    with pytest.raises(ModelMismatchError, match=weights.sha256):
        images.saved(images.gradient())
