"""Measure one photo: its SDL file, and the files of other formats that take at most as many bytes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from PIL import Image, ImageCms, features

from .. import decode, progress, reading, settings
from ..options import DEFAULT_QUALITY
from ..SdlImagePlugin import SdlImageFile, _prepare
from . import MAX_SIDE, formats, metrics

if TYPE_CHECKING:
    from ..fidelity_map import Fidelity

ORIENTATION: Final = 0x0112
"""The Exif tag that says how to turn a photo."""

TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn a photo upright, by the value of the tag."""

EXIF_LENGTH: Final = 200
"""Characters of an Exif text that are shown."""

SDL_SHARE: Final = 0.5
"""Part of the progress that SDL takes.  The other formats share the rest."""


class Entry(NamedTuple):
    """A file of the photo in one format.

    name: of the format.   quality: on its scale, None if the file was made for a number of bytes.
    fits: whether it takes no more bytes than the SDL file.   suffix, mime: of the file.
    psnr: in dB, infinite if nothing is lost.   ssim: None for pictures that are too small for it.
    """

    name: str
    data: bytes
    quality: int | None
    fits: bool
    suffix: str
    mime: str
    psnr: float
    ssim: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What one photo's part of the page shows.

    name: of the photo's file.   size: width and height before scaling.   file_size: bytes of its file, None if unknown.
    file_format: Pillow's name of its format.   exif: titles and texts.   changes: sentences on how `original` was made.
    original, decoded: the pictures that were compared, RGB or L.
    sdl: the SDL file.   others: the files of other formats.   missing: names of formats that Pillow lacks.
    model: that encoded and decoded the SDL file.   fidelity: the file's map, None if it has none that holds.
    fidelity_missing: why there is no map, empty if there is one.
    guarded: boxes of the file's guard patches: left, top, right, bottom in pixels.
    """

    name: str
    size: tuple[int, int]
    file_size: int | None
    file_format: str
    exif: dict[str, str]
    changes: tuple[str, ...]
    original: Image.Image
    decoded: Image.Image
    sdl: Entry
    others: tuple[Entry, ...]
    missing: tuple[str, ...]
    model: str
    fidelity: Fidelity | None
    fidelity_missing: str
    guarded: list[list[int]]


def compare(
    image: Image.Image, name: str, file_size: int | None, options: dict[str, Any], *, max_side: int = MAX_SIDE
) -> Comparison:
    """Measure a photo.

    image: as `Image.open` returned it.   name: of its file.   file_size: in bytes, None if unknown.
    options: of `Image.save` for SDL.   max_side: longer photos are scaled down to this side, in pixels.
    Raises what `Image.save` raises for SDL, and ValueError for a photo that is an SDL file itself.
    """
    if isinstance(image, SdlImageFile):
        msg = "this is an SDL file; a comparison needs the original"
        raise ValueError(msg)  # noqa: TRY004  the file is wrong, not its type
    file_format, size, exif = image.format or image.mode, image.size, _exif(image)
    original, changes = _prepared(image, max_side)
    present = [kind for kind in formats.FORMATS if not kind.missing]
    others = []
    with progress.job(settings.current().progress):
        data, decoded = _as_sdl(original, options)
        for index, kind in enumerate(present):
            others.append(_searched(kind, original, len(data)))
            progress.report(SDL_SHARE + (1 - SDL_SHARE) * (index + 1) / len(present), 1)
    quality = None if "target_bytes" in options else options.get("quality", DEFAULT_QUALITY)
    sdl = Entry("SDL", data, quality, True, ".sdl", "image/x-sdl", *_measured(original, decoded))
    found = None
    reason = "there is no room for one in so few bytes"
    if "fidelity" in decoded.info:
        found = reading.fidelity(io.BytesIO(data)) if decoded.info["fidelity"]["holds"] else None
        reason = "" if found else "its bounds do not hold for a picture that was denoised"
    return Comparison(
        name=name,
        size=size,
        file_size=file_size,
        file_format=file_format,
        exif=exif,
        changes=changes,
        original=original,
        decoded=decoded.convert(original.mode),
        sdl=sdl,
        others=tuple(others),
        missing=tuple(kind.name for kind in formats.FORMATS if kind not in present),
        model=decoded.info["sdl_decoder"],
        fidelity=found,
        fidelity_missing=reason,
        guarded=decode.guarded_boxes(reading.read_container(io.BytesIO(data))),
    )


def _as_sdl(image: Image.Image, options: dict[str, Any]) -> tuple[bytes, Image.Image]:
    """Return the SDL file of a picture with a fidelity map, and its decoded picture."""
    target = io.BytesIO()
    with progress.part(0, 0.7 * SDL_SHARE):
        image.save(target, "SDL", **options, fidelity=True)
    decoded = Image.open(target)
    with progress.part(0.7 * SDL_SHARE, SDL_SHARE):
        decoded.load()
    return target.getvalue(), decoded


def _searched(kind: formats.Format, image: Image.Image, budget: int) -> Entry:
    found = formats.largest_within(lambda quality: kind.encode(image, quality), kind.qualities, budget)
    with Image.open(io.BytesIO(found.data)) as decoded:
        measured = _measured(image, decoded)
    return Entry(kind.name, found.data, found.quality, found.fits, kind.suffix, kind.mime, *measured)


def _measured(original: Image.Image, decoded: Image.Image) -> tuple[float, float | None]:
    """Return PSNR and SSIM."""
    pair = np.asarray(original), np.asarray(decoded.convert(original.mode))
    return metrics.psnr(*pair), metrics.ssim(*pair)


# The photo


def shown_size(size: tuple[int, int]) -> str:
    """Return a width and a height as text."""
    return f"{size[0]} \N{MULTIPLICATION SIGN} {size[1]}"


def _prepared(image: Image.Image, max_side: int) -> tuple[Image.Image, tuple[str, ...]]:
    """Return the picture that is compared, RGB or L without metadata, and sentences that say how it was made.

    It is upright, in sRGB, opaque, and no longer than `max_side`.
    """
    changes = []
    image.load()
    turn = TURNS.get(_tags(image)[0].get(ORIENTATION, 1))
    if turn is not None:
        image = image.transpose(turn)
        changes.append("Turned upright, as its Exif says.")
    image, text = _in_srgb(image)
    changes += filter(None, [text])
    mode, pixels, alpha = _prepare(image)
    found = Image.fromarray(pixels)
    if alpha is not None:
        white = Image.new("RGB", found.size, "white")
        white.paste(found, mask=Image.fromarray(alpha))
        found = white
        changes.append("Laid on white, because JPEG has no transparency.")
    if max(found.size) > max_side:
        before = found.size
        found.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
        changes.append(
            f"Scaled down from {shown_size(before)} to {shown_size(found.size)} pixels before it was encoded."
        )
    return (found.convert("L") if mode.name in {"L", "LA"} else found), tuple(changes)


def _in_srgb(image: Image.Image) -> tuple[Image.Image, str]:
    """Return a picture with its colors converted to sRGB, and a sentence if that changed or failed."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in {"RGB", "CMYK"} or not features.check("littlecms2"):
        return image, ""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        name = ImageCms.getProfileDescription(source).strip()[:EXIF_LENGTH]
        if image.mode == "RGB" and "sRGB" in name:
            return image, ""
        found = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return image, "Its color profile cannot be read and is ignored."
    assert found is not None
    return found, f"Converted to sRGB from the color profile “{name}”."


def _tags(image: Image.Image) -> tuple[dict[int, Any], dict[int, Any]]:
    """Return the tags of a photo's Exif: of the image, and of the exposure.  Empty if they cannot be read."""
    try:
        tags = image.getexif()
        return dict(tags), dict(tags.get_ifd(0x8769))
    except Exception:  # noqa: BLE001  damaged Exif raises anything, and the photo can be compared without it
        return {}, {}


def _exif(image: Image.Image) -> dict[str, str]:
    """Return texts of a photo's Exif by their titles: description, camera and time.  No place."""
    tags, exposure = _tags(image)
    maker, model = _text(tags.get(0x010F)), _text(tags.get(0x0110))
    found = {
        "Description": _text(tags.get(0x010E)),
        "Camera": model if model.startswith(maker) else f"{maker} {model}".strip(),
        "Taken": _text(exposure.get(0x9003) or tags.get(0x0132)),
    }
    return {title: text for title, text in found.items() if text}


def _text(value: object) -> str:
    """Return an Exif value as a short text, empty if it is none."""
    text = value.strip("\0 \n\r\t") if isinstance(value, str) else ""
    return text if len(text) <= EXIF_LENGTH else f"{text[:EXIF_LENGTH]}…"
