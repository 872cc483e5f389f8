"""The autoencoder that ships in the wheel: a slim TAESD3 with latents at 1/16 of the size.

    pixels (B, 3, H, W)                                              pixels (B, 3, H, W)
       | unshuffle 2, two conv                                    conv, shuffle 2 ^
    1/2   64 x TrunkBlock                              64 x TrunkBlock (rate)  1/2
       | conv, stride 2                                  nearest neighbor, conv ^
    1/4   64 x TrunkBlock                              64 x TrunkBlock (rate)  1/4
       | conv, stride 2                                  nearest neighbor, conv ^
    1/8   64 x TrunkBlock --- conv, stride 2           64 x TrunkBlock (rate)  1/8
       | conv                      |                     conv ^      ^ conv 1x1
    1/8   z, 16 channels         1/16 192 x Block         z, 16 + conv of 128 x Block (rate), 1/8
       | unshuffle 2               |                          ^      ^ conv 1x1, shuffle 2
    1/16  conv 1x1      + <----- conv           conv 1x1, shuffle 2  192 x Block (rate), 1/16
       v                                                      |      ^ conv
    latent (B, 64, H/16, W/16)  -- quantized with steps of the rate -->  latent (B, 64, H/16, W/16)

The layers at the left are those of TAESD3 (O. Boer Bohan, MIT license) without its stages at full resolution, trained
further.  `z` is the latent of Stable Diffusion 3.  The convolutions 1x1 between `z` and the latent began as the
Karhunen-Loeve transform of 2 x 2 positions of `z`.

The encoder does not know the rate: one latent serves every quality, and `pillow_sdl.latent` quantizes it.  The decoder
is told the rate, so it knows how much noise the quantizer added.  Neither has normalization over space, so each output
depends on a bounded neighborhood (`Layout.encoder_margin`, `Layout.decoder_margin`).  Overlapping tiles are therefore
exact.

Sources: TAESD, https://github.com/madebyollin/taesd; blocks after He et al. 2016 (arXiv 1512.03385); sub-pixel
convolution after Shi et al. 2016 (arXiv 1609.05158).  This module imports torch, so import it only when a network is
needed.
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

FACTOR: Final = 16
"""Pixels per latent position, on each axis."""

RATE_FEATURES: Final = 32
"""Size of the vector that tells the decoder's blocks the rate."""


@dataclass(frozen=True)
class Layout:
    """Sizes of an autoencoder.  The defaults are those of the shipped weights.

    base: channels of `z`, the latent at 1/8.   channels: of the latent.   width: channels of the trunk blocks.
    coarse_width: channels of the blocks at 1/16.   fine_width: channels of the decoder's blocks at 1/8 beside the trunk.
    encoder, decoder: numbers of trunk blocks at 1/2, 1/4 and 1/8.  TAESD3 has three each.  Blocks whose removal hardly
        changed the result are removed.
    coarse: number of the encoder's blocks at 1/16.
    fine: numbers of the decoder's blocks at 1/16, and at 1/8 beside the trunk.
    """

    base: int = 16
    channels: int = 64
    width: int = 64
    coarse_width: int = 192
    fine_width: int = 128
    encoder: tuple[int, int, int] = (1, 2, 3)
    decoder: tuple[int, int, int] = (3, 2, 2)
    coarse: int = 3
    fine: tuple[int, int] = (2, 2)

    # Every 3x3 convolution reaches one cell of its size farther.  A trunk block has three, a block has two.

    @property
    def encoder_margin(self) -> int:
        """Latent positions that the encoder sees on each side of one position, rounded up."""
        at2, at4, at8 = self.encoder
        trunk = 2 * (2 + 3 * at2 + 1) + 4 * (3 * at4 + 1) + 8 * 3 * at8
        return math.ceil((trunk + 8 + 16 * (2 * self.coarse + 1)) / FACTOR)

    @property
    def decoder_margin(self) -> int:
        """Latent positions that the decoder sees on each side of one position, rounded up."""
        at2, at4, at8 = self.decoder
        at16, beside = self.fine
        trunk = 8 * (2 + 3 * at8) + 4 * (1 + 3 * at4) + 2 * (1 + 3 * at2 + 1)
        return math.ceil((16 * (1 + 2 * at16) + 8 * 2 * beside + trunk) / FACTOR)


class Modulation(nn.Linear):
    """Scales and shifts channels by what it makes of the rate."""

    def __init__(self, channels: int, features: int) -> None:
        """Make the layer.   features: size of the vector that is made of the rate."""
        super().__init__(features, 2 * channels)

    def apply_to(self, x: Tensor, features: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the same shape.   features: of the rate, (B, features)."""
        scale, shift = self(features)[:, :, None, None].chunk(2, dim=1)
        result: Tensor = x * (1 + scale) + shift
        return result


class TrunkBlock(nn.Module):
    """TAESD's residual block of three 3x3 convolutions.

    With `features`, a vector of that size, made of the rate, scales and shifts the output of the first convolution.
    """

    def __init__(self, channels: int, features: int = 0) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.modulate = Modulation(channels, features) if features else None

    def forward(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """Map x (B, C, H, W) to the same shape.   features: (B, features), for a block with `features`."""
        y = self.conv[0](x)
        if self.modulate is not None and features is not None:
            y = self.modulate.apply_to(y, features)
        result: Tensor = F.relu(x + self.conv[1:](y))
        return result


class Block(nn.Module):
    """A residual block of two 3x3 convolutions.

    With `features`, a vector of that size, made of the rate, scales and shifts the output of the first convolution.
    """

    def __init__(self, channels: int, features: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulate = Modulation(channels, features) if features else None

    def forward(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """Map x (B, C, H, W) to the same shape.   features: (B, features), for a block with `features`."""
        y = self.conv1(x)
        if self.modulate is not None and features is not None:
            y = self.modulate.apply_to(y, features)
        result: Tensor = x + self.conv2(F.leaky_relu(y, 0.1))
        return result


class Encoder(nn.Module):
    """The encoder, from pixels to a latent."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        at2, at4, at8 = layout.encoder
        width, coarse = layout.width, layout.coarse_width
        self.head = nn.Sequential(
            nn.Conv2d(12, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False)
        )
        self.at2 = nn.Sequential(*(TrunkBlock(width) for _ in range(at2)))
        self.down4 = nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)
        self.at4 = nn.Sequential(*(TrunkBlock(width) for _ in range(at4)))
        self.down8 = nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)
        self.at8 = nn.Sequential(*(TrunkBlock(width) for _ in range(at8)))
        self.tail = nn.Conv2d(width, layout.base, 3, padding=1)
        self.transform = nn.Conv2d(4 * layout.base, layout.channels, 1)
        self.coarse = nn.Sequential(
            nn.Conv2d(width, coarse, 3, stride=2, padding=1),
            *(Block(coarse) for _ in range(layout.coarse)),
            nn.Conv2d(coarse, layout.channels, 3, padding=1),
        )

    def trunk(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what TAESD3's layers make of pixels in 0..1, (B, 3, H, W).

        These are the features at 1/2 before the trunk blocks, the features at 1/8, and `z`.
        """
        first = self.head(F.pixel_unshuffle(pixels, 2))
        at8 = self.at8(self.down8(self.at4(self.down4(self.at2(first)))))
        return first, at8, self.tail(at8)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels in 0..1, (B, 3, H, W) with H and W multiples of 16, to a latent (B, C, H/16, W/16)."""
        _, at8, z = self.trunk(pixels)
        result: Tensor = self.transform(F.pixel_unshuffle(z, 2)) + self.coarse(at8)
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
        at2, at4, at8 = layout.decoder
        width, coarse, fine = layout.width, layout.coarse_width, layout.fine_width
        self.rate = rate_network()
        self.transform = nn.Conv2d(layout.channels, 4 * layout.base, 1)
        self.coarse = nn.ModuleList(
            [
                nn.Conv2d(layout.channels, coarse, 3, padding=1),
                *(Block(coarse, RATE_FEATURES) for _ in range(layout.fine[0])),
                nn.Conv2d(coarse, 4 * fine, 1),
                nn.PixelShuffle(2),
                *(Block(fine, RATE_FEATURES) for _ in range(layout.fine[1])),
            ]
        )
        self.mend = nn.Conv2d(fine, layout.base, 3, padding=1)
        self.inject = nn.Conv2d(fine, width, 1)
        self.head = nn.Conv2d(layout.base, width, 3, padding=1)
        self.at8 = nn.ModuleList(TrunkBlock(width, RATE_FEATURES) for _ in range(at8))
        self.up4 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.at4 = nn.ModuleList(TrunkBlock(width, RATE_FEATURES) for _ in range(at4))
        self.up2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.at2 = nn.ModuleList(TrunkBlock(width, RATE_FEATURES) for _ in range(at2))
        self.tail = nn.Conv2d(width, 12, 3, padding=1)

    def trunk(self, z: Tensor, features: Tensor | None = None, injected: Tensor | float = 0.0) -> Tensor:
        """Decode `z` (B, base, 2h, 2w) to pixels (B, 3, 16h, 16w), roughly in 0..1 and not clipped.

        features: of the rate, None to leave the modulation out.
        injected: what is added to the output of the first layer, (B, width, 2h, 2w).
        """
        x = F.relu(self.head(3 * torch.tanh(z / 3)) + injected)
        for blocks, up in ((self.at8, self.up4), (self.at4, self.up2), (self.at2, None)):
            for block in blocks:
                x = block(x, features)
            if up is not None:
                x = up(F.interpolate(x, scale_factor=2, mode="nearest"))
        return F.pixel_shuffle(self.tail(x), 2)

    def forward(self, latent: Tensor, rate: Tensor) -> Tensor:
        """Decode a latent (B, C, h, w) to pixels (B, 3, 16h, 16w), roughly in 0..1 and not clipped.

        rate: (B,), in 0..1.
        """
        features = self.rate(2 * rate[:, None] - 1)
        x = latent
        for layer in self.coarse:
            x = layer(x, features) if isinstance(layer, Block) else layer(x)
        z = F.pixel_shuffle(self.transform(latent), 2) + self.mend(x)
        return self.trunk(z, features, self.inject(x))


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

    channels = Layout().channels
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
