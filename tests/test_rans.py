"""latent/rans.py: operations of the entropy coder and the bytes that they become (SPEC 8.6.4)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillow_sdl.errors import MalformedError
from pillow_sdl.latent import rans
from pillow_sdl.latent.rans import Decoder, Distributions, Encoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.plain

STATES = (1, 16, 32, 64)
SEEDS = st.integers(0, 2**32 - 1)


class Run(NamedTuple):
    """Consecutive operations of one kind.

    uniform: whether they code numbers of a given width; otherwise they code entries of a table.
    which: the width in bits of each number, or the row of each entry.   values: the numbers, or the entries.
    """

    uniform: bool
    which: NDArray[np.int64]
    values: NDArray[np.int64]


def random_table(random: np.random.Generator, rows: int) -> Distributions:
    """Return distributions of 1 to 40 entries, from flat ones to ones with most of their weight in one entry."""
    sizes = random.integers(1, 41, rows)
    found = []
    for size in sizes:
        weights = np.exp(random.uniform(0, 12) * random.standard_normal(size))
        frequency = 1 + np.floor((rans.TOTAL - size) * weights / weights.sum()).astype(np.int64)
        frequency[np.argmax(frequency)] += rans.TOTAL - frequency.sum()
        found.append(frequency)
    return Distributions.from_frequencies(sizes, np.concatenate(found))


def random_entries(random: np.random.Generator, table: Distributions, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return an entry of each row: nine in ten with the probabilities of the table, the others with equal ones."""
    slots = rans.TOTAL * rows + random.integers(0, rans.TOTAL, len(rows))
    likely = np.searchsorted(table.ascending, slots, side="right") - 1
    any_of_them = random.integers(table.first[rows], table.first[rows + 1])
    return np.where(random.random(len(rows)) < 0.1, any_of_them, likely)


def random_runs(seed: int, lengths: list[int], rows: int) -> tuple[Distributions, list[Run]]:
    """Return a table, and runs of entries and of numbers in turn."""
    random = np.random.default_rng(seed)
    table = random_table(random, rows)
    runs = []
    for index, length in enumerate(lengths):
        if index % 2:
            which = random.integers(0, 17, length)
            values = random.integers(0, 1 << which)
        else:
            which = random.integers(0, rows, length)
            values = random_entries(random, table, which)
        runs.append(Run(index % 2 == 1, which, values))
    return table, runs


def add(coder: Encoder, table: Distributions, run: Run) -> None:
    """Give the operations of a run to an encoder."""
    if run.uniform:
        coder.uniform(run.values, run.which)
    else:
        coder.entries(table, run.values)


def encode(table: Distributions, runs: list[Run], states: int) -> bytes:
    """Return the bytes of runs."""
    coder = Encoder()
    for run in runs:
        add(coder, table, run)
    return coder.finish(states)


def decode(data: bytes, table: Distributions, runs: list[Run], states: int) -> list[NDArray[np.int64]]:
    """Return the values that the data hold for operations of the kinds of `runs`."""
    coder = Decoder(data, states)
    found = [coder.uniform(run.which) if run.uniform else coder.entries(table, run.which) for run in runs]
    coder.finish()
    return found


# Round trip


@given(
    seed=SEEDS,
    lengths=st.lists(st.integers(0, 150), max_size=6),
    rows=st.integers(1, 20),
    states=st.sampled_from(STATES),
)
def test_decoded_values_equal_the_encoded_ones(seed: int, lengths: list[int], rows: int, states: int) -> None:
    """Entries of all rows and numbers of 0 to 16 bits come back, and the decoder ends where the encoder began."""
    table, runs = random_runs(seed, lengths, rows)
    found = decode(encode(table, runs, states), table, runs, states)
    for values, run in zip(found, runs, strict=True):
        assert values.dtype == np.int64
        assert values.tolist() == run.values.tolist()


@given(seed=SEEDS, cuts=st.lists(st.integers(0, 200)), states=st.sampled_from(STATES))
def test_operations_may_be_given_in_any_number_of_calls(seed: int, cuts: list[int], states: int) -> None:
    """The bytes of a run are the same if it is cut into several calls, and it can be decoded in several calls."""
    table, (run,) = random_runs(seed, [200], 5)
    parts = np.split(run.values, sorted(cuts))
    coder = Encoder()
    for part in parts:
        coder.entries(table, part)
    data = encode(table, [run], states)
    assert coder.finish(states) == data
    decoder = Decoder(data, states)
    for which, values in zip(np.split(run.which, sorted(cuts)), parts, strict=True):
        assert decoder.entries(table, which).tolist() == values.tolist()


@pytest.mark.parametrize("states", STATES)
def test_an_encoder_without_operations_gives_the_initial_states(states: int) -> None:
    """The bytes are the states with which encoding begins, without words."""
    assert Encoder().finish(states) == np.full(states, rans.LOWEST, "<u4").tobytes()


def test_finish_clears_the_operations() -> None:
    """An encoder can be used again after `finish`."""
    table, runs = random_runs(2, [50, 50], 5)
    coder = Encoder()
    for run in runs:
        add(coder, table, run)
    assert coder.finish(16) == encode(table, runs, 16)
    assert coder.bits() == 0
    assert coder.finish(16) == Encoder().finish(16)


# Size


def test_certain_operations_take_no_bits() -> None:
    """An entry of frequency 2^16 and a number of 0 bits leave the states as they are."""
    table = Distributions.from_frequencies(np.array([1]), np.array([rans.TOTAL]))
    coder = Encoder()
    coder.entries(table, np.zeros(500, np.int64))
    coder.uniform(np.zeros(500, np.int64), np.zeros(500, np.int64))
    assert coder.bits() == 0
    assert coder.finish(16) == Encoder().finish(16)


@given(seed=SEEDS, lengths=st.lists(st.integers(200, 2000), min_size=1, max_size=4))
def test_the_size_is_near_the_information_content(seed: int, lengths: list[int]) -> None:
    """One state takes at most 1 % and 8 bytes more than `bits` says; each further state takes at most 4 bytes."""
    table, runs = random_runs(seed, lengths, 20)
    coder = Encoder()
    ideal = 0.0
    for run in runs:
        add(coder, table, run)
        if run.uniform:
            ideal += float(run.which.sum())
        else:
            ideal -= float(np.log2(table.frequency[run.values] / rans.TOTAL).sum())
    assert math.isclose(coder.bits(), ideal, abs_tol=1e-6)
    assert ideal / 8 <= len(encode(table, runs, 1)) <= 1.01 * ideal / 8 + 8
    assert len(encode(table, runs, 64)) <= 1.01 * ideal / 8 + 8 + 4 * 64


# Damaged data


@given(
    seed=SEEDS,
    states=st.sampled_from(STATES),
    change=st.sampled_from(["flip", "cut", "insert", "noise"]),
    data=st.data(),
)
def test_damaged_data_is_refused_or_decodes_to_valid_values(
    seed: int, states: int, change: str, data: st.DataObject
) -> None:
    """The decoder raises MalformedError with a rule of 8.6.4, or returns entries of the rows and numbers in range."""
    table, runs = random_runs(seed, [40, 20, 40], 8)
    coded = encode(table, runs, states)
    at = data.draw(st.integers(0, len(coded) - 1))
    extra = data.draw(st.binary(min_size=1, max_size=9))
    changed = {
        "flip": coded[:at] + bytes([coded[at] ^ (extra[0] or 1)]) + coded[at + 1 :],
        "cut": coded[:at],
        "insert": coded[:at] + extra + coded[at:],
        "noise": np.random.default_rng(seed).bytes(at + 1),
    }
    try:
        found = decode(changed[change], table, runs, states)
    except MalformedError as error:
        assert error.section == "L"  # noqa: PT017  the data may also be valid
        assert error.rule in {"R-03", "R-04", "R-05"}  # noqa: PT017
        return
    for values, run in zip(found, runs, strict=True):
        low, high = (0, 1 << run.which) if run.uniform else (table.first[run.which], table.first[run.which + 1])
        assert ((low <= values) & (values < high)).all()


@pytest.mark.parametrize("states", STATES)
def test_each_rule_of_the_coder_is_reported_by_its_id(states: int) -> None:
    """R-03: cut states, odd length, low state.  R-04: a word is missing.  R-05: words or states are left over."""
    table, runs = random_runs(1, [300, 100], 8)
    coded = encode(table, runs, states)
    low_state = b"\xff\xff\0\0"
    for data, rule in (
        (coded[: 4 * states - 2], "R-03"),
        (coded + b"\0", "R-03"),
        (coded[: 4 * states - 4] + low_state + coded[4 * states :], "R-03"),
        (coded[:-2], "R-04"),
        (coded + b"\0\0", "R-05"),
    ):
        with pytest.raises(MalformedError) as caught:
            decode(data, table, runs, states)
        assert (caught.value.section, caught.value.rule) == ("L", rule)
    with pytest.raises(MalformedError) as caught:
        decode(b"\1\0\1\0" + Encoder().finish(states)[4:], table, [], states)
    assert caught.value.rule == "R-05"
