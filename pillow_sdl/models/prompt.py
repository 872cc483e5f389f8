"""The empty prompt's embedding, which a UNet is given beside every latent: computed once, kept as a file.

Needs transformers and the model's text encoder.  Decoding needs neither: only `search.fetch_denoiser` calls this.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ..errors import BackendError, ModelMismatchError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

BEGIN: Final = 49406
END: Final = 49407
LENGTH: Final = 77
"""Tokens of a prompt: those of CLIP (Radford et al. 2021, arXiv 2103.00020), which all of Stable Diffusion 1 and 2 use."""

PADDING: Final = {"<|endoftext|>": END, "!": 0}
"""Tokens that fill a prompt up, as tokenizers' configurations spell them: of Stable Diffusion 1, and of 2."""


def text_model() -> Any:
    """The class of text encoders.  Raises BackendError without transformers."""
    try:
        from transformers import CLIPTextModel
    except ImportError as exc:
        msg = "the empty prompt must be encoded once, which needs transformers: pip install 'pillow-sdl[prompt]'"
        raise BackendError(msg) from exc
    return CLIPTextModel


def tokens(tokenizer: Path) -> list[int]:
    """The empty prompt, filled up as a tokenizer's configuration says.  Raises ModelMismatchError if it cannot be."""
    try:
        padding = json.loads(tokenizer.read_text("utf-8"))["pad_token"]
        fill = PADDING[padding["content"] if isinstance(padding, dict) else padding]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        msg = f"{tokenizer} does not say what prompts are filled up with: {exc}"
        raise ModelMismatchError(msg) from exc
    return [BEGIN, END, *[fill] * (LENGTH - 2)]


def encode(text_encoder: Path, tokenizer: Path) -> NDArray[Any]:
    """The embedding, float32 (1, 77, D).

    text_encoder: folder of it.   tokenizer: file of the tokenizer's configuration.
    Raises ModelMismatchError if one cannot be read, BackendError without transformers or torch.
    """
    kind = text_model()
    ids = tokens(tokenizer)
    try:
        import torch
    except ImportError as exc:
        msg = "encoding the empty prompt needs PyTorch: pip install torch"
        raise BackendError(msg) from exc
    variant = None if (text_encoder / "model.safetensors").is_file() else "fp16"
    try:
        network = kind.from_pretrained(text_encoder, local_files_only=True, use_safetensors=True, variant=variant)
        with torch.inference_mode():
            found: NDArray[Any] = network.eval().float()(torch.tensor([ids]))[0].numpy()
    except (OSError, ValueError, RuntimeError, KeyError) as exc:
        msg = f"{text_encoder} holds no text encoder that can be read: {str(exc).splitlines()[0]}"
        raise ModelMismatchError(msg, expected="CLIPTextModel") from exc
    return found
