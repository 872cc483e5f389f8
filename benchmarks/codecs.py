"""Formats that Pillow writes, each with one quality scale, and the search for a file of a given size."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image

import pillow_sdl  # noqa: F401  registers .sdl


@dataclass(frozen=True)
class Format:
    """One way of writing files.   qualities: the scale, fewest bytes first."""

    name: str
    pillow: str
    options: dict[str, Any] = field(default_factory=dict)
    qualities: range = range(101)

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """A whole file."""
        target = io.BytesIO()
        image.save(target, self.pillow, quality=quality, **self.options)
        return target.getvalue()


FORMATS: Final = (
    Format("JPEG", "JPEG", {"optimize": True, "progressive": True}, range(1, 96)),
    Format("WebP", "WEBP", {"method": 6}),
    Format("AVIF", "AVIF", {"speed": 4}),
    Format("SDL", "SDL"),
)


@dataclass(frozen=True)
class Encoded:
    """A file and how it came about.   fits: whether it is within the bytes asked for."""

    data: bytes
    quality: int
    fits: bool


def largest_within(codec: Format, image: Image.Image, budget: int) -> Encoded:
    """The file of the highest quality that takes at most `budget` bytes, or the smallest file if none does.

    Sizes are taken to grow with quality, as they do but for a byte or two.
    """
    low, high = 0, len(codec.qualities) - 1
    best: Encoded | None = None
    while low <= high:
        middle = (low + high) // 2
        data = codec.encode(image, codec.qualities[middle])
        if len(data) <= budget:
            best = Encoded(data, codec.qualities[middle], fits=True)
            low = middle + 1
        else:
            high = middle - 1
    if best is None:
        return Encoded(codec.encode(image, codec.qualities[0]), codec.qualities[0], fits=False)
    return best


def nearest(codec: Format, image: Image.Image, wanted: int) -> Encoded:
    """The file whose size is nearest to `wanted` bytes."""
    below = largest_within(codec, image, wanted)
    above = below.quality + 1
    if not below.fits or above not in codec.qualities:
        return below
    data = codec.encode(image, above)
    closer = abs(len(data) - wanted) < abs(len(below.data) - wanted)
    return Encoded(data, above, fits=True) if closer else below


def decode(data: bytes) -> tuple[Image.Image, float]:
    """The picture and the seconds that decoding took."""
    started = time.perf_counter()
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return image, time.perf_counter() - started
