"""The network that is trained: a tiny autoencoder without its full-resolution stages, and a transform at 1/16.

    pixels (B, 3, H, W)                                            pixels (B, 3, H, W)
       | unshuffle 2, two conv                               conv, shuffle 2 ^
    1/2   64 x trunk block                                64 x trunk block   1/2
       | conv, stride 2                                nearest, conv         ^
    1/4   64 x trunk block                                64 x trunk block   1/4
       | conv, stride 2                                nearest, conv         ^
    1/8   64 x trunk block --- conv, stride 2             64 x trunk block   1/8
       | conv                     |                   conv   ^     ^ conv
    1/8   z, 16 channels        1/16  192 x block        z, 16     128 x block, 1/8
       | unshuffle 2              |                          ^     ^ shuffle 2
    1/16  64 x 64 matrix  + <--- conv             64 x 64 matrix  192 x block, 1/16
       v                                                     |     |
    latent (B, 64, H/16, W/16)  -- quantized with steps of the rate -->  latent

The trunk starts from the weights of TAESD3 (O. Boer Bohan, MIT licence).  The matrix starts as the Karhunen-Loeve
transform of 2 x 2 positions of TAESD3's latent.  The blocks at 1/16, and the decoder's blocks at 1/8 beside the trunk,
change nothing at first.  The decoder's blocks are told the rate.

Sources: TAESD, https://github.com/madebyollin/taesd; blocks after He et al. 2016 (arXiv 1512.03385); sub-pixel
convolution after Shi et al. 2016 (arXiv 1609.05158).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FACTOR: Final = 16
"""Pixels for each latent position, on each axis."""

TRUNK: Final = 64
"""Channels of the tiny autoencoder's layers."""

COARSE: Final = 192
"""Channels of the blocks at 1/16."""

FINE: Final = 128
"""Channels of the decoder's blocks at 1/8 beside the trunk."""

RATE_FEATURES: Final = 32
"""Size of the vector that tells the decoder's blocks the rate."""


@dataclass(frozen=True)
class Layout:
    """Sizes of the networks.

    base: channels of the tiny autoencoder's latent at 1/8.
    encoder, decoder: numbers of trunk blocks at 1/2, 1/4 and 1/8.
    coarse: number of the encoder's blocks at 1/16.
    fine: numbers of the decoder's blocks at 1/16, and at 1/8 beside the trunk.
    """

    base: int = 16
    encoder: tuple[int, int, int] = (3, 3, 3)
    decoder: tuple[int, int, int] = (3, 3, 3)
    coarse: int = 3
    fine: tuple[int, int] = (2, 2)

    @property
    def channels(self) -> int:
        """Channels of the quantized latent."""
        return 4 * self.base

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name, for a checkpoint."""
        return asdict(self)


class Modulation(nn.Linear):
    """Scales and shifts channels by what it makes of the rate.  It changes nothing until it is trained."""

    def __init__(self, channels: int) -> None:
        super().__init__(RATE_FEATURES, 2 * channels)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def apply_to(self, x: Tensor, features: Tensor) -> Tensor:
        """Map x (B, C, H, W) to the same shape.   features: of the rate, (B, RATE_FEATURES)."""
        scale, shift = self(features)[:, :, None, None].chunk(2, dim=1)
        result: Tensor = x * (1 + scale) + shift
        return result


class TrunkBlock(nn.Module):
    """TAESD's residual block of three 3x3 convolutions.

    modulated: whether the rate scales and shifts the output of the first convolution.
    """

    def __init__(self, channels: int, *, modulated: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )
        self.modulate = Modulation(channels) if modulated else None

    def forward(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """Map x (B, C, H, W) to the same shape.   features: of the rate, None to leave the modulation out."""
        y = self.conv[0](x)
        if self.modulate is not None and features is not None:
            y = self.modulate.apply_to(y, features)
        result: Tensor = F.relu(x + self.conv[1:](y))
        return result


class Block(nn.Module):
    """A residual block of two 3x3 convolutions.  It changes nothing until it is trained.

    modulated: whether the rate scales and shifts the output of the first convolution.

    Source for the start at zero: Goyal et al. 2017, arXiv 1706.02677, section 5.1, without the normalisation.
    """

    def __init__(self, channels: int, *, modulated: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = with_zeros(nn.Conv2d(channels, channels, 3, padding=1))
        self.modulate = Modulation(channels) if modulated else None

    def forward(self, x: Tensor, features: Tensor | None = None) -> Tensor:
        """Map x (B, C, H, W) to the same shape.   features: of the rate, None to leave the modulation out."""
        y = self.conv1(x)
        if self.modulate is not None and features is not None:
            y = self.modulate.apply_to(y, features)
        result: Tensor = x + self.conv2(F.leaky_relu(y, 0.1))
        return result


def with_zeros(layer: nn.Conv2d) -> nn.Conv2d:
    """Set the weights of a layer to zero, and return it."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Encoder(nn.Module):
    """The encoder, from pixels to a latent."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        at2, at4, at8 = layout.encoder
        self.head = nn.Sequential(
            nn.Conv2d(12, TRUNK, 3, padding=1), nn.ReLU(), nn.Conv2d(TRUNK, TRUNK, 3, padding=1, bias=False)
        )
        self.at2 = nn.Sequential(*(TrunkBlock(TRUNK) for _ in range(at2)))
        self.down4 = nn.Conv2d(TRUNK, TRUNK, 3, stride=2, padding=1, bias=False)
        self.at4 = nn.Sequential(*(TrunkBlock(TRUNK) for _ in range(at4)))
        self.down8 = nn.Conv2d(TRUNK, TRUNK, 3, stride=2, padding=1, bias=False)
        self.at8 = nn.Sequential(*(TrunkBlock(TRUNK) for _ in range(at8)))
        self.tail = nn.Conv2d(TRUNK, layout.base, 3, padding=1)
        self.transform = nn.Conv2d(4 * layout.base, layout.channels, 1)
        self.coarse = nn.Sequential(
            nn.Conv2d(TRUNK, COARSE, 3, stride=2, padding=1),
            *(Block(COARSE) for _ in range(layout.coarse)),
            with_zeros(nn.Conv2d(COARSE, layout.channels, 3, padding=1)),
        )

    def trunk(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the trunk makes of pixels in 0..1, (B, 3, H, W).

        These are the features at 1/2 before its blocks, the features at 1/8, and the tiny autoencoder's latent at 1/8.
        """
        first = self.head(F.pixel_unshuffle(pixels, 2))
        at8 = self.at8(self.down8(self.at4(self.down4(self.at2(first)))))
        return first, at8, self.tail(at8)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels in 0..1, (B, 3, H, W) with H and W multiples of 16, to a latent (B, channels, H/16, W/16)."""
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
        self.rate = rate_network()
        self.transform = nn.Conv2d(layout.channels, 4 * layout.base, 1)
        self.coarse = nn.ModuleList(
            [
                nn.Conv2d(layout.channels, COARSE, 3, padding=1),
                *(Block(COARSE, modulated=True) for _ in range(layout.fine[0])),
                nn.Conv2d(COARSE, 4 * FINE, 1),
                nn.PixelShuffle(2),
                *(Block(FINE, modulated=True) for _ in range(layout.fine[1])),
            ]
        )
        self.mend = with_zeros(nn.Conv2d(FINE, layout.base, 3, padding=1))
        self.inject = with_zeros(nn.Conv2d(FINE, TRUNK, 1))
        self.head = nn.Conv2d(layout.base, TRUNK, 3, padding=1)
        self.at8 = nn.ModuleList(TrunkBlock(TRUNK, modulated=True) for _ in range(at8))
        self.up4 = nn.Conv2d(TRUNK, TRUNK, 3, padding=1, bias=False)
        self.at4 = nn.ModuleList(TrunkBlock(TRUNK, modulated=True) for _ in range(at4))
        self.up2 = nn.Conv2d(TRUNK, TRUNK, 3, padding=1, bias=False)
        self.at2 = nn.ModuleList(TrunkBlock(TRUNK, modulated=True) for _ in range(at2))
        self.tail = nn.Conv2d(TRUNK, 12, 3, padding=1)

    def trunk(self, z: Tensor, features: Tensor | None = None, injected: Tensor | float = 0.0) -> Tensor:
        """Decode the tiny autoencoder's latent (B, base, 2h, 2w) to pixels (B, 3, 16h, 16w), about 0..1, not clipped.

        features: of the rate, None to leave the modulation out.
        injected: what is added to the output of the first layer, (B, TRUNK, 2h, 2w).
        """
        x = F.relu(self.head(3 * torch.tanh(z / 3)) + injected)
        for blocks, up in ((self.at8, self.up4), (self.at4, self.up2), (self.at2, None)):
            for block in blocks:
                x = block(x, features)
            if up is not None:
                x = up(F.interpolate(x, scale_factor=2, mode="nearest"))
        return F.pixel_shuffle(self.tail(x), 2)

    def forward(self, latent: Tensor, rate: Tensor) -> Tensor:
        """Decode a latent (B, channels, h, w) to pixels (B, 3, 16h, 16w), about 0..1, not clipped.

        rate: (B,), in 0..1.
        """
        features = self.rate(2 * rate[:, None] - 1)
        x = latent
        for layer in self.coarse:
            x = layer(x, features) if isinstance(layer, Block) else layer(x)
        z = F.pixel_shuffle(self.transform(latent), 2) + self.mend(x)
        return self.trunk(z, features, self.inject(x))


class Autoencoder(nn.Module):
    """Encoder and decoder together, as they are trained and stored.   layout: the default `Layout()` if None."""

    def __init__(self, layout: Layout | None = None) -> None:
        super().__init__()
        self.layout = layout or Layout()
        self.encoder = Encoder(self.layout)
        self.decoder = Decoder(self.layout)
