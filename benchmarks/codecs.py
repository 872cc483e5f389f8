"""Formats that Pillow writes, each with one quality scale, and the search for a file of a given size."""

from __future__ import annotations

import importlib
import io
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from PIL import Image

import pillow_sdl  # noqa: F401  registers .sdl


class Codec(Protocol):
    """A way of holding a picture in bytes."""

    @property
    def name(self) -> str:
        """As tables and plots show it."""

    @property
    def qualities(self) -> Sequence[int]:
        """The scale, fewest bytes first."""

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """A whole file."""

    def decode(self, data: bytes, size: tuple[int, int]) -> Image.Image:
        """The picture, RGB.   size: width and height, for files that do not hold them."""


@dataclass(frozen=True)
class Format:
    """A format of Pillow's.   plugin: the module that brings it, if neither Pillow nor this project does."""

    name: str
    pillow: str
    options: dict[str, Any] = field(default_factory=dict)
    qualities: range = range(101)
    plugin: str | None = None

    def missing(self) -> str | None:
        """Why files of the format cannot be written here, None if they can.  Registers the plugin."""
        if self.plugin:
            try:
                module = importlib.import_module(self.plugin)
            except ImportError as exc:
                return f"{self.plugin} cannot be imported: {exc}"
            if hasattr(module, "register_heif_opener"):  # The only one that does not register on import.
                module.register_heif_opener()
        Image.init()
        return None if self.pillow in Image.SAVE else f"Pillow has no encoder of {self.pillow}"

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """See `Codec`."""
        target = io.BytesIO()
        image.save(target, self.pillow, quality=quality, **self.options)
        return target.getvalue()

    def decode(self, data: bytes, size: tuple[int, int]) -> Image.Image:
        """See `Codec`; the file holds the size."""
        return Image.open(io.BytesIO(data)).convert("RGB")


FORMATS: Final = (
    Format("JPEG", "JPEG", {"optimize": True, "progressive": True}, range(1, 96)),
    Format("WebP", "WEBP", {"method": 6}),
    Format("AVIF", "AVIF", {"speed": 4}),
    Format("SDL", "SDL"),
)
"""What Pillow and this project write."""

PLUGINS: Final = (
    Format("HEIC", "HEIF", plugin="pillow_heif"),
    Format("JPEG XL", "JXL", {"effort": 9, "lossless_jpeg": False}, plugin="pillow_jxl"),
)
"""What packages of others write."""


def sdl_variant(text: str) -> Format:
    """SDL as MODEL:EFFORT:PAYLOAD says; what is left out, as in "embedded" or "::zstd", is `save`'s default.

    Only what is named is passed to `save`.  Raises ValueError for more parts, or an effort that is no whole number.
    """
    model, effort, payload, *more = [*text.split(":"), "", ""]
    if any(more):
        msg = f"not MODEL:EFFORT:PAYLOAD: {text!r}"
        raise ValueError(msg)
    options: dict[str, Any] = {"model": model, "effort": effort and int(effort), "payload": payload}
    options = {name: value for name, value in options.items() if value != ""}
    shown = [f"effort {value}" if name == "effort" else str(value) for name, value in options.items()]
    return Format(" ".join(["SDL", *shown]), "SDL", options)


@dataclass(frozen=True)
class Encoded:
    """A file and how it came about.   seconds: the time that encoding took."""

    data: bytes
    quality: int
    seconds: float


class Search:
    """Files of one picture in one format, no quality encoded twice.

    Sizes are taken to grow with quality, as they do but for a per cent here and there.
    """

    def __init__(self, codec: Codec, image: Image.Image) -> None:
        self.codec, self.image = codec, image
        self._files: dict[int, Encoded] = {}

    def at(self, quality: int) -> Encoded:
        """The file of that quality."""
        if quality not in self._files:
            started = time.perf_counter()
            data = self.codec.encode(self.image, quality)
            self._files[quality] = Encoded(data, quality, time.perf_counter() - started)
        return self._files[quality]

    def _count_within(self, budget: int) -> int:
        return bisect_right(self.codec.qualities, budget, key=lambda quality: len(self.at(quality).data))

    def largest_within(self, budget: int) -> Encoded:
        """The file of the highest quality that takes at most `budget` bytes, or the smallest file if none does."""
        return self.at(self.codec.qualities[max(self._count_within(budget) - 1, 0)])

    def nearest(self, wanted: int) -> Encoded:
        """The file whose size is nearest to `wanted` bytes, the smaller of two."""
        count = self._count_within(wanted)
        neighbours = self.codec.qualities[max(count - 1, 0) : count + 1]
        return min(map(self.at, neighbours), key=lambda found: abs(len(found.data) - wanted))
