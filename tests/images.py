"""Pictures for tests, made when they are needed, and helpers that save, open and change files of them."""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile

import pillow_sdl  # noqa: F401  registers the format
from pillow_sdl.format import container

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

SIZE = 47, 33
"""Width and height of most pictures: small, odd, and no multiple of any block."""


def ramp(width: int, height: int, *, down: bool = False) -> NDArray[np.uint8]:
    """Return values 0 to 255 from left to right, or from top to bottom: uint8 (height, width)."""
    line = np.linspace(0, 255, height if down else width).round().astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(line[:, None] if down else line, (height, width)))


def gradient(width: int = SIZE[0], height: int = SIZE[1]) -> Image.Image:
    """Return an RGB picture: red grows to the right, green downwards, blue to the left."""
    red = ramp(width, height)
    return Image.fromarray(np.stack([red, ramp(width, height, down=True), 255 - red], axis=2))


def noise(width: int = SIZE[0], height: int = SIZE[1], mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Return a picture of independent random samples.   mode: one with 8-bit bands."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (height, width, bands), np.uint8)
    return Image.frombytes(mode, (width, height), values.tobytes())


def checker(width: int = SIZE[0], height: int = SIZE[1], square: int = 8) -> Image.Image:
    """Return a picture of mode L with black and white squares."""
    rows, columns = np.indices((height, width)) // square
    return Image.fromarray(((rows + columns) % 2 * 255).astype(np.uint8))


def cutout(width: int = SIZE[0], height: int = SIZE[1]) -> Image.Image:
    """Return an alpha plane, mode L: clear at the left, solid at the right, with every level between."""
    return Image.fromarray(np.clip(ramp(width, height).astype(int) * 2 - 128, 0, 255).astype(np.uint8))


def _with_alpha(image: Image.Image) -> Image.Image:
    image.putalpha(cutout())
    return image


def _deep(mode: str, dtype: str) -> Image.Image:
    values = ramp(*SIZE).astype(np.uint16) * 256 + ramp(*SIZE, down=True)
    return Image.frombytes(mode, SIZE, values.astype(dtype).tobytes())


def _keyed(image: Image.Image, key: object) -> Image.Image:
    image.info["transparency"] = key
    return image


def _palette() -> Image.Image:
    return gradient().quantize(64)


def _gray() -> Image.Image:
    return gradient().getchannel("R")


MODES: dict[str, Callable[[], Image.Image]] = {
    "1": lambda: _gray().convert("1", dither=Image.Dither.NONE),
    "CMYK": lambda: gradient().convert("CMYK"),
    "F": lambda: _gray().convert("F"),
    "HSV": lambda: gradient().convert("HSV"),
    "I": lambda: _gray().convert("I"),
    "I;16": lambda: _deep("I;16", "<u2"),
    "I;16B": lambda: _deep("I;16B", ">u2"),
    "I;16L": lambda: _deep("I;16L", "<u2"),
    "I;16N": lambda: _deep("I;16N", "=u2"),
    "L": _gray,
    "LA": lambda: _with_alpha(_gray()),
    "La": lambda: _with_alpha(_gray()).convert("La"),
    "LAB": lambda: gradient().convert("LAB"),
    "P": _palette,
    "PA": lambda: _with_alpha(_palette().convert("PA")),
    "RGB": gradient,
    "RGBA": lambda: _with_alpha(gradient()),
    "RGBa": lambda: _with_alpha(gradient()).convert("RGBa"),
    "RGBX": lambda: Image.merge("RGBX", [*gradient().split(), noise(mode="L")]),
    "YCbCr": lambda: gradient().convert("YCbCr"),
}
"""Functions that make a smooth picture of each mode of Pillow."""

KEYED: dict[str, Callable[[], Image.Image]] = {
    "L, one gray clear": lambda: _keyed(_gray(), 255),
    "P, one index clear": lambda: _keyed(_palette(), 3),
    "P, alpha for each index": lambda: _keyed(_palette(), bytes(range(0, 256, 4))),
    "RGB, one color clear": lambda: _keyed(gradient(), (255, 0, 0)),
}
"""Functions that make pictures whose transparency is in `info`."""


def saved(image: Image.Image, **options: Any) -> bytes:
    """Return the bytes of the file that `Image.save` writes."""
    stream = io.BytesIO()
    image.save(stream, "SDL", **options)
    return stream.getvalue()


def opened(data: bytes) -> ImageFile.ImageFile:
    """Open a file from its bytes."""
    return Image.open(io.BytesIO(data))


def reopened(image: Image.Image, **options: Any) -> ImageFile.ImageFile:
    """Save an image and open it again.  The result is not loaded yet."""
    return opened(saved(image, **options))


def parsed(data: bytes) -> container.Container:
    """Return the header and the sections of a file."""
    return container.read(io.BytesIO(data))


def boundaries(data: bytes) -> list[int]:
    """Return the offsets at which a file's header and each of its sections end."""
    file = parsed(data)
    ends = [len(file.header.to_bytes())]
    for section in file.sections:
        ends.append(ends[-1] + len(section.to_bytes()))
    return ends


def with_header(data: bytes, **changes: Any) -> bytes:
    """Return the file with other values in its header and a CRC that fits."""
    file = parsed(data)
    return file._replace(header=file.header._replace(**changes)).to_bytes()


def with_section(data: bytes, name: bytes, content: bytes) -> bytes:
    """Return the file with other content in the section of that name and a CRC that fits."""
    file = parsed(data)
    sections = tuple(section._replace(data=content) if section.name == name else section for section in file.sections)
    return file._replace(sections=sections).to_bytes()


def with_crcs(pieces: Iterable[bytes]) -> bytes:
    """Return a file of a header and sections, any bytes, each given without its CRC."""
    return b"".join(piece + zlib.crc32(piece).to_bytes(4, "little") for piece in pieces)


def pieces(data: bytes) -> list[bytes]:
    """Return the header and the sections of a file, each without its CRC, as `with_crcs` takes them."""
    ends = boundaries(data)
    return [data[start : end - 4] for start, end in zip([0, *ends], ends, strict=False)]


def flipped(data: bytes, bit: int) -> bytes:
    """Return the bytes with one bit inverted.   bit: its number, counted from the lowest bit of the first byte."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def values(image: Image.Image) -> NDArray[np.int64]:
    """Return all samples as signed integers: int64 (H, W) or (H, W, bands)."""
    return np.asarray(image).astype(np.int64)


def difference(first: Image.Image, second: Image.Image) -> float:
    """Return the mean absolute difference between the samples of two images of one mode and size."""
    assert first.mode == second.mode
    assert first.size == second.size
    return float(np.abs(values(first) - values(second)).mean())


def psnr(first: Image.Image, second: Image.Image) -> float:
    """Return the peak signal-to-noise ratio in dB of two images of one mode and size that differ."""
    assert first.mode == second.mode
    assert first.size == second.size
    return float(10 * np.log10(255**2 / np.square(values(first) - values(second)).mean()))


def flat_difference(image: Image.Image) -> float:
    """Return the mean absolute difference between an image and the best flat one: the median of each band."""
    found = values(image)
    return float(np.abs(found - np.median(found, axis=(0, 1))).mean())


def resembles(found: Image.Image, expected: Image.Image) -> bool:
    """Whether an image is at least three times nearer to another one of its mode and size than any flat image is."""
    return difference(found, expected) <= flat_difference(expected) / 3
