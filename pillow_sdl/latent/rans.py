"""Entropy coder of payload method 1: range asymmetric numeral systems (SPEC 8.6.4).

A state has 32 bits and is at least 2^16.  Probabilities are multiples of 2^-16.  Words of 16 bits move in and out of
the states.  Operation i of a payload works on state i mod N, so N consecutive operations can run at once.  With one
state Python integers are fastest; with many states, which large pictures have, numpy arrays are.

Sources: Duda 2013 (arXiv 1311.2540); interleaving of several states, Giesen 2014 (arXiv 1402.3392).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from ..errors import MalformedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

LOWEST: Final = 1 << 16
"""Smallest value of a state between operations, and the value of each state when encoding begins."""

TOTAL: Final = 1 << 16
"""Sum of the frequencies of one distribution."""

LANES: Final = 16
"""A payload has one state, or a multiple of this number of states."""

SECTION: Final = "L"
"""Section of a file that holds the payload."""


@dataclass(frozen=True, eq=False)
class Distributions:
    """A table of distributions, one per row.  A row has the entries `first[row]` to `first[row + 1] - 1`.

    first: int64 (rows + 1,).
    start: int64 (entries,), sum of the frequencies of earlier entries in the same row; 0 for the first entry of a row.
    frequency: int64 (entries,), at least 1; the frequencies of a row add up to 2^16.
    """

    first: NDArray[np.int64]
    start: NDArray[np.int64]
    frequency: NDArray[np.int64]

    @classmethod
    def from_frequencies(cls, sizes: NDArray[np.int64], frequency: NDArray[np.int64]) -> Distributions:
        """Build a table from the number of entries in each row and the frequencies of all rows, concatenated."""
        first = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        start = np.cumsum(frequency) - frequency - np.repeat(TOTAL * np.arange(len(sizes)), sizes)
        return cls(first, start, frequency)

    @cached_property
    def ascending(self) -> NDArray[np.int64]:
        """`start` plus 2^16 times the row: one binary search then finds an entry of any row."""
        return self.start + np.repeat(TOTAL * np.arange(len(self.first) - 1), np.diff(self.first))

    @cached_property
    def lists(self) -> tuple[list[int], list[int]]:
        """`start` and `frequency` as lists of Python integers."""
        return self.start.tolist(), self.frequency.tolist()

    @cached_property
    def rows(self) -> list[tuple[int, int, int, int, int]]:
        """For each row: its likeliest entry, the start and end of that entry, and the row's range of entries."""
        start, frequency = self.lists
        found = []
        for low, high in pairwise(self.first.tolist()):
            entry = max(range(low, high), key=frequency.__getitem__)
            found.append((entry, start[entry], start[entry] + frequency[entry], low, high))
        return found


class Encoder:
    """Collects operations in decoding order.  `finish` codes them, from the last to the first."""

    def __init__(self) -> None:
        # All operations of a picture are held, so the types are narrow.  Frequencies are 1 to 2^16 and are held less 1.
        self._starts: list[NDArray[np.uint16]] = []
        self._frequencies_less_1: list[NDArray[np.uint16]] = []

    def entries(self, table: Distributions, entries: NDArray[np.int64]) -> None:
        """Add operations that code entries of a table, each with the distribution of its row."""
        self._add(table.start[entries], table.frequency[entries])

    def uniform(self, values: NDArray[np.int64], bits: NDArray[np.int64]) -> None:
        """Add operations that code values of `bits` bits each, 0..16, with uniform probabilities."""
        self._add(values << 16 - bits, 1 << 16 - bits)

    def _add(self, start: NDArray[np.int64], frequency: NDArray[np.int64]) -> None:
        self._starts.append(start.astype(np.uint16))
        self._frequencies_less_1.append((frequency - 1).astype(np.uint16))

    def bits(self) -> float:
        """Return the information content of the operations in bits, a lower bound of their coded size."""
        return sum(float((16 - np.log2(less_1 + 1.0)).sum()) for less_1 in self._frequencies_less_1)

    def finish(self, states: int) -> bytes:
        """Return the states and words, little-endian, and clear the operations.

        states: number of states, 1 or a multiple of `LANES`.
        """
        start = np.concatenate([np.empty(0, np.uint16), *self._starts])
        self._starts.clear()
        less_1 = np.concatenate([np.empty(0, np.uint16), *self._frequencies_less_1])
        self._frequencies_less_1.clear()
        if states == 1:
            return _encode_one(start.tolist(), (less_1.astype(np.int64) + 1).tolist())
        return _encode_many(start, less_1, states)


def _encode_one(starts: list[int], frequencies: list[int]) -> bytes:
    state = LOWEST
    words: list[int] = []
    emit = words.append
    for start, frequency in zip(reversed(starts), reversed(frequencies), strict=True):
        if state >= frequency << 16:
            emit(state & 0xFFFF)
            state >>= 16
        quotient, remainder = divmod(state, frequency)
        state = (quotient << 16) + remainder + start
    return np.array([state], "<u4").tobytes() + np.array(words[::-1], "<u2").tobytes()


def _encode_many(start: NDArray[np.uint16], frequency_less_1: NDArray[np.uint16], states: int) -> bytes:
    state = np.full(states, LOWEST, np.int64)
    chunks: list[NDArray[np.int64]] = []
    for begin in range((len(start) - 1) // states * states, -1, -states):
        f = frequency_less_1[begin : begin + states].astype(np.int64) + 1
        x = state[: len(f)]
        full = x >= f << 16
        chunks.append(x[full] & 0xFFFF)
        x = np.where(full, x >> 16, x)
        quotient, remainder = np.divmod(x, f)
        state[: len(f)] = (quotient << 16) + remainder + start[begin : begin + states]
    words = np.concatenate([np.empty(0, np.int64), *chunks[::-1]])
    return state.astype("<u4").tobytes() + words.astype("<u2").tobytes()


def exhausted() -> MalformedError:
    """Return the error for a payload that ends too early (R-04)."""
    return MalformedError("the payload ends before its last symbol", section=SECTION, rule="R-04")


class Decoder:
    """Decodes the operations in their order."""

    def __init__(self, data: bytes, states: int) -> None:
        """Read the states and words.

        data: as `Encoder.finish` returns them.   states: number of states, 1 or a multiple of `LANES`.
        Raises MalformedError (R-03) if the data are too short or have an odd length, or if a state is below 2^16.
        """
        if len(data) < 4 * states or len(data) % 2:
            msg = f"the payload has {len(data)} bytes, which cannot be {states} coder states and 16-bit words"
            raise MalformedError(msg, section=SECTION, rule="R-03")
        self._state = np.frombuffer(data, "<u4", states).astype(np.int64)
        if (self._state < LOWEST).any():
            msg = "a state of the entropy coder is below 2^16"
            raise MalformedError(msg, section=SECTION, rule="R-03")
        self._words = np.frombuffer(data, "<u2", offset=4 * states).astype(np.int64)
        self._word_list: list[int] = self._words.tolist() if states == 1 else []
        self._position = 0
        self._lane = 0

    def entries(self, table: Distributions, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Decode one entry from each of these rows of a table, int64.

        Raises MalformedError (R-04) if the data end too early.
        """
        if len(self._state) == 1:
            return self._entries_one(table, rows)
        found = np.empty(len(rows), np.int64)
        flat = table.ascending
        offset = TOTAL * rows
        for begin, end, lanes in self._rounds(len(rows)):
            x = self._state[lanes]
            slot = x & 0xFFFF
            entry = np.searchsorted(flat, offset[begin:end] + slot, side="right") - 1
            found[begin:end] = entry
            self._advance(lanes, table.frequency[entry] * (x >> 16) + slot - table.start[entry])
        return found

    def _entries_one(self, table: Distributions, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        start, frequency = table.lists
        words, position = self._word_list, self._position
        state = int(self._state[0])
        found: list[int] = []
        append = found.append
        for likeliest, begin, end, low, high in map(table.rows.__getitem__, rows.tolist()):
            slot = state & 0xFFFF
            # Most symbols have the likeliest value of their row, which needs no search.
            if begin <= slot < end:
                append(likeliest)
                state = (end - begin) * (state >> 16) + slot - begin
            else:
                entry = bisect_right(start, slot, low, high) - 1
                append(entry)
                state = frequency[entry] * (state >> 16) + slot - start[entry]
            if state < 0x10000:
                if position == len(words):
                    raise exhausted()
                state = state << 16 | words[position]
                position += 1
        self._state[0], self._position = state, position
        return np.array(found, np.int64)

    def uniform(self, bits: NDArray[np.int64]) -> NDArray[np.int64]:
        """Decode values of `bits` bits each, 0..16, with uniform probabilities, int64.

        Raises MalformedError (R-04) if the data end too early.
        """
        if len(self._state) == 1:
            return self._uniform_one(bits)
        found = np.empty(len(bits), np.int64)
        for begin, end, lanes in self._rounds(len(bits)):
            x = self._state[lanes]
            shift = 16 - bits[begin:end]
            found[begin:end] = (x & 0xFFFF) >> shift
            self._advance(lanes, ((x >> 16) << shift) + (x & (1 << shift) - 1))
        return found

    def _uniform_one(self, bits: NDArray[np.int64]) -> NDArray[np.int64]:
        words, position = self._word_list, self._position
        state = int(self._state[0])
        found: list[int] = []
        for shift in (16 - bits).tolist():
            found.append((state & 0xFFFF) >> shift)
            state = ((state >> 16) << shift) + (state & (1 << shift) - 1)
            if state < LOWEST:
                if position == len(words):
                    raise exhausted()
                state = state << 16 | words[position]
                position += 1
        self._state[0], self._position = state, position
        return np.array(found, np.int64)

    def _rounds(self, count: int) -> Iterator[tuple[int, int, slice]]:
        """Yield (begin, end, lanes): ranges of the next `count` operations that can run at once, and their states."""
        states = len(self._state)
        begin = 0
        while begin < count:
            end = min(count, begin + states - self._lane)
            yield begin, end, slice(self._lane, self._lane + end - begin)
            self._lane = (self._lane + end - begin) % states
            begin = end

    def _advance(self, lanes: slice, state: NDArray[np.int64]) -> None:
        """Store new states.  A state below 2^16 first takes in the next word."""
        low = np.flatnonzero(state < LOWEST)
        if len(low):
            end = self._position + len(low)
            if end > len(self._words):
                raise exhausted()
            state[low] = state[low] << 16 | self._words[self._position : end]
            self._position = end
        self._state[lanes] = state

    def finish(self) -> None:
        """Raise MalformedError (R-05) unless all words are used and all states are 2^16, as when encoding began."""
        if self._position != len(self._words) or (self._state != LOWEST).any():
            msg = "the entropy coder has words left over or a state other than 2^16 after the last symbol"
            raise MalformedError(msg, section=SECTION, rule="R-05")
