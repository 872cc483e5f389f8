"""`pillow_sdl.latents` and `pillow_sdl.from_latents`: latents of files, and files of latents."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

import pillow_sdl
from pillow_sdl import decode, registry
from pillow_sdl.errors import LimitError, MalformedError, ModelNotFoundError, SdlError, UnsupportedError
from pillow_sdl.latent import palette, scalar, spaces
from pillow_sdl.models import local, store

from . import images
from .conftest import MODEL, SPACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

pytestmark = pytest.mark.plain

HASH = "0123456789abcdef" * 2
"""A model hash that no model has."""

NAMES = [space.name for space in registry.load().spaces]


def hash_of(space: str) -> str:
    """Return a model hash with which files of a space can be read: any hash but for the embedded model's space."""
    return MODEL.hash if space == SPACE.name else HASH


def latent_of(space: str, width: int, height: int, seed: int = 0) -> NDArray[np.float32]:
    """Return a latent of a picture of that size that consists of normally distributed numbers."""
    shape = spaces.shape(registry.space(space), width, height)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def steps_of(data: bytes, space: str) -> NDArray[np.float32]:
    """Return the steps of a file's channels, float32 (C, 1, 1)."""
    rate = images.parsed(data).header.rate
    return scalar.steps(spaces.tables(registry.space(space)).log2_steps, rate)[:, None, None]


def written(latent: Any, **options: Any) -> bytes:
    """Return the bytes of the file of a latent."""
    target = io.BytesIO()
    pillow_sdl.from_latents(latent, target, **options)
    return target.getvalue()


# Round trips


@pytest.mark.parametrize("space", NAMES)
@pytest.mark.parametrize("quality", [0, 50, 100])
def test_a_latent_comes_back_within_half_a_step(space: str, quality: int) -> None:
    """For every space, with space, size and model."""
    latent = latent_of(space, 100, 70)
    data = written(latent, model=hash_of(space), space=space, size=(100, 70), quality=quality)
    found = pillow_sdl.latents(io.BytesIO(data))
    assert found.latent.dtype == np.float32
    assert found[1:] == (space, 100, 70, hash_of(space))
    steps = steps_of(data, space)
    assert (np.abs(found.latent - latent) <= 0.501 * steps).all()
    assert np.abs(found.latent - latent).max() > 0.4 * steps.min()


@hypothesis_settings(max_examples=40)
@given(
    space=st.sampled_from(NAMES),
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    seed=st.integers(0, 2**16),
    payload=st.sampled_from(["auto", "zstd", "range"]),
)
def test_a_latent_of_any_shape_comes_back(space: str, width: int, height: int, seed: int, payload: str) -> None:
    """Writing the result again gives the same file, so nothing is lost twice."""
    latent = latent_of(space, width, height, seed)
    options: dict[str, Any] = {"model": hash_of(space), "space": space, "size": (width, height), "payload": payload}
    data = written(latent, **options)
    found = pillow_sdl.latents(io.BytesIO(data))
    assert found.latent.shape == latent.shape
    assert (found.width, found.height) == (width, height)
    assert (np.abs(found.latent - latent) <= 0.501 * steps_of(data, space)).all()
    assert written(found.latent, **options) == data


@pytest.mark.parametrize("space", NAMES)
@pytest.mark.parametrize("options", [{"quality": 0}, {"quality": 100}, {"target_bytes": 1 << 20}], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_values_come_back_and_larger_ones_are_refused(
    space: str, options: dict[str, Any], sign: int
) -> None:
    """No value is clipped silently, so a latent in a wrong scale is found."""
    table = spaces.tables(registry.space(space)).log2_steps
    rows = {"quality": table[[-1 if options.get("quality") else 0]], "target_bytes": table}[next(iter(options))]
    limit = 32767 * np.exp2(rows.min(axis=0)[-1] / 256)
    latent = latent_of(space, 48, 32)
    latent[-1, -1, 0] = sign * 0.999 * limit
    data = written(latent, model=hash_of(space), space=space, payload="zstd", **options)
    found = pillow_sdl.latents(io.BytesIO(data)).latent
    assert (np.abs(found - latent) <= 0.51 * steps_of(data, space)).all()
    latent[-1, -1, 0] = sign * 1.001 * limit
    with pytest.raises(ValueError, match=rf"channel {len(latent) - 1} of the latent has a value of magnitude"):
        written(latent, model=hash_of(space), space=space, payload="zstd", **options)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_arrays_of_every_precision_are_accepted(dtype: str) -> None:
    """The file is that of the same numbers in float32."""
    array = latent_of("flux1", 64, 48).astype(np.float16)
    expected = written(array.astype(np.float32), model=HASH, space="flux1")
    assert written(np.asfortranarray(array.astype(dtype))[None], model=HASH, space="flux1") == expected


def test_the_default_size_is_that_of_all_positions() -> None:
    """Sizes are (width, height), as in Pillow."""
    assert pillow_sdl.latents(io.BytesIO(written(latent_of("sd1", 64, 40), model=HASH, space="sd1")))[2:4] == (64, 40)
    factor = SPACE.factor
    latent = np.zeros((SPACE.channels, 3, 4), np.float32)
    assert pillow_sdl.latents(io.BytesIO(written(latent, model=MODEL.name)))[2:4] == (4 * factor, 3 * factor)
    size = 3 * factor + 1, 2 * factor + 1
    found = pillow_sdl.latents(io.BytesIO(written(latent, model=MODEL.name, size=(np.int64(size[0]), size[1]))))
    assert found[2:4] == size


# Options of `save`


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quality": 80, "payload": "zstd"},
        {"target_bytes": 1500},
        {"tune": "psnr", "effort": 0},
        {"exif": b"Exif\0\0MM\0*", "icc_profile": b"profile", "xmp": "<x/>", "quality": None},
    ],
    ids=lambda options: next(iter(options), "default"),
)
def test_a_latent_of_the_encoder_gives_the_file_of_save(options: dict[str, Any]) -> None:
    """The bytes are equal for all options that do not need pixels."""
    image = images.gradient(100, 70)
    latent = store.load(MODEL).encode(np.asarray(image))
    saved = images.saved(image, fidelity=False, guard="off", **options)
    assert written(latent, model=MODEL.name, size=(100, 70), **options) == saved


def test_exif_of_pillow_is_accepted() -> None:
    """An `Image.Exif`, as in `save`."""
    exif = Image.Exif()
    exif[0x010F] = "a camera's maker"
    data = written(latent_of(SPACE.name, 16, 16), model=MODEL.name, exif=exif)
    assert images.opened(data).info["exif"] == exif.tobytes()


def test_efforts_that_need_pixels_have_the_effect_of_5() -> None:
    """Without pixels there is nothing to refine towards."""
    latent = latent_of(SPACE.name, 64, 64)
    files = {written(latent, model=MODEL.name, effort=effort) for effort in (5, 6, 9)}
    assert len(files) == 1
    assert written(latent, model=MODEL.name, effort=9, target_bytes=4000) == written(
        latent, model=MODEL.name, target_bytes=4000
    )


def test_a_file_of_a_latent_is_opened_and_decoded() -> None:
    """Its pixels are those of the picture that was encoded."""
    image = images.gradient(100, 70)
    latent = store.load(MODEL).encode(np.asarray(image))
    opened = images.opened(written(latent, model=MODEL.name, size=(100, 70), quality=100))
    assert (opened.mode, opened.size) == ("RGB", (100, 70))
    opened.load()
    assert opened.info["sdl_decoder"] == MODEL.name
    assert images.resembles(opened, image)


def test_a_palette_holds_a_latent() -> None:
    """The result is the dequantized palette.  Only spaces of 4 channels have palettes."""
    latent = latent_of("sd1", 64, 48)
    data = written(latent, model=HASH, space="sd1", quantizer="palette", dither=False)
    found = pillow_sdl.latents(io.BytesIO(data)).latent
    assert np.array_equal(found, palette.dequantize(decode.quantized(images.parsed(data)).symbols))
    assert np.abs(found - latent).mean() < 0.5 * np.abs(latent).mean()
    with pytest.raises(ValueError, match=r'quantizer="palette", which takes taesd, '):
        written(latent_of("sd3", 64, 48), model=HASH, space="sd3", quantizer="palette")


# Reading


@pytest.mark.parametrize("kind", [str, Path, os.fsencode])
def test_every_kind_of_path_is_accepted(kind: Callable[[str], Any], tmp_path: Path) -> None:
    """By both functions."""
    latent = latent_of(SPACE.name, 20, 20)
    path = kind(str(tmp_path / "photo.sdl"))
    pillow_sdl.from_latents(latent, path, model=MODEL.name, size=(20, 20))
    assert pillow_sdl.latents(path)[1:4] == (SPACE.name, 20, 20)


def test_a_stream_is_read_from_its_start(plain_file: bytes) -> None:
    """As by `Image.open`.  A stream that cannot seek is read from its position."""
    expected = pillow_sdl.latents(io.BytesIO(plain_file)).latent
    stream = io.BytesIO(plain_file)
    stream.seek(0, io.SEEK_END)
    assert np.array_equal(pillow_sdl.latents(stream).latent, expected)
    assert not stream.closed

    for error in (io.UnsupportedOperation, OSError(errno.ESPIPE, "Illegal seek")):

        class Pipe(io.BytesIO):
            def seek(self, *_: object, error: Any = error) -> int:
                raise error

        assert np.array_equal(pillow_sdl.latents(Pipe(plain_file)).latent, expected)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_files_of_all_modes_have_a_latent(mode: str) -> None:
    """Alpha and gray do not change it."""
    data = images.saved(images.MODES[mode]())
    found = pillow_sdl.latents(io.BytesIO(data))
    assert found[1:4] == (SPACE.name, *images.SIZE)
    assert np.array_equal(found.latent, decode.read_latent(images.parsed(data)))
    assert found.model == images.opened(data).info["sdl_model"]


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a" * 50])
def test_bytes_that_are_no_sdl_file_are_malformed(data: bytes, tmp_path: Path) -> None:
    """F-01, not the SyntaxError that plugins of Pillow raise."""
    (path := tmp_path / "file").write_bytes(data)
    for source in (path, io.BytesIO(data)):
        with pytest.raises(MalformedError, match="not an SDL file") as caught:
            pillow_sdl.latents(source)
        assert caught.value.rule == "F-01"


def test_all_damage_raises_sdl_error(rich_file: bytes) -> None:
    """A flipped bit in every byte, and a cut at every byte."""
    for place in range(len(rich_file)):
        for damaged in (rich_file[:place], images.flipped(rich_file, 8 * place + place % 8)):
            with pytest.raises(SdlError):
                pillow_sdl.latents(io.BytesIO(damaged))


def test_unknown_numbers_are_unsupported(plain_file: bytes) -> None:
    """A latent space and a quantizer of a later version."""
    for change in ({"space": 99}, {"quantizer": 99}):
        with pytest.raises(UnsupportedError, match="99"):
            pillow_sdl.latents(io.BytesIO(images.with_header(plain_file, **change)))


def test_a_missing_file_raises_file_not_found_error(tmp_path: Path) -> None:
    """As `open` does."""
    with pytest.raises(FileNotFoundError):
        pillow_sdl.latents(tmp_path / "nowhere.sdl")


def test_pillows_limit_on_pixels_holds(plain_file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is checked before the latent is read.  None turns it off."""
    pixels = images.SIZE[0] * images.SIZE[1]
    huge = images.with_header(plain_file, width=65535, height=65535)
    monkeypatch.setattr(decode, "quantized", lambda _: pytest.fail("the latent was read"))
    with pytest.raises(LimitError, match="MAX_IMAGE_PIXELS"):
        pillow_sdl.latents(io.BytesIO(huge))
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels // 2)
    with pytest.raises(LimitError):
        pillow_sdl.latents(io.BytesIO(plain_file))
    for allowed in (-(-pixels // 2), None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", allowed)
        assert pillow_sdl.latents(io.BytesIO(plain_file)).width == images.SIZE[0]


def test_bytes_after_the_last_section_are_ignored(plain_file: bytes) -> None:
    """As by `Image.open`."""
    found = pillow_sdl.latents(io.BytesIO(plain_file + b"\0\0"))
    assert np.array_equal(found.latent, pillow_sdl.latents(io.BytesIO(plain_file)).latent)


# Writing


def test_a_stream_is_written_to_once() -> None:
    """The file is complete then, and the stream is left open."""

    class Counting(io.BytesIO):
        calls = 0

        def write(self, data: Any) -> int:
            self.calls += 1
            return super().write(data)

    target = Counting()
    pillow_sdl.from_latents(latent_of(SPACE.name, 16, 16), target, model=MODEL.name)
    assert target.calls == 1
    with pytest.raises(ValueError, match="quality"):
        pillow_sdl.from_latents(latent_of(SPACE.name, 16, 16), target, model=MODEL.name, quality=101)
    assert target.calls == 1
    assert not target.closed


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure leaves the old file and no other.  Permissions and a symbolic link stay."""
    (path := tmp_path / "photo.sdl").write_bytes(b"old")
    path.chmod(0o640)
    (link := tmp_path / "link.sdl").symlink_to(path)
    latent = latent_of(SPACE.name, 16, 16)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="No space") as caught:
            pillow_sdl.from_latents(latent, link, model=MODEL.name)
        assert caught.value.filename == str(link)
    assert path.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [link, path]
    pillow_sdl.from_latents(latent, link, model=MODEL.name)
    assert path.read_bytes() == written(latent, model=MODEL.name)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("latent", "options", "match"),
    [
        (np.zeros((3, 4, 4), np.float32), {}, r"\(4, 4, 4\), not \(3, 4, 4\)"),
        (np.zeros((2, 4, 4, 4), np.float32), {}, r"\(1, C, h, w\), not float32 \(2, 4, 4, 4\)"),
        (np.zeros((4, 4), np.float32), {}, r"\(C, h, w\)"),
        (np.zeros((4, 4, 4), np.uint8), {}, "floating-point"),
        (np.zeros((4, 4, 4), np.complex64), {}, "floating-point"),
        ("latent", {}, "floating-point"),
        (None, {}, "floating-point"),
        (np.full((4, 4, 4), np.nan, np.float32), {}, "not finite"),
        (np.full((4, 4, 4), np.inf, np.float16), {}, "not finite"),
        (np.full((4, 4, 4), 1e300), {}, "not finite"),
        (pillow_sdl.Latents(np.zeros((4, 4, 4), np.float32), "sd1", 32, 32, HASH), {}, "one array .*, not Latents"),
        (np.full((4, 4, 4), -3e38, np.float32), {}, "channel 0 .* magnitude 3e\\+38"),
        (np.zeros((4, 0, 4), np.float32), {}, "32 x 0"),
        (np.zeros((4, 8192, 1), np.float32), {}, "8 x 65536"),
        (np.zeros((4, 4, 4), np.float32), {"size": (33, 32)}, r"33 x 32 .* \(4, 4, 5\), not \(4, 4, 4\)"),
        (np.zeros((4, 4, 4), np.float32), {"size": (32, 24)}, r"\(4, 3, 4\)"),
        (np.zeros((4, 4, 4), np.float32), {"size": (0, 32)}, "0 x 32"),
        (np.zeros((4, 4, 4), np.float32), {"size": (32.0, 32)}, "size must be"),
        (np.zeros((4, 4, 4), np.float32), {"size": 32}, "size must be"),
        (np.zeros((4, 4, 4), np.float32), {"size": (32, 32, 3)}, "size must be"),
        (np.zeros((4, 4, 4), np.float32), {"quality": 50, "target_bytes": 900}, "exclude"),
        (np.zeros((4, 4, 4), np.float32), {"exif": 5}, "exif must be bytes"),
        (np.zeros((4, 4, 4), np.float32), {"fidelity": True}, "need the pixels"),
        (np.zeros((4, 4, 4), np.float32), {"guard": "auto"}, "need the pixels"),
        (np.zeros((4, 4, 4), np.float32), {"space": None}, "space must be given"),
        (
            np.zeros((4, 4, 4), np.float32),
            {"space": "sd9"},
            f"space must be one of {', '.join(NAMES)}, not",
        ),
        (np.zeros((4, 4, 4), np.float32), {"model": MODEL.name}, f"{SPACE.name}, not sd1"),
        (np.zeros((4, 4, 4), np.float32), {"model": HASH[1:]}, "hash of 32 digits"),
        (np.zeros((4, 4, 4), np.float32), {"model": HASH.upper()}, "model must be one of"),
        (np.zeros((4, 4, 4), np.float32), {"model": None}, "an autoencoder with a state_dict"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    latent: Any, options: dict[str, Any], match: str, tmp_path: Path
) -> None:
    """The message says what is allowed, and no file is left."""
    with pytest.raises(ValueError, match=match):
        pillow_sdl.from_latents(latent, tmp_path / "x.sdl", **{"model": HASH, "space": "sd1"} | options)
    assert not list(tmp_path.iterdir())


def test_an_unknown_option_is_a_type_error() -> None:
    """So is an object that is neither a path nor a stream."""
    with pytest.raises(TypeError, match="qualty"):
        written(latent_of(SPACE.name, 16, 16), model=MODEL.name, qualty=5)
    number: Any = 5
    with pytest.raises(TypeError):
        pillow_sdl.from_latents(latent_of(SPACE.name, 16, 16), number, model=MODEL.name)
    with pytest.raises(TypeError):
        pillow_sdl.latents(number)


# The model


def test_a_model_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash is unknown without its weights."""
    monkeypatch.delenv("PILLOW_SDL_MODELS", raising=False)
    monkeypatch.setattr(local, "cached", lambda *_: None)
    with pytest.raises(ModelNotFoundError, match="sdl models fetch taesd"):
        written(latent_of("sd1", 16, 16), model="taesd")


def test_every_space_has_a_model() -> None:
    """Options are checked against one if only the space is given."""
    assert {model.space for model in registry.load().models} == set(NAMES)
