"""pillow_sdl.latent.rans: operations of the entropy coder and their bytes (SPEC 8.6.4)."""

from __future__ import annotations

import math
import time
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

STATES = (1, 16, 32, 64)


class Run(NamedTuple):
    """Operations of one kind that follow each other.

    which: their rows of the table, or their bits.   values: the entries of the table, or the numbers.
    """

    uniform: bool
    which: NDArray[np.int64]
    values: NDArray[np.int64]


def _table(random: np.random.Generator, rows: int) -> Distributions:
    """Random distributions of 1 to 40 entries, flat ones and such as have most of their weight in one entry."""
    sizes = random.integers(1, 41, rows)
    found = []
    for size in sizes:
        weights = np.exp(random.uniform(0, 12) * random.standard_normal(size))
        frequency = 1 + np.floor((rans.TOTAL - size) * weights / weights.sum()).astype(np.int64)
        frequency[np.argmax(frequency)] += rans.TOTAL - frequency.sum()
        found.append(frequency)
    return Distributions.from_frequencies(sizes, np.concatenate(found))


def _entries(random: np.random.Generator, table: Distributions, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """An entry of each row, as likely as the table says or, for every tenth, any of them."""
    slots = rans.TOTAL * rows + random.integers(0, rans.TOTAL, len(rows))
    likely = np.searchsorted(table.ascending, slots, side="right") - 1
    any_of_them = random.integers(table.first[rows], table.first[rows + 1])
    return np.where(random.random(len(rows)) < 0.1, any_of_them, likely)


def _runs(seed: int, lengths: list[int], rows: int) -> tuple[Distributions, list[Run]]:
    """A table, and runs of entries and of numbers that take turns."""
    random = np.random.default_rng(seed)
    table = _table(random, rows)
    runs = []
    for index, length in enumerate(lengths):
        if index % 2:
            which = random.integers(0, 17, length)
            values = random.integers(0, 1 << which)
        else:
            which = random.integers(0, rows, length)
            values = _entries(random, table, which)
        runs.append(Run(index % 2 == 1, which, values))
    return table, runs


def _encode(table: Distributions, runs: list[Run], states: int) -> bytes:
    coder = Encoder()
    for run in runs:
        if run.uniform:
            coder.uniform(run.values, run.which)
        else:
            coder.entries(table, run.values)
    return coder.finish(states)


def _decode(data: bytes, table: Distributions, runs: list[Run], states: int) -> list[NDArray[np.int64]]:
    """The values, which need not be those that were encoded."""
    coder = Decoder(data, states)
    found = [coder.uniform(run.which) if run.uniform else coder.entries(table, run.which) for run in runs]
    coder.finish()
    return found


LENGTHS = st.lists(st.integers(0, 150), max_size=6)


@given(seed=st.integers(0, 2**32 - 1), lengths=LENGTHS, rows=st.integers(1, 20), states=st.sampled_from(STATES))
def test_operations_are_decoded_as_they_were_encoded(seed: int, lengths: list[int], rows: int, states: int) -> None:
    """Entries and numbers come back, of 0 bits and of 16 among them, and the coder ends where its encoder began."""
    table, runs = _runs(seed, lengths, rows)
    found = _decode(_encode(table, runs, states), table, runs, states)
    for values, run in zip(found, runs, strict=True):
        assert values.dtype == np.int64
        assert values.tolist() == run.values.tolist()


@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(0, 200)), states=st.sampled_from(STATES))
def test_how_operations_are_handed_over_does_not_matter(seed: int, cuts: list[int], states: int) -> None:
    """The bytes are those of the operations, in one run or in several."""
    table, (run,) = _runs(seed, [200], 5)
    parts = np.split(run.values, sorted(cuts))
    coder = Encoder()
    for part in parts:
        coder.entries(table, part)
    data = _encode(table, [run], states)
    assert coder.finish(states) == data
    decoder = Decoder(data, states)
    assert [decoder.entries(table, part).tolist() for part in np.split(run.which, sorted(cuts))] == [
        part.tolist() for part in parts
    ]


@pytest.mark.parametrize("states", STATES)
def test_no_operations(states: int) -> None:
    """Nothing to code: the states as they begin, without words."""
    assert Encoder().finish(states) == np.full(states, rans.LOWEST, "<u4").tobytes()


def test_one_entry_of_the_whole_range_takes_no_bits() -> None:
    """An entry of frequency 2^16 and numbers of 0 bits leave all states as they were."""
    table = Distributions.from_frequencies(np.array([1]), np.array([rans.TOTAL]))
    coder = Encoder()
    coder.entries(table, np.zeros(500, np.int64))
    coder.uniform(np.zeros(500, np.int64), np.zeros(500, np.int64))
    assert coder.bits() == 0
    assert coder.finish(16) == Encoder().finish(16)


@given(seed=st.integers(0, 2**32 - 1), lengths=st.lists(st.integers(200, 2000), min_size=1, max_size=4))
def test_one_state_takes_as_many_bytes_as_the_probabilities_say(seed: int, lengths: list[int]) -> None:
    """Within 1 % and 8 bytes of the ideal, which `bits` tells; each further state takes 4 bytes at most."""
    table, runs = _runs(seed, lengths, 20)
    coder = Encoder()
    ideal = 0.0
    for run in runs:
        if run.uniform:
            coder.uniform(run.values, run.which)
            ideal += float(run.which.sum())
        else:
            coder.entries(table, run.values)
            ideal -= float(np.log2(table.frequency[run.values] / rans.TOTAL).sum())
    assert math.isclose(coder.bits(), ideal, abs_tol=1e-6)
    assert ideal / 8 <= len(coder.finish(1)) <= 1.01 * ideal / 8 + 8
    assert len(coder.finish(64)) <= 1.01 * ideal / 8 + 8 + 4 * 64


def _survives(data: bytes, table: Distributions, runs: list[Run], states: int) -> None:
    """Bytes that no encoder made are refused, or decode to values that there are."""
    found: list[NDArray[np.int64]] = []
    refusal = None
    try:
        found = _decode(data, table, runs, states)
    except MalformedError as error:
        refusal = error
    assert refusal is None or (refusal.section == "L" and refusal.rule in {"R-03", "R-04", "R-05"})
    for values, run in zip(found, runs, strict=refusal is None):
        low, high = (0, 1 << run.which) if run.uniform else (table.first[run.which], table.first[run.which + 1])
        assert ((low <= values) & (values < high)).all()


@given(
    seed=st.integers(0, 2**32 - 1),
    states=st.sampled_from(STATES),
    change=st.sampled_from(["flip", "cut", "insert", "noise"]),
    data=st.data(),
)
def test_damaged_bytes_are_refused_or_decoded_to_something(
    seed: int, states: int, change: str, data: st.DataObject
) -> None:
    """No other exception than MalformedError, whatever the bytes."""
    table, runs = _runs(seed, [40, 20, 40], 8)
    coded = _encode(table, runs, states)
    at = data.draw(st.integers(0, len(coded) - 1))
    extra = data.draw(st.binary(min_size=1, max_size=9))
    changed = {
        "flip": coded[:at] + bytes([coded[at] ^ (extra[0] or 1)]) + coded[at + 1 :],
        "cut": coded[:at],
        "insert": coded[:at] + extra + coded[at:],
        "noise": np.random.default_rng(seed).bytes(at + 1),
    }
    _survives(changed[change], table, runs, states)


@pytest.mark.parametrize("states", STATES)
def test_what_a_decoder_refuses(states: int) -> None:
    """Each rule of the coder's data, by its id."""
    table, runs = _runs(1, [300, 100], 8)
    coded = _encode(table, runs, states)
    low = b"\xff\xff\0\0"
    for data, rule in (
        (coded[: 4 * states - 2], "R-03"),
        (coded + b"\0", "R-03"),
        (coded[: 4 * states - 4] + low + coded[4 * states :], "R-03"),
        (coded[:-2], "R-04"),
        (coded + b"\0\0", "R-05"),
    ):
        with pytest.raises(MalformedError) as caught:
            _decode(data, table, runs, states)
        assert caught.value.rule == rule
    with pytest.raises(MalformedError) as caught:
        _decode(b"\1\0\1\0" + Encoder().finish(states)[4:], table, [], states)
    assert caught.value.rule == "R-05"


@pytest.mark.parametrize("states", STATES)
def test_a_few_bytes_do_not_keep_a_decoder_busy(states: int) -> None:
    """A million operations that the data cannot hold are refused at the first word that is missing."""
    coder = Decoder(Encoder().finish(states), states)
    start = time.perf_counter()
    with pytest.raises(MalformedError, match="ends before its last symbol") as caught:
        coder.uniform(np.full(1_000_000, 16))
    assert caught.value.rule == "R-04"
    assert time.perf_counter() - start < 2
