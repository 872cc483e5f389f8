"""Make the golden files: a small file of the embedded model, and what it must decode to.

    python tests/golden/make.py             write sdl.sdl, sdl.json and sdl.png with the embedded model of the checkout
    python tests/golden/make.py --palette   write palette.sdl, palette.json and palette.png, which needs diffusers

Run it after a change of the embedded model or of the format.  The pixels are those of this machine; the test allows
for the differences between machines.  README.md says what the files contain.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw

import pillow_sdl
from pillow_sdl import decode
from pillow_sdl.format import container

FOLDER: Final = Path(__file__).parent
PHOTO: Final = FOLDER.parent.parent / "docs" / "grace_hopper.jpg"


def _photo(width: int, height: int) -> Image.Image:
    """Return a part of the photo with the face in it, RGB."""
    with Image.open(PHOTO) as photo:
        return photo.convert("RGB").crop((170, 120, 170 + width, 120 + height))


def embedded() -> tuple[Image.Image, dict[str, Any]]:
    """Return a picture of odd size with a round alpha plane, and options that store Exif."""
    image = _photo(131, 99)
    alpha = Image.new("L", image.size, 0)
    ImageDraw.Draw(alpha).ellipse((3, 2, 127, 96), fill=255, outline=128, width=2)
    image.putalpha(alpha)
    exif = Image.Exif()
    exif[0x010E] = "golden file"  # The description.
    return image, {"quality": 45, "payload": "range", "exif": exif}


def palette() -> tuple[Image.Image, dict[str, Any]]:
    """Return a picture of odd size, and options for a palette of 256 entries with error diffusion."""
    return _photo(201, 157), {"model": "taesd", "quantizer": "palette"}


def write(name: str, image: Image.Image, options: dict[str, Any]) -> None:
    """Write the file of a picture, a description of its symbols, and its pixels as this machine decodes them."""
    image.save(FOLDER / f"{name}.sdl", **options)
    data = (FOLDER / f"{name}.sdl").read_bytes()
    symbols = decode.quantized(container.read(io.BytesIO(data))).symbols
    expected = {
        "shape": list(symbols.shape),
        "symbols_sha256": hashlib.sha256(symbols.astype("<i2").tobytes()).hexdigest(),
    }
    (FOLDER / f"{name}.json").write_text(json.dumps(expected) + "\n", "utf-8")
    with Image.open(io.BytesIO(data)) as decoded:
        decoded.save(FOLDER / f"{name}.png", exif=decoded.info.get("exif", b""))
    print(f"{name}: {len(data)} bytes")  # noqa: T201  a program


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--palette", action="store_true", help="write the file of the palette instead")
    if parser.parse_args().palette:
        pillow_sdl.configure(model_dirs=[FOLDER / "models"], denoise="off")
        write("palette", *palette())
    else:
        write("sdl", *embedded())


if __name__ == "__main__":
    main()
