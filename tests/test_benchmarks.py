"""The benchmark's parts: the search for a size, the metrics, the table."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import rd
from benchmarks.codecs import FORMATS, Format, largest_within, nearest
from benchmarks.metrics import Dists, Lpips, psnr

WEBP = next(codec for codec in FORMATS if codec.name == "WebP")
METRICS = Path(os.environ.get("PILLOW_SDL_METRICS", "not given"))


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Noise of three colours, which no codec holds in few bytes."""
    return Image.merge("RGB", [Image.effect_noise((96, 64), sigma) for sigma in (30, 60, 90)])


def sizes(codec: Format, picture: Image.Image) -> list[int]:
    """Of all qualities."""
    return [len(codec.encode(picture, quality)) for quality in codec.qualities]


def test_the_largest_file_within_a_budget_is_found(picture: Image.Image) -> None:
    """As an exhaustive search finds it."""
    every = sizes(WEBP, picture)
    budget = every[60] + 1
    found = largest_within(WEBP, picture, budget)
    assert found.fits
    assert len(found.data) == max(size for size in every if size <= budget)


def test_a_budget_that_none_meets_is_said(picture: Image.Image) -> None:
    """The smallest file is given, marked as not fitting."""
    found = largest_within(WEBP, picture, 10)
    assert not found.fits
    assert len(found.data) == min(sizes(WEBP, picture))


def test_the_nearest_size_may_lie_above(picture: Image.Image) -> None:
    """One byte below a size, the nearest is that size."""
    every = sizes(WEBP, picture)
    assert len(nearest(WEBP, picture, every[60] - 1).data) == every[60]


def test_psnr_is_that_of_its_definition() -> None:
    """An error of one tenth everywhere is 20 dB."""
    x = torch.full((2, 3, 8, 8), 0.5)
    assert psnr(x + 0.1, x).tolist() == pytest.approx([20, 20], abs=1e-4)


def test_the_table_has_means_of_each_format() -> None:
    """Two photos at one rate make one row for a format, with their mean."""
    row = {"rate": 0.25, "format": "SDL", "fits": True, "bpp": 0.2, "psnr": 30.0, "lpips": 0.1, "dists": 0.2}
    means = rd.summarise([row, row | {"bpp": 0.3, "fits": False}])
    assert [(mean["format"], mean["photos"], mean["over_budget"]) for mean in means] == [("SDL", 2, 1)]
    assert means[0]["bpp"] == pytest.approx(0.25)
    assert "| 0.25 | SDL | 0.2500 | 30.00 | 0.1000 | 0.2000 | 1 of 2 |" in rd.table(means)


@pytest.mark.skipif(not METRICS.exists(), reason="PILLOW_SDL_METRICS names no folder with LPIPS and DISTS")
def test_perceptual_distances_grow_with_damage(picture: Image.Image) -> None:
    """0 for the picture itself, and more for its blurred copy than for a slightly blurred one."""
    tensors = [torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))]
    tensors += [torch.nn.functional.avg_pool2d(tensors[0], size, 1, size // 2) for size in (3, 7)]
    for metric in (Lpips(METRICS), Dists(METRICS)):
        same, little, much = (metric(tensor, tensors[0]).item() for tensor in tensors)
        assert same == pytest.approx(0, abs=1e-5)
        assert 0.01 < little < much
