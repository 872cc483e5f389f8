"""Latents as tensors of torch, and the hashes of networks that a program has loaded."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import pillow_sdl
from pillow_sdl import registry, settings
from pillow_sdl.models import store

from . import images, networks
from .test_latents import HASH, latent_of, written

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batch", [False, True])
def test_tensors_are_accepted_as_pipelines_have_them(dtype: torch.dtype, batch: bool) -> None:
    """In half precision, as a batch of one, with gradients and in any memory layout.  The file is that of the array."""
    tensor = torch.from_numpy(latent_of("sd1", 64, 48)).to(dtype)
    expected = written(tensor.float().numpy(), model=HASH, space="sd1")
    tensor = tensor[None] if batch else tensor
    tensor = tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert written(tensor.requires_grad_(), model=HASH, space="sd1") == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_tensor_on_a_gpu_is_accepted() -> None:
    """Pipelines leave latents there."""
    array = latent_of("sd1", 64, 48)
    tensor = torch.from_numpy(array).cuda()
    assert written(tensor, model=HASH, space="sd1") == written(array, model=HASH, space="sd1")


def test_a_tensor_of_whole_numbers_is_refused() -> None:
    """Latents are floating-point."""
    with pytest.raises(ValueError, match="floating-point"):
        written(torch.zeros((4, 4, 4), dtype=torch.int32), model=HASH, space="sd1")


@pytest.mark.usefixtures("fresh_store")
def test_the_hash_is_that_of_the_weights_on_this_machine(tmp_path: Path) -> None:
    """By the model's name and by the loaded autoencoder, the file has the hash that `save` writes."""
    (network := networks.tiny(0)).save_pretrained(tmp_path / "taesd")
    latent = latent_of("sd1", 64, 48)
    by_object = written(latent, model=network, space="sd1")
    with settings.using(model_dirs=[tmp_path], denoise="off"):
        by_name = written(latent, model="taesd")
        saved = images.saved(images.gradient(64, 48), model="taesd")
        opened = images.opened(by_name)
        opened.load()
    assert opened.info["sdl_decoder"] == "taesd"
    assert by_object == by_name
    assert images.parsed(by_name).header.model == images.parsed(saved).header.model
    assert written(latent, model=pillow_sdl.model_hash(network), space="sd1") == by_name


@pytest.mark.usefixtures("fresh_store")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_hash_of_a_network_is_that_of_its_file(dtype: torch.dtype, tmp_path: Path) -> None:
    """For every dtype and memory layout, `post_quant_conv` included."""
    network = networks.kl(3).to(dtype)
    network.save_pretrained(tmp_path / "sd-vae-ft-mse")
    with settings.using(model_dirs=[tmp_path]):
        expected = store.hash_of(registry.model("sd-vae-ft-mse"))
    assert pillow_sdl.model_hash(network) == expected
    assert pillow_sdl.model_hash(network.to(memory_format=torch.channels_last)) == expected
    other = torch.float32 if dtype != torch.float32 else torch.float16
    assert pillow_sdl.model_hash(network.to(other)) != expected


def test_the_hash_of_a_network_is_that_of_the_specification() -> None:
    """The example of SPEC 7.2 and a number without dimensions, listed by hand."""

    class Module:
        def state_dict(self) -> dict[str, Any]:
            return {
                "encoder.x": torch.ones(3),
                "post_quant_conv.bias": torch.tensor(1.5, dtype=torch.bfloat16),
                "decoder.w": torch.tensor([1.0, -2.0]),
            }

    listing = b"post_quant_conv.bias\0BF16\0\0\xc0\x3f" + bytes.fromhex(
        "77 00 46 33 32 00 32 00 00 00 80 3F 00 00 00 C0"
    )
    assert pillow_sdl.model_hash(Module()) == hashlib.sha256(listing).hexdigest()[:32]


@pytest.mark.parametrize(
    ("tensor", "match"),
    [(torch.zeros(2, device="meta"), "no values"), (torch.zeros(2, dtype=torch.complex64), "complex64")],
)
def test_a_network_without_values_has_no_hash(tensor: torch.Tensor, match: str) -> None:
    """Nor has one whose dtype no file of weights can hold."""

    class Module:
        def state_dict(self) -> dict[str, Any]:
            return {"decoder.w": tensor}

    with pytest.raises(ValueError, match=match):
        pillow_sdl.model_hash(Module())


def test_a_network_without_a_decoder_has_no_hash() -> None:
    """The message names its class."""
    with pytest.raises(ValueError, match="Linear has no decoder"):
        written(np.zeros((4, 4, 4), np.float32), model=torch.nn.Linear(2, 2), space="sd1")
