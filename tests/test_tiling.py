"""models/tiling.py and models/tiled.py: tiles cover a picture once and join without a seam."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillow_sdl import progress, registry
from pillow_sdl.models import store, tiling
from pillow_sdl.models.tiled import TiledAutoencoder

from . import images

pytestmark = pytest.mark.plain

SPACE = registry.space(registry.EMBEDDED)
FACTOR = SPACE.factor

LENGTHS = st.integers(1, 500)
CORES = st.integers(1, 80)
MARGINS = st.integers(0, 40)

SIZES = [(40 * FACTOR - 5, 3 * FACTOR), (2 * FACTOR, 40 * FACTOR - 3), (9 * FACTOR, 9 * FACTOR)]
"""Two pictures longer than a small tile with both of its margins, and one that is shorter."""


def use_small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut every picture into tiles of 4 x 4 positions."""
    monkeypatch.setattr(tiling, "WHOLE", 0)
    monkeypatch.setattr(tiling, "CORE", 4)


def embedded() -> TiledAutoencoder:
    """Return the embedded autoencoder."""
    model = store.load(registry.model(registry.EMBEDDED))
    assert isinstance(model, TiledAutoencoder)
    return model


# Spans and tiles


@given(length=LENGTHS, core=CORES, margin=MARGINS)
def test_spans_cover_an_axis_once(length: int, core: int, margin: int) -> None:
    """The kept parts follow each other from end to end, and each is a part of what is computed."""
    spans = tiling.spans(length, core, margin)
    assert spans[0].keep_start == 0
    assert spans[-1].keep_stop == length
    assert all(before.keep_stop == after.keep_start for before, after in pairwise(spans))
    for span in spans:
        assert 0 < span.keep_stop - span.keep_start <= core
        assert list(range(span.start, span.stop))[span.kept] == list(range(span.keep_start, span.keep_stop))


@given(length=LENGTHS, core=CORES, margin=MARGINS)
def test_a_span_has_its_margin_where_the_axis_continues(length: int, core: int, margin: int) -> None:
    """The margin is cut at the ends of the axis, and no more than the core and both margins are computed."""
    for span in tiling.spans(length, core, margin):
        assert span.start == max(0, span.keep_start - margin)
        assert min(length, span.keep_stop + margin) <= span.stop <= min(length, span.keep_start + core + margin)


@given(height=st.integers(1, 300), width=st.integers(1, 300), margin=st.integers(0, 20))
def test_tiles_cover_a_picture_once(height: int, width: int, margin: int) -> None:
    """Every position is kept from exactly one tile."""
    covered = np.zeros((height, width), int)
    for rows, columns in tiling.tiles(height, width, margin):
        covered[rows.place, columns.place] += 1
    assert (covered == 1).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 4096), (4096, 1), (64, 64), (32, 128)])
def test_a_picture_of_4096_positions_is_one_tile(size: tuple[int, int]) -> None:
    """Its shape does not matter.  A picture of one position more has several tiles."""
    (tile,) = tiling.tiles(*size, 14)
    assert [(span.start, span.stop, span.keep_start, span.keep_stop) for span in tile] == [(0, n, 0, n) for n in size]
    assert len(tiling.tiles(1, 4097, 14)) > 1


@given(height=st.integers(1, 5000), width=st.integers(1, 5000), margin=st.integers(0, 30))
def test_the_size_of_a_tile_is_bounded(height: int, width: int, margin: int) -> None:
    """The memory of a network does not grow with the picture."""
    largest = max(tiling.WHOLE, (tiling.CORE + 2 * margin) ** 2)
    for rows, columns in tiling.tiles(height, width, margin):
        assert (rows.stop - rows.start) * (columns.stop - columns.start) <= largest


# The embedded network


@pytest.mark.parametrize("size", SIZES)
def test_encoding_in_tiles_gives_the_latent_of_one_piece(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The margin covers the encoder's receptive field."""
    pixels = np.asarray(images.noise(*size))
    model = embedded()
    whole = model.encode(pixels)
    use_small_tiles(monkeypatch)
    tiled = model.encode(pixels)
    assert tiled.shape == whole.shape
    assert np.abs(tiled - whole).max() <= 1e-3 * np.abs(whole).max()


@pytest.mark.parametrize("rate", [0, 255])
@pytest.mark.parametrize("size", SIZES)
def test_decoding_in_tiles_gives_the_picture_of_one_piece(
    size: tuple[int, int], rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The margin covers the decoder's receptive field: no sample differs by more than one level."""
    model = embedded()
    latent = model.encode(np.asarray(images.noise(*size)))
    whole = model.decode(latent, rate).astype(int)
    use_small_tiles(monkeypatch)
    tiled = model.decode(latent, rate).astype(int)
    assert tiled.shape == whole.shape
    assert np.abs(tiled - whole).max() <= 1


def test_a_change_reaches_no_farther_than_the_margins() -> None:
    """One changed position changes pixels, and one changed block of pixels changes latents, within the margins only."""
    model = embedded()
    length = 2 * max(model.encoder_margin, model.decoder_margin) + 21
    middle = length // 2
    latent = np.random.default_rng(0).normal(0, 1, (SPACE.channels, 1, length)).astype(np.float32)
    changed = latent.copy()
    changed[:, :, middle] += 50
    differs = model.decode(latent, 128).astype(int) != model.decode(changed, 128).astype(int)
    reached = np.flatnonzero(differs.any((0, 2))) // FACTOR
    assert middle in reached
    assert middle - model.decoder_margin <= reached.min()
    assert reached.max() <= middle + model.decoder_margin

    pixels = np.asarray(images.noise(FACTOR * length, FACTOR)).copy()
    before = model.encode(pixels)
    pixels[:, FACTOR * middle : FACTOR * (middle + 1)] ^= 255
    difference = np.abs(model.encode(pixels) - before).max((0, 1))
    reached = np.flatnonzero(difference > 1e-4 * np.abs(before).max())
    assert middle in reached
    assert middle - model.encoder_margin <= reached.min()
    assert reached.max() <= middle + model.encoder_margin


def test_a_file_gives_the_same_picture_with_and_without_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sample differs by more than one level."""
    data = images.saved(images.gradient(19 * FACTOR - 4, 6 * FACTOR - 6), quality=100)
    whole = images.values(images.opened(data))
    use_small_tiles(monkeypatch)
    assert np.abs(images.values(images.opened(data)) - whole).max() <= 1


def test_progress_is_reported_after_every_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the encoder and by the decoder."""
    use_small_tiles(monkeypatch)
    model = embedded()
    told: list[int] = []
    pixels = np.asarray(images.gradient(6 * FACTOR - 6, 5 * FACTOR - 10))
    with progress.job(lambda done, _: told.append(done)):
        latent = model.encode(pixels)
    assert told == [0, 250, 500, 750, 1000]
    told.clear()
    with progress.job(lambda done, _: told.append(done)):
        model.decode(latent, 100)
    assert told == [0, 250, 500, 750, 1000]
