"""The palette quantiser: k-means, error diffusion, the palette as a set, and files of it from the plugin and the command line."""

from __future__ import annotations

import io
import itertools
import json
import re
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from pillow_sdl import cli, codec, container, errors, settings, zstdframe
from pillow_sdl.container import Container, Section
from pillow_sdl.errors import LimitError, MalformedError, SdlError, UnsupportedError
from pillow_sdl.latent import palette, spaces
from pillow_sdl.models import cards

from . import images
from .test_golden import GOLDEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

PHOTO = Path(__file__).parent.parent / "docs" / "grace_hopper.jpg"

palettes = st.integers(1, 256).flatmap(lambda size: hnp.arrays(np.uint8, (size, 4))) | hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 9), st.just(4)), elements=st.integers(126, 129)
)


def smooth(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """A latent float32 (4, h, w) that is as smooth, and has as much noise, as one of a photo."""
    random = np.random.default_rng(seed)
    coarse = random.normal(0, 1, (4, height // 4 + 2, width // 4 + 2)).astype(np.float32)
    large = np.stack([np.asarray(Image.fromarray(plane).resize((width, height), 2)) for plane in coarse])
    return large + random.normal(0, 0.3, large.shape).astype(np.float32)


def error(latent: NDArray[np.float32], entries: NDArray[np.uint8], indices: NDArray[np.uint8]) -> float:
    """Mean square error of a latent value."""
    return float(np.square(palette.dequantize(palette.symbols(entries, indices)) - latent).mean())


# Levels


def test_levels_are_those_of_2022() -> None:
    """His formulas as they stand, on latents in the autoencoder's units, but for values that lie between two levels."""
    raw = np.linspace(-29.9, 29.7, 100_003)
    expected = (255 * np.clip(raw / (255 * 0.18215) + 0.5, 0, 1) + 0.5).astype(np.uint8)
    found = palette.levels((raw * 0.18215).astype(np.float32).reshape(1, 1, -1))[0, 0]
    assert (found == expected).mean() > 0.9999
    assert np.abs(found.astype(int) - expected).max() <= 1
    wanted = (np.arange(256) / 255 - 0.5) * (255 * 0.18215) * 0.18215
    assert np.allclose(palette.dequantize(np.arange(256).astype(np.int16)), wanted, rtol=1e-6, atol=0)


@given(hnp.arrays(np.uint8, (4, 2, 3)))
def test_levels_survive_the_latent(found: NDArray[np.uint8]) -> None:
    """Each level is the nearest one to its own value."""
    assert np.array_equal(palette.levels(palette.dequantize(found)), found)


@given(hnp.arrays(np.float32, (4, 1, 3), elements=st.floats(-4.1875, 4.1875, width=32)))
def test_the_nearest_level_is_taken(latent: NDArray[np.float32]) -> None:
    """The error is half a level at most."""
    assert (np.abs(palette.dequantize(palette.levels(latent)) - latent) <= 0.5001 * palette.STEP).all()


def test_levels_are_clipped() -> None:
    """Far beyond them their ends stand for a value."""
    assert palette.levels(np.array([[[-1e9, 1e9, -4.3, 4.3]]], np.float32)).ravel().tolist() == [0, 255, 0, 255]


# K-means


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.just(4)), elements=st.integers(0, 3)), st.integers(0, 3))
def test_few_vectors_are_kept_as_they_are(vectors: NDArray[np.uint8], more: int) -> None:
    """No more of them than the palette may have: it is the set of them."""
    distinct = np.unique(vectors, axis=0)
    found = palette.fit(vectors, min(len(distinct) + more, 256))
    assert np.array_equal(np.unique(found, axis=0), distinct)
    assert len(found) == len(distinct)


@given(
    vectors=hnp.arrays(np.uint8, st.tuples(st.integers(1, 60), st.just(4))),
    size=st.integers(1, 20),
)
def test_a_palette_is_no_larger_than_asked_for_and_has_no_entry_twice(vectors: NDArray[np.uint8], size: int) -> None:
    """Whatever the vectors, and never empty."""
    found = palette.fit(vectors, size)
    assert found.dtype == np.uint8
    assert 1 <= len(found) <= size
    assert len(np.unique(found, axis=0)) == len(found)


def median_cut(vectors: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Heckbert's palette: the box of the largest error is cut at its mean, again and again."""
    boxes = [vectors.astype(float)]
    while len(boxes) < size:
        box = boxes.pop(int(np.argmax([box.var(0).sum() * len(box) for box in boxes])))
        axis = box.var(0).argmax()
        low = box[:, axis] <= box[:, axis].mean()
        boxes += [box[low], box[~low]]
    return np.rint([box.mean(0) for box in boxes]).astype(np.uint8)


@pytest.mark.parametrize("size", [2, 16, 64, 256])
@pytest.mark.parametrize("seed", range(3))
def test_k_means_is_better_than_median_cut(size: int, seed: int) -> None:
    """By at least a tenth from 16 entries on, and never worse."""
    latent = smooth(40, 48, seed)
    vectors = palette.levels(latent).reshape(4, -1).T
    entries = palette.fit(vectors, size)
    assert len(entries) == size
    found, simple = (
        error(latent, e, palette.nearest(palette.levels(latent), e)) for e in (entries, median_cut(vectors, size))
    )
    assert found < (simple if size < 16 else 0.9 * simple)


def test_more_entries_are_nearer() -> None:
    """Each doubling takes the error down."""
    latent = smooth(40, 48)
    for dither in (False, True):
        found = [error(latent, *palette.encode(latent, 2**bits, dither=dither)) for bits in range(9)]
        assert all(more < less for less, more in itertools.pairwise(found))


def test_a_large_picture_is_fitted_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a quarter of the vectors the palette is nearly as good."""
    latent = smooth(80, 96)
    whole = error(latent, *palette.encode(latent, 32, dither=False))
    monkeypatch.setattr(palette, "SAMPLE", 80 * 96 // 4)
    part = error(latent, *palette.encode(latent, 32, dither=False))
    assert whole < part < 1.05 * whole


def test_a_sample_of_one_vector_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the picture may be anything: there are then fewer entries than asked for."""
    monkeypatch.setattr(palette, "SAMPLE", 50)
    vectors = np.zeros((100, 4), np.uint8)
    vectors[1::2] = np.arange(50)[:, None]
    assert palette.fit(vectors, 9).tolist() == [[0, 0, 0, 0]]


def test_a_centre_without_points_is_put_to_use() -> None:
    """Where its own centre is far from a point."""
    points = np.array([[0] * 4, [1] * 4, [90] * 4], np.float32)
    centres = np.array([[0] * 4, [250] * 4, [255] * 4], np.float32)
    moved = palette._means(points, centres)
    assert moved[1].tolist() == [90] * 4
    assert moved[2].tolist() == [1] * 4


def test_the_same_latent_gives_the_same_palette() -> None:
    """Nothing is left to chance, and NumPy's own generator is left alone."""
    latent = smooth(20, 20)
    state = str(np.random.get_state())  # noqa: NPY002
    first, second = (palette.encode(latent, 30, dither=True) for _ in range(2))
    assert all(map(np.array_equal, first, second))
    assert str(np.random.get_state()) == state  # noqa: NPY002


# Indices


def diffused(found: NDArray[np.uint8], entries: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Floyd and Steinberg's rule as they gave it: one position after another."""
    _, height, width = found.shape
    wanted = found.transpose(1, 2, 0).astype(np.float64)
    indices = np.empty((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            distance = np.square(wanted[y, x] - entries).sum(1)
            indices[y, x] = distance.argmin()
            rest = wanted[y, x] - entries[indices[y, x]]
            for dy, dx, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if y + dy < height and 0 <= x + dx < width:
                    wanted[y + dy, x + dx] += share / 16 * rest
    return indices


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 2), (2, 7), (23, 17), (17, 40)])
def test_errors_are_passed_on_as_floyd_and_steinberg_have_it(shape: tuple[int, int]) -> None:
    """All of a slanting line at once comes to the same as one position after another."""
    random = np.random.default_rng(shape[1])
    found = palette.levels(smooth(*shape))
    entries = random.integers(90, 166, (12, 4)).astype(np.uint8)
    expected = diffused(found, entries)
    assert np.array_equal(palette.diffuse(found, entries), expected)
    if shape[0] > 9:
        assert not np.array_equal(palette.nearest(found, entries), expected)


def test_dithering_keeps_the_mean() -> None:
    """Of a flat latent that no entry is near to: that is what it is for."""
    found = np.full((4, 32, 32), 100, np.uint8)
    entries = np.array([[90] * 4, [114] * 4], np.uint8)
    means = [entries[choose(found, entries)].mean() for choose in (palette.diffuse, palette.nearest)]
    assert abs(means[0] - 100) < 0.3
    assert means[1] == 90


@given(found=hnp.arrays(np.uint8, (4, 3, 5)), entries=palettes)
def test_without_dithering_the_nearest_entry_is_taken(found: NDArray[np.uint8], entries: NDArray[np.uint8]) -> None:
    """The first of those that are equally near."""
    distance = np.square(found.transpose(1, 2, 0)[:, :, None].astype(int) - entries).sum(3)
    assert np.array_equal(palette.nearest(found, entries), distance.argmin(2))


@given(found=hnp.arrays(np.uint8, (4, 4, 4), elements=st.integers(0, 255)), dither=st.booleans())
def test_few_vectors_come_back_exactly(found: NDArray[np.uint8], dither: bool) -> None:
    """16 of them at most: with dithering too there is no error to be passed on."""
    entries, indices = palette.encode(palette.dequantize(found), 16, dither=dither)
    assert np.array_equal(palette.symbols(entries, indices), found)


@given(seed=st.integers(0, 99), size=st.integers(1, 40), dither=st.booleans())
def test_entries_are_all_used_and_in_the_order_of_the_file(seed: int, size: int, dither: bool) -> None:
    """So that no byte is spent on others, and indices need no translation."""
    entries, indices = palette.encode(smooth(6, 5, seed), size, dither=dither)
    assert np.array_equal(np.unique(indices), np.arange(len(entries)))
    assert np.array_equal(palette.unpack(palette.pack(entries)), entries)


# Noise


@pytest.mark.parametrize("dither", [False, True])
@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_the_noise_is_told_by_palette_and_indices(size: int, dither: bool) -> None:
    """Within 12 %, of latents that no constant was fitted to."""
    latent = smooth(64, 64, size)
    entries, indices = palette.encode(latent, size, dither=dither)
    found = palette.noise(entries, indices, dithered=dither)
    assert found.palette
    assert found.deviation == pytest.approx(error(latent, entries, indices) ** 0.5, rel=0.12)


@pytest.mark.parametrize("entries", [[[9, 9, 9, 9]], [[0, 0, 0, 0], [9, 9, 9, 9]]])
def test_a_palette_of_all_vectors_has_the_noise_of_levels(entries: list[list[int]]) -> None:
    """And never none at all, which a denoiser could not divide by."""
    indices = np.arange(len(entries), dtype=np.uint8).reshape(1, -1)
    found = palette.noise(np.array(entries, np.uint8), indices, dithered=True)
    assert found.deviation == pytest.approx(float(palette.STEP) / 12**0.5)


# Bytes


@example(np.zeros((256, 4), np.uint8))
@example(np.full((256, 4), 255, np.uint8))
@example(np.array([[255, 255, 255, 255], [0, 0, 0, 0]], np.uint8))
@given(palettes)
def test_a_palette_survives_its_section(entries: NDArray[np.uint8]) -> None:
    """As a set with multiplicities, in the order of its bits, in no more bytes than they are."""
    ordered = palette._ordered(entries)
    data = palette.pack(ordered)
    assert len(data) <= 1 + 4 * len(entries)
    found = palette.unpack(data)
    assert np.array_equal(found, ordered)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, entries.tolist()))


@given(st.binary(max_size=40))
def test_any_bytes_are_one_palette_or_malformed(data: bytes) -> None:
    """No two sections hold the same palette: what is read is written in the same bytes."""
    try:
        entries = palette.unpack(data)
    except MalformedError as caught:
        assert caught.section == "P"  # noqa: PT017  the bytes may also be right
        assert caught.rule in {"K-03", "K-04"}  # noqa: PT017
    else:
        assert palette.pack(entries) == data


def test_a_palette_of_a_photo_takes_two_thirds_of_its_bytes() -> None:
    """The order of 256 entries alone would take 210 bytes."""
    entries, _ = palette.encode(smooth(64, 64), 256, dither=True)
    assert len(entries) == 256
    assert len(palette.pack(entries)) < 760


def test_a_long_palette_is_refused_before_it_is_divided() -> None:
    """A megabyte for one entry would take minutes."""
    with pytest.raises(MalformedError, match="1048577 bytes"):
        palette.unpack(b"\0" + b"\xff" * 2**20)


@given(indices=hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_indices_survive_their_section(indices: NDArray[np.uint8]) -> None:
    """In their shape."""
    shape = indices.shape[0], indices.shape[1]
    assert np.array_equal(palette.unpack_indices(palette.pack_indices(indices), shape, 256), indices)


@pytest.mark.parametrize(
    ("content", "rule"), [(b"", "K-05"), (b"\0" * 5, "K-05"), (b"\0" * 5 + b"\2", "K-06"), (b"\xff" * 6, "K-06")]
)
def test_wrong_indices_are_malformed(content: bytes, rule: str) -> None:
    """Too few for 3 x 2 positions, or beyond a palette of two entries."""
    with pytest.raises(MalformedError) as caught:
        palette.unpack_indices(zstdframe.compress(content), (2, 3), 2)
    assert (caught.value.section, caught.value.rule) == ("L", rule)


def test_more_indices_than_positions_are_refused_before_they_are_unpacked() -> None:
    """L-04: a few kilobytes that would take 256 MiB take nothing."""
    bomb = zstdframe.compress(bytes(2**28), level=1)
    tracemalloc.start()
    try:
        with pytest.raises(LimitError):
            palette.unpack_indices(bomb, (2, 3), 2)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


# Files


@pytest.fixture(autouse=True)
def _network(fresh_store: None) -> Iterator[None]:
    """The network of 4 channels that lies with the golden files stands in for TAESD."""
    with settings.using(model_dirs=[GOLDEN / "models"], denoise="off"):
        yield


def photo(width: int = 320, height: int = 240) -> Image.Image:
    """A part of the portrait in docs/."""
    with Image.open(PHOTO) as image:
        return image.convert("RGB").crop((100, 50, 100 + width, 50 + height))


def saved(image: Image.Image, **options: Any) -> bytes:
    """A file of this quantiser."""
    return images.saved(image, model="taesd", quantizer="palette", **options)


@pytest.mark.parametrize("options", [{}, {"dither": False}, {"palette_size": 1}, {"palette_size": 17, "effort": 9}])
def test_a_picture_is_saved_and_opened(options: dict[str, Any]) -> None:
    """What the latent became is what the file says, and what `inspect` says adds up."""
    image = photo(150, 99)
    data = saved(image, **options)
    file = images.parsed(data)
    found = codec.inspect(file)
    assert found["quantizer"] == "palette"
    assert found["latent_shape"] == [4, 13, 19]
    assert found["palette_size"] == min(options.get("palette_size", 256), found["palette_size"])
    assert found["dithered"] == options.get("dither", True)
    assert (found["rate"], found["payload"]) == (int(found["dithered"]), "zstd")
    assert list(found["bytes"]) == ["header", "P", "L"]
    assert sum(found["bytes"].values()) == found["size"] == len(data)
    levels = codec.read_symbols(file)
    assert levels.dtype == np.int16
    assert levels.shape == (4, 13, 19)
    assert len(np.unique(levels.reshape(4, -1), axis=1).T) == found["palette_size"]
    assert np.array_equal(codec.read_latent(file), palette.dequantize(levels))
    noise = codec._noise(file)
    assert noise == palette.noise(*codec._palette(file), dithered=found["dithered"])
    opened = images.opened(data)
    opened.verify()
    opened = images.opened(data)
    opened.load()
    assert (opened.size, opened.mode) == ((150, 99), "RGB")
    small = images.opened(data)
    small.thumbnail((20, 20))
    assert max(small.size) == 20
    assert small.info["sdl_decoder"] == "preview"


def test_a_small_picture_comes_back_as_without_a_quantiser() -> None:
    """256 positions have no more than 256 vectors: what the file holds is the latent in levels."""
    from pillow_sdl.models import store

    image = photo(128, 128)
    latent = store.load(cards.by_name("taesd")).encode(np.asarray(image))
    for dither in (False, True):
        assert np.array_equal(codec.read_symbols(images.parsed(saved(image, dither=dither))), palette.levels(latent))


def test_alpha_and_metadata_stand_beside_a_palette() -> None:
    """In the order that SPEC 6.3 asks of writers."""
    data = saved(images.MODES["RGBA"](), exif=b"Exif\0\0MM", xmp=b"<x/>")
    assert [section.name for section in images.parsed(data).sections] == [b"e", b"x", b"A", b"P", b"L"]
    opened = images.opened(data)
    opened.load()
    assert opened.mode == "RGBA"


def test_a_target_gets_the_largest_palette_that_fits() -> None:
    """A palette of one entry more or less is not far away, and nothing above the target is written."""
    image = photo()
    whole = len(saved(image))
    assert len(saved(image, target_bytes=10**6)) == whole
    for target in (whole - 1, 1500, 900):
        data = saved(image, target_bytes=target)
        size = codec.inspect(images.parsed(data))["palette_size"]
        assert 0.97 * target <= len(data) <= target
        # Entries that dithering leaves unused are not written, so a few more may have been asked for.
        assert any(data == saved(image, palette_size=min(size + more, 256)) for more in range(4))
    assert codec.inspect(images.parsed(saved(image, target_bytes=1500, palette_size=9)))["palette_size"] == 9


def test_a_target_below_the_smallest_palette_is_refused() -> None:
    """The message tells the smallest size, and that size can be had."""
    image = photo()
    with pytest.raises(ValueError, match=r"cannot be saved in 40 bytes; the smallest file takes \d+$") as caught:
        saved(image, target_bytes=40)
    least = int(str(caught.value).split()[-1])
    assert saved(image, target_bytes=least) == saved(image, palette_size=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 50}, "quality does not apply"),
        ({"payload": "range"}, "payload must be auto or zstd"),
        ({"tune": "psnr"}, "tune must be look"),
        ({"palette_size": 0}, "palette_size must be a whole number from 1 to 256"),
        ({"palette_size": 257}, "palette_size must be a whole number from 1 to 256"),
        ({"palette_size": 2.0}, "palette_size must be a whole number from 1 to 256"),
        ({"dither": "no"}, "dither must be True or False"),
        ({"model": "embedded"}, "model 'embedded' .*: those of taesd, taesdxl, sd-vae-ft-mse"),
        ({"model": "taesd3"}, "model 'taesd3' .* 4 channels"),
    ],
)
def test_what_does_not_go_with_a_palette_is_refused(options: dict[str, Any], message: str) -> None:
    """Before any work, and the message says what is allowed."""
    with pytest.raises(ValueError, match=message):
        images.saved(photo(8, 8), **{"model": "taesd", "quantizer": "palette", **options})


def test_models_that_are_named_go_with_a_palette() -> None:
    """The message of the test before lists all that have 4 channels, and no others."""
    with pytest.raises(ValueError, match="those of") as caught:
        codec.EncodeOptions(quantizer="palette")
    named = re.findall(r"[\w.-]+", str(caught.value).partition("those of ")[2])
    assert named == [card.name for card in cards.CARDS if spaces.by_name(card.space).channels == 4]
    for name in named:
        codec.EncodeOptions(quantizer="palette", model=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 2}, "rate 2 found"),
        ({"payload": 1}, "payload method 1 found"),
        ({"space": 3}, "latent space sd3, which has 16 channels"),
        ({"quantizer": 2}, r"this reader knows 0 \(scalar\), 1 \(palette\)"),
    ],
)
def test_a_palette_of_another_kind_is_unsupported(changes: dict[str, int], message: str) -> None:
    """K-02 and H-07: size and mode are shown all the same, and `inspect` says what it can."""
    data = images.with_header(saved(photo(24, 24)), **changes)
    assert images.opened(data).size == (24, 24)
    assert codec.inspect(images.parsed(data))["size"] == len(data)
    for action in (codec.verify, codec.decode, lambda file: codec.preview(file, 1)):
        with pytest.raises(UnsupportedError, match=message):
            action(images.parsed(data))


def test_inspect_takes_any_palette() -> None:
    """An empty one, and a rate that means nothing here, are told as unknown."""
    data = images.with_header(images.with_section(saved(photo(24, 24)), b"P", b""), rate=9)
    found = codec.inspect(images.parsed(data))
    assert (found["palette_size"], found["dithered"], found["rate"]) == (None, None, 9)
    scalar = codec.inspect(images.parsed(images.saved(photo(24, 24))))
    assert (scalar["palette_size"], scalar["dithered"]) == (None, None)


@given(name=st.sampled_from([b"P", b"L"]), position=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_a_changed_byte_is_another_picture_or_malformed(name: bytes, position: float, change: int) -> None:
    """With checksums that fit: no other error, and what is read is of the file's shape."""
    file = container.read(io.BytesIO((GOLDEN / "v0_palette.sdl").read_bytes()))
    sections = []
    for section in file.sections:
        data = bytearray(section.data)
        if section.name == name:
            data[int(position * len(data))] ^= change
        sections.append(Section(section.name, bytes(data)))
    try:
        found = codec.read_symbols(Container(file.header, tuple(sections)))
    except SdlError as caught:
        assert type(caught) in {errors.MalformedError, errors.LimitError}  # noqa: PT017
    else:
        assert found.shape == (4, 20, 26)
        assert found.min() >= 0
        assert found.max() <= 255


# Command line


def test_the_command_line_writes_palettes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All options, and what `info` and `verify` say."""
    path = tmp_path / "photo.png"
    photo(80, 64).save(path)
    arguments = ["encode", str(path), "--quiet", "--model", "taesd", "--quantizer", "palette", "-f"]
    assert cli.main(arguments) == 0
    assert path.with_suffix(".sdl").read_bytes() == saved(photo(80, 64))
    assert cli.main([*arguments, "--palette-size", "7", "--no-dither"]) == 0
    assert path.with_suffix(".sdl").read_bytes() == saved(photo(80, 64), palette_size=7, dither=False)
    capsys.readouterr()
    assert cli.main(["info", str(path.with_suffix(".sdl"))]) == 0
    told = capsys.readouterr().out
    assert "quantizer palette, 7 entries, not dithered, payload zstd" in told
    assert re.search(r"^ +\d+  palette$", told, flags=re.MULTILINE)
    assert cli.main(["info", "--json", str(path.with_suffix(".sdl"))]) == 0
    assert json.loads(capsys.readouterr().out)["palette_size"] == 7
    assert cli.main(["verify", str(path.with_suffix(".sdl"))]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--palette-size", "9"], "--palette-size goes with --quantizer palette only"),
        (["--no-dither"], "--no-dither goes with --quantizer palette only"),
        (["--quantizer", "palette"], "model 'embedded'"),
        (["--quantizer", "palette", "--model", "taesd", "-q", "9"], "quality does not apply"),
        (["--quantizer", "palette", "--model", "taesd", "--payload", "range"], "payload must be"),
        (["--palette-size", "257"], "1 to 256"),
    ],
)
def test_wrong_options_are_a_wrong_command_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, and nothing is done."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["encode", "missing.png", *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
