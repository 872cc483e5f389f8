"""The autoencoder that ships in the wheel: a convolutional network with latents at 1/16 of the size.

    pixels (B, 3, H, W)                                     pixels (B, 3, H, W)
       | unshuffle 4, conv                conv, shuffle 2, block at 1/2, conv, shuffle 2 ^
    1/4   64 x Block                                               64 x Block (rate)  1/4
       | conv, stride 2                                           conv 1x1, shuffle 2 ^
    1/8  128 x Block                                              128 x Block (rate)  1/8
       | conv, stride 2                                           conv 1x1, shuffle 2 ^
    1/16 192 x Block, conv                                 conv, 192 x Block (rate)  1/16
       v                                                                              |
    latent (B, 96, H/16, W/16)  -- quantized with steps of the rate -->  latent (B, 96, H/16, W/16)

The encoder does not know the rate: one latent serves every quality, and `pillow_sdl.latent` quantizes it.  The decoder
is told the rate, so it knows how much noise the quantizer added.  Neither has normalisation over space, so each output
depends on a bounded neighbourhood (`Layout.encoder_margin`, `Layout.decoder_margin`).  Overlapping tiles are therefore
exact.

Source: own design; blocks after He et al. 2016 (arXiv 1512.03385), sub-pixel convolution after Shi et al. 2016
(arXiv 1609.05158).  This module imports torch, so import it only when a network is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import ModelMismatchError
from .pytorch import TorchAutoencoder, on_device

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

LATENT_CHANNELS: Final = 96

FACTOR: Final = 16
"""Pixels per latent position, on each axis."""

RATE_FEATURES: Final = 32
"""Size of the vector that tells the decoder's blocks the rate."""


@dataclass(frozen=True)
class Layout:
    """How many residual blocks an autoencoder has.  The defaults are those of the shipped weights.

    encoder: blocks at 1/4, 1/8 and 1/16 of the size.
    decoder: blocks at 1/16, 1/8, 1/4 and 1/2 of the size.
    """

    encoder: tuple[int, int, int] = (4, 3, 3)
    decoder: tuple[int, int, int, int] = (2, 1, 4, 5)

    # Each block has two 3x3 convolutions.  The encoder has one more before all blocks, and one after the blocks of each
    # size.  The decoder has one more before all blocks, and one after all blocks, at 1/2 of the size.

    @property
    def encoder_margin(self) -> int:
        """Latent positions that the encoder sees on each side of one position, rounded up."""
        at4, at8, at16 = self.encoder
        return math.ceil((4 * (2 * at4 + 2) + 8 * (2 * at8 + 1) + 16 * (2 * at16 + 1)) / 16)

    @property
    def decoder_margin(self) -> int:
        """Latent positions that the decoder sees on each side of one position, rounded up."""
        at16, at8, at4, at2 = self.decoder
        return 1 + 2 * at16 + math.ceil((4 * 2 * at8 + 2 * 2 * at4 + 2 * at2 + 1) / 8)


class Block(nn.Module):
    """A residual block of two 3x3 convolutions.

    With `rate_features`, a vector of that size scales and shifts the channels between the two convolutions.
    """

    def __init__(self, channels: int, rate_features: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulate = nn.Linear(rate_features, 2 * channels) if rate_features else None

    def forward(self, x: Tensor, rate: Tensor | None = None) -> Tensor:
        """Map x (B, C, H, W) to the same shape.   rate: (B, rate_features), for a block with `rate_features`."""
        y = self.conv1(x)
        if self.modulate is not None and rate is not None:
            scale, shift = self.modulate(rate)[:, :, None, None].chunk(2, dim=1)
            y = y * (1 + scale) + shift
        result: Tensor = x + self.conv2(F.leaky_relu(y, 0.1))
        return result


class Encoder(nn.Module):
    """The encoder, from pixels to a latent."""

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
        """Encode pixels in 0..1, (B, 3, H, W) with H and W multiples of 16, to a latent (B, 96, H/16, W/16)."""
        result: Tensor = self.layers(pixels - 0.5)
        return result


def rate_network() -> nn.Sequential:
    """Return the network that turns a rate into features for the blocks.

    Its input is (B, 1) in -1..1, which is 2 u - 1 for a rate u in 0..1.  Its output is (B, RATE_FEATURES).
    """
    return nn.Sequential(nn.Linear(1, RATE_FEATURES), nn.LeakyReLU(0.1), nn.Linear(RATE_FEATURES, RATE_FEATURES))


class Decoder(nn.Module):
    """The decoder, from a latent and a rate to pixels."""

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
        """Decode a latent (B, 96, h, w) to pixels (B, 3, 16h, 16w), roughly in 0..1 and not clipped.

        rate: (B,), in 0..1.
        """
        features = self.rate(2 * rate[:, None] - 1)
        x = latent
        for layer in self.layers:
            x = layer(x, features) if isinstance(layer, Block) else layer(x)
        return x + 0.5


class EmbeddedAutoencoder(nn.Module):
    """Encoder and decoder together, as they are trained and stored.   layout: the default `Layout()` if None."""

    def __init__(self, layout: Layout | None = None) -> None:
        super().__init__()
        self.layout = layout or Layout()
        self.encoder = Encoder(self.layout)
        self.decoder = Decoder(self.layout)


class EmbeddedModel(TorchAutoencoder):
    """The autoencoder with its weights on a device.  Takes and returns arrays.

    Computes in float32, whatever the dtype of the stored weights.  Deterministic on one machine and for one number of
    threads.
    """

    channels = LATENT_CHANNELS
    factor = FACTOR

    def __init__(self, tensors: Mapping[str, NDArray[np.generic]], device: str, model_hash: str) -> None:
        """Build the network and load its weights.

        tensors: the stored weights, with names that begin with "encoder." and "decoder.".
        device: see `settings.Settings`.   model_hash: hash of the decoder (SPEC 7.2), hexadecimal.
        Raises ModelMismatchError if the weights do not fit the default `Layout`, and ValueError if the device is not
        available.
        """
        with torch.device("meta"):
            network = EmbeddedAutoencoder()
        self.encoder_margin, self.decoder_margin = network.layout.encoder_margin, network.layout.decoder_margin
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

    def _decode(self, latent: Tensor, rate: int | None) -> Tensor:
        if rate is None:
            msg = "the embedded network needs the rate at which its latent was quantized"
            raise ValueError(msg)
        level = torch.tensor([rate / 255], dtype=torch.float32, device=latent.device)
        result: Tensor = self._network.decoder(latent, level)
        return result


def as_parameter(tensor: NDArray[np.generic]) -> Tensor:
    """Convert a stored tensor to float32, and the weights of convolutions to channels-last order.

    CPUs compute convolutions fastest in that order.
    """
    values = torch.from_numpy(tensor).float()
    return values.contiguous(memory_format=torch.channels_last) if values.ndim == 4 else values
