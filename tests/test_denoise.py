"""Denoising with a UNet or our own network: its time, its arithmetic, its tiles, where its parts come from, what the settings do.

The networks are diffusers' own classes with small random weights, made here.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

import pillow_sdl
from pillow_sdl import cli, codec, settings
from pillow_sdl.errors import BackendError, ModelError, ModelMismatchError, ModelNotFoundError
from pillow_sdl.latent import noise, quantize, spaces
from pillow_sdl.models import cards, prompt, schedule, search, store, tiling, unet
from pillow_sdl.models import denoiser as denoiser_module

from . import hub as loopback
from . import images
from .test_diffusion import kl, photo, program, saved, tiny

if TYPE_CHECKING:
    from numpy.typing import NDArray

WIDTH = 8
"""Of the embedding of a token."""

UNetClass: Any = diffusers.UNet2DConditionModel  # its stubs lack half of it
PNDM: Any = diffusers.PNDMScheduler

PLAN = schedule.of_config({}, schedule.EPSILON)
SIGMA = 0.17
TIME = 30


def network(seed: int, **options: object) -> Any:
    """A UNet for 4 channels that halves the sides once."""
    torch.manual_seed(seed)
    return UNetClass(
        **{
            "sample_size": 16,
            "block_out_channels": (32, 64),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
            "attention_head_dim": 4,
            "norm_num_groups": 8,
            "cross_attention_dim": WIDTH,
        }
        | options
    )


def embedding(seed: int = 0, width: int = WIDTH) -> NDArray[np.float32]:
    """What stands in for the empty prompt's embedding."""
    return np.random.default_rng(seed).normal(size=(1, 77, width)).astype(np.float32)


def pipeline(folder: Path, seed: int = 0, prediction: str | None = "epsilon", *, with_prompt: bool = True) -> Path:
    """A pipeline's folder as far as it matters, less its autoencoder and text encoder."""
    network(seed).save_pretrained(folder / "unet")
    if prediction:
        PNDM(**schedule.STABLE_DIFFUSION, skip_prk_steps=True, prediction_type=prediction).save_pretrained(
            folder / "scheduler"
        )
    if with_prompt:
        save_file({"prompt_embeds": embedding()}, folder / "empty_prompt.safetensors")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: taesd, and sd-1.5 with a UNet."""
    folder = tmp_path_factory.mktemp("models")
    tiny(0).save_pretrained(folder / "taesd")
    kl(1).save_pretrained(folder / "sd-1.5" / "vae")
    pipeline(folder / "sd-1.5")
    return folder


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_store: None) -> Path:
    """No model of the machine's owner, and no network.  The cache of assets."""
    import huggingface_hub.constants

    for name in ("MODELS", "DOWNLOAD", "DENOISE"):
        monkeypatch.delenv(f"PILLOW_SDL_{name}", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "assets"


@pytest.fixture
def present(models: Path, no_hub: Path) -> Any:
    """The folder is configured."""
    with settings.using(model_dirs=[models]):
        yield models


def latent(height: int = 16, width: int = 16, seed: int = 0) -> NDArray[np.float32]:
    """Smooth enough to look like one."""
    coarse = np.random.default_rng(seed).normal(size=(4, -(-height // 4), -(-width // 4)))
    return np.kron(coarse, np.ones((4, 4))).astype(np.float32)[:, :height, :width]


def said(folder: Path, noisy: NDArray[Any], time: int) -> NDArray[np.float64]:
    """What the UNet of a pipeline's folder says, by diffusers called by hand."""
    model = UNetClass.from_pretrained(folder / "unet")
    with torch.inference_mode():
        batch = torch.tensor(noisy[None], dtype=torch.float32)
        found = model(batch, torch.tensor([time]), encoder_hidden_states=torch.tensor(embedding())).sample
    result: NDArray[np.float64] = found[0].double().numpy()
    return result


def denoiser() -> store.Denoiser:
    """That of sd1, by the settings."""
    found = store.load_denoiser("sd1")
    assert found is not None
    return found


# The time


def test_the_table_is_stable_diffusion_s() -> None:
    """Betas whose roots are equally spaced; as diffusers has them."""
    by_hand = PNDM(**schedule.STABLE_DIFFUSION).alphas_cumprod.double().numpy()
    assert np.allclose(PLAN.abar, by_hand, rtol=1e-4)
    straight = schedule.of_config({"beta_schedule": "linear", "beta_start": 0.1, "beta_end": 0.3}, "epsilon")
    assert straight.abar[1] == pytest.approx(0.9 * (0.9 - 0.2 / 999))


@pytest.mark.parametrize(
    ("deviation", "time"), [(0.0292, 0), (0.1195, 15), (0.17, 30), (0.251, 60), (0.344, 100), (1e9, 999), (0.029, None)]
)
def test_the_time_has_the_noise_of_the_quantiser(deviation: float, time: int | None) -> None:
    """Noise over signal; None where there is less noise than at time 0."""
    assert PLAN.step_of(deviation) == time
    if time is not None and deviation < 1:
        assert np.sqrt((1 - PLAN.abar[time]) / PLAN.abar[time]) == pytest.approx(deviation, rel=0.01)


def test_the_time_follows_from_the_rate() -> None:
    """Coarser steps, a later time; at the best rates of sd1 there is nothing to do."""
    table = spaces.by_name("sd1").tables.log2_steps
    times = [PLAN.step_of(noise.of_steps(quantize.steps(table, rate)).deviation) for rate in (0, 64, 128, 192, 255)]
    assert times == [143, 45, 11, 2, None]


@pytest.mark.parametrize(
    ("first", "steps", "wanted"),
    [(30, 1, [30]), (30, 3, [30, 20, 10]), (143, 4, [143, 107, 72, 36]), (2, 5, [2, 1, 0]), (0, 3, [0])],
)
def test_steps_go_down_from_the_first(first: int, steps: int, wanted: list[int]) -> None:
    """Equally spaced, none twice."""
    assert schedule.times(first, steps) == wanted


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
def test_another_schedule_is_refused(config: dict[str, object], tmp_path: Path) -> None:
    """Rather than denoised with the wrong noise; the file is named."""
    (path := tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelMismatchError, match=r"scheduler_config\.json"):
        schedule.read(path, schedule.EPSILON)


@pytest.mark.parametrize("text", ["{", "[]", '{"beta_start": "little"}', '{"num_train_timesteps": null}'])
def test_a_damaged_schedule_is_an_error_of_ours(text: str, tmp_path: Path) -> None:
    """ModelMismatchError, which names the file."""
    (path := tmp_path / "scheduler_config.json").write_text(text)
    with pytest.raises(ModelMismatchError, match=r"scheduler_config\.json"):
        schedule.read(path, schedule.EPSILON)


# The arithmetic


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_one_step_looks_under_the_noise(tmp_path: Path, prediction: str) -> None:
    """The formulas of both kinds of prediction, written out."""
    folder = pipeline(tmp_path / "sd-1.5", prediction=prediction)
    abar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[TIME]
    x = np.sqrt(abar) * latent()
    out = said(folder, x, TIME)
    if prediction == "epsilon":
        wanted = (x - np.sqrt(1 - abar) * out) / np.sqrt(abar)
    else:
        wanted = np.sqrt(abar) * x - np.sqrt(1 - abar) * out
    with settings.using(model_dirs=[tmp_path]):
        found = denoiser().denoise(latent(), noise.Noise(SIGMA, palette=False), 1)
    assert found.dtype == np.float32
    assert np.abs(wanted - latent()).max() > 0.05
    assert np.allclose(found, wanted, atol=1e-4)


def test_the_card_says_what_is_predicted_where_no_file_does(tmp_path: Path) -> None:
    """Stable Diffusion 2.1 predicts velocities."""
    found = {}
    for name, prediction in (("sd-2.1", None), ("sd-1.5", None), ("sd-1.4", "v_prediction")):
        pipeline(tmp_path / name / name, prediction=prediction)
        with settings.using(model_dirs=[tmp_path / name]):
            found[name] = denoiser().denoise(latent(), noise.Noise(SIGMA, palette=False), 1)
    assert np.array_equal(found["sd-2.1"], found["sd-1.4"])
    assert not np.allclose(found["sd-2.1"], found["sd-1.5"], atol=1e-2)


def test_more_steps_go_on_with_less_of_the_same_noise(present: Path) -> None:
    """Three of them, written out: DDIM without randomness."""
    x = np.sqrt(PLAN.abar[30]) * latent()
    for time, later in ((30, 20), (20, 10), (10, None)):
        epsilon = said(present / "sd-1.5", x, time)
        original = (x - np.sqrt(1 - PLAN.abar[time]) * epsilon) / np.sqrt(PLAN.abar[time])
        if later is not None:
            x = np.sqrt(PLAN.abar[later]) * original + np.sqrt(1 - PLAN.abar[later]) * epsilon
    found = denoiser().denoise(latent(), noise.Noise(SIGMA, palette=False), 3)
    assert np.allclose(found, original, atol=1e-4)
    once = denoiser().denoise(latent(), noise.Noise(SIGMA, palette=False), 1)
    assert not np.allclose(found, once, atol=1e-3)


def test_the_setting_of_2022_is_diffusers_pndm(present: Path) -> None:
    """Three calls, at the times that are recorded of it, of a latent that is neither scaled nor noised."""
    scheduler = PNDM(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True)
    scheduler.set_timesteps(1000 // 15)
    sample = torch.tensor(latent())
    for time in (30, 15, 0):
        out = torch.tensor(said(present / "sd-1.5", sample.numpy(), time)).float()
        sample = scheduler.step(out, time, sample).prev_sample
    calls: list[tuple[int, int]] = []
    with settings.using(denoise="buehlmann"):
        model = denoiser()
        found = model.denoise(latent(), noise.Noise(0.3, palette=True), 7, lambda *call: calls.append(call))
        again = model.denoise(latent(), noise.Noise(0.3, palette=True), 1)
    assert model.name == "sd-1.5 UNet, setting of 2022"
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert np.allclose(found, sample.numpy(), atol=1e-4)
    assert np.array_equal(found, again)


def test_denoising_is_deterministic(present: Path) -> None:
    """The state of torch's random numbers is neither used nor changed, and the latent that is given stays."""
    given = latent()
    state = torch.get_rng_state()
    first = denoiser().denoise(given, noise.Noise(0.2, palette=False), 2)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1234)
    store.release()
    assert np.array_equal(denoiser().denoise(given, noise.Noise(0.2, palette=False), 2), first)
    assert np.array_equal(given, latent())


def test_a_latent_with_less_noise_than_any_time_is_left_alone(present: Path) -> None:
    """Bit for bit."""
    assert np.array_equal(denoiser().denoise(latent(), noise.Noise(0.01, palette=False), 4), latent())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_near(present: Path, dtype: str) -> None:
    """The network computes in it; what is added and taken away does not."""
    exact = denoiser().denoise(latent(), noise.Noise(SIGMA, palette=False), 1)
    with settings.using(dtype=dtype):
        near = denoiser().denoise(latent(), noise.Noise(SIGMA, palette=False), 1)
    assert 0 < np.abs(near - exact).max() < 0.02


def test_values_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    """Not a black picture."""
    model = network(0)
    torch.nn.init.constant_(model.conv_out.bias, float("nan"))
    model.save_pretrained(pipeline(tmp_path / "sd-1.5") / "unet")
    with settings.using(model_dirs=[tmp_path]), pytest.raises(ModelError, match="not finite"):
        denoiser().denoise(latent(), noise.Noise(SIGMA, palette=False), 1)


# Tiles


@pytest.mark.parametrize("size", [(1, 1), (5, 16), (8, 8), (13, 9)])
def test_sides_are_filled_up_for_the_network(present: Path, size: tuple[int, int]) -> None:
    """To multiples of 8, with what stands at the edge."""
    found = denoiser().denoise(latent(*size), noise.Noise(SIGMA, palette=False), 1)
    filled = np.pad(latent(*size), ((0, 0), (0, -size[0] % 8), (0, -size[1] % 8)), mode="edge")
    whole = denoiser().denoise(filled, noise.Noise(SIGMA, palette=False), 1)
    assert np.allclose(found, whole[:, : size[0], : size[1]], atol=1e-5)


def test_tiles_join(present: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are near to the whole, and what tiles change steps nowhere more than elsewhere; memory is that of a tile."""
    given = latent(70, 90)
    epsilon = noise.Noise(SIGMA, palette=False)
    monkeypatch.setattr(tiling, "WHOLE", 10**6)
    whole = denoiser().denoise(given, epsilon, 1)
    monkeypatch.setattr(tiling, "WHOLE", 0)
    monkeypatch.setattr(unet, "CORE", 32)
    seen: list[tuple[int, ...]] = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: seen.append(tuple(inputs[0].shape)) if isinstance(module, UNetClass) else None
    )
    calls: list[tuple[int, int]] = []
    try:
        tiled = denoiser().denoise(given, epsilon, 2, lambda *call: calls.append(call))
        tiled = denoiser().denoise(given, epsilon, 1)
    finally:
        hook.remove()
    assert calls == [(done, 18) for done in range(1, 19)]
    assert len(seen) == 27
    assert all(height % 8 == width % 8 == 0 and max(height, width) <= 64 for _, _, height, width in seen)
    change = tiled - whole
    assert 0 < np.abs(change).max() < 0.5 * np.abs(whole - given).max()
    steps = np.abs(np.diff(change, axis=2)).mean((0, 1))
    inner = np.abs(np.diff(whole, axis=2)).mean()
    assert steps.max() < 0.2 * inner


# Finding and building


def test_a_missing_unet_names_the_command(tmp_path: Path) -> None:
    """Asked for by name, with its size and where it was looked for; else it is not missed."""
    tiny(0).save_pretrained(tmp_path / "taesd")
    with settings.using(model_dirs=[tmp_path], denoise="auto"):
        assert denoiser().name == "sd1-denoiser"
        data = saved(photo(), model="taesd", quality=20)
    for choice in ("unet", "buehlmann"):
        with settings.using(model_dirs=[tmp_path], denoise=choice):
            with pytest.raises(ModelNotFoundError, match=r"sdl models fetch --denoiser sd-1\.5.*3440 MB") as caught:
                Image.open(io.BytesIO(data)).load()
            assert str(tmp_path) in str(caught.value)
            assert str(tmp_path) in caught.value.searched


def test_a_unet_without_the_prompt_is_not_used(tmp_path: Path) -> None:
    """What is missing is said: the prompt, not the UNet."""
    pipeline(tmp_path / "sd-1.4", with_prompt=False)
    with settings.using(model_dirs=[tmp_path]):
        assert denoiser().name == "sd1-denoiser"
        with (
            settings.using(denoise="unet"),
            pytest.raises(ModelNotFoundError, match=r"prompt's embedding.*fetch --denoiser sd-1\.4` encodes it"),
        ):
            store.load_denoiser("sd1")


def test_downloads_that_are_allowed_do_not_bring_a_unet(tmp_path: Path) -> None:
    """Gigabytes and a text encoder are fetched by their command alone."""
    with settings.using(denoise="unet", download=True), pytest.raises(ModelNotFoundError, match="sdl models fetch"):
        store.load_denoiser("sd1")


def test_the_first_unet_of_the_table_is_used(tmp_path: Path) -> None:
    """In the order in which models are listed."""
    for name in ("sd-2.1", "sd-1.4"):
        pipeline(tmp_path / name)
    with settings.using(model_dirs=[tmp_path]):
        assert denoiser().name == "sd-1.4 UNet"


@pytest.mark.parametrize("damage", ["weights", "config", "prompt", "width", "channels", "shape", "embeddings"])
def test_a_damaged_unet_is_an_error_of_ours(tmp_path: Path, damage: str) -> None:
    """ModelMismatchError, which names the folder."""
    folder = pipeline(tmp_path / "sd-1.5")
    if damage == "weights":
        (folder / "unet" / search.WEIGHTS[0]).write_bytes(b"\x10" + bytes(40))
    elif damage == "config":
        (folder / "unet" / "config.json").write_text("{")
    elif damage == "prompt":
        save_file({"another": embedding()}, folder / search.PROMPT)
    elif damage == "width":
        save_file({"prompt_embeds": embedding(width=5)}, folder / search.PROMPT)
    elif damage == "channels":
        network(0, in_channels=9).save_pretrained(folder / "unet")
    elif damage == "shape":
        kl(0).save_pretrained(folder / "unet")
    else:
        network(
            0, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=16
        ).save_pretrained(folder / "unet")
    with settings.using(model_dirs=[tmp_path]), pytest.raises(ModelMismatchError, match=r"sd-1\.5"):
        store.load_denoiser("sd1")


def test_float16_weights_are_read(tmp_path: Path) -> None:
    """And computed with in float32, unless the settings say otherwise."""
    folder = pipeline(tmp_path / "sd-1.5")
    (folder / "unet" / search.WEIGHTS[0]).unlink()
    network(0).half().save_pretrained(folder / "unet", variant="fp16")
    with settings.using(model_dirs=[tmp_path]):
        found = denoiser().denoise(latent(), noise.Noise(SIGMA, palette=False), 1)
    epsilon = said(pipeline(tmp_path / "whole"), np.sqrt(PLAN.abar[TIME]) * latent(), TIME)
    wanted = latent() - np.sqrt((1 - PLAN.abar[TIME]) / PLAN.abar[TIME]) * epsilon
    assert 0 < np.abs(found - wanted).max() < 1e-2


def test_threads_share_a_unet_which_can_be_released(present: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight that want it at the same moment build it once, for both ways to use it."""
    built: list[str] = []
    build = unet.UNet

    def counted(name: str, *arguments: Any) -> unet.UNet:
        built.append(name)
        return build(name, *arguments)

    monkeypatch.setattr(unet, "UNet", counted)
    barrier = threading.Barrier(8)

    def load(number: int) -> NDArray[np.float32]:
        barrier.wait()
        with settings.using(model_dirs=[present], denoise="buehlmann" if number % 2 else "unet"):
            return denoiser().denoise(latent(), noise.Noise(SIGMA, palette=False), 1)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(load, range(8)))
    assert built == ["sd-1.5"]
    assert all(np.array_equal(found[number], found[number % 2]) for number in range(8))
    store.release()
    denoiser()
    assert built == ["sd-1.5", "sd-1.5"]


# Pictures


def test_a_file_is_denoised_before_it_is_decoded(present: Path) -> None:
    """The decoder is given the denoised latent, and the image says what denoised it."""
    data = saved(photo(), model="taesd", quality=10)
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.info["sdl_denoiser"] == "sd-1.5 UNet"
    assert image.info["sdl_decoder"] == "taesd"
    file = images.parsed(data)
    steps = quantize.steps(spaces.by_name("sd1").tables.log2_steps, file.header.rate)
    plain = quantize.dequantize(codec.read_symbols(file), steps)
    clean = denoiser().denoise(plain, noise.of_steps(steps), 1)
    decoder = store.load(cards.by_name("taesd"))
    assert np.array_equal(np.asarray(image), decoder.decode(clean, file.header.rate)[:80, :96])
    assert not np.array_equal(np.asarray(image), decoder.decode(plain, file.header.rate)[:80, :96])


def test_the_settings_choose(present: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Auto and unet are the same while there is one; the rest differ."""
    data = saved(photo(), model="taesd", quality=10)
    found: dict[object, Image.Image] = {}
    for choice in ("auto", "unet", "buehlmann", "off"):
        with pillow_sdl.using(denoise=choice):
            found[choice] = Image.open(io.BytesIO(data))
            found[choice].load()
    with pillow_sdl.using(denoise_steps=5):
        found[5] = Image.open(io.BytesIO(data))
        found[5].load()
    assert found["auto"].tobytes() == found["unet"].tobytes()
    assert len({image.tobytes() for image in found.values()}) == 4
    assert "sdl_denoiser" not in found["off"].info
    assert found["buehlmann"].info["sdl_denoiser"] == "sd-1.5 UNet, setting of 2022"
    monkeypatch.setattr(settings, "_process", None)
    monkeypatch.setenv("PILLOW_SDL_DENOISE", "off")
    monkeypatch.setenv("PILLOW_SDL_MODELS", str(present))
    fresh = settings._of_process()
    assert fresh.denoise == "off"


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A denoiser for sd1 of random weights, in place of the one that ships; its file."""
    torch.manual_seed(3)
    path = tmp_path / "weights" / "sd1-denoiser.safetensors"
    path.parent.mkdir()
    save_file({name: tensor.half().numpy() for name, tensor in denoiser_module.Denoiser().state_dict().items()}, path)
    monkeypatch.setattr(spaces, "WEIGHTS", path.parent)
    monkeypatch.setattr(cards, "DENOISERS", {"sd1": hashlib.sha256(path.read_bytes()).hexdigest()})
    return path


def test_the_small_denoiser_steps_in(present: Path, small: Path, tmp_path: Path) -> None:
    """By its name, and where there is no UNet; it is loaded once, until it is released."""
    assert denoiser().name == "sd-1.5 UNet"
    with settings.using(denoise="small"):
        found = denoiser()
        assert found.name == "sd1-denoiser"
        assert denoiser() is found
        store.release()
        assert denoiser() is not found
    with settings.using(model_dirs=[tmp_path]):
        assert denoiser().name == "sd1-denoiser"
        with settings.using(denoise="unet"), pytest.raises(ModelNotFoundError, match="UNet"):
            store.load_denoiser("sd1")
    with settings.using(denoise="off"):
        assert store.load_denoiser("sd1") is None


def test_without_a_small_denoiser_the_error_says_so(present: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for by name, for a space that has UNets only."""
    monkeypatch.setattr(cards, "DENOISERS", {})
    with settings.using(denoise="small"), pytest.raises(ModelNotFoundError, match="small"):
        store.load_denoiser("sd1")


def test_the_denoiser_that_ships_is_the_registry_s() -> None:
    """Its hash stands in both tables, and it takes at most 8 MB."""
    path = spaces.WEIGHTS / "sd1-denoiser.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert cards.DENOISERS["sd1"] == digest
    registry = (Path(__file__).parent.parent / "spec" / "registry.md").read_text("utf-8")
    assert f"`pillow_sdl/weights/{path.name}` | {digest} |" in registry
    assert path.stat().st_size <= 8_000_000


@pytest.mark.parametrize("step", [0.5, 0.75, 1.0])
def test_the_denoiser_that_ships_comes_nearer_to_the_latent(step: float) -> None:
    """Even to one that only looks like a latent: smooth surfaces and edges, which rounding turns into stairs."""
    rows, columns = np.mgrid[:48, :48] / 24
    channels = [np.sin(2 * rows + index) + 0.7 * (columns + index / 3 > 1) + 0.3 * rows * columns for index in range(4)]
    clean = np.stack(channels).astype(np.float32) - 0.5
    coarse = np.rint(clean / np.float32(step)) * np.float32(step)
    with settings.using(denoise="small"):
        found = denoiser().denoise(coarse, noise.Noise(step / 12**0.5, palette=False), 1)
    assert np.square(found - clean).mean() < 0.8 * np.square(coarse - clean).mean()


def test_a_damaged_small_denoiser_is_an_error_of_ours(present: Path, small: Path) -> None:
    """ModelMismatchError, which names the file and both hashes; ModelNotFoundError where it is missing."""
    small.write_bytes(small.read_bytes()[:-1] + b"\1")
    with settings.using(denoise="small"), pytest.raises(ModelMismatchError, match="sd1-denoiser") as caught:
        store.load_denoiser("sd1")
    assert caught.value.expected == cards.DENOISERS["sd1"]
    small.unlink()
    with settings.using(denoise="small"), pytest.raises(ModelNotFoundError, match="sd1-denoiser"):
        store.load_denoiser("sd1")


def test_the_small_denoiser_computes_its_network(small: Path) -> None:
    """A latent of any size, filled up to whole positions of the coarsest level by repetition, in float32."""
    coarse = latent(9, 14)
    network = denoiser_module.Denoiser()
    network.load_state_dict({name: torch.from_numpy(tensor).float() for name, tensor in load_file(small).items()})
    filled = np.pad(coarse, ((0, 0), (0, 3), (0, 2)), mode="edge")
    for wanted in (noise.Noise(0.2, palette=False), noise.Noise(0.2, palette=True), noise.Noise(0.3, palette=True)):
        with torch.inference_mode():
            told = (torch.tensor([value], dtype=torch.float32) for value in wanted)
            by_hand = network(torch.from_numpy(filled)[None], *told)[0, :, :9, :14].numpy()
        with settings.using(denoise="small"):
            found = denoiser().denoise(coarse, wanted, 1)
        assert found.dtype == np.float32
        assert np.allclose(found, by_hand, atol=1e-5)


def test_the_small_denoiser_s_tiles_are_exact(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a position becomes depends on no more than the margin."""
    coarse = latent(75, 90)
    with settings.using(denoise="small"):
        whole = denoiser().denoise(coarse, noise.Noise(0.3, palette=False), 1)
        monkeypatch.setattr(tiling, "WHOLE", 1)
        monkeypatch.setattr(denoiser_module, "CORE", 20)
        calls: list[tuple[int, int]] = []
        tiled = denoiser().denoise(coarse, noise.Noise(0.3, palette=False), 1, lambda *call: calls.append(call))
    assert calls == [(index, 20) for index in range(1, 21)]
    assert np.abs(whole - coarse).max() > 0.01
    assert np.allclose(tiled, whole, atol=1e-5)


@pytest.mark.parametrize("choice", settings.DENOISERS)
def test_a_space_that_no_denoiser_was_made_for_needs_none(present: Path, choice: str, plain_file: bytes) -> None:
    """The embedded model's decoder is told the rate instead: its files open whatever is set."""
    with settings.using(denoise=choice):
        image = images.opened(plain_file)
        image.load()
    assert "sdl_denoiser" not in image.info
    assert image.info["sdl_decoder"] == "embedded"


def test_where_there_is_nothing_to_do_nothing_is_loaded(models: Path, tmp_path: Path) -> None:
    """A file of the best rate opens without the UNet that is asked for."""
    with settings.using(model_dirs=[models]):
        data = saved(photo(), model="taesd", quality=100)
    tiny(0).save_pretrained(tmp_path / "taesd")
    with settings.using(model_dirs=[tmp_path], denoise="unet"):
        image = Image.open(io.BytesIO(data))
        image.load()
    assert "sdl_denoiser" not in image.info


def test_previews_are_not_denoised(present: Path) -> None:
    """They need no network."""
    image = Image.open(io.BytesIO(saved(photo(), model="taesd", quality=10)))
    image.thumbnail((24, 24))
    assert image.info["sdl_decoder"] == "preview"
    assert "sdl_denoiser" not in image.info


def test_the_denoiser_s_tiles_are_counted_before_the_decoder_s(present: Path) -> None:
    """Each from 1 to its own total."""
    data = saved(photo(), model="taesd", quality=10)
    calls: list[tuple[int, int]] = []
    with pillow_sdl.using(denoise_steps=3, progress=lambda *call: calls.append(call)):
        Image.open(io.BytesIO(data)).load()
    assert calls == [(1, 3), (2, 3), (3, 3), (1, 1)]


@pytest.mark.parametrize(
    "options", [{"denoise": "yes"}, {"denoise": None}, *({"denoise_steps": bad} for bad in (0, 51, 1.5, "1", True))]
)
def test_wrong_settings_are_refused(options: dict[str, Any]) -> None:
    """The message names the option and what is allowed."""
    (name,) = options
    allowed = "auto, off, small, unet, buehlmann" if name == "denoise" else "1 to 50"
    with pytest.raises(ValueError, match=rf"{name} must be .*{allowed}"):
        pillow_sdl.configure(**options)


def test_a_wrong_choice_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the variable."""
    monkeypatch.setenv("PILLOW_SDL_DENOISE", "yes")
    with pytest.raises(ValueError, match="PILLOW_SDL_DENOISE: denoise must be"):
        settings.current()


def test_decoding_imports_no_transformers(present: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text encoder is never loaded: the import would fail here."""
    data = saved(photo(), model="taesd", quality=10)
    monkeypatch.setitem(sys.modules, "transformers", None)
    image = Image.open(io.BytesIO(data))
    image.load()
    assert image.info["sdl_denoiser"] == "sd-1.5 UNet"


def test_decoding_prints_nothing(models: Path, tmp_path: Path) -> None:
    """Nor do diffusers and torch, in a process that loads them for it."""
    with settings.using(model_dirs=[models]):
        data = saved(photo(), model="taesd", quality=10)
    (path := tmp_path / "photo.sdl").write_bytes(data)
    code = "import sys, pillow_sdl; from PIL import Image; print(Image.open(sys.argv[1]).convert('1').mode)"
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env=os.environ | {"PILLOW_SDL_MODELS": str(models), "PYTHONPATH": str(Path(pillow_sdl.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "1\n", "")


# The prompt


class TextModel:
    """Stands in for transformers' CLIPTextModel.   calls: what it was asked for."""

    calls: list[Any]

    @classmethod
    def from_pretrained(cls, folder: Path, **options: object) -> TextModel:
        """See transformers."""
        cls.calls.append((folder, options))
        return cls()

    def eval(self) -> TextModel:
        """See torch."""
        return self

    def float(self) -> TextModel:
        """See torch."""
        return self

    def __call__(self, ids: torch.Tensor) -> tuple[torch.Tensor]:
        """The last layer's states first."""
        assert ids.dtype == torch.int64
        self.calls.append(ids.tolist())
        return (torch.tensor(embedding(7)),)


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> type[TextModel]:
    """A package of that name with one class."""
    TextModel.calls = []
    module = types.ModuleType("transformers")
    module.CLIPTextModel = TextModel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", module)
    return TextModel


def text_encoder(folder: Path, padding: object = "<|endoftext|>") -> None:
    """The files of a text encoder and its tokenizer, as far as they are looked at."""
    for name in ("text_encoder", "tokenizer"):
        (folder / name).mkdir(parents=True)
    (folder / "text_encoder" / "config.json").write_text("{}")
    (folder / "text_encoder" / "model.safetensors").write_bytes(b"weights")
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"pad_token": padding}))


@pytest.mark.parametrize(
    ("padding", "fill"), [("<|endoftext|>", 49407), ("!", 0), ({"content": "!", "special": True}, 0)]
)
def test_the_empty_prompt_is_filled_up_as_the_tokenizer_says(tmp_path: Path, padding: object, fill: int) -> None:
    """Stable Diffusion 1 and 2 differ here."""
    text_encoder(tmp_path, padding)
    assert prompt.tokens(tmp_path / search.TOKENIZER) == [49406, 49407, *[fill] * 75]


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"pad_token": "<pad>"}', None])
def test_a_tokenizer_that_does_not_say_is_named(tmp_path: Path, text: str | None) -> None:
    """Rather than guessed at."""
    path = tmp_path / "tokenizer_config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ModelMismatchError, match=r"tokenizer_config\.json"):
        prompt.tokens(path)


def test_the_prompt_of_a_local_pipeline_is_encoded_once(
    tmp_path: Path, no_hub: Path, transformers: type[TextModel], capsys: pytest.CaptureFixture[str]
) -> None:
    """`sdl models fetch --denoiser` with all else on this machine: no network; the pipeline's folder is not written to."""
    folder = pipeline(tmp_path / "models" / "sd-1.5", with_prompt=False)
    text_encoder(folder)
    with settings.using(model_dirs=[tmp_path / "models"]):
        before = sorted(folder.rglob("*"))
        assert cli.main(["models", "fetch", "--denoiser", "sd-1.5"]) == 0
        assert str(folder / "unet") in capsys.readouterr().err
        assert cli.main(["models", "fetch", "--denoiser", "sd-1.5"]) == 0
        assert sorted(folder.rglob("*")) == before
        files = search.local_denoiser(cards.by_name("sd-1.5"))
        assert files is not None
        assert no_hub in files.prompt.parents
        assert np.array_equal(load_file(files.prompt)["prompt_embeds"], embedding(7))
        assert [path.name for path in files.prompt.parent.iterdir()] == [search.PROMPT]
        assert denoiser().name == "sd-1.5 UNet"
    wanted = {"local_files_only": True, "use_safetensors": True, "variant": None}
    assert transformers.calls == [(folder / "text_encoder", wanted), [[49406, *[49407] * 76]]]


def test_without_transformers_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is downloaded."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    text_encoder(pipeline(tmp_path / "sd-1.5", with_prompt=False))
    with settings.using(model_dirs=[tmp_path]), pytest.raises(BackendError, match=r"pillow-sdl\[prompt\]"):
        search.fetch_denoiser(cards.by_name("sd-1.5"))
    assert cli.main(["models", "fetch", "--denoiser", "sd-2.1"]) == 1
    assert "pip install 'pillow-sdl[prompt]'" in capsys.readouterr().err


def test_a_model_without_a_denoiser_has_none_to_fetch(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1 and a sentence."""
    for name in ("embedded", "sdxl"):
        assert cli.main(["models", "fetch", "--denoiser", name]) == 1
        assert f"model {name} has no denoiser" in capsys.readouterr().err


def test_the_prompt_is_what_transformers_computes(tmp_path: Path) -> None:
    """With its own class and a small text encoder of random weights."""
    library = pytest.importorskip("transformers", reason="transformers is not installed")
    config = library.CLIPTextConfig(
        hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, projection_dim=WIDTH
    )
    torch.manual_seed(0)
    model = library.CLIPTextModel(config).eval()
    text_encoder(tmp_path, "!")
    model.save_pretrained(tmp_path / "text_encoder")
    with torch.inference_mode():
        wanted = model(torch.tensor([[49406, 49407, *[0] * 75]])).last_hidden_state.numpy()
    found = prompt.encode(tmp_path / "text_encoder", tmp_path / search.TOKENIZER)
    assert found.shape == (1, 77, WIDTH)
    assert np.allclose(found, wanted, atol=1e-6)


# The hub and the command line


STAND_IN = """
import sys, types
import torch

class CLIPTextModel:
    @classmethod
    def from_pretrained(cls, folder, **options):
        assert (folder / "model.safetensors").read_bytes() == b"weights"
        return cls()
    def eval(self):
        return self
    float = eval
    def __call__(self, ids):
        return (torch.ones(1, 77, 8),)
"""


def test_a_unet_is_fetched_once_and_then_used_without_the_hub(tmp_path: Path) -> None:
    """Refused, fetched with its schedule, text encoder and tokenizer, used: as a user does it."""
    (folder := tmp_path / "installed").mkdir()
    (folder / "transformers.py").write_text(STAND_IN)
    repository = pipeline(tmp_path / "repository", with_prompt=False)
    text_encoder(repository)
    kl(1).save_pretrained(repository / "vae")
    photo().save(picture := tmp_path / "photo.png")
    (name, *_) = (place.name for place in cards.by_name("sd-1.4").repositories)
    home = tmp_path / "home"
    with loopback.serving({name: repository}) as hub:
        assert program(hub, home, "models", "fetch", "--quiet", "sd-1.4").returncode == 0
        assert program(hub, home, "encode", "-q", "10", "--model", "sd-1.4", str(picture)).returncode == 0
        hub.requests.clear()
        decode = ("decode", "-f", "--denoise", "unet", str(picture.with_suffix(".sdl")))
        refused = program(hub, home, *decode)
        assert refused.returncode == 1
        assert "sdl models fetch --denoiser sd-1.5" in refused.stderr
        assert hub.requests == []
        path: dict[str, Any] = {"PYTHONPATH": f"{pillow_sdl.__path__[0]}/..:{folder}"}
        fetched = program(hub, home, "models", "fetch", "--denoiser", "--quiet", "sd-1.4", **path)
        assert (fetched.returncode, fetched.stderr) == (0, "")
        parts = ("unet/diffusion_pytorch_model.safetensors", search.SCHEDULER, "text_encoder/model.safetensors")
        for part in (*parts, search.TOKENIZER):
            assert any(request.endswith(part) for request in hub.requests), part
        assert not any("/vae/" in request for request in hub.requests if request.startswith("GET"))
        hub.requests.clear()
        done = program(hub, home, *decode)
        assert done.returncode == 0, done.stderr
        listed = program(hub, home, "models", "--json")
        assert hub.requests == []
    found = {entry["name"]: entry for entry in map(json.loads, listed.stdout.splitlines())}
    assert found["sd-1.4"]["unet"]["present"]
    assert found["sd-1.4"]["unet"]["folder"].endswith("unet")
    assert found["sd-1.5"]["unet"] == {"present": False, "folder": None, "megabytes": 3440}
    assert "unet" not in found["sdxl"]


def test_half_the_bytes_are_fetched_where_there_are_such_weights(tmp_path: Path) -> None:
    """--half takes the float16 variant, and float32 where there is none."""
    (folder := tmp_path / "installed").mkdir()
    (folder / "transformers.py").write_text(STAND_IN)
    path: dict[str, Any] = {"PYTHONPATH": f"{pillow_sdl.__path__[0]}/..:{folder}"}
    for model, both in (("sd-1.4", True), ("sd-turbo", False)):
        repository = pipeline(tmp_path / model, with_prompt=False)
        text_encoder(repository)
        if both:
            network(0).half().save_pretrained(repository / "unet", variant="fp16")
        (place, *_) = cards.by_name(model).repositories
        with loopback.serving({place.name: repository}) as hub:
            fetched = program(hub, tmp_path / "home", "models", "fetch", "--denoiser", "--half", model, **path)
            assert fetched.returncode == 0, fetched.stderr
            wanted = search.WEIGHTS[1 if both else 0]
            weights = {request.rpartition("/")[2] for request in hub.requests if "/unet/diffusion" in request}
        assert weights == {wanted}


def test_a_unet_that_is_not_the_card_s_is_refused(tmp_path: Path) -> None:
    """Where the card has a hash; what came is not kept."""
    (folder := tmp_path / "installed").mkdir()
    (folder / "transformers.py").write_text(STAND_IN)
    repository = pipeline(tmp_path / "repository", with_prompt=False)
    (place, *_) = cards.by_name("sd-1.5").repositories
    path: dict[str, Any] = {"PYTHONPATH": f"{pillow_sdl.__path__[0]}/..:{folder}"}
    with loopback.serving({place.name: repository}) as hub:
        found = program(
            hub, tmp_path / "home", "models", "fetch", "--denoiser", "sd-1.5", any_weights=False, **path
        )  # fmt: skip
        listed = program(hub, tmp_path / "home", "models", "--json")
    assert found.returncode == 1
    card = cards.by_name("sd-1.5").unet
    assert card is not None
    assert card.sha256 in found.stderr
    states = {entry["name"]: entry for entry in map(json.loads, listed.stdout.splitlines())}
    assert states["sd-1.5"]["unet"]["folder"] is None


def test_the_command_line_chooses(present: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--denoise and --denoise-steps reach the decoder."""
    (path := tmp_path / "photo.sdl").write_bytes(saved(photo(), model="taesd", quality=10))
    found = set()
    for number, options in enumerate(([], ["--denoise", "off"], ["--denoise-steps", "4"], ["--denoise", "buehlmann"])):
        target = tmp_path / f"{number}.png"
        assert cli.main(["decode", *options, str(path), "-o", str(target)]) == 0
        with Image.open(target) as image:
            found.add(image.tobytes())
    assert len(found) == 4
    for bad in (["--denoise", "much"], ["--denoise-steps", "0"], ["--denoise-steps", "many"]):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["decode", *bad, str(path)])
        assert exit_.value.code == 2
    assert "1 to 50" in capsys.readouterr().err


def test_the_list_of_models_shows_unets(present: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where one is, what another costs."""
    assert cli.main(["models"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "UNet" in line]
    assert len(lines) == 4
    assert any(str(present / "sd-1.5" / "unet") in line for line in lines)
    assert sum("3460 MB to fetch with --denoiser" in line for line in lines) == 2
