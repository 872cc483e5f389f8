"""Palette quantizer: every latent vector is one of a few that the file holds (SPEC 8.8).

    latent (4, h, w) -> levels 0..255 -> palette of at most 256 vectors, and for each position the index of one of them

This is how M. Buehlmann stored latents of 4 channels in 2022, with error diffusion.  He used libimagequant to find the
palette; this module uses k-means.  Palettes are uint8 (K, 4), indices are uint8 (h, w).

Sources: his notebook of September 2022 for the levels; Arthur and Vassilvitskii 2007 (greedy k-means++); Lloyd 1982;
Floyd and Steinberg 1976.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from .. import registry
from ..errors import MalformedError, UnsupportedError
from ..format import zstd
from .base import Choices, Coded, Options, Quantized, Refine
from .noise import Noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..registry import Space

_Float = TypeVar("_Float", np.float32, np.float64)

CHANNELS: Final = 4
"""Channels of the latents that this quantizer takes."""

MAX_SIZE: Final = 256
"""Most entries of a palette."""

STEP: Final = np.float32(0.18215 * 0.18215)
"""Latent units in one level.

Buehlmann's level is 0.18215 units of the autoencoder's output, and one of these units is 0.18215 units of the latent.
"""

MIDDLE: Final = np.float32(127.5)
"""Zero lies between two levels, here."""

BITS: Final = 8 * CHANNELS
"""Bits of a palette entry."""

SAMPLE: Final = 1 << 16
"""Most vectors that k-means sees, as many as a picture of 4 megapixels has.

Of a larger picture it sees every second vector, or every third, and so on.
"""

TRIALS: Final = 4
"""Vectors drawn for each first center; the best one is taken.  This gives 1 to 2 % less error on Kodak than one draw."""

MAX_PASSES: Final = 60
"""Most passes of k-means.  At 512 x 512 pixels it mostly converges after 15 to 30."""

CHUNK: Final = 1 << 14
"""Vectors that are compared with the palette at once."""

SPREAD_PLAIN: Final = 0.33
SPREAD_DITHERED: Final = 0.383
"""Standard deviation of a value's error, in units of the distance to the nearest other entry, see `noise`.

These are geometric means over palettes of 64, 128 and 256 entries for every 17th of the 679 training latents of `sd1`
(training/latents.py).  For a single picture the deviation is within 6 % of them in two cases out of three.
"""


def levels(latent: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the nearest levels, uint8 (4, h, w), of a finite latent float32 (4, h, w).

    Halves are rounded up, and values beyond the ends are clipped.
    """
    result: NDArray[np.uint8] = np.clip(np.floor(latent / STEP + (MIDDLE + np.float32(0.5))), 0, 255).astype(np.uint8)
    return result


def dequantize(found: NDArray[np.uint8] | NDArray[np.int16]) -> NDArray[np.float32]:
    """Return the latent values of levels 0..255, float32 in the same shape.

    The difference is exact and the product is rounded once, so every machine gives the same bits.
    """
    result: NDArray[np.float32] = (found.astype(np.float32) - MIDDLE) * STEP
    return result


def symbols(palette: NDArray[np.uint8], indices: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Return the levels that a palette and indices stand for, int16 (4, h, w)."""
    return np.ascontiguousarray(palette.astype(np.int16)[indices].transpose(2, 0, 1))


class PaletteQuantizer:
    """Implements `base.Quantizer`: level n stands for a palette of at most n + 1 entries."""

    excluded_options: Final[dict[str, tuple[object, ...]]] = {
        "quality": (None,),
        "payload": ("auto", "zstd"),
        "tune": ("look",),
    }

    def level_range(self, options: Options) -> int:
        """Return the largest size of the palette."""
        return int(options.palette_size)

    def level(self, options: Options) -> int:
        """Return the level of the largest palette."""
        return int(options.palette_size) - 1

    def check_space(self, space: Space) -> None:
        """Raise UnsupportedError for a space whose latents do not have 4 channels."""
        if space.channels != CHANNELS:
            msg = (
                f"the palette quantizer takes latents of {CHANNELS} channels; those of the space {space.name} have "
                f"{space.channels}"
            )
            raise UnsupportedError(msg)

    def check_latent(self, latent: NDArray[np.float32], space: Space, level: int | None) -> None:
        """Accept every finite latent: values beyond the levels are clipped."""

    def encode(
        self, latent: NDArray[np.float32], space: Space, level: int, choices: Choices, refine: Refine | None = None
    ) -> Coded:
        """Find a palette of at most `level` + 1 entries, and code it and the indices.  `refine` is not used."""
        entries, indices = fit_indices(latent, level + 1, dither=choices.dither)
        return Coded(0, _zstd_method(), pack_indices(indices), pack(entries, dithered=choices.dither))

    def decode(self, coded: Coded, space: Space, shape: tuple[int, int, int]) -> Quantized:
        """Return the levels of the vectors that the indices stand for.

        Raises MalformedError (K-01, K-03 to K-07, Z-01 to Z-03), UnsupportedError (K-02, H-07), LimitError.
        """
        self.check_space(space)
        if coded.payload != _zstd_method():
            msg = f"payload method {coded.payload} found with the palette quantizer, which has zstd only"
            raise UnsupportedError(msg)
        if coded.rate:
            msg = f"rate {coded.rate} found with the palette quantizer, which has none: it must be 0"
            raise MalformedError(msg, section="header", rule="K-07")
        if coded.palette is None:
            msg = "the palette quantizer needs a palette section (P)"
            raise MalformedError(msg, section="P", rule="K-01")
        entries, dithered = unpack(coded.palette)
        indices = unpack_indices(coded.latent, shape[1:], len(entries))
        found = symbols(entries, indices)
        return Quantized(found, None, noise(entries, indices, dithered=dithered), lambda: dequantize(found))


def _zstd_method() -> int:
    return registry.load().payloads["zstd"]


def fit_indices(latent: NDArray[np.float32], size: int, *, dither: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a palette uint8 (K, 4) and indices uint8 (h, w) for a finite latent float32 (4, h, w).

    size: most entries, 1..256.   dither: whether errors are passed on to neighbors.
    All entries differ, all are used, and they stand in the order of `unpack`.
    """
    found = levels(latent)
    palette = fit(found.reshape(CHANNELS, -1).T, size)
    indices = diffuse(found, palette) if dither else nearest(found, palette)
    used, renumbered = np.unique(indices, return_inverse=True)
    return palette[used], renumbered.reshape(indices.shape).astype(np.uint8)


# Palette


def fit(vectors: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return a palette for vectors uint8 (n, 4): at most `size` entries, all different, in the order of `unpack`.

    If at most `size` vectors differ, these are the entries.  Otherwise they are the rounded means of k-means clusters.
    """
    # One number for each vector: numbers are compared many times faster than rows.
    distinct = np.unique(np.ascontiguousarray(vectors).view(np.uint32))
    if len(distinct) <= size:
        return _ordered(distinct.view(np.uint8).reshape(-1, CHANNELS))
    points = vectors[:: -(-len(vectors) // SAMPLE)].astype(np.float32)
    centers = _first_centers(points, size)
    for _ in range(MAX_PASSES):
        moved = _means(points, centers)
        if np.array_equal(moved, centers):
            break
        centers = moved
    return _ordered(np.unique(np.rint(centers).astype(np.uint8), axis=0))


def _first_centers(points: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Draw at most `size` of the points, each with a probability in proportion to its squared distance from the others."""
    generator = np.random.default_rng(0)
    chosen = [points[generator.integers(len(points))]]
    distance = np.square(points - chosen[0]).sum(1)
    while len(chosen) < size and distance.any():
        sums = np.cumsum(distance, dtype=np.float64)
        # A draw of 0 could give a point that is chosen already, so the draws are in (0, 1].
        drawn = np.searchsorted(sums, (1 - generator.random(TRIALS)) * sums[-1])
        left = [np.minimum(distance, np.square(points - points[index]).sum(1)) for index in drawn]
        best = int(np.argmin([part.sum(dtype=np.float64) for part in left]))
        chosen.append(points[drawn[best]])
        distance = left[best]
    return np.stack(chosen)


def _means(points: NDArray[np.float32], centers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of the points that are nearest to each center.

    A center without points moves to one of the points that are farthest from their centers.
    """
    found = _nearest(points, centers)
    counts = np.bincount(found, minlength=len(centers))
    sums = [np.bincount(found, column, len(centers)) for column in points.T]
    moved: NDArray[np.float32] = (np.stack(sums, 1) / np.maximum(counts, 1)[:, None]).astype(np.float32)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        distance = np.square(points - centers[found]).sum(1)
        moved[empty] = points[np.argsort(-distance, kind="stable")[: len(empty)]]
    return moved


def _nearest(points: NDArray[_Float], centers: NDArray[_Float]) -> NDArray[np.int64]:
    """Return the number of the nearest center for each point, int64 (n,); of several, the first.

    For whole points and centers in 0..255 no sum reaches 2^24, so nothing is rounded and every machine agrees.
    """
    weights, squares = -2 * centers.T, np.square(centers).sum(1)
    found = np.empty(len(points), np.int64)
    for start in range(0, len(points), CHUNK):
        cost = points[start : start + CHUNK] @ weights
        cost += squares
        found[start : start + CHUNK] = cost.argmin(1)
    return found


def _bits(palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the bits of the entries, uint8 (K, 32): the highest bit of each channel, then the next bit of each."""
    return np.unpackbits(palette.reshape(-1, CHANNELS, 1), axis=2).transpose(0, 2, 1).reshape(-1, BITS)


def _ordered(palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the entries in the order of `unpack`: by their bits as numbers, ascending."""
    return palette[np.argsort(np.packbits(_bits(palette), axis=1).view(">u4")[:, 0], kind="stable")]


# Indices


def nearest(found: NDArray[np.uint8], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the index of the entry nearest to each vector of levels uint8 (4, h, w); of several, the first."""
    entries = palette.astype(np.float32)
    indices = np.empty(found.shape[1:], np.uint8)
    for row, line in zip(indices, found.transpose(1, 2, 0), strict=True):
        row[:] = _nearest(line.astype(np.float32), entries)
    return indices


def diffuse(found: NDArray[np.uint8], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return indices for levels uint8 (4, h, w), with Floyd and Steinberg's error diffusion, all rows left to right.

    7/16 of each vector's error go to the right, 3/16 down and left, 5/16 down, 1/16 down and right.  Errors that would
    leave the picture are dropped.  A position needs its left neighbor and the row above up to the next column.  So all
    positions with the same x + 2 y are computed at once, from the errors of the three such lines before.
    """
    _, height, width = found.shape
    # In float64, because the sixteenths of errors grow ever finer, and ties between entries must not be decided by rounding.
    entries = palette.astype(np.float64)
    indices = np.empty((height, width), np.uint8)
    # Errors of the lines x + 2 y - 1, - 2 and - 3, by row, with a row of zeros above the picture.
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
    """Estimate the error of the quantizer from the palette and the indices (SPEC 8.8.5).

    The root mean square error of a value is a constant share of the distance between its entry and the nearest other
    entry.  One vector of each entry counts as exact, because the mean of a few vectors is nearer to them than to others.
    For a palette of one entry, or one that holds every vector, only the error of rounding to levels is left.
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


def pack(palette: NDArray[np.uint8], *, dithered: bool) -> bytes:
    """Return section P of a palette uint8 (K, 4) in the order of `unpack` (SPEC 8.8.2)."""
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
    return bytes([int(dithered), len(palette) - 1]) + number.to_bytes(-(-number.bit_length() // 8), "little")


def unpack(data: bytes) -> tuple[NDArray[np.uint8], bool]:
    """Return the palette uint8 (K, 4) of section P, and whether the writer dithered (SPEC 8.8.2).

    The section codes the entries as a set: how many of them have a 0 as their first bit, then for each of the two groups
    how many have a 0 as their second bit, and so on.  Each of these numbers, 0..n in a group of n, is a digit to the
    base n + 1.  So the order of the entries costs nothing: 256 entries take about 700 bytes instead of 1,024.
    Raises MalformedError (K-03, K-04), UnsupportedError (K-02) for unknown flags.
    """
    if data and data[0] > 1:
        msg = f"palette flags 0x{data[0]:02x} found; this reader knows bit 0 (dithered)"
        raise UnsupportedError(msg)
    size = data[1] + 1 if len(data) > 1 else 0
    if not size or len(data) > 2 + CHANNELS * size or (len(data) > 2 and data[-1] == 0):
        msg = f"a palette section of {len(data)} bytes for {size} entries, or with a last byte of 0"
        raise MalformedError(msg, section="P", rule="K-03")
    number = int.from_bytes(data[2:], "little")
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
    return np.packbits(bits.transpose(0, 2, 1), axis=2)[:, :, 0], bool(data[0])


def pack_indices(indices: NDArray[np.uint8]) -> bytes:
    """Return section L of indices uint8 (h, w) (SPEC 8.8.3)."""
    return zstd.compress(indices.tobytes())


def unpack_indices(payload: bytes, shape: tuple[int, int], size: int) -> NDArray[np.uint8]:
    """Return indices uint8 of that shape (h, w) into a palette of `size` entries (SPEC 8.8.3).

    Raises LimitError if the frame is larger than the shape allows, MalformedError (Z-01 to Z-03, K-05, K-06).
    """
    content = zstd.decompress(payload, limit=shape[0] * shape[1], section="L")
    if len(content) != shape[0] * shape[1]:
        msg = f"the payload holds {len(content)} indices for {shape[1]} x {shape[0]} positions"
        raise MalformedError(msg, section="L", rule="K-05")
    indices = np.frombuffer(content, np.uint8).reshape(shape)
    if indices.max() >= size:
        msg = f"index {indices.max()} into a palette of {size} entries"
        raise MalformedError(msg, section="L", rule="K-06")
    return indices
