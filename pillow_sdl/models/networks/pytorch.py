"""What all networks on PyTorch share: the device, the precision, gradients, and tiles of latents.

This module imports torch, so import it only when a network is needed.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ... import progress, settings
from ...errors import ModelError, first_line
from .. import forks
from ..tiled import TiledAutoencoder, blend
from ..tiling import tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

GRADIENT_CORE: Final = 64
"""Latent positions along each side of a tile's core when gradients are computed, which take five times the memory."""

PROBE: Final = 48
"""Latent positions along each side of the area from which `curvature` is estimated."""

Network = TypeVar("Network", bound=nn.Module)


def on_device(network: Network, device: str) -> tuple[Network, torch.device]:
    """Move a network to a device.  Returns the network and the device.

    device: as in `settings.Settings`; "auto" is a CUDA GPU if there is one, otherwise the CPU.
    Raises ValueError if the device is not available.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return network.to(device), torch.device(device)
    except (RuntimeError, AssertionError) as exc:  # A CPU build of torch raises AssertionError for "cuda".
        msg = f"device {device} cannot be used: {first_line(exc)}"
        raise ValueError(msg) from exc


@contextmanager
def running(device: torch.device, *, gradients: bool = False) -> Iterator[None]:
    """Compute in float32 inside the `with` block, whatever torch settings the caller has made.

    gradients: whether gradients are computed.   Autocast and cuDNN's TF32 are off.  The number of threads is that of
    `settings`.  Afterwards all settings of torch are as they were.
    Raises ModelError for errors of torch.
    """
    before = torch.get_num_threads()
    threads = 1 if forks.torch_lost_its_threads else settings.current().threads or before
    if threads != before:
        torch.set_num_threads(threads)
    # All flags are given, because those that are left out are not the ones in force: cuDNN would be off.
    cudnn = torch.backends.cudnn
    flags = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
    try:
        with (
            torch.inference_mode(not gradients),
            torch.set_grad_enabled(gradients),
            torch.autocast(device.type, enabled=False),
            cudnn.flags(**flags, allow_tf32=False),
        ):
            yield
    except RuntimeError as exc:
        msg = f"the network failed on {device}: {first_line(exc)}"
        raise ModelError(msg) from exc
    finally:
        if threads != before:
            torch.set_num_threads(before)


class TorchAutoencoder(TiledAutoencoder):
    """An autoencoder on a device of torch.  Implements `base.DifferentiableAutoencoder`."""

    def __init__(self, device: torch.device, model_hash: str) -> None:
        """Set the device and the hash.   model_hash: hash of the decoder (SPEC 7.2), hexadecimal."""
        self._device = device
        self.hash = model_hash

    @abstractmethod
    def _encode(self, pixels: Tensor) -> Tensor:
        """Encode pixels in 0..1, float32 (1, 3, H, W), to a latent float32 (1, C, h, w).

        H and W are multiples of the factor.
        """

    @abstractmethod
    def _decode(self, latent: Tensor, rate: int | None) -> Tensor:
        """Decode a latent float32 (1, C, h, w) to pixels float32 (1, 3, H, W), roughly in 0..1.   rate: 0..255."""

    def encode_tile(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode pixels uint8 (H, W, 3) to a latent float32 (C, h, w)."""
        with running(self._device):
            batch = torch.tensor(pixels, device=self._device)
            found: NDArray[np.float32] = (
                self._encode(batch.permute(2, 0, 1)[None].float() / 255)[0].float().cpu().numpy()
            )
        return found

    def decode_tile(self, latent: NDArray[np.float32], rate: int | None) -> NDArray[np.uint8]:
        """Decode a latent float32 (C, h, w) to pixels uint8 (factor * h, factor * w, 3)."""
        with running(self._device):
            batch = torch.from_numpy(latent)[None].to(self._device)
            shown = self._decode(batch.contiguous(memory_format=torch.channels_last), rate)[0]
            if not torch.isfinite(shown).all():  # It must not become a black picture.
                msg = "the network gives values that are not finite; with dtype float32 it may give a picture"
                raise ModelError(msg)
            found: NDArray[np.uint8] = shown.mul(255).round_().clamp_(0, 255).permute(1, 2, 0).byte().cpu().numpy()
        return found

    def squared_error(
        self, latent: NDArray[np.float32], rate: int, pixels: NDArray[np.uint8]
    ) -> tuple[float, NDArray[np.float32]]:
        """Return the squared error of the decoded picture, summed, and its gradient by the latent, float32 (C, h, w).

        latent: float32 (C, h, w).   rate: rate code 0..255.
        pixels: uint8 (H, W, 3), as they were given to `encode`.  Errors are those of samples in 0..1.

        The tile margins cover the pixels that a latent value affects, but not everything that those pixels depend on.
        The gradient is therefore approximate for a picture of several tiles.
        """
        height, width = latent.shape[1:]
        gradient = np.empty_like(latent)
        total = 0.0
        todo = tiles(height, width, self.decoder_margin, GRADIENT_CORE)
        for done, (rows, columns) in enumerate(todo, 1):
            wanted = pixels[self.pixels_of(rows.computed), self.pixels_of(columns.computed)]
            with running(self._device, gradients=True):
                target = torch.tensor(wanted, device=self._device).permute(2, 0, 1).float() / 255
                piece, found = self._decoded(latent[:, rows.computed, columns.computed], rate)
                error = (found[0, :, : target.shape[1], : target.shape[2]] - target).square()
                (slope,) = torch.autograd.grad(error.sum(), piece)
                total += float(error[:, self.pixels_of(rows.kept), self.pixels_of(columns.kept)].detach().sum())
            gradient[:, rows.place, columns.place] = slope[0, :, rows.kept, columns.kept].cpu().numpy()
            progress.report(done, len(todo))
        return total, gradient

    def curvature(self, latent: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
        """Estimate the second derivative of the squared error by a value of each channel, float32 (C,), > 0.

        The estimate uses the middle of the latent and one random projection of the pixels.
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
        """Return a latent as a tensor (1, C, h, w) that requires gradients, and the pixels that it decodes to."""
        piece = torch.from_numpy(np.ascontiguousarray(latent))[None].to(self._device).requires_grad_()
        return piece, self._decode(piece.contiguous(memory_format=torch.channels_last), rate).float()


def map_latent(
    compute: Callable[[Tensor], Tensor],
    latent: NDArray[np.float32],
    device: torch.device,
    layout: tuple[int, int, int],
    *,
    exact: bool,
) -> NDArray[np.float32]:
    """Apply a network that keeps the shape of a latent float32 (C, h, w), in tiles that bound its memory.

    compute: the network, from a tensor (1, C, h', w') on the device to the same shape in any float dtype.
    layout: (margin, core, grid).  Margin and core are those of `tiling.tiles`.  Tiles are padded to sides that are
        multiples of grid, by repeating the last row and column.
    exact: see `TiledAutoencoder`; margin and core must then be multiples of grid.
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
        progress.report(done, len(todo))
    return result
