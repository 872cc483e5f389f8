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

ANIMATED: Final = frozenset({"GIF", "PNG", "WEBP", "AVIF", "FLI", "SDL"})
"""Pillow's names of the formats whose frames are shown one after another.  Frames of other formats are pages or views."""

DEEP: Final = re.compile(r";(12|14|16|32)[BLN]")
"""Names of Pillow's raw modes with more than 8 bits a sample, such as RGB;16B.  BGR;16 has 16 bits a pixel."""

# Tags that describe how a TIFF file stores its pixels, and those of XMP and the ICC profile, which are stored apart:
# size, compression, color coding, strips, tiles, samples, 700 (XMP), 34675 (ICC profile).
LAYOUT_TAGS: Final = frozenset(
    [*range(254, 260), 262, 266, 273, *range(277, 280), 284, 317, *range(320, 326), 338, 339, 700, 34675]
)


def extensions() -> set[str]:
    """Return the extensions of the files in folders that are encoded: of all formats that Pillow can read, but SDL."""
    kinds = Image.registered_extensions()  # Loads all plugins.
    readable = Image.OPEN.keys() | {"MPO"}  # Pillow opens MPO files as JPEG files.
    return {suffix for suffix, kind in kinds.items() if kind in readable - NO_PICTURES}


def encoded(image: Image.Image, *, strip: bool, still: bool = False, **options: Any) -> bytes:
    """Return the SDL file of an opened image or animation, with its Exif, XMP and ICC profile.

    strip: whether these are left out.   still: whether only the first frame of an animation is stored.
    options: of `save`.   Raises what `Image.load` and `Image.save` raise.
    """
    metadata = {"icc_profile": b""} if strip else metadata_of(image)
    target = io.BytesIO()
    image.save(target, "SDL", save_all=not still and is_animation(image), **options, **metadata)
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


def losses(image: Image.Image, *, still: bool = False) -> Iterator[str]:
    """Yield what of an opened image is not stored: frames after the first one, and more than 8 bits a sample.

    still: whether the first frame of an animation is all that is wanted.
    """
    frames = count_frames(image)
    if not frames:
        yield "only the first frame is stored: the others are damaged"
    elif frames > 1 and not still and not is_animation(image):
        yield f"only the first of {frames} frames is stored"
    if image.mode in {"I", "F"}:
        yield f"samples of mode {image.mode} are stored with 8 bits"
    elif image.mode.startswith("I;16") or DEEP.search(str(getattr(image, "tile", ""))):
        yield "samples of more than 8 bits are stored with 8 bits"


def is_animation(image: Image.Image) -> bool:
    """Return whether an opened image has frames that are shown one after another."""
    return image.format in ANIMATED and count_frames(image) > 1


def count_frames(image: Image.Image) -> int:
    """Return the number of frames of an opened image, 0 if damage hides it."""
    if image.format == "PSD":  # Its frames are layers.  The picture that is stored shows all of them.
        return 1
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001  plugins raise anything for damage in later frames
        return 0
