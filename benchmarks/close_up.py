"""Show enlarged what goes wrong at low rates: `python -m benchmarks.close_up -o docs/close_up.png`.

The picture shows a face, decorations of a few pixels, and printed text: the originals, and the same as .sdl at two
rates without guarded parts, enlarged without smoothing.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

import pillow_sdl  # noqa: F401  registers the format
from benchmarks.side_by_side import PHOTO, compose, enlarged

RATES: Final = (0.25, 0.1)
"""Bits per pixel of whole files."""

SIDE: Final = 112
"""Pixels along each side of a crop."""

ENLARGED: Final = 3
CROPS: Final = ((250, 130), (384, 430))
"""Left and top of the crops of the portrait."""

TEXT: Final = (
    "These letters are eleven\npixels high. Read them in\nthe picture beside: what\n"
    "you see there is a guess,\n1847 may be 1347, and\nno one will tell you."
)


def page() -> Image.Image:
    """Return black text on white, 384 x 384 pixels.  The crop shows its beginning."""
    image = Image.new("RGB", (384, 384), "white")
    draw = ImageDraw.Draw(image)
    for top in range(8, 384, 104):
        for left in (8, 200):
            draw.multiline_text((left, top), TEXT, "black", ImageFont.load_default(11), spacing=5)
    return image


def coded(image: Image.Image, rate: float, **options: Any) -> tuple[bytes, Image.Image]:
    """Return the .sdl file of an image with that many bits per pixel, and what it shows.   options: of `save`."""
    file = io.BytesIO()
    image.save(file, "SDL", target_bytes=round(rate * image.width * image.height / 8), **options)
    return file.getvalue(), Image.open(file).convert("RGB")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.close_up", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="picture to write")
    options = parser.parse_args()
    with Image.open(PHOTO) as source:
        portrait = source.convert("RGB")
    panels = []
    for image, places in ((portrait, CROPS), (page(), ((4, 4),))):
        versions = [
            ("original", image),
            *((f"{rate} bits per pixel", coded(image, rate, guard="off")[1]) for rate in RATES),
        ]
        for place in places:
            for text, version in versions:
                panels.append((text, enlarged(version, place, SIDE, ENLARGED)))
    compose(panels, 1 + len(RATES)).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
