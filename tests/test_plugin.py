"""What a user of Pillow sees: open, load, save, thumbnail, verify."""

from __future__ import annotations

import copy
import io
import pickle
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, ImageFilter, ImageOps, ImageSequence, UnidentifiedImageError

from pillow_sdl import __version__, errors
from pillow_sdl.container import Section
from pillow_sdl.errors import (
    ChecksumError,
    LimitError,
    MalformedError,
    ModelNotFoundError,
    SdlError,
    TruncatedError,
    UnsupportedError,
)
from pillow_sdl.models import store
from pillow_sdl.SdlImagePlugin import SdlImageFile

from . import images
from .conftest import EXIF, XMP

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .conftest import PerfectModel

LOOSE = 40
"""Mean difference that tests allow to any network that deserves the name."""

MODES = {**images.MODES, **images.KEYED}

STORED = {"1": "L", "F": "L", "I": "L", "I;16": "L", "I;16B": "L", "I;16L": "L", "I;16N": "L", "L": "L"}
STORED |= {"LA": "LA", "La": "LA", "PA": "RGBA", "RGBA": "RGBA", "RGBa": "RGBA"}
STORED |= dict.fromkeys(("CMYK", "HSV", "LAB", "P", "RGB", "RGBX", "YCbCr"), "RGB")
STORED |= {"L, one grey clear": "LA", "RGB, one colour clear": "RGBA"}
STORED |= {"P, one index clear": "RGBA", "P, alpha for each index": "RGBA"}
"""The mode that a file has of a picture of each mode."""


def as_stored(name: str) -> Image.Image:
    """What the file of a picture should show, by Pillow's own conversions."""
    image = MODES[name]()
    if name.startswith("I;16"):
        kind = {"I;16B": ">u2", "I;16N": "=u2"}.get(name, "<u2")
        return Image.fromarray((np.frombuffer(image.tobytes(), kind).reshape(image.size[::-1]) >> 8).astype(np.uint8))
    if name == "RGBX":
        return Image.merge("RGB", image.split()[:3])
    return image.convert(STORED[name])


def visible(image: Image.Image) -> Image.Image:
    """An image with black where it is fully transparent, so that hidden colours do not count."""
    if not image.mode.endswith("A"):
        return image
    bare = Image.new(image.mode, image.size)
    bare.paste(image, mask=image.getchannel("A").point(lambda value: 255 if value else 0))
    return bare


def raised_by(action: Callable[[], object]) -> type[BaseException]:
    """Class of the exception that an action ends with."""
    with pytest.raises(BaseException) as caught:
        action()
    return caught.type


def png() -> bytes:
    """The picture of `plain_file` in a format of Pillow's own, to compare manners with."""
    stream = io.BytesIO()
    images.gradient().save(stream, "PNG")
    return stream.getvalue()


# Open


def test_opening_tells_all_but_the_pixels(plain_path: Path) -> None:
    """Format, mode, size and what the file says of itself are there at once."""
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
    """Extension and media type are known to Pillow."""
    assert Image.registered_extensions()[".sdl"] == "SDL"
    assert Image.MIME["SDL"] == "image/x-sdl"


@pytest.mark.parametrize("kind", [str, bytes, None], ids=["str", "bytes", "Path"])
def test_a_file_is_opened_by_any_kind_of_path(kind: type | None, plain_path: Path) -> None:
    """As any format, also by another extension."""
    renamed = plain_path.rename(plain_path.with_suffix(".data"))
    name: Any = renamed if kind is None else str(renamed).encode() if kind is bytes else str(renamed)
    with Image.open(name) as image:
        assert image.format == "SDL"


def test_a_picture_of_another_format_is_opened_by_the_extension_sdl(tmp_path: Path) -> None:
    """The content decides, not the name."""
    path = tmp_path / "picture.sdl"
    path.write_bytes(png())
    with Image.open(path) as image:
        assert image.format == "PNG"


@pytest.mark.parametrize("data", [b"", b"\x89", b"\x89SD", b"\x89PNG", b"not an SDL file", b" \x89SDL\0\0\2"])
def test_what_is_no_sdl_file_is_not_identified(data: bytes) -> None:
    """Pillow's own error for bytes that are no picture."""
    with pytest.raises(UnidentifiedImageError):
        images.opened(data)


def test_the_plugin_says_that_a_file_is_not_its_own() -> None:
    """Called by itself it raises what Pillow takes for that."""
    with pytest.raises(SyntaxError, match="not an SDL file"):
        SdlImageFile(io.BytesIO(b"not an SDL file"))


def test_only_other_formats_can_be_asked_for(plain_file: bytes) -> None:
    """`formats` holds."""
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(plain_file), formats=["PNG"])
    with Image.open(io.BytesIO(plain_file), formats=["SDL"]) as image:
        assert image.size == images.SIZE


@pytest.mark.parametrize("version", [1, 9, 255])
def test_a_newer_version_is_named(plain_file: bytes, version: int) -> None:
    """The user is told that the file is newer, not that it is no picture."""
    data = plain_file[:4] + bytes([version]) + plain_file[5:]
    with pytest.raises(UnsupportedError, match=rf"\b{version}\b"):
        images.opened(data)


def test_an_unknown_critical_flag_is_refused_at_once(plain_file: bytes) -> None:
    """H-03."""
    with pytest.raises(UnsupportedError, match="flags"):
        images.opened(images.with_header(plain_file, flags=1))


@pytest.mark.parametrize("field", ["space", "quantizer", "payload"])
def test_an_unknown_number_is_refused_when_pixels_are_wanted(plain_file: bytes, field: str) -> None:
    """H-07: size and mode can be shown all the same."""
    image = images.opened(images.with_header(plain_file, **{field: 77}))
    assert image.size == images.SIZE
    with pytest.raises(UnsupportedError, match="77"):
        image.load()


def test_a_rate_above_the_largest_is_refused(plain_file: bytes) -> None:
    """L-05."""
    with pytest.raises(LimitError, match="256"):
        images.opened(images.with_header(plain_file, rate=256)).load()


def test_an_unknown_critical_section_is_refused_when_pixels_are_wanted(plain_file: bytes) -> None:
    """S-02: size and mode can be shown all the same."""
    file = images.parsed(plain_file)
    image = images.opened(file._replace(sections=(Section(b"Q", b""), *file.sections)).to_bytes())
    assert image.size == images.SIZE
    with pytest.raises(UnsupportedError, match="Q"):
        image.load()


def test_unknown_ignorable_sections_are_skipped(rich_file: bytes) -> None:
    """S-01, wherever among the metadata they stand."""
    file = images.parsed(rich_file)
    first, *others = file.sections
    more = (Section(b"q", b"later"), first, Section(b"z", bytes(99)), *others)
    image = images.opened(file._replace(sections=more).to_bytes())
    assert image.info == images.opened(rich_file).info
    assert image.tobytes() == images.opened(rich_file).tobytes()


# Damage


def test_a_file_cut_at_a_boundary_is_truncated(rich_file: bytes) -> None:
    """At the end of the header and of each section; what came before the cut is still told."""
    for end in images.boundaries(rich_file)[:-1]:
        image = images.opened(rich_file[:end])
        assert image.size == (5, 3)
        with pytest.raises(TruncatedError):
            image.load()


@pytest.mark.parametrize("near", [-5, -1, 1, 2, 4])
def test_a_file_cut_near_a_boundary_is_truncated(rich_file: bytes, near: int) -> None:
    """Within names, lengths and checksums: told when opened, or when loaded."""
    for end in images.boundaries(rich_file)[:-1]:
        with pytest.raises(TruncatedError):
            images.opened(rich_file[: end + near]).load()
    with pytest.raises(TruncatedError):
        images.opened(rich_file[:-1]).load()


def test_a_flipped_bit_is_never_shown_as_a_picture(rich_file: bytes) -> None:
    """One bit in every byte: an error from open or load, of a class that Pillow shows."""
    for byte in range(len(rich_file)):
        with pytest.raises((SdlError, UnidentifiedImageError)):
            images.opened(images.flipped(rich_file, 8 * byte + byte % 8)).load()


def test_a_destroyed_payload_leaves_the_metadata(rich_file: bytes) -> None:
    """Opening reads no payload; loading finds the damage."""
    start = images.boundaries(rich_file)[-2]
    data = rich_file[: start + 4] + bytes(len(rich_file) - start - 4)
    image = images.opened(data)
    assert (image.size, image.mode) == ((5, 3), "RGBA")
    assert image.getexif()[0x0112] == 6
    assert image.info == images.opened(rich_file).info
    with pytest.raises(ChecksumError):
        image.load()


def test_opening_reads_no_further_than_the_metadata(rich_file: bytes) -> None:
    """Not a byte of alpha and latent, however long they are."""
    stream = io.BytesIO(rich_file)
    with Image.open(stream):
        assert stream.tell() <= images.boundaries(rich_file)[-3]


@pytest.mark.parametrize("size", [(64, 48), (16, 16), (1, 1)])
def test_a_payload_of_another_size_is_malformed(plain_file: bytes, size: tuple[int, int]) -> None:
    """P-03, or the limit where it holds too much: the latent has to fit the header."""
    data = images.with_header(plain_file, width=size[0], height=size[1])
    if size == (64, 48):
        data = images.with_header(plain_file, width=64, height=64)
    with pytest.raises((MalformedError, LimitError)):
        images.opened(data).load()


def test_a_huge_picture_is_refused_as_a_bomb(plain_file: bytes) -> None:
    """4 gigapixels declared: Pillow's own limit holds, and nothing is set aside."""
    data = images.with_header(plain_file, width=65535, height=65535)
    tracemalloc.start()
    try:
        with pytest.raises(Image.DecompressionBombError):
            images.opened(data)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_limit_on_pixels_holds(plain_file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Image.MAX_IMAGE_PIXELS`: a warning above it, an error above twice as many."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.warns(Image.DecompressionBombWarning):
        images.opened(plain_file).close()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        images.opened(plain_file)


# Save


def test_every_mode_of_pillow_is_tested() -> None:
    """The tables of this module leave none out."""
    assert set(Image.MODES) <= set(images.MODES)
    assert set(STORED) == set(MODES)


@pytest.mark.parametrize("name", MODES)
def test_a_picture_of_every_mode_is_converted_by_the_table(name: str, perfect: PerfectModel) -> None:
    """With a network without loss a file shows exactly what Pillow's own conversion gives."""
    expected = as_stored(name)
    found = images.reopened(MODES[name]())
    assert found.mode == STORED[name]
    assert found.size == images.SIZE
    if name == "LAB":  # through colour profiles, rounded on the way
        assert images.difference(found, expected) < 2
    else:
        assert images.difference(visible(found), visible(expected)) == 0
    if found.mode.endswith("A"):
        assert found.getchannel("A").tobytes() == expected.getchannel("A").tobytes()
    assert perfect.decodes == 1


@pytest.mark.parametrize("name", MODES)
def test_a_picture_of_every_mode_comes_back(name: str) -> None:
    """With the network that ships, at the best quality: recognisably the same, and alpha exactly so."""
    expected = as_stored(name)
    found = images.reopened(MODES[name](), quality=100)
    assert (found.mode, found.size) == (STORED[name], images.SIZE)
    assert images.difference(visible(found), visible(expected)) < LOOSE
    if found.mode.endswith("A"):
        assert found.getchannel("A").tobytes() == expected.getchannel("A").tobytes()


def test_lab_is_shown_as_the_colours_that_it_was_made_of(perfect: PerfectModel) -> None:
    """There and back through Lab changes a smooth picture little."""
    found = images.reopened(images.gradient().convert("LAB"))
    assert images.difference(found, images.gradient()) < 8
    assert perfect.decodes == 1


@pytest.mark.parametrize("mode", ["I", "F"])
def test_wide_modes_are_clipped(mode: str, perfect: PerfectModel) -> None:
    """Values outside 0 to 255 become the nearest that there is."""
    image = Image.new(mode, (6, 1))
    for x, value in enumerate([-70000, -1, 0, 200, 256, 70000]):
        image.putpixel((x, 0), value)
    assert list(images.reopened(image).tobytes()) == [0, 0, 0, 200, 255, 255]
    assert perfect.decodes == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    """There is no pixel for them."""
    with pytest.raises(ValueError, match="finite"):
        images.saved(Image.new("F", (3, 3), value))


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 17), (17, 1), (15, 16), (16, 16), (33, 47), (65535, 1), (1, 65535), (1100, 1030)]
)
def test_a_picture_of_any_size_comes_back(size: tuple[int, int]) -> None:
    """Down to one pixel, up to the longest side, and above a megapixel, where it is done in tiles."""
    image = images.gradient(*size)
    found = images.reopened(image, quality=100)
    assert found.size == size
    if min(size) > 1:
        assert images.difference(found, image) < LOOSE
    else:
        assert len(found.tobytes()) == 3 * size[0] * size[1]


@pytest.mark.parametrize("size", [(65536, 1), (1, 65536)])
def test_a_side_that_is_too_long_is_refused(size: tuple[int, int], tmp_path: Path) -> None:
    """The message says what is allowed, and no file is left."""
    path = tmp_path / "long.sdl"
    with pytest.raises(ValueError, match="65535"):
        Image.new("L", size).save(path)
    assert not path.exists()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_a_picture_without_pixels_is_refused(mode: str, size: tuple[int, int], tmp_path: Path) -> None:
    """Whatever its mode, by a ValueError."""
    path = tmp_path / "empty.sdl"
    with pytest.raises(ValueError, match="0"):
        Image.new(mode, size).save(path)
    assert not path.exists()


def test_a_grey_picture_stays_grey(perfect: PerfectModel) -> None:
    """Mode L is decoded to one band, and its luma of three equal bands is every grey there is."""
    greys = Image.frombytes("L", (256, 1), bytes(range(256)))
    assert images.reopened(greys).tobytes() == greys.tobytes()
    assert perfect.decodes == 1


def test_a_grey_picture_is_weighed_as_pillow_does(perfect: PerfectModel) -> None:
    """Where a network gives colours for a grey picture, the luma of SPEC 10 makes it grey."""
    data = images.saved(Image.new("L", (2, 1)))
    perfect.pixels = np.array([[[255, 0, 0], [10, 200, 90]]], np.uint8)
    assert list(images.opened(data).tobytes()) == [round(0.299 * 255), round(0.299 * 10 + 0.587 * 200 + 0.114 * 90)]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("quality", [0, 100])
def test_alpha_is_lossless(mode: str, quality: int) -> None:
    """Even noise, at every quality."""
    image = images.noise(mode=mode)
    found = images.reopened(image, quality=quality)
    assert found.mode == mode
    assert found.getchannel("A").tobytes() == image.getchannel("A").tobytes()


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (7, 5), (47, 33)])
@pytest.mark.parametrize("holes", ["some", "all"])
def test_colours_that_nobody_sees_do_not_matter(size: tuple[int, int], holes: str) -> None:
    """Pictures that differ under full transparency only have the same file."""
    alpha = Image.new("L", size, 0) if holes == "all" else images.noise(*size, mode="L").point([0, 128, 255, 0] * 64)
    mask = alpha.point(lambda value: 255 if value else 0)
    files = set()
    for colour in ("black", "red", "white"):
        image = Image.new("RGB", size, colour)
        image.paste(images.gradient(*size), mask=mask)
        image.putalpha(alpha)
        files.add(images.saved(image))
    assert len(files) == 1


def test_a_picture_that_is_all_transparent_is_saved() -> None:
    """There is no colour to fill it with."""
    found = images.reopened(Image.new("LA", (20, 20), (77, 0)))
    assert found.getchannel("A").getextrema() == (0, 0)


def test_quality_orders_files_by_size() -> None:
    """More quality, more bytes; 50 unless told."""
    image = images.noise(64, 64)
    sizes = [len(images.saved(image, quality=quality)) for quality in (0, 50, 100)]
    assert sizes[0] < sizes[1] < sizes[2]
    assert images.saved(image) == images.saved(image, quality=50)


def test_saving_twice_gives_the_same_file(rich_file: bytes, plain_file: bytes) -> None:
    """The file depends on picture and options only."""
    assert images.saved(images.gradient()) == plain_file
    assert images.saved(images.gradient(), quality=None, model=None) == plain_file
    assert images.saved(images.gradient(), quality=49) != plain_file
    assert rich_file != plain_file


def test_options_of_other_formats_are_ignored(plain_file: bytes) -> None:
    """As Pillow promises for `save`."""
    options = {"optimize": True, "progressive": True, "lossless": True, "compress_level": 9, "dpi": (72, 72)}
    assert images.saved(images.gradient(), **options) == plain_file


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("quality", -1, "0 to 100"),
        ("quality", 101, "0 to 100"),
        ("quality", 50.5, "0 to 100"),
        ("quality", "high", "0 to 100"),
        ("quality", True, "0 to 100"),
        ("model", "sd9", "embedded"),
        ("model", 1, "embedded"),
        ("quantizer", "vector", "scalar"),
        ("payload", "gzip", "zstd"),
        ("exif", "text", "bytes"),
        ("xmp", 7, "bytes"),
        ("icc_profile", "sRGB", "bytes"),
        ("xmp", bytes(2**24 + 1), "16777216"),
    ],
)
def test_a_wrong_option_is_refused(option: str, value: Any, allowed: str, tmp_path: Path) -> None:
    """The message names the option and what is allowed; no file is left."""
    path = tmp_path / "new.sdl"
    with pytest.raises(ValueError, match=f"(?s){option}.*{allowed}"):
        images.gradient().save(path, **{option: value})
    assert not path.exists()


def test_a_failed_save_leaves_no_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_store: None) -> None:
    """Here for want of a network."""
    monkeypatch.setattr(store, "WEIGHTS", tmp_path / "nowhere")
    path = tmp_path / "new.sdl"
    with pytest.raises(ModelNotFoundError):
        images.gradient().save(path)
    assert not path.exists()


def test_a_file_is_written_at_once() -> None:
    """One call, when all is known, to anything that has `write`."""

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
    """An opened file can be the one that is written to."""
    with Image.open(plain_path) as image:
        image.save(plain_path, quality=100)
    with Image.open(plain_path) as image:
        assert images.difference(image, images.gradient()) < LOOSE


def test_the_frame_that_is_shown_is_saved(tmp_path: Path, perfect: PerfectModel) -> None:
    """Of a picture that moves a file holds the frame that it stands at."""
    path = tmp_path / "moving.gif"
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with Image.open(path) as moving:
        moving.seek(1)
        found = images.reopened(moving)
    assert found.convert("RGB").getpixel((3, 3)) == (0, 255, 0)
    assert getattr(found, "n_frames", 1) == 1
    assert perfect.decodes == 1


def test_a_picture_that_was_cropped_is_saved_as_shown(perfect: PerfectModel) -> None:
    """A view of another picture's memory has its own rows."""
    image = images.noise(60, 50).crop((7, 9, 50, 40))
    assert images.reopened(image).tobytes() == image.tobytes()
    assert perfect.decodes == 1


# Metadata


@pytest.mark.parametrize("exif", [EXIF, EXIF.tobytes(), EXIF.tobytes()[6:]], ids=["object", "bytes", "bare TIFF"])
def test_exif_comes_back_byte_for_byte(exif: Image.Exif | bytes) -> None:
    """With or without its leading letters, as an object or as bytes; its values can be asked for."""
    found = images.reopened(images.gradient(), exif=exif)
    assert found.info["exif"] == (exif if isinstance(exif, bytes) else exif.tobytes())
    assert dict(found.getexif()) == dict(EXIF)


@pytest.mark.parametrize(
    "xmp", [XMP, XMP.decode(), "<x:xmpmeta>\u00e9\u732b</x:xmpmeta>"], ids=["bytes", "str", "wide"]
)
def test_xmp_comes_back_byte_for_byte(xmp: str | bytes) -> None:
    """Text is stored in UTF-8."""
    found = images.reopened(images.gradient(), xmp=xmp)
    assert found.info["xmp"] == (xmp if isinstance(xmp, bytes) else xmp.encode())


def test_a_profile_comes_back_byte_for_byte(srgb: bytes) -> None:
    """As an option of `save`; Pillow can read it."""
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
def test_the_profile_of_a_picture_is_kept_where_it_fits(mode: str, space: bytes, kept: bool) -> None:
    """A profile of other colours than those that are stored would be a lie."""
    image = images.MODES[mode]()
    profile = bytes(16) + space + bytes(range(108))
    image.info["icc_profile"] = profile
    assert images.reopened(image).info.get("icc_profile") == (profile if kept else None)
    assert "icc_profile" not in images.reopened(image, icc_profile=None).info
    assert "icc_profile" not in images.reopened(image, icc_profile=b"").info
    assert images.reopened(image, icc_profile=b"another").info["icc_profile"] == b"another"


def test_all_metadata_come_back_together(srgb: bytes) -> None:
    """Each from its own section, with alpha beside them."""
    image = images.MODES["RGBA"]()
    found = images.reopened(image, exif=EXIF, xmp=XMP, icc_profile=srgb)
    found.load()
    assert found.info["exif"] == EXIF.tobytes()
    assert found.info["xmp"] == XMP
    assert found.info["icc_profile"] == srgb


def test_orientation_is_kept_and_not_applied() -> None:
    """The picture is as wide as it was, and says how it wants to be turned."""
    found = images.reopened(images.gradient(47, 33), exif=EXIF)
    assert found.size == (47, 33)
    assert found.getexif()[0x0112] == 6
    turned = ImageOps.exif_transpose(found)
    assert turned is not None
    assert turned.size == (33, 47)


def test_damaged_metadata_is_refused_when_opened(rich_file: bytes) -> None:
    """Before anyone reads a wrong profile."""
    with pytest.raises(MalformedError):
        images.opened(images.with_section(rich_file, b"e", b"\1no frame"))
    with pytest.raises(UnsupportedError):
        images.opened(images.with_section(rich_file, b"x", b"\7data"))
    with pytest.raises(MalformedError):
        images.opened(images.with_section(rich_file, b"i", b""))


# Thumbnails


def shrunk(image: Image.Image, size: tuple[float, float], **options: Any) -> Image.Image:
    """The image, after `thumbnail`."""
    image.thumbnail(size, **options)
    return image


@pytest.mark.parametrize("size", [(200, 150), (100, 100), (64, 64), (20, 50), (31.5, 40.2), (16, 16), (3, 3), (1, 1)])
@pytest.mark.parametrize("original", [(320, 200), (47, 33), (33, 470), (16, 16)])
def test_a_thumbnail_is_as_large_as_of_any_format(original: tuple[int, int], size: tuple[float, float]) -> None:
    """Never larger or smaller than asked for, in the picture's aspect."""
    image = images.gradient(*original)
    found = shrunk(images.reopened(image), size)
    expected = shrunk(image, size)
    assert found.size == expected.size
    assert found.mode == "RGB"
    assert len(found.tobytes()) == 3 * found.width * found.height


@pytest.mark.parametrize("original", [(1, 1), (1, 17), (17, 1), (15, 16), (65535, 1)])
@pytest.mark.parametrize("size", [(8, 8), (1, 1), (5, 2)])
def test_a_thumbnail_of_an_odd_picture_is_as_large_as_of_any_format(
    original: tuple[int, int], size: tuple[int, int]
) -> None:
    """Sides of one pixel stay."""
    assert (
        shrunk(images.reopened(images.gradient(*original)), size).size == shrunk(images.gradient(*original), size).size
    )


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_thumbnail_shows_the_picture(mode: str) -> None:
    """Recognisably, in the picture's mode, alpha included."""
    image = images.gradient(320, 200).convert(mode)
    if mode.endswith("A"):
        image.putalpha(images.cutout(320, 200))
    found = shrunk(images.reopened(image, quality=100), (64, 64))
    expected = shrunk(image, (64, 64))
    assert found.mode == mode
    assert images.difference(visible(found), visible(expected)) < 60
    if mode.endswith("A"):
        assert images.difference(found.getchannel("A"), expected.getchannel("A")) < 10


def test_a_small_thumbnail_is_made_without_the_network(perfect: PerfectModel) -> None:
    """Straight from the latent; the image says so."""
    found = shrunk(images.reopened(images.gradient(320, 200)), (48, 48))
    assert found.info["sdl_decoder"] == "preview"
    assert perfect.decodes == 0


@pytest.mark.parametrize(("size", "options"), [((300, 300), {}), ((64, 64), {"reducing_gap": None})])
def test_a_fine_thumbnail_is_made_of_the_picture(
    size: tuple[int, int], options: dict[str, Any], perfect: PerfectModel
) -> None:
    """Where a preview has too few pixels, or where the caller wants no short cut."""
    image = images.gradient(320, 200)
    found = shrunk(images.reopened(image), size, **options)
    expected = shrunk(image, size, **options)
    assert found.tobytes() == expected.tobytes()
    assert perfect.decodes == 1


def test_a_draft_is_at_least_as_large_as_the_picture_fitted_into_the_size(plain_file: bytes) -> None:
    """And the box that is returned is where the picture lies in it."""
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
    """As with JPEG: the last one counts, and none is made of pixels that are there."""
    image = images.opened(plain_file)
    image.draft(None, (1, 1))
    image.draft(None, (20, 15))
    assert image.size == (24, 17)
    image.load()
    assert image.draft(None, (1, 1)) is None
    assert image.size == (24, 17)


def test_no_draft_is_made_of_what_it_cannot_serve(plain_file: bytes) -> None:
    """Without a size, or with one above half the picture's, the image stays as it is."""
    image = images.opened(plain_file)
    assert image.draft("L", None) is None
    assert image.draft(None, (40, 30)) is None
    assert image.size == images.SIZE
    image.load()
    assert image.info["sdl_decoder"] == "embedded"


def test_a_damaged_file_has_no_thumbnail(plain_file: bytes) -> None:
    """The short cut checks what the long way checks."""
    with pytest.raises(ChecksumError):
        shrunk(images.opened(images.flipped(plain_file, 8 * len(plain_file) - 100)), (8, 8))


# Verify


def test_a_sound_file_is_verified(rich_file: bytes) -> None:
    """Nothing is returned, nothing raised."""
    images.opened(rich_file).verify()


def test_damage_anywhere_is_found_by_verify(rich_file: bytes) -> None:
    """In each section, whether or not opening reads it."""
    for end in images.boundaries(rich_file):
        with pytest.raises(ChecksumError):
            images.opened(images.flipped(rich_file, 8 * end - 1)).verify()


@pytest.mark.parametrize(
    ("name", "content"), [(b"L", b"no frame"), (b"A", b"\0no frame"), (b"L", b""), (b"A", b"")], ids=str
)
def test_nonsense_with_a_fitting_checksum_is_found_by_verify(rich_file: bytes, name: bytes, content: bytes) -> None:
    """Symbols and alpha are decoded."""
    with pytest.raises(SdlError):
        images.opened(images.with_section(rich_file, name, content)).verify()


def test_bytes_after_the_end_are_found_by_verify(plain_file: bytes) -> None:
    """F-03."""
    with pytest.raises(MalformedError, match="follow"):
        images.opened(plain_file + b"\0").verify()


def test_a_verified_image_cannot_be_loaded(plain_file: bytes) -> None:
    """As Pillow documents: it has to be opened again."""
    image, other = images.opened(plain_file), images.opened(png())
    image.verify()
    other.verify()
    assert raised_by(image.load) is raised_by(other.load)


def test_verify_comes_directly_after_open(plain_file: bytes) -> None:
    """Of a loaded image there is no file left to check."""
    image, other = images.opened(plain_file), images.opened(png())
    image.load()
    other.load()
    assert raised_by(image.verify) is raised_by(other.verify) is RuntimeError


# Files and streams


def test_a_stream_that_cannot_seek_is_read(plain_file: bytes) -> None:
    """As Pillow does for all formats: it is read into memory."""

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
    """Where each read is one of the operating system's."""
    with plain_path.open("rb", buffering=0) as stream, Image.open(stream) as image:
        image.load()
        assert image.size == images.SIZE


def test_a_stream_is_read_from_its_start(plain_file: bytes) -> None:
    """Pillow winds it back before it is opened, and the plugin before it is loaded or verified."""
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
    """Who opened it closes it: after load, verify, and the end of a block."""
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
    """After load, verify, and the end of a block."""
    for finish in ("load", "verify", "close", "__exit__"):
        image = Image.open(plain_path)
        stream = image.fp
        assert stream is not None
        assert not stream.closed
        getattr(image, finish)()
        assert stream.closed, finish


def test_an_image_is_there_after_its_block(plain_path: Path) -> None:
    """Pixels that were loaded stay; those that were not are lost, as with any format."""
    with Image.open(plain_path) as image:
        image.load()
    assert isinstance(image.getpixel((0, 0)), tuple)
    with images.opened(plain_path.read_bytes()) as image, images.opened(png()) as other:
        pass
    assert raised_by(image.load) is raised_by(other.load)


def test_a_closed_stream_cannot_be_loaded(plain_file: bytes) -> None:
    """As any format: a ValueError of the stream itself."""
    stream = io.BytesIO(plain_file)
    image = Image.open(stream)
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        image.load()


def test_a_closed_image_cannot_be_loaded(plain_file: bytes) -> None:
    """As any format."""
    image, other = images.opened(plain_file), images.opened(png())
    image.close()
    other.close()
    assert raised_by(image.load) is raised_by(other.load)


def test_a_load_that_failed_fails_again(plain_file: bytes) -> None:
    """No half-made picture is shown at the second attempt."""
    image = images.opened(images.flipped(plain_file, 8 * len(plain_file) - 100))
    for _ in range(2):
        with pytest.raises(ChecksumError):
            image.load()


def test_a_load_that_failed_for_want_of_a_network_can_be_repeated(
    plain_file: bytes, tmp_path: Path, fresh_store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the weights are there the same image loads."""
    image = images.opened(plain_file)
    with monkeypatch.context() as patch:
        patch.setattr(store, "WEIGHTS", tmp_path)
        with pytest.raises(ModelNotFoundError):
            image.load()
    image.load()
    assert len(image.tobytes()) == 3 * images.SIZE[0] * images.SIZE[1]


def test_no_stream_is_left_open(python: Callable[..., str], plain_path: Path) -> None:
    """Not by success, not by damage: a ResourceWarning would be an error here."""
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
    """`ImageFile.Parser` knows the size early, and has the picture at the end."""
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
    """Pixels, mode, size and info; the file is no longer needed."""
    with Image.open(plain_path) as image:
        found = pickle.loads(pickle.dumps(image))  # noqa: S301  our own bytes
        assert found.tobytes() == image.tobytes()
        assert (found.mode, found.size, found.info) == (image.mode, image.size, image.info)
    plain_path.unlink()
    found.load()
    assert found.resize((5, 5)).size == (5, 5)


@pytest.mark.parametrize("duplicate", [Image.Image.copy, copy.copy, copy.deepcopy])
def test_an_image_is_copied(duplicate: Callable[[Image.Image], Image.Image], rich_file: bytes) -> None:
    """Before it is loaded; the copy is its own."""
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
def test_an_image_that_was_not_loaded_is_worked_with(
    action: Callable[[Image.Image], Image.Image], plain_file: bytes
) -> None:
    """What Pillow does with an image loads it first."""
    loaded = images.opened(plain_file)
    loaded.load()
    assert action(images.opened(plain_file)).tobytes() == action(loaded).tobytes()


def test_an_image_becomes_an_array(plain_file: bytes) -> None:
    """By NumPy's own protocol, and it can be drawn on."""
    image = images.opened(plain_file)
    assert np.asarray(image).shape == (33, 47, 3)
    image.putpixel((1, 1), (9, 8, 7))
    assert image.getpixel((1, 1)) == (9, 8, 7)


def test_a_file_has_one_frame(plain_file: bytes) -> None:
    """Programs that go through frames find one."""
    image = images.opened(plain_file)
    assert image.tell() == 0
    assert len(list(ImageSequence.Iterator(image))) == 1
    with pytest.raises(EOFError):
        image.seek(1)


def test_loading_decodes_once(perfect: PerfectModel) -> None:
    """Whatever is done with the pixels later."""
    image = images.reopened(images.gradient())
    assert perfect.decodes == 0
    image.load()
    image.load()
    image.tobytes()
    image.copy().convert("L").resize((3, 3))
    assert perfect.decodes == 1


def test_the_image_says_what_decoded_it(plain_file: bytes) -> None:
    """Once it is decoded."""
    image = images.opened(plain_file)
    assert "sdl_decoder" not in image.info
    image.load()
    assert image.info["sdl_decoder"] == "embedded"


# Threads


def together(action: Callable[[], bytes]) -> set[bytes]:
    """Results of an action that eight threads begin at the same moment."""
    barrier = threading.Barrier(8)

    def run(_: int) -> bytes:
        barrier.wait()
        return action()

    with ThreadPoolExecutor(8) as pool:
        return set(pool.map(run, range(8)))


def test_threads_open_one_file(plain_path: Path) -> None:
    """Each its own image of it, all the same."""

    def decoded() -> bytes:
        with Image.open(plain_path) as image:
            return image.tobytes()

    assert together(decoded) == {images.opened(plain_path.read_bytes()).tobytes()}


def test_threads_load_one_image(plain_file: bytes, monkeypatch: pytest.MonkeyPatch, perfect: PerfectModel) -> None:
    """The first one decodes, the others wait: the picture is decoded once, and whole for all."""
    plain = images.saved(images.gradient())
    decode = perfect.decode

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.05)
        return decode(*arguments)

    monkeypatch.setattr(perfect, "decode", slowly)
    image = images.opened(plain)
    assert together(image.tobytes) == {images.gradient().tobytes()}
    assert perfect.decodes == 1


def test_threads_save_and_make_thumbnails(plain_file: bytes) -> None:
    """Nothing is shared but the network."""
    assert together(lambda: images.saved(images.gradient())) == {plain_file}
    assert len(together(lambda: shrunk(images.opened(plain_file), (8, 8)).tobytes())) == 1


# Real pictures


def test_awkward_pictures_come_back(data_dir: Path) -> None:
    """Palettes, animations, CMYK, 16 bits, cut-outs, orientations, wide colours: saved, verified and opened again."""
    folder = data_dir / "edge"
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    if not paths:
        pytest.skip(f"no awkward pictures in {folder}")
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
    """Recognisably, with a small thumbnail that is like it, in fewer bytes than its samples."""
    paths = sorted(path for path in data_dir.rglob("*") if path.suffix in {".jpg", ".png"} and "edge" not in path.parts)
    if not paths:
        pytest.skip(f"no photos in {data_dir}")
    with Image.open(paths[0]) as photo:
        part = photo.convert("RGB").crop((0, 0, 256, 256))
    data = images.saved(part, quality=100)
    assert images.difference(images.opened(data), part) < LOOSE
    assert len(data) < 256 * 256 * 3 / 4
    assert images.difference(shrunk(images.opened(data), (50, 50)), shrunk(part, (50, 50))) < 60


def test_the_errors_are_in_the_package() -> None:
    """Every class of errors.py can be caught by a name of the package, and is an OSError."""
    import pillow_sdl

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
    """With their attributes, so that they cross processes."""
    found = pickle.loads(pickle.dumps(error))  # noqa: S301  our own bytes
    assert type(found) is type(error)
    assert str(found) == str(error) == "text"
    assert vars(found) == vars(error)


def test_the_version_is_a_version() -> None:
    """Numbers with points, as `features` and packagers expect."""
    assert all(part.isdecimal() for part in __version__.split(".")[:2])
