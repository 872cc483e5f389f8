"""Show a photo as .sdl, and as other formats in at most the same bytes: a table, and one picture of all of them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from benchmarks.codecs import FORMATS, Search

PHOTO = Path(__file__).resolve().parent.parent / "docs" / "grace_hopper.jpg"
CAPTION = 34
"""Height in pixels of the line of text above a picture."""

GAP = 8
"""Pixels between pictures."""

LARGEST = 1024
"""Longest side in pixels of a picture on the sheet."""


def enlarged(picture: Image.Image, place: tuple[int, int], side: int, factor: int) -> Image.Image:
    """Return a square part of a picture, enlarged without smoothing.

    place: left and top.   side: of the part; both in pixels.   factor: pixels of the result for each pixel.
    """
    left, top = place
    crop = picture.crop((left, top, left + side, top + side))
    return crop.resize((factor * side, factor * side), Image.Resampling.NEAREST)


def compose(panels: list[tuple[str, Image.Image]], columns: int) -> Image.Image:
    """Return pictures of one size in a grid, each with a line of text above it."""
    width, height = panels[0][1].size
    rows = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + CAPTION + GAP) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(20)
    for index, (text, picture) in enumerate(panels):
        x = GAP + index % columns * (width + GAP)
        y = GAP + index // columns * (height + CAPTION + GAP)
        draw.text((x, y + 4), text, "black", font)
        sheet.paste(picture, (x, y + CAPTION))
    return sheet


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument(
        "photo", type=Path, nargs="?", default=PHOTO, help="the default is a portrait in the public domain"
    )
    parser.add_argument("-q", "--quality", type=int, default=24, help="of the .sdl file, 0 to 100")
    parser.add_argument("-o", "--output", type=Path, default=Path("side_by_side.png"), help="picture to write")
    options = parser.parse_args()
    try:
        with Image.open(options.photo) as source:
            image = ImageOps.exif_transpose(source).convert("RGB")
    except OSError as exc:
        parser.error(f"{options.photo}: {exc.strerror or exc}")
    sdl = next(codec for codec in FORMATS if codec.name == "SDL")
    sdl.decode(sdl.encode(image, options.quality), image.size)  # The first call loads the network.
    data = sdl.encode(image, options.quality)
    file = options.output.with_suffix(".sdl")
    file.write_bytes(data)

    print(f"{options.photo.name}: {image.width} x {image.height}, {image.width * image.height * 3:,} bytes of pixels")
    print(f"{'format':8}{'bytes':>9}{'bits/pixel':>12}{'quality':>9}{'encode s':>10}{'decode s':>10}")
    panels = [(f"original, {options.photo.stat().st_size:,} bytes", image.copy())]
    for codec in FORMATS:
        search = Search(codec, image)
        found = search.at(options.quality) if codec is sdl else search.largest_within(len(data))
        content = found.data
        started = time.perf_counter()
        picture = codec.decode(content, image.size)
        decode_s = time.perf_counter() - started
        note = "" if len(content) <= len(data) else "  cannot be smaller"
        bpp = 8 * len(content) / (image.width * image.height)
        print(f"{codec.name:8}{len(content):9,}{bpp:12.3f}{found.quality:9}{found.seconds:10.3f}{decode_s:10.3f}{note}")
        panels.append((f"{codec.name}, {len(content):,} bytes", picture))
    for _, picture in panels:
        picture.thumbnail((LARGEST, LARGEST))
    compose(panels, 5 if image.height > image.width else 3).save(options.output)
    print(f"Wrote {file} and {options.output}.  SDL invents part of what it shows: compare before you rely on it.")


if __name__ == "__main__":
    main()
