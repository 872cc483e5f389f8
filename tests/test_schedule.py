"""models/schedule.py: the time step of a diffusion model whose noise is that of a quantizer (SPEC 8.7)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pillow_sdl import registry
from pillow_sdl.errors import ModelMismatchError
from pillow_sdl.latent import scalar, spaces
from pillow_sdl.models import schedule

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.plain

PLAN = schedule.of_config({}, schedule.EPSILON)


# Time steps


def test_the_default_schedule_is_that_of_stable_diffusion() -> None:
    """The square roots of the betas are equally spaced, and abar is the cumulative product of 1 - beta."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    assert np.allclose(PLAN.abar, np.cumprod(1 - betas), rtol=1e-12)
    assert np.allclose(PLAN.deviations, np.sqrt((1 - PLAN.abar) / PLAN.abar))
    assert (np.diff(PLAN.deviations) > 0).all()


def test_a_linear_schedule_is_read() -> None:
    """The betas themselves are equally spaced."""
    config = {"beta_schedule": "linear", "beta_start": 0.1, "beta_end": 0.3, "num_train_timesteps": 3}
    assert np.allclose(schedule.of_config(config, "epsilon").abar, [0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.7])


@pytest.mark.parametrize(
    ("deviation", "time"), [(0.0292, 0), (0.1195, 15), (0.17, 30), (0.251, 60), (0.344, 100), (1e9, 999), (0.029, None)]
)
def test_the_nearest_noise_level_gives_the_time_step(deviation: float, time: int | None) -> None:
    """Less noise than that of time step 0 gives None."""
    assert PLAN.step_of(deviation) == time
    if time is not None and deviation < 1:
        assert PLAN.deviations[time] == pytest.approx(deviation, rel=0.01)


def test_the_least_noise_is_that_of_time_step_0() -> None:
    """A denoiser is loaded only for noise of at least this deviation."""
    assert PLAN.step_of(schedule.LEAST) == 0
    assert PLAN.step_of(np.nextafter(schedule.LEAST, 0)) is None


def test_coarser_steps_give_a_later_time_step() -> None:
    """At the best rates of sd1 there is less noise than at time step 0."""
    table = spaces.tables(registry.space("sd1")).log2_steps
    times = [PLAN.step_of(scalar.noise_of(scalar.steps(table, rate)).deviation) for rate in (0, 64, 128, 192, 255)]
    assert times == [143, 45, 11, 2, None]


@pytest.mark.parametrize(
    ("first", "steps", "wanted"),
    [(30, 1, [30]), (30, 3, [30, 20, 10]), (143, 4, [143, 107, 72, 36]), (2, 5, [2, 1, 0]), (0, 3, [0])],
)
def test_time_steps_go_down_from_the_first(first: int, steps: int, wanted: list[int]) -> None:
    """They are equally spaced, and none occurs twice."""
    assert schedule.times(first, steps) == wanted


# Predictions


@pytest.mark.parametrize("prediction", schedule.PREDICTIONS)
def test_a_perfect_prediction_gives_the_original(prediction: str) -> None:
    """Both formulas recover the latent from the noise and from the velocity."""
    plan = schedule.of_config({}, prediction)
    random = np.random.default_rng(0)
    original, noise = random.normal(size=(2, 4, 3, 3)).astype(np.float32)
    for time, later in ((500, 250), (30, 0)):
        signal, deviation = np.sqrt(plan.abar[time]), np.sqrt(1 - plan.abar[time])
        noisy = (signal * original + deviation * noise).astype(np.float32)
        predicted = noise if prediction == schedule.EPSILON else signal * noise - deviation * original
        found = plan.original(noisy, predicted.astype(np.float32), time)
        assert found.dtype == np.float32
        assert np.allclose(found, original, atol=1e-4)
        wanted = np.sqrt(plan.abar[later]) * original + np.sqrt(1 - plan.abar[later]) * noise
        assert np.allclose(plan.renoised(noisy, original, time, later), wanted, atol=1e-5)


# Files


def test_a_file_that_does_not_exist_gives_the_default(tmp_path: Path) -> None:
    """The prediction is then that of the registry."""
    found = schedule.read(tmp_path / "scheduler_config.json", schedule.VELOCITY)
    assert found.prediction == schedule.VELOCITY
    assert np.array_equal(found.abar, PLAN.abar)


def test_a_file_says_the_prediction(tmp_path: Path) -> None:
    """It goes before that of the registry."""
    (path := tmp_path / "scheduler_config.json").write_text(json.dumps({"prediction_type": "v_prediction"}))
    assert schedule.read(path, schedule.EPSILON).prediction == schedule.VELOCITY


@pytest.mark.parametrize(
    "config",
    [
        {"beta_schedule": "squaredcos_cap_v2"},
        {"prediction_type": "sample"},
        {"trained_betas": [0.1]},
        {"rescale_betas_zero_snr": True},
    ],
    ids=lambda config: next(iter(config)),
)
def test_a_schedule_that_cannot_be_used_is_refused(config: dict[str, object], tmp_path: Path) -> None:
    """The error names the file and what would do."""
    (path := tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelMismatchError, match="scaled_linear or linear") as caught:
        schedule.read(path, schedule.EPSILON)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"beta_start": "little"}', '{"num_train_timesteps": null}'])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    """The error is ModelMismatchError."""
    (path := tmp_path / "scheduler_config.json").write_text(text)
    with pytest.raises(ModelMismatchError, match="cannot read the scheduler configuration") as caught:
        schedule.read(path, schedule.EPSILON)
    assert str(path) in str(caught.value)
