"""Training runs, resumes exactly, and its checkpoint becomes what ships."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file as numpy_file
from safetensors.torch import save_file

from benchmarks.metrics import Lpips
from pillow_sdl.latent import spaces
from pillow_sdl.latent.noise import Noise
from training import denoiser, latents, train

from . import images
from .test_diffusion import tiny

LPIPS_SHAPES = {"conv0": (64, 3, 11), "conv1": (192, 64, 5), "conv2": (384, 192, 3), "conv3": (256, 384, 3)}
LPIPS_SHAPES |= {"conv4": (256, 256, 3)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two pictures, and LPIPS weights of the right shapes with random values."""
    folder = tmp_path_factory.mktemp("data")
    for index in range(2):
        Image.effect_noise((160, 140), 80).convert("RGB").save(folder / f"{index}.png")
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for index, (name, (outputs, inputs, size)) in enumerate(LPIPS_SHAPES.items()):
        weights[f"{name}.weight"] = torch.randn(outputs, inputs, size, size, generator=generator) / (inputs * size)
        weights[f"{name}.bias"] = torch.zeros(outputs)
        weights[f"lin{index}.weight"] = torch.rand(1, outputs, 1, 1, generator=generator)
    save_file(weights, folder / "lpips_alex.safetensors")
    return folder


def arguments(data: Path, run: Path, *more: str) -> list[str]:
    """A run of 4 tiny steps."""
    fixed = ["--data", str(data), "--metrics", str(data), "--run", str(run), "--steps", "4", "--every", "2"]
    shape = ["--batch", "2", "--crop", "64", "--perceptual-ramp", "0", "0.5", "--dists-weight", "0"]
    return [*fixed, *shape, *more]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The trained weights of a run."""
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    found: dict[str, torch.Tensor] = state["codec"]
    return found


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the checkpoint of step 2 and started again, it ends with the weights of an unbroken run."""
    train.main(arguments(data, tmp_path / "whole"))

    calls = 0
    compute = train.compute_loss

    def stop_at_third(*given: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return compute(*given)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(train, "compute_loss", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            train.main(arguments(data, tmp_path / "broken"))
    train.main(arguments(data, tmp_path / "broken"))

    whole, broken = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert whole.keys() == broken.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(broken[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    assert len((tmp_path / "broken" / "log.txt").read_text().splitlines()) == 2


def test_training_changes_every_network(data: Path, tmp_path: Path) -> None:
    """Encoder, decoder, context model and tables all get gradients."""
    train.main(arguments(data, tmp_path, "--seed", "5"))
    torch.manual_seed(5)
    before = train.Codec().state_dict()
    after = weights(tmp_path)
    for part in ("autoencoder.encoder", "autoencoder.decoder", "rate_model.context", "rate_model.log2_steps"):
        names = [name for name in before if name.startswith(part)]
        assert names
        assert any(not torch.equal(before[name], after[name]) for name in names), part


def test_a_checkpoint_becomes_weights_tables_and_hashes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Export writes what the package reads, and puts the hashes where the tests of the specification look."""
    from pillow_sdl.models import store
    from training import export

    root = tmp_path / "project"
    for name in ("pillow_sdl/models/cards.py", "pillow_sdl/latent/spaces.py", "spec/registry.md"):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).parent.parent / name, target)
    monkeypatch.setattr(export, "WEIGHTS", root / "pillow_sdl" / "weights")
    monkeypatch.setattr(export, "PREVIEW_CROP", 64)
    train.main(arguments(data, tmp_path / "run"))
    export.main(["--run", str(tmp_path / "run"), "--data", str(data)])

    from safetensors.numpy import load_file

    tensors = load_file(root / "pillow_sdl" / "weights" / "sdl1.safetensors")
    decoder = {n.removeprefix("decoder."): t for n, t in tensors.items() if n.startswith("decoder.")}
    found = store.tensor_hash(decoder).hex()
    assert f'hash="{found}"' in (root / "pillow_sdl/models/cards.py").read_text()
    assert f"| embedded | sdl1 | {found} |" in (root / "spec/registry.md").read_text()
    tables = load_file(root / "pillow_sdl" / "weights" / "sdl1-tables.safetensors")
    assert tables["log2_steps"].dtype == np.int16
    assert tables["log2_steps"].shape[1] == spaces.by_name("sdl1").channels
    assert tables["preview"].shape == (spaces.by_name("sdl1").channels + 1, 192)


def test_latents_of_photos_become_tables_and_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents of which the pixels are a sum: the preview's map is that sum, the steps are those of the context model."""
    from safetensors.numpy import load_file

    from pillow_sdl.latent import preview, quantize
    from training import context, tables

    root = tmp_path / "project"
    for name in ("pillow_sdl/latent/spaces.py", "spec/registry.md"):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).parent.parent / name, target)
    weights = root / "pillow_sdl" / "weights"
    weights.mkdir()
    monkeypatch.setattr(tables, "WEIGHTS", weights)

    random = np.random.default_rng(0)
    made = {}
    for index in range(3):
        images.noise(160, 140, seed=index).save(tmp_path / f"{index}.png")
    for path, scale in zip(sorted(tmp_path.glob("*.png")), latents.SCALES, strict=True):
        pixels = latents.middle(path, tables.CROP, scale)
        blocks = pixels.reshape(pixels.shape[0] // 8, 8, pixels.shape[1] // 8, 8, 3).mean((1, 3)).transpose(2, 0, 1)
        # Mean colours, 0.5 as 0, and a channel without any meaning.
        made[path.name] = np.concatenate([blocks / 255 - 0.5, random.normal(size=(1, *blocks.shape[1:]))])
    np.savez(tmp_path / "sd1.npz", allow_pickle=False, **made)
    tables.main(["--space", "sd1", "--latents", str(tmp_path / "sd1.npz"), "--data", str(tmp_path), "--ship"])

    path = weights / "sd1-tables.safetensors"
    found = load_file(path)
    taken = spaces.Tables(found["log2_steps"], found["preview"].astype(np.float32))
    deviation = np.mean(np.sqrt(np.mean([np.square(latent).mean((1, 2)) for latent in made.values()], 0)))
    for rate, octave in ((255, context.OCTAVES[0]), (0, context.OCTAVES[1])):
        assert quantize.steps(taken.log2_steps, rate) == pytest.approx(deviation * 2**octave, rel=2**-8)
    assert found["log2_steps"].dtype == np.int16
    assert found["preview"].dtype == np.float16
    latent = np.array([0.1, -0.2, 0.3, 0], np.float32)[:, None, None]
    assert np.abs(preview.preview(latent, taken, 1) - 255 * (0.5 + latent[:3, 0, 0])).max() < 2
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"sd1-tables.safetensors` | {digest} |" in (root / "spec/registry.md").read_text()
    row = f'name="sd1",\n        channels=4,\n        factor=8,\n        tables_sha256="{digest}"'
    assert row in (root / "pillow_sdl/latent/spaces.py").read_text()


@pytest.fixture(scope="module")
def sd1(data: Path) -> Path:
    """Latents as training.latents writes them, of the photos in a folder of their own, and an AutoencoderTiny."""
    folder = data / "sd1"
    (folder / "photos").mkdir(parents=True)
    for index in range(2):
        images.noise(160, 144, seed=index).save(folder / "photos" / f"{index}.png")
    tiny(0).save_pretrained(folder / "taesd")
    places = ["--model", str(folder / "taesd"), "--data", str(folder / "photos"), "--out", str(folder)]
    latents.main(["--space", "sd1", *places])
    return folder


def denoiser_arguments(sd1: Path, run: Path, *more: str) -> list[str]:
    """A run of 4 tiny steps, with palettes."""
    fixed = ["--latents", str(sd1 / "sd1.npz"), "--run", str(run), "--steps", "4", "--every", "2"]
    return [*fixed, "--batch", "2", "--crop", "8", "--palettes", str(sd1 / "palettes.npz"), *more]


def test_a_denoiser_is_trained_in_stages_and_goes_on_where_it_stopped(
    data: Path, sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run cut off after step 2 ends as an unbroken one; the second stage begins with the first one's weights."""
    denoiser.main(denoiser_arguments(sd1, tmp_path / "whole"))

    take, calls = denoiser.Latents.batch, 0

    def stop_at_third(self: denoiser.Latents, *given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return take(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(denoiser.Latents, "batch", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            denoiser.main(denoiser_arguments(sd1, tmp_path / "broken"))
    denoiser.main(denoiser_arguments(sd1, tmp_path / "broken"))
    whole, broken = (denoiser.read_average(tmp_path / name).state_dict() for name in ("whole", "broken"))
    for name, tensor in whole.items():
        torch.testing.assert_close(broken[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    log = (tmp_path / "broken" / "log.txt").read_text().splitlines()
    assert [line.split()[1] for line in log] == ["2", "4"]

    monkeypatch.setattr(denoiser, "Dists", Lpips)  # VGG-16 is too much for a test
    seen = ["--data", str(sd1 / "photos"), "--model", str(sd1 / "taesd"), "--metrics", str(data)]
    second = denoiser_arguments(sd1, tmp_path / "seen", *seen, "--init", str(tmp_path / "whole"), "--lr", "1e-9")
    denoiser.main(second)
    after = denoiser.read_average(tmp_path / "seen").state_dict()
    for name, tensor in whole.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    assert "lpips" in (tmp_path / "seen" / "log.txt").read_text()


def test_crops_of_latents_are_those_of_the_photos(sd1: Path) -> None:
    """The pixels are where the latent is; the quantised latent is off by as much as is said."""
    found = denoiser.Latents(sd1 / "sd1.npz", sd1 / "photos", 512)
    encode = latents.encoder("sd1", sd1 / "taesd")
    batch = found.batch(8, 8, np.random.default_rng(0))
    assert batch.pixels is not None
    assert not batch.palette.any()
    for latent, photo in zip(batch.clean, batch.pixels, strict=True):
        again = encode((255 * photo).round().byte().permute(1, 2, 0).numpy())
        # A crop's middle is seen as in the whole photo.
        assert np.abs(again[:, 3:5, 3:5] - latent[:, 3:5, 3:5].numpy()).max() < 0.05
    error = (batch.coarse - batch.clean).abs().amax((1, 2, 3))
    assert (error <= batch.deviation * 12**0.5 / 2 + 1e-6).all()
    assert (error > batch.deviation * 12**0.5 / 4).any()


def test_a_denoiser_that_is_trained_can_ship(sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file is what the package reads, and its hash stands in the table of models and in the registry."""
    from pillow_sdl.models.denoiser import SmallDenoiser

    root = tmp_path / "project"
    for name in ("pillow_sdl/models/cards.py", "spec/registry.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).parent.parent / name, root / name)
    shelf = root / "pillow_sdl" / "weights"
    shelf.mkdir()
    monkeypatch.setattr(denoiser, "WEIGHTS", shelf)
    denoiser.main(denoiser_arguments(sd1, tmp_path / "run"))
    denoiser.main(["--run", str(tmp_path / "run"), "--ship"])
    path = shelf / "sd1-denoiser.safetensors"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert f'"sd1": "{digest}"' in (root / "pillow_sdl/models/cards.py").read_text()
    assert f"sd1-denoiser.safetensors` | {digest} |" in (root / "spec/registry.md").read_text()
    latent = np.random.default_rng(0).normal(size=(4, 8, 8)).astype(np.float32)
    shipped = SmallDenoiser("sd1-denoiser", numpy_file(path), "cpu")
    trained = denoiser.read_average(tmp_path / "run")
    told = Noise(0.2, palette=False)
    with torch.inference_mode():
        wanted = trained(torch.from_numpy(latent)[None], torch.tensor([0.2]), torch.tensor([0.0]))[0].numpy()
    assert np.abs(shipped.denoise(latent, told, 1) - wanted).max() < 0.01
