"""The network that ships in the wheel: a convolutional autoencoder at 1/16 scale, in plain torch.

    pixels (B, 3, H, W)                                     pixels (B, 3, H, W)
       | unshuffle 4, conv                conv, shuffle 2, block at 1/2, conv, shuffle 2 ^
    1/4   64 x Block                                               64 x Block (rate)  1/4
       | conv, stride 2                                           conv 1x1, shuffle 2 ^
    1/8  128 x Block                                              128 x Block (rate)  1/8
       | conv, stride 2                                           conv 1x1, shuffle 2 ^
    1/16 192 x Block, conv                                 conv, 192 x Block (rate)  1/16
       v                                                                              |
    latent (B, 96, H/16, W/16)  -- quantised with steps of the rate -->  latent (B, 96, H/16, W/16)

The encoder does not know the rate: one latent serves every quality, and quantising it is the business of
`pillow_sdl.latent`.  The decoder is told the rate, so that it knows how much noise the quantiser added.
Both are free of normalisation over space, so what a pixel becomes depends on a bounded neighbourhood
(`ENCODER_MARGIN`, `DECODER_MARGIN`), which is what makes overlapped tiles exact.

Source: our own; blocks after He et al. 2016 (arXiv 1512.03385), sub-pixel convolution after Shi et al. 2016
(arXiv 1609.05158).  Imports torch at its top: only `models.store` imports this module.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelError, ModelMismatchError
from .tiling import tiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from .store import Progress

LATENT_CHANNELS: Final = 96
FACTOR: Final = 16
"""Pixels per latent position, on each axis."""

RATE_FEATURES: Final = 32


class Block(nn.Module):
    """Residual block of two 3x3 convolutions; with `rate_features`, the rate scales and shifts its middle."""

    def __init__(self, channels: int, rate_features: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulate = nn.Linear(rate_features, 2 * channels) if rate_features else None

    def forward(self, x: Tensor, rate: Tensor | None = None) -> Tensor:
        """(B, C, H, W), and (B, rate_features) where the block is modulated -> (B, C, H, W)."""
        y = self.conv1(x)
        if self.modulate is not None and rate is not None:
            scale, shift = self.modulate(rate)[:, :, None, None].chunk(2, dim=1)
            y = y * (1 + scale) + shift
        result: Tensor = x + self.conv2(F.leaky_relu(y, 0.1))
        return result


class Encoder(nn.Module):
    """Pixels in 0..1, (B, 3, H, W) with H and W multiples of 16 -> latent float32 (B, 96, H/16, W/16)."""

    def __init__(self, blocks: tuple[int, int, int] = (2, 2, 3)) -> None:
        super().__init__()
        at4, at8, at16 = blocks
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, 64, 3, padding=1),
            *(Block(64) for _ in range(at4)),
            nn.Conv2d(64, 128, 3, stride=2, padding=1),
            *(Block(128) for _ in range(at8)),
            nn.Conv2d(128, 192, 3, stride=2, padding=1),
            *(Block(192) for _ in range(at16)),
            nn.Conv2d(192, LATENT_CHANNELS, 3, padding=1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        result: Tensor = self.layers(pixels - 0.5)
        return result


class Decoder(nn.Module):
    """Latent (B, 96, h, w) and rate (B,) in 0..1 -> pixels (B, 3, 16h, 16w), about 0..1, not clipped."""

    def __init__(self, blocks: tuple[int, int, int, int] = (4, 3, 3, 1)) -> None:
        super().__init__()
        at16, at8, at4, at2 = blocks
        self.rate = nn.Sequential(
            nn.Linear(1, RATE_FEATURES), nn.LeakyReLU(0.1), nn.Linear(RATE_FEATURES, RATE_FEATURES)
        )
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(LATENT_CHANNELS, 192, 3, padding=1),
                *(Block(192, RATE_FEATURES) for _ in range(at16)),
                nn.Conv2d(192, 4 * 128, 1),
                nn.PixelShuffle(2),
                *(Block(128, RATE_FEATURES) for _ in range(at8)),
                nn.Conv2d(128, 4 * 64, 1),
                nn.PixelShuffle(2),
                *(Block(64, RATE_FEATURES) for _ in range(at4)),
                nn.Conv2d(64, 4 * 32, 1),
                nn.PixelShuffle(2),
                *(Block(32, RATE_FEATURES) for _ in range(at2)),
                nn.Conv2d(32, 12, 3, padding=1),
                nn.PixelShuffle(2),
            ]
        )

    def forward(self, latent: Tensor, rate: Tensor) -> Tensor:
        """See the class."""
        features = self.rate(2 * rate[:, None] - 1)
        x = latent
        for layer in self.layers:
            x = layer(x, features) if isinstance(layer, Block) else layer(x)
        return x + 0.5


class EmbeddedAutoencoder(nn.Module):
    """Encoder and decoder together, as they are trained and stored."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()


ENCODER_MARGIN: Final = 11
DECODER_MARGIN: Final = 14
"""Latent positions that the networks see on each side of one: half their receptive fields, rounded up."""

GRADIENT_CORE: Final = 64
"""As `tiling.CORE`, where gradients are wanted: they take five times the memory."""

PROBE: Final = 48
"""Latent positions along a side of what `curvature` looks at."""


class EmbeddedModel:
    """The network with its weights, on a device, from arrays to arrays.  Implements `store.Autoencoder`.

    Runs in float32 whatever the weights are stored in.  Deterministic on one machine and number of threads.
    """

    def __init__(self, tensors: Mapping[str, NDArray[np.generic]], device: str) -> None:
        """tensors: as stored, names beginning "encoder." and "decoder.".   device: see `settings.Settings`.

        Raises ModelMismatchError if they do not fit, ValueError if the device is not to be had.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.device("meta"):
            network = EmbeddedAutoencoder()
        state = {name: _as_parameter(tensor) for name, tensor in tensors.items()}
        try:
            network.load_state_dict(state, assign=True)
        except RuntimeError as exc:
            msg = f"the weights do not fit the network: {str(exc).splitlines()[-1].strip()}"
            raise ModelMismatchError(msg) from exc
        network.requires_grad_(requires_grad=False)
        try:
            self._network = network.eval().to(device)
        except (RuntimeError, AssertionError) as exc:  # a CPU build of torch asserts that it has no CUDA
            msg = f"device {device} cannot be used: {str(exc).splitlines()[0]}"
            raise ValueError(msg) from exc
        self._device = torch.device(device)

    @contextmanager
    def _running(self, *, gradients: bool = False) -> Iterator[None]:
        """Float32 without gradients, whatever the caller has set torch to; its errors as ModelError."""
        try:
            with (
                torch.inference_mode(not gradients),
                torch.set_grad_enabled(gradients),
                torch.autocast(self._device.type, enabled=False),
                torch.backends.cudnn.flags(allow_tf32=False),
            ):
                yield
        except RuntimeError as exc:
            msg = f"the network failed on {self._device}: {str(exc).splitlines()[0]}"
            raise ModelError(msg) from exc

    def encode(self, pixels: NDArray[np.uint8], progress: Progress | None = None) -> NDArray[np.float32]:
        """Pixels uint8 (H, W, 3) -> latent float32 (96, h, w), h = H / 16 rounded up.

        What is missing to whole positions on the right and at the bottom repeats the last column and row.
        """
        height, width = (-(-side // FACTOR) for side in pixels.shape[:2])
        latent = np.empty((LATENT_CHANNELS, height, width), np.float32)
        todo = tiles(height, width, ENCODER_MARGIN)
        for done, (rows, columns) in enumerate(todo, 1):
            piece = pixels[_pixels(rows.computed), _pixels(columns.computed)]
            missing = -piece.shape[0] % FACTOR, -piece.shape[1] % FACTOR
            piece = np.pad(piece, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
            with self._running():
                batch = torch.from_numpy(piece).to(self._device)
                found = self._network.encoder(batch.permute(2, 0, 1)[None].float() / 255)[0].cpu().numpy()
            latent[:, rows.place, columns.place] = found[:, rows.kept, columns.kept]
            if progress:
                progress(done, len(todo))
        return latent

    def decode(self, latent: NDArray[np.float32], rate: int, progress: Progress | None = None) -> NDArray[np.uint8]:
        """Latent float32 (96, h, w), quantised at rate code 0..255 -> pixels uint8 (16h, 16w, 3)."""
        height, width = latent.shape[1:]
        pixels = np.empty((height * FACTOR, width * FACTOR, 3), np.uint8)
        level = torch.tensor([rate / 255], dtype=torch.float32, device=self._device)
        todo = tiles(height, width, DECODER_MARGIN)
        for done, (rows, columns) in enumerate(todo, 1):
            piece = latent[:, rows.computed, columns.computed]
            with self._running():
                batch = torch.from_numpy(np.ascontiguousarray(piece))[None].to(self._device)
                found = self._network.decoder(batch.contiguous(memory_format=torch.channels_last), level)[0]
                found = found.mul_(255).round_().clamp_(0, 255).byte().permute(1, 2, 0).cpu().numpy()
            pixels[_pixels(rows.place), _pixels(columns.place)] = found[_pixels(rows.kept), _pixels(columns.kept)]
            if progress:
                progress(done, len(todo))
        return pixels

    def squared_error(
        self, latent: NDArray[np.float32], rate: int, pixels: NDArray[np.uint8]
    ) -> tuple[float, NDArray[np.float32]]:
        """See `store.Autoencoder`.  In tiles whose margin covers what a value reaches, not all that pixel depends on."""
        height, width = latent.shape[1:]
        gradient = np.empty_like(latent)
        total = 0.0
        for rows, columns in tiles(height, width, DECODER_MARGIN, GRADIENT_CORE):
            wanted = torch.tensor(pixels[_pixels(rows.computed), _pixels(columns.computed)], device=self._device)
            with self._running(gradients=True):
                piece, found = self._decoded(latent[:, rows.computed, columns.computed], rate)
                difference = found[0, :, : wanted.shape[0], : wanted.shape[1]] - wanted.permute(2, 0, 1).float() / 255
                error = difference.square()
                (slope,) = torch.autograd.grad(error.sum(), piece)
                total += float(error[:, _pixels(rows.kept), _pixels(columns.kept)].detach().sum())
            gradient[:, rows.place, columns.place] = slope[0, :, rows.kept, columns.kept].cpu().numpy()
        return total, gradient

    def curvature(self, latent: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
        """See `store.Autoencoder`.  Estimated on the latent's middle with one random projection of the pixels.

        Source: Hutchinson 1990, for the diagonal of the Gauss-Newton matrix.
        """
        top, left = (max(side - PROBE, 0) // 2 for side in latent.shape[1:])
        middle = latent[:, top : top + PROBE, left : left + PROBE]
        with self._running(gradients=True):
            piece, found = self._decoded(middle, rate)
            signs = torch.randint(0, 2, found.shape, generator=torch.Generator().manual_seed(0)) * 2.0 - 1
            (slope,) = torch.autograd.grad(found, piece, signs.to(self._device))
        squares: NDArray[np.float32] = 2 * slope[0].square().mean((1, 2)).cpu().numpy()
        result: NDArray[np.float32] = np.maximum(squares, squares.max() / 1000)
        return result

    def _decoded(self, latent: NDArray[np.float32], rate: int) -> tuple[Tensor, Tensor]:
        """A latent as a tensor (1, 96, h, w) that gradients are wanted for, and what it decodes to."""
        piece = torch.from_numpy(np.ascontiguousarray(latent))[None].to(self._device).requires_grad_()
        level = torch.tensor([rate / 255], dtype=torch.float32, device=self._device)
        return piece, self._network.decoder(piece.contiguous(memory_format=torch.channels_last), level)


def _as_parameter(tensor: NDArray[np.generic]) -> Tensor:
    """float32, and channels last where it is a convolution's: the order in which CPUs compute it fastest."""
    values = torch.from_numpy(tensor).float()
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values


def _pixels(positions: slice) -> slice:
    """The pixels of a stretch of latent positions."""
    return slice(positions.start * FACTOR, positions.stop * FACTOR)
