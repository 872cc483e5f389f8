"""From arrays to arrays, in tiles: what all autoencoders have in common.

Imports torch at its top: only the modules of networks import this one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError
from .tiling import Span, tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from .store import Progress

GRADIENT_CORE: Final = 64
"""As `tiling.CORE`, where gradients are wanted: they take five times the memory."""

PROBE: Final = 48
"""Latent positions along a side of what `curvature` looks at."""

Network = TypeVar("Network", bound=nn.Module)


def on_device(network: Network, device: str) -> tuple[Network, torch.device]:
    """The network where the settings want it.  Raises ValueError if the device is not to be had."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return network.to(device), torch.device(device)
    except (RuntimeError, AssertionError) as exc:  # a CPU build of torch asserts that it has no CUDA
        msg = f"device {device} cannot be used: {str(exc).splitlines()[0]}"
        raise ValueError(msg) from exc


@contextmanager
def running(device: torch.device, *, gradients: bool = False) -> Iterator[None]:
    """Float32 without gradients unless they are wanted, whatever the caller has set torch to.

    Errors of torch become ModelError.
    """
    try:
        with (
            torch.inference_mode(not gradients),
            torch.set_grad_enabled(gradients),
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(allow_tf32=False),
        ):
            yield
    except RuntimeError as exc:
        msg = f"the network failed on {device}: {str(exc).splitlines()[0]}"
        raise ModelError(msg) from exc


class TiledModel(ABC):
    """An autoencoder on a device.  Implements `store.Autoencoder`.

    channels, factor: of its latent space.   encoder_margin, decoder_margin: latent positions around a tile that are
    computed with it.   exact: margins cover all that a network sees, so that tiles join by themselves; else they are
    blended over the margins.   core: latent positions along a side of a tile that are kept; None: `tiling.CORE`.
    """

    channels: int
    factor: int
    encoder_margin: int
    decoder_margin: int
    core: int | None = None
    exact: bool = True

    def __init__(self, device: torch.device, model_hash: str) -> None:
        """model_hash: of the decoder (SPEC 7.2), hexadecimal."""
        self._device = device
        self.hash = model_hash

    @abstractmethod
    def _encode(self, pixels: Tensor) -> Tensor:
        """Pixels in 0..1, float32 (1, 3, H, W) with sides of whole positions -> latent float32 (1, C, h, w)."""

    @abstractmethod
    def _decode(self, latent: Tensor, rate: int) -> Tensor:
        """Latent float32 (1, C, h, w) -> pixels float32 (1, 3, H, W), about 0..1."""

    def _pixels(self, positions: slice) -> slice:
        """The pixels of a stretch of latent positions."""
        return slice(positions.start * self.factor, positions.stop * self.factor)

    def encode(self, pixels: NDArray[np.uint8], progress: Progress | None = None) -> NDArray[np.float32]:
        """Pixels uint8 (H, W, 3) -> latent float32 (C, h, w), sides divided by the factor and rounded up.

        What is missing to whole positions on the right and at the bottom repeats the last column and row.
        """
        height, width = (-(-side // self.factor) for side in pixels.shape[:2])
        latent = np.zeros((self.channels, height, width), np.float32)
        todo = tiles(height, width, self.encoder_margin, self.core)
        for done, (rows, columns) in enumerate(todo, 1):
            piece = pixels[self._pixels(rows.computed), self._pixels(columns.computed)]
            missing = -piece.shape[0] % self.factor, -piece.shape[1] % self.factor
            piece = np.pad(piece, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
            with running(self._device):
                batch = torch.from_numpy(piece).to(self._device)
                found = self._encode(batch.permute(2, 0, 1)[None].float() / 255)[0].float().cpu().numpy()
            if self.exact:
                latent[:, rows.place, columns.place] = found[:, rows.kept, columns.kept]
            else:
                blend(latent, found, rows, columns)
            if progress:
                progress(done, len(todo))
        return latent

    def decode(self, latent: NDArray[np.float32], rate: int, progress: Progress | None = None) -> NDArray[np.uint8]:
        """Latent float32 (C, h, w), quantised at rate code 0..255 -> pixels uint8 (factor * h, factor * w, 3)."""
        height, width = latent.shape[1:]
        pixels = np.zeros((height * self.factor, width * self.factor, 3), np.uint8)
        todo = tiles(height, width, self.decoder_margin, self.core)
        for done, (rows, columns) in enumerate(todo, 1):
            piece = np.ascontiguousarray(latent[:, rows.computed, columns.computed])
            with running(self._device):
                batch = torch.from_numpy(piece)[None].to(self._device)
                shown = self._decode(batch.contiguous(memory_format=torch.channels_last), rate)[0]
                found = shown.mul(255).round_().clamp_(0, 255).permute(1, 2, 0).byte().cpu().numpy()
            if self.exact:
                kept = found[self._pixels(rows.kept), self._pixels(columns.kept)]
                pixels[self._pixels(rows.place), self._pixels(columns.place)] = kept
            else:
                share = _share(rows, columns, self.factor)[:, :, None]
                target = pixels[self._pixels(rows.computed), self._pixels(columns.computed)]
                target[...] = np.rint(target + share * (found - target.astype(np.float32)))
            if progress:
                progress(done, len(todo))
        return pixels

    def squared_error(
        self, latent: NDArray[np.float32], rate: int, pixels: NDArray[np.uint8]
    ) -> tuple[float, NDArray[np.float32]]:
        """See `store.Autoencoder`.  In tiles whose margin covers what a value reaches, not all that a pixel sees."""
        height, width = latent.shape[1:]
        gradient = np.empty_like(latent)
        total = 0.0
        for rows, columns in tiles(height, width, self.decoder_margin, GRADIENT_CORE):
            wanted = pixels[self._pixels(rows.computed), self._pixels(columns.computed)]
            with running(self._device, gradients=True):
                target = torch.tensor(wanted, device=self._device).permute(2, 0, 1).float() / 255
                piece, found = self._decoded(latent[:, rows.computed, columns.computed], rate)
                error = (found[0, :, : target.shape[1], : target.shape[2]] - target).square()
                (slope,) = torch.autograd.grad(error.sum(), piece)
                total += float(error[:, self._pixels(rows.kept), self._pixels(columns.kept)].detach().sum())
            gradient[:, rows.place, columns.place] = slope[0, :, rows.kept, columns.kept].cpu().numpy()
        return total, gradient

    def curvature(self, latent: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
        """See `store.Autoencoder`.  Estimated on the latent's middle with one random projection of the pixels.

        Source: Hutchinson 1990, for the diagonal of the Gauss-Newton matrix.
        """
        top, left = (max(side - PROBE, 0) // 2 for side in latent.shape[1:])
        middle = latent[:, top : top + PROBE, left : left + PROBE]
        with running(self._device, gradients=True):
            piece, found = self._decoded(middle, rate)
            signs = torch.randint(0, 2, found.shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1
            (slope,) = torch.autograd.grad(found, piece, signs.to(self._device))
            squares: NDArray[np.float32] = 2 * slope[0].square().mean((1, 2)).cpu().numpy()
        result: NDArray[np.float32] = np.maximum(squares, squares.max() / 1000)
        return result

    def _decoded(self, latent: NDArray[np.float32], rate: int) -> tuple[Tensor, Tensor]:
        """A latent as a tensor (1, C, h, w) that gradients are wanted for, and what it decodes to."""
        piece = torch.from_numpy(np.ascontiguousarray(latent))[None].to(self._device).requires_grad_()
        return piece, self._decode(piece.contiguous(memory_format=torch.channels_last), rate).float()


def map_latent(
    compute: Callable[[Tensor], Tensor],
    latent: NDArray[np.float32],
    device: torch.device,
    layout: tuple[int, int, int],
    *,
    exact: bool,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """What a network makes of a latent float32 (C, h, w): the same shape, computed in tiles of bounded memory.

    compute: (1, C, h', w') on the device -> the same shape, any float dtype.   layout: margin and core, see `tiling`, and
    grid: sides of what the network is given are multiples of it, by repetition of the last row and column.
    exact: see `TiledModel`; margin and core must then be multiples of the grid.
    """
    margin, core, grid = layout
    result = np.zeros_like(latent)
    todo = tiles(latent.shape[1], latent.shape[2], margin, core)
    for done, (rows, columns) in enumerate(todo, 1):
        piece = latent[:, rows.computed, columns.computed]
        height, width = piece.shape[1:]
        piece = np.pad(piece, ((0, 0), (0, -height % grid), (0, -width % grid)), mode="edge")
        with running(device):
            batch = torch.from_numpy(piece)[None].to(device)
            shown = compute(batch.contiguous(memory_format=torch.channels_last))
            found = shown[0, :, :height, :width].float().cpu().numpy()
        if exact:
            result[:, rows.place, columns.place] = found[:, rows.kept, columns.kept]
        else:
            blend(result, found, rows, columns)
        if progress:
            progress(done, len(todo))
    return result


def blend(latent: NDArray[np.float32], found: NDArray[np.float32], rows: Span, columns: Span) -> None:
    """Lay a tile, as computed, float32 (C, h', w'), over what stands in a latent (C, h, w): see `_share`."""
    target = latent[:, rows.computed, columns.computed]
    target += _share(rows, columns, 1) * (found - target)


def _share(rows: Span, columns: Span, scale: int) -> NDArray[np.float32]:
    """What a tile counts against the tiles before it, 0..1: it grows across the margin at its top and on its left.

    Tiles come by row and column, so that each is laid over what stands there: no edge of a tile is an edge of the
    picture, and where nothing stands yet it counts in full.
    """
    down, right = _ramp(rows, scale), _ramp(columns, scale)
    return down[:, None] * right


def _ramp(span: Span, scale: int) -> NDArray[np.float32]:
    """From 0 to 1 over twice the margin before a tile's core, centred on its begin; all 1 at the picture's edge."""
    length = (span.stop - span.start) * scale
    margin = (span.keep_start - span.start) * scale
    if not margin:
        return np.ones(length, np.float32)
    found: NDArray[np.float32] = ((np.arange(length, dtype=np.float32) + 0.5) / (2 * margin)).clip(0, 1)
    return found
