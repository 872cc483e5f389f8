"""Latent <-> symbols <-> payload bytes, and the alpha plane: exact, and deaf to hostile bytes."""

from __future__ import annotations

import io
import struct
import tracemalloc
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from pillow_sdl import alpha, codec, container, errors, zstdframe
from pillow_sdl.errors import LimitError, MalformedError, ModelNotFoundError, SdlError, UnsupportedError
from pillow_sdl.latent import entropy, preview, quantize, spaces
from pillow_sdl.models import cards

if TYPE_CHECKING:
    from numpy.typing import NDArray

TABLE = spaces.by_name("sdl1").tables.log2_steps
VECTORS = Path(__file__).parent.parent / "spec" / "vectors"

tables = hnp.arrays(np.int16, st.tuples(st.integers(2, 9), st.integers(1, 4)))
shapes = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
spreads = st.sampled_from([0, 1, 2, 7, 8, 127, 128, 32767])


@st.composite
def latents_of_symbols(draw: st.DrawFn) -> NDArray[np.int16]:
    """Symbols (C, h, w) whose channels have spreads of their own, extremes included."""
    channels, height, width = draw(shapes)
    planes = []
    for _ in range(channels):
        spread = draw(spreads)
        lowest = -spread - draw(st.integers(0, 1)) if spread else 0
        planes.append(draw(hnp.arrays(np.int16, (height, width), elements=st.integers(lowest, spread))))
    return np.stack(planes)


def frame(content: bytes, *, write_content_size: bool = True, write_checksum: bool = False) -> bytes:
    """A zstd frame, made without the library."""
    compressor = zstandard.ZstdCompressor(write_content_size=write_content_size, write_checksum=write_checksum)
    return compressor.compress(content)


def encode(symbols: NDArray[np.int16], method: int = entropy.ZSTD) -> bytes:
    """A payload; method 0 looks at nothing but symbols."""
    return entropy.encode(symbols, method, "", np.zeros(len(symbols), np.int64))


def decode(payload: bytes, shape: tuple[int, int, int], method: int = entropy.ZSTD) -> NDArray[np.int16]:
    """The symbols of such a payload."""
    return entropy.decode(payload, shape, method, "", np.zeros(shape[0], np.int64))


def quantized(latent: NDArray[np.float32], step: NDArray[np.float32]) -> NDArray[np.int16]:
    """The nearest symbols."""
    return quantize.round_off(quantize.scale(latent, step))


def stored_frame(content: bytes, *, window_log: int | None = None) -> bytes:
    """A zstd frame written by hand after RFC 8878: one raw block, content size of 4 bytes."""
    magic = bytes.fromhex("28b52ffd")
    size = len(content).to_bytes(4, "little")
    head = b"\xa0" + size if window_log is None else bytes([0x80, (window_log - 10) << 3]) + size
    return magic + head + (len(content) << 3 | 1).to_bytes(3, "little") + content


EMPTY_FRAME = stored_frame(b"")
SKIPPABLE_FRAME = struct.pack("<II", 0x184D2A50, 4) + b"skip"
BOMB = frame(bytes(2**28))
"""256 MiB of zeros in 8 KiB."""


# Steps


@given(table=tables, rate=st.integers(0, 255))
def test_steps_are_interpolated_and_rounded_half_up(table: NDArray[np.int16], rate: int) -> None:
    """The integers of SPEC 8.2 are the exact straight line between two rows of the table, rounded half up."""
    knots = len(table) - 1
    low = min(floor(Fraction(rate * knots, 255)), knots - 1)
    part = Fraction(rate * knots, 255) - low
    exact = [int(a) * (1 - part) + int(b) * part for a, b in zip(table[low], table[low + 1], strict=True)]
    assert quantize.log2_steps(table, rate).tolist() == [floor(value + Fraction(1, 2)) for value in exact]


@given(table=tables)
def test_the_ends_of_the_rates_are_the_ends_of_the_table(table: NDArray[np.int16]) -> None:
    """Rate 0 is the first row, rate 255 the last."""
    assert quantize.log2_steps(table, 0).tolist() == table[0].tolist()
    assert quantize.log2_steps(table, 255).tolist() == table[-1].tolist()


@pytest.mark.parametrize("knots", [2, 4, 6, 16, 18, 52, 86, 256])
def test_a_rate_on_a_knot_has_the_steps_of_that_row(knots: int) -> None:
    """Where rates fall on rows nothing is interpolated."""
    table = np.random.default_rng(knots).integers(-32768, 32768, (knots, 3)).astype(np.int16)
    for row in range(knots):
        rate = row * 255 // (knots - 1)
        assert quantize.log2_steps(table, rate).tolist() == table[row].tolist()


@given(table=tables)
def test_steps_of_a_falling_table_fall(table: NDArray[np.int16]) -> None:
    """Interpolation keeps the order of rows, and stays between them."""
    falling = -np.sort(-table.astype(np.int32), axis=0).clip(-32767, 32767).astype(np.int16)
    found = np.stack([quantize.log2_steps(falling, rate) for rate in range(256)])
    assert (np.diff(found, axis=0) <= 0).all()
    assert (found <= falling[0]).all()
    assert (found >= falling[-1]).all()


def test_the_shipped_steps_shrink_as_the_rate_grows() -> None:
    """A larger rate means finer steps in sum, and steps that can be divided by."""
    steps = np.stack([quantize.steps(TABLE, rate) for rate in range(256)])
    assert steps.dtype == np.float32
    assert np.isfinite(steps).all()
    assert (steps > 0).all()
    assert np.log2(steps[255]).mean() < np.log2(steps[0]).mean()


def test_steps_are_powers_of_two_of_the_table() -> None:
    """A unit of the table is 1/256 octave."""
    table = np.array([[0, 256, -512, 128], [0, 256, -512, 128]], np.int16)
    assert quantize.steps(table, 77).tolist() == [1, 2, 0.25, np.float32(2**0.5)]


# Quantiser


@given(symbols=latents_of_symbols(), seed=st.integers(0, 99))
def test_symbols_survive_the_latent(symbols: NDArray[np.int16], seed: int) -> None:
    """Rounding gives back what `dequantize` was given, whatever the steps."""
    symbols = np.maximum(symbols, -quantize.MAX_SYMBOL)
    step = np.exp2(np.random.default_rng(seed).uniform(-12, 12, len(symbols))).astype(np.float32)
    latent = quantize.dequantize(symbols, step)
    assert latent.dtype == np.float32
    assert np.array_equal(quantized(latent, step), symbols)


@given(hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-1000, 1000, width=32)))
def test_the_nearest_symbol_is_taken(latent: NDArray[np.float32]) -> None:
    """The error is half a step at most."""
    step = np.array([0.5, 3], np.float32)
    found = quantize.dequantize(quantized(latent, step), step)
    assert (np.abs(found - latent) <= 0.5001 * step[:, None, None]).all()


@given(hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(-1000, 1000, width=32)))
def test_quantising_mirrors_signs(latent: NDArray[np.float32]) -> None:
    """A latent's sign means nothing to it, and the latent is left as it was."""
    step = np.array([0.5, 3], np.float32)
    before = latent.copy()
    assert np.array_equal(quantized(-latent, step), -quantized(latent, step))
    assert np.array_equal(latent, before)


def test_symbols_are_clipped() -> None:
    """A latent far beyond the symbols' range is held at its ends."""
    latent = np.array([[[1e9, -1e9, 32767.4, -32767.6]]], np.float32)
    assert quantized(latent, np.ones(1, np.float32)).ravel().tolist() == [32767, -32767, 32767, -32767]


# Payload


@example(np.array([[[-32768, 32767]]], np.int16))
@example(np.zeros((96, 1, 1), np.int16))
@example(np.full((2, 3, 3), -32768, np.int16))
@example(np.full((3, 1, 5), -1, np.int16))
@given(latents_of_symbols())
def test_symbols_survive_the_payload(symbols: NDArray[np.int16]) -> None:
    """Every symbol of every width comes back."""
    shape = (symbols.shape[0], symbols.shape[1], symbols.shape[2])
    found = decode(encode(symbols), shape)
    assert found.dtype == np.int16
    assert np.array_equal(found, symbols)


@given(hnp.arrays(np.int16, shapes))
def test_any_symbols_survive_the_payload(symbols: NDArray[np.int16]) -> None:
    """The same for symbols of no order at all."""
    shape = (symbols.shape[0], symbols.shape[1], symbols.shape[2])
    assert np.array_equal(decode(encode(symbols), shape), symbols)


def test_symbols_survive_whatever_their_layout_in_memory() -> None:
    """Views, transposed and big-endian arrays are the same symbols."""
    symbols = np.random.default_rng(0).integers(-200, 200, (4, 5, 6)).astype(np.int16)
    payload = encode(symbols)
    assert encode(np.asfortranarray(symbols)) == payload
    assert encode(symbols[:, ::-1][:, ::-1]) == payload
    assert encode(symbols.astype(">i2")) == payload


def test_a_payload_has_this_content() -> None:
    """SPEC 8.3 written out: five planes of 1 x 3 symbols, one of each width, not in the order of their widths."""
    symbols = np.array([[[1, -256, 32767]], [[1, 0, -2]], [[0, 0, 0]], [[-8, 7, 1]], [[-128, 127, -1]]], np.int16)
    expected = (
        bytes([16, 2, 0, 4, 8])
        + bytes([0b00_10_00_01])
        + bytes([0x78, 0x01])
        + bytes([0x80, 0x7F, 0xFF])
        + bytes([0x01, 0x00, 0xFF, 0x00, 0xFF, 0x7F])
    )
    payload = encode(symbols)
    assert zstandard.ZstdDecompressor().decompress(payload) == expected
    assert np.array_equal(decode(frame(expected), (5, 1, 3)), symbols)


def test_planes_of_one_width_stand_in_the_order_of_their_channels() -> None:
    """Widths group planes, and do not sort them within a group."""
    symbols = np.array([100, 1, -100, -2, 99, 0], np.int16).reshape(6, 1, 1)
    content = zstandard.ZstdDecompressor().decompress(encode(symbols))
    assert content == bytes([8, 2, 8, 2, 8, 0]) + bytes([1, 2, 100, 156, 99])


@pytest.mark.parametrize(
    ("symbols", "bits"),
    [
        ((0,), 0),
        ((1,), 2),
        ((-2, 1), 2),
        ((2,), 4),
        ((-3,), 4),
        ((-8, 7), 4),
        ((8,), 8),
        ((-128, 127), 8),
        ((128,), 16),
    ],
)
def test_a_plane_takes_the_narrowest_width(symbols: tuple[int, ...], bits: int) -> None:
    """Two's complement of as few bits as will hold the plane."""
    payload = encode(np.array([[symbols]], np.int16))
    assert zstandard.ZstdDecompressor().decompress(payload)[0] == bits


def test_a_payload_has_no_checksum_of_its_own() -> None:
    """The container's CRC covers it: four bytes less."""
    parameters = zstandard.get_frame_parameters(encode(np.ones((2, 2, 2), np.int16)))
    assert not parameters.has_checksum
    assert parameters.content_size == 2 + 2 * 1


def test_an_unknown_method_is_no_value_to_encode_with() -> None:
    """What a caller passes is a ValueError, what a file says is not."""
    with pytest.raises(ValueError, match=r"0 \(zstd\) or 1 \(range\), not 9"):
        encode(np.zeros((1, 1, 1), np.int16), 9)
    with pytest.raises(UnsupportedError, match="method 9"):
        decode(b"", (1, 1, 1), 9)


HOSTILE = {
    "nothing": (b"", "Z-01"),
    "no frame": (b"no frame at all", "Z-01"),
    "a frame's first bytes": (frame(b"\0\0")[:5], "Z-01"),
    "a skippable frame": (SKIPPABLE_FRAME, None),
    "a frame after a skippable one": (SKIPPABLE_FRAME + frame(b"\0\0"), None),
    "no content size": (frame(b"\0\0", write_content_size=False), "Z-02"),
    "a byte after the frame": (frame(b"\0\0") + b"\0", "Z-03"),
    "two frames": (frame(b"\0\0") + frame(b"\0\0"), "Z-03"),
    "a frame cut short": (frame(b"\0\0")[:-1], "Z-03"),
    "a size above the content's": (stored_frame(b"\0\0").replace(b"\xa0\x02", b"\xa0\x03"), "Z-03"),
    "a size below the content's": (stored_frame(b"\0\0").replace(b"\xa0\x02", b"\xa0\x01"), "Z-03"),
    "an empty frame": (EMPTY_FRAME, "P-01"),
    "one width of two": (frame(b"\0"), "P-01"),
    "a width of 1": (frame(b"\1\0\0"), "P-02"),
    "a width of 255": (frame(b"\0\xff\0"), "P-02"),
    "a plane too few": (frame(b"\2\0"), "P-03"),
    "a plane too many": (frame(b"\0\0\0"), "P-03"),
    "a byte left over": (frame(b"\x08\x00abc\0"), "P-03"),
    "bits left over": (frame(b"\2\0\x40"), "P-04"),
    "bits left over in 4": (frame(b"\4\0\x11\x11"), "P-04"),
}
"""Payloads for a latent of two planes of three symbols, and the rule that each breaks."""


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_payload_is_malformed(case: str) -> None:
    """The error names the rule and the section."""
    payload, rule = HOSTILE[case]
    with pytest.raises(MalformedError) as caught:
        decode(payload, (2, 1, 3))
    assert caught.value.section == "L"
    assert rule in {caught.value.rule, None}


def test_content_above_the_largest_is_refused_before_it_is_unpacked() -> None:
    """L-04: a few kilobytes that would take 256 MiB take nothing."""
    tracemalloc.start()
    try:
        with pytest.raises(LimitError):
            decode(BOMB, (2, 1, 3))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_the_largest_content_is_not_refused() -> None:
    """Two planes of 16 bits are as much as the shape allows."""
    symbols = np.array([[[300, -300, 5]], [[32767, -32768, 0]]], np.int16)
    assert np.array_equal(decode(encode(symbols), (2, 1, 3)), symbols)
    with pytest.raises(LimitError):
        decode(frame(bytes(2 * (1 + 2 * 3) + 1)), (2, 1, 3))


@given(st.binary(max_size=40))
def test_any_content_is_refused_or_read(content: bytes) -> None:
    """What a frame holds is symbols, or breaks a rule."""
    try:
        symbols = decode(frame(content), (2, 1, 3))
    except SdlError as error:
        assert type(error) in {MalformedError, LimitError}  # noqa: PT017  content may also be right
    else:
        assert symbols.shape == (2, 1, 3)


# zstd frames and packed metadata


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=6))
def test_parts_survive_a_frame(parts: list[bytes]) -> None:
    """However content is cut into parts, it comes back whole."""
    content = b"".join(parts)
    assert zstdframe.decompress(zstdframe.compress(*parts), limit=len(content), section="x") == content


@pytest.mark.parametrize(
    "tail", [b"\0", b"garbage", EMPTY_FRAME, SKIPPABLE_FRAME], ids=["zero", "garbage", "frame", "skippable"]
)
@pytest.mark.parametrize("content", [b"", b"content"], ids=["empty", "full"])
def test_nothing_may_follow_a_frame(content: bytes, tail: bytes) -> None:
    """Z-03, for frames without content too."""
    with pytest.raises(MalformedError) as caught:
        zstdframe.decompress(stored_frame(content) + tail, limit=100, section="x")
    assert caught.value.rule == "Z-03"


@pytest.mark.parametrize("content", [b"", b"content"], ids=["empty", "full"])
def test_a_frame_may_not_end_early(content: bytes) -> None:
    """Every cut is noticed, for frames without content too."""
    whole = stored_frame(content)
    assert zstdframe.decompress(whole, limit=100, section="x") == content
    for length in range(len(whole)):
        with pytest.raises(MalformedError):
            zstdframe.decompress(whole[:length], limit=100, section="x")


def test_a_window_of_128_mib_is_granted() -> None:
    """SPEC 3.3."""
    assert zstdframe.decompress(stored_frame(b"content", window_log=27), limit=100, section="x") == b"content"


def test_a_frame_with_a_checksum_is_read_and_checked() -> None:
    """A writer should not add one, and a reader minds it."""
    whole = frame(b"content", write_checksum=True)
    assert zstdframe.decompress(whole, limit=100, section="x") == b"content"
    with pytest.raises(MalformedError):
        zstdframe.decompress(whole[:-1] + bytes([whole[-1] ^ 1]), limit=100, section="x")


def test_a_frame_that_needs_a_dictionary_is_refused() -> None:
    """SPEC 3.3: frames have no dictionary."""
    dictionary = zstandard.ZstdCompressionDict(b"0123456789" * 10, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    with_id = bytearray(stored_frame(b"content"))
    with_id[4:5] = b"\xa1\x07"
    with pytest.raises(MalformedError):
        zstdframe.decompress(bytes(with_id), limit=100, section="x")
    content = zstandard.ZstdCompressor(dict_data=dictionary).compress(b"0123456789" * 9)
    with pytest.raises(MalformedError):
        zstdframe.decompress(content, limit=100, section="x")


@given(st.binary(min_size=1, max_size=300))
def test_metadata_survives_packing(data: bytes) -> None:
    """Stored or compressed, whichever is shorter, one byte more at most."""
    block = zstdframe.pack(data)
    assert len(block) <= len(data) + 1
    assert zstdframe.unpack(block, section="x") == data


def test_metadata_is_compressed_where_that_is_shorter() -> None:
    """SPEC 9.1: the first byte tells."""
    assert zstdframe.pack(b"short") == b"\0short"
    assert zstdframe.pack(bytes(1000))[0] == 1
    assert len(zstdframe.pack(bytes(1000))) < 50


@pytest.mark.parametrize(
    ("block", "error"),
    [
        (b"", MalformedError),
        (b"\2data", UnsupportedError),
        (b"\1", MalformedError),
        (b"\1data", MalformedError),
        (b"\1" + frame(bytes(2**24 + 1)), LimitError),
        (bytes(2**24 + 2), LimitError),
        (b"\1" + BOMB, LimitError),
    ],
    ids=["empty", "method 2", "no frame", "bad frame", "one too many", "one too many, stored", "bomb"],
)
def test_hostile_metadata_is_refused(block: bytes, error: type[SdlError]) -> None:
    """M-01, M-02 and L-06."""
    with pytest.raises(error) as caught:
        zstdframe.unpack(block, section="x")
    assert type(caught.value) is error


@pytest.mark.parametrize("block", [bytes(2**24 + 1), b"\1" + frame(bytes(2**24))], ids=["stored", "compressed"])
def test_the_largest_metadata_is_read(block: bytes) -> None:
    """16 MiB are within the limit."""
    assert len(zstdframe.unpack(block, section="x")) == 2**24


# Alpha

planes = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


def filtered(plane: NDArray[np.uint8], kind: int) -> bytes:
    """SPEC 9.2, written out."""
    rows = plane.astype(int).tolist()
    return bytes(
        (value - (0, row[x - 1] if x else 0, rows[y - 1][x] if y else 0)[kind]) % 256
        for y, row in enumerate(rows)
        for x, value in enumerate(row)
    )


@given(planes)
def test_an_alpha_plane_survives(plane: NDArray[np.uint8]) -> None:
    """Lossless, whatever the filter that was chosen."""
    assert np.array_equal(alpha.decode(alpha.encode(plane), plane.shape[1], plane.shape[0]), plane)


@given(planes, st.integers(0, 2))
def test_an_alpha_plane_of_every_filter_is_read(plane: NDArray[np.uint8], kind: int) -> None:
    """A writer may take any of the three."""
    data = bytes([kind]) + frame(filtered(plane, kind))
    found = alpha.decode(data, plane.shape[1], plane.shape[0])
    assert found.dtype == np.uint8
    assert np.array_equal(found, plane)


@pytest.mark.parametrize(
    ("plane", "kind"),
    [
        (np.random.default_rng(0).choice([0, 255], (40, 40)), 0),
        (np.cumsum(np.random.default_rng(0).integers(0, 3, (40, 40)), axis=1) + np.arange(40)[:, None] * 31, 1),
        (np.cumsum(np.random.default_rng(0).integers(0, 3, (40, 40)), axis=0) + np.arange(40) * 31, 2),
    ],
)
def test_the_filter_that_fits_is_taken(plane: NDArray[np.int64], kind: int) -> None:
    """Noise is stored as it is, ramps to the right or downwards as differences."""
    assert alpha.encode(plane.astype(np.uint8))[0] == kind


@pytest.mark.parametrize(
    ("data", "error", "rule"),
    [
        (b"\3" + frame(bytes(6)), UnsupportedError, None),
        (b"\xff" + frame(bytes(6)), UnsupportedError, None),
        (b"\0", MalformedError, "Z-01"),
        (b"\0" + frame(bytes(5)), MalformedError, "A-02"),
        (b"\0" + EMPTY_FRAME, MalformedError, "A-02"),
        (b"\0" + frame(bytes(6)) + b"\0", MalformedError, "Z-03"),
        (b"\0" + frame(bytes(7)), LimitError, None),
        (b"\0" + BOMB, LimitError, None),
    ],
)
def test_a_hostile_alpha_plane_is_refused(data: bytes, error: type[SdlError], rule: str | None) -> None:
    """A-02, A-03 and L-04, for a plane of 3 x 2."""
    with pytest.raises(error) as caught:
        alpha.decode(data, 3, 2)
    assert type(caught.value) is error
    assert getattr(caught.value, "rule", None) == rule


def test_an_empty_alpha_section_is_refused() -> None:
    """There is not even a filter."""
    with pytest.raises(errors.SdlError):
        alpha.decode(b"", 3, 2)


# Latent spaces and previews


@pytest.mark.parametrize(
    ("size", "shape"), [((1, 1), (96, 1, 1)), ((16, 17), (96, 2, 1)), ((65535, 48), (96, 3, 4096))]
)
def test_a_latent_is_padded_up_to_whole_positions(size: tuple[int, int], shape: tuple[int, int, int]) -> None:
    """SPEC 8.1."""
    assert spaces.by_name("sdl1").shape(*size) == shape


def test_an_unknown_latent_space_is_named() -> None:
    """H-07: the message says what was found and what would do."""
    with pytest.raises(UnsupportedError, match=r"space 5 found.*1 \(sd1\).*16 \(sdl1\)"):
        spaces.by_code(5)


@pytest.mark.parametrize("space", spaces.SPACES, ids=lambda space: space.name)
def test_a_space_has_tables_of_its_channels(space: spaces.LatentSpace) -> None:
    """A step for each channel, smaller at higher rates, and pixels between black and white where the latent is 0."""
    steps = space.tables.log2_steps
    assert steps.shape[1:] == (space.channels,)
    assert (quantize.steps(steps, 255) < quantize.steps(steps, 0)).all()
    assert space.tables.preview.shape == (space.channels + 1, 192)
    assert ((space.tables.preview[-1] > 0) & (space.tables.preview[-1] < 1)).all()


@pytest.mark.parametrize("scale", preview.SCALES)
@pytest.mark.parametrize("name", ["ok_space_sd1", "ok_space_sd1_range", "ok_space_sd3_range"])
def test_a_preview_needs_no_model(name: str, scale: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """8 pixels of the table are 8 of the picture where the factor is 8; without a model there is no more (D-01)."""
    monkeypatch.setattr(cards, "CARDS", ())
    file = container.read(io.BytesIO((VECTORS / f"{name}.sdl").read_bytes()))
    width, height = file.header.width, file.header.height
    reduction = codec.preview_reduction(file.header, scale)
    assert reduction == 8 // scale
    found = codec.preview(file, scale)
    assert found.shape == (-(-height // reduction), -(-width // reduction), 3)
    assert found.std() > 5
    with pytest.raises(ModelNotFoundError):
        codec.decode(file)


@pytest.mark.parametrize(("box", "size"), [((3, 3), (5, 3)), ((9, 9), (10, 6)), ((20, 12), (20, 12))])
def test_a_draft_needs_no_model(box: tuple[int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 39 x 23 pixels at factor 8: an eighth, a quarter, half of the size."""
    monkeypatch.setattr(cards, "CARDS", ())
    path = VECTORS / "ok_space_sd1_range.sdl"
    with Image.open(path) as image:
        assert image.size == (39, 23)
        image.draft(None, box)
        image.load()
        assert image.size == size
        assert image.info["sdl_decoder"] == "preview"
    with Image.open(path) as image:
        image.thumbnail((10, 10))
        assert image.size == (10, 6)
    with Image.open(path) as image:
        assert image.draft(None, (30, 18)) is None
    with Image.open(path) as image, pytest.raises(ModelNotFoundError):
        image.load()


@pytest.mark.parametrize("scale", preview.SCALES)
def test_a_preview_is_the_sum_of_its_table(scale: int) -> None:
    """SPEC 8.5 written out: rows weighted by the latent, the last one added, averaged over squares."""
    random = np.random.default_rng(scale)
    table = random.uniform(-0.5, 0.5, (3, 192)).astype(np.float32)
    table[-1] += 0.5
    latent = random.uniform(-1, 1, (2, 2, 3)).astype(np.float32)
    found = preview.preview(latent, spaces.Tables(np.zeros((2, 2), np.int16), table), scale)
    assert found.shape == (2 * scale, 3 * scale, 3)
    square = 8 // scale
    for y, x in np.ndindex(2, 3):
        block = (latent[0, y, x] * table[0] + latent[1, y, x] * table[1] + table[2]).reshape(3, 8, 8)
        means = block.reshape(3, scale, square, scale, square).mean((2, 4)).transpose(1, 2, 0)
        expected = np.clip(np.rint(means * 255), 0, 255)
        part = found[y * scale : (y + 1) * scale, x * scale : (x + 1) * scale].astype(int)
        assert np.abs(part - expected).max() <= 1
