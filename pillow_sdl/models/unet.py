"""Stable Diffusion's UNet as a denoiser of quantised latents, through diffusers.

    latent as dequantised                            latent under the quantiser's noise
        | times sqrt(abar_t)                                     ^  from what the UNet said
        v                                                        |
    noisy latent of time t  --  UNet, prompt "", in tiles  --  noise or velocity

The time follows from the quantiser's step (`schedule`).  No noise is ever added, so the same file decodes to the same
picture.  The prompt's embedding is read from a file: the text encoder is not loaded.

Imports torch and diffusers at its top: only `models.store` imports this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import diffusers
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..errors import ModelError, ModelMismatchError
from . import schedule
from .diffusion import quiet
from .search import PROMPT_TENSOR, WEIGHTS, weights_file
from .tiled import map_latent, on_device

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ..latent.noise import Noise
    from ..latent.spaces import LatentSpace
    from .schedule import Schedule
    from .search import DenoiserFiles
    from .store import Progress

CORE: Final = 96
MARGIN: Final = 16
"""Latent positions along a side of a tile that are kept, and around them: at most 128 x 128 at once, 4 GB of memory."""

HALVINGS: Final = 8
"""Sides of what the UNet is given are multiples of this: it halves them three times."""

BUEHLMANN_STEPS: Final = 66
BUEHLMANN_STRENGTH: Final = 0.04


class UNet:
    """The network on a device, from arrays to arrays.   schedule: what it was trained with."""

    def __init__(
        self, name: str, files: DenoiserFiles, space: LatentSpace, schedule: Schedule, device: str, dtype: str
    ) -> None:
        """name: of its model.   files: where its parts lie.   device, dtype: see `settings.Settings`.

        Raises ModelMismatchError if they are no UNet of the latent space or do not fit together.
        """
        self.name = name
        self.schedule = schedule
        self._channels = space.channels
        self._dtype: torch.dtype = getattr(torch, dtype)  # one of settings.DTYPES
        network = _read(files.unet)
        config = network.config
        prompt = _read_prompt(files.prompt)
        wanted = (space.channels, space.channels, None, (1, prompt.shape[1], config.cross_attention_dim))
        found = (config.in_channels, config.out_channels, config.addition_embed_type, tuple(prompt.shape))
        if found != wanted:
            msg = (
                f"{files.unet} with {files.prompt} cannot denoise latents of {space.name}: channels in and out, further "
                f"embeddings and the prompt's shape are {found}, not {wanted}"
            )
            raise ModelMismatchError(msg, expected=str(wanted), found=str(found))
        network.requires_grad_(requires_grad=False)
        with quiet():
            network = network.eval().to(self._dtype).to(memory_format=torch.channels_last)
            self._network, self._device = on_device(network, device)
        self._prompt = prompt.to(self._device, self._dtype)

    def predict(
        self, noisy: NDArray[np.float32], time: int, progress: Progress | None, done: int = 0, calls: int = 1
    ) -> NDArray[np.float32]:
        """What the network says of a noisy latent: both float32 (C, h, w).  In tiles of bounded memory, blended.

        done: calls before this one, and calls: those in all, for the progress.
        """

        def compute(piece: torch.Tensor) -> torch.Tensor:
            said: torch.Tensor = self._network(
                piece.to(self._dtype), time, encoder_hidden_states=self._prompt, return_dict=False
            )[0]
            return said

        def report(count: int, tiles: int) -> None:
            if progress:
                progress(done * tiles + count, calls * tiles)

        layout = MARGIN, CORE, HALVINGS
        found = map_latent(compute, noisy, self._device, layout, exact=False, progress=report)
        if not np.isfinite(found).all():
            msg = f"the UNet of {self.name} gave values that are not finite in {self._dtype}; float32 may help"
            raise ModelError(msg)
        return found


class UNetDenoiser:
    """Denoises from the time that the noise belongs to.  Implements `store.Denoiser`."""

    def __init__(self, unet: UNet) -> None:
        self.name = f"{unet.name} UNet"
        self._unet = unet

    def denoise(
        self, latent: NDArray[np.float32], noise: Noise, steps: int, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """See `store.Denoiser`.  Each step looks under the noise; all but the last go on with less of the same noise."""
        plan = self._unet.schedule
        first = plan.step_of(noise.deviation)
        if first is None:
            return latent
        todo = schedule.times(first, steps)
        noisy = (np.sqrt(plan.abar[first]) * latent).astype(np.float32)
        original = latent
        for done, time in enumerate(todo):
            said = self._unet.predict(noisy, time, progress, done, len(todo))
            original = plan.original(noisy, said, time)
            if done + 1 < len(todo):
                noisy = plan.renoised(noisy, original, time, todo[done + 1])
        return original


class BuehlmannDenoiser:
    """The setting of M. Buehlmann's experiment of 2022, whatever the noise: for comparison.  Implements `store.Denoiser`.

    66 steps of PNDM at strength .04, so that three calls at the times 30, 15 and 0 remain.  The latent is given as it
    is, without noise and not scaled.
    """

    def __init__(self, unet: UNet) -> None:
        self.name = f"{unet.name} UNet, setting of 2022"
        self._unet = unet

    def denoise(
        self, latent: NDArray[np.float32], noise: Noise, steps: int, progress: Progress | None = None
    ) -> NDArray[np.float32]:
        """See `store.Denoiser`; the number of steps is fixed."""
        plan = self._unet.schedule
        kind: Any = diffusers.PNDMScheduler
        with quiet():
            scheduler = kind(**schedule.STABLE_DIFFUSION, skip_prk_steps=True, prediction_type=plan.prediction)
            scheduler.set_timesteps(BUEHLMANN_STEPS)
        todo = scheduler.timesteps[BUEHLMANN_STEPS - int(BUEHLMANN_STEPS * BUEHLMANN_STRENGTH) :].tolist()
        sample = torch.from_numpy(latent)
        for done, time in enumerate(todo):
            said = self._unet.predict(sample.numpy(), time, progress, done, len(todo))
            sample = scheduler.step(torch.from_numpy(said), time, sample).prev_sample
        result: NDArray[np.float32] = sample.numpy()
        return result


def _read(folder: Path) -> Any:
    """The network of a folder in diffusers' layout, in the dtype of its weights.  Raises ModelMismatchError."""
    path = weights_file(folder) or folder / WEIGHTS[0]
    try:
        kind: Any = diffusers.UNet2DConditionModel  # its stubs lack half of it
        with quiet(), torch.device("meta"):  # No room for values that are not needed: the weights take 3.4 GB.
            network = kind.from_config(kind.load_config(folder, local_files_only=True))
        network.load_state_dict(load_file(path), assign=True)
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as exc:
        msg = f"{folder} holds no UNet2DConditionModel that can be read: {str(exc).splitlines()[0]}"
        raise ModelMismatchError(msg, expected="UNet2DConditionModel") from exc
    return network


def _read_prompt(path: Path) -> torch.Tensor:
    """The empty prompt's embedding, (1, tokens, D).  Raises ModelMismatchError."""
    try:
        return load_file(path)[PROMPT_TENSOR]
    except (OSError, KeyError, SafetensorError) as exc:
        msg = f"{path} holds no tensor {PROMPT_TENSOR}: {exc}"
        raise ModelMismatchError(msg, expected=PROMPT_TENSOR) from exc
