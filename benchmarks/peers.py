"""Latent coders of other packages, on the latents of one autoencoder, a diffusers AutoencoderTiny.

They have no quality scale but bits per latent value; each number of bits is a point of their curve.  Bytes are
those of the file that the package would write, its header included; pixels are the autoencoder's.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

VAEPACK_CLIP: Final = 4.0
"""vaepack's default: latent values beyond it are cut off."""
VAEPACK_BITS: Final = (4, 5, 6, 8)
"""From the fewest that vaepack allows to its command's default; more bits only cost bytes, the autoencoder sets the limit."""
VAEZIP_BITS: Final = (2, 3, 4)
"""Of its block quantiser with Lloyd-Max levels; its others take more bytes for the same quality, more bits bring none."""


class Autoencoder(Protocol):
    """Pictures to latents, float32 (1, C, h, w), and back."""

    def encode(self, image: Image.Image) -> Tensor:
        """Of an RGB picture of any size."""

    def decode(self, latent: Tensor, size: tuple[int, int]) -> Image.Image:
        """RGB.   size: width and height, to which it is cropped."""


class Tiny:
    """AutoencoderTiny of diffusers, from a folder; nothing is fetched.  Its latents are in the diffusion model's scale."""

    def __init__(self, folder: Path) -> None:
        diffusers = importlib.import_module("diffusers")
        self.network: Any = diffusers.AutoencoderTiny.from_pretrained(
            folder, local_files_only=True, low_cpu_mem_usage=False
        )
        self.network.eval()
        self.factor: int = 2 ** (len(self.network.config.encoder_block_out_channels) - 1)

    @torch.inference_mode()
    def encode(self, image: Image.Image) -> Tensor:
        """See `Autoencoder`.  Edges are repeated up to whole latent positions."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        padding = (0, -image.width % self.factor, 0, -image.height % self.factor)
        latents: Tensor = self.network.encode(F.pad(pixels, padding, mode="replicate")).latents
        return latents

    @torch.inference_mode()
    def decode(self, latent: Tensor, size: tuple[int, int]) -> Image.Image:
        """See `Autoencoder`."""
        pixels = ((self.network.decode(latent).sample[0].clamp(-1, 1) + 1) * 127.5).round().byte()
        return Image.fromarray(pixels.permute(1, 2, 0).numpy()).crop((0, 0, *size))


@dataclass(frozen=True)
class Peer:
    """A latent coder with its autoencoder, a `Codec`.   qualities: bits per value.

    pack: latent, bits and the picture's size to a file.   unpack: a file to the latent.
    """

    name: str
    qualities: Sequence[int]
    autoencoder: Autoencoder
    pack: Callable[[Tensor, int, tuple[int, int]], bytes]
    unpack: Callable[[bytes], Tensor]

    @property
    def labels(self) -> dict[str, int]:
        """Names of the files that there can be, and their bits."""
        return {f"{self.name} {bits} bit": bits for bits in self.qualities}

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """See `Codec`."""
        return self.pack(self.autoencoder.encode(image), quality, image.size)

    def decode(self, data: bytes, size: tuple[int, int]) -> Image.Image:
        """See `Codec`."""
        return self.autoencoder.decode(self.unpack(data), size)


def _vaepack(autoencoder: Autoencoder) -> list[Peer]:
    """The coder of vaepack: everything that its `compress` does but for the SDXL autoencoder, which it would download."""
    vaepack = importlib.import_module("vaepack")
    coder = vaepack.JXLCodec()

    def pack(latent: Tensor, bits: int, size: tuple[int, int]) -> bytes:
        symbols = vaepack.quantize_latent(latent[0].numpy(), bits, VAEPACK_CLIP)
        coded = coder.encode(symbols.transpose(1, 2, 0), lossless=True, effort=7, quant_bits=bits)
        header = {"version": vaepack.FORMAT_VERSION, "vae": "sdxl", "codec": "jxl"}
        header |= {"quant_bits": bits, "quant_clip": VAEPACK_CLIP}
        header |= {"original_width": size[0], "original_height": size[1], "latent_shape": list(symbols.shape)}
        header |= {"jxl_lossless": True, "jxl_distance": 0.0, "jxl_effort": 7, "source_file": "photo.png"}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "photo.zvae")
            vaepack.write_zvae(path, header, coded)
            return path.read_bytes()

    def unpack(data: bytes) -> Tensor:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "photo.zvae")
            path.write_bytes(data)
            header, coded, _ = vaepack.read_zvae(path)
        symbols = coder.decode(coded).transpose(2, 0, 1)
        values = vaepack.dequantize_latent(symbols, header["quant_bits"], header["quant_clip"])
        return torch.from_numpy(values.astype(np.float32))[None]

    return [Peer("vaepack", VAEPACK_BITS, autoencoder, pack, unpack)]


def _vaezip(autoencoder: Autoencoder) -> list[Peer]:
    """The best quantiser of vaezip, which codes no entropy."""
    vaezip = importlib.import_module("vaezip")

    def pack(latent: Tensor, bits: int, size: tuple[int, int]) -> bytes:
        return bytes(vaezip.save_tensor(latent, codec=f"lbrq_{bits}bit"))

    return [Peer("vaezip", VAEZIP_BITS, autoencoder, pack, vaezip.load_tensor)]


def peers(autoencoder: Autoencoder) -> tuple[list[Peer], dict[str, str]]:
    """The coders that are installed, and why others are not: package to reason."""
    found: list[Peer] = []
    missing: dict[str, str] = {}
    for package, make in (("vaepack", _vaepack), ("vaezip", _vaezip)):
        try:
            found += make(autoencoder)
        except ImportError as exc:
            missing[package] = f"{package} cannot be imported: {exc}"
    return found, missing
