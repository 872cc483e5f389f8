"""What is trained together: the autoencoder, the quantizer's steps, and the context model.  And how it is stored.

A codec comes from a start that `training.start` wrote, from the checkpoint of a run, or from the package.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from pillow_sdl import registry
from pillow_sdl.latent import spaces
from pillow_sdl.models import store
from pillow_sdl.models.networks.embedded import EmbeddedAutoencoder, Layout
from training.loop import CHECKPOINT
from training.rate import KNOTS, RateModel
from training.twin import UNIT, ContextModel

if TYPE_CHECKING:
    from pillow_sdl.models.base import Autoencoder as StoredAutoencoder

COARSEST, FINEST = 1.8, -2.6
"""log2 of the steps at rate 0 and rate 1 before any training, in units of the tiny autoencoder's latent."""

GROUPS: Final = {64: (4, 8, 12, 16, 24), 16: (4, 4, 8)}
"""Channels of each group of the context model, by the number of channels of the latent."""


def context_model(order: np.ndarray, deviation: np.ndarray) -> ContextModel:
    """Return the float twin of an embedded space's context model, untrained.

    order: channels in coding order, (C,).   deviation: standard deviation of each channel, (C,) (SPEC 8.6.3).
    """
    return ContextModel(order, list(GROUPS[len(order)]), deviation, [64, 32], window=1, reach=2)


class Codec(nn.Module):
    """All that is trained together.

    autoencoder: has an `encoder`, which takes pixels in 0..1 (B, 3, H, W), and a `decoder`, which takes a latent
    (B, C, h, w) and a rate (B,) in 0..1.   rate_model: the quantizer's steps and the price of its symbols.
    """

    def __init__(self, autoencoder: nn.Module, rate_model: RateModel) -> None:
        super().__init__()
        self.autoencoder: Any = autoencoder
        self.rate_model = rate_model


def started(path: Path) -> Codec:
    """Return the codec of a start that `training.start` wrote, with an untrained context model."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    autoencoder = EmbeddedAutoencoder(Layout(**state["layout"]))
    autoencoder.load_state_dict(state["network"])
    deviation = state["deviation"].numpy()
    log2_steps = torch.linspace(COARSEST, FINEST, KNOTS)[:, None].expand(KNOTS, len(deviation))
    return Codec(autoencoder, RateModel(log2_steps, context_model(np.arange(len(deviation)), deviation)))


def read_codec(run: Path, *, average: bool = True) -> tuple[Codec, dict[str, Any]]:
    """Return the codec of a run's checkpoint, and the checkpoint.

    average: whether the codec has the running mean of the weights, or the weights of the last step.
    """
    state = torch.load(run / CHECKPOINT, map_location="cpu", weights_only=True)
    layout = Layout(**state["layout"])
    deviation = UNIT / np.exp2(state["exponent"].numpy() / 256)
    context = context_model(state["order"].numpy(), deviation)
    codec = Codec(EmbeddedAutoencoder(layout), RateModel(torch.zeros(KNOTS, layout.channels), context))
    if average:
        prefix = "module."
        kept = {n.removeprefix(prefix): t for n, t in state["average"].items() if n.startswith(prefix)}
        codec.load_state_dict(kept)
    else:
        codec.load_state_dict(state["codec"])
    return codec.eval(), state


class ShippedAutoencoder(nn.Module):
    """The package's own network in the form that a codec has, for batches of one picture.  It has no gradients."""

    def __init__(self, network: StoredAutoencoder) -> None:
        super().__init__()
        self.network = network

    def encoder(self, pixels: Tensor) -> Tensor:
        """Encode pixels in 0..1, (1, 3, H, W), to a latent (1, C, h, w)."""
        shown = (255 * pixels[0]).round().byte().permute(1, 2, 0).cpu().numpy()
        return torch.from_numpy(self.network.encode(shown))[None]

    def decoder(self, latent: Tensor, rate: Tensor) -> Tensor:
        """Decode a latent (1, C, h, w) at a rate (1,) in 0..1 to pixels in 0..1, (1, 3, H, W)."""
        shown = self.network.decode(latent[0].cpu().numpy(), round(255 * rate.item()))
        return torch.from_numpy(shown).permute(2, 0, 1)[None].float() / 255


def shipped() -> Codec:
    """Return the codec that ships in the package, for comparisons."""
    return Codec(ShippedAutoencoder(store.load(registry.model(registry.EMBEDDED))), _shipped_rate_model()).eval()


def trainable() -> Codec:
    """Return the codec that ships in the package as networks that can be trained on."""
    model = registry.model(registry.EMBEDDED)
    assert model.weights is not None
    autoencoder = EmbeddedAutoencoder()
    weights = spaces.read_arrays(model.weights)
    autoencoder.load_state_dict({name: torch.from_numpy(array).float() for name, array in weights.items()})
    return Codec(autoencoder, _shipped_rate_model())


def _shipped_rate_model() -> RateModel:
    space = registry.space(registry.model(registry.EMBEDDED).space)
    return RateModel.from_tables(spaces.tables(space).log2_steps, spaces.read_arrays(space.context))
