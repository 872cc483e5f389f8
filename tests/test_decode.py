"""Decoding without Pillow: previews, limits, other releases of the model, and the description of a file."""

from __future__ import annotations

import io
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import pillow_sdl
from pillow_sdl import decode, registry, settings
from pillow_sdl.errors import LimitError, MalformedError, ModelMismatchError, ModelNotFoundError, UnsupportedError
from pillow_sdl.format import container, zstd
from pillow_sdl.format.container import Mode
from pillow_sdl.latent import spaces

from . import images
from .conftest import MODEL, SPACE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.plain

WAYS: dict[str, Callable[[bytes], object]] = {
    "load": lambda data: images.opened(data).load(),
    "thumbnail": lambda data: images.opened(data).thumbnail((2, 2)),
    "draft": lambda data: drafted(data).load(),
    "verify": lambda data: images.opened(data).verify(),
    "latents": lambda data: pillow_sdl.latents(io.BytesIO(data)),
    "decode": lambda data: decode.decode(images.parsed(data)),
    "preview": lambda data: decode.preview(images.parsed(data), 1),
    "quantized": lambda data: decode.quantized(images.parsed(data)),
}
"""Every way to decode a file or a part of it."""

NETWORKLESS = sorted(set(WAYS) - {"load", "decode"})


def drafted(data: bytes) -> Image.Image:
    """Return an image that loads as a preview."""
    image = images.opened(data)
    assert image.draft(None, (1, 1)) is not None
    return image


# Previews


def test_a_thumbnail_resembles_that_of_the_photo(photo: Image.Image) -> None:
    """The preview has at least 20 dB PSNR against the original in the same size."""
    small = images.reopened(photo, quality=80)
    small.thumbnail((64, 64))
    assert small.info["sdl_decoder"] == "preview"
    wanted = photo.copy()
    wanted.thumbnail((64, 64))
    assert images.psnr(small, wanted) > 20


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_a_preview_has_the_announced_size_and_bands(mode: str, scale: int) -> None:
    """For pictures whose size is no multiple of a latent position."""
    file = images.parsed(images.saved(images.MODES[mode]()))
    width, height = decode.preview_size(file.header, scale)
    reduction = SPACE.factor // scale
    assert (width, height) == (-(-images.SIZE[0] // reduction), -(-images.SIZE[1] // reduction))
    assert decode.preview(file, scale).shape == (height, width, len(mode))


# Limits


@pytest.mark.parametrize("way", WAYS)
def test_max_pixels_is_inclusive(way: str, plain_file: bytes) -> None:
    """A picture of exactly that many pixels is decoded, and one of a pixel more is refused."""
    pixels = images.SIZE[0] * images.SIZE[1]
    with settings.using(max_pixels=pixels):
        WAYS[way](plain_file)
    with settings.using(max_pixels=pixels - 1), pytest.raises(LimitError, match=rf"47 x 33 .*max_pixels.*{pixels - 1}"):
        WAYS[way](plain_file)


def huge_file(rich_file: bytes) -> bytes:
    """Return a small file that declares 4 gigapixels and holds an alpha plane of 64 MB in a few bytes."""
    return images.with_section(
        images.with_header(rich_file, width=65535, height=65535), b"A", b"\0" + zstd.compress(bytes(2**26))
    )


@pytest.mark.parametrize("way", WAYS)
def test_max_pixels_is_checked_before_memory_is_allocated(
    way: str, rich_file: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither Pillow's image nor any plane exists when LimitError is raised."""
    data = huge_file(rich_file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr("PIL.Image.core.new", lambda *_: pytest.fail("an image was allocated"))
    with pytest.raises(LimitError), settings.using(max_pixels=1):
        WAYS[way](images.with_header(rich_file))  # Import all modules before memory is measured.
    tracemalloc.start()
    try:
        with settings.using(max_pixels=10**8), pytest.raises(LimitError, match=r"65535 x 65535 .*max_pixels"):
            WAYS[way](data)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_max_pixels_of_the_process_holds(plain_file: bytes) -> None:
    """As set by `configure`.  The size and the metadata can still be read."""
    pillow_sdl.configure(max_pixels=100)
    image = images.opened(plain_file)
    assert image.size == images.SIZE
    with pytest.raises(LimitError, match="100"):
        image.load()


# The model


@pytest.mark.parametrize("way", WAYS)
def test_a_file_of_another_release_of_the_model_is_refused(way: str, plain_file: bytes) -> None:
    """The message names the file's hash and that of this release."""
    other = bytes(range(16))
    with pytest.raises(ModelNotFoundError) as caught:
        WAYS[way](images.with_header(plain_file, model=other))
    assert other.hex() in str(caught.value)
    assert MODEL.hash in str(caught.value)
    assert caught.value.model_id == other.hex()


def test_a_file_of_another_release_can_be_described(plain_file: bytes) -> None:
    """`inspect` and `Image.open` need no tables of the model."""
    data = images.with_header(plain_file, model=bytes(range(16)))
    facts = decode.inspect(images.parsed(data))
    assert (facts["model"], facts["latent_space"]) == (None, SPACE.name)
    assert facts["model_hash"] == images.opened(data).info["sdl_model"] == bytes(range(16)).hex()


@pytest.fixture
def fresh_tables() -> Any:
    """Forget the tables of latent spaces before and after the test."""
    spaces.tables.cache_clear()
    yield
    spaces.tables.cache_clear()


@pytest.mark.usefixtures("fresh_tables")
def test_damaged_tables_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other steps would give wrong pixels silently."""
    data = bytearray(SPACE.tables.path.read_bytes())
    data[-1] ^= 1
    (tmp_path / SPACE.tables.file).write_bytes(data)
    monkeypatch.setattr(registry, "WEIGHTS_FOLDER", tmp_path)
    with pytest.raises(ModelMismatchError, match=SPACE.tables.sha256):
        spaces.tables(SPACE)


@pytest.mark.usefixtures("fresh_tables")
def test_missing_tables_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the advice to install the package again."""
    monkeypatch.setattr(registry, "WEIGHTS_FOLDER", tmp_path)
    with pytest.raises(ModelNotFoundError, match=rf"{SPACE.tables.file}.*reinstall"):
        spaces.tables(SPACE)


# Bytes after the last section


@pytest.mark.parametrize("way", sorted(set(WAYS) - {"verify"}))
def test_bytes_after_the_last_section_are_ignored(way: str, plain_file: bytes) -> None:
    """Every way to decode accepts them, as long as nothing asks for a strict check (SPEC 4)."""
    WAYS[way](plain_file + b"anything" * 100)


def test_only_strict_reading_refuses_bytes_after_the_last_section(plain_file: bytes) -> None:
    """F-03, with the offset at which the file should end."""
    data = plain_file + b"\0"
    assert container.read(io.BytesIO(data)) == images.parsed(plain_file)
    with pytest.raises(MalformedError, match="follow the last section") as caught:
        container.read(io.BytesIO(data), strict=True)
    assert (caught.value.rule, caught.value.offset) == ("F-03", len(plain_file))


# Unknown numbers


@pytest.mark.parametrize("field", ["space", "quantizer", "payload"])
@pytest.mark.parametrize("way", NETWORKLESS)
def test_unknown_numbers_are_refused_without_a_network(field: str, way: str, plain_file: bytes) -> None:
    """H-07: the message names the number."""
    with pytest.raises(UnsupportedError, match="77"):
        WAYS[way](images.with_header(plain_file, **{field: 77}))


# Gray


def test_gray_is_weighed_by_bt_601() -> None:
    """Every gray of three equal bands keeps its value, and the weights are those of Pillow's conversion."""
    levels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert np.array_equal(decode.assemble(levels, None, Mode.L)[0, :, 0], np.arange(256))
    colors = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    found = decode.assemble(colors, None, Mode.L)[:, :, 0].astype(int)
    assert np.abs(found - np.asarray(Image.fromarray(colors).convert("L"))).max() <= 1


# Description


def test_the_description_of_a_file_adds_up_to_its_size(rich_file: bytes) -> None:
    """All facts that stand in header and sections."""
    facts = decode.inspect(images.parsed(rich_file))
    assert facts["size"] == sum(facts["bytes"].values()) == len(rich_file)
    assert list(facts["bytes"]) == ["header", "i", "e", "x", "f", "g", "A", "L"]
    assert (facts["width"], facts["height"], facts["mode"]) == (5, 3, "RGBA")
    assert (facts["model"], facts["model_hash"]) == (MODEL.name, MODEL.hash)
    assert facts["latent_space"] == SPACE.name
    assert facts["latent_shape"] == [SPACE.channels, 1, 1]
    assert (facts["quantizer"], facts["quality"], facts["quality_index"]) == ("scalar", 0, 0)
    assert facts["palette_size"] is facts["dithered"] is None
    assert facts["bits_per_pixel"] == round(8 * len(rich_file) / 15, 6)


def test_unknown_numbers_have_no_name_in_the_description(plain_file: bytes) -> None:
    """A file of a later version is described as far as it can be."""
    facts = decode.inspect(images.parsed(images.with_header(plain_file, space=99, quantizer=98, payload=97)))
    names = ("latent_space", "latent_shape", "model", "quantizer", "payload")
    assert [facts[name] for name in names] == [None] * len(names)
