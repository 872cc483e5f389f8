"""Integer context model: how likely each value of a symbol is, given the symbols decoded before it (SPEC 8.6).

The channels of a latent are coded in groups, each group in ten passes over the picture: a grid of every eighth
position, then three passes for each halving of the grid.

    0 . . . . . . . 0        of a grid with spacing 2s, where `0` is known:   0 H 0
    . . . . . . . . .        first the middles of the squares, D,             V D V
    ...                      then H between two of a row, then V.             0 H 0

All symbols of a pass are coded at once: what is known of them are the channels of earlier groups, in a window around
the position, and the passes before, within the same group.  A small network of integers turns that into a mean and
a spread for each symbol, and these pick a row of a table of distributions.

Integers only: weights and activations are so small that every sum stays below 2^24 (`tests/test_context.py` proves
it for the tables that ship), so float32 products are exact in whatever order a BLAS adds them.

Sources: integer networks, Balle et al. 2019 (ICLR); groups of channels, Minnen and Singh 2020 (arXiv 2007.08739);
shifts for scales, Jacob et al. 2018 (arXiv 1712.05877).
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ..errors import MalformedError, UnsupportedError
from . import spaces
from .quantize import MAX_SYMBOL
from .rans import SECTION, Distributions
from .threads import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from .rans import Decoder, Encoder

BASE: Final = 8
"""Spacing of the first pass's grid."""

INPUT: Final = 255
"""Largest magnitude of a network's input, and largest value of a hidden one."""

FRACTIONS: Final = 16
"""Means are told apart to this part of a symbol."""

SPREADS: Final = 48
"""Spreads that have distributions of their own: standard deviations 2^((i - 28) / 8) symbols."""

SPREADS_PER_OCTAVE: Final = 8
MAX_LOW_BITS: Final = 12

POSITIONS: Final = 1 << 14
"""Positions whose inputs are gathered at once: a matter of memory, not of results."""

# 2^(14 + j / 256), to the nearest integer.
EXP2: Final = np.rint(np.exp2(14 + np.arange(256) / 256)).astype(np.int64)


TABLES: Final = {
    "sdl1": "21e4c6a67cb69474dd9dcfe65838a4e6fc16d35785e5e3eec6ac64fa764bb241",
    "sdl2": "dfbfc2dc0c4da4e8063161280391c6740da6595b71a72f4278c831c3db591848",
    "sdl3": "64314b929c1d645ecd71ceb52ab56f0457d4bd4441a65517cc73ef0c8dcd2ab7",
    "sdl4": "6c0ebb474252b018e0a6b313f1efebff78976a9194e20a41b45ce9e16e63a393",
    "sdl5": "e836e79b7caa1966cc390caecb11f110f02c311f019f0e74910b32573f3c9e3c",
    "sd1": "ddabe8e5e28ceb80e890b37268f7e8b7ace15af37e75de40850f9ed146af695b",
    "sdxl": "5d2097c36f9c3ee96e2285fa0325d7d289ff59d6ec83197998d353ca4c76ead2",
    "sd3": "1be611c2ba99f20626e6b20e671b710575a6b3e75af051c3f9248025e5fb24e0",
    "flux1": "605ac5cd9892b67e92cae0063be2879267a06a114aa06d9c803bf2460f88bfaf",
}
"""SHA-256 of the file of each latent space that has a context model (spec/registry.md)."""

DISTRIBUTIONS: Final = "d387ff5cb52b939051bbbfc48e0c084965f35d934e4cb7eb604fbd3a4e1d12f5"
"""SHA-256 of the file of the distributions."""


@cache
def model(space: str) -> Model:
    """The context model of a latent space, by its name.

    Raises UnsupportedError (H-07) if it has none, and what `spaces.read_arrays` raises.
    """
    if not TABLES.get(space):
        msg = f"latent space {space} has no context model, which payload method 1 needs"
        raise UnsupportedError(msg)
    return Model.from_tensors(spaces.read_arrays(f"{space}-context", TABLES[space]))


@cache
def distributions() -> Distributions:
    """The table of distributions that all spaces share."""
    arrays = spaces.read_arrays("distributions", DISTRIBUTIONS)
    return Distributions.from_frequencies(arrays["sizes"].astype(np.int64), arrays["frequencies"].astype(np.int64))


class Pass(NamedTuple):
    """One pass over the picture: positions (top + stride * i, left + stride * j).

    number: 0..9, in their order.   weights: which of a group's own-channel weights it uses; 0: none.
    step: positions between two places of its window of (2 reach + 1)^2.   known: which of these are decoded.
    """

    number: int
    stride: int
    top: int
    left: int
    step: int
    weights: int
    known: NDArray[np.bool_]


# A position's place in the order, by the parity of its row and column on the grid.
_TURN: Final = {(0, 0): 0, (1, 1): 1, (0, 1): 2, (1, 0): 3}


@cache
def passes(reach: int) -> tuple[Pass, ...]:
    """The ten passes, in order (SPEC 8.6.2).   reach: grid steps on each side from which the own group is seen."""
    side = 2 * reach + 1
    found = [Pass(0, BASE, 0, 0, 1, 0, np.zeros((side, side), bool))]
    step = BASE // 2
    while step:
        for index, (row, column) in enumerate([(1, 1), (0, 1), (1, 0)], 1):
            known = np.zeros((side, side), bool)
            for dy in range(-reach, reach + 1):
                for dx in range(-reach, reach + 1):
                    earlier = _TURN[(row + dy) % 2, (column + dx) % 2] < _TURN[row, column]
                    known[dy + reach, dx + reach] = earlier and abs(dy) + abs(dx) <= reach + 1
            weights = index if step > 1 else index + 3
            found.append(Pass(len(found), 2 * step, row * step, column * step, step, weights, known))
        step //= 2
    return tuple(found)


def scale(values: NDArray[np.int64], exponent: NDArray[np.int64]) -> NDArray[np.int64]:
    """Values * 2^(exponent / 256), rounded half up; `exponent` as `units` bounds it, broadcast against values."""
    shift = 14 - (exponent >> 8)
    product = values * EXP2[exponent & 255]
    up = np.maximum(shift, 0)
    result: NDArray[np.int64] = (product + (1 << up >> 1)) >> up << np.maximum(-shift, 0)
    return result


class Layer(NamedTuple):
    """Rows of a matrix product, its sums shifted right: weight float32 (rows, inputs), the rest float32 (..., rows, 1).

    factor: 2 to the minus the shift of each row.   All values are integers, or powers of two.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    factor: NDArray[np.float32]

    def __call__(self, inputs: NDArray[np.float32], bias: int) -> NDArray[np.float32]:
        """Inputs (inputs, n) -> (rows, n), integers.   bias: which row of the biases."""
        sums = self.weight @ inputs
        sums += self.bias[bias]
        sums *= self.factor
        np.floor(sums, out=sums)
        return sums


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The network of one group of channels.

    channels: int64 (n,), which ones.   first: one layer for each set of own-channel weights, whose rows are the hidden
    values and then n means.   second: hidden values.   third: n corrections of the means, then n spreads.
    """

    channels: NDArray[np.int64]
    first: tuple[Layer, ...]
    second: Layer
    third: Layer


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A latent space's context model, as its table file holds it.

    exponent: int64 (C,), 256 * log2 of the input units in a unit of the latent.
    window: positions on each side from which channels of earlier groups are seen.   reach: see `passes`.
    """

    groups: tuple[Group, ...]
    exponent: NDArray[np.int64]
    window: int
    reach: int

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.generic]]) -> Model:
        """tensors: as SPEC 8.6.3 names them."""
        order = tensors["order"].astype(np.int64)
        sizes = tensors["sizes"].astype(np.int64).tolist()
        groups = []
        begin = 0
        for index, size in enumerate(sizes):
            part = {name.split(".", 1)[1]: t for name, t in tensors.items() if name.startswith(f"{index}.")}
            rows = len(part["rate"])
            earlier = part["earlier"].reshape(rows, -1)
            rate = part["rate"].reshape(rows, 1)
            first = []
            for own in range(7):
                weights = [earlier, part[f"own{own}"].reshape(rows, -1), rate] if own else [earlier, rate]
                first.append(_layer(np.concatenate(weights, 1), part["bias1"], part["shift1"]))
            groups.append(
                Group(
                    channels=order[begin : begin + size],
                    first=tuple(first),
                    second=_layer(part["weight2"], part["bias2"], part["shift2"]),
                    third=_layer(part["weight3"], part["bias3"], part["shift3"]),
                )
            )
            begin += size
        window = tensors["0.earlier"].shape[2] // 2
        return cls(tuple(groups), tensors["exponent"].astype(np.int64), window, int(tensors["reach"][0]))

    def units(self, log2_steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """256 * log2 of the input units in a symbol of each channel, int64 (C,)."""
        result: NDArray[np.int64] = np.clip(self.exponent + log2_steps, -20 * 256, 20 * 256)
        return result


def _layer(weight: NDArray[np.generic], bias: NDArray[np.generic], shift: NDArray[np.generic]) -> Layer:
    return Layer(
        np.ascontiguousarray(weight, np.float32),
        bias.astype(np.float32)[:, :, None],
        np.ldexp(np.float32(1), -shift.astype(np.int32))[:, None],
    )


class Prediction(NamedTuple):
    """What is foretold of the symbols of a pass, all int64 (n, rows, columns): n channels of a group.

    row: of the table of distributions.   centre: what the table's values are relative to, in units of 2^low_bits.
    low_bits: bits of a symbol that are coded as they are.
    """

    row: NDArray[np.int64]
    centre: NDArray[np.int64]
    low_bits: NDArray[np.int64]


class Walk:
    """Goes through a latent in the order of coding: `inputs` fills up as symbols become known."""

    def __init__(self, model: Model, log2_steps: NDArray[np.int64], groups: int, height: int, width: int) -> None:
        self.groups = model.groups[:groups]
        self._window, self._reach = model.window, model.reach
        self._passes = passes(model.reach)
        self._margin = max(model.window, model.reach * BASE // 2)
        self._size = height, width
        exponent = model.units(log2_steps)
        self._exponent = [exponent[group.channels][:, None, None] for group in self.groups]
        rate = int(exponent.sum()) // (8 * len(exponent)) - 128
        self._rate = float(min(max(rate, -127), 127))
        channels = sum(len(group.channels) for group in self.groups)
        self._inputs = np.zeros((channels, height + 2 * self._margin, width + 2 * self._margin), np.float32)
        self._begin = [0]
        for group in self.groups:
            self._begin.append(self._begin[-1] + len(group.channels))

    def places(self) -> Iterator[tuple[int, Pass, tuple[slice, slice]]]:
        """(number of the group, pass, its places in a plane), in the order of coding; passes without any left out."""
        height, width = self._size
        for group in range(len(self.groups)):
            for step in self._passes:
                if step.top < height and step.left < width:
                    yield group, step, np.s_[step.top :: step.stride, step.left :: step.stride]

    def learn(self, group: int, places: tuple[slice, slice], symbols: NDArray[np.int64]) -> None:
        """Take note of the symbols (n, rows, columns) at these places of a group's channels."""
        height, width = self._size
        inner = self._inputs[:, self._margin : self._margin + height, self._margin : self._margin + width]
        values = np.clip(scale(symbols, self._exponent[group]), -INPUT, INPUT)
        inner[self._begin[group] : self._begin[group + 1], *places] = values

    def predict(self, group: int, step: Pass) -> Prediction:
        """What is foretold of a pass from all that was learnt."""
        height, width = self._size
        rows, columns = -(-(height - step.top) // step.stride), -(-(width - step.left) // step.stride)
        network, begin, end = self.groups[group], self._begin[group], self._begin[group + 1]
        size = len(network.channels)
        means = np.empty((size, rows, columns), np.int64)
        spreads = np.empty_like(means)
        chunk = max(1, POSITIONS // columns)
        for top in range(0, rows, chunk):
            count = min(chunk, rows - top)
            inputs = self._gather(begin, end, step, top, count, columns)
            sums = network.first[step.weights](inputs, step.number)
            hidden, linear = sums[:-size], sums[-size:]
            np.clip(hidden, 0, INPUT, out=hidden)
            hidden = network.second(hidden, step.number)
            np.clip(hidden, 0, INPUT, out=hidden)
            found = network.third(hidden, step.number)
            means[:, top : top + count] = (linear + found[:size]).reshape(size, count, columns)
            spreads[:, top : top + count] = found[size:].reshape(size, count, columns)
        return _prediction(means, spreads, self._exponent[group])

    def _gather(self, begin: int, end: int, step: Pass, top: int, rows: int, columns: int) -> NDArray[np.float32]:
        """Inputs of a network: float32 (inputs, rows * columns)."""
        row, column = self._margin + step.top + top * step.stride, self._margin + step.left
        shape = rows, columns
        earlier = self._windows(0, begin, row, column, self._window, 1, step.stride, shape)
        parts = [earlier.reshape(-1, rows * columns)]
        if step.weights:
            own = self._windows(begin, end, row, column, self._reach, step.step, step.stride, shape)
            parts.append(own[:, step.known].reshape(-1, rows * columns))
        parts.append(np.full((1, rows * columns), self._rate, np.float32))
        return np.concatenate(parts)

    def _windows(
        self, begin: int, end: int, row: int, column: int, reach: int, step: int, stride: int, shape: tuple[int, int]
    ) -> NDArray[np.float32]:
        """A view of the windows around places: (channels, 2 reach + 1, 2 reach + 1, *shape)."""
        corner = self._inputs[begin:end, row - reach * step :, column - reach * step :]
        plane, line, item = self._inputs.strides
        side = 2 * reach + 1
        strides = plane, line * step, item * step, line * stride, item * stride
        return as_strided(corner, (end - begin, side, side, *shape), strides, writeable=False)


def _prediction(means: NDArray[np.int64], spreads: NDArray[np.int64], exponent: NDArray[np.int64]) -> Prediction:
    """means: in 1/16 input units.   spreads: log2 of the standard deviation in input units / 40, in 1/16."""
    limit = FRACTIONS * MAX_SYMBOL
    mean = np.clip(scale(means, -exponent), -limit, limit)
    # 28 stands for one symbol; 40 input units are one for the spreads: 5 + 82/256 octaves.
    spread = np.maximum((16 * spreads + 5 * 256 + 82 - exponent + 16 >> 5) + 28, 0)
    low_bits = np.clip((spread - SPREADS) // SPREADS_PER_OCTAVE + 1, 0, MAX_LOW_BITS)
    spread = np.minimum(spread - SPREADS_PER_OCTAVE * low_bits, SPREADS - 1)
    # The middle of 2^b symbols that begin at a multiple of 2^b less half of it lies half a symbol below that multiple.
    mean = (mean + FRACTIONS // 2 * (low_bits > 0) + (1 << low_bits >> 1)) >> low_bits
    centre = (mean + FRACTIONS // 2) // FRACTIONS
    return Prediction(FRACTIONS * spread + mean - FRACTIONS * centre + FRACTIONS // 2, centre, low_bits)


def _ordered(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, rows, columns) -> all in the order of coding: by row, by column, by channel."""
    return values.transpose(1, 2, 0).ravel()


def _reach(table: Distributions, row: NDArray[np.int64]) -> NDArray[np.int64]:
    """Largest magnitude, relative to the centre, that a row of the table has an entry for; one more stands for beyond."""
    return (table.first[row + 1] - table.first[row] - 3) // 2


def _threads(shape: tuple[int, ...]) -> AbstractContextManager[None]:
    """What the products for symbols (C, h, w) run in: all threads of the BLAS only where there is much to do."""
    return one_blas_thread() if shape[1] * shape[2] <= POSITIONS else nullcontext()


def code(walk: Walk, table: Distributions, symbols: NDArray[np.int16], coder: Encoder) -> None:
    """Hand the operations of symbols int16 (C, h, w) to the encoder (SPEC 8.6.5)."""
    with _threads(symbols.shape):
        for group, step, places in walk.places():
            values = symbols[walk.groups[group].channels][:, *places].astype(np.int64)
            found = walk.predict(group, step)
            row, low_bits = _ordered(found.row), _ordered(found.low_bits)
            shifted = _ordered(values) + (1 << low_bits >> 1)
            offset = (shifted >> low_bits) - _ordered(found.centre)
            reach = _reach(table, row)
            coder.entries(table, table.first[row] + reach + 1 + np.clip(offset, -reach - 1, reach + 1))
            beyond = np.abs(offset) - reach
            beyond = beyond[beyond > 0]
            length = np.frexp(beyond.astype(np.float64))[1].astype(np.int64) - 1
            coder.uniform(length, np.full_like(length, 5))
            coder.uniform(beyond - (1 << length), length)
            coder.uniform((shifted & (1 << low_bits) - 1)[low_bits > 0], low_bits[low_bits > 0])
            walk.learn(group, places, values)


def decode(walk: Walk, table: Distributions, symbols: NDArray[np.int16], coder: Decoder) -> None:
    """Fill symbols int16 (C, h, w), all zero before, from a decoder.

    Raises MalformedError: R-04 from the decoder, R-06 for a symbol out of range.
    """
    with _threads(symbols.shape):
        for group, step, places in walk.places():
            found = walk.predict(group, step)
            row, low_bits = _ordered(found.row), _ordered(found.low_bits)
            reach = _reach(table, row)
            offset = coder.entries(table, row) - table.first[row] - reach - 1
            outside = np.flatnonzero(np.abs(offset) > reach)
            length = coder.uniform(np.full(len(outside), 5))
            if (length > 16).any():
                raise _out_of_range()
            beyond = (1 << length) + coder.uniform(length)
            offset[outside] = np.sign(offset[outside]) * (reach[outside] + beyond)
            values = (offset + _ordered(found.centre)) << low_bits
            fine = low_bits > 0
            values[fine] += coder.uniform(low_bits[fine]) - (1 << low_bits[fine] - 1)
            if values.size and max(values.max(), -values.min()) > MAX_SYMBOL:
                raise _out_of_range()
            size, rows, columns = found.row.shape
            plane = values.reshape(rows, columns, size).transpose(2, 0, 1)
            symbols[walk.groups[group].channels[:, None, None], *_grid(places, symbols.shape)] = plane
            walk.learn(group, places, plane)


def _grid(places: tuple[slice, slice], shape: tuple[int, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The same places as arrays of rows (1, rows, 1) and of columns (1, 1, columns)."""
    rows, columns = (np.arange(*part.indices(side)) for part, side in zip(places, shape[1:], strict=True))
    return rows[None, :, None], columns[None, None, :]


def _out_of_range() -> MalformedError:
    return MalformedError(f"a symbol beyond +-{MAX_SYMBOL}", section=SECTION, rule="R-06")


def lengths(found: Prediction, table: Distributions, values: NDArray[np.int64]) -> NDArray[np.float64]:
    """Bits that symbols int64 (n, rows, columns) take under a prediction of the same shape."""
    offset = ((values + (1 << found.low_bits >> 1)) >> found.low_bits) - found.centre
    reach = _reach(table, found.row)
    entry = table.first[found.row] + reach + 1 + np.clip(offset, -reach - 1, reach + 1)
    beyond = np.maximum(np.abs(offset) - reach, 0)
    escape = np.where(beyond > 0, 4.0 + np.frexp(beyond.astype(np.float64))[1], 0)
    bits: NDArray[np.float64] = 16 - np.log2(table.frequency[entry]) + found.low_bits + escape
    return bits
