"""format/zstd.py, format/metadata.py and format/alpha.py: zstd frames and the sections that hold them (SPEC 3.3, 9)."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pillow_sdl.errors import LimitError, MalformedError, SdlError, UnsupportedError
from pillow_sdl.format import alpha, metadata, zstd

from . import frames

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.plain

CONTENTS = pytest.mark.parametrize("content", [b"", b"content"], ids=["empty", "full"])


def decompress(data: bytes) -> bytes:
    """Return the content, at most 100 bytes, of a frame in a section `x`."""
    return zstd.decompress(data, limit=100, section="x")


# Frames


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=6))
def test_content_survives_a_frame_however_it_is_cut(parts: list[bytes]) -> None:
    """The parts given to `compress` come back as one content."""
    content = b"".join(parts)
    assert zstd.decompress(zstd.compress(*parts), limit=len(content), section="x") == content


DAMAGED = {
    "nothing": (b"", "Z-01"),
    "no frame": (b"no frame at all", "Z-01"),
    "the first bytes of a frame": (frames.frame(b"\0\0")[:5], "Z-01"),
    "a skippable frame": (frames.SKIPPABLE, "Z-01"),
    "a frame after a skippable one": (frames.SKIPPABLE + frames.frame(b"\0\0"), "Z-01"),
    "no content size": (frames.frame(b"\0\0", write_content_size=False), "Z-02"),
    "two frames": (frames.frame(b"\0\0") + frames.frame(b"\0\0"), "Z-03"),
    "a frame cut short": (frames.frame(b"\0\0")[:-1], "Z-03"),
    "a size above the content's": (frames.stored_frame(b"\0\0").replace(b"\xa0\x02", b"\xa0\x03"), "Z-03"),
    "a size below the content's": (frames.stored_frame(b"\0\0").replace(b"\xa0\x02", b"\xa0\x01"), "Z-03"),
}
"""Frames that a reader refuses, and the rule that each breaks."""


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_frame_is_malformed(case: str) -> None:
    """The error names the rule and the section."""
    data, rule = DAMAGED[case]
    with pytest.raises(MalformedError) as caught:
        decompress(data)
    assert (caught.value.section, caught.value.rule) == ("x", rule)


@pytest.mark.parametrize(
    "tail",
    [b"\0", b"garbage", frames.EMPTY, frames.SKIPPABLE],
    ids=["zero", "garbage", "frame", "skippable"],
)
@CONTENTS
def test_nothing_may_follow_a_frame(content: bytes, tail: bytes) -> None:
    """Rule Z-03 holds for frames with and without content."""
    with pytest.raises(MalformedError) as caught:
        decompress(frames.stored_frame(content) + tail)
    assert caught.value.rule == "Z-03"


@CONTENTS
def test_a_frame_cut_anywhere_is_malformed(content: bytes) -> None:
    """Every shorter piece of a frame is refused, for frames with and without content."""
    whole = frames.stored_frame(content)
    assert decompress(whole) == content
    for length in range(len(whole)):
        with pytest.raises(MalformedError):
            decompress(whole[:length])


def test_content_above_the_limit_is_refused_before_memory_is_allocated() -> None:
    """A frame that declares 256 MiB costs less than 1 MiB (L-04)."""
    tracemalloc.start()
    try:
        with pytest.raises(LimitError, match=f"{2**28} bytes; at most 100"):
            decompress(frames.BOMB)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_window_of_128_mib_is_accepted_and_a_larger_one_refused() -> None:
    """A reader must grant 2^27 bytes and may refuse more (SPEC 3.3)."""
    assert decompress(frames.stored_frame(b"content", window_log=27)) == b"content"
    with pytest.raises(LimitError, match=f"window of {2**28} bytes"):
        decompress(frames.stored_frame(b"content", window_log=28))


def test_the_checksum_of_a_frame_is_verified() -> None:
    """A writer should not add one; a reader checks it."""
    whole = frames.frame(b"content", write_checksum=True)
    assert decompress(whole) == b"content"
    with pytest.raises(MalformedError):
        decompress(whole[:-1] + bytes([whole[-1] ^ 1]))


def test_a_frame_with_a_dictionary_is_malformed() -> None:
    """Frames have no dictionary (SPEC 3.3), whether they name one or need one."""
    named = bytearray(frames.stored_frame(b"content"))
    named[4:5] = b"\xa1\x07"
    dictionary = zstandard.ZstdCompressionDict(b"0123456789" * 10, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    needed = zstandard.ZstdCompressor(dict_data=dictionary).compress(b"0123456789" * 9)
    for data in (bytes(named), needed):
        with pytest.raises(MalformedError):
            decompress(data)


# Metadata

LARGEST = 2**24
"""Most bytes of one piece of metadata (SPEC 9.1)."""


@given(st.binary(min_size=1, max_size=300))
def test_metadata_survives_packing(data: bytes) -> None:
    """It comes back from its section, which has at most one byte more."""
    block = metadata.pack(data)
    assert len(block) <= len(data) + 1
    assert metadata.unpack(block, section="x") == data


def test_metadata_is_compressed_if_that_is_shorter() -> None:
    """The first byte is 0 for stored and 1 for compressed metadata (SPEC 9.1)."""
    assert metadata.pack(b"short") == b"\0short"
    assert metadata.pack(bytes(1000))[0] == 1
    assert len(metadata.pack(bytes(1000))) < 50


@pytest.mark.parametrize(
    ("block", "error", "rule"),
    [
        (b"", MalformedError, "M-01"),
        (b"\2data", UnsupportedError, None),
        (b"\1", MalformedError, "Z-01"),
        (b"\1data", MalformedError, "Z-01"),
        (b"\1" + frames.frame(bytes(LARGEST + 1)), LimitError, None),
        (bytes(LARGEST + 2), LimitError, None),
        (b"\1" + frames.BOMB, LimitError, None),
    ],
    ids=["empty", "method 2", "no frame", "bad frame", "one byte too many", "one too many, stored", "bomb"],
)
def test_damaged_metadata_is_refused(block: bytes, error: type[SdlError], rule: str | None) -> None:
    """Empty data are malformed (M-01), other methods unsupported (M-02), and more than 16 MiB are limit (L-06)."""
    with pytest.raises(error) as caught:
        metadata.unpack(block, section="x")
    assert type(caught.value) is error
    assert getattr(caught.value, "rule", None) == rule


def test_the_largest_metadata_is_read() -> None:
    """16 MiB are within the limit, stored or compressed."""
    for block in (bytes(LARGEST + 1), b"\1" + frames.frame(bytes(LARGEST))):
        assert len(metadata.unpack(block, section="x")) == LARGEST


# Alpha

PLANES = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))


def filtered(plane: NDArray[np.uint8], kind: int) -> bytes:
    """Return the plane after a filter of SPEC 9.2, computed one value at a time."""
    rows = plane.astype(int).tolist()
    return bytes(
        (value - (0, row[x - 1] if x else 0, rows[y - 1][x] if y else 0)[kind]) % 256
        for y, row in enumerate(rows)
        for x, value in enumerate(row)
    )


@given(plane=PLANES)
def test_an_alpha_plane_survives_its_section(plane: NDArray[np.uint8]) -> None:
    """Alpha is lossless, whichever filter is chosen."""
    assert np.array_equal(alpha.decode(alpha.encode(plane), plane.shape[1], plane.shape[0]), plane)


@given(plane=PLANES, kind=st.integers(0, 2))
def test_every_alpha_filter_is_read(plane: NDArray[np.uint8], kind: int) -> None:
    """A writer may choose any of the three filters."""
    found = alpha.decode(bytes([kind]) + frames.frame(filtered(plane, kind)), plane.shape[1], plane.shape[0])
    assert found.dtype == np.uint8
    assert np.array_equal(found, plane)


@pytest.mark.parametrize(
    ("plane", "kind"),
    [
        (np.random.default_rng(0).choice([0, 255], (40, 40)), 0),
        (
            np.cumsum(np.random.default_rng(0).integers(0, 3, (40, 40)), axis=1) + np.arange(40)[:, None] * 31,
            1,
        ),
        (np.cumsum(np.random.default_rng(0).integers(0, 3, (40, 40)), axis=0) + np.arange(40) * 31, 2),
    ],
    ids=["noise", "ramps to the right", "ramps downwards"],
)
def test_the_filter_with_the_shortest_frame_is_chosen(plane: NDArray[np.int64], kind: int) -> None:
    """Noise is stored unfiltered, ramps as differences along their direction."""
    assert alpha.encode(plane.astype(np.uint8))[0] == kind


@pytest.mark.parametrize(
    ("data", "error", "rule"),
    [
        (b"", MalformedError, "A-02"),
        (b"\3" + frames.frame(bytes(6)), UnsupportedError, None),
        (b"\xff" + frames.frame(bytes(6)), UnsupportedError, None),
        (b"\0", MalformedError, "Z-01"),
        (b"\0" + frames.frame(bytes(5)), MalformedError, "A-02"),
        (b"\0" + frames.EMPTY, MalformedError, "A-02"),
        (b"\0" + frames.frame(bytes(6)) + b"\0", MalformedError, "Z-03"),
        (b"\0" + frames.frame(bytes(7)), LimitError, None),
        (b"\0" + frames.BOMB, LimitError, None),
    ],
    ids=[
        "empty",
        "filter 3",
        "filter 255",
        "no frame",
        "a value too few",
        "no values",
        "a byte after the frame",
        "a value too many",
        "bomb",
    ],
)
def test_a_damaged_alpha_plane_is_refused(data: bytes, error: type[SdlError], rule: str | None) -> None:
    """The plane has 3 x 2 values.  Rules A-02, A-03 (unsupported) and L-04 (limit)."""
    with pytest.raises(error) as caught:
        alpha.decode(data, 3, 2)
    assert type(caught.value) is error
    assert getattr(caught.value, "rule", None) == rule
