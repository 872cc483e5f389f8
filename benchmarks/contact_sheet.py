"""Show twelve crops as .sdl and as AVIF in the same bytes: `python -m benchmarks.contact_sheet --data DIR -o FILE`.

Each row shows a part of a photo: the original, and files of the whole photo at two rates.  The parts are those that
codecs find hard, and those that people look at first.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final, NamedTuple

from PIL import Image
from tqdm import tqdm

from benchmarks.close_up import coded, page
from benchmarks.codecs import FORMATS, Search
from benchmarks.side_by_side import compose, enlarged

RATES: Final = (0.12, 0.25)
"""Bits per pixel of whole files."""

SIDE: Final = 128
"""Pixels along each side of a crop."""

ENLARGED: Final = 2


class Part(NamedTuple):
    """A crop.   photo: file below the data folder, "" for a drawn page.   left, top: in pixels."""

    name: str
    photo: str
    left: int
    top: int


PARTS: Final = (
    Part("face", "kodak/kodim04.png", 195, 255),
    Part("small face", "kodak/kodim18.png", 210, 165),
    Part("skin", "kodak/kodim15.png", 480, 225),
    Part("sky", "kodak/kodim16.png", 380, 40),
    Part("water", "kodak/kodim11.png", 60, 380),
    Part("grass", "kodak/kodim22.png", 300, 384),
    Part("fence", "kodak/kodim19.png", 150, 440),
    Part("stone", "kodak/kodim01.png", 250, 200),
    Part("letters", "kodak/kodim14.png", 490, 350),
    Part("dark", "kodak/kodim17.png", 120, 60),
    Part("gray photo", "edge/camera.png", 190, 70),
    Part("drawing", "", 4, 4),
)


def panels_of(part: Part, folder: Path) -> list[tuple[str, Image.Image]]:
    """Return the pictures of a row, each with its caption."""
    if part.photo:
        with Image.open(folder / part.photo) as source:
            image = source.convert("L" if source.mode == "L" else "RGB")
    else:
        image = page()
    avif = Search(next(codec for codec in FORMATS if codec.name == "AVIF"), image)
    versions = [(part.name, image.convert("RGB"))]
    for rate in RATES:
        data, picture = coded(image, rate)
        peer = avif.largest_within(len(data)).data
        versions.append((f"SDL, {8 * len(data) / image.width / image.height:.2f} bit", picture))
        versions.append(
            (f"AVIF, {8 * len(peer) / image.width / image.height:.2f} bit", avif.codec.decode(peer, image.size))
        )
    return [(text, enlarged(version, (part.left, part.top), SIDE, ENLARGED)) for text, version in versions]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contact_sheet", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the folders kodak/ and edge/")
    parser.add_argument("-o", "--output", type=Path, required=True, help="picture to write")
    options = parser.parse_args()
    panels = [panel for part in tqdm(PARTS, disable=None) for panel in panels_of(part, options.data)]
    compose(panels, 1 + 2 * len(RATES)).save(options.output, quality=88)


if __name__ == "__main__":
    main()
