"""Training: runs that resume exactly, gradients, losses, comparisons, and what ships from a run."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import save_file
from torch.nn import functional as F

from benchmarks.metrics import Dists, Lpips
from benchmarks.peers import encoder
from pillow_sdl import registry
from pillow_sdl.format import container
from pillow_sdl.latent import context, entropy, preview, scalar, spaces
from pillow_sdl.latent.noise import Noise
from pillow_sdl.models.networks import embedded
from pillow_sdl.models.networks.denoiser import SmallDenoiser
from pillow_sdl.models.networks.embedded import EmbeddedAutoencoder, Layout
from training import codec as codecs
from training import (
    compare,
    denoiser,
    distributions,
    latents,
    loop,
    manifest,
    muon,
    perceptual,
    ship,
    shipping,
    start,
    synthetic,
    tables,
    train,
)
from training import context as context_training
from training import preview as preview_map
from training.data import Photos
from training.discriminator import Adversary
from training.rate import KNOTS, RateModel
from training.twin import ContextModel

from . import images, networks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.research

ROOT = Path(__file__).parent.parent
GRACE = ROOT / "docs" / "grace_hopper.jpg"

NARROW = Layout(width=16, coarse_width=16, fine_width=16)
TINY = replace(NARROW, base=4, channels=16, encoder=(1, 1, 1), decoder=(1, 1, 1), coarse=1, fine=(1, 1))
"""Few channels, and one block in each place where training has several."""

LPIPS_SHAPES = {"conv0": (64, 3, 11), "conv1": (192, 64, 5), "conv2": (384, 192, 3), "conv3": (256, 384, 3)}
LPIPS_SHAPES |= {"conv4": (256, 256, 3)}

VGG = 8
"""Channels of all layers of the tests' VGG."""


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Compute with one thread, which is faster for small layers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(small: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two photos, random weights of LPIPS and of a narrow DISTS, and start.pt of tiny networks."""
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
    vgg, inputs = {}, 3
    for index in range(13):
        vgg[f"conv{index}.weight"] = (torch.randn(VGG, inputs, 3, 3, generator=generator) / (3 * inputs**0.5)).half()
        vgg[f"conv{index}.bias"] = torch.zeros(VGG).half()
        inputs = VGG
    save_file(vgg, folder / "vgg16_fp16.safetensors")
    features = {name: torch.rand(1, 3 + 5 * VGG, 1, 1, generator=generator) for name in ("alpha", "beta")}
    save_file(features, folder / "dists.safetensors")
    torch.manual_seed(0)
    state = {"layout": asdict(TINY), "network": EmbeddedAutoencoder(TINY).state_dict(), "deviation": torch.ones(16)}
    torch.save(state, folder / "start.pt")
    return folder


def arguments(data: Path, run: Path, *more: str) -> list[str]:
    """Return the command line of a run of 4 tiny steps."""
    places = ["--data", str(data), "--metrics", str(data), "--run", str(run), "--init", str(data / "start.pt")]
    return [*places, "--steps", "4", "--every", "2", "--batch", "2", "--crop", "64", "--dists-crops", "1", *more]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a run's last step."""
    state = torch.load(run / loop.CHECKPOINT, weights_only=True)
    found: dict[str, torch.Tensor] = state["codec"]
    return found


def interrupted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, action: Callable[[], None]) -> None:
    """Run an action, and interrupt it at the third call of a function."""
    function, calls = getattr(owner, name), 0

    def stop_at_third(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return function(*given)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            action()


def photo_tensor(width: int, height: int, seed: int = 0) -> torch.Tensor:
    """Return noise in 0..1, float32 (1, 3, H, W)."""
    return torch.from_numpy(np.array(images.noise(width, height, seed=seed))).permute(2, 0, 1)[None].float() / 255


# Runs


def test_an_interrupted_run_ends_with_the_weights_of_an_unbroken_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stops after the checkpoint of step 2, and goes on without --init."""
    more = ("--adversarial", "0.1", "--context-first", "1")
    train.main(arguments(data, tmp_path / "whole", *more))
    broken = tmp_path / "broken"
    interrupted(monkeypatch, train, "compute_loss", lambda: train.main(arguments(data, broken, *more)))
    again = arguments(data, broken, *more)
    again[again.index("--init") : again.index("--init") + 2] = []
    train.main(again)
    expected, found = weights(tmp_path / "whole"), weights(broken)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    log = (broken / "log.txt").read_text().splitlines()
    assert [line.split()[1] for line in log] == ["2", "4"]
    assert {"bpp", "mse", "lpips", "dists", "adversarial", "discriminator", "loss"} <= set(log[0].split())


def test_a_run_needs_a_start(data: Path, tmp_path: Path) -> None:
    """Without a checkpoint and --init, the message says so, and no folder is made."""
    places = ["--data", str(data), "--metrics", str(data), "--run", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="has no checkpoint, and --init names nothing"):
        train.main(places)
    assert not (tmp_path / "run").exists()


def test_training_changes_every_network(data: Path, tmp_path: Path) -> None:
    """Encoder, decoder, context model and steps get gradients."""
    first = tmp_path / "first"
    train.main(arguments(data, first, "--lr", "1e-9"))
    train.main(arguments(data, tmp_path / "run", "--init", str(first)))
    before, after = codecs.read_codec(first)[0].state_dict(), weights(tmp_path / "run")
    for part in ("autoencoder.encoder", "autoencoder.decoder", "rate_model.context", "rate_model.log2_steps"):
        names = [name for name in before if name.startswith(part)]
        assert names
        assert any(not torch.equal(before[name], after[name]) for name in names), part


def test_a_decoder_is_trained_against_a_discriminator(data: Path, tmp_path: Path) -> None:
    """Only the decoder changes, so files do not; the discriminator is part of the checkpoint."""
    first = tmp_path / "first"
    train.main(arguments(data, first))
    more = ("--init", str(first), "--decoder-only", "--adversarial", "0.1")
    train.main(arguments(data, tmp_path / "run", *more))
    before, after = codecs.read_codec(first)[0].state_dict(), weights(tmp_path / "run")
    decoder = {name for name in before if name.startswith("autoencoder.decoder.")}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert changed <= decoder
    # The running mean, which ships, has the same frozen parts.
    mean = codecs.read_codec(tmp_path / "run")[0].state_dict()
    for name in before.keys() - decoder:
        torch.testing.assert_close(mean[name], before[name], rtol=0, atol=0, msg=name)

    state = torch.load(tmp_path / "run" / loop.CHECKPOINT, weights_only=True)
    adversary = Adversary(TINY.channels, torch.device("cpu"))
    adversary.load_state_dict(state["adversary"])
    random = torch.Generator().manual_seed(0)
    pixels, output = torch.rand(2, 2, 3, 64, 64, generator=random)
    latent = torch.randn(2, TINY.channels, 4, 4, generator=random)
    losses = [adversary.learn(pixels, output, latent) for _ in range(30)]
    assert losses[-1] < losses[0]
    assert adversary.optimizer.state_dict()["state"][0]["step"] == 4 + 30
    # It looks at the latent, not only at the pixels.
    assert not torch.equal(adversary.loss(output, latent), adversary.loss(output, -latent))


def test_the_encoder_has_a_learning_rate_of_its_own(data: Path, tmp_path: Path) -> None:
    """With a factor of 0 all that writes files stays, while the decoder learns."""
    for factor in ("0", "0.5", "1"):
        train.main(arguments(data, tmp_path / factor, "--encoder-lr", factor))
    before = dict(codecs.started(data / "start.pt").named_parameters())
    torch.manual_seed(0)
    moved = [weights(tmp_path / factor) for factor in ("0", "0.5", "1")]
    for name in (name for name in before if name.startswith("autoencoder.")):
        still, slow, fast = (float((each[name] - before[name]).detach().abs().max()) for each in moved)
        if name.startswith("autoencoder.decoder."):
            assert still > 0 or fast == 0, name
        else:
            assert still == 0, name
            assert 0 < slow < fast or fast == 0, name


def test_the_context_model_can_learn_alone_at_first(data: Path) -> None:
    """With `learn_rate_alone` the rate's gradient ends at the context model."""
    codec = codecs.started(data / "start.pt")
    pixels, rate = photo_tensor(64, 64), torch.tensor([0.5])
    batch = train.through(codec, pixels, rate, decoder_only=False, learn_rate_alone=True)
    batch.bits.sum().backward()  # type: ignore[no-untyped-call]
    with_gradient = {name for name, parameter in codec.named_parameters() if parameter.grad is not None}
    assert with_gradient
    assert all(name.startswith("rate_model.context.") for name in with_gradient)


@pytest.mark.parametrize("balance", [0.0, 0.65, 1.0])
def test_rates_are_balanced(data: Path, balance: float) -> None:
    """A high rate's error counts more than a low one's by the ratio of the weights to the power of 1 - balance."""
    pixels = torch.rand(1, 3, 64, 64).expand(2, -1, -1, -1)
    output = (pixels + 0.1).requires_grad_()
    batch = train.Batch(pixels, torch.tensor([0.0, 1.0]), torch.zeros(2, 16, 4, 4), output, torch.zeros(2))
    options = argparse.Namespace(steps=1, error_weight=0.0008, lpips_weight=0.0, dists_weight=0.0, balance=balance)
    metrics = perceptual.Perceptual(data, torch.device("cpu"), 0)
    loss, parts = train.compute_loss(batch, metrics, None, options, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert output.grad is not None
    low, high = output.grad.abs().sum((1, 2, 3)).tolist()
    ratio = train.HIGHEST_WEIGHT / train.LOWEST_WEIGHT
    assert high / low == pytest.approx(ratio ** (1 - balance), rel=1e-3)
    assert parts["mse"] == pytest.approx(25.5**2, rel=1e-3)
    assert "dists" not in parts


def test_dists_of_some_crops_stands_for_all(data: Path) -> None:
    """One crop of two counts twice."""
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    batch = train.Batch(pixels, torch.zeros(2), torch.zeros(2, 16, 4, 4), 1 - pixels, torch.zeros(2))
    options = argparse.Namespace(steps=1, error_weight=0.0, lpips_weight=0.0, dists_weight=1.0, balance=0.0)
    metrics = perceptual.Perceptual(data, torch.device("cpu"), 1)
    loss, parts = train.compute_loss(batch, metrics, None, options, 0)
    assert loss.item() == pytest.approx(train.LOWEST_WEIGHT * 2 * parts["dists"] / 2)


def test_validation_figures_are_those_of_rounded_symbols(data: Path) -> None:
    """More bits at higher rates, and the PSNR of the decoder's picture."""
    codec = codecs.started(data / "start.pt").eval()
    crops = photo_tensor(64, 64)

    class Fixed(Photos):
        def __init__(self) -> None:
            pass

        def batch(self, count: int, size: int, generator: np.random.Generator) -> torch.Tensor:
            return crops

    metrics = Lpips(data), Dists(data)
    found = train.validate(codec, Fixed(), metrics, torch.device("cpu"))
    assert 0 < found["val0.05_bpp"] < found["val0.95_bpp"]
    with torch.inference_mode():
        latent, rate = codec.autoencoder.encoder(crops), torch.tensor([0.5])
        steps = codec.rate_model.steps(rate)
        output = codec.autoencoder.decoder((latent / steps).round() * steps, rate).clamp(0, 1)
    assert found["val0.5_psnr"] == pytest.approx(-10 * np.log10((output - crops).square().mean().item()), abs=1e-3)
    with torch.inference_mode():
        expected = [metric(output, crops).item() for metric in metrics]
    assert [found["val0.5_lpips"], found["val0.5_dists"]] == pytest.approx(expected, abs=1e-6)


# Parts of the loops


def test_the_fast_dists_is_dists(data: Path) -> None:
    """It differs by the precision of bfloat16, and so does its gradient."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, 64, 48, generator=generator)
    found = []
    for metric in (Dists(data), perceptual.FastDists(data)):
        output = (pixels + 0.2 * torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))).requires_grad_()
        distance = metric(output, pixels)
        distance.sum().backward()
        assert output.grad is not None
        found.append((distance.detach(), output.grad.flatten()))
    (exact, gradient), (fast, near) = found
    assert exact.min() > 0.01
    torch.testing.assert_close(fast, exact, rtol=0.03, atol=0)
    assert F.cosine_similarity(near, gradient, dim=0) > 0.98


def test_lpips_leaves_out_an_offset_and_dists_sees_some_crops(data: Path) -> None:
    """The reference gets no gradient."""
    random = torch.Generator().manual_seed(0)
    pixels, output = torch.rand(2, 3, 3, 64, 64, generator=random)
    output.requires_grad_()
    metric = perceptual.Perceptual(data, torch.device("cpu"), 2, float32=True)
    lpips, dists = metric(output, pixels, (1, 3))
    torch.testing.assert_close(lpips, Lpips(data)(output[:, :, 1:, 3:], pixels[:, :, 1:, 3:]))
    torch.testing.assert_close(dists, Dists(data)(output[:2], pixels[:2]))
    lpips, dists = perceptual.Perceptual(data, torch.device("cpu"), 0)(output, pixels, (0, 0))
    assert (lpips.shape, dists.shape) == ((3,), (0,))


def test_learning_rates_rise_and_fall() -> None:
    """A half cosine ends at a fiftieth of the peak; a trapezoid is flat in between, and ends at zero."""
    cosine = [loop.half_cosine(step, 100, 1.0, 10) for step in range(101)]
    assert cosine[0] == pytest.approx(0.1)
    assert cosine[100] == pytest.approx(0.02)
    assert cosine[10:] == sorted(cosine[10:], reverse=True)
    flat = [loop.trapezoid(step, 100, 1.0, 10, 0.25) for step in range(101)]
    assert flat[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert flat[10:76] == [1.0] * 66
    assert flat[75:] == pytest.approx([1 - 0.04 * step for step in range(26)])


def test_means_are_over_the_steps_that_have_a_value() -> None:
    """DISTS may be in some steps only."""
    assert loop.means([{"a": 1.0}, {"a": 3.0, "b": 5.0}]) == {"a": 2.0, "b": 5.0}


def test_muon_makes_updates_orthogonal() -> None:
    """Singular values are near 1, and the step has the size that was asked for, whatever the gradient's."""
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((6, 40), (40, 6)):
        matrices = torch.randn(3, rows, columns, generator=generator) * 1e-4
        values = torch.linalg.svdvals(muon.orthogonal(matrices))
        assert values.min() > 0.6
        assert values.max() < 1.3
    network = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.Flatten(), torch.nn.Linear(16, 4))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    found = muon.optimizers([(network, 1.0)], 1e-3, 4.0)
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    muon.step(found, 1e-3)
    moved = [
        (now.detach() - was).square().mean().sqrt().item()
        for now, was in zip(network.parameters(), before, strict=True)
    ]
    # About 0.2 of 4 times the rate for the convolution.  Adam's first step is the rate, for all other weights.
    assert moved[0] == pytest.approx(0.2 * 4e-3, rel=0.2)
    assert moved[1:] == pytest.approx([1e-3] * 3, rel=0.01)
    assert [type(optimizer) for optimizer in muon.optimizers([(network, 1.0)], 1e-3, 0.0)] == [torch.optim.Adam]


def test_a_resumed_run_has_the_factors_of_its_own_options() -> None:
    """The checkpoint gives the momentum, the command line the factors on the learning rate."""
    network = torch.nn.Conv2d(4, 4, 3)
    kept = muon.optimizers([(network, 1.0)], 1e-3, 4.0)
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    muon.step(kept, 1e-3)
    found = muon.optimizers([(network, 0.5)], 1e-3, 2.0)
    muon.load(found, [optimizer.state_dict() for optimizer in kept])
    assert [group["factor"] for optimizer in found for group in optimizer.param_groups] == [0.5, 1.0]
    assert all(optimizer.state for optimizer in found)


def test_a_share_of_the_crops_is_drawn_on() -> None:
    """A share of 0 changes nothing.  Some drawings cover a whole crop, and all kinds have levels in 0..255."""
    generator = np.random.default_rng(0)
    crops = torch.full((40, 3, 48, 48), 2.0)
    synthetic.mix_in(crops, 0.0, generator)
    assert (crops == 2).all()
    synthetic.mix_in(crops, 0.5, generator)
    whole = (crops <= 1).flatten(1).all(1)
    drawn_on = (crops <= 1).flatten(1).any(1)
    assert 10 < drawn_on.sum() < 30
    assert 0 < whole.sum() < drawn_on.sum()
    assert (crops[~drawn_on] == 2).all()
    assert crops.min() >= 0
    for kind in synthetic.KINDS:
        levels = np.asarray(kind(48, generator))
        assert levels.shape == (48, 48, 3)
        assert levels.min() >= 0
        assert levels.max() <= 255


# Networks and their start


def test_the_new_layers_change_nothing_at_first() -> None:
    """With an orthogonal transform the codec gives the picture of its trunk, at every rate."""
    torch.manual_seed(0)
    autoencoder = EmbeddedAutoencoder(TINY).eval()
    start.silence_new_layers(autoencoder)
    matrix = torch.linalg.qr(torch.randn(16, 16))[0]
    with torch.inference_mode():
        autoencoder.encoder.transform.weight.copy_(matrix[:, :, None, None])
        autoencoder.decoder.transform.weight.copy_(matrix.T[:, :, None, None])
        for layer in (autoencoder.encoder.transform, autoencoder.decoder.transform):
            assert layer.bias is not None
            layer.bias.zero_()
        pixels = photo_tensor(96, 64)
        expected = autoencoder.decoder.trunk(autoencoder.encoder.trunk(pixels)[2])
        for rate in (0.0, 0.7):
            found = autoencoder.decoder(autoencoder.encoder(pixels), torch.tensor([rate]))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        # The rate counts once the modulation is trained.
        block = autoencoder.decoder.at2[0]
        block.modulate.weight.normal_()  # type: ignore[union-attr, operator]
        outputs = [autoencoder.decoder(autoencoder.encoder(pixels), torch.tensor([rate])) for rate in (0.0, 0.7)]
    assert not torch.allclose(*outputs)


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an AutoencoderTiny that has the layers of TAESD, but narrow ones, and random weights."""
    folder = tmp_path_factory.mktemp("teacher")
    blocks = {"num_encoder_blocks": (1, 3, 3, 3), "num_decoder_blocks": (3, 3, 3, 1)}
    widths = {f"{part}_block_out_channels": (16,) * 4 for part in ("encoder", "decoder")}
    networks.tiny(0, **blocks, **widths).save_pretrained(folder)
    return folder


def test_the_start_has_the_layers_of_the_tiny_autoencoder(teacher_folder: Path) -> None:
    """The teacher is that of diffusers, and the networks give what it gives between the replaced stages."""
    from diffusers import AutoencoderTiny

    teacher = start.Teacher(teacher_folder, torch.device("cpu"))
    autoencoder = EmbeddedAutoencoder(replace(NARROW, base=teacher.base, encoder=(3, 3, 3), decoder=(3, 3, 3))).eval()
    start.take_over(autoencoder, teacher)
    reference: Any = AutoencoderTiny.from_pretrained(teacher_folder)  # type: ignore[no-untyped-call]
    pixels = photo_tensor(64, 48)
    with torch.inference_mode():
        first, z = teacher.encode(pixels)
        torch.testing.assert_close(z, reference.encode(2 * pixels - 1).latents, rtol=0, atol=1e-5)
        torch.testing.assert_close(teacher.decode(z), reference.decode(z).sample / 2 + 0.5, rtol=0, atol=1e-5)
        encoder, decoder = autoencoder.encoder, autoencoder.decoder
        at8 = encoder.at8(encoder.down8(encoder.at4(encoder.down4(encoder.at2(first)))))
        torch.testing.assert_close(encoder.tail(at8), z, rtol=0, atol=1e-5)
        # The last stage of the decoder is the teacher's up to the layer that doubles the size.
        kept: list[torch.Tensor] = []
        decoder.tail.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
        decoder.trunk(z)
        torch.testing.assert_close(kept[0], teacher.decoder[:15](3 * torch.tanh(z / 3)), rtol=0, atol=1e-5)


def test_a_start_is_made_and_can_be_trained(
    teacher_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The components of the transform are uncorrelated, have the deviations of the file, and can be inverted.

    The other channels are random features.
    """
    for name, value in (("BATCH", 2), ("CROP", 64), ("TRANSFORM_BATCHES", 3), ("TRANSFORM_CROP", 128)):
        monkeypatch.setattr(start, name, value)
    places = ["--data", str(data), "--metrics", str(data), "--run", str(tmp_path)]
    start.main(["--teacher", str(teacher_folder), *places, "--steps", "2"])
    codec = codecs.started(tmp_path / "start.pt")
    autoencoder = codec.autoencoder
    generator, photos = np.random.default_rng(0), Photos(data, 128)
    with torch.inference_mode():
        pixels = torch.cat([photos.batch(2, 128, generator) for _ in range(3)])
        latent = autoencoder.encoder(pixels)
        _, _, z = autoencoder.encoder.trunk(pixels)
        torch.testing.assert_close(autoencoder.decoder.transform(latent), F.pixel_unshuffle(z, 2), rtol=0, atol=1e-4)
    values = latent.permute(0, 2, 3, 1).reshape(-1, 64).double()
    saved = torch.load(tmp_path / "start.pt", weights_only=True)["deviation"].double().numpy()
    for channels in (values[:, 16:].std(0).numpy(), saved[16:]):
        assert channels == pytest.approx(np.full(48, start.EXTRA_DEVIATION), rel=1e-3)
    components, deviation = values[:, :16], saved[:16]
    covariance = (components.T @ components / len(components)).numpy()
    assert np.abs(covariance - np.diag(np.maximum(deviation**2, 1e-4))).max() < 1e-3 * max(1, deviation[0] ** 2)
    assert (np.diff(deviation) <= 0).all()
    train.main(arguments(data, tmp_path / "run", "--init", str(tmp_path / "start.pt"), "--steps", "1"))
    assert codecs.read_codec(tmp_path / "run")[1]["step"] == 1


# Photos and comparisons


def test_a_folder_of_photos_is_checked_against_its_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A photo that is missing, changed or added is reported; a photo without a license is refused."""
    folder, origins, listed = tmp_path / "train", tmp_path / "origins.csv", tmp_path / "manifest.csv"
    (folder / "0").mkdir(parents=True)
    for name in ("a", "b", "c"):
        images.noise(20, 30, seed=ord(name)).save(folder / "0" / f"{name}.png")
    lines = [f'train/0/{name}.png,"repository:path, {name}",{tier}' for name, tier in (("a", "P1"), ("b", "P2"))]
    lines += ["validation/0/c.png,elsewhere,P1"]
    origins.write_text("\n".join(["file,origin,tier", *lines]) + "\n")
    write = ["--data", str(folder), "--origins", str(origins), "--output", str(listed)]
    with pytest.raises(SystemExit, match=r"no license for 0/c\.png"):
        manifest.main(write)
    (folder / "0" / "c.png").rename(tmp_path / "c.png")
    manifest.main(write)
    _, *rows = csv.reader(listed.read_text("utf-8").splitlines())
    digest = hashlib.sha256((folder / "0" / "a.png").read_bytes()).hexdigest()
    assert rows[0] == ["0/a.png", "20", "30", digest, "repository:path, a", "open"]
    assert [row[-1] for row in rows] == ["open", "terms"]

    check = ["--data", str(folder), "--check", str(listed)]
    with pytest.raises(SystemExit) as caught:
        manifest.main(check)
    assert caught.value.code == 0
    (tmp_path / "c.png").rename(folder / "0" / "c.png")
    (folder / "0" / "b.png").unlink()
    images.noise(20, 30, seed=9).save(folder / "0" / "a.png")
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        manifest.main(check)
    assert caught.value.code == 1
    told = capsys.readouterr().out.splitlines()
    assert told == ["0/b.png: not in the folder", "0/c.png: not in the list", "0/a.png: another file"]


def test_runs_are_compared_with_what_ships(data: Path, tmp_path: Path) -> None:
    """The figures of the shipped model are those of its files: bytes, and PSNR of what Pillow opens."""
    photos = tmp_path / "photos"
    photos.mkdir()
    photo = Image.open(GRACE).crop((100, 100, 260, 228))
    photo.save(photos / "a.png")
    Image.open(GRACE).crop((0, 0, 200, 200)).save(photos / "b.png")
    train.main(arguments(data, tmp_path / "run"))
    places = ["--photos", str(photos), "--metrics", str(data), "--output", str(tmp_path / "found.json")]
    runs = ["--run", str(tmp_path / "run"), compare.SHIPPED]
    compare.main([*places, *runs, "--limit", "1", "--rates", "0.4", "0.8", "--crop", "160"])
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["photos"] == 1
    assert [(mean["run"], mean["rate"]) for mean in found["means"]] == [
        (name, rate) for name in ("run", "shipped") for rate in (0.4, 0.8)
    ]
    random, ours = (next(mean for mean in found["means"] if mean["run"] == name) for name in ("run", "shipped"))
    assert random["psnr"] < ours["psnr"]
    # Effort 0 rounds, as training does.
    written = images.saved(photo, quality=40, effort=0, payload="range")
    file = container.read(io.BytesIO(written))
    assert abs(file.header.rate - 0.4 * 255) <= 1
    payload = file.get(container.Name.LATENT)
    assert payload is not None
    assert 8 * len(payload) / (160 * 128) == pytest.approx(ours["bpp"], rel=0.03)
    assert ours["float_bpp"] == pytest.approx(ours["bpp"], rel=0.05)
    error = np.asarray(images.opened(written)).astype(float) - np.asarray(photo)
    assert -10 * np.log10(np.square(error / 255).mean()) == pytest.approx(ours["psnr"], abs=0.1)
    with pytest.raises(FileNotFoundError, match=r"no .jpg or .png"):
        compare.crops(tmp_path / "run", 64, None)


def test_the_twin_of_what_ships_is_its_integer_table() -> None:
    """Tables survive the way into the float twin and back, and so do the steps."""
    codec = codecs.shipped()
    space = registry.space(registry.EMBEDDED)
    table, again = spaces.read_arrays(space.context), codec.rate_model.context.tensors()
    assert table.keys() == again.keys()
    for name, values in table.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)
    for code in (0, 40, 128, 255):
        steps = scalar.steps(spaces.tables(space).log2_steps, code)
        with torch.inference_mode():
            found = codec.rate_model.steps(torch.tensor([code / 255]))
        np.testing.assert_allclose(found[0, :, 0, 0].numpy(), steps, rtol=2**-8)


# What ships


def checkout(folder: Path) -> Path:
    """Copy what shipping may change, and the programs that it runs, into a folder, and return it."""
    for name in ("pillow_sdl", "spec", "tests/golden"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "docs").mkdir()
    shutil.copy(GRACE, folder / "docs")
    return folder


def contents(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below a folder, without Python's caches."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def registry_of(root: Path) -> dict[str, Any]:
    """Return the registry of a checkout."""
    found: dict[str, Any] = json.loads((root / "pillow_sdl/weights/registry.json").read_text("utf-8"))
    return found


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Return the values of a registry by their places, such as "models.sdl.weights.sha256"."""
    if isinstance(value, dict):
        items = [(f"{name}.{key}".strip("."), entry) for key, entry in value.items()]
    elif isinstance(value, list):
        items = [(f"{name}.{entry.get('name', index)}", entry) for index, entry in enumerate(value)]
    else:
        return {name: value}
    found: dict[str, Any] = {}
    for key, entry in items:
        found |= flat(entry, key)
    return found


def dummy_codec() -> codecs.Codec:
    """Return a codec of the network that the package has now, with random weights."""
    torch.manual_seed(0)
    network = embedded.EmbeddedAutoencoder()
    channels = registry.space(registry.EMBEDDED).channels
    sizes = [channels // 4, channels - channels // 4]
    twin = ContextModel(np.arange(channels), sizes, np.full(channels, 0.1), [16, 8], window=1, reach=2)
    log2_steps = torch.linspace(-2, -6, KNOTS)[:, None].expand(KNOTS, channels)
    return codecs.Codec(network, RateModel(log2_steps, twin)).eval()


def test_the_registry_is_written_as_it_was_read(tmp_path: Path) -> None:
    """A shelf that nothing is put into changes no byte, and an error leaves everything as it was."""
    root = checkout(tmp_path / "checkout")
    before = contents(root)
    with shipping.Shelf(root):
        pass
    assert contents(root) == before

    def fail_at_the_second_entry() -> None:
        with shipping.Shelf(root) as shelf:
            shelf.store(shelf.entry("spaces", "sd1"), "tables", "", {"log2_steps": np.zeros(3)})
            shelf.entry("spaces", "none")

    with pytest.raises(SystemExit, match="no none among its spaces: sd1, sdxl"):
        fail_at_the_second_entry()
    assert contents(root) == before


def test_a_run_becomes_the_embedded_model(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, python: Callable[..., str]
) -> None:
    """Weights, tables, context model, graphs, their entries, vectors and golden files change, and nothing else does.

    The checkout then writes and reads files with the new model.
    """
    root, codec = checkout(tmp_path / "checkout"), dummy_codec()
    before, entries = contents(root), flat(registry_of(root))
    monkeypatch.setattr(ship, "read_codec", lambda _: (codec, {"step": 7}))
    for name, value in (("PREVIEW_CROP", 64), ("PREVIEW_BATCHES", 2), ("PREVIEW_BATCH", 2)):
        monkeypatch.setattr(ship, name, value)
    ship.main(["--run", str(tmp_path), "--data", str(data), "--root", str(root)])

    after = contents(root)
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    name = registry.EMBEDDED
    model, space = registry.model(name), registry.space(name)
    assert model.weights is not None
    assert model.graphs is not None
    stored = (model.weights, space.tables, space.context, model.graphs.encoder, model.graphs.decoder)
    weights = {f"pillow_sdl/weights/{part.file}" for part in stored} | {"pillow_sdl/weights/registry.json"}
    # The graphs refer to places in the weights, which are the same for the same layout.
    assert {f"pillow_sdl/weights/{part.file}" for part in stored[:3]} <= changed
    assert all(entry in weights or entry.startswith(("spec/vectors/", "tests/golden/")) for entry in changed)
    assert {"spec/vectors/ok_embedded_range.sdl", "tests/golden/sdl.sdl"} <= changed

    found = flat(registry_of(root))
    assert found.keys() == entries.keys()
    altered = {key for key in found if found[key] != entries[key]}
    parts = ("weights.sha256", "hash", "graphs.encoder.sha256", "graphs.decoder.sha256")
    allowed = {f"models.{name}.{part}" for part in parts}
    allowed |= {f"spaces.{name}.tables.sha256", f"spaces.{name}.context.sha256"}
    assert {f"models.{name}.hash", f"models.{name}.weights.sha256", f"spaces.{name}.tables.sha256"} <= altered
    assert altered <= allowed
    for key, entry in found.items():
        if key.endswith(".file"):
            digest = after[f"pillow_sdl/weights/{entry}"]
            assert found[key.removesuffix("file") + "sha256"] == digest, key

    monkeypatch.setenv("PYTHONPATH", str(root))
    program = f"""
import sys
sys.path.insert(0, {str(root)!r})
import io
import numpy as np
from PIL import Image
import pillow_sdl
from pillow_sdl import decode
from pillow_sdl.format import container
assert pillow_sdl.__file__.startswith({str(root)!r})
stream = io.BytesIO()
Image.open({str(GRACE)!r}).crop((0, 0, 90, 70)).save(stream, "SDL", payload="range")
Image.open(stream).load()
symbols = decode.quantized(container.read(io.BytesIO(stream.getvalue()))).symbols
print(np.abs(symbols).max() > 0)
"""
    assert python(program) == "True"


def test_weights_that_the_package_cannot_run_are_refused(data: Path, tmp_path: Path) -> None:
    """Another layout is refused before anything is written."""
    root = checkout(tmp_path / "checkout")
    before = contents(root)
    train.main(arguments(data, tmp_path / "run", "--steps", "1"))
    with pytest.raises(SystemExit, match=r"networks/embedded\.py does not take the weights of this run"):
        ship.main(["--run", str(tmp_path / "run"), "--data", str(data), "--root", str(root), "--no-vectors"])
    assert contents(root) == before


def test_a_network_that_gives_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights may fit by name and shape while the package computes something else with them."""
    codec = dummy_codec()
    arrays = shipping.as_float16(codec.autoencoder.state_dict())
    with pytest.raises(SystemExit, match="another latent"):
        ship.at_run_time(codec, arrays | {"encoder.head.0.bias": np.ones(64, np.float16)})
    with torch.no_grad():
        codec.autoencoder.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    network = ship.at_run_time(codec, arrays)
    assert network.channels == registry.space(registry.EMBEDDED).channels
    monkeypatch.setattr(embedded.EmbeddedModel, "decode", lambda *_: np.full((64, 64, 3), 255.0))
    with pytest.raises(SystemExit, match="another picture"):
        ship.at_run_time(codec, arrays)


def test_weights_that_float16_cannot_hold_are_refused() -> None:
    """The message names the weight."""
    with pytest.raises(SystemExit, match=r"a\.bias has a weight"):
        shipping.as_float16({"a.weight": torch.ones(2), "a.bias": torch.tensor([1e6])})


def test_the_integer_table_costs_what_the_twin_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The payload of a trained twin's table has the size that the rounded twin gives."""
    codec = dummy_codec()
    twin = codec.rate_model.context
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    channels = codec.rate_model.log2_steps.shape[1]
    octaves = torch.full((1, channels), -4.0)
    random = np.random.default_rng(0)
    symbols = np.rint(random.normal(size=(channels, 16, 16)) * 0.1 * 2**4).astype(np.int16)
    table = context.Model.from_tensors(twin.tensors())
    monkeypatch.setattr(context, "model", lambda _: table)
    method = registry.load().payloads["range"]
    payload = entropy.encode(symbols, method, registry.EMBEDDED, (256 * octaves[0].numpy()).astype(np.int64))
    twin.rounding.on = True
    with torch.inference_mode():
        bits = twin(torch.from_numpy(symbols)[None].float(), octaves).item()
    assert len(payload) == pytest.approx(bits / 8, rel=0.01)
    assert compare.payload_size(table, symbols, octaves[0].numpy()) == len(payload)


def test_the_shipped_preview_shows_the_colors_of_a_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a latent of mean colors the preview of one pixel for each position is that color."""

    class Means(torch.nn.Module):
        def encoder(self, pixels: torch.Tensor) -> torch.Tensor:
            return F.avg_pool2d(pixels, 16)

    for name, value in (("PREVIEW_CROP", 64), ("PREVIEW_BATCHES", 4), ("PREVIEW_BATCH", 4)):
        monkeypatch.setattr(ship, name, value)
    shutil.copy(GRACE, tmp_path)
    twin = ContextModel(np.arange(3), [3], np.ones(3), [4, 4], window=1, reach=2)
    codec = codecs.Codec(Means(), RateModel(torch.full((KNOTS, 3), -9.0), twin))
    latent = np.array([0.45, 0.5, 0.6], np.float32)[:, None, None]
    taken = spaces.Tables(np.zeros((2, 3), np.int16), ship.fit_preview(codec, Photos(tmp_path, 64)).astype(np.float32))
    assert np.abs(preview.preview(latent, taken, 1) - 255 * latent[:, 0, 0]).max() < 3


def test_the_shipped_distributions_are_those_of_the_program(tmp_path: Path) -> None:
    """The table can be made again, byte for byte."""
    root = checkout(tmp_path / "checkout")
    before = contents(root)
    distributions.main(["--root", str(root)])
    assert contents(root) == before


def test_the_map_of_the_preview_has_the_least_squared_error() -> None:
    """A ridge makes the map smaller and keeps the system solvable if a channel is zero."""
    random = np.random.default_rng(0)
    latent = random.normal(size=(2, 6, 5))
    latent[1] = 0
    pixels = np.repeat(np.repeat(0.5 + 0.1 * latent[0], 8, 0), 8, 1)[:, :, None].repeat(3, 2)
    with pytest.raises(np.linalg.LinAlgError):
        preview_map.fit([(latent, pixels)], 2)
    found = preview_map.fit([(latent, pixels)], 2, 1e-3)
    np.testing.assert_allclose(found[0], 0.1, atol=1e-3)
    np.testing.assert_allclose(found[1], 0, atol=1e-6)
    np.testing.assert_allclose(found[2], 0.5, atol=1e-3)
    with pytest.raises(ValueError, match="does not fit a picture"):
        preview_map.fit([(latent, pixels[:-1])], 2)


@pytest.fixture(scope="module")
def sd1(data: Path) -> Path:
    """A folder with photos, an AutoencoderTiny, and the latents that training.latents writes of the photos."""
    folder = data / "sd1"
    (folder / "photos").mkdir(parents=True)
    for index in range(2):
        images.noise(160, 144, seed=index).save(folder / "photos" / f"{index}.png")
    networks.tiny(0).save_pretrained(folder / "taesd")
    places = ["--model", str(folder / "taesd"), "--data", str(folder / "photos"), "--out", str(folder)]
    latents.main(["--space", "sd1", *places])
    return folder


def test_latents_of_photos_become_tables(tmp_path: Path) -> None:
    """Pixels that are a sum of channels: the preview's map is that sum; the steps are those of the context model."""
    folder, root = tmp_path / "photos", checkout(tmp_path / "checkout")
    folder.mkdir()
    random = np.random.default_rng(0)
    made = {}
    for index in range(3):
        images.noise(160, 140, seed=index).save(folder / f"{index}.png")
    names = [f"{index}.png" for index in range(3)]
    for name, pixels in zip(names, latents.photos_of(names, folder, latents.CROP), strict=True):
        blocks = pixels.reshape(pixels.shape[0] // 8, 8, pixels.shape[1] // 8, 8, 3).mean((1, 3)).transpose(2, 0, 1)
        # Mean colors with 0.5 as 0, and a channel without any meaning.
        made[name] = np.concatenate([blocks / 255 - 0.5, random.normal(size=(1, *blocks.shape[1:]))])
    np.savez(tmp_path / "sd1.npz", allow_pickle=False, **made)
    before, entries = contents(root), flat(registry_of(root))
    places = ["--latents", str(tmp_path / "sd1.npz"), "--data", str(folder), "--root", str(root)]
    tables.main(["--space", "sd1", *places])

    after, found = contents(root), flat(registry_of(root))
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"pillow_sdl/weights/registry.json", "pillow_sdl/weights/sd1-tables.safetensors"}
    assert {key for key in found if found[key] != entries[key]} == {"spaces.sd1.tables.sha256"}
    assert found["spaces.sd1.tables.sha256"] == after["pillow_sdl/weights/sd1-tables.safetensors"]
    arrays = load_file(root / "pillow_sdl/weights/sd1-tables.safetensors")
    taken = spaces.Tables(arrays["log2_steps"], arrays["preview"].astype(np.float32))
    deviation = np.mean(np.sqrt(np.mean([np.square(latent).mean((1, 2)) for latent in made.values()], 0)))
    for rate, octave in ((255, context_training.OCTAVES[0]), (0, context_training.OCTAVES[1])):
        assert scalar.steps(taken.log2_steps, rate) == pytest.approx(deviation * 2**octave, rel=2**-8)
    assert arrays["log2_steps"].dtype == np.int16
    assert arrays["preview"].dtype == np.float16
    latent = np.array([0.1, -0.2, 0.3, 0], np.float32)[:, None, None]
    assert np.abs(preview.preview(latent, taken, 1) - 255 * (0.5 + latent[:3, 0, 0])).max() < 2
    with pytest.raises(SystemExit, match="not the latents of the photos"):
        tables.main(["--space", "sd1", "--latents", str(tmp_path / "sd1.npz"), "--data", str(tmp_path)])


def test_a_context_model_is_trained_resumed_and_shipped(
    sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that stops after step 2 ends as an unbroken one, with a table of the form that the package reads."""
    root = checkout(tmp_path / "checkout")
    fixed = ["--space", "sd1", "--latents", str(sd1 / "sd1.npz"), "--groups", "2", "2", "--hidden", "6", "4"]
    fixed += ["--window", "1", "--reach", "2", "--rounded", "0.5", "--steps", "4", "--every", "2", "--resume"]
    whole = [*fixed, "--out", str(tmp_path / "whole")]
    broken = [*fixed, "--out", str(tmp_path / "broken"), "--ship", "--root", str(root)]
    before, entries = contents(root), flat(registry_of(root))
    context_training.main(whole)
    interrupted(monkeypatch, context_training, "batch", lambda: context_training.main(broken))
    assert contents(root) == before
    context_training.main(broken)
    states = [torch.load(tmp_path / name / "sd1-context.pt", weights_only=True) for name in ("whole", "broken")]
    assert [state["step"] for state in states] == [4, 4]
    for name, tensor in states[0]["model"].items():
        torch.testing.assert_close(states[1]["model"][name], tensor, rtol=1e-4, atol=1e-6, msg=name)

    after, found = contents(root), flat(registry_of(root))
    name = "pillow_sdl/weights/sd1-context.safetensors"
    assert {path for path in after if after[path] != before[path]} == {"pillow_sdl/weights/registry.json", name}
    assert {key for key in found if found[key] != entries[key]} == {"spaces.sd1.context.sha256"}
    assert found["spaces.sd1.context.sha256"] == after[name]
    table = load_file(root / name)
    assert [len(group.channels) for group in context.Model.from_tensors(table).groups] == [2, 2]
    for name, values in ContextModel.from_tensors(table).tensors().items():
        np.testing.assert_array_equal(values, table[name], err_msg=name)


def denoiser_arguments(sd1: Path, run: Path, *more: str) -> list[str]:
    """Return the command line of a run of 4 tiny steps, with palettes."""
    fixed = ["--latents", str(sd1 / "sd1.npz"), "--run", str(run), "--steps", "4", "--every", "2"]
    return [*fixed, "--batch", "2", "--crop", "8", "--palettes", str(sd1 / "palettes.npz"), *more]


def test_a_denoiser_is_trained_in_stages_and_resumes(
    data: Path, sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that stops after step 2 ends as an unbroken one; the second stage starts with the weights of the first."""
    denoiser.main(denoiser_arguments(sd1, tmp_path / "whole"))
    broken = denoiser_arguments(sd1, tmp_path / "broken")
    interrupted(monkeypatch, denoiser.Latents, "batch", lambda: denoiser.main(broken))
    denoiser.main(broken)
    whole, resumed = (denoiser.read_average(tmp_path / name).state_dict() for name in ("whole", "broken"))
    for name, tensor in whole.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    log = (tmp_path / "broken" / "log.txt").read_text().splitlines()
    assert [line.split()[1] for line in log] == ["2", "4"]

    seen = ["--data", str(sd1 / "photos"), "--model", str(sd1 / "taesd"), "--metrics", str(data)]
    seen += ["--latents-crop", str(latents.CROP), "--init", str(tmp_path / "whole"), "--lr", "1e-9"]
    denoiser.main(denoiser_arguments(sd1, tmp_path / "seen", *seen))
    after = denoiser.read_average(tmp_path / "seen").state_dict()
    for name, tensor in whole.items():
        torch.testing.assert_close(after[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    assert "lpips" in (tmp_path / "seen" / "log.txt").read_text()


def test_crops_of_latents_are_those_of_the_photos(sd1: Path) -> None:
    """The pixels are where the latent is, and the quantized latent is off by as much as is said."""
    found = denoiser.Latents(sd1 / "sd1.npz", sd1 / "photos", latents.CROP)
    encode = encoder("sd1", sd1 / "taesd")
    batch = found.batch(8, 8, np.random.default_rng(0))
    assert batch.pixels is not None
    assert not batch.palette.any()
    for latent, photo in zip(batch.clean, batch.pixels, strict=True):
        again = encode((255 * photo).round().byte().permute(1, 2, 0).numpy())
        # The network sees the middle of a crop as in the whole photo.
        assert np.abs(again[:, 3:5, 3:5] - latent[:, 3:5, 3:5].numpy()).max() < 0.05
    # Larger latents have symbols other than zero, which are multiples of the step.
    found.latents = {name: 20 * latent for name, latent in found.latents.items()}
    batch = found.batch(8, 8, np.random.default_rng(0))
    step = batch.deviation[:, None, None, None] * 12**0.5
    symbols = batch.coarse / step
    torch.testing.assert_close(symbols, symbols.round(), rtol=0, atol=1e-3)
    assert symbols.abs().amax((1, 2, 3)).min() > 0.5
    assert ((batch.coarse - batch.clean).abs() <= step * 0.501).all()
    with pytest.raises(SystemExit, match="another size than its latent"):
        denoiser.Latents(sd1 / "sd1.npz", sd1 / "photos", 64)


def test_a_trained_denoiser_ships(sd1: Path, tmp_path: Path) -> None:
    """Its file is what the package reads, and the registry has its SHA-256."""
    root = checkout(tmp_path / "checkout")
    before, entries = contents(root), flat(registry_of(root))
    denoiser.main(denoiser_arguments(sd1, tmp_path / "run"))
    denoiser.main(["--run", str(tmp_path / "run"), "--ship", "--root", str(root)])
    after, found = contents(root), flat(registry_of(root))
    name = "pillow_sdl/weights/sd1-denoiser.safetensors"
    changed = {path for path in after if after[path] != before[path]}
    assert changed == {"pillow_sdl/weights/registry.json", name}
    assert {key for key in found if found[key] != entries[key]} == {"spaces.sd1.denoiser.sha256"}
    assert found["spaces.sd1.denoiser.sha256"] == after[name]
    latent = np.random.default_rng(0).normal(size=(4, 8, 8)).astype(np.float32)
    shipped = SmallDenoiser("sd1-denoiser", load_file(root / name), "cpu")
    trained = denoiser.read_average(tmp_path / "run")
    with torch.inference_mode():
        wanted = trained(torch.from_numpy(latent)[None], torch.tensor([0.2]), torch.tensor([0.0]))[0].numpy()
    assert np.abs(shipped.denoise(latent, Noise(0.2, palette=False), 1) - wanted).max() < 0.01
