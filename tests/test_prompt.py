"""models/prompt.py: the empty prompt is encoded by transformers' own tokenizer and text model."""

from __future__ import annotations

import re
import shutil
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pillow_sdl.errors import BackendError, ModelMismatchError
from pillow_sdl.models import prompt

from . import networks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOKENIZER, TEXT_ENCODER = "tokenizer", "text_encoder"
FILL = networks.VOCABULARY[networks.END]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline's folder with a tokenizer and a text encoder."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    networks.tokenizer(tmp_path / TOKENIZER)
    networks.text_encoder(tmp_path / TEXT_ENCODER)
    return tmp_path


@pytest.mark.parametrize(
    ("padding", "fill"), [(networks.END, FILL), ("!", 0), ({"content": "!", "single_word": False}, 0)]
)
def test_the_embedding_is_that_of_the_padded_empty_prompt(tmp_path: Path, padding: object, fill: int) -> None:
    """The tokenizer's own padding is used.  Stable Diffusion 1 and 2 differ here."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    networks.tokenizer(tmp_path / TOKENIZER, padding)
    network = networks.text_encoder(tmp_path / TEXT_ENCODER)
    start, end = networks.VOCABULARY[networks.START], networks.VOCABULARY[networks.END]
    with torch.inference_mode():
        wanted, other = (
            network(torch.tensor([[start, end, *[token] * (networks.TOKENS - 2)]])).last_hidden_state.numpy()
            for token in (fill, FILL - fill)
        )
    found = prompt.encode(tmp_path / TEXT_ENCODER, tmp_path / TOKENIZER)
    assert found.shape == (1, networks.TOKENS, networks.WIDTH)
    assert found.dtype == np.float32
    assert np.allclose(found, wanted, atol=1e-6)
    assert not np.allclose(found, other, atol=1e-3)


def test_float16_weights_are_computed_with_in_float32(folder: Path) -> None:
    """The variant fp16 is read if there are no other weights."""
    whole = prompt.encode(folder / TEXT_ENCODER, folder / TOKENIZER)
    path = folder / TEXT_ENCODER / "model.safetensors"
    half = {name: tensor.half() for name, tensor in load_file(path).items()}
    save_file(half, path.with_name("model.fp16.safetensors"), metadata={"format": "pt"})
    path.unlink()
    found = prompt.encode(folder / TEXT_ENCODER, folder / TOKENIZER)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - whole).max() < 1e-2


def test_encoding_prints_nothing(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Transformers' progress bars and reports are hidden, as the program says with --quiet."""
    prompt.encode(folder / TEXT_ENCODER, folder / TOKENIZER)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "found"), [("tokenizer_config.json", True), ("another.json", False)])
def test_a_tokenizer_is_recognized_by_its_configuration(tmp_path: Path, name: str, found: bool) -> None:
    """The folder need not hold anything else."""
    (tmp_path / name).write_text("{}")
    assert prompt.has_tokenizer(tmp_path) == found


# Damaged files


def change_weights(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the tensors of the text encoder."""
    path = folder / TEXT_ENCODER / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def cut_vocabulary(tensors: dict[str, Any]) -> None:
    """Remove tokens from the table of a text encoder, so that it has another shape."""
    (name,) = (name for name in tensors if name.endswith("token_embedding.weight"))
    tensors[name] = tensors[name][:3].clone()


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    """Return a function that writes a file in a folder."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    **{
        f"{action} {name}": write(name, text)
        for name in ("tokenizer/vocab.json", "tokenizer/tokenizer_config.json", "text_encoder/config.json")
        for action, text in (("damaged", "{"), ("empty", ""), ("wrong", "[]"))
    },
    "no tokenizer": lambda folder: shutil.rmtree(folder / TOKENIZER),
    "no tokenizer/vocab.json": lambda folder: (folder / "tokenizer/vocab.json").unlink(),
    "no length in tokenizer/tokenizer_config.json": write("tokenizer/tokenizer_config.json", "{}"),
    "damaged tokenizer/merges.txt": write("tokenizer/merges.txt", "#version: 0.2\nab\n"),
    "damaged text_encoder/model.safetensors": write("text_encoder/model.safetensors", b"\x10" + bytes(40)),
    "empty text_encoder/model.safetensors": write("text_encoder/model.safetensors", b""),
    "no text_encoder/model.safetensors": lambda folder: (folder / "text_encoder/model.safetensors").unlink(),
    "a missing tensor in text_encoder": lambda folder: change_weights(folder, lambda found: found.pop(min(found))),
    "a tensor of another shape in text_encoder": lambda folder: change_weights(folder, cut_vocabulary),
}
"""What can be wrong with a tokenizer or a text encoder.  Each name ends in its file or folder."""


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_part_is_named(folder: Path, damage: str) -> None:
    """The error is ModelMismatchError with the folder.  A text encoder with missing tensors must not be filled up."""
    DAMAGE[damage](folder)
    part = folder / (TOKENIZER if TOKENIZER in damage else TEXT_ENCODER)
    with pytest.raises(ModelMismatchError) as caught:
        prompt.encode(folder / TEXT_ENCODER, folder / TOKENIZER)
    assert str(part) in str(caught.value)
    assert caught.value.expected == ("CLIPTokenizer" if TOKENIZER in damage else "CLIPTextModel")


def test_a_tokenizer_with_more_tokens_than_the_text_encoder_is_refused(folder: Path) -> None:
    """A token without an embedding is an error of the text encoder."""
    transformers: Any = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=3, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        bos_token_id=0, eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    shutil.rmtree(folder / TEXT_ENCODER)
    with networks.silent():
        transformers.CLIPTextModel(config).save_pretrained(folder / TEXT_ENCODER)
    with pytest.raises(ModelMismatchError, match=re.escape(str(folder / TEXT_ENCODER))):
        prompt.encode(folder / TEXT_ENCODER, folder / TOKENIZER)


# Missing packages


@pytest.mark.parametrize("package", ["transformers", "torch"])
def test_a_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which extra installs it."""
    if package == "torch":
        pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BackendError, match=r"pip install 'pillow-sdl\[prompt\]'"):
        prompt.encode(tmp_path, tmp_path)
