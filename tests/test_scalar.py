"""latent/scalar.py and latent/rounding.py: the steps of each rate, and rounding to symbols (SPEC 8.2)."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pillow_sdl import registry
from pillow_sdl.latent import scalar, spaces
from pillow_sdl.latent.rounding import MAX_SYMBOL, round_to_nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.plain

TABLES = hnp.arrays(np.int16, st.tuples(st.integers(2, 9), st.integers(1, 4)))
SYMBOLS = hnp.arrays(np.int16, (4, 3, 2), elements=st.integers(-MAX_SYMBOL, MAX_SYMBOL))
LATENTS = hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-1000, 1000, width=32))
STEP = np.array([0.5, 3], np.float32)


def quantized(latent: NDArray[np.float32], step: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return the nearest symbols of a latent."""
    return round_to_nearest(scalar.scale(latent, step))


# Steps


def test_steps_are_interpolated_linearly_and_halves_round_up() -> None:
    """At every rate the logarithms are those of the exact line between two rows of the table, rounded half up."""
    random = np.random.default_rng(0)
    for knots in range(2, 10):
        table = random.integers(-32768, 32768, (knots, 3)).astype(np.int16)
        for rate in range(spaces.RATES):
            position = Fraction(rate * (knots - 1), 255)
            low = min(floor(position), knots - 2)
            part = position - low
            exact = [int(a) * (1 - part) + int(b) * part for a, b in zip(table[low], table[low + 1], strict=True)]
            found = scalar.log2_steps(table, rate)
            assert found.tolist() == [floor(value + Fraction(1, 2)) for value in exact], (knots, rate)


@given(table=TABLES)
def test_the_first_and_last_rates_have_the_first_and_last_rows(table: NDArray[np.int16]) -> None:
    """Rate 0 has the steps of the first row, rate 255 those of the last."""
    assert scalar.log2_steps(table, 0).tolist() == table[0].tolist()
    assert scalar.log2_steps(table, 255).tolist() == table[-1].tolist()


@pytest.mark.parametrize("knots", [2, 4, 6, 16, 18, 52, 86, 256])
def test_a_rate_at_a_knot_has_the_steps_of_its_row(knots: int) -> None:
    """Nothing is interpolated at rates that fall on a row of the table."""
    table = np.random.default_rng(knots).integers(-32768, 32768, (knots, 3)).astype(np.int16)
    for row in range(knots):
        rate = row * 255 // (knots - 1)
        assert scalar.log2_steps(table, rate).tolist() == table[row].tolist()


@given(table=TABLES)
def test_interpolation_keeps_the_order_of_the_rows(table: NDArray[np.int16]) -> None:
    """The steps of a table that falls from row to row fall from rate to rate and stay between its ends."""
    falling = -np.sort(-table.astype(np.int32), axis=0).clip(-32767, 32767).astype(np.int16)
    found = np.stack([scalar.log2_steps(falling, rate) for rate in range(spaces.RATES)])
    assert (np.diff(found, axis=0) <= 0).all()
    assert (found <= falling[0]).all()
    assert (found >= falling[-1]).all()


def test_a_unit_of_the_table_is_a_256th_of_an_octave() -> None:
    """The steps are powers of two, in float32."""
    table = np.array([[0, 256, -512, 128], [0, 256, -512, 128]], np.int16)
    found = scalar.steps(table, 77)
    assert found.dtype == np.float32
    assert found.tolist() == [1, 2, 0.25, np.float32(2**0.5)]


@pytest.mark.parametrize("space", registry.load().spaces, ids=lambda space: space.name)
def test_the_steps_of_every_space_shrink_as_the_rate_grows(space: registry.Space) -> None:
    """The mean logarithm of the steps falls from each rate to the next, and all steps are finite and above 0."""
    steps = np.stack([scalar.steps(spaces.tables(space).log2_steps, rate) for rate in range(spaces.RATES)])
    assert np.isfinite(steps).all()
    assert (steps > 0).all()
    assert (np.diff(np.log2(steps).mean(axis=1)) < 0).all()


# Rounding


@given(symbols=SYMBOLS, seed=st.integers(0, 99))
def test_symbols_survive_dequantization(symbols: NDArray[np.int16], seed: int) -> None:
    """Rounding a dequantized latent gives its symbols again, for steps over 24 octaves."""
    step = np.exp2(np.random.default_rng(seed).uniform(-12, 12, len(symbols))).astype(np.float32)
    latent = scalar.dequantize(symbols, step)
    assert latent.dtype == np.float32
    found = quantized(latent, step)
    assert found.dtype == np.int16
    assert np.array_equal(found, symbols)


@given(latent=LATENTS)
def test_the_nearest_symbol_is_chosen(latent: NDArray[np.float32]) -> None:
    """The error is at most half a step."""
    found = scalar.dequantize(quantized(latent, STEP), STEP)
    assert (np.abs(found - latent) <= 0.5001 * STEP[:, None, None]).all()


@given(latent=LATENTS)
def test_rounding_is_symmetric_around_zero(latent: NDArray[np.float32]) -> None:
    """The negative latent has the negative symbols.  The latent itself is not changed."""
    before = latent.copy()
    assert np.array_equal(quantized(-latent, STEP), -quantized(latent, STEP))
    assert np.array_equal(latent, before)


def test_symbols_are_clipped_to_their_range() -> None:
    """Values beyond the largest symbol become the largest symbol."""
    latent = np.array([[[1e9, -1e9, 32767.4, -32767.6]]], np.float32)
    assert quantized(latent, np.ones(1, np.float32)).ravel().tolist() == [32767, -32767, 32767, -32767]


# Noise


def test_the_noise_is_that_of_uniform_errors() -> None:
    """The stated deviation is that of rounding errors of a latent with steps of its own for each channel."""
    step = np.array([0.25, 0.5, 1, 2], np.float32)
    latent = np.random.default_rng(0).uniform(-50, 50, (4, 100, 100)).astype(np.float32)
    error = scalar.dequantize(quantized(latent, step), step) - latent
    found = scalar.noise_of(step)
    assert not found.palette
    assert found.deviation == pytest.approx(float(np.sqrt(np.square(error, dtype=np.float64).mean())), rel=0.01)
