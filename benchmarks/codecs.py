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
from pillow_sdl.report import formats


class Codec(Protocol):
    """A way to hold a picture in bytes."""

    @property
    def name(self) -> str:
        """Name in tables and plots."""

    @property
    def qualities(self) -> Sequence[int]:
        """The quality scale, fewest bytes first."""

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """Return a whole file."""

    def decode(self, data: bytes, size: tuple[int, int]) -> Image.Image:
        """Return the picture, RGB.   size: width and height, for files that do not hold them."""


@dataclass(frozen=True)
class Format:
    """A format of Pillow.  Implements `Codec`.

    pillow: Pillow's name of the format.   options: of `save`, besides the quality.
    plugin: module that brings the format, None if Pillow or this project does.
    """

    name: str
    pillow: str
    options: dict[str, Any] = field(default_factory=dict)
    qualities: range = range(101)
    plugin: str | None = None

    def missing(self) -> str | None:
        """Return why files of the format cannot be written here, None if they can.  Registers the plugin."""
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
        """Return a whole file."""
        target = io.BytesIO()
        image.save(target, self.pillow, quality=quality, **self.options)
        return target.getvalue()

    def decode(self, data: bytes, size: tuple[int, int]) -> Image.Image:
        """Return the picture, RGB.   size: not used, because the file holds it."""
        return Image.open(io.BytesIO(data)).convert("RGB")


FORMATS: Final = (
    # As the pages of `sdl report` compare them.
    *(
        Format(kind.name, kind.pillow, kind.options, kind.qualities)
        for kind in (formats.JPEG, formats.WEBP, formats.AVIF)
    ),
    Format("SDL", "SDL"),
)
"""Formats that Pillow and this project write."""

PLUGINS: Final = (
    Format("HEIC", "HEIF", plugin="pillow_heif"),
    Format("JPEG XL", "JXL", {"effort": 9, "lossless_jpeg": False}, plugin="pillow_jxl"),
)
"""Formats that other packages write."""


def sdl_variant(text: str) -> Format:
    """Return SDL with the options in MODEL:EFFORT:PAYLOAD, of which any part may be empty, as in "taesd" or "::zstd".

    Only options that are named are passed to `save`.
    Raises ValueError for more parts, or an effort that is no whole number.
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
    """A file.   quality: that it was encoded at.   seconds: time that encoding took."""

    data: bytes
    quality: int
    seconds: float


class Search:
    """Files of one picture in one format.  No quality is encoded twice.

    The search assumes that sizes grow with quality.  They do, apart from differences of about one per cent.
    """

    def __init__(self, codec: Codec, image: Image.Image) -> None:
        self.codec, self.image = codec, image
        self._files: dict[int, Encoded] = {}

    def at(self, quality: int) -> Encoded:
        """Return the file of a quality."""
        if quality not in self._files:
            started = time.perf_counter()
            data = self.codec.encode(self.image, quality)
            self._files[quality] = Encoded(data, quality, time.perf_counter() - started)
        return self._files[quality]

    def _count_within(self, budget: int) -> int:
        return bisect_right(self.codec.qualities, budget, key=lambda quality: len(self.at(quality).data))

    def largest_within(self, budget: int) -> Encoded:
        """Return the file of the highest quality with at most `budget` bytes, or the smallest file if none has."""
        return self.at(self.codec.qualities[max(self._count_within(budget) - 1, 0)])

    def nearest(self, wanted: int) -> Encoded:
        """Return the file whose size is nearest to `wanted` bytes, the smaller of two."""
        count = self._count_within(wanted)
        neighbors = self.codec.qualities[max(count - 1, 0) : count + 1]
        return min(map(self.at, neighbors), key=lambda found: abs(len(found.data) - wanted))
