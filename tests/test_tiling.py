"""Tiles: they cover a picture once, and join without a seam."""

from __future__ import annotations

import io
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pillow_sdl import settings
from pillow_sdl.models import cards, embedded, store, tiling

from . import images

CARD = cards.by_name("embedded")

SIZES = [(40 * 16 - 5, 3 * 16), (2 * 16, 40 * 16 - 3), (9 * 16, 9 * 16)]
"""Pictures longer than a tile of few positions with both of its margins, and one that is not."""


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 4 positions, for every picture."""
    monkeypatch.setattr(tiling, "WHOLE", 0)
    monkeypatch.setattr(tiling, "CORE", 4)


@given(length=st.integers(1, 500), core=st.integers(1, 80), margin=st.integers(0, 40))
def test_spans_cover_an_axis_once(length: int, core: int, margin: int) -> None:
    """The kept parts follow each other from end to end, each within what is computed."""
    spans = tiling.spans(length, core, margin)
    assert spans[0].keep_start == 0
    assert spans[-1].keep_stop == length
    assert all(a.keep_stop == b.keep_start for a, b in pairwise(spans))
    for span in spans:
        assert 0 < span.keep_stop - span.keep_start <= core
        assert list(range(span.start, span.stop))[span.kept] == list(range(span.keep_start, span.keep_stop))


@given(length=st.integers(1, 500), core=st.integers(1, 80), margin=st.integers(0, 40))
def test_a_span_has_its_margin_wherever_the_axis_goes_on(length: int, core: int, margin: int) -> None:
    """On both sides, cut at the axis's ends: what is computed is bounded."""
    for span in tiling.spans(length, core, margin):
        assert span.start == max(0, span.keep_start - margin)
        assert min(length, span.keep_stop + margin) <= span.stop <= min(length, span.keep_start + core + margin)


@given(height=st.integers(1, 300), width=st.integers(1, 300), margin=st.integers(0, 20))
def test_tiles_cover_a_picture_once(height: int, width: int, margin: int) -> None:
    """Every position is kept of one tile."""
    covered = np.zeros((height, width), int)
    for rows, columns in tiling.tiles(height, width, margin):
        covered[rows.keep_start : rows.keep_stop, columns.keep_start : columns.keep_stop] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 4096), (4096, 1), (64, 64), (32, 128)])
def test_a_megapixel_is_done_in_one_piece(size: tuple[int, int]) -> None:
    """Whatever its shape; one position more, and it is not."""
    assert tiling.WHOLE == 4096
    (tile,) = tiling.tiles(*size, 14)
    assert [(span.start, span.stop, span.keep_start, span.keep_stop) for span in tile] == [(0, n, 0, n) for n in size]
    assert len(list(tiling.tiles(1, 4097, 14))) > 1


@given(height=st.integers(1, 5000), width=st.integers(1, 5000))
def test_a_tile_is_bounded(height: int, width: int) -> None:
    """However large the picture, a tile is not: memory is that of the largest."""
    for rows, columns in tiling.tiles(height, width, 14):
        assert (rows.stop - rows.start) * (columns.stop - columns.start) <= max(tiling.WHOLE, (tiling.CORE + 28) ** 2)


@pytest.mark.parametrize("size", SIZES)
def test_an_encode_in_tiles_is_an_encode_in_one_piece(size: tuple[int, int], request: pytest.FixtureRequest) -> None:
    """The encoder's margin covers its receptive field."""
    pixels = np.asarray(images.noise(*size))
    model = store.load(CARD)
    whole = model.encode(pixels)
    request.getfixturevalue("small_tiles")
    tiled = model.encode(pixels)
    assert tiled.shape == whole.shape
    assert np.abs(tiled - whole).max() <= 1e-3 * np.abs(whole).max()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("rate", [0, 255])
def test_a_decode_in_tiles_is_a_decode_in_one_piece(
    size: tuple[int, int], rate: int, request: pytest.FixtureRequest
) -> None:
    """The decoder's margin covers its receptive field: no sample differs by more than one level."""
    model = store.load(CARD)
    latent = model.encode(np.asarray(images.noise(*size)))
    whole = model.decode(latent, rate).astype(int)
    request.getfixturevalue("small_tiles")
    tiled = model.decode(latent, rate).astype(int)
    assert tiled.shape == whole.shape
    assert np.abs(tiled - whole).max() <= 1


def test_margins_cover_the_receptive_fields() -> None:
    """A change of one position reaches no further than the margins say, and the test would see it if it did."""
    model = store.load(CARD)
    assert isinstance(model, embedded.EmbeddedModel)
    length = 2 * max(model.encoder_margin, model.decoder_margin) + 21
    middle = length // 2
    latent = np.random.default_rng(0).normal(0, 1, (96, 1, length)).astype(np.float32)
    changed = latent.copy()
    changed[:, :, middle] += 50
    differs = model.decode(latent, 128).astype(int) != model.decode(changed, 128).astype(int)
    reached = np.flatnonzero(differs.any((0, 2))) // 16
    assert middle in reached
    assert middle - model.decoder_margin <= reached.min()
    assert reached.max() <= middle + model.decoder_margin

    pixels = np.asarray(images.noise(16 * length, 16)).copy()
    before = model.encode(pixels)
    pixels[:, 16 * middle : 16 * (middle + 1)] ^= 255
    difference = np.abs(model.encode(pixels) - before).max((0, 1))
    reached = np.flatnonzero(difference > 1e-4 * np.abs(before).max())
    assert middle in reached
    assert middle - model.encoder_margin <= reached.min()
    assert reached.max() <= middle + model.encoder_margin


def test_a_file_is_the_same_picture_with_and_without_tiles(request: pytest.FixtureRequest) -> None:
    """From `save` to `load`: no sample of a file differs by more than one level."""
    data = images.saved(images.gradient(300, 90), quality=100)
    whole = images.values(images.opened(data))
    request.getfixturevalue("small_tiles")
    assert np.abs(images.values(images.opened(data)) - whole).max() <= 1


def test_progress_is_told_tile_by_tile(small_tiles: None) -> None:
    """Tiles done, and how many there are, while a picture is saved and while it is loaded."""
    told: list[tuple[int, int]] = []
    with settings.using(progress=lambda done, todo: told.append((done, todo))):
        data = images.saved(images.gradient(90, 70))
        assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
        told.clear()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
