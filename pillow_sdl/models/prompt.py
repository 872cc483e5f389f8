"""The embedding of the empty prompt, which a UNet gets beside every latent: computed once and kept as a file.

Needs transformers and the model's text encoder and tokenizer.  Decoding needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import BackendError, ModelMismatchError

if TYPE_CHECKING:
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
    try:
        words = transformers.CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
        ids = words("", padding="max_length", max_length=words.model_max_length, return_tensors="pt").input_ids
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as exc:
        msg = f"{tokenizer} holds no tokenizer that can be read: {str(exc).splitlines()[0]}"
        raise ModelMismatchError(msg, expected="CLIPTokenizer") from exc
    variant = None if (text_encoder / "model.safetensors").is_file() else "fp16"
    try:
        network = transformers.CLIPTextModel.from_pretrained(
            text_encoder, local_files_only=True, use_safetensors=True, variant=variant
        )
        with torch.inference_mode():
            found: NDArray[Any] = network.eval().float()(ids)[0].numpy()
    except (OSError, ValueError, RuntimeError, KeyError) as exc:
        msg = f"{text_encoder} holds no text encoder that can be read: {str(exc).splitlines()[0]}"
        raise ModelMismatchError(msg, expected="CLIPTextModel") from exc
    return found
