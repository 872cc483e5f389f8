"""The table of models: everything that is known of a network without opening its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..errors import ModelNotFoundError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One row.

    name: as in `save(model=...)`.   space: name of its latent space.   architecture: which class builds it.
    hash: first 16 bytes of the decoder's hash (SPEC 7.2), hexadecimal: what files name.
    file, sha256: in the package's weights folder, and the SHA-256 of the whole of it, the encoder included.
    licence: of the weights, an SPDX expression.
    """

    name: str
    space: str
    architecture: str
    hash: str
    file: str
    sha256: str
    licence: str


CARDS: Final = (
    ModelCard(
        name="embedded",
        space="sdl1",
        architecture="embedded",
        hash="bc14ddba3561fe07277e53134a2858b5",
        file="sdl1.safetensors",
        sha256="e8848fb1431dd83deb9b818bf205d37bff51f71a096e17e61ce36e9e8ea41a14",
        licence="Apache-2.0",
    ),
)
"""Where several models share a latent space, the first one listed stands in for the others."""


def by_name(name: str) -> ModelCard:
    """The card of that name.  Raises ValueError, which names those there are."""
    for card in CARDS:
        if card.name == name:
            return card
    msg = f"model must be one of {', '.join(card.name for card in CARDS)}, not {name!r}"
    raise ValueError(msg)


def by_hash(model: bytes, space: str) -> ModelCard:
    """The card with that hash, or another of the same latent space.  Raises ModelNotFoundError."""
    for card in CARDS:
        if card.hash == model.hex():
            return card
    for card in CARDS:
        if card.space == space:
            return card
    msg = f"no model for the latent space {space} is known: the file was made with model {model.hex()}"
    raise ModelNotFoundError(msg, model_id=model.hex())
