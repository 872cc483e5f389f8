"""Pictures of other formats that are encoded: which there are, what of them is stored, and what is lost."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_PICTURES: Final = frozenset({"SDL", "BUFR", "GRIB", "HDF5", "MPEG"})
"""Formats that are not taken from folders: this package's own, and those of which Pillow reads nothing but the name."""

DEEP: Final = re.compile(r";(12|14|16|32)[BLN]")
"""Names of Pillow's raw modes with more than 8 bits a sample, such as RGB;16B.  BGR;16 has 16 bits a pixel."""

# Tags that describe how a TIFF file stores its pixels, and those of XMP and the ICC profile, which are stored apart:
# size, compression, colour coding, strips, tiles, samples, 700 (XMP), 34675 (ICC profile).
LAYOUT_TAGS: Final = frozenset(
    [*range(254, 260), 262, 266, 273, *range(277, 280), 284, 317, *range(320, 326), 338, 339, 700, 34675]
)


def extensions() -> set[str]:
    """Return the extensions of the files in folders that are encoded: of all formats that Pillow can read, but SDL."""
    kinds = Image.registered_extensions()  # Loads all plugins.
    readable = Image.OPEN.keys() | {"MPO"}  # Pillow opens MPO files as JPEG files.
    return {suffix for suffix, kind in kinds.items() if kind in readable - NO_PICTURES}


def encoded(image: Image.Image, *, strip: bool, **options: Any) -> bytes:
    """Return the SDL file of an opened image, with its Exif, XMP and ICC profile.

    strip: whether these are left out.   options: of `save`.   Raises what `Image.load` and `Image.save` raise.
    """
    metadata = {"icc_profile": b""} if strip else metadata_of(image)
    target = io.BytesIO()
    image.save(target, "SDL", **options, **metadata)
    return target.getvalue()


def metadata_of(image: Image.Image) -> dict[str, Any]:
    """Return the Exif and XMP of an opened image, as options of `save`."""
    found = {"exif": image.info.get("exif") or _tags(image), "xmp": image.info.get("xmp")}
    return {key: value for key, value in found.items() if value}


def _tags(image: Image.Image) -> bytes:
    """Return the Exif of formats that store it in another form, such as TIFF, without `LAYOUT_TAGS`."""
    exif = image.getexif()
    for tag in LAYOUT_TAGS.intersection(exif):
        del exif[tag]
    data = exif.tobytes()
    return b"" if data == Image.Exif().tobytes() else data


def losses(image: Image.Image) -> Iterator[str]:
    """Yield what of an opened image is not stored: frames after the first one, and more than 8 bits a sample."""
    frames = _frames(image)
    if frames > 1:
        yield f"only the first of {frames} frames is stored"
    if image.mode in {"I", "F"}:
        yield f"samples of mode {image.mode} are stored with 8 bits"
    elif image.mode.startswith("I;16") or DEEP.search(str(getattr(image, "tile", ""))):
        yield "samples of more than 8 bits are stored with 8 bits"


def _frames(image: Image.Image) -> int:
    """Return the number of frames of an opened image."""
    if image.format == "PSD":  # Its frames are layers.  The picture that is stored shows all of them.
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001  damage in later frames, which are not used; plugins raise anything
        return 1
