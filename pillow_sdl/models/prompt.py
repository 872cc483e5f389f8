"""The embedding of the empty prompt, which a UNet gets beside every latent: computed once and kept as a file.

Needs transformers and the model's text encoder and tokenizer.  Decoding needs none of them.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import BackendError, ModelMismatchError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray


def require() -> Any:
    """Return the module transformers.  Raises BackendError if it is not installed."""
    try:
        import transformers
    except ImportError as exc:
        msg = "the empty prompt must be encoded once, which needs transformers: pip install 'pillow-sdl[prompt]'"
        raise BackendError(msg) from exc
    return transformers


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer in transformers' layout."""
    return (folder / "tokenizer_config.json").is_file()


def encode(text_encoder: Path, tokenizer: Path) -> NDArray[Any]:
    """Return the embedding, float32 (1, tokens, D).

    text_encoder, tokenizer: their folders in a pipeline.
    Raises ModelMismatchError if one of them cannot be read, BackendError without transformers or torch.
    """
    transformers = require()
    try:
        import torch
    except ImportError as exc:
        msg = "encoding the empty prompt needs PyTorch: pip install 'pillow-sdl[prompt]'"
        raise BackendError(msg) from exc
    with _quiet():
        try:
            words = transformers.CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
            ids = words("", padding="max_length", max_length=words.model_max_length, return_tensors="pt").input_ids
        except Exception as exc:
            raise _unreadable(tokenizer, "CLIPTokenizer", exc) from exc
        variant = None if (text_encoder / "model.safetensors").is_file() else "fp16"
        try:
            network, report = transformers.CLIPTextModel.from_pretrained(
                text_encoder, local_files_only=True, use_safetensors=True, variant=variant, output_loading_info=True
            )
            with torch.inference_mode():
                found: NDArray[Any] = network.eval().float()(ids)[0].numpy()
        except Exception as exc:
            raise _unreadable(text_encoder, "CLIPTextModel", exc) from exc
    if report["missing_keys"]:  # Transformers fills them with random numbers.
        msg = f"{text_encoder} holds no CLIPTextModel that can be read: it has no tensor {min(report['missing_keys'])}"
        raise ModelMismatchError(msg, expected="CLIPTextModel")
    return found


def _unreadable(folder: Path, expected: str, exc: Exception) -> ModelMismatchError:
    reason = first_line(exc)
    return ModelMismatchError(f"{folder} holds no {expected} that can be read: {reason}", expected=expected)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bars and the reports of transformers, which no option of this package could switch off."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
