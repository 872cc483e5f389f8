"""The container of a file: headers and sections are written and read without loss, and all damage is found."""

from __future__ import annotations

import io
import tracemalloc
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pillow_sdl import decode, errors, registry
from pillow_sdl.errors import ChecksumError, LimitError, MalformedError, SdlError, TruncatedError, UnsupportedError
from pillow_sdl.format import container
from pillow_sdl.format.container import Container, Header, Mode, Section

from . import images

if TYPE_CHECKING:
    from collections.abc import Callable

LEAVES = {
    errors.MalformedError,
    errors.TruncatedError,
    errors.ChecksumError,
    errors.UnsupportedError,
    errors.LimitError,
    errors.ModelNotFoundError,
    errors.ModelMismatchError,
    errors.BackendError,
}
"""The classes of errors that files raise.  Each stands for one kind of cause."""

pytestmark = pytest.mark.plain

HEADER = Header(width=300, height=200, mode=Mode.RGB, space=16, quantizer=0, rate=128, payload=0, model=bytes(16))

numbers = st.integers(0, 2**32 - 1)
sides = st.integers(1, 65535)
ignorable = st.integers(0, 255).filter(lambda code: code & 0x20).map(lambda code: bytes([code]))


@st.composite
def containers(draw: st.DrawFn) -> Container:
    """Draw a container that a writer may write, with sections that only later readers know."""
    mode = draw(st.sampled_from(Mode))
    critical = [b"A"] * mode.has_alpha + [b"P"] * draw(st.booleans())
    names = draw(st.lists(ignorable, unique=True, max_size=6)) + draw(st.permutations(critical)) + [b"L"]
    header = Header(
        width=draw(sides),
        height=draw(sides),
        mode=mode,
        space=draw(numbers),
        quantizer=draw(numbers),
        rate=draw(st.integers(0, 255)),
        payload=draw(numbers),
        model=draw(st.binary(min_size=16, max_size=16)),
        sections=len(names),
        flags=draw(st.integers(0, 15)) << 4,
    )
    return Container(header, tuple(Section(name, draw(st.binary(max_size=300))) for name in names))


def read_all(data: bytes) -> Container:
    """Read and check every byte of a file, without a network."""
    file = container.read(io.BytesIO(data), strict=True)
    decode.verify(file)
    return file


def header_bytes(
    version: int = 0,
    flags: int = 0,
    mode: int = 2,
    width: bytes = b"\x10",
    height: bytes = b"\x10",
    rest: bytes = b"\x10\x00\x00\x00",
    sections: bytes = b"\x01",
) -> bytes:
    """Return a header with the CRC that fits, from fields as they stand in the file."""
    return images.with_crcs([b"\x89SDL" + bytes([version, flags, mode]) + width + height + rest + bytes(16) + sections])


# Round trips


@given(containers())
def test_a_container_is_written_and_read_without_loss(file: Container) -> None:
    """Sections that this reader does not know are kept."""
    assert images.parsed(file.to_bytes()) == file


@given(containers())
def test_a_container_is_read_from_a_stream_that_gives_one_byte_at_a_time(file: Container) -> None:
    """A stream may return less than it is asked for."""

    class Dribble(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size, 1) if size is not None and size >= 0 else size)

    assert container.read(Dribble(file.to_bytes())) == file


@given(containers())
def test_reading_the_header_reads_no_further(file: Container) -> None:
    """`read_header` leaves the stream before the first section and returns its offset."""
    stream = io.BytesIO(file.to_bytes())
    header, length = container.read_header(stream)
    assert header == file.header
    assert stream.tell() == length == len(file.header.to_bytes())


@given(st.integers(0, 2**35 - 1))
def test_a_varint_has_seven_bits_in_each_byte_the_lowest_first(value: int) -> None:
    """As the specification describes it, in the fewest bytes."""
    data = container.write_varint(value)
    assert sum((byte & 0x7F) << 7 * index for index, byte in enumerate(data)) == value
    assert all(byte & 0x80 for byte in data[:-1])
    assert not data[-1] & 0x80
    assert len(data) == max(1, -(-value.bit_length() // 7))


def test_a_varint_is_written_as_in_the_specification() -> None:
    """The example of SPEC 3.2."""
    assert container.write_varint(768) == bytes.fromhex("8006")


def test_a_header_has_the_bytes_of_the_specification() -> None:
    """The layout of SPEC 5, written by hand."""
    expected = "8953444c 00 00 02 ac02 c801 10 00 8001 00" + "00" * 16 + "01"
    body = bytes.fromhex(expected)
    assert HEADER.to_bytes() == body + zlib.crc32(body).to_bytes(4, "little")


def test_a_section_has_the_bytes_of_the_specification() -> None:
    """The layout of SPEC 6.1, written by hand."""
    body = b"L\x03abc"
    assert Section(b"L", b"abc").to_bytes() == body + zlib.crc32(body).to_bytes(4, "little")


# Overhead


@given(width=sides, height=sides, rate=st.integers(0, 255), length=st.integers(1, 2**17))
def test_a_plain_photo_has_at_most_48_bytes_of_overhead(width: int, height: int, rate: int, length: int) -> None:
    """Header, framing and CRCs of a file that holds only a latent."""
    header = HEADER._replace(width=width, height=height, rate=rate)
    file = Container(header, (Section(b"L", bytes(length)),))
    assert len(file.to_bytes()) - length <= 48


def test_a_saved_photo_has_at_most_48_bytes_of_overhead(plain_file: bytes) -> None:
    """Header, framing and CRCs of a file that `Image.save` wrote."""
    payload = images.parsed(plain_file).get(b"L")
    assert payload is not None
    assert len(plain_file) - len(payload) <= 48


# Damage


def refusal(data: bytes) -> type[BaseException]:
    """Return the class of the error with which a file is refused."""
    with pytest.raises((SdlError, SyntaxError)) as caught:
        read_all(data)
    return caught.type


@pytest.mark.parametrize("fixture", ["tiny_file", "rich_file"])
def test_every_truncation_is_found(fixture: str, request: pytest.FixtureRequest) -> None:
    """A file that ends early is truncated.  If its signature is cut, it is no SDL file."""
    data: bytes = request.getfixturevalue(fixture)
    read_all(data)
    found = [refusal(data[:length]) for length in range(len(data))]
    assert found == [SyntaxError] * 4 + [TruncatedError] * (len(data) - 4)


@pytest.mark.parametrize("fixture", ["tiny_file", "rich_file"])
def test_every_flipped_bit_is_found(fixture: str, request: pytest.FixtureRequest) -> None:
    """Every bit of a file is checked, and most damage is reported as a wrong checksum."""
    data: bytes = request.getfixturevalue(fixture)
    read_all(data)
    found = [refusal(images.flipped(data, bit)) for bit in range(8 * len(data))]
    assert set(found[:32]) == {SyntaxError}
    assert set(found[32:40]) == {UnsupportedError}
    assert set(found[40:]) <= LEAVES
    assert found[40:].count(ChecksumError) > len(found) / 2


@pytest.mark.parametrize("fixture", ["tiny_file", "rich_file"])
def test_every_byte_that_is_lost_or_doubled_is_found(fixture: str, request: pytest.FixtureRequest) -> None:
    """Such damage shifts everything that follows."""
    data: bytes = request.getfixturevalue(fixture)
    for index in range(len(data)):
        assert refusal(data[:index] + data[index + 1 :]) in {*LEAVES, SyntaxError}
        assert refusal(data[: index + 1] + data[index:]) in {*LEAVES, SyntaxError}


def test_bytes_after_the_last_section_are_an_error_of_strict_reading_only(tiny_file: bytes) -> None:
    """F-03, with the offset at which the file should end."""
    assert container.read(io.BytesIO(tiny_file + b"\0")) == images.parsed(tiny_file)
    with pytest.raises(MalformedError, match="follow the last section") as caught:
        container.read(io.BytesIO(tiny_file + b"\0"), strict=True)
    assert (caught.value.rule, caught.value.offset) == ("F-03", len(tiny_file))


edits = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 400), st.binary(max_size=5), st.booleans()), min_size=1)


@given(edits=edits)
def test_damage_with_fitting_checksums_is_refused_or_read(
    rich_file: bytes, edits: list[tuple[int, int, bytes, bool]]
) -> None:
    """Damage below the CRCs raises a documented error, or the result is a valid file."""
    pieces = images.pieces(rich_file)
    for index, position, content, insert in edits:
        piece = pieces[index % len(pieces)]
        start = position % (len(piece) + 1)
        pieces[index % len(pieces)] = piece[:start] + content + piece[start if insert else start + len(content) :]
    data = images.with_crcs(pieces)
    try:
        file = read_all(data)
    except (SdlError, SyntaxError) as error:
        assert type(error) in {*LEAVES, SyntaxError}  # noqa: PT017  a file may also be accepted
    else:
        assert file.to_bytes() == data


@example(order=[2, 0, 1, 3, 4, 5], keep=6, twice=0)
@given(order=st.permutations(range(6)), keep=st.integers(1, 6), twice=st.integers(0, 6))
def test_sections_are_accepted_in_a_valid_order_only(rich_file: bytes, order: list[int], keep: int, twice: int) -> None:
    """Sections that are left out, moved or doubled are accepted exactly if the rules of SPEC 6.3 hold."""
    sections = images.parsed(rich_file).sections
    chosen = [sections[index] for index in (order[:keep] + order[:twice])]
    names = b"".join(section.name for section in chosen)
    valid = len(set(names)) == len(names) and names[-2:] == b"AL"
    data = Container(images.parsed(rich_file).header, tuple(chosen)).to_bytes()
    if valid:
        assert read_all(data).sections == tuple(chosen)
    else:
        with pytest.raises(MalformedError):
            container.read(io.BytesIO(data))


@given(st.binary(max_size=200))
def test_random_bytes_after_a_signature_are_refused(tail: bytes) -> None:
    """Bytes that only begin like a file raise a documented error."""
    assert refusal(b"\x89SDL" + tail) in LEAVES


# Single rules


@pytest.mark.parametrize(
    ("data", "error", "rule"),
    [
        (header_bytes(width=b"\x80\x80\x80\x80\x80\x01"), MalformedError, "V-01"),
        (header_bytes(width=b"\xff\xff\xff\xff\xff"), MalformedError, "V-01"),
        (header_bytes(width=b"\x90\x00"), MalformedError, "V-02"),
        (header_bytes(height=b"\x80\x80\x00"), MalformedError, "V-02"),
        (header_bytes(sections=b"\x81\x00"), MalformedError, "V-02"),
        (header_bytes(width=b"\x00"), MalformedError, "H-05"),
        (header_bytes(height=b"\x00"), MalformedError, "H-05"),
        (header_bytes(sections=b"\x00"), MalformedError, "H-05"),
        (header_bytes()[:-1] + bytes([header_bytes()[-1] ^ 1]), ChecksumError, "H-02"),
        (header_bytes()[:-1], TruncatedError, "F-02"),
    ],
)
def test_a_broken_header_is_malformed(data: bytes, error: type[MalformedError], rule: str) -> None:
    """The error has the id of the rule that the header breaks."""
    with pytest.raises(error) as caught:
        container.read_header(io.BytesIO(data))
    assert type(caught.value) is error
    assert caught.value.rule == rule
    assert caught.value.section == "header"


@pytest.mark.parametrize(
    "data",
    [
        header_bytes(width=b"\x80\x80\x04"),
        header_bytes(height=b"\x80\x80\x04"),
        header_bytes(width=b"\xff\xff\xff\xff\x7f"),
        header_bytes(sections=b"\x41"),
    ],
)
def test_a_header_above_the_limits_is_refused(data: bytes) -> None:
    """L-01 and L-02: sides of 65536 pixels, and 65 sections."""
    with pytest.raises(LimitError):
        container.read_header(io.BytesIO(data))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (header_bytes(version=1), "version 1 "),
        (header_bytes(version=255), "version 255"),
        (header_bytes(flags=0x08), "0x08"),
        (header_bytes(flags=0x81), "0x01"),
        (header_bytes(mode=4), "mode 4"),
    ],
)
def test_values_of_later_versions_are_unsupported(data: bytes, found: str) -> None:
    """H-01, H-03 and H-04: the message names the value."""
    with pytest.raises(UnsupportedError, match=found):
        container.read_header(io.BytesIO(data))


def test_another_version_is_reported_before_the_checksum() -> None:
    """H-01 comes first, because another version may have another CRC."""
    with pytest.raises(UnsupportedError, match="version 7"):
        container.read_header(io.BytesIO(b"\x89SDL\x07"))


def test_damage_is_not_reported_as_a_later_version() -> None:
    """H-02: flags and mode are checked after the CRC."""
    data = bytearray(header_bytes())
    data[5:7] = b"\x0f\x09"
    with pytest.raises(ChecksumError):
        container.read_header(io.BytesIO(bytes(data)))


def test_advisory_flags_are_kept_and_ignored() -> None:
    """H-06: bits 4 to 7 mean nothing to this reader."""
    header, _ = container.read_header(io.BytesIO(header_bytes(flags=0xF0)))
    assert header.flags == 0xF0


def test_the_largest_header_is_read() -> None:
    """Every field has its largest valid value."""
    largest = HEADER._replace(
        width=65535,
        height=65535,
        space=2**32 - 1,
        quantizer=2**32 - 1,
        rate=255,
        payload=2**32 - 1,
        model=b"\xff" * 16,
        sections=64,
    )
    data = largest.to_bytes()
    assert container.read_header(io.BytesIO(data)) == (largest, len(data))


@pytest.mark.parametrize(
    ("piece", "error"),
    [
        (b"L\x80\x00", MalformedError),
        (b"L\xff\xff\xff\xff\xff", MalformedError),
        (b"L\x80\x80\x80\x80\x08", LimitError),
        (b"L\xff\xff\xff\xff\x7f", LimitError),
        (b"F\x00", UnsupportedError),
        (b"\x00\x00", UnsupportedError),
        (b"\xdf\x01z", UnsupportedError),
    ],
)
def test_a_section_that_cannot_be_read_is_refused(piece: bytes, error: type[SdlError]) -> None:
    """The length is no varint or above the limit, or the name is critical and unknown."""
    with pytest.raises(error) as caught:
        container.read_section(io.BytesIO(images.with_crcs([piece])), 0)
    assert type(caught.value) is error


@pytest.mark.parametrize("name", [b"q", b"\x20", b"\xff", b"{"])
def test_an_unknown_ignorable_section_is_read(name: bytes) -> None:
    """S-01: only bit 5 of the name decides."""
    section, _ = container.read_section(io.BytesIO(Section(name, b"data").to_bytes()), 0)
    assert section == Section(name, b"data")


def test_a_damaged_name_is_reported_as_a_wrong_checksum() -> None:
    """S-03 is checked before S-02, so that a flipped bit in a name is not reported as a later version."""
    data = bytearray(Section(b"L", b"data").to_bytes())
    data[0] = ord("F")
    with pytest.raises(ChecksumError):
        container.read_section(io.BytesIO(bytes(data)), 0)


@pytest.mark.parametrize("mode", Mode)
def test_an_alpha_section_is_present_exactly_if_the_mode_has_alpha(mode: Mode) -> None:
    """A-01, for every mode, with the section and without it."""
    latent = Section(b"L", b"x")
    for sections in [(latent,), (Section(b"A", b"x"), latent)]:
        file = Container(HEADER._replace(mode=mode, sections=len(sections)), sections)
        if mode.has_alpha == (len(sections) == 2):
            assert images.parsed(file.to_bytes()) == file
        else:
            with pytest.raises(MalformedError) as caught:
                images.parsed(file.to_bytes())
            assert caught.value.rule == "A-01"


def test_a_palette_section_is_present_exactly_if_the_quantizer_has_one(plain_file: bytes) -> None:
    """K-01 is checked when the latent is read, because containers do not know what a quantizer needs."""
    file, known = images.parsed(plain_file), registry.load()
    with_palette = file._replace(sections=(Section(b"P", bytes(6)), *file.sections)).to_bytes()
    palette = {"space": registry.space("sd1").code, "quantizer": known.quantizers["palette"], "rate": 0}
    without_palette = images.with_header(plain_file, payload=known.payloads["zstd"], **palette)
    for data in (with_palette, without_palette):
        with pytest.raises(MalformedError) as caught:
            decode.quantized(images.parsed(data))
        assert (caught.value.rule, caught.value.section) == ("K-01", "P")


# Memory


def peak_of(action: Callable[[], object]) -> int:
    """Return the most bytes that Python objects and arrays took during an action."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [b"L", b"A", b"P", b"e", b"q"])
def test_a_declared_length_allocates_no_memory(name: bytes) -> None:
    """A file of 60 bytes that declares a section of 2 GB is truncated, and less than 1 MiB is allocated."""
    data = header_bytes() + name + container.write_varint(2**31 - 1) + b"little"

    def read() -> None:
        with pytest.raises(TruncatedError):
            container.read(io.BytesIO(data))

    assert peak_of(read) < 2**20


def test_a_declared_length_allocates_no_memory_for_a_file_on_disk(tmp_path: Path) -> None:
    """A file object allocates as many bytes as it is asked for before it reads.  It is asked for 1 MiB at most."""
    path = tmp_path / "liar.sdl"
    path.write_bytes(header_bytes() + b"L" + container.write_varint(2**31 - 1) + b"little")

    def read() -> None:
        with path.open("rb") as stream, pytest.raises(TruncatedError):
            container.read(stream)

    assert peak_of(read) < 2**23


def test_a_huge_picture_allocates_no_memory_before_its_payload_is_checked(tiny_file: bytes) -> None:
    """The header declares 65535 x 65535 pixels, and the payload holds one position."""
    data = images.with_header(tiny_file, width=65535, height=65535)

    def read() -> None:
        with pytest.raises(SdlError):
            read_all(data)

    assert peak_of(read) < 2**23
