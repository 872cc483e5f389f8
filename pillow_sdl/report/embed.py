"""Pictures as data URIs of a limited size."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from PIL import Image

from . import formats, metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT: Final = 600_000
"""Largest number of bytes of one embedded picture.  A page has two of them for each photo, and base64 adds a third."""

TOTAL: Final = 40_000_000
"""Largest number of bytes of all embedded pictures of a page together.  `LEAST` takes precedence."""

LEAST: Final = 100_000
"""Number of bytes that each embedded picture may take, however many pictures there are."""

QUALITIES: Final = (98, 95, 92, 88, 84, 80, 70, 60)
"""JPEG qualities for a picture that is too large without loss, the best first."""

THUMBNAIL: Final = 160
"""Longer side of the pictures in the list of photos, in pixels."""


class Embedded(NamedTuple):
    """A picture in the page.   loss: how it differs from the true pixels, as a phrase; empty if it does not."""

    uri: str
    loss: str


def limit(photos: int) -> int:
    """Return the most bytes of one embedded picture on a page with a number of photos."""
    return min(LIMIT, max(LEAST, TOTAL // (2 * photos)))


def data_uri(data: bytes, mime: str) -> str:
    """Return a file as a data URI."""
    return f"data:{mime};base64,{base64.b64encode(data).decode('ascii')}"


def embedded(image: Image.Image, most: int) -> Embedded:
    """Return a picture without loss if it then takes at most `most` bytes, else as a JPEG file of high quality.

    The JPEG file keeps the full resolution of color.  The lowest quality of `QUALITIES` is taken even if it is larger.
    """
    data, mime, quality = next(file for file in _files(image) if len(file[0]) <= most or file[2] == QUALITIES[-1])
    if quality is None:
        return Embedded(data_uri(data, mime), "")
    with Image.open(io.BytesIO(data)) as shown:
        ratio = metrics.psnr(np.asarray(image), np.asarray(shown.convert(image.mode)))
    return Embedded(
        data_uri(data, mime), f"JPEG of quality {quality} with full color resolution, {ratio:.1f} dB from the pixels"
    )


def _files(image: Image.Image) -> Iterator[tuple[bytes, str, int | None]]:
    """Yield files of a picture with their media types and JPEG qualities, None without loss; the best first."""
    target = io.BytesIO()
    if formats.WEBP.missing:
        image.save(target, "PNG", optimize=True)
        yield target.getvalue(), "image/png", None
    else:
        image.save(target, "WEBP", lossless=True, quality=80, method=4)
        yield target.getvalue(), "image/webp", None
    for quality in QUALITIES:
        target = io.BytesIO()
        # Not optimized: Pillow's buffer for that is too small for noise.
        image.save(target, "JPEG", quality=quality, subsampling="4:4:4")
        yield target.getvalue(), "image/jpeg", quality


def thumbnail(image: Image.Image) -> str:
    """Return a small version of a picture as a data URI."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    target = io.BytesIO()
    small.save(target, "JPEG", quality=80, optimize=True)
    return data_uri(target.getvalue(), "image/jpeg")
