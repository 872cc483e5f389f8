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
(`Layout.encoder_margin`, `Layout.decoder_margin`), which is what makes overlapped tiles exact.

Source: our own; blocks after He et al. 2016 (arXiv 1512.03385), sub-pixel convolution after Shi et al. 2016
(arXiv 1609.05158).  Imports torch at its top: only `models.store` imports this module.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelMismatchError
from .tiled import TiledModel, on_device

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

LATENT_CHANNELS: Final = 96
FACTOR: Final = 16
"""Pixels per latent position, on each axis."""

RATE_FEATURES: Final = 32


@dataclass(frozen=True)
class Layout:
    """Which layers a network has.

    encoder: residual blocks at 1/4, 1/8 and 1/16 of the size.   decoder: at 1/16, 1/8, 1/4 and 1/2.
    """

    encoder: tuple[int, int, int] = (2, 2, 3)
    decoder: tuple[int, int, int, int] = (4, 3, 3, 1)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor | NDArray[np.generic]]) -> Layout:
        """That of weights, by their names and widths.   tensors: as stored."""
        widths: dict[str, list[int]] = {"encoder": [], "decoder": []}
        for name, tensor in tensors.items():
            if found := re.fullmatch(r"(encoder|decoder)\.layers\.\d+\.conv1\.weight", name):
                widths[found[1]].append(tensor.shape[0])
        encoder, decoder = widths["encoder"], widths["decoder"]
        return cls(
            (encoder.count(64), encoder.count(128), encoder.count(192)),
            (decoder.count(192), decoder.count(128), decoder.count(64), decoder.count(32)),
        )

    # Each block has two 3x3 convolutions.  The encoder has one more before them all and one after each size's blocks, the
    # decoder one before them all and one after, at half of the size.

    @property
    def encoder_margin(self) -> int:
        """Latent positions that the encoder sees on each side of one: half its receptive field, rounded up."""
        at4, at8, at16 = self.encoder
        return math.ceil((4 * (2 * at4 + 2) + 8 * (2 * at8 + 1) + 16 * (2 * at16 + 1)) / 16)

    @property
    def decoder_margin(self) -> int:
        """Likewise of the decoder."""
        at16, at8, at4, at2 = self.decoder
        return 1 + 2 * at16 + math.ceil((4 * 2 * at8 + 2 * 2 * at4 + 2 * at2 + 1) / 8)


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

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        at4, at8, at16 = layout.encoder
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


def rate_network() -> nn.Sequential:
    """(B, 1) in -1..1, which is 2 u - 1 of a rate u -> (B, RATE_FEATURES), what blocks are told of the rate."""
    return nn.Sequential(nn.Linear(1, RATE_FEATURES), nn.LeakyReLU(0.1), nn.Linear(RATE_FEATURES, RATE_FEATURES))


class Decoder(nn.Module):
    """Latent (B, 96, h, w) and rate (B,) in 0..1 -> pixels (B, 3, 16h, 16w), about 0..1, not clipped."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        at16, at8, at4, at2 = layout.decoder
        self.rate = rate_network()
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

    def __init__(self, layout: Layout | None = None) -> None:
        super().__init__()
        self.layout = layout or Layout()
        self.encoder = Encoder(self.layout)
        self.decoder = Decoder(self.layout)


class EmbeddedModel(TiledModel):
    """The network with its weights, on a device, from arrays to arrays.

    Runs in float32 whatever the weights are stored in.  Deterministic on one machine and number of threads.
    """

    channels = LATENT_CHANNELS
    factor = FACTOR

    def __init__(self, tensors: Mapping[str, NDArray[np.generic]], device: str, model_hash: str) -> None:
        """tensors: as stored, names beginning "encoder." and "decoder.".   device: see `settings.Settings`.

        Raises ModelMismatchError if they do not fit, ValueError if the device is not to be had.
        """
        layout = Layout.of(tensors)
        self.encoder_margin, self.decoder_margin = layout.encoder_margin, layout.decoder_margin
        with torch.device("meta"):
            network = EmbeddedAutoencoder(layout)
        state = {name: as_parameter(tensor) for name, tensor in tensors.items()}
        try:
            network.load_state_dict(state, assign=True)
        except RuntimeError as exc:
            msg = f"the weights do not fit the network: {str(exc).splitlines()[-1].strip()}"
            raise ModelMismatchError(msg) from exc
        network.requires_grad_(requires_grad=False)
        self._network, found = on_device(network.eval(), device)
        super().__init__(found, model_hash)

    def _encode(self, pixels: Tensor) -> Tensor:
        result: Tensor = self._network.encoder(pixels)
        return result

    def _decode(self, latent: Tensor, rate: int) -> Tensor:
        level = torch.tensor([rate / 255], dtype=torch.float32, device=latent.device)
        result: Tensor = self._network.decoder(latent, level)
        return result


def as_parameter(tensor: NDArray[np.generic]) -> Tensor:
    """float32, and channels last where it is a convolution's: the order in which CPUs compute it fastest."""
    values = torch.from_numpy(tensor).float()
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values
