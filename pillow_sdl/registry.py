"""The registry: every number, hash and file name that the format or the package gives to something.

All of it stands in `weights/registry.json`.  This module reads that file; spec/reader.py, the tests and the
documentation read it too.  Standard library only.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

WEIGHTS_FOLDER: Final = Path(__file__).parent / "weights"

EMBEDDED: Final = "sdl"
"""Name of the model that ships in the package, and of its latent space."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the weights folder.   file: its name.   sha256: of its bytes, hexadecimal."""

    file: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where the file is."""
        return WEIGHTS_FOLDER / self.file


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A latent space: what a latent's channels mean, whichever network made them (SPEC 7.1).

    code: its number in a header.   factor: pixels for each latent position, on each axis.
    tables, context: files with the quantizer's steps and the preview, and with the context model.
    denoiser: file with our own denoiser, None if there is none.
    shift, scale: a latent in this package is (z - shift) * scale, where z is what Stable Diffusion's own encoder gives.
    Tiny autoencoders give latents of this scale.
    """

    name: str
    code: int
    channels: int
    factor: int
    tables: StoredFile
    context: StoredFile
    denoiser: StoredFile | None = None
    shift: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """A repository of the Hugging Face hub.

    revision: a commit, or a branch where no commit is known.   subfolder: folder of the weights, "" for the top.
    sha256: of the file of weights, checked after a download; "" if it is not known.
    """

    name: str
    revision: str = "main"
    subfolder: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UNet:
    """A diffusion model in the same repositories, in the folders that diffusers gives to a pipeline.

    megabytes: size of its float32 weights, about; float16 weights take half.
    text_megabytes: size of the text encoder, which is needed once.
    sha256: of the file of float32 weights, checked after a download; "" if it is not known.
    prediction: what the network predicts if no scheduler configuration says it (see `schedule.PREDICTIONS`).
    """

    megabytes: int
    text_megabytes: int
    sha256: str = ""
    prediction: str = "epsilon"


@dataclass(frozen=True, slots=True, kw_only=True)
class Graphs:
    """ONNX graphs of a model that ships in the package.  They refer to the tensors of its weights.

    encoder, decoder: the files.
    encoder_margin, decoder_margin: latent positions that a network sees on each side of one position, rounded up.
    """

    encoder: StoredFile
    decoder: StoredFile
    encoder_margin: int
    decoder_margin: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """An autoencoder.

    name: as in `save(model=...)`.   space: name of its latent space.
    network: "embedded", or the name of its class in diffusers.   license: an SPDX expression or a name.
    hash: first 16 bytes of the decoder's hash, hexadecimal (SPEC 7.2); "" if files name the hash of what is found.
    weights, graphs: its files in the package, None for a model that must be fetched.
    repositories: where to fetch it, the first to be tried first.   megabytes: size of the download, about.
    unet: the diffusion model of the same latent space that comes with it, None if there is none.
    """

    name: str
    space: str
    network: str
    license: str
    hash: str = ""
    weights: StoredFile | None = None
    graphs: Graphs | None = None
    repositories: tuple[Repository, ...] = ()
    megabytes: int = 0
    unet: UNet | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """All of registry.json.

    quantizers, payloads: numbers in a header by name.   distributions: file that all context models share.
    models: in order of preference; where several share a space, the first one present stands in for the others.
    """

    quantizers: dict[str, int]
    payloads: dict[str, int]
    distributions: StoredFile
    spaces: tuple[Space, ...]
    models: tuple[Model, ...]


def _space(entry: dict[str, Any]) -> Space:
    files = ("tables", "context", "denoiser")
    found: dict[str, Any] = {n: StoredFile(**value) if n in files else value for n, value in entry.items()}
    return Space(**found)


def _model(entry: dict[str, Any]) -> Model:
    found = dict(entry)
    if "weights" in entry:
        found["weights"] = StoredFile(**entry["weights"])
    if "graphs" in entry:
        graphs = entry["graphs"]
        files = {name: StoredFile(**graphs[name]) for name in ("encoder", "decoder")}
        found["graphs"] = Graphs(**graphs | files)
    if "unet" in entry:
        found["unet"] = UNet(**entry["unet"])
    found["repositories"] = tuple(Repository(**repository) for repository in entry.get("repositories", ()))
    return Model(**found)


@cache
def load() -> Registry:
    """The registry, read once."""
    found = json.loads((WEIGHTS_FOLDER / "registry.json").read_text("utf-8"))
    return Registry(
        quantizers=found["quantizers"],
        payloads=found["payloads"],
        distributions=StoredFile(**found["distributions"]),
        spaces=tuple(map(_space, found["spaces"])),
        models=tuple(map(_model, found["models"])),
    )


def space(name: str) -> Space:
    """The latent space of that name.  Raises KeyError if there is none."""
    return {known.name: known for known in load().spaces}[name]


def model(name: str) -> Model:
    """The model of that name.  Raises ValueError, which lists the names, if there is none."""
    for known in load().models:
        if known.name == name:
            return known
    msg = f"model must be one of {', '.join(known.name for known in load().models)}, not {name!r}"
    raise ValueError(msg)
