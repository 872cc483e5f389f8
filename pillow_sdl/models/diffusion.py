"""Autoencoders of the Stable Diffusion family, through diffusers.

Latents are in the UNet's scale: what the encoder gives, less the model's shift, times its scale.  Encoding takes the
mean of the encoder's distribution, no sample, in float32.

Imports torch and diffusers at its top: only `models.store` imports this module.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import diffusers
import torch
from torch import Tensor

from ..errors import ModelMismatchError
from .tiled import TiledModel, on_device

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ..latent.spaces import LatentSpace


@contextmanager
def quiet() -> Iterator[None]:
    """Without diffusers' advice about configurations, which no user of this package can follow."""
    level = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers.utils.logging.set_verbosity(level)


class _DiffusersModel(TiledModel):
    """An autoencoder in diffusers' layout.   architecture: name of its class there."""

    architecture: str

    def __init__(self, folder: Path, space: LatentSpace, device: str, dtype: str, model_hash: str) -> None:
        """folder: with config.json and weights.   dtype: what decoding computes in.

        Raises ModelMismatchError if the folder does not hold an autoencoder of the latent space.
        """
        self.channels, self.factor = space.channels, space.factor
        variant = None if (folder / "diffusion_pytorch_model.safetensors").exists() else "fp16"
        with quiet():
            try:
                network: Any = getattr(diffusers, self.architecture).from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, variant=variant, torch_dtype=torch.float32
                )
            except (OSError, ValueError, RuntimeError, KeyError) as exc:
                msg = f"{folder} holds no {self.architecture} that can be read: {str(exc).splitlines()[0]}"
                raise ModelMismatchError(msg, expected=self.architecture) from exc
        if network.config.latent_channels != space.channels:
            msg = (
                f"{folder} has latents of {network.config.latent_channels} channels; {space.name} has {space.channels}"
            )
            raise ModelMismatchError(msg, expected=str(space.channels), found=str(network.config.latent_channels))
        network.requires_grad_(requires_grad=False)
        network = network.eval().to(memory_format=torch.channels_last)
        self._network, found = on_device(network, device)
        self._dtype: torch.dtype = getattr(torch, dtype)  # one of settings.DTYPES
        for part in ("decoder", "post_quant_conv"):
            if getattr(self._network, part, None) is not None:
                getattr(self._network, part).to(self._dtype)
        self._shift = float(network.config.shift_factor or 0)
        self._scale = float(network.config.scaling_factor)
        super().__init__(found, model_hash)

    def _latent(self, pixels: Tensor) -> Tensor:
        """Pixels in -1..1 -> latent as the network has it."""
        raise NotImplementedError

    def _encode(self, pixels: Tensor) -> Tensor:
        batch = (2 * pixels - 1).contiguous(memory_format=torch.channels_last)
        return (self._latent(batch) - self._shift) * self._scale

    def _decode(self, latent: Tensor, rate: int) -> Tensor:
        found: Tensor = self._network.decode((latent / self._scale + self._shift).to(self._dtype)).sample
        return found.float() / 2 + 0.5


class TinyModel(_DiffusersModel):
    """TAESD and its like: convolutions only, so that tiles are exact."""

    architecture = "AutoencoderTiny"
    encoder_margin = 20
    decoder_margin = 20

    def _latent(self, pixels: Tensor) -> Tensor:
        result: Tensor = self._network.encode(pixels).latents
        return result


class KLModel(_DiffusersModel):
    """Stable Diffusion's own autoencoder.

    Its group normalisation and attention see the whole picture, so tiles are computed of what they see, and blended.
    """

    architecture = "AutoencoderKL"
    encoder_margin = 12
    decoder_margin = 12
    core = 48
    exact = False

    def _latent(self, pixels: Tensor) -> Tensor:
        result: Tensor = self._network.encode(pixels).latent_dist.mode()
        return result


ARCHITECTURES: Final[dict[str, type[_DiffusersModel]]] = {model.architecture: model for model in (TinyModel, KLModel)}
