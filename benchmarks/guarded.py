"""Show what the guard does: `python -m benchmarks.guarded --images KODAK -o docs/guarded.jpg`.

The picture shows a part of a portrait and of a street scene: the originals, and files of the same size without guard,
with the automatic one, and with a detector of faces or of text.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final, NamedTuple

from PIL import Image

from benchmarks.close_up import coded
from benchmarks.side_by_side import compose, enlarged

RATE: Final = 0.15
"""Bits per pixel of whole files."""

SIDE: Final = 144
"""Pixels along each side of a crop."""

ENLARGED: Final = 2


class Scene(NamedTuple):
    """A part of a photo.   detector: value of the option `guard`.   left, top: in pixels."""

    photo: str
    detector: str
    left: int
    top: int


SCENES: Final = (Scene("kodim18.png", "faces", 200, 150), Scene("kodim08.png", "text", 560, 270))


def panels_of(scene: Scene, folder: Path) -> list[tuple[str, Image.Image]]:
    """Return the pictures of a row, each with its caption."""
    with Image.open(folder / scene.photo) as source:
        image = source.convert("RGB")
    versions = [("original", image)]
    for guard in ("off", "auto", scene.detector):
        data, picture = coded(image, RATE, guard=guard)
        versions.append((f'guard="{guard}", {len(data):,} bytes', picture))
    return [(text, enlarged(version, (scene.left, scene.top), SIDE, ENLARGED)) for text, version in versions]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guarded", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of the Kodak photos")
    parser.add_argument("-o", "--output", type=Path, required=True, help="picture to write")
    options = parser.parse_args()
    panels = [panel for scene in SCENES for panel in panels_of(scene, options.images)]
    compose(panels, 4).save(options.output, quality=90)


if __name__ == "__main__":
    main()
