"""Autoencoders of the Stable Diffusion family, run through diffusers.

Latents are in the UNet's scale: (output of the encoder - shift) * scale, with the shift and scale of the model.
Encoding takes the mean of the encoder's distribution, not a sample, and computes in float32.

This module imports torch and diffusers, so import it only when a network is needed.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import diffusers
import torch
from torch import Tensor

from ...errors import ModelMismatchError, first_line
from .pytorch import TorchAutoencoder, on_device

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ...registry import Space


@contextmanager
def quiet() -> Iterator[None]:
    """Silence diffusers' advice about configurations, which users of this package cannot act on."""
    level = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers.utils.logging.set_verbosity(level)


class _DiffusersModel(TorchAutoencoder):
    """An autoencoder in diffusers' layout.   architecture: name of its class in diffusers."""

    architecture: str

    def __init__(self, folder: Path, space: Space, device: str, dtype: str, model_hash: str) -> None:
        """Load the network.

        folder: contains config.json and the weights.
        device: see `settings.Settings`.
        dtype: type in which decoding computes, one of `settings.DTYPES`.
        model_hash: hash of the decoder (SPEC 7.2), hexadecimal.

        Raises ModelMismatchError if the folder does not contain an autoencoder of the latent space, and ValueError if
        the device is not available.
        """
        self.channels, self.factor = space.channels, space.factor
        variant = None if (folder / "diffusion_pytorch_model.safetensors").exists() else "fp16"
        with quiet():
            try:
                kind: Any = getattr(diffusers, self.architecture)
                network, report = kind.from_pretrained(
                    folder,
                    local_files_only=True,
                    use_safetensors=True,
                    variant=variant,
                    torch_dtype=torch.float32,
                    output_loading_info=True,
                )
            except (OSError, ValueError, RuntimeError, KeyError) as exc:
                msg = f"cannot read {self.architecture} from {folder}: {first_line(exc)}"
                raise ModelMismatchError(msg, expected=self.architecture) from exc
        if report["missing_keys"]:  # Diffusers fills them with random numbers.
            msg = f"cannot read {self.architecture} from {folder}: there is no tensor {min(report['missing_keys'])}"
            raise ModelMismatchError(msg, expected=self.architecture)
        if network.config.latent_channels != space.channels:
            msg = (
                f"the latents of {folder} have {network.config.latent_channels} channels, "
                f"those of {space.name} have {space.channels}"
            )
            raise ModelMismatchError(msg, expected=str(space.channels), found=str(network.config.latent_channels))
        network.requires_grad_(requires_grad=False)
        network = network.eval().to(memory_format=torch.channels_last)
        self._network, found = on_device(network, device)
        self._dtype: torch.dtype = getattr(torch, dtype)
        for part in ("decoder", "post_quant_conv"):
            if getattr(self._network, part, None) is not None:
                getattr(self._network, part).to(self._dtype)
        self._shift = float(network.config.shift_factor or 0)
        self._scale = float(network.config.scaling_factor)
        super().__init__(found, model_hash)

    def _latent(self, pixels: Tensor) -> Tensor:
        """Encode pixels in -1..1, float32 (1, 3, H, W), to the latent in the network's own scale."""
        raise NotImplementedError

    def _encode(self, pixels: Tensor) -> Tensor:
        batch = (2 * pixels - 1).contiguous(memory_format=torch.channels_last)
        return (self._latent(batch) - self._shift) * self._scale

    def _decode(self, latent: Tensor, rate: int | None) -> Tensor:
        found: Tensor = self._network.decode((latent / self._scale + self._shift).to(self._dtype)).sample
        return found.float() / 2 + 0.5


class TinyModel(_DiffusersModel):
    """TAESD and related models.  They consist of convolutions only, so tiles are exact."""

    architecture = "AutoencoderTiny"
    encoder_margin = 20
    decoder_margin = 20

    def _latent(self, pixels: Tensor) -> Tensor:
        result: Tensor = self._network.encode(pixels).latents
        return result


class KLModel(_DiffusersModel):
    """Stable Diffusion's own autoencoder.

    Its group normalization and attention depend on the whole input, so a tile differs from the same part of the whole
    picture, and tiles are blended.
    """

    architecture = "AutoencoderKL"
    encoder_margin = 12
    decoder_margin = 12
    core = 48
    exact = False

    def _latent(self, pixels: Tensor) -> Tensor:
        result: Tensor = self._network.encode(pixels).latent_dist.mode()
        return result


NETWORKS: Final[dict[str, type[_DiffusersModel]]] = {model.architecture: model for model in (TinyModel, KLModel)}
"""The classes by the names in `registry.Model.network`."""
