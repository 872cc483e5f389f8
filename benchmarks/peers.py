"""Latent coders of other packages, on the latents of one autoencoder, an `AutoencoderTiny` of diffusers.

Their quality scale is bits per latent value.  Each number of bits is a point of their curve.  Bytes are those of the
file that the package would write, header included.  Pixels are those of the autoencoder.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pillow_sdl import registry
from pillow_sdl.models import store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pillow_sdl.models.base import Autoencoder as StoredAutoencoder

VAEPACK_CLIP: Final = 4.0
"""Latent values beyond this magnitude are cut off, as in vaepack's default."""

VAEPACK_BITS: Final = (4, 5, 6, 8)
"""From the fewest bits that vaepack allows to its command's default.

More bits cost bytes without more quality, because the autoencoder sets the limit.
"""

VAEZIP_BITS: Final = (2, 3, 4)
"""Bits of vaezip's block quantizer with Lloyd-Max levels.

Its other quantizers take more bytes for the same quality, and more bits do not bring more quality.
"""


class Autoencoder(Protocol):
    """A network that turns pictures into latents and latents into pictures."""

    def encode(self, image: Image.Image) -> Tensor:
        """Return the latent of an RGB picture of any size, float32 (1, C, h, w)."""

    def decode(self, latent: Tensor, size: tuple[int, int]) -> Image.Image:
        """Return the RGB picture of a latent, cropped to a size (width, height)."""


class Tiny:
    """An `AutoencoderTiny` of diffusers from a folder; nothing is downloaded.  Implements `Autoencoder`.

    Its latents are in the scale of the diffusion model.
    """

    def __init__(self, folder: Path) -> None:
        diffusers = importlib.import_module("diffusers")
        self.network: Any = diffusers.AutoencoderTiny.from_pretrained(
            folder, local_files_only=True, low_cpu_mem_usage=False
        )
        self.network.eval()
        self.factor: int = 2 ** (len(self.network.config.encoder_block_out_channels) - 1)

    @torch.inference_mode()
    def encode(self, image: Image.Image) -> Tensor:
        """Return the latent of an RGB picture of any size.  Edges are repeated up to whole latent positions."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        padding = (0, -image.width % self.factor, 0, -image.height % self.factor)
        latents: Tensor = self.network.encode(F.pad(pixels, padding, mode="replicate")).latents
        return latents

    @torch.inference_mode()
    def decode(self, latent: Tensor, size: tuple[int, int]) -> Image.Image:
        """Return the RGB picture of a latent, cropped to a size (width, height)."""
        pixels = ((self.network.decode(latent).sample[0].clamp(-1, 1) + 1) * 127.5).round().byte()
        return Image.fromarray(pixels.permute(1, 2, 0).numpy()).crop((0, 0, *size))


def encoder(space: str, folder: Path | None) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return a function from pixels uint8 (H, W, 3) to their latent float32 (C, h, w).

    folder: of an `AutoencoderTiny` in diffusers' layout; None for the first model of the space in the registry.
    Raises SystemExit if the registry has none, or if its weights are not on this machine.
    """
    if folder is not None:
        tiny = Tiny(folder)
        return lambda pixels: tiny.encode(Image.fromarray(pixels))[0].numpy()
    model = next((model for model in registry.load().models if model.space == space), None)
    if model is None:
        msg = f"no model here has the latent space {space}: --model names the folder of one"
        raise SystemExit(msg)
    return load(model.name).encode


def load(model: str) -> StoredAutoencoder:
    """Return the network of a model by name.  Raises SystemExit if its weights are not on this machine."""
    try:
        return store.load(registry.model(model))
    except OSError as exc:
        raise SystemExit(str(exc)) from exc


@dataclass(frozen=True)
class Peer:
    """A latent coder with its autoencoder.  Implements `codecs.Codec`.

    qualities: bits per value.   pack: turns a latent, bits and the picture's size into a file.
    unpack: turns a file into a latent.
    """

    name: str
    qualities: Sequence[int]
    autoencoder: Autoencoder
    pack: Callable[[Tensor, int, tuple[int, int]], bytes]
    unpack: Callable[[bytes], Tensor]

    @property
    def labels(self) -> dict[str, int]:
        """Names of the possible files, and their bits."""
        return {f"{self.name} {bits} bit": bits for bits in self.qualities}

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """Return a whole file."""
        return self.pack(self.autoencoder.encode(image), quality, image.size)

    def decode(self, data: bytes, size: tuple[int, int]) -> Image.Image:
        """Return the picture, RGB, cropped to a size (width, height)."""
        return self.autoencoder.decode(self.unpack(data), size)


def _vaepack(autoencoder: Autoencoder) -> list[Peer]:
    """Return the coder of vaepack: what its `compress` does, without the SDXL autoencoder, which it would download."""
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
    """Return the best quantizer of vaezip, which has no entropy coder."""
    vaezip = importlib.import_module("vaezip")

    def pack(latent: Tensor, bits: int, size: tuple[int, int]) -> bytes:
        return bytes(vaezip.save_tensor(latent, codec=f"lbrq_{bits}bit"))

    return [Peer("vaezip", VAEZIP_BITS, autoencoder, pack, vaezip.load_tensor)]


def peers(autoencoder: Autoencoder) -> tuple[list[Peer], dict[str, str]]:
    """Return the coders that are installed, and the reason why each other package cannot be used."""
    found: list[Peer] = []
    missing: dict[str, str] = {}
    for package, make in (("vaepack", _vaepack), ("vaezip", _vaezip)):
        try:
            found += make(autoencoder)
        except ImportError as exc:
            missing[package] = f"{package} cannot be imported: {exc}"
    return found, missing
