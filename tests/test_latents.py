"""Latents of files for pipelines, files of latents, and the examples that use them."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

import pillow_sdl
from examples import dataset, img2img
from pillow_sdl import codec, settings
from pillow_sdl.errors import LimitError, MalformedError, ModelNotFoundError, SdlError, UnsupportedError
from pillow_sdl.latent import palette, quantize, spaces
from pillow_sdl.models import cards, store

from . import images
from .test_diffusion import kl, tiny

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

HASH = "0123456789abcdef" * 2
NAMES = [space.name for space in spaces.SPACES]
EMBEDDED = cards.by_name("embedded").space


def latent_of(space: str, width: int, height: int, seed: int = 0) -> NDArray[np.float32]:
    """A latent of a picture of that size, of normal numbers."""
    shape = spaces.by_name(space).shape(width, height)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def steps_of(data: bytes, space: str) -> NDArray[np.float32]:
    """Steps of a file's channels, float32 (C, 1, 1)."""
    rate = images.parsed(data).header.rate
    return quantize.steps(spaces.by_name(space).tables.log2_steps, rate)[:, None, None]


def written(latent: Any, **options: Any) -> bytes:
    """A file of a latent."""
    target = io.BytesIO()
    pillow_sdl.from_latents(latent, target, **options)
    return target.getvalue()


# There and back


@pytest.mark.parametrize("space", NAMES)
@pytest.mark.parametrize("quality", [0, 50, 100])
def test_a_latent_comes_back_within_half_a_step(space: str, quality: int) -> None:
    """Of every space, with what the header says of it."""
    latent = latent_of(space, 100, 70)
    data = written(latent, model=HASH, space=space, size=(100, 70), quality=quality)
    found = pillow_sdl.latents(io.BytesIO(data))
    assert found.latent.dtype == np.float32
    assert found[1:] == (space, 100, 70, HASH)
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
    """And writing what came back gives the same symbols: nothing is lost twice."""
    latent = latent_of(space, width, height, seed)
    options: dict[str, Any] = {"model": HASH, "space": space, "size": (width, height), "payload": payload}
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
    """None is clipped without a word: a latent in another scale shows up here."""
    table = spaces.by_name(space).tables.log2_steps
    rows = {"quality": table[[-1 if options.get("quality") else 0]], "target_bytes": table}[next(iter(options))]
    limit = 32767 * np.exp2(rows.min(axis=0)[-1] / 256)
    latent = latent_of(space, 48, 32)
    latent[-1, -1, 0] = sign * 0.999 * limit
    data = written(latent, model=HASH, space=space, payload="zstd", **options)
    found = pillow_sdl.latents(io.BytesIO(data)).latent
    assert (np.abs(found - latent) <= 0.51 * steps_of(data, space)).all()
    latent[-1, -1, 0] = sign * 1.001 * limit
    with pytest.raises(ValueError, match=rf"channel {len(latent) - 1} of the latent has a value of magnitude"):
        written(latent, model=HASH, space=space, payload="zstd", **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("batch", [False, True])
def test_tensors_are_taken_as_pipelines_have_them(dtype: torch.dtype, batch: bool) -> None:
    """Half precision, a batch of one, with gradients, of any memory layout: the file is that of the array."""
    tensor = torch.from_numpy(latent_of("sd1", 64, 48)).to(dtype)
    expected = written(tensor.float().numpy(), model=HASH, space="sd1")
    tensor = tensor[None] if batch else tensor
    tensor = tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert written(tensor.requires_grad_(), model=HASH, space="sd1") == expected


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_arrays_are_taken_in_any_precision(dtype: str) -> None:
    """The file is that of the same numbers in float32."""
    array = latent_of("flux1", 64, 48).astype(np.float16)
    expected = written(array.astype(np.float32), model=HASH, space="flux1")
    assert written(np.asfortranarray(array.astype(dtype))[None], model=HASH, space="flux1") == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_tensor_on_a_gpu_is_taken() -> None:
    """As pipelines leave it there."""
    array = latent_of("sd1", 64, 48)
    tensor = torch.from_numpy(array).cuda()
    assert written(tensor, model=HASH, space="sd1") == written(array, model=HASH, space="sd1")


def test_the_size_is_that_of_all_positions_unless_given() -> None:
    """Width comes first, as in Pillow."""
    assert pillow_sdl.latents(io.BytesIO(written(latent_of("sd1", 64, 40), model=HASH, space="sd1")))[2:4] == (64, 40)
    latent = latent_of(EMBEDDED, 64, 40)
    assert latent.shape == (96, 3, 4)
    assert pillow_sdl.latents(io.BytesIO(written(latent, model="embedded")))[2:4] == (64, 48)
    found = pillow_sdl.latents(io.BytesIO(written(latent, model="embedded", size=(np.int64(49), 33))))
    assert found[2:4] == (49, 33)


# As `save` does it


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
def test_the_bytes_are_those_of_save(options: dict[str, Any]) -> None:
    """For the latent that the encoder makes of the picture."""
    image = images.gradient(100, 70)
    latent = store.load(cards.by_name("embedded")).encode(np.asarray(image))
    assert written(latent, model="embedded", size=(100, 70), **options) == images.saved(image, **options)


def test_exif_of_pillow_is_taken() -> None:
    """An `Image.Exif`, as `save` takes it."""
    exif = Image.Exif()
    exif[0x010F] = "a camera's maker"
    data = written(latent_of(EMBEDDED, 16, 16), model="embedded", exif=exif)
    assert images.opened(data).info["exif"] == exif.tobytes()


def test_efforts_that_need_pixels_are_as_5() -> None:
    """There are none to refine towards."""
    latent = latent_of(EMBEDDED, 64, 64)
    files = {written(latent, model="embedded", effort=effort) for effort in (5, 6, 9)}
    assert len(files) == 1
    assert written(latent, model="embedded", effort=9, target_bytes=4000) == written(
        latent, model="embedded", target_bytes=4000
    )


def test_a_file_of_a_latent_is_opened_and_decoded() -> None:
    """Image.open knows its size at once; its pixels are those of the picture that the latent was of."""
    image = images.gradient(100, 70)
    latent = store.load(cards.by_name("embedded")).encode(np.asarray(image))
    opened = images.opened(written(latent, model="embedded", size=(100, 70), quality=100))
    assert (opened.mode, opened.size) == ("RGB", (100, 70))
    opened.load()
    assert opened.info["sdl_decoder"] == "embedded"
    assert images.difference(opened, image) < 4


def test_a_palette_holds_a_latent() -> None:
    """The other quantiser: what comes back is what `codec` dequantises, and only spaces of 4 channels have it."""
    latent = latent_of("sd1", 64, 48)
    data = written(latent, model=HASH, space="sd1", quantizer="palette", dither=False)
    found = pillow_sdl.latents(io.BytesIO(data)).latent
    assert np.array_equal(found, palette.dequantize(codec.read_symbols(images.parsed(data))))
    assert np.abs(found - latent).mean() < 0.5 * np.abs(latent).mean()
    with pytest.raises(ValueError, match="4 channels"):
        written(latent_of("sd3", 64, 48), model=HASH, space="sd3", quantizer="palette")


# Reading


@pytest.mark.parametrize("kind", [str, Path, os.fsencode])
def test_a_path_of_any_kind_is_taken(kind: Callable[[str], Any], tmp_path: Path) -> None:
    """To write to and to read from."""
    latent = latent_of(EMBEDDED, 20, 20)
    path = kind(str(tmp_path / "photo.sdl"))
    pillow_sdl.from_latents(latent, path, model="embedded", size=(20, 20))
    assert pillow_sdl.latents(path)[1:4] == (EMBEDDED, 20, 20)


def test_a_stream_is_read_from_its_start(plain_file: bytes) -> None:
    """As by `Image.open`, so that what was just written can be read; one that cannot seek from where it is."""
    expected = pillow_sdl.latents(io.BytesIO(plain_file)).latent
    stream = io.BytesIO(plain_file)
    stream.seek(0, io.SEEK_END)
    assert np.array_equal(pillow_sdl.latents(stream).latent, expected)
    assert not stream.closed

    class Pipe(io.BytesIO):
        def seek(self, *_: object) -> int:
            raise io.UnsupportedOperation

    assert np.array_equal(pillow_sdl.latents(Pipe(plain_file)).latent, expected)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_files_of_all_modes_have_a_latent(mode: str) -> None:
    """Alpha does not matter to it."""
    data = images.saved(images.MODES[mode]())
    found = pillow_sdl.latents(io.BytesIO(data))
    assert found[1:4] == (EMBEDDED, *images.SIZE)
    assert np.array_equal(found.latent, codec.read_latent(images.parsed(data)))
    assert found.model == images.opened(data).info["sdl_model"]


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a" * 50])
def test_what_is_no_sdl_file_is_an_error_of_ours(data: bytes, tmp_path: Path) -> None:
    """Not the SyntaxError that Pillow's plugins raise."""
    (path := tmp_path / "file").write_bytes(data)
    for source in (path, io.BytesIO(data)):
        with pytest.raises(MalformedError, match="not an SDL file") as caught:
            pillow_sdl.latents(source)
        assert caught.value.rule == "F-01"


def test_damage_is_an_error_of_ours(rich_file: bytes) -> None:
    """Every byte, and every place to end at."""
    for place in range(len(rich_file)):
        for damaged in (rich_file[:place], images.flipped(rich_file, 8 * place + place % 8)):
            with pytest.raises(SdlError):
                pillow_sdl.latents(io.BytesIO(damaged))


def test_what_is_not_known_is_unsupported(plain_file: bytes) -> None:
    """A space or a quantiser of a later time."""
    for change in ({"space": 99}, {"quantizer": 99}):
        with pytest.raises(UnsupportedError, match="99"):
            pillow_sdl.latents(io.BytesIO(images.with_header(plain_file, **change)))


def test_a_missing_file_is_the_system_s_error(tmp_path: Path) -> None:
    """As of `open`."""
    with pytest.raises(FileNotFoundError):
        pillow_sdl.latents(tmp_path / "nowhere.sdl")


def test_pillow_s_limit_on_pixels_holds(plain_file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before memory is taken for the latent; None lifts it."""
    pixels = images.SIZE[0] * images.SIZE[1]
    huge = images.with_header(plain_file, width=65535, height=65535)
    monkeypatch.setattr(codec, "read_symbols", lambda _: pytest.fail("the latent was read"))
    with pytest.raises(LimitError, match="MAX_IMAGE_PIXELS"):
        pillow_sdl.latents(io.BytesIO(huge))
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels // 2)
    with pytest.raises(LimitError):
        pillow_sdl.latents(io.BytesIO(plain_file))
    for allowed in (-(-pixels // 2), None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", allowed)
        assert pillow_sdl.latents(io.BytesIO(plain_file)).width == images.SIZE[0]


# Writing


def test_a_stream_is_written_to_once() -> None:
    """When all is known, and it is left open."""

    class Counting(io.BytesIO):
        calls = 0

        def write(self, data: Any) -> int:
            self.calls += 1
            return super().write(data)

    target = Counting()
    pillow_sdl.from_latents(latent_of(EMBEDDED, 16, 16), target, model="embedded")
    assert target.calls == 1
    with pytest.raises(ValueError, match="quality"):
        pillow_sdl.from_latents(latent_of(EMBEDDED, 16, 16), target, model="embedded", quality=101)
    assert target.calls == 1
    assert not target.closed


def test_a_file_is_replaced_in_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure leaves the old one and nothing beside it; its permissions and a link to it stay."""
    (path := tmp_path / "photo.sdl").write_bytes(b"old")
    path.chmod(0o640)
    (link := tmp_path / "link.sdl").symlink_to(path)
    latent = latent_of(EMBEDDED, 16, 16)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="No space"):
            pillow_sdl.from_latents(latent, link, model="embedded")
    assert path.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [link, path]
    pillow_sdl.from_latents(latent, link, model="embedded")
    assert path.read_bytes() == written(latent, model="embedded")
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
        (torch.zeros((4, 4, 4), dtype=torch.int32), {}, "floating-point"),
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
        (np.zeros((4, 4, 4), np.float32), {"space": None}, "space must be given"),
        (
            np.zeros((4, 4, 4), np.float32),
            {"space": "sd9"},
            f"space must be one of {', '.join(NAMES)}, not",
        ),
        (np.zeros((4, 4, 4), np.float32), {"model": "embedded"}, f"{EMBEDDED}, not sd1"),
        (np.zeros((4, 4, 4), np.float32), {"model": HASH[1:]}, "hash of 32 digits"),
        (np.zeros((4, 4, 4), np.float32), {"model": HASH.upper()}, "model must be one of"),
        (np.zeros((4, 4, 4), np.float32), {"model": None}, "an autoencoder with a state_dict"),
        (np.zeros((4, 4, 4), np.float32), {"model": torch.nn.Linear(2, 2)}, "Linear has no decoder"),
    ],
)
def test_what_does_not_fit_is_refused(latent: Any, options: dict[str, Any], match: str, tmp_path: Path) -> None:
    """The message says what would, and no file is left."""
    with pytest.raises(ValueError, match=match):
        pillow_sdl.from_latents(latent, tmp_path / "x.sdl", **{"model": HASH, "space": "sd1"} | options)
    assert not list(tmp_path.iterdir())


def test_an_unknown_option_is_a_type_error() -> None:
    """As of any call, and so is a file that is none."""
    with pytest.raises(TypeError, match="qualty"):
        written(latent_of(EMBEDDED, 16, 16), model="embedded", qualty=5)
    number: Any = 5
    with pytest.raises(TypeError):
        pillow_sdl.from_latents(latent_of(EMBEDDED, 16, 16), number, model="embedded")
    with pytest.raises(TypeError):
        pillow_sdl.latents(number)


# Which decoder


def test_the_hash_is_that_of_the_weights_on_this_machine(tmp_path: Path, fresh_store: None) -> None:
    """By the model's name, or by the autoencoder that was loaded from them: the file that `save` writes."""
    (network := tiny(0)).save_pretrained(tmp_path / "taesd")
    latent = latent_of("sd1", 64, 48)
    by_object = written(latent, model=network, space="sd1")
    with settings.using(model_dirs=[tmp_path], denoise="off"):
        by_name = written(latent, model="taesd")
        saved = images.saved(images.gradient(64, 48), model="taesd")
        opened = images.opened(by_name)
        opened.load()
    assert opened.info["sdl_decoder"] == "taesd"
    assert by_object == by_name
    assert images.parsed(by_name).header.model == images.parsed(saved).header.model
    assert written(latent, model=pillow_sdl.model_hash(network), space="sd1") == by_name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_hash_of_a_network_is_that_of_its_file(dtype: torch.dtype, tmp_path: Path, fresh_store: None) -> None:
    """Whatever the weights' type, wherever they lie in memory, `post_quant_conv` included."""
    network = kl(3).to(dtype)
    network.save_pretrained(tmp_path / "sd-vae-ft-mse")
    with settings.using(model_dirs=[tmp_path]):
        expected = store.hash_of(cards.by_name("sd-vae-ft-mse"))
    assert pillow_sdl.model_hash(network) == expected
    assert pillow_sdl.model_hash(network.to(memory_format=torch.channels_last)) == expected
    other = torch.float32 if dtype != torch.float32 else torch.float16
    assert pillow_sdl.model_hash(network.to(other)) != expected


def test_the_hash_of_a_network_is_the_specification_s() -> None:
    """Its example, SPEC 7.2, and a number without dimensions, listed by hand."""

    class Module:
        def state_dict(self) -> dict[str, Any]:
            return {
                "encoder.x": torch.ones(3),
                "post_quant_conv.bias": torch.tensor(1.5, dtype=torch.bfloat16),
                "decoder.w": torch.tensor([1.0, -2.0]),
            }

    listing = b"post_quant_conv.bias\0BF16\0\0\xc0\x3f" + bytes.fromhex(
        "77 00 46 33 32 00 32 00 00 00 80 3F 00 00 00 C0"
    )
    assert pillow_sdl.model_hash(Module()) == hashlib.sha256(listing).hexdigest()[:32]


@pytest.mark.parametrize(
    ("tensor", "match"),
    [(torch.zeros(2, device="meta"), "no values"), (torch.zeros(2, dtype=torch.complex64), "complex64")],
)
def test_a_network_without_numbers_has_no_hash(tensor: torch.Tensor, match: str) -> None:
    """Nor one of numbers that no file of weights has."""

    class Module:
        def state_dict(self) -> dict[str, Any]:
            return {"decoder.w": tensor}

    with pytest.raises(ValueError, match=match):
        pillow_sdl.model_hash(Module())


def test_a_model_that_is_not_here_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash is not known without its weights."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="sdl models fetch taesd"):
        written(latent_of("sd1", 16, 16), model="taesd")


def test_every_space_has_a_model() -> None:
    """What options are checked against where only the space is named."""
    assert {card.space for card in cards.CARDS} == set(NAMES)


# Examples


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of sd1 in a folder and one below it."""
    (tmp_path / "below").mkdir()
    for seed, name in enumerate(["a.sdl", "b.sdl", "below/c.sdl"]):
        latent = latent_of("sd1", 64 + 16 * seed, 72, seed)
        pillow_sdl.from_latents(latent, tmp_path / name, model=HASH, space="sd1", quality=100)
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_is_a_data_set(folder: Path, workers: int) -> None:
    """Squares of its latents, in the UNet's scale: of normal numbers the statistics are known."""
    latents = dataset.LatentFolder(folder, 8)
    assert len(latents) == 3
    assert latents[0].shape == (4, 8, 8)
    whole = torch.from_numpy(pillow_sdl.latents(folder / "b.sdl").latent)
    torch.manual_seed(0)
    seen = [latents[1] for _ in range(40)]
    places = {
        (top, left)
        for square in seen
        for top, left in itertools.product(range(2), range(3))
        if torch.equal(square, whole[:, top : top + 8, left : left + 8])
    }
    assert places == set(itertools.product(range(2), range(3)))
    mean, deviation = dataset.statistics(latents, workers)
    assert mean.shape == deviation.shape == (4,)
    assert mean.abs().max() < 0.25
    assert (deviation - 1).abs().max() < 0.2


def test_a_data_set_of_what_does_not_fit_names_the_file(folder: Path) -> None:
    """Another space, too small."""
    with pytest.raises(ValueError, match=r"a\.sdl has 8 x 9 latent positions of the space sd1; at least 9 x 9"):
        _ = dataset.LatentFolder(folder, 9)[0]
    with pytest.raises(ValueError, match="of sdxl are needed"):
        _ = dataset.LatentFolder(folder, 8, "sdxl")[0]


def test_the_data_set_s_program_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """As its docstring says."""
    monkeypatch.setattr(sys, "argv", ["dataset", str(folder), "--side", "8"])
    dataset.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 latents"
    assert [line.split(":")[0] for line in lines[1:]] == [f"channel {channel}" for channel in range(4)]
    (folder / "empty").mkdir()
    monkeypatch.setattr(sys, "argv", ["dataset", str(folder / "empty")])
    with pytest.raises(SystemExit):
        dataset.main()


STAND_IN = """
import importlib.abc, importlib.machinery, importlib.metadata, importlib.util, types

class Module(types.ModuleType):
    __path__ = []
    __version__ = "4.57.0"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__module__": self.__name__})

class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in PACKAGES:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return Module(spec.name)

    def exec_module(self, module):
        pass

PACKAGES = [name for name in ("transformers", "tokenizers") if importlib.util.find_spec(name) is None]
sys.meta_path.insert(0, Finder())
real_version = importlib.metadata.version
importlib.metadata.version = lambda name: Module.__version__ if name in PACKAGES else real_version(name)
"""
"""Classes of transformers that do nothing, where it is not installed.

The pipeline of diffusers wants them to be there, and calls none if prompts come as embeddings.
"""

REDRAW = """
import diffusers, torch
from examples import img2img
from tests.test_denoise import WIDTH, network

scheduler = diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
pipeline = diffusers.StableDiffusionImg2ImgPipeline(
    vae=None, text_encoder=None, tokenizer=None, unet=network(0), scheduler=scheduler, safety_checker=None,
    feature_extractor=None, requires_safety_checker=False,
)
pipeline.set_progress_bar_config(disable=True)
assert pipeline.__module__.startswith("diffusers.pipelines.stable_diffusion.")
options = {"prompt_embeds": torch.ones(1, 77, WIDTH), "guidance_scale": 1}
for steps, strength, target in ((1000, 0.001, sys.argv[2]), (4, 0.5, sys.argv[3])):
    generator = torch.Generator().manual_seed(0)
    img2img.redraw(
        pipeline, sys.argv[1], target, strength=strength, num_inference_steps=steps, generator=generator, **options
    )
"""


def test_stable_diffusion_redraws_a_file(folder: Path) -> None:
    """The pipeline of diffusers itself, with a small random UNet and no autoencoder.

    With nearly no noise it gives nearly the same latent.
    """
    source, near, far = folder / "b.sdl", folder / "near.sdl", folder / "far.sdl"
    program = f"import sys\n{STAND_IN}{REDRAW}"
    root = Path(__file__).parent.parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", program, source, near, far], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after, other = map(pillow_sdl.latents, (source, near, far))
    assert before[1:] == after[1:] == other[1:]
    assert np.abs(after.latent - before.latent).mean() < 0.1 * np.abs(before.latent).mean()
    assert np.abs(other.latent - before.latent).mean() > 0.2 * np.abs(before.latent).mean()
    with Image.open(far) as image:
        assert image.size == (80, 72)


def test_a_file_of_another_space_is_not_redrawn(plain_path: Path, tmp_path: Path) -> None:
    """Its latent would mean something else to the UNet."""
    with pytest.raises(ValueError, match=f"of the space {EMBEDDED}"):
        img2img.redraw(None, plain_path, tmp_path / "x.sdl")
    assert not (tmp_path / "x.sdl").exists()
