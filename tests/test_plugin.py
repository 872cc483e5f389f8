"""The plugin as users of Pillow see it: open, load, save, thumbnail and verify."""

from __future__ import annotations

import copy
import io
import os
import pickle
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, ImageFilter, ImageOps, ImageSequence, UnidentifiedImageError

import pillow_sdl
from pillow_sdl import decode, errors, registry
from pillow_sdl.errors import (
    ChecksumError,
    LimitError,
    MalformedError,
    ModelError,
    ModelNotFoundError,
    SdlError,
    TruncatedError,
    UnsupportedError,
)
from pillow_sdl.format.container import Section
from pillow_sdl.SdlImagePlugin import SdlImageFile

from . import images
from .conftest import EXIF, MODEL, XMP

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import PerfectModel

pytestmark = pytest.mark.plain

MODES = {**images.MODES, **images.KEYED}

STORED = {"1": "L", "F": "L", "I": "L", "I;16": "L", "I;16B": "L", "I;16L": "L", "I;16N": "L", "L": "L"}
STORED |= {"LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}
STORED |= dict.fromkeys(("CMYK", "HSV", "LAB", "P", "RGB", "RGBX", "YCbCr"), "RGB")
STORED |= {"L, one gray clear": "LA", "RGB, one color clear": "RGBA"}
STORED |= {"P, one index clear": "RGBA", "P, alpha for each index": "RGBA"}
"""The mode of the file of a picture, by the name of the picture."""


def as_stored(name: str) -> Image.Image:
    """Return what the file of a picture should show, made by Pillow's own conversions."""
    image = MODES[name]()
    if name.startswith("I;16"):
        kind = {"I;16B": ">u2", "I;16N": "=u2"}.get(name, "<u2")
        values = np.frombuffer(image.tobytes(), kind).reshape(image.size[::-1])
        return Image.fromarray((values.astype(int) * 255 / 65535).round().astype(np.uint8))
    if name == "RGBX":
        return Image.merge("RGB", image.split()[:3])
    return image.convert(STORED[name])


def visible(image: Image.Image) -> Image.Image:
    """Return the image with black where it is fully transparent, so that hidden colors do not count."""
    if not image.mode.endswith("A"):
        return image
    bare = Image.new(image.mode, image.size)
    bare.paste(image, mask=image.getchannel("A").point(lambda value: 255 if value else 0))
    return bare


def raised_by(action: Callable[[], object]) -> type[BaseException]:
    """Return the class of the exception that an action raises."""
    with pytest.raises(BaseException) as caught:
        action()
    return caught.type


def png() -> bytes:
    """Return the picture of `plain_file` as a PNG, to compare the behavior of both formats."""
    stream = io.BytesIO()
    images.gradient().save(stream, "PNG")
    return stream.getvalue()


# Open


def test_opening_tells_everything_but_the_pixels(plain_path: Path) -> None:
    """Format, mode, size and the facts in `info` are known before the picture is loaded."""
    with Image.open(plain_path) as image:
        assert isinstance(image, SdlImageFile)
        assert image.format == "SDL"
        assert image.format_description
        assert image.mode == "RGB"
        assert image.size == images.SIZE
        assert image.get_format_mimetype() == "image/x-sdl"
        assert image.info["generative"] is True
        assert image.info["sdl_version"] == 0
        assert len(bytes.fromhex(image.info["sdl_model"])) == 16
        assert {"exif", "icc_profile", "xmp"}.isdisjoint(image.info)


def test_the_format_is_registered() -> None:
    """Pillow knows the extension and the media type."""
    assert Image.registered_extensions()[".sdl"] == "SDL"
    assert Image.MIME["SDL"] == "image/x-sdl"


@pytest.mark.parametrize("kind", [str, bytes, None], ids=["str", "bytes", "Path"])
def test_a_file_is_opened_by_every_kind_of_path(kind: type | None, plain_path: Path) -> None:
    """The extension of its name does not matter."""
    renamed = plain_path.rename(plain_path.with_suffix(".data"))
    name: Any = renamed if kind is None else str(renamed).encode() if kind is bytes else str(renamed)
    with Image.open(name) as image:
        assert image.format == "SDL"


def test_a_picture_of_another_format_is_opened_by_the_extension_sdl(tmp_path: Path) -> None:
    """The content decides the format, not the name."""
    path = tmp_path / "picture.sdl"
    path.write_bytes(png())
    with Image.open(path) as image:
        assert image.format == "PNG"


@pytest.mark.parametrize("data", [b"", b"\x89", b"\x89SD", b"\x89PNG", b"not an SDL file", b" \x89SDL\0\0\2"])
def test_bytes_that_are_no_sdl_file_are_not_identified(data: bytes) -> None:
    """Pillow raises its own error for bytes that are no picture."""
    with pytest.raises(UnidentifiedImageError):
        images.opened(data)


def test_the_plugin_raises_syntax_error_for_other_formats() -> None:
    """Pillow takes this error to mean that the file has another format."""
    with pytest.raises(SyntaxError, match="not an SDL file"):
        SdlImageFile(io.BytesIO(b"not an SDL file"))


def test_formats_limits_what_is_opened(plain_file: bytes) -> None:
    """The argument `formats` of `Image.open` holds."""
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(plain_file), formats=["PNG"])
    with Image.open(io.BytesIO(plain_file), formats=["SDL"]) as image:
        assert image.size == images.SIZE


@pytest.mark.parametrize("version", [1, 9, 255])
def test_a_newer_format_version_is_named(plain_file: bytes, version: int) -> None:
    """The error says that the file is newer, not that it is no picture."""
    data = plain_file[:4] + bytes([version]) + plain_file[5:]
    with pytest.raises(UnsupportedError, match=rf"\b{version}\b"):
        images.opened(data)


def test_an_unknown_critical_flag_is_refused_by_open(plain_file: bytes) -> None:
    """H-03: the meaning of the rest of the file is unknown."""
    with pytest.raises(UnsupportedError, match="flags"):
        images.opened(images.with_header(plain_file, flags=1))


@pytest.mark.parametrize("field", ["space", "quantizer", "payload"])
def test_an_unknown_number_is_refused_by_load(plain_file: bytes, field: str) -> None:
    """H-07: size and mode are still known."""
    image = images.opened(images.with_header(plain_file, **{field: 77}))
    assert image.size == images.SIZE
    with pytest.raises(UnsupportedError, match="77"):
        image.load()


def test_a_rate_above_the_largest_is_refused(plain_file: bytes) -> None:
    """L-05: the largest rate is 255."""
    with pytest.raises(LimitError, match="256"):
        images.opened(images.with_header(plain_file, rate=256)).load()


def test_an_unknown_critical_section_is_refused_by_load(plain_file: bytes) -> None:
    """S-02: size and mode are still known."""
    file = images.parsed(plain_file)
    image = images.opened(file._replace(sections=(Section(b"Q", b""), *file.sections)).to_bytes())
    assert image.size == images.SIZE
    with pytest.raises(UnsupportedError, match="Q"):
        image.load()


def test_unknown_ignorable_sections_are_skipped(rich_file: bytes) -> None:
    """S-01, at every place among the metadata."""
    file = images.parsed(rich_file)
    first, *others = file.sections
    more = (Section(b"q", b"later"), first, Section(b"z", bytes(99)), *others)
    image = images.opened(file._replace(sections=more).to_bytes())
    assert image.info == images.opened(rich_file).info
    assert image.tobytes() == images.opened(rich_file).tobytes()


# Damage


def test_a_file_cut_at_a_boundary_is_truncated(rich_file: bytes) -> None:
    """At the end of the header and of each section.  What comes before the cut is still read."""
    for end in images.boundaries(rich_file)[:-1]:
        image = images.opened(rich_file[:end])
        assert image.size == (5, 3)
        with pytest.raises(TruncatedError):
            image.load()


@pytest.mark.parametrize("near", [-5, -1, 1, 2, 4])
def test_a_file_cut_near_a_boundary_is_truncated(rich_file: bytes, near: int) -> None:
    """Within names, lengths and checksums.  Either open or load raises the error."""
    for end in images.boundaries(rich_file)[:-1]:
        with pytest.raises(TruncatedError):
            images.opened(rich_file[: end + near]).load()
    with pytest.raises(TruncatedError):
        images.opened(rich_file[:-1]).load()


def test_a_flipped_bit_is_never_shown_as_a_picture(rich_file: bytes) -> None:
    """For one bit in every byte, open or load raises a documented error."""
    for byte in range(len(rich_file)):
        with pytest.raises((SdlError, UnidentifiedImageError)):
            images.opened(images.flipped(rich_file, 8 * byte + byte % 8)).load()


def test_a_destroyed_payload_leaves_the_metadata(rich_file: bytes) -> None:
    """Opening reads no payload.  Loading finds the damage."""
    start = images.boundaries(rich_file)[-2]
    data = rich_file[: start + 4] + bytes(len(rich_file) - start - 4)
    image = images.opened(data)
    assert (image.size, image.mode) == ((5, 3), "RGBA")
    assert image.getexif()[0x0112] == 6
    assert image.info == images.opened(rich_file).info
    with pytest.raises(ChecksumError):
        image.load()


def test_opening_reads_no_further_than_the_metadata(rich_file: bytes) -> None:
    """No byte of the sections for alpha and latent is read."""
    stream = io.BytesIO(rich_file)
    with Image.open(stream):
        assert stream.tell() <= images.boundaries(rich_file)[-3]


@pytest.mark.parametrize("size", [(64, 48), (16, 16), (1, 1)])
def test_a_payload_of_another_size_is_malformed(plain_file: bytes, size: tuple[int, int]) -> None:
    """The payload must fit the size in the header: P-03, or a limit if it holds too much."""
    data = images.with_header(plain_file, width=size[0], height=size[1])
    if size == (64, 48):
        data = images.with_header(plain_file, width=64, height=64)
    with pytest.raises((MalformedError, LimitError)):
        images.opened(data).load()


def test_a_huge_picture_is_refused_as_a_bomb(plain_file: bytes) -> None:
    """Pillow's own limit holds for a header that declares 4 gigapixels.  Less than 1 MiB is allocated."""
    data = images.with_header(plain_file, width=65535, height=65535)
    tracemalloc.start()
    try:
        with pytest.raises(Image.DecompressionBombError):
            images.opened(data)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_pillows_limit_on_pixels_holds(plain_file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Image.MAX_IMAGE_PIXELS`: a warning above it, and an error above twice as many pixels."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.warns(Image.DecompressionBombWarning):
        images.opened(plain_file).close()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        images.opened(plain_file)


# Save


def test_every_mode_of_pillow_is_tested() -> None:
    """The tables of this module and of `images` leave none out."""
    assert set(Image.MODES) <= set(images.MODES)
    assert set(STORED) == set(MODES)


@pytest.mark.parametrize("name", MODES)
def test_a_picture_of_every_mode_is_converted_by_the_table(name: str, perfect: PerfectModel) -> None:
    """With a network without loss a file shows exactly what Pillow's own conversion gives."""
    expected = as_stored(name)
    found = images.reopened(MODES[name](), fidelity=False, guard="off")
    assert found.mode == STORED[name]
    assert found.size == images.SIZE
    if name == "LAB":  # through color profiles, rounded on the way
        assert images.difference(found, expected) < 2
    else:
        assert images.difference(visible(found), visible(expected)) == 0
    if found.mode.endswith("A"):
        assert found.getchannel("A").tobytes() == expected.getchannel("A").tobytes()
    assert perfect.decodes == 1


@pytest.mark.parametrize("name", MODES)
def test_a_picture_of_every_mode_comes_back(name: str) -> None:
    """The embedded network at quality 100 gives a similar picture, and alpha is exact."""
    expected = as_stored(name)
    found = images.reopened(MODES[name](), quality=100)
    assert (found.mode, found.size) == (STORED[name], images.SIZE)
    assert images.resembles(visible(found), visible(expected))
    if found.mode.endswith("A"):
        assert found.getchannel("A").tobytes() == expected.getchannel("A").tobytes()


def test_lab_is_converted_to_the_srgb_colors_that_it_stands_for(perfect: PerfectModel) -> None:
    """A conversion to Lab and back changes a smooth picture by less than 8 levels on average."""
    found = images.reopened(images.gradient().convert("LAB"), fidelity=False, guard="off")
    assert images.difference(found, images.gradient()) < 8
    assert perfect.decodes == 1


@pytest.mark.parametrize(
    ("mode", "values", "stored"),
    [
        ("I", [0, 1, 200, 255], [0, 1, 200, 255]),
        ("I", [0, 128, 129, 256, 30000, 65535], [0, 0, 1, 1, 117, 255]),
        ("F", [0, 0.4, 0.6, 200.2, 255], [0, 0, 1, 200, 255]),
    ],
)
def test_wide_modes_are_scaled(mode: str, values: list[float], stored: list[int], perfect: PerfectModel) -> None:
    """By the table of the module, not cut."""
    image = Image.new(mode, (len(values), 1))
    image.putdata(values)
    assert list(images.reopened(image, fidelity=False, guard="off").tobytes()) == stored
    assert perfect.decodes == 1


@pytest.mark.parametrize(("mode", "value"), [("I", -1), ("I", 65536), ("F", -0.1), ("F", 255.1)])
def test_values_beyond_the_range_are_refused(mode: str, value: float) -> None:
    """They are not clipped: HDR pictures would lose their highlights silently."""
    with pytest.raises(ValueError, match=r"cannot be saved as SDL: they must be in 0\.\."):
        images.saved(Image.new(mode, (3, 3), value))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    """They stand for no level."""
    with pytest.raises(ValueError, match="finite"):
        images.saved(Image.new("F", (3, 3), value))


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 17), (17, 1), (15, 16), (16, 16), (33, 47), (65535, 1), (1, 65535), (1100, 1030)]
)
def test_a_picture_of_any_size_comes_back(size: tuple[int, int]) -> None:
    """From one pixel to the longest side, and above a megapixel, where the network runs in tiles."""
    image = images.gradient(*size)
    found = images.reopened(image, quality=100)
    assert found.size == size
    assert len(found.tobytes()) == 3 * size[0] * size[1]
    if min(size) > 16:
        assert images.resembles(found, image)
    elif min(size) > 1:
        assert images.difference(found, image) < images.flat_difference(image)


@pytest.mark.parametrize("size", [(65536, 1), (1, 65536)])
def test_a_side_that_is_too_long_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    """The message states the limit, and no file is left."""
    path = tmp_path / "long.sdl"
    with pytest.raises(ValueError, match="65535"):
        Image.new("L", size).save(path)
    assert not path.exists()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_a_picture_without_pixels_is_refused(mode: str, size: tuple[int, int], tmp_path: Path) -> None:
    """Every mode raises ValueError."""
    path = tmp_path / "empty.sdl"
    with pytest.raises(ValueError, match="0"):
        Image.new(mode, size).save(path)
    assert not path.exists()


def test_a_gray_picture_stays_gray(perfect: PerfectModel) -> None:
    """Mode L is decoded to one band.  The luma of three equal bands is that gray, for all 256 levels."""
    grays = Image.frombytes("L", (256, 1), bytes(range(256)))
    assert images.reopened(grays, fidelity=False, guard="off").tobytes() == grays.tobytes()
    assert perfect.decodes == 1


def test_colors_of_a_gray_picture_are_weighed_as_pillow_does(perfect: PerfectModel) -> None:
    """If the network gives colors for a gray picture, the luma of SPEC 10 makes it gray."""
    data = images.saved(Image.new("L", (2, 1)), guard="off")
    perfect.pixels = np.array([[[255, 0, 0], [10, 200, 90]]], np.uint8)
    assert list(images.opened(data).tobytes()) == [round(0.299 * 255), round(0.299 * 10 + 0.587 * 200 + 0.114 * 90)]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("quality", [0, 100])
def test_alpha_is_lossless(mode: str, quality: int) -> None:
    """At the lowest and the highest quality, for random alpha."""
    image = images.noise(mode=mode)
    found = images.reopened(image, quality=quality)
    assert found.mode == mode
    assert found.getchannel("A").tobytes() == image.getchannel("A").tobytes()


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (7, 5), (47, 33)])
@pytest.mark.parametrize("holes", ["some", "all"])
def test_colors_under_full_transparency_do_not_matter(size: tuple[int, int], holes: str) -> None:
    """Pictures that differ only there have equal files."""
    alpha = Image.new("L", size, 0) if holes == "all" else images.noise(*size, mode="L").point([0, 128, 255, 0] * 64)
    mask = alpha.point(lambda value: 255 if value else 0)
    files = set()
    for color in ("black", "red", "white"):
        image = Image.new("RGB", size, color)
        image.paste(images.gradient(*size), mask=mask)
        image.putalpha(alpha)
        files.add(images.saved(image))
    assert len(files) == 1


def test_a_drawing_on_nothing_is_stored_without_loss() -> None:
    """What transparent pixels hide is filled with the colors beside them, and adds none."""
    drawing = Image.new("RGBA", (200, 100))
    drawing.paste((255, 0, 0, 255), (10, 10, 60, 50))
    data = images.saved(drawing)
    found = np.asarray(images.opened(data))
    assert len(data) < 256
    assert (found[10:50, 10:60] == (255, 0, 0, 255)).all()


def test_a_fully_transparent_picture_is_saved() -> None:
    """There is no visible color to fill it with."""
    found = images.reopened(Image.new("LA", (20, 20), (77, 0)))
    assert found.getchannel("A").getextrema() == (0, 0)


def test_quality_orders_files_by_size() -> None:
    """Higher quality takes more bytes.  The default is 50."""
    image = images.noise(64, 64)
    sizes = [len(images.saved(image, quality=quality)) for quality in (0, 50, 100)]
    assert sizes[0] < sizes[1] < sizes[2]
    assert images.saved(image) == images.saved(image, quality=50)


def test_saving_twice_gives_the_same_file(plain_file: bytes) -> None:
    """The file depends on picture and options only.  None means the default."""
    found = images.saved(images.gradient())
    assert images.saved(images.gradient()) == found
    assert images.saved(images.gradient(), quality=None, model=None, fidelity=None) == found
    assert images.saved(images.gradient(), quality=49) != found
    assert images.saved(images.gradient(), fidelity=False, guard="off") == plain_file
    assert images.saved(images.gradient(), fidelity=True) != plain_file


def test_options_of_other_formats_are_ignored(plain_file: bytes) -> None:
    """As Pillow documents for `save`."""
    options = {"optimize": True, "progressive": True, "lossless": True, "compress_level": 9, "dpi": (72, 72)}
    assert images.saved(images.gradient(), fidelity=False, guard="off", **options) == plain_file


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("quality", -1, "0 to 100"),
        ("quality", 101, "0 to 100"),
        ("quality", 50.5, "0 to 100"),
        ("quality", "high", "0 to 100"),
        ("quality", True, "0 to 100"),
        ("model", "sd9", MODEL.name),
        ("model", 1, MODEL.name),
        ("quantizer", "vector", "scalar"),
        ("payload", "gzip", "zstd"),
        ("exif", "text", "bytes"),
        ("xmp", 7, "bytes"),
        ("icc_profile", "sRGB", "bytes"),
        ("xmp", bytes(2**24 + 1), "16777216"),
    ],
)
def test_a_wrong_option_is_refused(option: str, value: Any, allowed: str, tmp_path: Path) -> None:
    """The message names the option and what is allowed, and no file is left."""
    path = tmp_path / "new.sdl"
    with pytest.raises(ValueError, match=f"(?s){option}.*{allowed}"):
        images.gradient().save(path, **{option: value})
    assert not path.exists()


@pytest.mark.usefixtures("fresh_store")
def test_a_failed_save_leaves_no_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it fails because the weights are missing."""
    monkeypatch.setattr(registry, "WEIGHTS_FOLDER", tmp_path / "nowhere")
    path = tmp_path / "new.sdl"
    with pytest.raises(ModelNotFoundError):
        images.gradient().save(path)
    assert not path.exists()


def test_a_file_is_written_at_once() -> None:
    """Anything with a method `write` gets the whole file in one call."""

    class Sink:
        def __init__(self) -> None:
            self.written: list[bytes] = []

        def write(self, data: bytes) -> int:
            self.written.append(data)
            return len(data)

    sink: Any = Sink()
    images.gradient().save(sink, "sdl")
    assert len(sink.written) == 1
    assert images.opened(sink.written[0]).size == images.SIZE


def test_a_file_is_saved_over_itself(plain_path: Path) -> None:
    """A picture can be saved to the path that it was opened from."""
    with Image.open(plain_path) as image:
        image.save(plain_path, quality=100)
    with Image.open(plain_path) as image:
        assert images.resembles(image, images.gradient())


def test_the_current_frame_is_saved(tmp_path: Path, perfect: PerfectModel) -> None:
    """The file of an animation holds the frame at which the image stands."""
    path = tmp_path / "moving.gif"
    frames = [Image.new("RGB", (20, 10), color) for color in ("red", "lime", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with Image.open(path) as moving:
        moving.seek(1)
        found = images.reopened(moving, fidelity=False, guard="off")
    assert found.convert("RGB").getpixel((3, 3)) == (0, 255, 0)
    assert getattr(found, "n_frames", 1) == 1
    assert perfect.decodes == 1


def test_a_cropped_picture_is_saved(perfect: PerfectModel) -> None:
    """Only the pixels inside the crop are stored."""
    image = images.noise(60, 50).crop((7, 9, 50, 40))
    assert images.reopened(image, fidelity=False, guard="off").tobytes() == image.tobytes()
    assert perfect.decodes == 1


# Metadata


@pytest.mark.parametrize("exif", [EXIF, EXIF.tobytes(), EXIF.tobytes()[6:]], ids=["object", "bytes", "bare TIFF"])
def test_exif_comes_back_byte_for_byte(exif: Image.Exif | bytes) -> None:
    """As an object or as bytes, with or without the leading `Exif`.  Its values can be read."""
    found = images.reopened(images.gradient(), exif=exif)
    assert found.info["exif"] == (exif if isinstance(exif, bytes) else exif.tobytes())
    assert dict(found.getexif()) == dict(EXIF)


def test_exif_with_only_a_position_comes_back() -> None:
    """Pillow counts an Exif without other entries than GPS as empty."""
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    assert images.reopened(Image.new("RGB", (8, 8)), exif=exif).info["exif"] == exif.tobytes()


@pytest.mark.parametrize(
    "xmp", [XMP, XMP.decode(), "<x:xmpmeta>\u00e9\u732b</x:xmpmeta>"], ids=["bytes", "str", "wide"]
)
def test_xmp_comes_back_byte_for_byte(xmp: str | bytes) -> None:
    """Text is stored in UTF-8."""
    found = images.reopened(images.gradient(), xmp=xmp)
    assert found.info["xmp"] == (xmp if isinstance(xmp, bytes) else xmp.encode())


def test_a_profile_comes_back_byte_for_byte(srgb: bytes) -> None:
    """Given as an option of `save`.  Pillow can parse the result."""
    found = images.reopened(images.gradient(), icc_profile=srgb)
    assert found.info["icc_profile"] == srgb
    assert ImageCms.ImageCmsProfile(io.BytesIO(found.info["icc_profile"])).profile.xcolor_space == "RGB "


@pytest.mark.parametrize(
    ("mode", "space", "kept"),
    [
        ("RGB", b"RGB ", True),
        ("RGBA", b"RGB ", True),
        ("P", b"RGB ", True),
        ("L", b"GRAY", True),
        ("LA", b"GRAY", True),
        ("CMYK", b"CMYK", False),
        ("LAB", b"Lab ", False),
        ("RGB", b"GRAY", False),
    ],
)
def test_the_profile_of_a_picture_is_kept_if_it_fits_the_stored_mode(mode: str, space: bytes, kept: bool) -> None:
    """A profile of another color space would describe the stored colors wrongly."""
    image = images.MODES[mode]()
    profile = bytes(16) + space + bytes(range(108))
    image.info["icc_profile"] = profile
    assert images.reopened(image).info.get("icc_profile") == (profile if kept else None)
    assert "icc_profile" not in images.reopened(image, icc_profile=None).info
    assert "icc_profile" not in images.reopened(image, icc_profile=b"").info
    assert images.reopened(image, icc_profile=b"another").info["icc_profile"] == b"another"


def test_all_metadata_comes_back_together(srgb: bytes) -> None:
    """Each has its own section, beside alpha."""
    image = images.MODES["RGBA"]()
    found = images.reopened(image, exif=EXIF, xmp=XMP, icc_profile=srgb)
    found.load()
    assert found.info["exif"] == EXIF.tobytes()
    assert found.info["xmp"] == XMP
    assert found.info["icc_profile"] == srgb


def test_orientation_is_kept_and_not_applied() -> None:
    """Width and height stay, and Exif says how to turn the picture."""
    found = images.reopened(images.gradient(47, 33), exif=EXIF)
    assert found.size == (47, 33)
    assert found.getexif()[0x0112] == 6
    turned = ImageOps.exif_transpose(found)
    assert turned is not None
    assert turned.size == (33, 47)


def test_damaged_metadata_is_refused_by_open(rich_file: bytes) -> None:
    """No program sees a wrong profile."""
    with pytest.raises(MalformedError):
        images.opened(images.with_section(rich_file, b"e", b"\1no frame"))
    with pytest.raises(UnsupportedError):
        images.opened(images.with_section(rich_file, b"x", b"\7data"))
    with pytest.raises(MalformedError):
        images.opened(images.with_section(rich_file, b"i", b""))


# Thumbnails


def shrunk(image: Image.Image, size: tuple[float, float], **options: Any) -> Image.Image:
    """Return the image after `thumbnail`."""
    image.thumbnail(size, **options)
    return image


@pytest.mark.parametrize("size", [(200, 150), (100, 100), (64, 64), (20, 50), (31.5, 40.2), (16, 16), (3, 3), (1, 1)])
@pytest.mark.parametrize("original", [(320, 200), (47, 33), (33, 470), (16, 16)])
def test_a_thumbnail_has_the_same_size_as_in_other_formats(
    original: tuple[int, int], size: tuple[float, float]
) -> None:
    """For pictures and boxes of many shapes, fractions of pixels included."""
    image = images.gradient(*original)
    found = shrunk(images.reopened(image), size)
    expected = shrunk(image, size)
    assert found.size == expected.size
    assert found.mode == "RGB"
    assert len(found.tobytes()) == 3 * found.width * found.height


@pytest.mark.parametrize("original", [(1, 1), (1, 17), (17, 1), (15, 16), (65535, 1)])
@pytest.mark.parametrize("size", [(8, 8), (1, 1), (5, 2)])
def test_a_thumbnail_of_a_narrow_picture_has_the_same_size_as_in_other_formats(
    original: tuple[int, int], size: tuple[int, int]
) -> None:
    """Sides of one pixel stay one pixel."""
    assert (
        shrunk(images.reopened(images.gradient(*original)), size).size == shrunk(images.gradient(*original), size).size
    )


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_thumbnail_resembles_the_picture(mode: str) -> None:
    """In the picture's mode, alpha included, and three times nearer to it than a flat picture."""
    image = images.gradient(320, 200).convert(mode)
    if mode.endswith("A"):
        image.putalpha(images.cutout(320, 200))
    found = shrunk(images.reopened(image, quality=100), (64, 64))
    expected = shrunk(image, (64, 64))
    assert found.mode == mode
    assert images.resembles(visible(found), visible(expected))
    if mode.endswith("A"):
        assert images.difference(found.getchannel("A"), expected.getchannel("A")) < 10


def test_a_small_thumbnail_is_made_without_the_network(perfect: PerfectModel) -> None:
    """It is computed from the latent, and `info` says so."""
    found = shrunk(images.reopened(images.gradient(320, 200), fidelity=False, guard="off"), (48, 48))
    assert found.info["sdl_decoder"] == "preview"
    assert perfect.decodes == 0


@pytest.mark.parametrize(("size", "options"), [((300, 300), {}), ((64, 64), {"reducing_gap": None})])
def test_a_large_thumbnail_is_made_from_the_decoded_picture(
    size: tuple[int, int], options: dict[str, Any], perfect: PerfectModel
) -> None:
    """If a preview has too few pixels, or if the caller turns drafts off by `reducing_gap=None`."""
    image = images.gradient(320, 200)
    found = shrunk(images.reopened(image, fidelity=False, guard="off"), size, **options)
    expected = shrunk(image, size, **options)
    assert found.tobytes() == expected.tobytes()
    assert perfect.decodes == 1


def test_a_draft_is_at_least_as_large_as_the_picture_fitted_into_the_size(plain_file: bytes) -> None:
    """The returned box is the part of it that the picture covers."""
    for size in [(1, 1), (3, 3), (5, 5), (10, 10), (20, 15)]:
        image = images.opened(plain_file)
        result = image.draft("RGB", size)
        assert result is not None
        mode, box = result
        assert mode == image.mode == "RGB"
        fit = min(size[0] / images.SIZE[0], size[1] / images.SIZE[1])
        assert image.width >= fit * images.SIZE[0]
        assert image.height >= fit * images.SIZE[1]
        assert image.width < images.SIZE[0]
        assert box[:2] == (0, 0)
        assert box[2] / box[3] == pytest.approx(images.SIZE[0] / images.SIZE[1])
        assert image.width - 1 < box[2] <= image.width
        assert image.height - 1 < box[3] <= image.height
        image.load()
        assert len(image.tobytes()) == 3 * image.width * image.height


def test_a_draft_can_be_changed_until_it_is_loaded(plain_file: bytes) -> None:
    """As with JPEG, the last draft counts.  After loading, `draft` changes nothing."""
    image = images.opened(plain_file)
    image.draft(None, (1, 1))
    image.draft(None, (20, 15))
    assert image.size == (24, 17)
    image.load()
    assert image.draft(None, (1, 1)) is None
    assert image.size == (24, 17)


def test_a_draft_that_is_too_large_is_ignored(plain_file: bytes) -> None:
    """Without a size, or with one above half of the picture's, the image stays as it is."""
    image = images.opened(plain_file)
    assert image.draft("L", None) is None
    assert image.draft(None, (40, 30)) is None
    assert image.size == images.SIZE
    image.load()
    assert image.info["sdl_decoder"] == MODEL.name


def test_a_damaged_file_has_no_thumbnail(plain_file: bytes) -> None:
    """A preview is checked like the whole picture."""
    with pytest.raises(ChecksumError):
        shrunk(images.opened(images.flipped(plain_file, 8 * len(plain_file) - 100)), (8, 8))


# Verify


def test_a_valid_file_is_verified(rich_file: bytes) -> None:
    """`verify` raises nothing."""
    images.opened(rich_file).verify()


def test_damage_anywhere_is_found_by_verify(rich_file: bytes) -> None:
    """In the header and in each section, whether or not opening reads it."""
    for end in images.boundaries(rich_file):
        with pytest.raises(ChecksumError):
            images.opened(images.flipped(rich_file, 8 * end - 1)).verify()


@pytest.mark.parametrize(
    ("name", "content"), [(b"L", b"no frame"), (b"A", b"\0no frame"), (b"L", b""), (b"A", b"")], ids=str
)
def test_invalid_content_with_a_fitting_checksum_is_found_by_verify(
    rich_file: bytes, name: bytes, content: bytes
) -> None:
    """`verify` decodes symbols and alpha."""
    with pytest.raises(SdlError):
        images.opened(images.with_section(rich_file, name, content)).verify()


def test_bytes_after_the_end_are_found_by_verify(plain_file: bytes) -> None:
    """F-03.  Opening and loading ignore them."""
    data = plain_file + b"\0"
    assert images.opened(data).tobytes() == images.opened(plain_file).tobytes()
    with pytest.raises(MalformedError, match="follow the last section") as caught:
        images.opened(data).verify()
    assert caught.value.rule == "F-03"


def test_verify_must_come_directly_after_open(plain_file: bytes) -> None:
    """A loaded image has no file to check."""
    image, other = images.opened(plain_file), images.opened(png())
    image.load()
    other.load()
    assert raised_by(image.verify) is raised_by(other.verify) is RuntimeError


# Files and streams


def test_a_stream_that_cannot_seek_is_read(plain_file: bytes) -> None:
    """Pillow reads it into memory, as for all formats."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.left = io.BytesIO(plain_file)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            return self.left.readinto(buffer)

    stream: Any = Pipe()
    with Image.open(stream) as image:
        assert images.difference(image, images.opened(plain_file)) == 0


def test_an_unbuffered_file_is_read(plain_path: Path) -> None:
    """Each read is then a call of the operating system."""
    with plain_path.open("rb", buffering=0) as stream, Image.open(stream) as image:
        image.load()
        assert image.size == images.SIZE


def test_a_stream_is_read_from_its_start(plain_file: bytes) -> None:
    """Pillow seeks to the start before it opens a file, and the plugin before it loads or verifies one."""
    stream = io.BytesIO(plain_file)
    stream.seek(20)
    image = Image.open(stream)
    stream.seek(7)
    image.load()
    image = Image.open(stream)
    stream.seek(7)
    image.verify()
    assert not stream.closed


def test_a_callers_stream_is_left_open(plain_file: bytes) -> None:
    """After load, verify, the end of a `with` block, and a failed open."""
    stream = io.BytesIO(plain_file)
    Image.open(stream).load()
    Image.open(stream).verify()
    with Image.open(stream):
        pass
    assert not stream.closed
    with pytest.raises(SdlError):
        Image.open(damaged := io.BytesIO(plain_file[:30]))
    assert not damaged.closed


def test_a_file_that_pillow_opened_is_closed(plain_path: Path) -> None:
    """After load, verify, close, and the end of a `with` block."""
    for finish in ("load", "verify", "close", "__exit__"):
        image = Image.open(plain_path)
        stream = image.fp
        assert stream is not None
        assert not stream.closed
        getattr(image, finish)()
        assert stream.closed, finish


def test_a_loaded_image_can_be_used_after_its_block(plain_path: Path) -> None:
    """As with other formats, only `close` drops the pixels."""
    with Image.open(plain_path) as image:
        expected = image.tobytes()
    assert image.tobytes() == expected
    assert isinstance(image.getpixel((0, 0)), tuple)


def test_an_image_of_a_closed_stream_cannot_be_loaded(plain_file: bytes) -> None:
    """The stream itself raises ValueError, as for all formats."""
    stream = io.BytesIO(plain_file)
    image = Image.open(stream)
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        image.load()


CLOSED = "^Operation on closed image$"

USES: dict[str, Callable[[Image.Image], object]] = {
    "load": lambda image: image.load(),
    "getpixel": lambda image: image.getpixel((0, 0)),
    "copy": Image.Image.copy,
    "tobytes": Image.Image.tobytes,
    "resize": lambda image: image.resize((3, 3)),
    "crop": lambda image: image.crop((0, 0, 2, 2)),
    "thumbnail": lambda image: image.thumbnail((8, 8)),
    "save": lambda image: image.save(io.BytesIO(), "PNG"),
    "pickle": pickle.dumps,
}
"""Ways to ask for the pixels of an image."""


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("loaded", [False, True], ids=["unloaded", "loaded"])
def test_a_closed_image_cannot_be_used(use: str, loaded: bool, plain_file: bytes) -> None:
    """Every attempt raises the error that a closed PNG raises, and so does each later attempt."""
    for data in (png(), plain_file):
        image = images.opened(data)
        if loaded:
            image.load()
        image.close()
        for _ in range(3):
            with pytest.raises(ValueError, match=CLOSED):
                USES[use](image)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("way", ["with", "verify"])
def test_an_image_without_a_file_cannot_be_loaded(use: str, way: str, plain_file: bytes) -> None:
    """After its `with` block and after `verify` an image that was not loaded raises the error of a closed one."""
    image = images.opened(plain_file)
    if way == "with":
        with image:
            pass
    else:
        image.verify()
    for _ in range(2):
        with pytest.raises(ValueError, match=CLOSED):
            USES[use](image)


def test_a_load_that_failed_fails_again(plain_file: bytes) -> None:
    """The second attempt shows no half-made picture."""
    image = images.opened(images.flipped(plain_file, 8 * len(plain_file) - 100))
    for _ in range(2):
        with pytest.raises(ChecksumError):
            image.load()


@pytest.mark.usefixtures("fresh_store")
def test_a_load_that_failed_without_weights_can_be_repeated(
    plain_file: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same image loads once the weights are there."""
    image = images.opened(plain_file)
    with monkeypatch.context() as patch:
        patch.setattr(registry, "WEIGHTS_FOLDER", tmp_path)
        with pytest.raises(ModelNotFoundError):
            image.load()
    image.load()
    assert len(image.tobytes()) == 3 * images.SIZE[0] * images.SIZE[1]


def test_a_draft_after_a_failed_load_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that cannot decode can show the preview, which must not lie in a corner of an empty picture."""
    image = images.reopened(images.gradient(320, 320))

    def fail(*_: object) -> None:
        msg = "no network"
        raise ModelError(msg)

    with monkeypatch.context() as patched:
        patched.setattr(decode, "decode", fail)
        with pytest.raises(ModelError):
            image.load()
    image.draft(None, (40, 40))
    image.load()
    assert image.size == image.copy().size == image.convert("L").size == (40, 40)
    assert images.resembles(image.copy(), images.gradient(40, 40))


@pytest.mark.parametrize("change", ["size", "format"])
def test_a_file_that_changes_between_open_and_load_is_refused(change: str, tmp_path: Path) -> None:
    """The error is one of the file, whatever has replaced its content."""
    path = tmp_path / "photo.sdl"
    path.write_bytes(images.saved(images.gradient()))
    with Image.open(path) as image:
        other = images.saved(images.gradient(40, 33)) if change == "size" else b"something else" * 9999
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_TRUNC), "wb") as file:
            file.write(other)
        assert image.fp is not None
        image.fp.seek(1 << 16)  # Past what the file object has read ahead.
        with pytest.raises(MalformedError, match="changed"):
            image.load()


def test_no_stream_is_left_open(python: Callable[..., str], plain_path: Path) -> None:
    """After success and after damage.  A ResourceWarning would be an error in this program."""
    damaged = plain_path.with_name("damaged.sdl")
    damaged.write_bytes(plain_path.read_bytes()[:-3])
    cut = plain_path.with_name("cut.sdl")
    cut.write_bytes(plain_path.read_bytes()[:20])
    program = """if True:
        import gc, sys
        import pillow_sdl
        from PIL import Image
        plain, damaged, cut = sys.argv[1:]
        Image.open(plain).verify()
        Image.open(plain).thumbnail((4, 4))
        with Image.open(plain):
            pass
        for path, action in ((cut, None), (damaged, "verify"), (damaged, "close")):
            try:
                image = Image.open(path)
                getattr(image, action)()
            except pillow_sdl.SdlError:
                print(action)
        del image
        gc.collect()
    """
    assert python(program, plain_path, damaged, cut) == "None\nverify"


def test_a_parser_is_fed_piece_by_piece(plain_file: bytes) -> None:
    """`ImageFile.Parser` knows the size early and has the picture at the end."""
    with ImageFile.Parser() as parser:
        for start in range(0, len(plain_file), 30):
            parser.feed(plain_file[start : start + 30])
            if start >= 60:
                assert parser.image is not None
                assert parser.image.size == images.SIZE
        found = parser.close()
    assert found.tobytes() == images.opened(plain_file).tobytes()


# An image like any other


def test_an_image_is_pickled(plain_path: Path) -> None:
    """With pixels, mode, size and info.  The file is not needed any more."""
    with Image.open(plain_path) as image:
        found = pickle.loads(pickle.dumps(image))  # noqa: S301  our own bytes
        assert found.tobytes() == image.tobytes()
        assert (found.mode, found.size, found.info) == (image.mode, image.size, image.info)
    plain_path.unlink()
    found.load()
    assert found.resize((5, 5)).size == (5, 5)


@pytest.mark.parametrize("duplicate", [Image.Image.copy, copy.copy, copy.deepcopy])
def test_an_image_is_copied(duplicate: Callable[[Image.Image], Image.Image], rich_file: bytes) -> None:
    """Before it is loaded.  Changes of the copy do not change the original."""
    image = images.opened(rich_file)
    found = duplicate(image)
    assert found.tobytes() == image.tobytes()
    assert found.info == image.info
    found.putpixel((0, 0), (1, 2, 3, 4))
    assert image.getpixel((0, 0)) == images.opened(rich_file).getpixel((0, 0))


@pytest.mark.parametrize(
    "action",
    [
        lambda image: image.convert("L"),
        lambda image: image.crop((3, 4, 20, 19)),
        lambda image: image.resize((9, 9)),
        lambda image: image.rotate(90, expand=True),
        lambda image: image.getchannel("G"),
        lambda image: image.reduce(3),
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda image: image.point(lambda value: 255 - value),
        lambda image: image.filter(ImageFilter.BLUR),
    ],
    ids=["convert", "crop", "resize", "rotate", "getchannel", "reduce", "transpose", "point", "filter"],
)
def test_operations_load_an_image(action: Callable[[Image.Image], Image.Image], plain_file: bytes) -> None:
    """The result is that of an image that was loaded before."""
    loaded = images.opened(plain_file)
    loaded.load()
    assert action(images.opened(plain_file)).tobytes() == action(loaded).tobytes()


def test_an_image_becomes_an_array(plain_file: bytes) -> None:
    """By NumPy's protocol.  The image can be changed afterwards."""
    image = images.opened(plain_file)
    assert np.asarray(image).shape == (33, 47, 3)
    image.putpixel((1, 1), (9, 8, 7))
    assert image.getpixel((1, 1)) == (9, 8, 7)


def test_a_file_has_one_frame(plain_file: bytes) -> None:
    """Programs that iterate over frames find one."""
    image = images.opened(plain_file)
    assert image.tell() == 0
    assert len(list(ImageSequence.Iterator(image))) == 1
    with pytest.raises(EOFError):
        image.seek(1)


def test_loading_decodes_once(perfect: PerfectModel) -> None:
    """Later operations use the same pixels."""
    image = images.reopened(images.gradient(), fidelity=False, guard="off")
    assert perfect.decodes == 0
    image.load()
    image.load()
    image.tobytes()
    image.copy().convert("L").resize((3, 3))
    assert perfect.decodes == 1


def test_the_image_says_what_decoded_it(plain_file: bytes) -> None:
    """`info` names the model after the picture is decoded."""
    image = images.opened(plain_file)
    assert "sdl_decoder" not in image.info
    image.load()
    assert image.info["sdl_decoder"] == MODEL.name


# Threads


def together(action: Callable[[], bytes]) -> set[bytes]:
    """Return the results of an action that eight threads begin at the same moment."""
    barrier = threading.Barrier(8)

    def run(_: int) -> bytes:
        barrier.wait()
        return action()

    with ThreadPoolExecutor(8) as pool:
        return set(pool.map(run, range(8)))


def test_threads_open_one_file(plain_path: Path) -> None:
    """Each opens its own image, and all are equal."""

    def decoded() -> bytes:
        with Image.open(plain_path) as image:
            return image.tobytes()

    assert together(decoded) == {images.opened(plain_path.read_bytes()).tobytes()}


def test_threads_load_one_image(plain_file: bytes, monkeypatch: pytest.MonkeyPatch, perfect: PerfectModel) -> None:
    """The first one decodes and the others wait, so the picture is decoded once and complete for all."""
    plain = images.saved(images.gradient(), fidelity=False, guard="off")
    decode = perfect.decode

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.05)
        return decode(*arguments)

    monkeypatch.setattr(perfect, "decode", slowly)
    image = images.opened(plain)
    assert together(image.tobytes) == {images.gradient().tobytes()}
    assert perfect.decodes == 1


def test_threads_save_and_make_thumbnails(plain_file: bytes) -> None:
    """All files and all thumbnails are equal."""
    assert together(lambda: images.saved(images.gradient(), fidelity=False, guard="off")) == {plain_file}
    assert len(together(lambda: shrunk(images.opened(plain_file), (8, 8)).tobytes())) == 1


# Real pictures


def test_unusual_pictures_come_back(data_dir: Path) -> None:
    """Palettes, animations, CMYK, 16 bits, cut-outs, orientations and wide colors are saved, verified and opened."""
    folder = data_dir / "edge"
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    if not paths:
        pytest.skip(f"no pictures in {folder}")
    for path in paths:
        with Image.open(path) as image:
            exif = image.getexif().tobytes()
            orientation = image.getexif().get(0x0112)
            part = image.crop((0, 0, min(image.width, 75), min(image.height, 75)))
            part.info = image.info
            data = images.saved(part, exif=exif)
        images.opened(data).verify()
        found = images.opened(data)
        assert found.size == part.size, path.name
        assert found.mode.endswith("A") == part.has_transparency_data, path.name
        assert found.info["exif"] == exif, path.name
        assert found.getexif().get(0x0112) == orientation, path.name
        assert len(found.tobytes()) == found.width * found.height * len(found.getbands()), path.name


def test_a_photo_comes_back(data_dir: Path) -> None:
    """With a small difference, a thumbnail that resembles it, and fewer bytes than its samples."""
    paths = sorted(path for path in data_dir.rglob("*") if path.suffix in {".jpg", ".png"} and "edge" not in path.parts)
    if not paths:
        pytest.skip(f"no photos in {data_dir}")
    with Image.open(paths[0]) as photo:
        part = photo.convert("RGB").crop((0, 0, 256, 256))
    data = images.saved(part, quality=100)
    assert images.resembles(images.opened(data), part)
    assert len(data) < 256 * 256 * 3 / 4
    assert images.resembles(shrunk(images.opened(data), (50, 50)), shrunk(part, (50, 50)))


def test_the_errors_are_in_the_package() -> None:
    """Every class of errors.py can be imported from the package and is an OSError."""
    classes = [found for found in vars(errors).values() if isinstance(found, type)]
    assert len(classes) >= 10
    for found in classes:
        assert getattr(pillow_sdl, found.__name__) is found
        assert issubclass(found, SdlError)
        assert issubclass(found, OSError)


@pytest.mark.parametrize(
    "error",
    [
        MalformedError("text", offset=3, section="L", rule="P-01"),
        ChecksumError("text", offset=3, section="L", rule="S-03"),
        ModelNotFoundError("text", model_id="ab", searched=("there",)),
        errors.ModelMismatchError("text", expected="ab", found="cd"),
        UnsupportedError("text"),
    ],
)
def test_errors_are_pickled(error: SdlError) -> None:
    """With their attributes, so that they can cross processes."""
    found = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes
    assert type(found) is type(error)
    assert str(found) == str(error) == "text"
    assert vars(found) == vars(error)


def test_registering_again_repairs_a_reloaded_pillow(python: Callable[..., str], plain_path: Path) -> None:
    """A reload of PIL.Image forgets all formats and decoders, and `register` brings them back."""
    program = """
import importlib, sys
import pillow_sdl
from PIL import Image

with Image.open(sys.argv[1]) as image:
    image.load()
importlib.reload(Image)
pillow_sdl.register()
with Image.open(sys.argv[1]) as image:
    image.load()
    print(image.format, image.size)
"""
    assert python(program, plain_path) == f"SDL {images.SIZE}"
