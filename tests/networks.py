"""Small networks of the Stable Diffusion family with random weights, in the folders of a pipeline.

Nothing here is a test.  The classes are those of diffusers and transformers.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import diffusers
import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file

from pillow_sdl.models import schedule

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest
    from numpy.typing import NDArray

WIDTH: Final = 8
"""Size of the embedding of a token."""

TOKENS: Final = 77
"""Number of tokens of a prompt."""

START: Final = "<|startoftext|>"
END: Final = "<|endoftext|>"
VOCABULARY: Final = {"!": 0, "!</w>": 1, "a": 2, "a</w>": 3, START: 4, END: 5}

# The type stubs of diffusers are incomplete.
_Tiny: Any = diffusers.AutoencoderTiny
_KL: Any = diffusers.AutoencoderKL
_UNet: Any = diffusers.UNet2DConditionModel
_PNDM: Any = diffusers.PNDMScheduler


def isolate(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Hide the models and the settings of the machine's owner, and forbid the network.

    folder: gets the hub's caches, which are empty.   Returns the folder of the hub's cache of assets.
    """
    from huggingface_hub import constants

    for name in ("MODELS", "DOWNLOAD", "DENOISE", "DEVICE", "THREADS", "MAX_PIXELS"):
        monkeypatch.delenv(f"PILLOW_SDL_{name}", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(folder / "assets"))
    return folder / "assets"


def photo(width: int = 96, height: int = 80) -> Image.Image:
    """Return a part of the portrait in docs/."""
    with Image.open(Path(__file__).parent.parent / "docs" / "grace_hopper.jpg") as image:
        return image.convert("RGB").crop((150, 60, 150 + width, 60 + height))


def tiny(seed: int, **options: object) -> Any:
    """Return an AutoencoderTiny for 4 channels at 1/8 of the size."""
    torch.manual_seed(seed)
    defaults: dict[str, object] = {
        "encoder_block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "num_encoder_blocks": (1, 1, 1, 1),
        "num_decoder_blocks": (1, 1, 1, 1),
    }
    return _Tiny(**defaults | options)


def kl(seed: int) -> Any:
    """Return an AutoencoderKL for 4 channels at 1/8 of the size, with a shift of 0.1 and a scale of 0.5."""
    torch.manual_seed(seed)
    return _KL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        scaling_factor=0.5,
        shift_factor=0.1,
    )


def unet(seed: int, **options: object) -> Any:
    """Return a UNet2DConditionModel for 4 channels that halves the sides once."""
    torch.manual_seed(seed)
    defaults: dict[str, object] = {
        "sample_size": 16,
        "block_out_channels": (32, 64),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
        "cross_attention_dim": WIDTH,
    }
    return _UNet(**defaults | options)


def pndm(**options: object) -> Any:
    """Return a PNDMScheduler with the noise schedule of Stable Diffusion."""
    return _PNDM(**schedule.STABLE_DIFFUSION, skip_prk_steps=True, **options)


def read_unet(folder: Path) -> Any:
    """Return the UNet of a folder as diffusers reads it."""
    return _UNet.from_pretrained(folder)


def embedding(seed: int = 0, width: int = WIDTH) -> NDArray[np.float32]:
    """Return random numbers in the shape of the empty prompt's embedding."""
    return np.random.default_rng(seed).normal(size=(1, TOKENS, width)).astype(np.float32)


def pipeline(folder: Path, seed: int = 0, prediction: str | None = "epsilon", *, with_prompt: bool = True) -> Path:
    """Write the parts of a pipeline that a denoiser needs: UNet, scheduler and embedding.  Returns the folder.

    prediction: what the scheduler's configuration says, None for no scheduler.
    """
    unet(seed).save_pretrained(folder / "unet")
    if prediction:
        pndm(prediction_type=prediction).save_pretrained(folder / "scheduler")
    if with_prompt:
        save_file({"prompt_embeds": embedding()}, folder / "empty_prompt.safetensors")
    return folder


def tokenizer(folder: Path, padding: object = END, *, length: int = TOKENS) -> None:
    """Write a CLIPTokenizer with a vocabulary of six tokens.

    padding: the entry `pad_token`, a token or an object with its `content`.   length: number of tokens of a prompt.
    """
    folder.mkdir(parents=True)
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": padding}
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | special))


def text_encoder(folder: Path, seed: int = 0, **options: object) -> Any:
    """Write a CLIPTextModel for the vocabulary of `tokenizer`.  Returns the network.

    options: those of `save_pretrained`.
    """
    import transformers

    torch.manual_seed(seed)
    config = transformers.CLIPTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=WIDTH,
        bos_token_id=VOCABULARY[START],
        eos_token_id=VOCABULARY[END],
        pad_token_id=VOCABULARY[END],
    )
    network = transformers.CLIPTextModel(config).eval()
    with silent():
        network.save_pretrained(folder, **options)
    return network


@contextmanager
def silent() -> Iterator[None]:
    """Hide the progress bars of transformers inside the `with` block."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
