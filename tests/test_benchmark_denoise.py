"""Benchmarks of denoisers, of the palette and of the package's own time: what they measure, means, resumption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import denoise, overhead, palette
from pillow_sdl import registry, settings
from pillow_sdl.latent import scalar, spaces
from pillow_sdl.options import EncodeOptions

from . import images, networks
from .test_benchmarks import Difference, one_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.runs import Row

pytestmark = pytest.mark.research

__all__ = ["one_thread"]  # A fixture that all tests here use.

SIDE = 176
"""Pixels along each side of a photo, the fewest for MS-SSIM."""


@pytest.fixture
def model(tmp_path: Path, fresh_store: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A configured folder with taesd."""
    networks.isolate(monkeypatch, tmp_path / "hub")
    networks.tiny(0).save_pretrained(tmp_path / "models" / "taesd")
    with settings.using(model_dirs=[tmp_path / "models"]):
        yield tmp_path / "models"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        images.noise(SIDE + 8 * index, SIDE, seed=index).save(folder / f"kodim{index}.png")
    return folder


class Stand(Difference):
    """The difference of pixels in place of LPIPS and DISTS, whose weights are not part of the project."""

    def __init__(self, folder: Path) -> None:
        """Take a folder of weights, which is not read."""


def row(point: str, denoiser: str, lpips: float, size: float = 100.0) -> Row:
    """Return a row of a measurement."""
    found: Row = {"photo": "a", "point": point, "denoiser": denoiser, "bytes": size, "bpp": size / 1000}
    return found | {"psnr": 20.0, "ms_ssim": 0.9, "lpips": lpips, "dists": 2 * lpips, "decode_s": 1.0}


def test_the_quality_with_the_nearest_step_is_taken() -> None:
    """No other quality has a nearer step, and the given step is that of the quality."""
    space = registry.space("sd1")
    quality, actual = denoise.nearest_quality(0.5, space)
    assert actual == pytest.approx(0.5, rel=0.02)
    for other in range(101):
        rate = EncodeOptions(quality=other).rate
        found = float(scalar.steps(spaces.tables(space).log2_steps, rate)[0])
        assert abs(found / 0.5 - 1) >= abs(actual / 0.5 - 1) - 1e-3
        if other == quality:
            assert found == pytest.approx(actual)


def test_means_say_how_far_distances_fall() -> None:
    """They are compared with the same point without a denoiser.  Points without a file have no difference."""
    rows = [
        row("step 1", "off", 0.2),
        row("step 1", "small", 0.1),
        row("step 1", "off", 0.4),
        row("step 1", "small", 0.2),
    ]
    rows += [row(denoise.UNQUANTIZED, "off", 0.05)]
    plain, better, ceiling = denoise.summarize(rows)
    assert plain["lpips"] == pytest.approx(0.3)
    assert better["percent"] == pytest.approx({"lpips": -50.0, "dists": -50.0})
    assert "percent" not in plain
    assert "percent" not in ceiling


def test_a_palettes_bytes_are_compared_with_the_scalar_curve() -> None:
    """The curve is that of the same denoiser, and logarithmic.  Outside the curve there is no answer."""
    curve = [("step 1", 0.3, 1000.0), ("step .5", 0.1, 4000.0)]
    rows = [row(point, "small", lpips, size) for point, lpips, size in curve]
    rows += [row("palette", "small", 0.2, 5000.0), row("palette, no dither", "small", 0.5, 5000.0)]
    rows += [row("palette", "off", 0.2, 5000.0)]
    inside, outside, alone = denoise.against_palettes(denoise.summarize(rows))
    assert inside["bytes"] == pytest.approx(2000)
    assert inside["percent"] == pytest.approx(40)
    assert outside["percent"] is None
    assert alone["percent"] is None


def test_a_run_measures_prints_and_resumes(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows are those of all points, photos and denoisers.  A second run measures only the photo that is new."""
    monkeypatch.setattr(denoise, "Lpips", Stand)
    monkeypatch.setattr(denoise, "Dists", Stand)
    options: dict[str, Any] = {"model": "taesd", "steps": [0.5, 1.0], "denoisers": ["off", "small"], "restart": False}
    output = tmp_path / "denoise.json"
    denoise.run(photos, tmp_path, output, limit=None, only=["kodim0"], **options)
    first = json.loads(output.read_text("utf-8"))
    assert {row["photo"] for row in first["rows"]} == {"kodim0.png"}
    assert len(first["rows"]) == 1 + 2 * 4
    denoise.run(photos, tmp_path, output, limit=None, only=[], **options)
    second = json.loads(output.read_text("utf-8"))
    assert second["rows"][: len(first["rows"])] == first["rows"]
    assert len(second["rows"]) == 2 * len(first["rows"])
    by_file: dict[tuple[str, str], set[int]] = {}
    for found in second["rows"]:
        by_file.setdefault((found["photo"], found["point"]), set()).add(found["bytes"])
        if found["point"].startswith("step"):
            assert found["said"] == ("sd1-denoiser" if found["denoiser"] == "small" else None)
    assert all(len(sizes) == 1 for sizes in by_file.values())
    assert by_file["kodim0.png", denoise.UNQUANTIZED] == {0}
    assert "| palette | small |" in capsys.readouterr().out


def test_the_package_is_timed_against_diffusers(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratios are those of the medians.  Models that diffusers does not have, or this machine, are refused."""
    monkeypatch.setattr(overhead, "SIDE", 64)
    photo = tmp_path / "photo.png"
    Image.effect_noise((80, 72), 60).convert("RGB").save(photo)
    overhead.run(photo, tmp_path / "new" / "overhead.json", model="taesd", repeats=3)
    found = json.loads((tmp_path / "new" / "overhead.json").read_text("utf-8"))
    assert all(len(times) == 3 for times in found["seconds"].values())
    medians = found["medians_s"]
    assert found["ratios"]["decode"] == pytest.approx(medians["decode"] / medians["decode_by_hand"])
    assert found["ratios"]["encode"] == pytest.approx(medians["encode"] / medians["encode_by_hand"])
    with pytest.raises(SystemExit, match="not a model of diffusers"):
        overhead.run(photo, tmp_path / "none.json", model=registry.EMBEDDED, repeats=1)
    with pytest.raises(SystemExit, match="sdl models fetch taef1"):
        overhead.run(photo, tmp_path / "none.json", model="taef1", repeats=1)


def test_the_palettes_reference_is_what_is_described() -> None:
    """k-means finds the clusters of its vectors, and the errors of error diffusion cancel over a flat surface."""
    generator = np.random.default_rng(0)
    middles = np.array([[0.0, 0, 0, 0], [100, 0, 0, 0], [0, 100, 50, 0]])
    vectors = np.concatenate([middle + generator.normal(size=(50, 4)) for middle in middles])
    found = palette.k_means(vectors, 3, generator)
    assert np.abs(found[np.argsort(found.sum(1))] - middles).max() < 1
    flat = np.full((24, 24, 4), 30.0)
    shown = palette.floyd_steinberg(flat, np.array([[0.0] * 4, [100.0] * 4]))
    assert set(np.unique(shown)) == {0.0, 100.0}
    assert shown.mean() == pytest.approx(30, abs=2)


def test_the_palette_is_measured(model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run measures only the photo that is new."""
    monkeypatch.setattr(palette, "SIDE", 64)
    options: dict[str, Any] = {"model": "taesd", "starts": 1, "restart": False}
    palette.run(photos, tmp_path / "palette.json", limit=1, **options)
    first = json.loads((tmp_path / "palette.json").read_text("utf-8"))
    palette.run(photos, tmp_path / "palette.json", limit=None, **options)
    second = json.loads((tmp_path / "palette.json").read_text("utf-8"))
    assert second["rows"][0] == first["rows"][0]
    assert len(second["rows"]) == 2
    for found in second["rows"]:
        assert 0 < found["palette_bytes_plain"] < found["bytes_plain"]
        # At most 64 vectors, which all fit into a palette, so both lose only what rounding to levels loses.
        assert found["mse_plain"] == pytest.approx(found["reference_plain"], abs=1e-9)
    assert second["means"]["largest_plain"] == max(found["bytes_plain"] for found in second["rows"])
