"""Run an autoencoder on pictures of any size, in overlapping tiles.  NumPy only; `networks` has the runtimes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from .. import progress
from .tiling import Span, tiles

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TiledAutoencoder(ABC):
    """An autoencoder that computes one tile at a time.  Implements `base.Autoencoder`.

    channels, factor: those of its latent space.   hash: hash of its decoder (SPEC 7.2), hexadecimal.
    encoder_margin, decoder_margin: latent positions that are computed around the core of a tile, on each side.
    core: latent positions along each side of a tile's core; None: `tiling.CORE`.
    exact: whether the margins cover the receptive fields, so that tiles join exactly.  Otherwise tiles are blended over
        the margins.
    """

    channels: int
    factor: int
    hash: str
    encoder_margin: int
    decoder_margin: int
    core: int | None = None
    exact: bool = True

    @abstractmethod
    def encode_tile(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode pixels uint8 (H, W, 3) to a latent float32 (C, h, w).  H and W are multiples of the factor."""

    @abstractmethod
    def decode_tile(self, latent: NDArray[np.float32], rate: int | None) -> NDArray[np.uint8]:
        """Decode a latent float32 (C, h, w), contiguous, to pixels uint8 (factor * h, factor * w, 3)."""

    def pixels_of(self, positions: slice) -> slice:
        """Return the range of pixels that a range of latent positions covers."""
        return slice(positions.start * self.factor, positions.stop * self.factor)

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode pixels uint8 (H, W, 3) to a latent float32 (C, h, w).

        h and w are H / factor and W / factor, rounded up.  The picture is padded to whole positions on the right and at
        the bottom, by repeating the last column and row.
        """
        height, width = (-(-side // self.factor) for side in pixels.shape[:2])
        latent = np.zeros((self.channels, height, width), np.float32)
        todo = tiles(height, width, self.encoder_margin, self.core)
        for done, (rows, columns) in enumerate(todo, 1):
            piece = pixels[self.pixels_of(rows.computed), self.pixels_of(columns.computed)]
            missing = -piece.shape[0] % self.factor, -piece.shape[1] % self.factor
            found = self.encode_tile(np.pad(piece, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge"))
            if self.exact:
                latent[:, rows.place, columns.place] = found[:, rows.kept, columns.kept]
            else:
                blend(latent, found, rows, columns)
            progress.report(done, len(todo))
        return latent

    def decode(self, latent: NDArray[np.float32], rate: int | None) -> NDArray[np.uint8]:
        """Decode a latent float32 (C, h, w) to pixels uint8 (factor * h, factor * w, 3).

        rate: rate code 0..255 at which the latent was quantized, None if its quantizer has none.
        """
        height, width = latent.shape[1:]
        pixels = np.zeros((height * self.factor, width * self.factor, 3), np.uint8)
        todo = tiles(height, width, self.decoder_margin, self.core)
        constant: dict[bytes, NDArray[np.uint8]] = {}
        for done, (rows, columns) in enumerate(todo, 1):
            piece = np.ascontiguousarray(latent[:, rows.computed, columns.computed])
            if self.exact and (piece == piece[:, :1, :1]).all():
                # A tiny file can declare a large flat picture.  It must not cost more than a small one.
                found = self._decode_constant(piece, rate, constant)
            else:
                found = self.decode_tile(piece, rate)
            if self.exact:
                kept = found[self.pixels_of(rows.kept), self.pixels_of(columns.kept)]
                pixels[self.pixels_of(rows.place), self.pixels_of(columns.place)] = kept
            else:
                share = _share(rows, columns, self.factor)[:, :, None]
                target = pixels[self.pixels_of(rows.computed), self.pixels_of(columns.computed)]
                target[...] = np.rint(target + share * (found - target.astype(np.float32)))
            progress.report(done, len(todo))
        return pixels

    def encode_part(self, pixels: NDArray[np.uint8], rows: slice, columns: slice) -> NDArray[np.float32]:
        """Encode pixels uint8 (H, W, 3) and return some rows and columns of the latent, float32 (C, h', w').

        rows, columns: latent positions, with a start and a stop.  The result is that of the whole picture.  If the
        margins cover the receptive field, no more is computed than the part and its margin.
        """
        if not self.exact:
            return self.encode(pixels)[:, rows, columns]
        height, width = (-(-side // self.factor) for side in pixels.shape[:2])
        down, across = _around(rows, height, self.encoder_margin), _around(columns, width, self.encoder_margin)
        latent = self.encode(pixels[self.pixels_of(down.computed), self.pixels_of(across.computed)])
        return latent[:, down.kept, across.kept]

    def decode_part(
        self, latent: NDArray[np.float32], rate: int | None, rows: slice, columns: slice
    ) -> NDArray[np.uint8]:
        """Decode a latent float32 (C, h, w) and return the pixels of some rows and columns of it.

        rows, columns: latent positions, see `encode_part`.   rate: see `decode`.
        Returns uint8 (factor * h', factor * w', 3).
        """
        if not self.exact:
            return self.decode(latent, rate)[self.pixels_of(rows), self.pixels_of(columns)]
        height, width = latent.shape[1:]
        down, across = _around(rows, height, self.decoder_margin), _around(columns, width, self.decoder_margin)
        pixels = self.decode(latent[:, down.computed, across.computed], rate)
        return pixels[self.pixels_of(down.kept), self.pixels_of(across.kept)]

    def _decode_constant(
        self, piece: NDArray[np.float32], rate: int | None, known: dict[bytes, NDArray[np.uint8]]
    ) -> NDArray[np.uint8]:
        """Decode a tile whose positions are all equal, from one small tile for each value.

        Farther from the edges than the margin all positions decode alike, so a tile of 2 * margin + 1 positions on each
        side holds everything that a larger one holds.
        known: the small tiles of earlier calls, by their value.
        """
        side = 2 * self.decoder_margin + 1
        height, width = piece.shape[1:]
        if height <= side or width <= side:
            return self.decode_tile(piece, rate)
        value = piece[:, 0, 0].tobytes()
        if value not in known:
            known[value] = self.decode_tile(np.ascontiguousarray(piece[:, :side, :side]), rate)
        rows, columns = (_stretch(length, self.decoder_margin, self.factor) for length in (height, width))
        return known[value][rows[:, None], columns]


def _around(positions: slice, length: int, margin: int) -> Span:
    """Return a part of an axis of `length` positions with its margin, as far as the axis goes."""
    start, stop = max(0, positions.start - margin), min(length, positions.stop + margin)
    return Span(start, stop, positions.start, positions.stop)


def _stretch(length: int, margin: int, factor: int) -> NDArray[np.intp]:
    """Return where each pixel of an axis of `length` positions is in a tile of 2 * margin + 1 positions."""
    positions = np.arange(length)
    middle = np.minimum(positions, margin)
    from_end = np.maximum(positions - (length - (2 * margin + 1)), margin)
    found = np.where(positions < margin, middle, from_end)
    return (found[:, None] * factor + np.arange(factor)).ravel()


def blend(latent: NDArray[np.float32], found: NDArray[np.float32], rows: Span, columns: Span) -> None:
    """Blend a computed tile, float32 (C, h', w'), into a latent (C, h, w) with the weights of `_share`, in place."""
    target = latent[:, rows.computed, columns.computed]
    target += _share(rows, columns, 1) * (found - target)


def _share(rows: Span, columns: Span, scale: int) -> NDArray[np.float32]:
    """Return the weight of a tile against the tiles before it, 0..1, float32 (scale * h', scale * w').

    Tiles are computed row by row, and each is blended over the tiles above it and to its left.  Its weight grows from 0
    to 1 across the margins at its top and on its left, and is 1 where there is no earlier tile.
    scale: values per latent position on each axis.
    """
    down, right = _ramp(rows, scale), _ramp(columns, scale)
    return down[:, None] * right


def _ramp(span: Span, scale: int) -> NDArray[np.float32]:
    """Return the weights of a tile along one axis, float32 (scale * positions,).

    They grow from 0 to 1 over twice the margin, centered on the start of the core.  They are all 1 for a tile at the
    start of the axis.
    """
    length = (span.stop - span.start) * scale
    margin = (span.keep_start - span.start) * scale
    if not margin:
        return np.ones(length, np.float32)
    found: NDArray[np.float32] = ((np.arange(length, dtype=np.float32) + 0.5) / (2 * margin)).clip(0, 1)
    return found
