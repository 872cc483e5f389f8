"""Noise schedules of diffusion models: which time step has the noise level of a quantizer's error.

A diffusion model is trained to remove the noise of each of its time steps t from latents scaled by sqrt(abar_t), with
noise of variance 1 - abar_t added.  A quantizer's error of variance s^2 is the noise of the time step for which
(1 - abar_t) / abar_t = s^2.  A file does not store the time step, because it follows from the quantizer.

Source: Ho et al. 2020 (arXiv 2006.11239).  Needs NumPy only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..errors import ModelMismatchError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

EPSILON: Final = "epsilon"
VELOCITY: Final = "v_prediction"
PREDICTIONS: Final = (EPSILON, VELOCITY)
"""What a network predicts for a noisy latent: its noise, or the velocity of Salimans and Ho (arXiv 2202.00512)."""

STABLE_DIFFUSION: Final[dict[str, Any]] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
"""The schedule that Stable Diffusion 1, 2 and XL were trained with, as in diffusers' scheduler configurations."""


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """The noise schedule that a diffusion model was trained with.

    abar: float64 (T,), decreasing, the latent's share of the variance at each time step.
    prediction: what the network predicts, one of `PREDICTIONS`.
    """

    abar: NDArray[np.float64]
    prediction: str

    @property
    def deviations(self) -> NDArray[np.float64]:
        """Standard deviation of the noise at each time step, in latent units: float64 (T,), increasing."""
        found: NDArray[np.float64] = np.sqrt((1 - self.abar) / self.abar)
        return found

    def step_of(self, deviation: float) -> int | None:
        """Return the time step whose noise is closest to a standard deviation in latent units.

        Returns None for a deviation below that of time step 0.
        """
        deviations = self.deviations
        if deviation < deviations[0]:
            return None
        return int(np.abs(deviations - deviation).argmin())

    def original(self, noisy: NDArray[np.float32], predicted: NDArray[np.float32], time: int) -> NDArray[np.float32]:
        """Return the latent without noise, given a noisy latent and what the network predicts for it.

        noisy: scaled by sqrt(abar) of the time step.
        """
        signal, noise = np.sqrt(self.abar[time]), np.sqrt(1 - self.abar[time])
        if self.prediction == VELOCITY:
            found = signal * noisy - noise * predicted
        else:
            found = (noisy - noise * predicted) / signal
        result: NDArray[np.float32] = found.astype(np.float32)
        return result

    def renoised(
        self, noisy: NDArray[np.float32], original: NDArray[np.float32], time: int, later: int
    ) -> NDArray[np.float32]:
        """Return the noisy latent of time step `later`, with the same noise as at time step `time`.

        later: the time step of the next call, which has less noise.
        Source: Song et al. 2021 (arXiv 2010.02502).
        """
        noise = (noisy - np.sqrt(self.abar[time]) * original) / np.sqrt(1 - self.abar[time])
        found: NDArray[np.float32] = np.sqrt(self.abar[later]) * original + np.sqrt(1 - self.abar[later]) * noise
        return found.astype(np.float32)


def times(first: int, steps: int) -> list[int]:
    """Return `steps` time steps, equally spaced from `first` down to 0, without 0 itself.

    The result is shorter if rounding makes some of them equal.
    """
    found = (round(first * (steps - step) / steps) for step in range(steps))
    return list(dict.fromkeys(found))


def of_config(config: dict[str, Any], prediction: str) -> Schedule:
    """Return the schedule of a scheduler configuration in diffusers' form.

    config: entries that are missing have the values of Stable Diffusion.
    prediction: what the network predicts if the configuration does not say.
    Raises ModelMismatchError for a schedule that this package cannot use.
    """
    found = STABLE_DIFFUSION | {"prediction_type": prediction} | config
    known = (
        found["beta_schedule"] in {"scaled_linear", "linear"}
        and found["prediction_type"] in PREDICTIONS
        and not found.get("trained_betas")
        and not found.get("rescale_betas_zero_snr")
    )
    if not known:
        msg = (
            f"cannot use the noise schedule {found['beta_schedule']!r} with prediction {found['prediction_type']!r}: "
            "the schedule must be scaled_linear or linear, its betas neither trained nor rescaled, and the prediction "
            "epsilon or v_prediction"
        )
        raise ModelMismatchError(msg)
    power = 0.5 if found["beta_schedule"] == "scaled_linear" else 1
    count = int(found["num_train_timesteps"])
    begin, end = float(found["beta_start"]), float(found["beta_end"])
    betas = np.linspace(begin**power, end**power, count, dtype=np.float64) ** (1 / power)
    abar: NDArray[np.float64] = np.cumprod(1 - betas, dtype=np.float64)
    return Schedule(abar, found["prediction_type"])


def read(path: Path, prediction: str) -> Schedule:
    """Read the schedule from a scheduler configuration file.  Returns that of Stable Diffusion if there is no file.

    prediction: what the network predicts if the file does not say.
    Raises ModelMismatchError for a file that cannot be used.
    """
    try:
        config = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return of_config(config, prediction)
    except ModelMismatchError as exc:
        msg = f"{path}: {exc}"
        raise ModelMismatchError(msg) from exc
    except (OSError, ValueError, TypeError, KeyError) as exc:
        msg = f"cannot read the scheduler configuration {path}: {exc}"
        raise ModelMismatchError(msg) from exc


LEAST: Final = float(of_config({}, EPSILON).deviations[0])
"""Smallest noise that a denoiser is trained on, in latent units: the noise of Stable Diffusion's time step 0."""
