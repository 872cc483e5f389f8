"""latent/palette.py: levels, k-means, error diffusion, and the palette and the indices in a file (SPEC 8.8).

What all quantizers have in common is tested in test_quantizers.py.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import tracemalloc
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

import pillow_sdl
from pillow_sdl import cli, decode, registry
from pillow_sdl.errors import LimitError, MalformedError, SdlError, UnsupportedError
from pillow_sdl.format import zstd
from pillow_sdl.latent import palette
from pillow_sdl.options import EncodeOptions

from . import frames, images

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.plain

HASH = "0123456789abcdef" * 2
"""A model that is on no machine.  Nothing here decodes pixels."""

PALETTES = st.integers(1, 256).flatmap(lambda size: hnp.arrays(np.uint8, (size, 4))) | hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 9), st.just(4)), elements=st.integers(126, 129)
)


def smooth(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    """Return a latent float32 (4, h, w) that is about as smooth and as noisy as that of a photo."""
    random = np.random.default_rng(seed)
    coarse = random.normal(0, 1, (4, height // 4 + 2, width // 4 + 2)).astype(np.float32)
    large = np.stack([np.asarray(Image.fromarray(plane).resize((width, height), 2)) for plane in coarse])
    return large + random.normal(0, 0.3, large.shape).astype(np.float32)


def squared_error(latent: NDArray[np.float32], entries: NDArray[np.uint8], indices: NDArray[np.uint8]) -> float:
    """Return the mean squared error of a latent value."""
    return float(np.square(palette.dequantize(palette.symbols(entries, indices)) - latent).mean())


# Levels


def test_levels_are_those_of_2022() -> None:
    """They agree with Buehlmann's formulas, on latents in the autoencoder's units, except at ties between levels."""
    raw = np.linspace(-29.9, 29.7, 100_003)
    expected = (255 * np.clip(raw / (255 * 0.18215) + 0.5, 0, 1) + 0.5).astype(np.uint8)
    found = palette.levels((raw * 0.18215).astype(np.float32).reshape(1, 1, -1))[0, 0]
    assert (found == expected).mean() > 0.9999
    assert np.abs(found.astype(int) - expected).max() <= 1
    wanted = (np.arange(256) / 255 - 0.5) * (255 * 0.18215) * 0.18215
    assert np.allclose(palette.dequantize(np.arange(256).astype(np.int16)), wanted, rtol=1e-6, atol=0)


def test_every_level_is_the_nearest_to_its_own_value() -> None:
    """All 256 levels survive dequantization."""
    found = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    assert np.array_equal(palette.levels(palette.dequantize(found)), found)


@given(hnp.arrays(np.float32, (4, 1, 3), elements=st.floats(-4.1875, 4.1875, width=32)))
def test_the_nearest_level_is_taken(latent: NDArray[np.float32]) -> None:
    """The error is at most half a level."""
    assert (np.abs(palette.dequantize(palette.levels(latent)) - latent) <= 0.5001 * palette.STEP).all()


def test_levels_are_clipped() -> None:
    """Values beyond the levels become the first or the last level."""
    assert palette.levels(np.array([[[-1e9, 1e9, -4.3, 4.3]]], np.float32)).ravel().tolist() == [0, 255, 0, 255]


# K-means


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.just(4)), elements=st.integers(0, 3)), st.integers(0, 3))
def test_few_vectors_are_their_own_palette(vectors: NDArray[np.uint8], more: int) -> None:
    """If the palette has room for all different vectors, it is the set of them."""
    distinct = np.unique(vectors, axis=0)
    found = palette.fit(vectors, min(len(distinct) + more, 256))
    assert np.array_equal(np.unique(found, axis=0), distinct)
    assert len(found) == len(distinct)


@given(vectors=hnp.arrays(np.uint8, st.tuples(st.integers(1, 60), st.just(4))), size=st.integers(1, 20))
def test_a_palette_has_at_most_the_wanted_size_and_no_entry_twice(vectors: NDArray[np.uint8], size: int) -> None:
    """For any vectors there is at least one entry."""
    found = palette.fit(vectors, size)
    assert found.dtype == np.uint8
    assert 1 <= len(found) <= size
    assert len(np.unique(found, axis=0)) == len(found)


def median_cut(vectors: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return Heckbert's palette: the box with the largest error is cut at its mean, again and again."""
    boxes = [vectors.astype(float)]
    while len(boxes) < size:
        box = boxes.pop(int(np.argmax([box.var(0).sum() * len(box) for box in boxes])))
        axis = box.var(0).argmax()
        low = box[:, axis] <= box[:, axis].mean()
        boxes += [box[low], box[~low]]
    return np.rint([box.mean(0) for box in boxes]).astype(np.uint8)


@pytest.mark.parametrize("size", [2, 16, 64, 256])
@pytest.mark.parametrize("seed", range(3))
def test_k_means_has_a_smaller_error_than_median_cut(size: int, seed: int) -> None:
    """The error is smaller by at least a tenth from 16 entries on."""
    latent = smooth(40, 48, seed)
    vectors = palette.levels(latent).reshape(4, -1).T
    entries = palette.fit(vectors, size)
    assert len(entries) == size
    found, simple = (
        squared_error(latent, part, palette.nearest(palette.levels(latent), part))
        for part in (entries, median_cut(vectors, size))
    )
    assert found < (simple if size < 16 else 0.9 * simple)


@pytest.mark.parametrize("dither", [False, True])
def test_more_entries_give_a_smaller_error(dither: bool) -> None:
    """Every doubling of the palette lowers the error."""
    latent = smooth(40, 48)
    found = [squared_error(latent, *palette.fit_indices(latent, 2**bits, dither=dither)) for bits in range(9)]
    assert all(more < less for less, more in itertools.pairwise(found))


def test_a_sample_of_a_large_picture_gives_nearly_the_same_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A palette fitted to a quarter of the vectors has at most 5 % more error."""
    latent = smooth(80, 96)
    whole = squared_error(latent, *palette.fit_indices(latent, 32, dither=False))
    monkeypatch.setattr(palette, "SAMPLE", 80 * 96 // 4)
    part = squared_error(latent, *palette.fit_indices(latent, 32, dither=False))
    assert whole < part < 1.05 * whole


def test_a_sample_of_equal_vectors_gives_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A palette may have fewer entries than wanted, although the rest of the picture differs."""
    monkeypatch.setattr(palette, "SAMPLE", 50)
    vectors = np.zeros((100, 4), np.uint8)
    vectors[1::2] = np.arange(50)[:, None]
    assert palette.fit(vectors, 9).tolist() == [[0, 0, 0, 0]]


def test_a_center_without_points_moves_to_a_far_point() -> None:
    """Each empty center takes one of the points that are farthest from their centers."""
    points = np.array([[0] * 4, [1] * 4, [90] * 4], np.float32)
    centers = np.array([[0] * 4, [250] * 4, [255] * 4], np.float32)
    moved = palette._means(points, centers)
    assert moved[1].tolist() == [90] * 4
    assert moved[2].tolist() == [1] * 4


def test_fitting_is_deterministic() -> None:
    """A latent always gives the same palette, and NumPy's global generator is not used."""
    latent = smooth(20, 20)
    state = str(np.random.get_state())  # noqa: NPY002
    first, second = (palette.fit_indices(latent, 30, dither=True) for _ in range(2))
    assert all(map(np.array_equal, first, second))
    assert str(np.random.get_state()) == state  # noqa: NPY002


# Indices


def diffused(found: NDArray[np.uint8], entries: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the indices of Floyd and Steinberg's rule, computed one position after another."""
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
def test_error_diffusion_is_that_of_floyd_and_steinberg(shape: tuple[int, int]) -> None:
    """Computing a slanting line of positions at once gives the same indices as one position after another."""
    random = np.random.default_rng(shape[1])
    found = palette.levels(smooth(*shape))
    entries = random.integers(90, 166, (12, 4)).astype(np.uint8)
    expected = diffused(found, entries)
    assert np.array_equal(palette.diffuse(found, entries), expected)
    if shape[0] > 9:
        assert not np.array_equal(palette.nearest(found, entries), expected)


def test_dithering_keeps_the_mean() -> None:
    """A flat latent between two entries keeps its mean with dithering and loses it without."""
    found = np.full((4, 32, 32), 100, np.uint8)
    entries = np.array([[90] * 4, [114] * 4], np.uint8)
    assert abs(entries[palette.diffuse(found, entries)].mean() - 100) < 0.3
    assert entries[palette.nearest(found, entries)].mean() == 90


@given(found=hnp.arrays(np.uint8, (4, 3, 5)), entries=PALETTES)
def test_without_dithering_the_nearest_entry_is_taken(found: NDArray[np.uint8], entries: NDArray[np.uint8]) -> None:
    """Of several equally near entries the first one is taken."""
    distance = np.square(found.transpose(1, 2, 0)[:, :, None].astype(int) - entries).sum(3)
    assert np.array_equal(palette.nearest(found, entries), distance.argmin(2))


@given(found=hnp.arrays(np.uint8, (4, 4, 4)), dither=st.booleans())
def test_few_vectors_come_back_exactly(found: NDArray[np.uint8], dither: bool) -> None:
    """16 positions with a palette of 16 entries have no error, so dithering has nothing to pass on."""
    entries, indices = palette.fit_indices(palette.dequantize(found), 16, dither=dither)
    assert np.array_equal(palette.symbols(entries, indices), found)


@given(seed=st.integers(0, 99), size=st.integers(1, 40), dither=st.booleans())
def test_every_entry_is_used_and_in_the_order_of_the_file(seed: int, size: int, dither: bool) -> None:
    """No bytes are spent on unused entries, and the indices need no translation."""
    entries, indices = palette.fit_indices(smooth(6, 5, seed), size, dither=dither)
    assert np.array_equal(np.unique(indices), np.arange(len(entries)))
    assert np.array_equal(palette.unpack(palette.pack(entries, dithered=dither))[0], entries)


# Noise


@pytest.mark.parametrize("dither", [False, True])
@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_the_noise_follows_from_palette_and_indices(size: int, dither: bool) -> None:
    """The stated deviation is within 12 % of the error, on latents that no constant was fitted to."""
    latent = smooth(64, 64, size)
    entries, indices = palette.fit_indices(latent, size, dither=dither)
    found = palette.noise(entries, indices, dithered=dither)
    assert found.palette
    assert found.deviation == pytest.approx(squared_error(latent, entries, indices) ** 0.5, rel=0.12)


@pytest.mark.parametrize("entries", [[[9, 9, 9, 9]], [[0, 0, 0, 0], [9, 9, 9, 9]]])
def test_a_palette_of_all_vectors_has_the_noise_of_its_levels(entries: list[list[int]]) -> None:
    """The deviation is never 0, because a denoiser divides by it."""
    indices = np.arange(len(entries), dtype=np.uint8).reshape(1, -1)
    found = palette.noise(np.array(entries, np.uint8), indices, dithered=True)
    assert found.deviation == pytest.approx(float(palette.STEP) / 12**0.5)


# Sections


@example(entries=np.zeros((256, 4), np.uint8), dithered=False)
@example(entries=np.full((256, 4), 255, np.uint8), dithered=True)
@example(entries=np.array([[255, 255, 255, 255], [0, 0, 0, 0]], np.uint8), dithered=True)
@given(entries=PALETTES, dithered=st.booleans())
def test_a_palette_survives_its_section(entries: NDArray[np.uint8], dithered: bool) -> None:
    """The entries come back as a multiset in the order of their bits, in at most 4 bytes each, and the flag too."""
    ordered = palette._ordered(entries)
    data = palette.pack(ordered, dithered=dithered)
    assert len(data) <= 2 + 4 * len(entries)
    found, flag = palette.unpack(data)
    assert flag == dithered
    assert np.array_equal(found, ordered)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, entries.tolist()))


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda data: b"\1" + data))
def test_two_different_sections_never_hold_the_same_palette(data: bytes) -> None:
    """Any bytes are refused, or are exactly what `pack` writes for the palette that they hold."""
    try:
        entries, dithered = palette.unpack(data)
    except MalformedError as error:
        assert error.section == "P"  # noqa: PT017  the bytes may also be valid
        assert error.rule in {"K-03", "K-04"}  # noqa: PT017
    except UnsupportedError:
        assert data[0] > 1
    else:
        assert palette.pack(entries, dithered=dithered) == data


def test_a_palette_takes_fewer_bytes_than_its_entries() -> None:
    """256 entries of a smooth latent take less than 760 bytes of the 1,024 that they hold."""
    entries, _ = palette.fit_indices(smooth(64, 64), 256, dither=True)
    assert len(entries) == 256
    assert len(palette.pack(entries, dithered=True)) < 760


def test_a_long_palette_is_refused_before_it_is_divided() -> None:
    """The length is compared with K before a number of a million bytes is divided (K-03)."""
    with pytest.raises(MalformedError, match="1048578 bytes for 1 entries") as caught:
        palette.unpack(b"\0\0" + b"\xff" * 2**20)
    assert caught.value.rule == "K-03"


@given(indices=hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_indices_survive_their_section(indices: NDArray[np.uint8]) -> None:
    """They come back in their shape."""
    shape = indices.shape[0], indices.shape[1]
    assert np.array_equal(palette.unpack_indices(palette.pack_indices(indices), shape, 256), indices)


@pytest.mark.parametrize(
    ("content", "rule"), [(b"", "K-05"), (b"\0" * 5, "K-05"), (b"\0" * 5 + b"\2", "K-06"), (b"\xff" * 6, "K-06")]
)
def test_wrong_indices_are_malformed(content: bytes, rule: str) -> None:
    """3 x 2 positions need six indices, each below the size of a palette of two entries."""
    with pytest.raises(MalformedError) as caught:
        palette.unpack_indices(zstd.compress(content), (2, 3), 2)
    assert (caught.value.section, caught.value.rule) == ("L", rule)


def test_more_indices_than_positions_are_refused_before_memory_is_allocated() -> None:
    """A frame that declares 256 MiB costs less than 1 MiB (L-04)."""
    tracemalloc.start()
    try:
        with pytest.raises(LimitError):
            palette.unpack_indices(frames.BOMB, (2, 3), 2)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


# Files


def written(latent: NDArray[np.float32], **options: Any) -> bytes:
    """Return a file of a latent in the space sd1 with this quantizer."""
    target = io.BytesIO()
    pillow_sdl.from_latents(latent, target, model=HASH, space="sd1", quantizer="palette", **options)
    return target.getvalue()


@pytest.mark.parametrize("options", [{}, {"dither": False}, {"palette_size": 1}, {"palette_size": 17, "effort": 9}])
def test_a_file_holds_the_chosen_palette(options: dict[str, Any]) -> None:
    """Symbols, latent, noise and the description agree with the palette that was fitted."""
    latent = smooth(13, 23)
    data = written(latent, **options)
    dither, size = options.get("dither", True), options.get("palette_size", 256)
    entries, indices = palette.fit_indices(latent, size, dither=dither)
    file = images.parsed(data)
    described = decode.inspect(file)
    assert described["quantizer"] == "palette"
    assert described["latent_shape"] == [4, 13, 23]
    assert (described["palette_size"], described["dithered"]) == (len(entries), dither)
    assert (described["quality"], described["quality_index"], described["payload"]) == (None, 0, "zstd")
    assert list(described["bytes"]) == ["header", "P", "L"]
    assert sum(described["bytes"].values()) == described["size"] == len(data)
    found = decode.quantized(file)
    assert found.rate is None
    assert found.noise == palette.noise(entries, indices, dithered=dither)
    assert np.array_equal(decode.quantized(file).symbols, palette.symbols(entries, indices))
    assert np.array_equal(decode.read_latent(file), palette.dequantize(palette.symbols(entries, indices)))
    images.opened(data).verify()
    with images.opened(data) as image:
        image.thumbnail((20, 20))
        assert max(image.size) == 20
        assert image.info["sdl_decoder"] == "preview"


def test_a_target_gives_the_largest_palette_that_fits() -> None:
    """The file has at most the wanted size and at least 97 % of it, unless the largest palette is smaller."""
    latent = smooth(30, 40)
    whole = len(written(latent))
    assert len(written(latent, target_bytes=10**6)) == whole
    for target in (whole - 1, 1500, 900):
        data = written(latent, target_bytes=target)
        size = decode.inspect(images.parsed(data))["palette_size"]
        assert 0.97 * target <= len(data) <= target
        # Entries that dithering leaves unused are not written, so the size that was tried may be a little larger.
        assert any(data == written(latent, palette_size=min(size + more, 256)) for more in range(4))
    assert decode.inspect(images.parsed(written(latent, target_bytes=1500, palette_size=9)))["palette_size"] == 9


def test_a_target_below_the_smallest_palette_is_refused() -> None:
    """The message states the smallest size, which is that of a palette of one entry."""
    latent = smooth(30, 40)
    with pytest.raises(ValueError, match=r"cannot be saved in 40 bytes; the smallest file takes \d+$") as caught:
        written(latent, target_bytes=40)
    least = int(str(caught.value).split()[-1])
    assert written(latent, target_bytes=least) == written(latent, palette_size=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 50}, "quality must be nothing with quantizer="),
        ({"payload": "range"}, "payload must be auto or zstd with quantizer="),
        ({"tune": "psnr"}, "tune must be look with quantizer="),
        ({"palette_size": 0}, "palette_size must be a whole number from 1 to 256"),
        ({"palette_size": 257}, "palette_size must be a whole number from 1 to 256"),
        ({"palette_size": 2.0}, "palette_size must be a whole number from 1 to 256"),
        ({"dither": "no"}, "dither must be True or False"),
    ],
)
def test_options_that_do_not_go_with_a_palette_are_refused(options: dict[str, Any], message: str) -> None:
    """The message says what is allowed."""
    with pytest.raises(ValueError, match=message):
        EncodeOptions(model="taesd", quantizer="palette", **options)


def test_the_error_for_a_model_lists_those_that_fit() -> None:
    """All models of 4 latent channels are named and no others, and each of them is accepted."""
    channels = {model.name: registry.space(model.space).channels for model in registry.load().models}
    fitting = [name for name, count in channels.items() if count == palette.CHANNELS]
    for name in channels.keys() - set(fitting):
        with pytest.raises(ValueError, match=f"model '{name}' does not go with") as caught:
            EncodeOptions(model=name, quantizer="palette")
        assert re.findall(r"[\w.-]+", str(caught.value).partition("which takes ")[2]) == fitting
    for name in fitting:
        assert EncodeOptions(model=name, quantizer="palette").model == name


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rate": 2}, MalformedError, "rate 2 found"),
        ({"payload": 1}, UnsupportedError, "payload method 1 found"),
        ({"space": registry.space("sd3").code}, UnsupportedError, "of the space sd3 have 16"),
        ({"quantizer": 2}, UnsupportedError, "quantizer 2 found"),
        ({"quantizer": 0}, MalformedError, "the scalar quantizer has no palette"),
    ],
)
def test_a_header_that_does_not_fit_is_refused_when_symbols_are_read(
    changes: dict[str, int], error: type[SdlError], message: str
) -> None:
    """Size and description can still be had; verify, preview and decode raise the error (K-01, K-07, H-07)."""
    data = images.with_header(written(smooth(3, 3)), **changes)
    assert images.opened(data).size == (24, 24)
    file = images.parsed(data)
    assert decode.inspect(file)["size"] == len(data)
    for action in (decode.verify, decode.decode, lambda file: decode.preview(file, 1)):
        with pytest.raises(error, match=message) as caught:
            action(file)
        assert type(caught.value) is error


def test_a_damaged_palette_can_be_described() -> None:
    """`inspect` reports an empty palette as unknown, and None for a file without a palette."""
    data = images.with_section(written(smooth(3, 3)), b"P", b"")
    found = decode.inspect(images.parsed(data))
    assert (found["palette_size"], found["dithered"]) == (None, None)
    target = io.BytesIO()
    pillow_sdl.from_latents(smooth(3, 3), target, model=HASH, space="sd1")
    scalar = decode.inspect(images.parsed(target.getvalue()))
    assert (scalar["palette_size"], scalar["dithered"]) == (None, None)


@cache
def sample_file() -> bytes:
    """Return a file of 26 x 20 positions, made once."""
    return written(smooth(20, 26), palette_size=200)


@given(name=st.sampled_from([b"P", b"L"]), position=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_a_changed_byte_is_refused_or_gives_another_latent(name: bytes, position: float, change: int) -> None:
    """With checksums that fit, the file is malformed, limit or unsupported, or has levels in the shape of the file."""
    content = images.parsed(sample_file()).get(name)
    assert content is not None
    changed = bytearray(content)
    changed[int(position * len(changed))] ^= change
    try:
        found = decode.quantized(images.parsed(images.with_section(sample_file(), name, bytes(changed)))).symbols
    except SdlError as error:
        assert type(error) in {MalformedError, LimitError, UnsupportedError}  # noqa: PT017  the file may also be valid
    else:
        assert found.shape == (4, 20, 26)
        assert found.min() >= 0
        assert found.max() <= 255


# Command line


def test_info_and_verify_know_palettes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`sdl info` shows the size, dithering and the section, as text and as JSON."""
    path = tmp_path / "photo.sdl"
    path.write_bytes(written(smooth(8, 10), palette_size=7, dither=False))
    assert cli.main(["info", str(path)]) == 0
    text = capsys.readouterr().out
    assert "quantizer palette, 7 entries, not dithered, payload zstd" in text
    assert re.search(r"^ +\d+  palette$", text, flags=re.MULTILINE)
    assert cli.main(["info", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["palette_size"] == 7
    assert cli.main(["verify", str(path)]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--palette-size", "9"], "--palette-size goes with --quantizer palette only"),
        (["--no-dither"], "--no-dither goes with --quantizer palette only"),
        (["--quantizer", "palette"], f"model '{registry.EMBEDDED}'"),
        (["--quantizer", "palette", "--model", "taesd", "-q", "9"], "quality must be nothing"),
        (["--quantizer", "palette", "--model", "taesd", "--payload", "range"], "payload must be"),
        (["--palette-size", "257"], "1 to 256"),
    ],
)
def test_wrong_options_on_the_command_line_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit status is 2, and no file is read."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(["encode", "missing.png", *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
