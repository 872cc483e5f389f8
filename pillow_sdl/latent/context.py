"""Integer context model: the probabilities of each symbol, given the symbols decoded before it (SPEC 8.6).

The channels of a latent are coded in groups.  Each group is coded in ten passes over the positions.  Pass 0 takes the
grid of every eighth position; then the spacing of the grid is halved three times, with three passes each time.

    0 . . . . . . . 0        A halving to spacing s, where `0` is already known:      0 H 0
    . . . . . . . . .        first D, the centers of the squares,                     V D V
    ...                      then H, between two in a row, then V, the others.        0 H 0

All symbols of a pass are coded at once.  For each position, a small integer network sees a window in the channels of
earlier groups, and a window in the group that is being coded, limited to the positions of earlier passes.  It gives a
mean and a spread for each symbol, and these select a row of a table of distributions.

All arithmetic is on integers.  Weights and activations are so small that every sum stays below 2^24
(`tests/test_context.py` proves it for the shipped tables), so float32 products are exact in whatever order a BLAS adds
them.

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

from .. import progress, registry
from ..errors import MalformedError
from . import spaces
from .rans import SECTION, Distributions
from .rounding import MAX_SYMBOL
from .threads import one_blas_thread

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from .rans import Decoder, Encoder

BASE: Final = 8
"""Spacing of the grid of pass 0, in latent positions."""

INPUT: Final = 255
"""Largest magnitude of a network input, and largest value of a hidden unit."""

FRACTIONS: Final = 16
"""Means have a resolution of one symbol divided by this number."""

SPREADS: Final = 48
"""Number of spreads in the table of distributions: spread i is a standard deviation of 2^((i - 28) / 8) symbols."""

SPREADS_PER_OCTAVE: Final = 8
"""Spreads for each doubling of the standard deviation."""

MAX_LOW_BITS: Final = 12
"""Largest number of low bits of a symbol that are coded with uniform probabilities."""

POSITIONS: Final = 1 << 14
"""Positions whose inputs are gathered at once.  This bounds memory and does not change results.

Latents with at most this many positions use one BLAS thread.
"""

EXP2: Final = np.rint(np.exp2(14 + np.arange(256) / 256)).astype(np.int64)
"""2^(14 + j / 256) for j = 0..255, rounded to the nearest integer."""


@cache
def model(space: str) -> Model:
    """Return the context model of a latent space, given the name of the space.  The result is cached.

    Raises KeyError for an unknown name, ModelNotFoundError if the file is missing, and ModelMismatchError if its
    SHA-256 is not the one in the registry.
    """
    return Model.from_tensors(spaces.read_arrays(registry.space(space).context))


@cache
def distributions() -> Distributions:
    """Return the table of distributions that all latent spaces share.  The result is cached.

    Raises ModelNotFoundError if the file is missing, and ModelMismatchError if its SHA-256 is not the one in the
    registry.
    """
    arrays = spaces.read_arrays(registry.load().distributions)
    return Distributions.from_frequencies(arrays["sizes"].astype(np.int64), arrays["frequencies"].astype(np.int64))


class Pass(NamedTuple):
    """One pass over a group: the positions (top + stride * i, left + stride * j).

    number: 0..9, in coding order.
    step: distance between neighboring places of the window in the own group, in latent positions.
    weights: which of the group's sets of own-group weights the pass uses, 1..6; 0: it does not see its own group.
    known: bool (2 reach + 1, 2 reach + 1), the places of the window that the network sees.  They are decoded before
        this pass and satisfy |dy| + |dx| <= reach + 1.
    """

    number: int
    stride: int
    top: int
    left: int
    step: int
    weights: int
    known: NDArray[np.bool_]


# When a position is coded, by the parity of its row and column on the grid: 0 before the three passes, 1 in D, 2 in H,
# 3 in V.
_TURN: Final = {(0, 0): 0, (1, 1): 1, (0, 1): 2, (1, 0): 3}


@cache
def passes(reach: int) -> tuple[Pass, ...]:
    """Return the ten passes in coding order (SPEC 8.6.2).

    reach: grid steps on each side at which a network sees its own group.
    """
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
    """Return values * 2^(exponent / 256), rounded to the nearest integer with halves up (SPEC 8.6).

    exponent: within -5120..5120, the range of `Model.units`; broadcast against values.
    """
    shift = 14 - (exponent >> 8)
    product = values * EXP2[exponent & 255]
    up = np.maximum(shift, 0)
    result: NDArray[np.int64] = (product + (1 << up >> 1)) >> up << np.maximum(-shift, 0)
    return result


class Layer(NamedTuple):
    """A layer of a network: a matrix product plus biases, whose sums are shifted right.

    weight: float32 (rows, inputs), integers.
    bias: float32 (10, rows, 1), integers, one set for each pass.
    factor: float32 (rows, 1), 2^-shift of each row.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    factor: NDArray[np.float32]

    def __call__(self, inputs: NDArray[np.float32], bias: int) -> NDArray[np.float32]:
        """Return the outputs, float32 (rows, n), for inputs float32 (inputs, n).  All values are integers.

        bias: index of the set of biases, which is the number of the pass.
        """
        sums = self.weight @ inputs
        sums += self.bias[bias]
        sums *= self.factor
        np.floor(sums, out=sums)
        return sums


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The network of one group of channels.

    channels: int64 (n,), the channels of the group in coding order.
    first: layer 1, once for each set of own-group weights; index 0 has none.  Its rows are hidden values, then n means.
    second: layer 2, whose rows are hidden values.
    third: layer 3, whose rows are n corrections of the means, then n spreads.
    """

    channels: NDArray[np.int64]
    first: tuple[Layer, ...]
    second: Layer
    third: Layer


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """The context model of a latent space.

    groups: the networks, in coding order.
    exponent: int64 (C,), 256 * log2 of the number of input units in one latent unit, by channel.
    window: positions on each side at which a network sees the channels of earlier groups.
    reach: grid steps on each side at which a network sees its own group (see `passes`).
    """

    groups: tuple[Group, ...]
    exponent: NDArray[np.int64]
    window: int
    reach: int

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[np.generic]]) -> Model:
        """Build the model from the arrays of a context file, under the names in SPEC 8.6.3."""
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
        """Return 256 * log2 of the number of input units in one symbol of each channel, int64 (C,), in -5120..5120.

        log2_steps: int64 (C,), 256 * log2 of the step sizes.
        """
        result: NDArray[np.int64] = np.clip(self.exponent + log2_steps, -20 * 256, 20 * 256)
        return result


def _layer(weight: NDArray[np.generic], bias: NDArray[np.generic], shift: NDArray[np.generic]) -> Layer:
    return Layer(
        np.ascontiguousarray(weight, np.float32),
        bias.astype(np.float32)[:, :, None],
        np.ldexp(np.float32(1), -shift.astype(np.int32))[:, None],
    )


class Prediction(NamedTuple):
    """The distributions of the symbols of a pass: three int64 (n, rows, columns), for the n channels of the group.

    row: row of the table of distributions.
    center: value to which the offsets in that row are relative, in units of 2^low_bits.
    low_bits: number of low bits of the symbol that are coded with uniform probabilities.
    """

    row: NDArray[np.int64]
    center: NDArray[np.int64]
    low_bits: NDArray[np.int64]


class Walk:
    """A walk through a latent in coding order.  It predicts the symbols of each pass from those recorded before."""

    def __init__(self, model: Model, log2_steps: NDArray[np.int64], groups: int, height: int, width: int) -> None:
        """Start a walk with no symbols recorded.

        log2_steps: int64 (C,), 256 * log2 of the step sizes.
        groups: number of groups that are coded; the symbols of the others are zero.
        height, width: size of the latent in positions.
        """
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
        # Network inputs of all symbols, channels in coding order, with a margin of zeros around the latent.
        self._inputs = np.zeros((channels, height + 2 * self._margin, width + 2 * self._margin), np.float32)
        self._begin = [0]
        for group in self.groups:
            self._begin.append(self._begin[-1] + len(group.channels))

    def places(self) -> Iterator[tuple[int, Pass, tuple[slice, slice]]]:
        """Yield (index of the group, pass, slices of rows and columns) in coding order.

        Passes without positions are left out.
        """
        height, width = self._size
        done = 0
        for group in range(len(self.groups)):
            for pass_ in self._passes:
                if pass_.top < height and pass_.left < width:
                    yield group, pass_, np.s_[pass_.top :: pass_.stride, pass_.left :: pass_.stride]
                    done += len(range(pass_.top, height, pass_.stride)) * len(range(pass_.left, width, pass_.stride))
                    progress.report(done, len(self.groups) * height * width)

    def learn(self, group: int, places: tuple[slice, slice], symbols: NDArray[np.int64]) -> None:
        """Record the symbols int64 (n, rows, columns) of a group at the places of a pass."""
        height, width = self._size
        inner = self._inputs[:, self._margin : self._margin + height, self._margin : self._margin + width]
        values = np.clip(scale(symbols, self._exponent[group]), -INPUT, INPUT)
        inner[self._begin[group] : self._begin[group + 1], *places] = values

    def predict(self, group: int, pass_: Pass) -> Prediction:
        """Predict the symbols of a pass from all symbols recorded so far."""
        height, width = self._size
        rows, columns = -(-(height - pass_.top) // pass_.stride), -(-(width - pass_.left) // pass_.stride)
        network, begin, end = self.groups[group], self._begin[group], self._begin[group + 1]
        size = len(network.channels)
        means = np.empty((size, rows, columns), np.int64)
        spreads = np.empty_like(means)
        chunk = max(1, POSITIONS // columns)
        for top in range(0, rows, chunk):
            count = min(chunk, rows - top)
            inputs = self._gather(begin, end, pass_, top, count, columns)
            sums = network.first[pass_.weights](inputs, pass_.number)
            hidden, linear = sums[:-size], sums[-size:]
            np.clip(hidden, 0, INPUT, out=hidden)
            hidden = network.second(hidden, pass_.number)
            np.clip(hidden, 0, INPUT, out=hidden)
            found = network.third(hidden, pass_.number)
            means[:, top : top + count] = (linear + found[:size]).reshape(size, count, columns)
            spreads[:, top : top + count] = found[size:].reshape(size, count, columns)
        return _prediction(means, spreads, self._exponent[group])

    def _gather(self, begin: int, end: int, pass_: Pass, top: int, rows: int, columns: int) -> NDArray[np.float32]:
        """Return the inputs of layer 1, float32 (inputs, rows * columns).

        begin, end: range of the group's channels in coding order.   top: first of the pass's rows that are gathered.
        """
        row, column = self._margin + pass_.top + top * pass_.stride, self._margin + pass_.left
        shape = rows, columns
        earlier = self._windows(0, begin, row, column, self._window, 1, pass_.stride, shape)
        parts = [earlier.reshape(-1, rows * columns)]
        if pass_.weights:
            own = self._windows(begin, end, row, column, self._reach, pass_.step, pass_.stride, shape)
            parts.append(own[:, pass_.known].reshape(-1, rows * columns))
        parts.append(np.full((1, rows * columns), self._rate, np.float32))
        return np.concatenate(parts)

    def _windows(
        self, begin: int, end: int, row: int, column: int, reach: int, step: int, stride: int, shape: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Return a view of the windows around positions: float32 (channels, 2 reach + 1, 2 reach + 1, *shape).

        begin, end: range of channels in coding order.   row, column: the first position in `_inputs`.
        step: distance between the places of a window.   stride: distance between the positions.
        """
        corner = self._inputs[begin:end, row - reach * step :, column - reach * step :]
        plane, line, item = self._inputs.strides
        side = 2 * reach + 1
        strides = plane, line * step, item * step, line * stride, item * stride
        return as_strided(corner, (end - begin, side, side, *shape), strides, writeable=False)


def _prediction(means: NDArray[np.int64], spreads: NDArray[np.int64], exponent: NDArray[np.int64]) -> Prediction:
    """Turn the outputs of a network into rows of the table of distributions (SPEC 8.6.3).

    means: in 1/16 input units.   spreads: log2 of (standard deviation in input units / 40), in 1/16 octave.
    """
    limit = FRACTIONS * MAX_SYMBOL
    mean = np.clip(scale(means, -exponent), -limit, limit)
    # Spread 28 is a standard deviation of one symbol.  log2 of 40 input units is 5 + 82/256 octaves.
    spread = np.maximum((16 * spreads + 5 * 256 + 82 - exponent + 16 >> 5) + 28, 0)
    low_bits = np.clip((spread - SPREADS) // SPREADS_PER_OCTAVE + 1, 0, MAX_LOW_BITS)
    spread = np.minimum(spread - SPREADS_PER_OCTAVE * low_bits, SPREADS - 1)
    # A block of 2^b symbols begins half a block below a multiple of 2^b, so its middle lies half a symbol below that
    # multiple.
    mean = (mean + FRACTIONS // 2 * (low_bits > 0) + (1 << low_bits >> 1)) >> low_bits
    center = (mean + FRACTIONS // 2) // FRACTIONS
    return Prediction(FRACTIONS * spread + mean - FRACTIONS * center + FRACTIONS // 2, center, low_bits)


def _ordered(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Flatten (n, rows, columns) into coding order: by row, then column, then channel."""
    return values.transpose(1, 2, 0).ravel()


def largest_offset(table: Distributions, row: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the largest magnitude of an offset that has its own entry in a row of the table.

    One more entry on each side stands for all larger offsets.
    """
    return (table.first[row + 1] - table.first[row] - 3) // 2


def _threads(shape: tuple[int, ...]) -> AbstractContextManager[None]:
    """Return the context for the matrix products of a latent (C, h, w): one BLAS thread unless the latent is large."""
    return one_blas_thread() if shape[1] * shape[2] <= POSITIONS else nullcontext()


def code(walk: Walk, table: Distributions, symbols: NDArray[np.int16], coder: Encoder) -> None:
    """Pass the operations that code the symbols int16 (C, h, w) to the encoder (SPEC 8.6.5)."""
    with _threads(symbols.shape):
        for group, pass_, places in walk.places():
            values = symbols[walk.groups[group].channels][:, *places].astype(np.int64)
            found = walk.predict(group, pass_)
            row, low_bits = _ordered(found.row), _ordered(found.low_bits)
            shifted = _ordered(values) + (1 << low_bits >> 1)
            offset = (shifted >> low_bits) - _ordered(found.center)
            reach = largest_offset(table, row)
            coder.entries(table, table.first[row] + reach + 1 + np.clip(offset, -reach - 1, reach + 1))
            beyond = np.abs(offset) - reach
            beyond = beyond[beyond > 0]
            length = np.frexp(beyond.astype(np.float64))[1].astype(np.int64) - 1
            coder.uniform(length, np.full_like(length, 5))
            coder.uniform(beyond - (1 << length), length)
            coder.uniform((shifted & (1 << low_bits) - 1)[low_bits > 0], low_bits[low_bits > 0])
            walk.learn(group, places, values)


def decode(walk: Walk, table: Distributions, symbols: NDArray[np.int16], coder: Decoder) -> None:
    """Decode symbols from the decoder into `symbols`, int16 (C, h, w), which must be all zero.

    Raises MalformedError: R-04 if the data end too early, R-06 if a symbol is out of range.
    """
    with _threads(symbols.shape):
        for group, pass_, places in walk.places():
            found = walk.predict(group, pass_)
            row, low_bits = _ordered(found.row), _ordered(found.low_bits)
            reach = largest_offset(table, row)
            offset = coder.entries(table, row) - table.first[row] - reach - 1
            outside = np.flatnonzero(np.abs(offset) > reach)
            length = coder.uniform(np.full(len(outside), 5))
            if (length > 16).any():
                raise _out_of_range()
            beyond = (1 << length) + coder.uniform(length)
            offset[outside] = np.sign(offset[outside]) * (reach[outside] + beyond)
            values = (offset + _ordered(found.center)) << low_bits
            fine = low_bits > 0
            values[fine] += coder.uniform(low_bits[fine]) - (1 << low_bits[fine] - 1)
            if values.size and max(values.max(), -values.min()) > MAX_SYMBOL:
                raise _out_of_range()
            size, rows, columns = found.row.shape
            plane = values.reshape(rows, columns, size).transpose(2, 0, 1)
            symbols[walk.groups[group].channels[:, None, None], *_grid(places, symbols.shape)] = plane
            walk.learn(group, places, plane)


def _grid(places: tuple[slice, slice], shape: tuple[int, ...]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Turn the slices of a pass into arrays of row indices (1, rows, 1) and column indices (1, 1, columns)."""
    rows, columns = (np.arange(*part.indices(side)) for part, side in zip(places, shape[1:], strict=True))
    return rows[None, :, None], columns[None, None, :]


def _out_of_range() -> MalformedError:
    return MalformedError(f"a symbol is outside -{MAX_SYMBOL}..{MAX_SYMBOL}", section=SECTION, rule="R-06")


def lengths(found: Prediction, table: Distributions, values: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the bits that each of the symbols int64 (n, rows, columns) takes under a prediction of that shape."""
    offset = ((values + (1 << found.low_bits >> 1)) >> found.low_bits) - found.center
    reach = largest_offset(table, found.row)
    entry = table.first[found.row] + reach + 1 + np.clip(offset, -reach - 1, reach + 1)
    beyond = np.maximum(np.abs(offset) - reach, 0)
    escape = np.where(beyond > 0, 4.0 + np.frexp(beyond.astype(np.float64))[1], 0)
    bits: NDArray[np.float64] = 16 - np.log2(table.frequency[entry]) + found.low_bits + escape
    return bits
