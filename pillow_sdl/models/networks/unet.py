"""Stable Diffusion's UNet as a denoiser of quantized latents, run through diffusers.

    dequantized latent                                   latent without noise
        | times sqrt(abar_t)                                     ^  computed from the prediction
        v                                                        |
    noisy latent of time t  --  UNet, prompt "", in tiles  --  noise or velocity

The time step t follows from the quantizer's error (`schedule`).  No noise is ever added, so the same file always
decodes to the same picture.  The embedding of the prompt is read from a file; the text encoder is not loaded.

This module imports torch and diffusers, so import it only when a network is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import diffusers
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ... import progress
from ...errors import ModelError, ModelMismatchError, first_line
from .. import schedule
from ..local import PROMPT_TENSOR, WEIGHT_FILES, weights_file
from .autoencoders import quiet
from .pytorch import map_latent, on_device

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ...latent.noise import Noise
    from ...registry import Space
    from ..local import DenoiserFiles
    from ..schedule import Schedule

CORE: Final = 96
MARGIN: Final = 16
"""Latent positions along each side of a tile's core, and around it: at most 128 x 128 at once, 4 GB of memory."""

HALVINGS: Final = 8
"""The sides of the UNet's input must be multiples of this number, because it halves them three times."""

BUEHLMANN_STEPS: Final = 66
BUEHLMANN_STRENGTH: Final = 0.04
"""Settings of `BuehlmannDenoiser`."""


class UNet:
    """The network on a device.  Takes and returns arrays.   schedule: the noise schedule of its training."""

    def __init__(
        self, name: str, files: DenoiserFiles, space: Space, schedule: Schedule, device: str, dtype: str
    ) -> None:
        """Load the network and the embedding of the prompt.

        name: name of its model.   files: where its parts are.   device, dtype: see `settings.Settings`.
        Raises ModelMismatchError if the files are not a UNet of the latent space or do not fit together, and
        ValueError if the device is not available.
        """
        self.name = name
        self.schedule = schedule
        self._channels = space.channels
        self._dtype: torch.dtype = getattr(torch, dtype)
        network = _read(files.unet)
        config = network.config
        prompt = _read_prompt(files.prompt)
        wanted = (space.channels, space.channels, None, (1, prompt.shape[1], config.cross_attention_dim))
        found = (config.in_channels, config.out_channels, config.addition_embed_type, tuple(prompt.shape))
        if found != wanted:
            msg = (
                f"{files.unet} with {files.prompt} cannot denoise latents of {space.name}: input channels, output "
                f"channels, additional embedding and shape of the prompt are {found}, not {wanted}"
            )
            raise ModelMismatchError(msg, expected=str(wanted), found=str(found))
        network.requires_grad_(requires_grad=False)
        with quiet():
            network = network.eval().to(self._dtype).to(memory_format=torch.channels_last)
            self._network, self._device = on_device(network, device)
        self._prompt = prompt.to(self._device, self._dtype)

    def predict(self, noisy: NDArray[np.float32], time: int) -> NDArray[np.float32]:
        """Return what the network predicts for a noisy latent, both float32 (C, h, w).

        Computes in tiles that bound its memory, and blends them.
        Raises ModelError if a predicted value is not finite.
        """

        def compute(piece: torch.Tensor) -> torch.Tensor:
            predicted: torch.Tensor = self._network(
                piece.to(self._dtype), time, encoder_hidden_states=self._prompt, return_dict=False
            )[0]
            return predicted

        layout = MARGIN, CORE, HALVINGS
        found = map_latent(compute, noisy, self._device, layout, exact=False)
        if not np.isfinite(found).all():
            msg = f"the UNet of {self.name} returned values that are not finite in {self._dtype}; try dtype float32"
            raise ModelError(msg)
        return found


class UNetDenoiser:
    """Starts the UNet at the time step whose noise level is that of the quantizer.  Implements `base.Denoiser`."""

    def __init__(self, unet: UNet) -> None:
        self.name = f"{unet.name} UNet"
        self._unet = unet

    def denoise(self, latent: NDArray[np.float32], noise: Noise, steps: int) -> NDArray[np.float32]:
        """Return a latent float32 (C, h, w) without the quantizer's error, in the same shape.

        steps: number of calls of the UNet, at least 1.

        Each step estimates the latent without noise.  All steps but the last then add back a smaller amount of the same
        noise.  A latent with less noise than time step 0 is returned unchanged.
        """
        plan = self._unet.schedule
        first = plan.step_of(noise.deviation)
        if first is None:
            return latent
        todo = schedule.times(first, steps)
        noisy = (np.sqrt(plan.abar[first]) * latent).astype(np.float32)
        original = latent
        for done, time in enumerate(todo):
            with progress.part(done / len(todo), (done + 1) / len(todo)):
                predicted = self._unet.predict(noisy, time)
            original = plan.original(noisy, predicted, time)
            if done + 1 < len(todo):
                noisy = plan.renoised(noisy, original, time, todo[done + 1])
        return original


class BuehlmannDenoiser:
    """The settings of M. Buehlmann's experiment of 2022, for comparison.  Implements `base.Denoiser`.

    They do not depend on the noise.  PNDM runs with 66 steps at strength 0.04, so three calls remain, at the time steps
    30, 15 and 0.  The latent is used as it is, without added noise and without scaling.
    """

    def __init__(self, unet: UNet) -> None:
        self.name = f"{unet.name} UNet, setting of 2022"
        self._unet = unet

    def denoise(self, latent: NDArray[np.float32], noise: Noise, steps: int) -> NDArray[np.float32]:
        """Return a latent float32 (C, h, w) with less of the quantizer's error, in the same shape.

        The number of steps is fixed, so `noise` and `steps` are ignored.
        """
        plan = self._unet.schedule
        kind: Any = diffusers.PNDMScheduler
        with quiet():
            scheduler = kind(**schedule.STABLE_DIFFUSION, skip_prk_steps=True, prediction_type=plan.prediction)
            scheduler.set_timesteps(BUEHLMANN_STEPS)
        todo = scheduler.timesteps[BUEHLMANN_STEPS - int(BUEHLMANN_STEPS * BUEHLMANN_STRENGTH) :].tolist()
        sample = torch.from_numpy(latent)
        for done, time in enumerate(todo):
            with progress.part(done / len(todo), (done + 1) / len(todo)):
                predicted = self._unet.predict(sample.numpy(), time)
            sample = scheduler.step(torch.from_numpy(predicted), time, sample).prev_sample
        result: NDArray[np.float32] = sample.numpy()
        return result


def _read(folder: Path) -> Any:
    """Read the network from a folder in diffusers' layout, in the dtype of its weights.

    Raises ModelMismatchError if the folder does not contain a UNet2DConditionModel.
    """
    path = weights_file(folder) or folder / WEIGHT_FILES[0]
    try:
        kind: Any = diffusers.UNet2DConditionModel  # Its type stubs are incomplete.
        with quiet(), torch.device("meta"):  # Do not allocate initial values: the weights take 3.4 GB.
            network = kind.from_config(kind.load_config(folder, local_files_only=True))
        network.load_state_dict(load_file(path), assign=True)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as exc:
        msg = f"cannot read UNet2DConditionModel from {folder}: {first_line(exc)}"
        raise ModelMismatchError(msg, expected="UNet2DConditionModel") from exc
    return network


def _read_prompt(path: Path) -> torch.Tensor:
    """Read the embedding of the empty prompt, (1, tokens, D).

    Raises ModelMismatchError if the file cannot be read or does not contain the embedding.
    """
    try:
        return load_file(path)[PROMPT_TENSOR]
    except (OSError, KeyError, SafetensorError) as exc:
        msg = f"cannot read the tensor {PROMPT_TENSOR} from {path}: {exc}"
        raise ModelMismatchError(msg, expected=PROMPT_TENSOR) from exc
