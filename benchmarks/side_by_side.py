"""A photo as .sdl, and as the other formats in at most the same bytes: a table, and one picture of them all."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.codecs import FORMATS, decode, largest_within

PHOTO = Path(__file__).resolve().parent.parent / "docs" / "grace_hopper.jpg"
CAPTION = 34
GAP = 8


def compose(panels: list[tuple[str, Image.Image]], columns: int) -> Image.Image:
    """Pictures of one size in a grid, each with a line of text above it."""
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
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("photo", type=Path, nargs="?", default=PHOTO, help="default: a portrait in the public domain")
    parser.add_argument("-q", "--quality", type=int, default=50, help="of the .sdl file, 0 to 100")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("side_by_side.png"), help="the picture that is written"
    )
    options = parser.parse_args()
    with Image.open(options.photo) as source:
        image = source.convert("RGB")
    sdl = next(codec for codec in FORMATS if codec.name == "SDL")
    sdl.encode(image, options.quality)  # The first encode of a process loads torch and the weights.
    started = time.perf_counter()
    data = sdl.encode(image, options.quality)
    encode_s = time.perf_counter() - started
    file = options.output.with_suffix(".sdl")
    file.write_bytes(data)

    print(f"{options.photo.name}: {image.width} x {image.height}, {image.width * image.height * 3:,} bytes of pixels")
    print(f"{'format':8}{'bytes':>9}{'bits/pixel':>12}{'quality':>9}")
    panels = [(f"original, {options.photo.stat().st_size:,} bytes", image)]
    decode_s = 0.0
    for codec in FORMATS:
        found = largest_within(codec, image, len(data)) if codec is not sdl else None
        content, quality = (found.data, found.quality) if found else (data, options.quality)
        picture, seconds = decode(content)
        if codec is sdl:
            decode_s = seconds
        note = "" if len(content) <= len(data) else "  cannot be smaller"
        print(
            f"{codec.name:8}{len(content):9,}{8 * len(content) / (image.width * image.height):12.3f}{quality:9}{note}"
        )
        panels.append((f"{codec.name}, {len(content):,} bytes", picture))
    print(
        f"SDL took {encode_s:.2f} s to encode and {decode_s:.2f} s to decode, once torch and the weights were loaded."
    )
    compose(panels, 5 if image.height > image.width else 3).save(options.output)
    print(f"Wrote {file} and {options.output}.  What SDL shows is partly invented: compare before you rely on it.")


if __name__ == "__main__":
    main()
