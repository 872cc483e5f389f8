"""Quantiser of 2022: every latent vector is one of a few that the file holds (SPEC 8.8).

    latent (4, h, w) -> levels 0..255 -> palette of at most 256 vectors, for each position the index of one of them

M. Buehlmann's way of holding a latent of 4 channels, error diffusion included.  He had libimagequant find the palette;
here it is k-means.  Palettes are uint8 (K, 4), indices uint8 (h, w).

Sources: his notebook of September 2022 for the levels; Arthur and Vassilvitskii 2007 (k-means++, the greedy kind); Lloyd
1982; Floyd and Steinberg 1976.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from .. import zstdframe
from ..errors import MalformedError
from .noise import Noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Float = TypeVar("_Float", np.float32, np.float64)

PALETTE: Final = 1
"""Number of this quantiser in a header."""

CHANNELS: Final = 4
"""Of the latents that it takes."""

MAX_SIZE: Final = 256
"""Most entries of a palette."""

STEP: Final = np.float32(0.18215 * 0.18215)
"""Latent units of one level.  Buehlmann's is 0.18215 of the autoencoder's own units, of which one is 0.18215 of ours."""

MIDDLE: Final = np.float32(127.5)
"""The level, between two, that stands for zero."""

BITS: Final = 8 * CHANNELS
"""Of an entry."""

SAMPLE: Final = 1 << 16
"""Most vectors that k-means looks at: those of a picture of 4 megapixels.  Of more, every second, third, and so on."""

TRIALS: Final = 4
"""Vectors drawn for each first centre, of which the best is taken: 1 to 2 % less error than one by one (Kodak)."""

MAX_PASSES: Final = 60
"""Passes after which k-means stops, if it has not before: at 512 x 512 pixels it mostly does after 15 to 30."""

CHUNK: Final = 1 << 14
"""Vectors that are compared with the palette at a time."""

SPREAD_PLAIN: Final = 0.33
SPREAD_DITHERED: Final = 0.383
"""Deviation of a value's error in distances to the nearest other entry, see `noise`.

Geometric means over palettes of 64, 128 and 256 entries for every 17th of the 679 training latents of `sd1`
(training/latents.py); of one picture the deviation is within 6 % of this in two cases of three.
"""


def levels(latent: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The nearest levels, uint8 (4, h, w), of a latent float32 (4, h, w), finite.  Halves go up, ends are clipped."""
    result: NDArray[np.uint8] = np.clip(np.floor(latent / STEP + (MIDDLE + np.float32(0.5))), 0, 255).astype(np.uint8)
    return result


def dequantize(found: NDArray[np.uint8] | NDArray[np.int16]) -> NDArray[np.float32]:
    """Latent values of levels 0..255: float32 of the same shape.  The difference is exact, the product rounded once."""
    result: NDArray[np.float32] = (found.astype(np.float32) - MIDDLE) * STEP
    return result


def symbols(palette: NDArray[np.uint8], indices: NDArray[np.uint8]) -> NDArray[np.int16]:
    """The levels that palette and indices stand for, int16 (4, h, w)."""
    return np.ascontiguousarray(palette.astype(np.int16)[indices].transpose(2, 0, 1))


def encode(latent: NDArray[np.float32], size: int, *, dither: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Palette uint8 (K, 4) and indices uint8 (h, w) of a latent float32 (4, h, w), finite.

    size: most entries, 1..256.   dither: whether errors are passed on to neighbours.
    Entries are all different, all used, and in the order of `unpack`.
    """
    found = levels(latent)
    palette = fit(found.reshape(CHANNELS, -1).T, size)
    indices = diffuse(found, palette) if dither else nearest(found, palette)
    used, renumbered = np.unique(indices, return_inverse=True)
    return palette[used], renumbered.reshape(indices.shape).astype(np.uint8)


# Palette


def fit(vectors: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """A palette of at most `size` entries, all different and in the order of `unpack`, for vectors uint8 (n, 4).

    The vectors themselves if no more than `size` of them differ, else the means of k-means' clusters, rounded.
    """
    # As one number each, which are many times as quick to compare as rows.
    distinct = np.unique(np.ascontiguousarray(vectors).view(np.uint32))
    if len(distinct) <= size:
        return _ordered(distinct.view(np.uint8).reshape(-1, CHANNELS))
    points = vectors[:: -(-len(vectors) // SAMPLE)].astype(np.float32)
    centres = _first_centres(points, size)
    for _ in range(MAX_PASSES):
        moved = _means(points, centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return _ordered(np.unique(np.rint(centres).astype(np.uint8), axis=0))


def _first_centres(points: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """At most `size` of the points, each drawn with a chance as its squared distance from those before it."""
    generator = np.random.default_rng(0)
    chosen = [points[generator.integers(len(points))]]
    distance = np.square(points - chosen[0]).sum(1)
    while len(chosen) < size and distance.any():
        sums = np.cumsum(distance, dtype=np.float64)
        # A draw of 0 may fall on a point that is chosen already, so none is made.
        drawn = np.searchsorted(sums, (1 - generator.random(TRIALS)) * sums[-1])
        left = [np.minimum(distance, np.square(points - points[index]).sum(1)) for index in drawn]
        best = int(np.argmin([part.sum(dtype=np.float64) for part in left]))
        chosen.append(points[drawn[best]])
        distance = left[best]
    return np.stack(chosen)


def _means(points: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of the points that are nearest to each centre.  A centre without points goes to one that is far from its own."""
    found = _nearest(points, centres)
    counts = np.bincount(found, minlength=len(centres))
    sums = [np.bincount(found, column, len(centres)) for column in points.T]
    moved: NDArray[np.float32] = (np.stack(sums, 1) / np.maximum(counts, 1)[:, None]).astype(np.float32)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        distance = np.square(points - centres[found]).sum(1)
        moved[empty] = points[np.argsort(-distance, kind="stable")[: len(empty)]]
    return moved


def _nearest(points: NDArray[_Float], centres: NDArray[_Float]) -> NDArray[np.int64]:
    """Number of the centre that is nearest to each point, int64 (n,): the first of several.

    Without rounding, so the same on every machine, where points and centres are whole and 0..255: no sum reaches 2^24.
    """
    weights, squares = -2 * centres.T, np.square(centres).sum(1)
    found = np.empty(len(points), np.int64)
    for start in range(0, len(points), CHUNK):
        cost = points[start : start + CHUNK] @ weights
        cost += squares
        found[start : start + CHUNK] = cost.argmin(1)
    return found


def _bits(palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bits of the entries, uint8 (K, 32): the highest of each channel, then the next of each, and so on."""
    return np.unpackbits(palette.reshape(-1, CHANNELS, 1), axis=2).transpose(0, 2, 1).reshape(-1, BITS)


def _ordered(palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The entries in the order of `unpack`: their bits as numbers, ascending."""
    return palette[np.argsort(np.packbits(_bits(palette), axis=1).view(">u4")[:, 0], kind="stable")]


# Indices


def nearest(found: NDArray[np.uint8], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Index of the entry nearest to each of the vectors of levels uint8 (4, h, w), the first of several."""
    entries = palette.astype(np.float32)
    indices = np.empty(found.shape[1:], np.uint8)
    for row, line in zip(indices, found.transpose(1, 2, 0), strict=True):
        row[:] = _nearest(line.astype(np.float32), entries)
    return indices


def diffuse(found: NDArray[np.uint8], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Indices for levels uint8 (4, h, w) with Floyd and Steinberg's error diffusion, rows all from left to right.

    Of each vector's error 7/16 go to the right, 3/16 down and left, 5/16 down, 1/16 down and right; what would leave
    the picture is dropped.  Row y at column x needs its left neighbour and the row above up to column x + 1, so all
    positions of one x + 2 y can be done at once, and need the errors of the three such lines before.
    """
    _, height, width = found.shape
    # In float64: the errors' sixteenths grow ever finer, and entries at like distances must not change places.
    entries = palette.astype(np.float64)
    indices = np.empty((height, width), np.uint8)
    # Errors of the positions with x + 2 y one, two and three less, by row; in front a row above the picture.
    last, second, third = np.zeros((3, height + 1, CHANNELS))
    for line in range(width + 2 * (height - 1)):
        rows = np.arange(max(0, (line - width + 2) // 2), min(height - 1, line // 2) + 1)
        columns = line - 2 * rows
        wanted = found[:, rows, columns].T + (7 * last[rows + 1] + 3 * last[rows] + 5 * second[rows] + third[rows]) / 16
        chosen = _nearest(wanted, entries)
        indices[rows, columns] = chosen
        errors = np.zeros_like(last)
        errors[rows + 1] = wanted - entries[chosen]
        last, second, third = errors, last, second
    return indices


def noise(palette: NDArray[np.uint8], indices: NDArray[np.uint8], *, dithered: bool) -> Noise:
    """What the quantiser did to a latent, as far as palette and indices tell.

    The error of a value is taken for a constant part of the distance between its vector's entry and the nearest other
    one, in the mean square over all vectors, of which one of every entry counts as exact: that is how much nearer the
    mean of a few vectors is to these than to others.  Nothing else is known of a palette of one entry, or of one that
    holds all vectors as they are but for the rounding to levels.
    """
    entries = palette.astype(np.float64)
    distance = np.square(entries[:, None] - entries).sum(2)
    np.fill_diagonal(distance, np.inf)
    least = distance.min(1) if len(entries) > 1 else np.zeros(1)
    counts = np.maximum(np.bincount(indices.ravel(), minlength=len(entries)) - 1, 0)
    spread = SPREAD_DITHERED if dithered else SPREAD_PLAIN
    square = spread**2 * (counts * least).sum() / indices.size + 1 / 12
    return Noise(float(STEP) * float(np.sqrt(square)), palette=True)


# Bytes


def pack(palette: NDArray[np.uint8]) -> bytes:
    """Section P of a palette uint8 (K, 4) in the order of `unpack`."""
    bits = _bits(palette)
    digits: list[tuple[int, int]] = []
    groups = [bits]
    for index in range(BITS):
        split: list[NDArray[np.uint8]] = []
        for group in groups:
            ones = int(group[:, index].sum())
            zeros = len(group) - ones
            digits.append((zeros, len(group) + 1))
            split += [part for part in (group[:zeros], group[zeros:]) if len(part)]
        groups = split
    number = 0
    for digit, base in reversed(digits):
        number = number * base + digit
    return bytes([len(palette) - 1]) + number.to_bytes(-(-number.bit_length() // 8), "little")


def unpack(data: bytes) -> NDArray[np.uint8]:
    """The palette uint8 (K, 4) of section P.

    Entries are told as a set: how many of them have a 0 as their first bit, then for each of the two groups how many have
    a 0 as their second, and so on.  Each number, of 0..n in a group of n, is a digit to the base n + 1.  Their order
    costs nothing so, and what the groups have in common little: about 700 bytes for 256 entries in place of 1,024.
    Raises MalformedError (K-03, K-04).
    """
    size = data[0] + 1 if data else 0
    if not size or len(data) > 1 + CHANNELS * size or (len(data) > 1 and data[-1] == 0):
        msg = f"{len(data)} bytes of palette for {size} entries, or a 0 as the last of them"
        raise MalformedError(msg, section="P", rule="K-03")
    number = int.from_bytes(data[1:], "little")
    groups = [(0, size)]
    for _ in range(BITS):
        split: list[tuple[int, int]] = []
        for prefix, count in groups:
            number, zeros = divmod(number, count + 1)
            split += [(2 * prefix + bit, part) for bit, part in enumerate((zeros, count - zeros)) if part]
        groups = split
    if number:
        msg = "the palette's number is too large for its entries"
        raise MalformedError(msg, section="P", rule="K-04")
    entries = np.array([prefix for prefix, count in groups for _ in range(count)], ">u4")
    bits = np.unpackbits(entries.view(np.uint8)).reshape(size, 8, CHANNELS)
    return np.packbits(bits.transpose(0, 2, 1), axis=2)[:, :, 0]


def pack_indices(indices: NDArray[np.uint8]) -> bytes:
    """Section L of indices uint8 (h, w)."""
    return zstdframe.compress(indices.tobytes())


def unpack_indices(payload: bytes, shape: tuple[int, int], size: int) -> NDArray[np.uint8]:
    """Indices uint8 of that shape (h, w) into a palette of `size` entries.

    Raises LimitError if the frame is larger than the shape allows, MalformedError (Z-01 to Z-03, K-05, K-06).
    """
    content = zstdframe.decompress(payload, limit=shape[0] * shape[1], section="L")
    if len(content) != shape[0] * shape[1]:
        msg = f"the payload holds {len(content)} indices for {shape[1]} x {shape[0]} positions"
        raise MalformedError(msg, section="L", rule="K-05")
    indices = np.frombuffer(content, np.uint8).reshape(shape)
    if indices.max() >= size:
        msg = f"index {indices.max()} into a palette of {size} entries"
        raise MalformedError(msg, section="L", rule="K-06")
    return indices
