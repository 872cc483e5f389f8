"""The diffusion time that a noise belongs to: tables of Ho et al. 2020 (arXiv 2006.11239), NumPy alone.

A diffusion model has learnt to see what lies under the noise of each of its times t, in latents scaled to
sqrt(abar_t) beside noise of variance 1 - abar_t.  A quantiser's error of variance s^2 is the noise of the time with
(1 - abar_t) / abar_t = s^2, so that the file need not store it.
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
"""What a network says of a noisy latent: its noise, or Salimans and Ho's velocity (arXiv 2202.00512)."""

STABLE_DIFFUSION: Final[dict[str, Any]] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
"""As in diffusers' configurations of schedulers: what Stable Diffusion 1, 2 and XL were trained with."""


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """abar: float64 (T,), falling, share of the latent's variance at each time.   prediction: one of `PREDICTIONS`."""

    abar: NDArray[np.float64]
    prediction: str

    @property
    def deviations(self) -> NDArray[np.float64]:
        """The noise of each time in units of the latent: float64 (T,), rising."""
        found: NDArray[np.float64] = np.sqrt((1 - self.abar) / self.abar)
        return found

    def step_of(self, deviation: float) -> int | None:
        """The time whose noise is nearest to a deviation in units of the latent; None below that of time 0."""
        deviations = self.deviations
        if deviation < deviations[0]:
            return None
        return int(np.abs(deviations - deviation).argmin())

    def original(self, noisy: NDArray[np.float32], said: NDArray[np.float32], time: int) -> NDArray[np.float32]:
        """The latent under a noisy one, which is scaled as for its time, by what the network said of it."""
        signal, noise = np.sqrt(self.abar[time]), np.sqrt(1 - self.abar[time])
        found = signal * noisy - noise * said if self.prediction == VELOCITY else (noisy - noise * said) / signal
        result: NDArray[np.float32] = found.astype(np.float32)
        return result

    def renoised(
        self, noisy: NDArray[np.float32], original: NDArray[np.float32], time: int, later: int
    ) -> NDArray[np.float32]:
        """The noisy latent of a time with the same noise, as it is at another: Song et al. 2021 (arXiv 2010.02502)."""
        noise = (noisy - np.sqrt(self.abar[time]) * original) / np.sqrt(1 - self.abar[time])
        found: NDArray[np.float32] = np.sqrt(self.abar[later]) * original + np.sqrt(1 - self.abar[later]) * noise
        return found.astype(np.float32)


def times(first: int, steps: int) -> list[int]:
    """Times of so many steps, equally spaced from the first down to 0, which itself is not one; fewer if they meet."""
    found = (round(first * (steps - step) / steps) for step in range(steps))
    return list(dict.fromkeys(found))


def of_config(config: dict[str, Any], prediction: str) -> Schedule:
    """The schedule of a scheduler's configuration in diffusers' form.

    What it does not name is Stable Diffusion's; prediction: where it names none.
    Raises ModelMismatchError for one of another kind.
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
            f"a schedule {found['beta_schedule']!r} with prediction {found['prediction_type']!r} is none that can be "
            "used: scaled_linear or linear, epsilon or v_prediction, betas neither trained nor rescaled"
        )
        raise ModelMismatchError(msg)
    power = 0.5 if found["beta_schedule"] == "scaled_linear" else 1
    count = int(found["num_train_timesteps"])
    begin, end = float(found["beta_start"]), float(found["beta_end"])
    betas = np.linspace(begin**power, end**power, count, dtype=np.float64) ** (1 / power)
    abar: NDArray[np.float64] = np.cumprod(1 - betas, dtype=np.float64)
    return Schedule(abar, found["prediction_type"])


def read(path: Path, prediction: str) -> Schedule:
    """The schedule of a scheduler's configuration, Stable Diffusion's if there is no such file.

    prediction: where nothing says it.   Raises ModelMismatchError for a file that cannot be used.
    """
    try:
        config = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        return of_config(config, prediction)
    except ModelMismatchError as exc:
        msg = f"{path}: {exc}"
        raise ModelMismatchError(msg) from exc
    except (OSError, ValueError, TypeError, KeyError) as exc:
        msg = f"{path} cannot be read: {exc}"
        raise ModelMismatchError(msg) from exc


LEAST: Final = float(of_config({}, EPSILON).deviations[0])
"""The least noise that a denoiser has learnt to see, in units of the latent: that of Stable Diffusion's time 0."""
