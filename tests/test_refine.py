"""Refinement through the decoder's gradient (efforts 6 to 9), which needs PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from pillow_sdl import coding
from pillow_sdl.errors import ModelError
from pillow_sdl.models import store, tiling
from pillow_sdl.models.networks import pytorch

from . import images
from .conftest import MODEL

if TYPE_CHECKING:
    from PIL import Image


@pytest.fixture(scope="module")
def part(photo: Image.Image) -> Image.Image:
    """A part of the photo, 128 x 128, for tests that run a network many times."""
    return photo.crop((96, 96, 224, 224))


def psnr_of(data: bytes, photo: Image.Image) -> float:
    """Return the PSNR in dB of a file's picture against a photo."""
    return images.psnr(images.opened(data), photo)


def test_refinement_improves_the_picture_and_is_deterministic(part: Image.Image) -> None:
    """Effort 8 gains at least 0.15 dB for at most 3 % more bytes."""
    plain, refined = (images.saved(part, quality=50, effort=effort) for effort in (5, 8))
    assert len(refined) < 1.03 * len(plain)
    assert psnr_of(refined, part) > psnr_of(plain, part) + 0.15
    assert images.saved(part, quality=50, effort=8) == refined


def test_gradients_of_tiles_are_those_of_the_whole_picture(photo: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error agrees within 0.1 %, each gradient within a tenth of the largest one."""
    network = store.load_differentiable(MODEL)
    pixels = np.asarray(photo)[:160]
    latent = network.encode(pixels)
    error, gradient = network.squared_error(latent, 128, pixels)
    monkeypatch.setattr(tiling, "WHOLE", 0)
    monkeypatch.setattr(pytorch, "GRADIENT_CORE", 8)
    error_in_tiles, gradient_in_tiles = network.squared_error(latent, 128, pixels)
    assert error_in_tiles == pytest.approx(error, rel=1e-3)
    assert np.abs(gradient_in_tiles - gradient).max() < 0.1 * np.abs(gradient).max()


def test_the_gradient_agrees_with_a_finite_difference(photo: Image.Image) -> None:
    """Along a random direction.  Pixels beyond the picture's edge do not count."""
    network = store.load_differentiable(MODEL)
    pixels = np.asarray(photo)[:90, :100]
    latent = network.encode(pixels)
    direction = np.random.default_rng(0).normal(size=latent.shape).astype(np.float32)
    _, gradient = network.squared_error(latent, 128, pixels)
    above, below = (network.squared_error(latent + sign * direction, 128, pixels)[0] for sign in (0.0005, -0.0005))
    assert (above - below) / 0.001 == pytest.approx(float((gradient * direction).sum()), rel=0.02)


def test_a_target_size_holds_for_a_refined_file(part: Image.Image) -> None:
    """Refinement changes the size of a file.  The search allows for it."""
    target = len(images.saved(part, quality=40))
    data = images.saved(part, target_bytes=target, effort=7)
    assert coding.FILL * target <= len(data) <= target


@pytest.mark.parametrize("effort", [5, 6])
def test_settings_of_torch_change_neither_files_nor_pixels(photo: Image.Image, effort: int) -> None:
    """Default dtype, autocast and gradients may be set by the calling program.  Effort 6 refines with torch."""
    part = photo.crop((0, 0, 96, 64))
    data = images.saved(part, effort=effort)
    pixels = np.asarray(images.opened(data))
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
            assert images.saved(part, effort=effort) == data
            assert np.array_equal(np.asarray(images.opened(data)), pixels)
    finally:
        torch.set_default_dtype(default)


def test_errors_of_torch_become_model_errors(part: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the first line of torch's own, such as that memory is exhausted."""

    def fail(*_: object) -> None:
        msg = "out of memory\nand a long story"
        raise RuntimeError(msg)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", fail)
    with pytest.raises(ModelError, match=r"out of memory$"):
        images.saved(part, effort=6)
