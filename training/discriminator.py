"""A patch discriminator that sees the latent, for an adversarial loss of the decoder.

Sources: Isola et al. 2017 (arXiv 1611.07004) for judging patches; Mentzer et al. 2020 (HiFiC, arXiv 2006.09965) for
the condition on the latent and the non-saturating loss; Miyato et al. 2018 (arXiv 1802.05957) for spectral
normalization.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from pillow_sdl.models.networks.embedded import FACTOR

CONDITION: Final = 12
"""Channels that the latent is reduced to before it is laid over the pixels."""

WIDTHS: Final = (48, 96, 192)
"""Channels at 1/2, 1/4 and 1/8 of the size."""

LEARNING_RATE: Final = 1e-4


class PatchDiscriminator(nn.Module):
    """Says of each patch of 8 x 8 pixels how much it looks like a patch of a photo.   channels: of the latent."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.condition = nn.Conv2d(channels, CONDITION, 3, padding=1)
        layers: list[nn.Module] = []
        before = 3 + CONDITION
        for width in WIDTHS:
            layers += [spectral_norm(nn.Conv2d(before, width, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
            before = width
        layers += [spectral_norm(nn.Conv2d(before, 256, 3, padding=1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(256, 1, 1))

    def forward(self, pixels: Tensor, latent: Tensor) -> Tensor:
        """Map pixels in 0..1 (B, 3, H, W) and their latent (B, C, H/16, W/16) to logits (B, 1, H/8, W/8)."""
        condition = F.interpolate(F.leaky_relu(self.condition(latent), 0.2), scale_factor=FACTOR)
        result: Tensor = self.layers(torch.cat([2 * pixels - 1, condition], 1))
        return result


class Adversary:
    """The discriminator with its optimizer.   channels: of the latent."""

    def __init__(self, channels: int, device: torch.device) -> None:
        network = PatchDiscriminator(channels)
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.network.parameters(), LEARNING_RATE, betas=(0.5, 0.99))

    def loss(self, output: Tensor, latent: Tensor) -> Tensor:
        """Return the loss of the decoder (B,): -log of the probability that its picture is a photo."""
        self.network.requires_grad_(requires_grad=False)
        logits = self.network(output, latent)
        self.network.requires_grad_(requires_grad=True)
        return F.softplus(-logits).mean((1, 2, 3))

    def learn(self, pixels: Tensor, output: Tensor, latent: Tensor) -> float:
        """Take one step on photos and on decoded pictures of the same latents.

        Returns the discriminator's loss, which is 2 ln 2 if it guesses.
        """
        count = len(pixels)
        logits = self.network(torch.cat([pixels, output.detach()]), torch.cat([latent, latent]).detach())
        loss = F.softplus(-logits[:count]).mean() + F.softplus(logits[count:]).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.item())

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state of a checkpoint."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
