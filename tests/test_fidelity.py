"""The fidelity map: its coding, what it promises, and where a program finds it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import pillow_sdl
from pillow_sdl import decode, fidelity_map, registry, settings
from pillow_sdl.errors import MalformedError
from pillow_sdl.format import container, fidelity
from pillow_sdl.latent import cells
from pillow_sdl.models import store, tiling

from . import images

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

pytestmark = pytest.mark.plain

PHOTO = Path(__file__).parent.parent / "docs" / "grace_hopper.jpg"


def photo(width: int = 320, height: int = 256) -> Image.Image:
    """The middle of the documentation's photo."""
    with Image.open(PHOTO) as image:
        left, top = (image.width - width) // 2, (image.height - height) // 3
        return image.convert("RGB").crop((left, top, left + width, top + height))


def true_errors(original: Image.Image, shown: Image.Image, cell: int) -> NDArray[np.float64]:
    """The root mean square error of each cell, computed cell by cell."""
    first, second = (np.asarray(image, np.float64) for image in (original, shown))
    square = np.square(first - second)
    rows, columns = range(0, square.shape[0], cell), range(0, square.shape[1], cell)
    return np.sqrt([[square[y : y + cell, x : x + cell].mean() for x in columns] for y in rows])


# Coding


@given(st.data())
def test_grids_survive_coding(data: st.DataObject) -> None:
    """Whatever the levels and the number of cells."""
    rows, columns = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    levels = st.lists(st.integers(0, 15), min_size=rows * columns, max_size=rows * columns)
    error, invented = (np.array(data.draw(levels), np.uint8).reshape(rows, columns) for _ in range(2))
    packed = cells.pack(cells.Grids(48, error, invented), 5)
    found = cells.unpack(packed, 48 * columns, 48 * rows)
    assert found.side == 48
    assert np.array_equal(found.error, error)
    assert np.array_equal(found.invented, invented)
    assert fidelity.unpack(packed) == fidelity.Summary(48, int(error.max()), 5, int(invented.max()))


@pytest.mark.parametrize(
    ("width", "height", "side", "shape"),
    [
        (1, 1, 48, (1, 1)),
        (512, 512, 48, (11, 11)),
        (3072, 100, 48, (3, 64)),
        (3073, 1, 64, (1, 49)),
        (65535, 65535, 1024, (64, 64)),
    ],
)
def test_a_picture_has_at_most_64_cells_on_a_side(width: int, height: int, side: int, shape: tuple[int, int]) -> None:
    """Cells have 48 pixels, and more where that would be too many."""
    assert cells.side_for(width, height) == side
    assert cells.shape_of(width, height, side) == shape


@given(st.binary(max_size=40), st.integers(1, 400), st.integers(1, 400))
def test_any_bytes_are_a_map_or_malformed(data: bytes, width: int, height: int) -> None:
    """No other error leaves the reader."""
    try:
        found = fidelity_map.read(data, width, height)
    except MalformedError:
        return
    assert found.error.shape == found.invented.shape == cells.shape_of(width, height, found.cell)


# What the map says


def test_levels_are_the_lowest_bounds_that_are_not_below() -> None:
    """Half an octave apart; the last one holds every error that there can be."""
    values = np.array([0, 1.4, 1.42, 2, 2.01, 181, 181.1, 255])
    assert fidelity_map.level_of(values).tolist() == [0, 0, 1, 1, 2, 14, 15, 15]
    bounds = fidelity_map.BOUNDS
    assert np.allclose(bounds[1:15] / bounds[:14], 2**0.5)
    assert bounds[15] == 255


def test_blur_is_an_error_and_invents_nothing() -> None:
    """Made-up texture of the same energy does."""
    generator = np.random.default_rng(0)
    texture = generator.normal(0, 20, (96, 96))
    flat = np.full((96, 96), 128.0)
    other = generator.normal(0, 20, (96, 96))

    def pixels(values: NDArray[np.float64]) -> NDArray[np.uint8]:
        return np.repeat(np.clip(np.rint(values), 0, 255).astype(np.uint8)[:, :, None], 3, 2)

    original = pixels(flat + texture)
    soft = fidelity_map.read(fidelity_map.measure(original, pixels(flat)), 96, 96)
    made_up = fidelity_map.read(fidelity_map.measure(original, pixels(flat + other)), 96, 96)
    half = fidelity_map.read(fidelity_map.measure(original, pixels(flat + 0.5 * texture)), 96, 96)
    assert (soft.error >= 20).all()
    assert (soft.invented <= 2).all()
    assert (half.invented <= 2).all()
    assert (made_up.invented >= 16).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA"])
def test_no_cell_errs_by_more_than_the_map_says(mode: str) -> None:
    """On the picture that the file decodes to.  The bounds are not idle either: half of them are near the truth."""
    original = photo().convert(mode)
    data = images.saved(original, quality=20, fidelity=True)
    found = pillow_sdl.fidelity(io.BytesIO(data))
    assert found is not None
    shown = images.opened(data)
    bands = mode.removesuffix("A")
    errors = true_errors(original.convert(bands), shown.convert(bands), found.cell)
    assert errors.shape == found.error.shape
    assert (errors <= found.error).all()
    assert (found.error <= 2 * (errors + fidelity_map.TOLERANCE)).all()
    assert errors.max() <= found.worst
    assert np.sqrt(np.square(np.asarray(original.convert(bands), float) - shown.convert(bands)).mean()) <= found.mean


def test_the_bounds_hold_on_torch_and_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another backend and another division into tiles differ within the tolerance of the specification."""
    pytest.importorskip("torch", reason="torch is not installed")
    original = photo()
    data = images.saved(original, quality=50, fidelity=True)
    found = pillow_sdl.fidelity(io.BytesIO(data))
    assert found is not None
    model = registry.model(registry.EMBEDDED)
    file = images.parsed(data)
    quantized = decode.quantized(file)
    latent, rate = quantized.dequantize(), quantized.rate
    pictures = [store.load_differentiable(model).decode(latent, rate)]
    monkeypatch.setattr(tiling, "WHOLE", 1)
    monkeypatch.setattr(tiling, "CORE", 5)
    pictures.append(store.load(model).decode(latent, rate))
    for pixels in pictures:
        shown = Image.fromarray(pixels[: original.height, : original.width])
        assert (true_errors(original, shown, found.cell) <= found.error).all()


def test_the_bounds_hold_on_real_photos(data_dir: Path) -> None:
    """All photos of a folder, at a low and a high quality.  Named by PILLOW_SDL_TEST_DATA."""
    paths = sorted((data_dir / "kodak").glob("*.png"))
    if not paths:
        pytest.skip(f"{data_dir} has no folder kodak")
    for path in paths:
        with Image.open(path) as image:
            original = image.convert("RGB")
        for quality in (15, 70):
            data = images.saved(original, quality=quality, fidelity=True)
            found = pillow_sdl.fidelity(io.BytesIO(data))
            assert found is not None
            assert (true_errors(original, images.opened(data), found.cell) <= found.error).all(), path.name


# Where a program finds it


def test_opening_a_file_gives_the_summary(python: Callable[..., str], tmp_path: Path) -> None:
    """Without NumPy and without a network."""
    path = tmp_path / "photo.sdl"
    path.write_bytes(images.saved(photo(), fidelity=True))
    found = pillow_sdl.fidelity(path)
    assert found is not None
    program = """
import sys
import pillow_sdl
from PIL import Image

with Image.open(sys.argv[1]) as image:
    print(image.info["fidelity"], "numpy" in sys.modules)
"""
    expected = {"cell": found.cell, "worst": fidelity.bound(fidelity_map.level_of(np.array(found.worst)).item())}
    expected["mean"] = fidelity.bound(fidelity_map.level_of(np.array(found.mean)).item())
    assert python(program, path) == f"{expected} False"


def test_the_summary_says_whether_it_holds() -> None:
    """It holds for a decode by the file's own model, and not for a preview."""
    data = images.saved(photo(), fidelity=True)
    whole = images.opened(data)
    whole.load()
    assert whole.info["fidelity"]["holds"] is True
    small = images.opened(data)
    small.thumbnail((40, 40))
    assert small.info["fidelity"]["holds"] is False


def test_a_file_without_a_map_says_so() -> None:
    """None, and no entry in `info`."""
    data = images.saved(images.gradient(), fidelity=False, guard="off")
    assert pillow_sdl.fidelity(io.BytesIO(data)) is None
    assert "fidelity" not in images.opened(data).info


@pytest.mark.parametrize(("effort", "expected"), [(0, False), (2, False), (3, True), (5, True)])
def test_the_default_depends_on_the_effort(effort: int, expected: bool) -> None:
    """A map needs a decode, which the fastest efforts do without."""
    data = images.saved(images.gradient(), effort=effort)
    assert (pillow_sdl.fidelity(io.BytesIO(data)) is not None) == expected


@pytest.mark.parametrize("target", [1000, 1500, 4000])
def test_a_target_size_includes_the_map(target: int) -> None:
    """At most that many bytes, and nearly all of them."""
    data = images.saved(photo(), target_bytes=target, fidelity=True)
    assert 0.9 * target <= len(data) <= target
    assert pillow_sdl.fidelity(io.BytesIO(data)) is not None


def test_the_map_is_left_out_where_there_is_no_room_for_it() -> None:
    """The smallest file without a map still fits."""
    smallest = len(images.saved(photo(), quality=0, fidelity=False, guard="off"))
    data = images.saved(photo(), target_bytes=smallest + 5, fidelity=True)
    assert len(data) <= smallest + 5
    assert pillow_sdl.fidelity(io.BytesIO(data)) is None


def test_a_map_is_a_small_part_of_the_file() -> None:
    """At most 1.5 % at about 0.15 bits per pixel."""
    image = photo(512, 512)
    data = images.saved(image, target_bytes=int(0.15 * 512 * 512 / 8), fidelity=True)
    section = images.parsed(data).get(container.Name.FIDELITY)
    assert section is not None
    assert len(container.Section(b"f", section).to_bytes()) <= 0.015 * len(data)


def test_a_damaged_map_is_reported() -> None:
    """By open where the summary is missing, by verify where a level is wrong."""
    file = images.parsed(images.saved(images.gradient(), fidelity=True))

    def with_map(data: bytes) -> bytes:
        sections = tuple(section._replace(data=data) if section.name == b"f" else section for section in file.sections)
        return container.Container(file.header, sections).to_bytes()

    with pytest.raises(MalformedError) as short:
        images.opened(with_map(b"\3"))
    assert short.value.rule == "E-01"
    image = images.opened(with_map(b"\3\0\0\x14" + bytes(4)))
    with pytest.raises(MalformedError) as wrong:
        image.verify()
    assert wrong.value.rule == "R-03"


def test_the_map_is_about_the_picture_without_a_denoiser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the settings say about denoising and limits when the file is written."""
    with settings.using(denoise="auto", max_pixels=1):
        data = images.saved(images.gradient(), fidelity=True)
    assert data == images.saved(images.gradient(), fidelity=True)


def test_the_map_is_about_the_picture_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the setting `dtype` says when the file is written."""
    known = []
    shown = decode.of_network

    def of_network(*arguments: Any) -> decode.Decoded:
        known.append(settings.current().dtype)
        return shown(*arguments)

    monkeypatch.setattr(decode, "of_network", of_network)
    with settings.using(dtype="bfloat16"):
        images.saved(images.gradient(), fidelity=True)
    assert set(known) == {"float32"}
