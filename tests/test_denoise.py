"""models/networks/unet.py and denoiser.py: denoising of latents, and the choice of a denoiser by the settings.

The networks are those of diffusers and our own, with small sizes or random weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import pillow_sdl
from pillow_sdl import cli, decode, progress, registry, settings
from pillow_sdl.errors import ModelError, ModelMismatchError, ModelNotFoundError
from pillow_sdl.latent.noise import Noise
from pillow_sdl.models import local, schedule, store, tiling
from pillow_sdl.models.networks import denoiser as small_denoiser
from pillow_sdl.models.networks import unet as unet_module

from . import images, networks
from .networks import embedding, kl, photo, pipeline, tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from pillow_sdl.models.base import Denoiser

PLAN = schedule.of_config({}, schedule.EPSILON)
TIME = 30
SIGMA = 0.17
"""A deviation whose time step is `TIME`."""

NOISE = Noise(SIGMA, palette=False)
SMALL = "sd1-denoiser"
"""What `image.info` says of our own denoiser."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models taesd, and sd-1.5 with a UNet."""
    folder = tmp_path_factory.mktemp("models")
    tiny(0).save_pretrained(folder / "taesd")
    kl(1).save_pretrained(folder / "sd-1.5" / "vae")
    pipeline(folder / "sd-1.5")
    return folder


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_store: store.Store) -> None:
    """Hide the models of the machine's owner, and forbid the network."""
    networks.isolate(monkeypatch, tmp_path)


@pytest.fixture
def present(models: Path) -> Iterator[Path]:
    """The folder of models, in the settings."""
    with settings.using(model_dirs=[models]):
        yield models


def latent(height: int = 16, width: int = 16, seed: int = 0) -> NDArray[np.float32]:
    """Return a latent of blocks of 4 x 4 equal positions."""
    coarse = np.random.default_rng(seed).normal(size=(4, -(-height // 4), -(-width // 4)))
    return np.kron(coarse, np.ones((4, 4))).astype(np.float32)[:, :height, :width]


def predicted(folder: Path, noisy: NDArray[Any], time: int) -> NDArray[np.float64]:
    """Return what the UNet of a pipeline predicts, computed with diffusers alone."""
    network = networks.read_unet(folder / "unet")
    with torch.inference_mode():
        batch = torch.tensor(noisy[None], dtype=torch.float32)
        found = network(batch, torch.tensor([time]), encoder_hidden_states=torch.tensor(embedding())).sample
    result: NDArray[np.float64] = found[0].double().numpy()
    return result


def denoiser() -> Denoiser:
    """Return the denoiser that the settings choose for the space sd1."""
    found = store.load_denoiser("sd1")
    assert found is not None
    return found


# The arithmetic of the UNet


def test_the_default_schedule_is_that_of_diffusers() -> None:
    """Diffusers computes the same products in float32."""
    assert np.allclose(PLAN.abar, networks.pndm().alphas_cumprod.double().numpy(), rtol=1e-4)


@pytest.mark.parametrize("prediction", schedule.PREDICTIONS)
def test_one_step_estimates_the_latent_without_noise(tmp_path: Path, prediction: str) -> None:
    """The formulas of both kinds of prediction are applied to the latent scaled by sqrt(abar)."""
    folder = pipeline(tmp_path / "sd-1.5", prediction=prediction)
    abar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[TIME]
    x = np.sqrt(abar) * latent()
    out = predicted(folder, x, TIME)
    if prediction == "epsilon":
        wanted = (x - np.sqrt(1 - abar) * out) / np.sqrt(abar)
    else:
        wanted = np.sqrt(abar) * x - np.sqrt(1 - abar) * out
    with settings.using(model_dirs=[tmp_path]):
        found = denoiser().denoise(latent(), NOISE, 1)
    assert found.dtype == np.float32
    assert np.abs(wanted - latent()).max() > 0.05
    assert np.allclose(found, wanted, atol=1e-4)


def test_the_registry_says_the_prediction_if_no_file_does(tmp_path: Path) -> None:
    """Stable Diffusion 2.1 predicts velocities, 1.5 predicts noise."""
    found = {}
    for name, prediction in (("sd-2.1", None), ("sd-1.5", None), ("sd-1.4", "v_prediction")):
        pipeline(tmp_path / name / name, prediction=prediction)
        with settings.using(model_dirs=[tmp_path / name]):
            found[name] = denoiser().denoise(latent(), NOISE, 1)
    assert np.array_equal(found["sd-2.1"], found["sd-1.4"])
    assert not np.allclose(found["sd-2.1"], found["sd-1.5"], atol=1e-2)


def test_more_steps_continue_with_less_of_the_same_noise(present: Path) -> None:
    """Three steps are those of DDIM without randomness."""
    x = np.sqrt(PLAN.abar[30]) * latent()
    for time, later in ((30, 20), (20, 10), (10, None)):
        epsilon = predicted(present / "sd-1.5", x, time)
        original = (x - np.sqrt(1 - PLAN.abar[time]) * epsilon) / np.sqrt(PLAN.abar[time])
        if later is not None:
            x = np.sqrt(PLAN.abar[later]) * original + np.sqrt(1 - PLAN.abar[later]) * epsilon
    found = denoiser().denoise(latent(), NOISE, 3)
    assert np.allclose(found, original, atol=1e-4)
    assert not np.allclose(found, denoiser().denoise(latent(), NOISE, 1), atol=1e-3)


def test_the_setting_of_2022_is_pndm_of_diffusers(present: Path) -> None:
    """Three calls at the recorded time steps, on a latent that is neither scaled nor noised, whatever the noise."""
    scheduler = networks.pndm()
    scheduler.set_timesteps(1000 // 15)
    sample = torch.tensor(latent())
    for time in (30, 15, 0):
        out = torch.tensor(predicted(present / "sd-1.5", sample.numpy(), time)).float()
        sample = scheduler.step(out, time, sample).prev_sample
    told: list[int] = []
    with settings.using(denoise="buehlmann"):
        with progress.job(lambda done, _: told.append(done)):
            found = denoiser().denoise(latent(), Noise(0.3, palette=True), 7)
        again = denoiser().denoise(latent(), NOISE, 1)
        assert denoiser().name == "sd-1.5 UNet, setting of 2022"
    assert told == [0, 333, 666, 1000]
    assert np.allclose(found, sample.numpy(), atol=1e-4)
    assert np.array_equal(found, again)


def test_denoising_is_deterministic(present: Path) -> None:
    """The random numbers of torch are neither used nor changed, and the given latent is not changed."""
    given = latent()
    state = torch.get_rng_state()
    first = denoiser().denoise(given, NOISE, 2)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1234)
    store.release()
    assert np.array_equal(denoiser().denoise(given, NOISE, 2), first)
    assert np.array_equal(given, latent())


def test_a_latent_with_less_noise_than_time_step_0_is_unchanged(present: Path) -> None:
    """The UNet is not called, and the values are the same bits."""
    assert np.array_equal(denoiser().denoise(latent(), Noise(0.01, palette=False), 4), latent())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_gives_nearly_the_same_latent(present: Path, dtype: str) -> None:
    """Only the network computes in half precision."""
    exact = denoiser().denoise(latent(), NOISE, 1)
    with settings.using(dtype=dtype):
        near = denoiser().denoise(latent(), NOISE, 1)
    assert 0 < np.abs(near - exact).max() < 0.02


def test_values_that_are_not_finite_are_an_error(tmp_path: Path) -> None:
    """They must not become a black picture."""
    network = networks.unet(0)
    torch.nn.init.constant_(network.conv_out.bias, float("nan"))
    network.save_pretrained(pipeline(tmp_path / "sd-1.5") / "unet")
    with settings.using(model_dirs=[tmp_path]), pytest.raises(ModelError, match="not finite"):
        denoiser().denoise(latent(), NOISE, 1)


# Tiles of the UNet


@pytest.mark.parametrize("size", [(1, 1), (5, 16), (8, 8), (13, 9)])
def test_sides_are_padded_to_multiples_of_8(present: Path, size: tuple[int, int]) -> None:
    """The last row and column are repeated, and the result is cropped."""
    found = denoiser().denoise(latent(*size), NOISE, 1)
    filled = np.pad(latent(*size), ((0, 0), (0, -size[0] % 8), (0, -size[1] % 8)), mode="edge")
    whole = denoiser().denoise(filled, NOISE, 1)
    assert np.allclose(found, whole[:, : size[0], : size[1]], atol=1e-5)


def test_tiles_of_a_unet_are_blended(present: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles are bounded, change the result a little, and change it nowhere abruptly."""
    given = latent(40, 70)
    monkeypatch.setattr(tiling, "WHOLE", 10**6)
    whole = denoiser().denoise(given, NOISE, 1)
    monkeypatch.setattr(tiling, "WHOLE", 0)
    monkeypatch.setattr(unet_module, "CORE", 32)
    seen: list[tuple[int, ...]] = []
    kind = type(networks.unet(0))
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: seen.append(tuple(inputs[0].shape)) if isinstance(module, kind) else None
    )
    told: list[int] = []
    try:
        with progress.job(lambda done, _: told.append(done)):
            denoiser().denoise(given, NOISE, 2)
        tiled = denoiser().denoise(given, NOISE, 1)
    finally:
        hook.remove()
    assert told == pytest.approx([1000 * done // 12 for done in range(13)], abs=1)
    assert len(seen) == 18
    assert all(height % 8 == width % 8 == 0 and max(height, width) <= 64 for _, _, height, width in seen)
    change = tiled - whole
    assert 0 < np.abs(change).max() < 0.5 * np.abs(whole - given).max()
    steps = np.abs(np.diff(change, axis=2)).mean((0, 1))
    assert steps.max() < 0.2 * np.abs(np.diff(whole, axis=2)).mean()


# Finding and building a UNet


@pytest.mark.parametrize("choice", ["unet", "buehlmann"])
def test_a_missing_unet_names_the_command(tmp_path: Path, choice: str) -> None:
    """The error has the size of the download and the places that were searched.  "auto" uses our own denoiser."""
    wanted = registry.model("sd-1.5").unet
    assert wanted is not None
    tiny(0).save_pretrained(tmp_path / "taesd")
    with settings.using(model_dirs=[tmp_path]):
        assert denoiser().name == SMALL
        data = images.saved(photo(), model="taesd", quality=20)
        with settings.using(denoise=choice), pytest.raises(ModelNotFoundError) as caught:
            images.opened(data).load()
    assert "`sdl models fetch --denoiser sd-1.5`" in str(caught.value)
    assert f"{wanted.megabytes} MB" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert str(tmp_path) in caught.value.searched


def test_a_unet_without_a_prompt_is_not_used(tmp_path: Path) -> None:
    """The error says that the prompt is missing, not the UNet."""
    pipeline(tmp_path / "sd-1.4", with_prompt=False)
    with settings.using(model_dirs=[tmp_path]):
        assert denoiser().name == SMALL
        with (
            settings.using(denoise="unet"),
            pytest.raises(ModelNotFoundError, match=r"prompt's embedding.*fetch --denoiser sd-1\.4` encodes it"),
        ):
            store.load_denoiser("sd1")


def test_the_setting_download_does_not_download_a_unet() -> None:
    """Gigabytes and a text encoder are downloaded by their command only."""
    with settings.using(denoise="unet", download=True), pytest.raises(ModelNotFoundError, match="sdl models fetch"):
        store.load_denoiser("sd1")


def test_the_first_unet_of_the_registry_is_used(tmp_path: Path) -> None:
    """The order is that of the models in the registry."""
    for name in ("sd-2.1", "sd-1.4"):
        pipeline(tmp_path / name)
    with settings.using(model_dirs=[tmp_path]):
        assert denoiser().name == "sd-1.4 UNet"


@pytest.mark.parametrize(
    "damage", ["weights", "a tensor", "config", "prompt", "width", "channels", "class", "embeddings"]
)
def test_a_damaged_unet_is_named(tmp_path: Path, damage: str) -> None:
    """The error is ModelMismatchError with the folder."""
    folder = pipeline(tmp_path / "sd-1.5")
    weights = folder / "unet" / local.WEIGHT_FILES[0]
    if damage == "weights":
        weights.write_bytes(b"\x10" + bytes(40))
    elif damage == "a tensor":
        tensors = load_file(weights)
        del tensors[min(tensors)]
        save_file(tensors, weights)
    elif damage == "config":
        (folder / "unet" / "config.json").write_text("{")
    elif damage == "prompt":
        save_file({"another": embedding()}, folder / local.PROMPT)
    elif damage == "width":
        save_file({local.PROMPT_TENSOR: embedding(width=5)}, folder / local.PROMPT)
    elif damage == "channels":
        networks.unet(0, in_channels=9).save_pretrained(folder / "unet")
    elif damage == "class":
        kl(0).save_pretrained(folder / "unet")
    else:
        networks.unet(
            0, addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=16
        ).save_pretrained(folder / "unet")
    with settings.using(model_dirs=[tmp_path]), pytest.raises(ModelMismatchError) as caught:
        store.load_denoiser("sd1")
    assert str(folder) in str(caught.value)


def test_float16_weights_are_computed_with_in_float32(tmp_path: Path) -> None:
    """Only the rounding of the weights shows in the result."""
    folder = pipeline(tmp_path / "sd-1.5")
    (folder / "unet" / local.WEIGHT_FILES[0]).unlink()
    networks.unet(0).half().save_pretrained(folder / "unet", variant="fp16")
    with settings.using(model_dirs=[tmp_path]):
        found = denoiser().denoise(latent(), NOISE, 1)
    epsilon = predicted(pipeline(tmp_path / "whole"), np.sqrt(PLAN.abar[TIME]) * latent(), TIME)
    wanted = latent() - np.sqrt((1 - PLAN.abar[TIME]) / PLAN.abar[TIME]) * epsilon
    assert 0 < np.abs(found - wanted).max() < 1e-2


def test_threads_share_one_unet(present: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads that ask at once build it once, for both ways to use it.  After `release` it is built anew."""
    built: list[str] = []
    build = unet_module.UNet

    def counted(name: str, *arguments: Any) -> unet_module.UNet:
        built.append(name)
        return build(name, *arguments)

    monkeypatch.setattr(unet_module, "UNet", counted)
    barrier = threading.Barrier(8)

    def load(number: int) -> NDArray[np.float32]:
        barrier.wait()
        with settings.using(model_dirs=[present], denoise="buehlmann" if number % 2 else "unet"):
            return denoiser().denoise(latent(), NOISE, 1)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(load, range(8)))
    assert built == ["sd-1.5"]
    assert all(np.array_equal(found[number], found[number % 2]) for number in range(8))
    store.release()
    denoiser()
    assert built == ["sd-1.5", "sd-1.5"]


# Our own denoiser


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of random weights for our own denoiser of sd1, in place of the one that ships."""
    torch.manual_seed(3)
    path = tmp_path / "random.safetensors"
    state = small_denoiser.DenoiserNetwork().state_dict()
    save_file({name: tensor.half().numpy() for name, tensor in state.items()}, path)
    replace_denoiser(monkeypatch, registry.StoredFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest()))
    return path


def replace_denoiser(monkeypatch: pytest.MonkeyPatch, stored: registry.StoredFile | None) -> None:
    """Give the space sd1 another denoiser of our own, or none.   stored: its `file` may be an absolute path."""
    known = registry.load()
    spaces = tuple(
        dataclasses.replace(space, denoiser=stored) if space.name == "sd1" else space for space in known.spaces
    )
    changed = dataclasses.replace(known, spaces=spaces)
    monkeypatch.setattr(registry, "load", lambda: changed)


def test_our_own_denoiser_is_used_without_a_unet(present: Path, tmp_path: Path) -> None:
    """It is used if there is no UNet, and if it is asked for by name.  It is loaded once until it is released."""
    assert denoiser().name == "sd-1.5 UNet"
    with settings.using(denoise="small"):
        found = denoiser()
        assert found.name == SMALL
        assert denoiser() is found
        store.release()
        assert denoiser() is not found
    with settings.using(model_dirs=[tmp_path]):
        assert denoiser().name == SMALL
        with settings.using(denoise="unet"), pytest.raises(ModelNotFoundError, match="UNet"):
            store.load_denoiser("sd1")
    with settings.using(denoise="off"):
        assert store.load_denoiser("sd1") is None


def test_a_space_without_our_own_denoiser_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice "small" is an error then, and "auto" finds nothing."""
    replace_denoiser(monkeypatch, None)
    with settings.using(denoise="small"), pytest.raises(ModelNotFoundError, match=r"no denoiser 'small'.*sd1"):
        store.load_denoiser("sd1")
    assert store.load_denoiser("sd1") is None
    assert store.has_denoiser("sd1")  # A UNet can be downloaded.


@pytest.mark.parametrize("space", registry.load().spaces, ids=lambda space: space.name)
def test_a_space_has_a_denoiser_if_the_registry_has_one(space: registry.Space) -> None:
    """It may be our own, or the UNet of a model."""
    unets = [model for model in registry.load().models if model.space == space.name and model.unet]
    assert store.has_denoiser(space.name) == bool(space.denoiser or unets)


@pytest.mark.parametrize("space", [space for space in registry.load().spaces if space.denoiser], ids=lambda s: s.name)
def test_our_own_denoisers_are_small(space: registry.Space) -> None:
    """Each takes at most 8 MB of the package."""
    assert space.denoiser is not None
    assert space.denoiser.path.stat().st_size <= 8_000_000


@pytest.mark.parametrize("step", [0.5, 0.75, 1.0])
def test_our_own_denoiser_lowers_the_error(step: float) -> None:
    """It removes at least a fifth of the squared error that rounding makes of smooth surfaces and edges."""
    rows, columns = np.mgrid[:48, :48] / 24
    channels = [np.sin(2 * rows + index) + 0.7 * (columns + index / 3 > 1) + 0.3 * rows * columns for index in range(4)]
    clean = np.stack(channels).astype(np.float32) - 0.5
    coarse = np.rint(clean / np.float32(step)) * np.float32(step)
    with settings.using(denoise="small"):
        found = denoiser().denoise(coarse, Noise(step / 12**0.5, palette=False), 1)
    assert np.square(found - clean).mean() < 0.8 * np.square(coarse - clean).mean()


def test_a_damaged_file_of_our_own_denoiser_is_named(small: Path) -> None:
    """The error has both hashes.  A missing file is ModelNotFoundError."""
    expected = hashlib.sha256(small.read_bytes()).hexdigest()
    small.write_bytes(small.read_bytes()[:-1] + b"\1")
    with settings.using(denoise="small"), pytest.raises(ModelMismatchError) as caught:
        store.load_denoiser("sd1")
    assert str(small) in str(caught.value)
    assert (caught.value.expected, caught.value.found) == (expected, hashlib.sha256(small.read_bytes()).hexdigest())
    small.unlink()
    with settings.using(denoise="small"), pytest.raises(ModelNotFoundError, match=r"random\.safetensors is missing"):
        store.load_denoiser("sd1")


def test_our_own_denoiser_computes_its_network(small: Path) -> None:
    """A latent of any size is padded to whole positions of the coarsest level and denoised in float32."""
    coarse = latent(9, 14)
    network = small_denoiser.DenoiserNetwork()
    network.load_state_dict({name: torch.from_numpy(tensor).float() for name, tensor in load_file(small).items()})
    filled = np.pad(coarse, ((0, 0), (0, 3), (0, 2)), mode="edge")
    for given in (Noise(0.2, palette=False), Noise(0.2, palette=True), Noise(0.3, palette=True)):
        with torch.inference_mode():
            deviation, palette = (torch.tensor([value], dtype=torch.float32) for value in given)
            wanted = network(torch.from_numpy(filled)[None], deviation, palette)[0, :, :9, :14].numpy()
        with settings.using(denoise="small"):
            found = denoiser().denoise(coarse, given, 1)
        assert found.dtype == np.float32
        assert np.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("size", [(30, 90), (90, 30)])
def test_tiles_of_our_own_denoiser_join_exactly(
    size: tuple[int, int], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A position depends on no position beyond the margin."""
    coarse, given = latent(*size), Noise(0.3, palette=False)
    with settings.using(denoise="small"):
        whole = denoiser().denoise(coarse, given, 1)
        monkeypatch.setattr(tiling, "WHOLE", 1)
        monkeypatch.setattr(small_denoiser, "CORE", 20)
        told: list[int] = []
        with progress.job(lambda done, _: told.append(done)):
            tiled = denoiser().denoise(coarse, given, 1)
    assert told == [100 * done for done in range(11)]
    assert np.abs(whole - coarse).max() > 0.01
    assert np.allclose(tiled, whole, atol=1e-5)


# Pictures


@pytest.mark.parametrize("options", [{"quality": 10}, {"quantizer": "palette", "palette_size": 9}])
def test_a_file_is_denoised_before_it_is_decoded(present: Path, options: dict[str, Any]) -> None:
    """The decoder gets the denoised latent, and the image says what denoised it."""
    target = io.BytesIO()
    pillow_sdl.from_latents(latent(10, 12), target, model="taesd", **options)
    data = target.getvalue()
    with images.opened(data) as image:
        image.load()
    assert image.info["sdl_denoiser"] == "sd-1.5 UNet"
    assert image.info["sdl_decoder"] == "taesd"
    found = decode.quantized(images.parsed(data))
    assert found.noise.palette == ("quantizer" in options)
    noisy = found.dequantize()
    clean = denoiser().denoise(noisy, found.noise, 1)
    decoder = store.load(registry.model("taesd"))
    assert np.array_equal(np.asarray(image), decoder.decode(clean, found.rate))
    assert not np.array_equal(np.asarray(image), decoder.decode(noisy, found.rate))


def test_the_settings_choose_the_denoiser(present: Path) -> None:
    """The choice "auto" is the UNet if there is one.  The other choices and more steps give other pictures."""
    data = images.saved(photo(), model="taesd", quality=10)
    found, names = {}, {}
    for choice in ({"denoise": name} for name in ("auto", "unet", "buehlmann", "off")):
        with pillow_sdl.using(**choice), images.opened(data) as image:
            image.load()
            found[choice["denoise"]] = image.tobytes()
            names[choice["denoise"]] = image.info.get("sdl_denoiser")
    with pillow_sdl.using(denoise_steps=5), images.opened(data) as image:
        found["five steps"] = image.tobytes()
    assert found["auto"] == found["unet"]
    assert len(set(found.values())) == 4
    assert names == {
        "auto": "sd-1.5 UNet",
        "unet": "sd-1.5 UNet",
        "buehlmann": "sd-1.5 UNet, setting of 2022",
        "off": None,
    }


@pytest.mark.parametrize("choice", settings.DENOISE_CHOICES)
def test_the_embedded_space_has_no_denoiser(present: Path, choice: str, plain_file: bytes) -> None:
    """Its decoder is told the rate instead.  Files open whatever the setting is."""
    with settings.using(denoise=choice), images.opened(plain_file) as image:
        image.load()
    assert "sdl_denoiser" not in image.info
    assert image.info["sdl_decoder"] == registry.EMBEDDED


def test_no_denoiser_is_loaded_if_there_is_nothing_to_remove(models: Path, tmp_path: Path) -> None:
    """A file of the best rate opens although the UNet that is asked for is missing."""
    with settings.using(model_dirs=[models]):
        data = images.saved(photo(), model="taesd", quality=100)
    tiny(0).save_pretrained(tmp_path / "taesd")
    with settings.using(model_dirs=[tmp_path], denoise="unet"), images.opened(data) as image:
        image.load()
    assert "sdl_denoiser" not in image.info


def test_previews_are_not_denoised(present: Path) -> None:
    """A preview needs no network."""
    with images.opened(images.saved(photo(), model="taesd", quality=10)) as image:
        image.thumbnail((24, 24))
    assert image.info["sdl_decoder"] == "preview"
    assert "sdl_denoiser" not in image.info


def test_every_call_of_the_unet_is_reported(present: Path) -> None:
    """Three steps report twice more often than one, in a progress that grows from 0 to 1000."""
    data = images.saved(photo(), model="taesd", quality=10)
    found = {}
    for steps in (1, 3):
        calls: list[tuple[int, int]] = []
        with pillow_sdl.using(denoise_steps=steps, progress=lambda *call, seen=calls: seen.append(call)):
            images.opened(data).load()
        assert calls == sorted(calls)
        assert (calls[0], calls[-1]) == ((0, 1000), (1000, 1000))
        found[steps] = len(calls)
    assert found[3] == found[1] + 2


def test_decoding_does_not_import_transformers(present: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedding of the prompt is read from its file, so the text encoder is not loaded."""
    data = images.saved(photo(), model="taesd", quality=10)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with images.opened(data) as image:
        image.load()
    assert image.info["sdl_denoiser"] == "sd-1.5 UNet"


def test_decoding_prints_nothing(
    present: Path, tmp_path: Path, python: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Diffusers and torch are silent too, in a process that loads them for a picture."""
    (path := tmp_path / "photo.sdl").write_bytes(images.saved(photo(), model="taesd", quality=10))
    monkeypatch.setenv("PILLOW_SDL_MODELS", str(present))
    program = "import sys, pillow_sdl; from PIL import Image; print(Image.open(sys.argv[1]).convert('1').mode)"
    assert python(program, path) == "1"


def test_the_command_line_chooses_the_denoiser(present: Path, tmp_path: Path) -> None:
    """--denoise and --denoise-steps have the effect of the settings."""
    (path := tmp_path / "photo.sdl").write_bytes(images.saved(photo(), model="taesd", quality=10))
    for flags, options in (
        ([], {}),
        (["--denoise", "off"], {"denoise": "off"}),
        (["--denoise", "buehlmann"], {"denoise": "buehlmann"}),
        (["--denoise-steps", "4"], {"denoise_steps": 4}),
    ):
        target = tmp_path / "shown.png"
        assert cli.main(["decode", "--quiet", "-f", *flags, str(path), "-o", str(target)]) == 0
        with settings.using(**options), images.opened(path.read_bytes()) as wanted:
            assert images.opened(target.read_bytes()).tobytes() == wanted.tobytes()
