"""JPEG, WebP and AVIF as Pillow writes them, and the search for the best file of at most a given size."""

from __future__ import annotations

import io
from bisect import bisect_right
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from PIL import Image, features

if TYPE_CHECKING:
    from collections.abc import Callable


class Format(NamedTuple):
    """A format that is compared with SDL.

    name: for people.   pillow: Pillow's name.   feature: what Pillow's `features.check` calls its library.
    suffix: of files, with a dot.   mime: media type.   options: of `save`, besides the quality.
    qualities: the quality scale, fewest bytes first.
    """

    name: str
    pillow: str
    feature: str
    suffix: str
    mime: str
    options: dict[str, Any]
    qualities: range

    @property
    def missing(self) -> bool:
        """Whether this Pillow cannot write the format."""
        Image.init()
        return self.pillow not in Image.SAVE or not features.check(self.feature)

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """Return the file of a picture."""
        target = io.BytesIO()
        image.save(target, self.pillow, quality=quality, **self.options)
        return target.getvalue()


JPEG: Final = Format("JPEG", "JPEG", "jpg", ".jpg", "image/jpeg", {"optimize": True, "progressive": True}, range(1, 96))
WEBP: Final = Format("WebP", "WEBP", "webp", ".webp", "image/webp", {"method": 6}, range(101))
AVIF: Final = Format("AVIF", "AVIF", "avif", ".avif", "image/avif", {"speed": 4}, range(101))

FORMATS: Final = (AVIF, WEBP, JPEG)
"""The formats in the order of the page: the strongest one first.  They use slow, strong settings."""


class Found(NamedTuple):
    """The file that a search found.   quality: on the scale of the format.   fits: whether it is small enough."""

    data: bytes
    quality: int
    fits: bool


def largest_within(encode: Callable[[int], bytes], qualities: range, budget: int) -> Found:
    """Return the file of the highest quality that takes at most `budget` bytes, or the smallest one if none does.

    encode: makes the file of a quality.  No quality is encoded twice.
    The bisection assumes that sizes grow with quality.  They do, apart from differences of about one per cent.
    """
    file = cache(encode)
    count = bisect_right(qualities, budget, key=lambda quality: len(file(quality)))
    quality = qualities[max(count - 1, 0)]
    return Found(file(quality), quality, len(file(quality)) <= budget)
