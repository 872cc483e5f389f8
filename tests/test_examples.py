"""The programs in examples/: a data set of latents, and a pipeline of diffusers that redraws a file."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

import pillow_sdl
from examples import dataset, img2img

from . import networks
from .conftest import SPACE
from .test_latents import HASH, latent_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of the space sd1 in a folder, and one in a folder below it."""
    (tmp_path / "below").mkdir()
    for seed, name in enumerate(["a.sdl", "b.sdl", "below/c.sdl"]):
        latent = latent_of("sd1", 64 + 16 * seed, 72, seed)
        pillow_sdl.from_latents(latent, tmp_path / name, model=HASH, space="sd1", quality=100)
    return tmp_path


def test_a_folder_is_a_data_set(folder: Path) -> None:
    """It yields random squares of the latents.  Mean and deviation are those of normally distributed numbers."""
    latents = dataset.LatentFolder(folder, 8)
    assert len(latents) == 3
    assert latents[0].shape == (4, 8, 8)
    whole = torch.from_numpy(pillow_sdl.latents(folder / "b.sdl").latent)
    torch.manual_seed(0)
    seen = [latents[1] for _ in range(40)]
    places = {
        (top, left)
        for square in seen
        for top, left in itertools.product(range(2), range(3))
        if torch.equal(square, whole[:, top : top + 8, left : left + 8])
    }
    assert places == set(itertools.product(range(2), range(3)))
    mean, deviation = dataset.statistics(latents)
    assert mean.shape == deviation.shape == (4,)
    assert mean.abs().max() < 0.25
    assert (deviation - 1).abs().max() < 0.2


def test_workers_read_a_data_set(folder: Path, python: Callable[..., str]) -> None:
    """They are forked from a process that has decoded a picture.  The program has 120 seconds, because it may hang."""
    program = """if True:
        import sys
        from pathlib import Path
        from examples import dataset
        from tests import images
        images.reopened(images.gradient(20, 20)).load()
        mean, deviation = dataset.statistics(dataset.LatentFolder(Path(sys.argv[1]), 8), workers=2)
        print(*map(tuple, (mean.shape, deviation.shape)))
    """
    assert python(program, folder, timeout=120) == "(4,) (4,)"


def test_a_data_set_names_the_file_that_does_not_fit(folder: Path) -> None:
    """A file that is too small, and one of another space."""
    with pytest.raises(ValueError, match=r"a\.sdl has 8 x 9 latent positions of the space sd1; at least 9 x 9"):
        _ = dataset.LatentFolder(folder, 9)[0]
    with pytest.raises(ValueError, match="of sdxl are needed"):
        _ = dataset.LatentFolder(folder, 8, "sdxl")[0]


def test_the_program_of_the_data_set_prints_statistics(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line for each channel.  An empty folder is an error."""
    monkeypatch.setattr(sys, "argv", ["dataset", str(folder), "--side", "8"])
    dataset.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 latents"
    assert [line.split(":")[0] for line in lines[1:]] == [f"channel {channel}" for channel in range(4)]
    (folder / "empty").mkdir()
    monkeypatch.setattr(sys, "argv", ["dataset", str(folder / "empty")])
    with pytest.raises(SystemExit):
        dataset.main()


def test_a_pipeline_of_diffusers_redraws_a_file(folder: Path) -> None:
    """With a small random UNet.  Almost no noise gives almost the same latent, and more noise gives another one."""
    classes: Any = diffusers  # Its type stubs are incomplete.
    scheduler = classes.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1
    )
    pipeline = classes.StableDiffusionImg2ImgPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=networks.unet(0),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    source, near, far = folder / "b.sdl", folder / "near.sdl", folder / "far.sdl"
    for steps, strength, target in ((1000, 0.001, near), (4, 0.5, far)):
        img2img.redraw(
            pipeline,
            source,
            target,
            strength=strength,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(0),
            prompt_embeds=torch.ones(1, networks.TOKENS, networks.WIDTH),
            guidance_scale=1,
        )
    before, after, other = map(pillow_sdl.latents, (source, near, far))
    assert before[1:] == after[1:] == other[1:]
    assert np.abs(after.latent - before.latent).mean() < 0.1 * np.abs(before.latent).mean()
    assert np.abs(other.latent - before.latent).mean() > 0.2 * np.abs(before.latent).mean()
    with Image.open(far) as image:
        assert image.size == (80, 72)


def test_a_file_of_another_space_is_not_redrawn(plain_path: Path, tmp_path: Path) -> None:
    """Its latent means something else to the UNet."""
    with pytest.raises(ValueError, match=f"of the space {SPACE.name}"):
        img2img.redraw(None, plain_path, tmp_path / "x.sdl")
    assert not (tmp_path / "x.sdl").exists()
