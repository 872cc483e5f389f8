"""Training runs, resumes exactly, and its checkpoint becomes what ships."""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
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
from pillow_sdl import container
from pillow_sdl.latent import context, entropy, quantize, spaces
from pillow_sdl.latent.noise import Noise
from pillow_sdl.models import cards, embedded, store
from training import architecture, compare, denoise_or_decode, denoiser, latents, manifest, muon, train
from training.discriminator import Adversary

from . import images
from .test_diffusion import tiny

GRACE = Path(__file__).parent.parent / "docs" / "grace_hopper.jpg"
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


def test_a_decoder_is_trained_against_a_discriminator_and_resumes(data: Path, tmp_path: Path) -> None:
    """Nothing but the decoder changes; the discriminator is part of the checkpoint."""
    first = tmp_path / "first"
    train.main(arguments(data, first))
    more = ("--init", str(first), "--decoder-only", "--adversarial", "0.1")
    train.main(arguments(data, tmp_path / "whole", *more))
    before, after = train.read_codec(first).state_dict(), weights(tmp_path / "whole")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    decoder = {name for name in before if name.startswith("autoencoder.decoder.")}
    assert changed
    assert changed <= decoder
    assert "adversarial" in (tmp_path / "whole" / "log.txt").read_text()

    # The running mean, which ships, has the same buffers and frozen parts.
    mean = train.read_codec(tmp_path / "whole").state_dict()
    for name in before.keys() - decoder:
        torch.testing.assert_close(mean[name], before[name], rtol=0, atol=0, msg=name)

    state = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)
    again = Adversary(torch.device("cpu"))
    again.load_state_dict(state["adversary"])
    fresh = Adversary(torch.device("cpu"))
    random = torch.Generator().manual_seed(0)
    pixels, latent = torch.rand(2, 3, 64, 64, generator=random), torch.randn(2, 96, 4, 4, generator=random)
    output = torch.rand(2, 3, 64, 64, generator=random)
    losses = [again.learn(pixels, output, latent) for _ in range(30)]
    assert losses[-1] < losses[0]
    assert again.optimizer.state_dict()["state"][0]["step"] == 4 + 30
    assert fresh.loss(output, latent).shape == (2,)
    # It looks at the latent, not only at the pixels.
    assert not torch.equal(again.loss(output, latent), again.loss(output, -latent))


def test_a_folder_of_photos_is_held_to_its_list(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Origins and licences come from outside; a photo that is missing, another or more is told; none without a licence."""
    folder, origins, listed = tmp_path / "train", tmp_path / "origins.csv", tmp_path / "manifest.csv"
    (folder / "0").mkdir(parents=True)
    for name in ("a", "b", "c"):
        images.noise(20, 30, seed=ord(name)).save(folder / "0" / f"{name}.png")
    lines = [f'train/0/{name}.png,"repository:path, {name}",{tier}' for name, tier in (("a", "P1"), ("b", "P2"))]
    lines += ["validation/0/c.png,elsewhere,P1"]
    origins.write_text("\n".join(["file,origin,tier", *lines]) + "\n")
    write = ["--data", str(folder), "--origins", str(origins), "--output", str(listed)]
    with pytest.raises(SystemExit, match=r"no licence for 0/c\.png"):
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


def test_runs_are_compared_on_photos(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of a space that ships are those of its files: bytes, and PSNR of what Pillow opens."""
    photos = tmp_path / "photos"
    photos.mkdir()
    photo = Image.open(GRACE).crop((100, 100, 260, 228))
    photo.save(photos / "a.png")
    Image.open(GRACE).crop((0, 0, 200, 200)).save(photos / "b.png")
    train.main(arguments(data, tmp_path / "run"))
    monkeypatch.setattr(compare, "Dists", Lpips)  # VGG-16 is too much for a test
    places = ["--photos", str(photos), "--metrics", str(data), "--output", str(tmp_path / "found.json")]
    runs = ["--run", str(tmp_path / "run"), "sdl1"]
    compare.main([*places, *runs, "--limit", "1", "--rates", "0.4", "0.8", "--crop", "160"])
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["photos"] == 1
    assert [(mean["run"], mean["rate"]) for mean in found["means"]] == [
        (n, r) for n in ("run", "sdl1") for r in (0.4, 0.8)
    ]
    random, ours = (next(mean for mean in found["means"] if mean["run"] == name) for name in ("run", "sdl1"))
    assert random["psnr"] < ours["psnr"]
    # Effort 0 rounds, as training does.
    written = images.saved(photo, model="sdl1", quality=40, effort=0, payload="range")
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


@pytest.mark.parametrize("space", [space.name for space in spaces.SPACES if space.name.startswith("sdl")])
def test_training_goes_on_from_what_ships(space: str) -> None:
    """The trainable codec of a space gives the integer table, the symbols and the pixels of the one in the package."""
    codec = train.shipped(space)
    table = spaces.read_arrays(f"{space}-context", context.TABLES[space])
    again = codec.rate_model.context.tensors()
    assert table.keys() == again.keys()
    for name, values in table.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)

    card = next(card for card in cards.CARDS if card.space == space)
    network = store.load(card)
    image = np.array(images.noise(64, 48, seed=3))
    latent = network.encode(image)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    wide = train.shipped(space, 1.25)
    for code in (40, 128, 200):
        rate = torch.tensor([code / 255])
        steps = quantize.steps(spaces.by_name(space).tables.log2_steps, code)[:, None, None]
        with torch.inference_mode():
            found = codec.rate_model.steps(rate)
            batch = train.through(codec, pixels, rate, decoder_only=True)
            stretched = wide.autoencoder.decoder(batch.latent, rate / 1.25)
        np.testing.assert_allclose(found[0].numpy(), steps, rtol=2**-8)
        shown = network.decode(np.rint(latent / steps) * steps, code)
        difference = 255 * batch.output[0].permute(1, 2, 0).clamp(0, 1).numpy() - shown
        assert np.abs(difference).mean() < 2
        # A wider range of rates: what was this one lies at 0.8 of it.
        torch.testing.assert_close(stretched, batch.output, rtol=0, atol=1e-4)
    knots = spaces.by_name(space).tables.log2_steps / 256
    widest = wide.rate_model.log2_steps.detach().numpy()
    np.testing.assert_allclose(widest[0], knots[0], atol=1e-5)
    np.testing.assert_allclose(widest[-1], knots[-1] + 0.25 * 7 * (knots[-1] - knots[-2]), atol=1e-4)


@pytest.mark.parametrize("network", ["encoder", "decoder"])
def test_a_network_grows_without_a_change_of_what_it_gives(network: str) -> None:
    """New blocks do nothing until they are trained, and get gradients; to take them away again gives back what was."""
    smaller = getattr(train.shipped("sdl1").autoencoder, network)
    larger = train.reshaped(smaller, embedded.Layout((3, 3, 5), (5, 3, 4, 3)))
    generator = torch.Generator().manual_seed(0)
    given = {
        "encoder": (torch.rand(2, 3, 64, 96, generator=generator),),
        "decoder": (torch.randn(2, 96, 4, 6, generator=generator), torch.tensor([0.2, 0.9])),
    }[network]
    torch.testing.assert_close(larger(*given), smaller(*given), rtol=0, atol=0)
    larger(*given).square().sum().backward()
    before = train.by_place(smaller)
    added = [layer for place, layer in train.by_place(larger).items() if place not in before]
    assert len(added) == 4
    for layer in added:
        assert isinstance(layer, embedded.Block)
        assert layer.conv2.weight.grad is not None
        assert layer.conv2.weight.grad.abs().max() > 0
    again = train.reshaped(larger, embedded.Layout())
    torch.testing.assert_close(again(*given), smaller(*given), rtol=0, atol=0)


def test_a_run_of_another_layout_is_read_back(data: Path, tmp_path: Path) -> None:
    """Its layers come from the weights, and training goes on from the checkpoint."""
    more = ("--encoder-blocks", "2", "1", "1", "--decoder-blocks", "1", "2", "3", "2", "--muon", "4")
    train.main(arguments(data, tmp_path / "run", *more))
    codec = train.read_codec(tmp_path / "run")
    layout = embedded.Layout((2, 1, 1), (1, 2, 3, 2))
    assert codec.autoencoder.layout == layout
    train.main(arguments(data, tmp_path / "run", *more, "--steps", "6"))
    assert len((tmp_path / "run" / "log.txt").read_text().splitlines()) == 3
    # So does the network in the package.
    tensors = {name: tensor.numpy() for name, tensor in codec.autoencoder.state_dict().items()}
    model = embedded.EmbeddedModel(tensors, "cpu", "")
    assert (model.encoder_margin, model.decoder_margin) == (layout.encoder_margin, layout.decoder_margin)
    latent = np.random.default_rng(0).normal(size=(96, 2, 3)).astype(np.float32)
    assert model.decode(latent, 128).shape == (32, 48, 3)


def test_a_new_decoder_is_trained_for_the_same_files(data: Path, tmp_path: Path) -> None:
    """Of a space's codec all but the decoder stays, to the bit; the decoder has the layers that were asked for."""
    more = ("--init", "sdl1", "--decoder-only", "--new-decoder", "--decoder-blocks", "0", "1", "2", "1", "--muon", "4")
    train.main(arguments(data, tmp_path / "run", *more))
    codec, before = train.read_codec(tmp_path / "run"), train.shipped("sdl1")
    assert codec.autoencoder.layout == embedded.Layout(decoder=(0, 1, 2, 1))
    for name, tensor in before.state_dict().items():
        if not name.startswith("autoencoder.decoder."):
            torch.testing.assert_close(codec.state_dict()[name], tensor, rtol=0, atol=0, msg=name)
    with pytest.raises(SystemExit):
        train.main(arguments(data, tmp_path / "other", "--stretch", "1.2"))


def test_training_goes_on_with_a_larger_network(data: Path, tmp_path: Path) -> None:
    """Of a space's codec the rest stays; at a learning rate of none, all does."""
    more = ("--init", "sdl4", "--decoder-blocks", "2", "2", "3", "3", "--lr", "0")
    train.main(arguments(data, tmp_path / "run", *more))
    codec, before = train.read_codec(tmp_path / "run"), train.shipped("sdl4")
    assert codec.autoencoder.layout == embedded.Layout(before.autoencoder.layout.encoder, (2, 2, 3, 3))
    pixels, rate = torch.rand(1, 3, 64, 64), torch.tensor([0.5])
    with torch.inference_mode():
        outputs = [train.through(each, pixels, rate, decoder_only=True).output for each in (codec, before)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "more",
    [
        ("--new-decoder",),
        ("--init", "sdl1", "--decoder-blocks", "1", "4", "4", "4"),
        ("--init", "sdl1", "--encoder-blocks", "2", "2", "2"),
        ("--init", "sdl1", "--new-decoder", "--encoder-blocks", "3", "3", "3"),
    ],
)
def test_options_without_an_effect_are_refused(data: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    """Weights that a run starts from may get more blocks, not fewer; a new decoder has no say in the encoder."""
    with pytest.raises(SystemExit):
        train.main(arguments(data, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("optimizer", [(), ("--muon", "4")])
def test_the_encoder_has_a_rate_of_its_own(data: Path, tmp_path: Path, optimizer: tuple[str, ...]) -> None:
    """At none it stays, and with it steps and context model, while the decoder learns."""
    for factor, name in (("0", "still"), ("0.5", "slow"), ("1", "as fast")):
        train.main(arguments(data, tmp_path / name, "--init", "sdl1", "--encoder-lr", factor, *optimizer))
    before = {key: value for key, value in train.shipped("sdl1").named_parameters() if value.numel()}
    moved = {name: weights(tmp_path / name) for name in ("still", "slow", "as fast")}
    for key, parameter in before.items():
        still, slow, fast = (float((weights[key] - parameter).detach().abs().max()) for weights in moved.values())
        if key.startswith("autoencoder.decoder."):
            assert still > 0, key
        else:
            assert still == 0, key
            # Some of the context model has no part in what so small a picture costs.
            assert 0 < slow < fast or (fast == 0 and key.startswith("rate_model.context.")), key


@pytest.mark.parametrize("balance", [0.0, 0.5, 0.8, 1.0])
def test_rates_are_balanced(balance: float) -> None:
    """How much more a high rate's error counts than a low one's: 540 times, to the power of what is left to 1."""
    pixels = torch.rand(1, 3, 16, 16).expand(2, -1, -1, -1)
    output = (pixels + 0.1).requires_grad_()
    batch = train.Batch(pixels, torch.tensor([0.0, 1.0]), torch.zeros(2, 96, 1, 1), output, torch.zeros(2))
    options = argparse.Namespace(
        steps=1, perceptual_ramp=(2, 3), error_weight=0.0008, dists_from=1, dists_every=1, balance=balance
    )
    lpips: Any = None  # Not asked for squared error alone
    loss, _ = train.compute_loss(batch, (lpips, None), None, options, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert output.grad is not None
    low, high = output.grad.abs().sum((1, 2, 3)).tolist()
    assert high / low == pytest.approx(540 ** (1 - balance), rel=1e-3)


def test_muon_makes_updates_orthogonal() -> None:
    """Singular values near 1, rows or columns; the step has the size that was asked for, whatever the gradient's."""
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
    # 0.2 of 4 times the rate for the convolution's weights, about; Adam's first step is the rate, of what is no matrix.
    assert moved[0] == pytest.approx(0.2 * 4e-3, rel=0.2)
    assert moved[1:] == pytest.approx([1e-3] * 3, rel=0.01)
    assert [type(optimizer) for optimizer in muon.optimizers([(network, 1.0)], 1e-3, 0.0)] == [torch.optim.Adam]


def test_shapes_of_decoders_are_compared(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shape trains and is judged; a run that was broken off goes on with the next shape."""
    monkeypatch.setattr(architecture, "Dists", Lpips)  # VGG-16 is too much for a test
    names = [shape.name for shape in architecture.SHAPES]
    assert len(set(names)) == len(names)
    output = tmp_path / "found.json"
    fixed = ["--data", str(data), "--validation", str(data), "--metrics", str(data), "--output", str(output)]
    fixed += ["--steps", "2", "--batch", "1", "--limit", "1", "--only"]
    architecture.main([*fixed, "as sdl2"])
    first = json.loads(output.read_text())["rows"]
    architecture.main([*fixed, "as sdl2", "depthwise", "attention"])
    rows = json.loads(output.read_text())["rows"]
    assert rows[:1] == first
    assert [row["shape"]["name"] for row in rows] == ["as sdl2", "depthwise", "attention"]
    decoder = train.shipped("sdl2").autoencoder.decoder
    assert rows[0]["parameters"] == sum(parameter.numel() for parameter in decoder.parameters())
    for row in rows:
        assert [mean["rate"] for mean in row["float32"]] == list(architecture.RATES)
        assert all(0 < mean["lpips"] < 5 and 0 < mean["psnr"] < 40 for mean in row["float32"])
    assert rows[0]["float16"][0]["psnr"] == pytest.approx(rows[0]["float32"][0]["psnr"], abs=0.05)


def test_a_denoiser_is_weighed_against_a_larger_decoder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have as many parameters, about, and start from the pictures of the decoder that ships."""
    monkeypatch.setattr(denoise_or_decode, "Dists", Lpips)
    output = tmp_path / "found.json"
    fixed = ["--data", str(data), "--validation", str(data), "--metrics", str(data), "--output", str(output)]
    denoise_or_decode.main(
        [*fixed, *["--steps", "1", "--denoiser-steps", "12", "--batch", "1", "--limit", "1", "--lr", "1e-9"]]
    )
    before, control, blocks, denoiser = json.loads(output.read_text())["rows"]
    assert [row["name"] for row in (control, blocks, denoiser)] == ["as it is", "blocks", "denoiser"]
    assert denoiser["parameters"] == pytest.approx(blocks["parameters"], rel=0.02)
    assert 0.5 < denoiser["latent_error_share"] < 1.5
    for row in (control, blocks, denoiser):
        for then, now in zip(before["means"], row["means"], strict=True):
            assert now["psnr"] == pytest.approx(then["psnr"], abs=0.01)


def test_training_changes_every_network(data: Path, tmp_path: Path) -> None:
    """Encoder, decoder, context model and tables all get gradients."""
    first = tmp_path / "first"
    train.main(arguments(data, first, "--lr", "1e-9"))
    train.main(arguments(data, tmp_path / "run", "--init", str(first)))
    before, after = train.read_codec(first).state_dict(), weights(tmp_path / "run")
    for part in ("autoencoder.encoder", "autoencoder.decoder", "rate_model.context", "rate_model.log2_steps"):
        names = [name for name in before if name.startswith(part)]
        assert names
        assert any(not torch.equal(before[name], after[name]) for name in names), part


def test_a_checkpoint_becomes_weights_tables_and_hashes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Export writes what the package reads, and puts the hashes where the tests of the specification look."""
    from training import export

    root = tmp_path / "project"
    written = ("models/cards.py", "latent/spaces.py", "latent/context.py")
    for name in (*(f"pillow_sdl/{name}" for name in written), "spec/registry.md"):
        target = root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).parent.parent / name, target)
    monkeypatch.setattr(export, "WEIGHTS", root / "pillow_sdl" / "weights")
    monkeypatch.setattr(export, "PREVIEW_CROP", 64)
    train.main(arguments(data, tmp_path / "run"))
    export.main(["--run", str(tmp_path / "run"), "--data", str(data), "--space", "sdl1"])

    shelf, registry = root / "pillow_sdl" / "weights", (root / "spec/registry.md").read_text()
    tensors = numpy_file(shelf / "sdl1.safetensors")
    decoder = {n.removeprefix("decoder."): t for n, t in tensors.items() if n.startswith("decoder.")}
    found = store.tensor_hash(decoder).hex()
    assert f'hash="{found}"' in (root / "pillow_sdl/models/cards.py").read_text()
    assert f"| sdl1 | sdl1 | {found} |" in registry
    assert "| 16 | sdl1 | 96 | 16 |" in registry
    tables = numpy_file(shelf / "sdl1-tables.safetensors")
    assert tables["log2_steps"].dtype == np.int16
    assert tables["log2_steps"].shape[1] == spaces.by_name("sdl1").channels
    assert tables["preview"].shape == (spaces.by_name("sdl1").channels + 1, 192)
    for name in ("sdl1-tables", "sdl1-context"):
        digest = hashlib.sha256((shelf / f"{name}.safetensors").read_bytes()).hexdigest()
        assert f"{name}.safetensors` | {digest} |" in registry
        assert digest in (root / "pillow_sdl/latent" / f"{'spaces' if 'tables' in name else 'context'}.py").read_text()

    # The table that ships is the trained twin, and codes latents: the payload has the size that the twin foretold.
    codec = train.read_codec(tmp_path / "run")
    twin = codec.rate_model.context
    table = numpy_file(shelf / "sdl1-context.safetensors")
    random = np.random.default_rng(0)
    octaves = torch.round(256 * codec.rate_model.octaves(torch.tensor([0.9])).detach())
    scaled = random.normal(size=(96, 16, 16)) / np.exp2(octaves.numpy() / 256)[0, :, None, None]
    symbols = np.rint(scaled).astype(np.int16)
    monkeypatch.setattr(context, "model", lambda _: context.Model.from_tensors(table))
    payload = entropy.encode(symbols, entropy.RANGE, "sdl1", octaves[0].numpy().astype(np.int64))
    twin.rounding.on = True
    with torch.inference_mode():
        foretold = twin(torch.from_numpy(symbols)[None].float(), octaves / 256).item() / 8
    assert len(payload) == pytest.approx(foretold, rel=0.01)


def test_latents_of_photos_become_tables_and_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents of which the pixels are a sum: the preview's map is that sum, the steps are those of the context model."""
    from safetensors.numpy import load_file

    from pillow_sdl.latent import preview, quantize
    from training import tables
    from training.context import OCTAVES

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
    for rate, octave in ((255, OCTAVES[0]), (0, OCTAVES[1])):
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
