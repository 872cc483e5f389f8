"""latent/entropy.py: the choice of the payload method, and the method "zstd" (SPEC 8.3).

The tests of the method "range" are in test_context.py.
"""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pillow_sdl import registry
from pillow_sdl.errors import LimitError, MalformedError, UnsupportedError
from pillow_sdl.latent import entropy

from . import frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.plain

PAYLOADS = registry.load().payloads
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))


@st.composite
def planes(draw: st.DrawFn) -> NDArray[np.int16]:
    """Draw symbols (C, h, w) whose channels have different spreads, among them the ends of every width."""
    channels, height, width = draw(SHAPES)
    found = []
    for _ in range(channels):
        spread = draw(st.sampled_from([0, 1, 2, 7, 8, 127, 128, 32767]))
        lowest = -spread - draw(st.integers(0, 1)) if spread else 0
        found.append(draw(hnp.arrays(np.int16, (height, width), elements=st.integers(lowest, spread))))
    return np.stack(found)


def encode(symbols: NDArray[np.int16], method: int = PAYLOADS["zstd"]) -> bytes:
    """Return a payload.  The method "zstd" ignores the space and the steps."""
    return entropy.encode(symbols, method, "", np.zeros(len(symbols), np.int64))


def decode(payload: bytes, shape: tuple[int, ...], method: int = PAYLOADS["zstd"]) -> NDArray[np.int16]:
    """Return the symbols of a payload."""
    channels, height, width = shape
    return entropy.decode(payload, (channels, height, width), method, "", np.zeros(channels, np.int64))


def content_of(payload: bytes) -> bytes:
    """Return the content of the payload's zstd frame."""
    return zstandard.ZstdDecompressor().decompress(payload)


# Methods


def test_every_payload_of_the_registry_has_an_implementation() -> None:
    """The names in `METHODS` are those of the registry, in its order."""
    assert list(entropy.METHODS) == list(PAYLOADS)


def test_an_unknown_method_is_unsupported() -> None:
    """The message names the number and the methods that this reader knows (H-07)."""
    unknown = max(PAYLOADS.values()) + 1
    known = ".*".join(rf"{number} \({name}\)" for name, number in PAYLOADS.items())
    with pytest.raises(UnsupportedError, match=f"method {unknown} found.*{known}"):
        encode(np.zeros((1, 1, 1), np.int16), unknown)
    with pytest.raises(UnsupportedError, match=f"method {unknown} found.*{known}"):
        decode(b"", (1, 1, 1), unknown)


# Round trip


@example(np.array([[[-32768, 32767]]], np.int16))
@example(np.zeros((96, 1, 1), np.int16))
@example(np.full((2, 3, 3), -32768, np.int16))
@example(np.full((3, 1, 5), -1, np.int16))
@given(planes() | hnp.arrays(np.int16, SHAPES))
def test_symbols_survive_the_payload(symbols: NDArray[np.int16]) -> None:
    """Symbols of every width come back, whether their planes have an order or not."""
    found = decode(encode(symbols), symbols.shape)
    assert found.dtype == np.int16
    assert np.array_equal(found, symbols)


def test_the_layout_in_memory_does_not_change_the_payload() -> None:
    """Transposed arrays, views and the other byte order give the same bytes."""
    symbols = np.random.default_rng(0).integers(-200, 200, (4, 5, 6)).astype(np.int16)
    payload = encode(symbols)
    assert encode(np.asfortranarray(symbols)) == payload
    assert encode(symbols[:, ::-1][:, ::-1]) == payload
    assert encode(symbols.astype(symbols.dtype.newbyteorder())) == payload


# Bytes


def test_the_content_is_that_of_the_specification() -> None:
    """Five planes of 1 x 3 symbols, one of each width, are written in the order of their widths."""
    symbols = np.array([[[1, -256, 32767]], [[1, 0, -2]], [[0, 0, 0]], [[-8, 7, 1]], [[-128, 127, -1]]], np.int16)
    expected = (
        bytes([16, 2, 0, 4, 8])
        + bytes([0b00_10_00_01])
        + bytes([0x78, 0x01])
        + bytes([0x80, 0x7F, 0xFF])
        + bytes([0x01, 0x00, 0xFF, 0x00, 0xFF, 0x7F])
    )
    assert content_of(encode(symbols)) == expected
    assert np.array_equal(decode(frames.frame(expected), symbols.shape), symbols)


def test_planes_of_one_width_keep_the_order_of_their_channels() -> None:
    """Planes are grouped by their widths and not sorted within a group."""
    symbols = np.array([100, 1, -100, -2, 99, 0], np.int16).reshape(6, 1, 1)
    assert content_of(encode(symbols)) == bytes([8, 2, 8, 2, 8, 0]) + bytes([1, 2, 100, 156, 99])


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
def test_a_plane_has_the_smallest_width_that_holds_it(symbols: tuple[int, ...], bits: int) -> None:
    """The first byte is the number of bits of a two's complement number that holds every symbol."""
    assert content_of(encode(np.array([[symbols]], np.int16)))[0] == bits


def test_the_frame_has_a_content_size_and_no_checksum() -> None:
    """The content size is required (Z-02).  The container's CRC makes a checksum superfluous."""
    parameters = zstandard.get_frame_parameters(encode(np.ones((2, 2, 2), np.int16)))
    assert not parameters.has_checksum
    assert parameters.content_size == 2 + 2 * 1


# Damaged payloads

DAMAGED = {
    "nothing": (b"", "Z-01"),
    "no frame": (b"no frame at all", "Z-01"),
    "no content size": (frames.frame(b"\0\0", write_content_size=False), "Z-02"),
    "a byte after the frame": (frames.frame(b"\0\0") + b"\0", "Z-03"),
    "an empty frame": (frames.EMPTY, "P-01"),
    "one width of two": (frames.frame(b"\0"), "P-01"),
    "a width of 1": (frames.frame(b"\1\0\0"), "P-02"),
    "a width of 255": (frames.frame(b"\0\xff\0"), "P-02"),
    "a plane too few": (frames.frame(b"\2\0"), "P-03"),
    "a plane too many": (frames.frame(b"\0\0\0"), "P-03"),
    "a byte left over": (frames.frame(b"\x08\x00abc\0"), "P-03"),
    "bits left over of 2": (frames.frame(b"\2\0\x40"), "P-04"),
    "bits left over of 4": (frames.frame(b"\4\0\x11\x11"), "P-04"),
}
"""Payloads for a latent of two planes of three symbols, and the rule that each breaks."""


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_payload_is_malformed(case: str) -> None:
    """The error names the rule and the section."""
    payload, rule = DAMAGED[case]
    with pytest.raises(MalformedError) as caught:
        decode(payload, (2, 1, 3))
    assert (caught.value.section, caught.value.rule) == ("L", rule)


@given(st.binary(max_size=40))
def test_any_content_is_refused_or_gives_symbols(content: bytes) -> None:
    """Whatever a frame holds breaks a rule, or is as many symbols as the shape has."""
    try:
        symbols = decode(frames.frame(content), (2, 1, 3))
    except (MalformedError, LimitError) as error:
        assert getattr(error, "rule", None) in {None, "P-01", "P-02", "P-03", "P-04"}  # noqa: PT017  it may be valid
    else:
        assert symbols.shape == (2, 1, 3)


def test_the_largest_content_is_the_limit() -> None:
    """A latent whose planes all have 16 bits is read; one byte more is refused (L-04)."""
    symbols = np.array([[[300, -300, 5]], [[32767, -32768, 0]]], np.int16)
    assert np.array_equal(decode(encode(symbols), (2, 1, 3)), symbols)
    with pytest.raises(LimitError):
        decode(frames.frame(bytes(2 * (1 + 2 * 3) + 1)), (2, 1, 3))


def test_content_above_the_limit_is_refused_before_memory_is_allocated() -> None:
    """A frame that declares 256 MiB costs less than 1 MiB."""
    tracemalloc.start()
    try:
        with pytest.raises(LimitError):
            decode(frames.BOMB, (2, 1, 3))
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
