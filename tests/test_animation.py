"""Animations: section m, frames that change only where the source does, timing, and the plugin's frames (SPEC 9.5)."""

from __future__ import annotations

import io
import itertools
import json
import os
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageSequence

from pillow_sdl import cli, decode, moving, registry, settings
from pillow_sdl.errors import LimitError, MalformedError, SdlError, UnsupportedError
from pillow_sdl.format import container, frames
from pillow_sdl.format.frames import AlphaChange, Box, Change, Frame, Frames
from pillow_sdl.latent import entropy, quantizers, scalar, spaces
from pillow_sdl.latent.base import Choices
from pillow_sdl.models import store, tiling
from pillow_sdl.models.tiled import TiledAutoencoder

from . import images
from .conftest import MODEL, ROOT, SPACE
from .test_spec import READERS, reader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from .conftest import PerfectModel

pytestmark = pytest.mark.plain

PHOTO = ROOT / "docs" / "grace_hopper.jpg"
WIDTH, HEIGHT = 96, 64
SD1 = registry.space("sd1")
STEPS = scalar.log2_steps(spaces.tables(SD1).log2_steps, 128)


def ground(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Return a photo of that size."""
    with Image.open(PHOTO) as image:
        return image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS, box=(100, 50, 420, 290))


def with_disc(picture: Image.Image, x: int, y: int, color: str = "red") -> Image.Image:
    """Return a picture with a disc of 20 pixels."""
    found = picture.copy()
    ImageDraw.Draw(found).ellipse((x, y, x + 20, y + 20), fill=color)
    return found


def movie(count: int = 4) -> list[Image.Image]:
    """Return frames in which a disc moves over a photo.  The last one equals the one before it."""
    found = [with_disc(ground(), 4 + 8 * index, 4 + 2 * index) for index in range(count - 1)]
    return [*found, found[-1].copy()]


def animated(pictures: Sequence[Image.Image], **options: Any) -> bytes:
    """Return the file of an animation, without a fidelity map unless the options say otherwise."""
    options = {"duration": 100, "fidelity": False} | options
    return images.saved(pictures[0], save_all=True, append_images=pictures[1:], **options)


def shown(data: bytes) -> list[NDArray[np.int64]]:
    """Return the samples of all frames of a file."""
    return [images.values(frame) for frame in ImageSequence.Iterator(opened(data))]


def opened(data: bytes) -> Any:
    """Open a file.  Pillow's types do not know its frames."""
    return images.opened(data)


def timing(image: Any) -> list[float]:
    """Return the durations of all frames of an image, as its plugin says them."""
    found = []
    for index in range(image.n_frames):
        image.seek(index)
        image.load()  # The plugin for WebP knows it then.
        found.append(image.info["duration"])
    return found


def changes(data: bytes) -> list[Frame]:
    """Return the further frames of a file."""
    found = decode.read_frames(images.parsed(data))
    assert found is not None
    return list(found.further)


@pytest.fixture(scope="module")
def file() -> bytes:
    """The file of `movie`."""
    return animated(movie())


# The section


BOXES = st.builds(Box, *[st.integers(0, 2**35 - 1)] * 4)
ALPHA_BOXES = st.builds(lambda x, y, w, h: Box(x % 30, y % 20, 1 + w % 10, 1 + h % 10), *[st.integers(0, 99)] * 4)
FRAMES = st.builds(
    Frames,
    plays=st.integers(0, frames.MAX_PLAYS),
    duration=st.integers(0, frames.MAX_DURATION),
    further=st.lists(
        st.builds(
            Frame,
            duration=st.integers(0, frames.MAX_DURATION),
            changes=st.lists(st.builds(Change, BOXES, st.booleans(), st.binary(max_size=200)), max_size=3).map(tuple),
            alpha=st.none() | st.builds(AlphaChange, ALPHA_BOXES, st.binary(max_size=9)),
        ),
        min_size=1,
        max_size=5,
    ).map(tuple),
)


@given(FRAMES)
def test_a_section_comes_back(made: Frames) -> None:
    """Whatever its frames hold."""
    assert frames.unpack(frames.pack(made), 40, 30, has_alpha=True) == made


@given(data=FRAMES.map(frames.pack), at=st.integers(0, 10**6), cut=st.integers(0, 3), more=st.binary(max_size=3))
def test_a_damaged_section_is_read_or_refused(data: bytes, at: int, cut: int, more: bytes) -> None:
    """Nothing but our errors is raised, and a section that is read is written as it was."""
    at %= len(data) + 1
    damaged = data[:at] + more + data[at + cut :]
    try:
        found = frames.unpack(damaged, 40, 30, has_alpha=True)
    except SdlError:
        return
    assert frames.pack(found) == damaged


@pytest.mark.parametrize("length", range(1, 12))
def test_a_section_that_ends_early_is_refused(length: int) -> None:
    """Each piece of a section breaks rule T-01."""
    data = frames.pack(Frames(1, 2, (Frame(3, (Change(Box(0, 0, 1, 1), differences=False, payload=b"ab"),)),)))
    assert len(data) == 12
    with pytest.raises(MalformedError) as caught:
        frames.unpack(data[:length], 40, 30, has_alpha=False)
    assert (caught.value.section, caught.value.rule) == ("m", "T-01")


@pytest.mark.parametrize("digits", ["80 80 80 80 80 00", "80 00"])
def test_a_wrong_varint_is_refused(digits: str) -> None:
    """As everywhere in a file."""
    with pytest.raises(MalformedError, match="section m") as caught:
        frames.unpack(bytes.fromhex(digits), 40, 30, has_alpha=False)
    assert caught.value.rule in {"V-01", "V-02"}


def test_many_frames_cost_two_bytes_each_and_no_more_are_read() -> None:
    """The limit comes before any memory."""
    most = Frames(0, 0, (Frame(0),) * frames.MAX_FURTHER)
    data = frames.pack(most)
    assert len(data) < 2 * frames.MAX_FURTHER + 10
    assert len(frames.unpack(data, 1, 1, has_alpha=False).durations) == 65536
    with pytest.raises(LimitError, match="65536, above the limit"):
        frames.unpack(frames.pack(most._replace(further=(Frame(0),) * 65536)), 1, 1, has_alpha=False)


# Symbols


@st.composite
def masks(draw: st.DrawFn) -> NDArray[np.bool_]:
    """Return a mask of latent positions."""
    rows, columns = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    seed, share = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.02, 0.1, 0.5, 1]))
    found: NDArray[np.bool_] = np.random.default_rng(seed).random((rows, columns)) < share
    return found


@given(masks())
def test_rectangles_hold_all_changes_once(mask: NDArray[np.bool_]) -> None:
    """They do not overlap, and none has an edge without a change."""
    count = np.zeros(mask.shape, int)
    for box in moving.cut(mask):
        count[box.slices] += 1
        part = mask[box.slices]
        assert all(edge.any() for edge in (part[0], part[-1], part[:, 0], part[:, -1]))
    assert count.max() <= 1
    assert (count[mask] == 1).all()


def test_things_far_apart_have_rectangles_of_their_own() -> None:
    """What lies between them is not coded."""
    mask = np.zeros((20, 20), bool)
    mask[1:3, 2:5] = mask[15, 17] = True
    assert moving.cut(mask) == [Box(2, 1, 3, 2), Box(17, 15, 1, 1)]
    mask[3:15, 3:5] = True
    assert moving.cut(mask) == [Box(2, 1, 3, 14), Box(17, 15, 1, 1)]


def sd1_file(symbols: NDArray[np.int16], further: list[NDArray[np.int16]], payload: str) -> bytes:
    """Return an animation in the space sd1, which needs no network for its symbols."""
    method = registry.load().payloads[payload]
    step = scalar.steps(spaces.tables(SD1).log2_steps, 128)[:, None, None]
    made, before = [], symbols
    for after in further:
        fresh = (after != before).any(0)
        made.append(
            moving.Step(
                tuple(
                    moving.Piece(box, (after * step)[:, *box.slices].astype(np.float32), fresh[box.slices])
                    for box in moving.cut(fresh)
                ),
                None,
            )
        )
        before = after
    source = moving.Source(7, [10] * (1 + len(further)), list)
    section = moving.code(source, made, symbols, SD1, 128, Choices(payloads=(method,)))
    header = container.Header(
        width=8 * symbols.shape[2] - 3,
        height=8 * symbols.shape[1],
        mode=container.Mode.RGB,
        space=SD1.code,
        quantizer=registry.load().quantizers["scalar"],
        rate=128,
        payload=method,
        model=bytes(16),
    )
    latent = entropy.encode(symbols, method, SD1.name, STEPS)
    sections = container.Section(b"m", section), container.Section(b"L", latent)
    return container.Container(header, sections).to_bytes()


def symbol_frames(seed: int, rows: int, columns: int, count: int) -> list[NDArray[np.int16]]:
    """Return symbols of which each frame changes some in a rectangle."""
    generator = np.random.default_rng(seed)
    found = [generator.integers(-20, 21, (4, rows, columns)).astype(np.int16)]
    for _ in range(count):
        after = found[-1].copy()
        top, left = generator.integers(0, rows), generator.integers(0, columns)
        part = after[:, top : top + 3, left : left + 4]
        part += generator.integers(-2, 3, part.shape).astype(np.int16) * generator.integers(0, 9)
        found.append(after)
    return found


@hypothesis_settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    payload=st.sampled_from(["zstd", "range"]),
)
def test_both_readers_find_the_symbols_of_all_frames(seed: int, size: tuple[int, int], payload: str) -> None:
    """What the encoder chose comes back exactly."""
    made = symbol_frames(seed, *size, 3)
    data = sd1_file(made[0], made[1:], payload)
    file = images.parsed(data)
    symbols = decode.quantized(file).symbols
    second = reader.read_container(data)
    planes = reader.read_symbols(second)
    found = [planes, *reader.read_frames(second, planes)]
    for index, expected in enumerate(made):
        if index:
            symbols = moving.with_changes(changes(data)[index - 1], symbols, file.header)
        assert np.array_equal(symbols, expected)
        assert found[index] == expected.reshape(4, -1).tolist()
    facts = [implementation.facts(data) for implementation in READERS.values()]
    assert facts[0] == facts[1]
    assert (facts[0]["frames"]["plays"], facts[0]["frames"]["durations"]) == (7, [10] * 4)


@hypothesis_settings(max_examples=60)
@given(at=st.floats(0, 1, exclude_max=True), cut=st.integers(0, 2), more=st.binary(max_size=2))
def test_both_readers_agree_on_a_damaged_section(at: float, cut: int, more: bytes) -> None:
    """They find the same symbols, or refuse with the same class and rule."""
    made = symbol_frames(1, 4, 5, 3)
    sound = sd1_file(made[0], made[1:], "zstd")
    data = images.parsed(sound).get(b"m")
    assert data is not None
    start = int(at * len(data))
    damaged = images.with_section(sound, b"m", data[:start] + more + data[start + cut :])
    first, second = (READERS[name].outcome(damaged, True) for name in READERS)
    assert first.kind == second.kind
    assert first.rule in {None, second.rule}
    if first.kind == "success":
        assert READERS["library"].symbols(damaged) == READERS["second reader"].symbols(damaged)


def test_differences_are_taken_where_they_are_shorter() -> None:
    """A small change of large symbols is one, a new part is none."""
    generator = np.random.default_rng(2)
    first = generator.integers(-400, 400, (4, 8, 8)).astype(np.int16)
    near = first + generator.integers(0, 2, first.shape).astype(np.int16)
    other = np.zeros_like(first)
    other[0] = 1
    found = [frame.changes[0].differences for frame in changes(sd1_file(first, [near, other], "range"))]
    assert found == [True, False]


def test_a_quantizer_without_frames_is_unsupported() -> None:
    """A palette has none."""
    made = symbol_frames(3, 2, 2, 1)
    file = images.parsed(sd1_file(made[0], made[1:], "zstd"))
    other = file.header._replace(quantizer=registry.load().quantizers["palette"])
    with pytest.raises(UnsupportedError, match="quantizer 1"):
        moving.with_changes(Frame(0), made[0], other)


# Frames as the plugin shows them


def test_frames_are_known_before_they_are_decoded(file: bytes) -> None:
    """Their number, the duration of the first one and the number of plays."""
    image = opened(file)
    assert (image.n_frames, image.is_animated, image.tell()) == (4, True, 0)
    assert (image.info["duration"], image.info["loop"]) == (100, 0)
    assert image.size == (WIDTH, HEIGHT)
    image.seek(3)
    assert image.tell() == 3


def test_a_still_picture_has_one_frame() -> None:
    """As in Pillow's own plugins."""
    image = opened(images.saved(images.gradient()))
    assert (image.n_frames, image.is_animated, image.tell()) == (1, False, 0)
    assert {"duration", "loop"}.isdisjoint(image.info)
    image.seek(0)
    with pytest.raises(EOFError):
        image.seek(1)


@pytest.mark.parametrize("frame", [4, 100, -1])
def test_a_frame_beyond_the_end_does_not_exist(file: bytes, frame: int) -> None:
    """The current frame stays."""
    image = opened(file)
    image.seek(2)
    with pytest.raises(EOFError):
        image.seek(frame)
    assert image.tell() == 2
    image.load()


def test_all_frames_resemble_their_sources(file: bytes) -> None:
    """Each frame shows the disc where it is, and the last one equals the one before it."""
    found = shown(file)
    for samples, source in zip(found, movie(), strict=True):
        assert images.resembles(Image.fromarray(samples.astype(np.uint8)), source)
    assert np.array_equal(found[2], found[3])
    assert not np.array_equal(found[1], found[2])


@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_seeks_does_not_matter(seed: int) -> None:
    """Forward, back and over frames that are new as a whole."""
    pictures = [*movie(3), images.noise(WIDTH, HEIGHT), with_disc(ground(), 60, 40), *movie(2)]
    data = animated(pictures)
    expected = shown(data)
    image = opened(data)
    order = list(range(image.n_frames)) * 2
    random.Random(seed).shuffle(order)  # noqa: S311  the order is for a test
    for frame in order:
        image.seek(frame)
        assert np.array_equal(images.values(image), expected[frame])


def test_a_frame_that_is_new_as_a_whole_needs_no_pixels_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeking to it costs one decode."""
    data = animated([*movie(3), images.noise(WIDTH, HEIGHT), *movie(2)])
    decodes = []
    original = decode.of_network

    def counted(*given: Any) -> decode.Decoded:
        decodes.append(given)
        return original(*given)

    monkeypatch.setattr(decode, "of_network", counted)
    image = opened(data)
    image.seek(3)
    image.load()
    assert len(decodes) == 1


def test_a_frame_keeps_its_pixels_when_another_is_shown(file: bytes) -> None:
    """A copy is not changed by a seek."""
    image = opened(file)
    first = image.copy()
    image.seek(1)
    assert not np.array_equal(images.values(image), images.values(first))
    image.seek(0)
    assert np.array_equal(images.values(image), images.values(first))


def test_frame_0_is_what_a_reader_without_animations_shows(file: bytes) -> None:
    """Without the section the file is the still file of its first frame."""
    parsed = images.parsed(file)
    still = parsed._replace(sections=tuple(section for section in parsed.sections if section.name != b"m")).to_bytes()
    assert still == images.saved(movie()[0], fidelity=False, guard="off")
    assert np.array_equal(shown(still)[0], shown(file)[0])


@pytest.mark.parametrize("name", [b"m", b"q"])
def test_the_name_of_the_section_is_ignorable(name: bytes) -> None:
    """A reader that does not know it skips it."""
    assert not container.is_critical(name)


def test_closing_ends_the_frames(file: bytes, tmp_path: Path) -> None:
    """A closed file has no other frames, as for GIF."""
    path = tmp_path / "a.sdl"
    path.write_bytes(file)
    with Image.open(path) as image:
        image.load()
        image.seek(2)
        image.load()
    with pytest.raises(ValueError, match="closed"):
        image.seek(1)


def test_a_file_is_read_from_a_path_and_closed(file: bytes, tmp_path: Path) -> None:
    """No file stays open after `close`, which warnings would tell."""
    path = tmp_path / "a.sdl"
    path.write_bytes(file)
    image = Image.open(path)
    for frame in ImageSequence.Iterator(image):
        frame.load()
    image.close()
    path.unlink()


def test_previews_and_thumbnails(file: bytes) -> None:
    """A preview shows frame 0.  After a seek a thumbnail is made of the frame itself."""
    image = opened(file)
    image.thumbnail((20, 20))
    assert image.info["sdl_decoder"] == "preview"
    image.seek(2)
    assert image.size == (WIDTH, HEIGHT)
    assert image.draft(None, (10, 10)) is None
    image.thumbnail((40, 40))
    assert image.info["sdl_decoder"] == MODEL.name
    assert max(image.size) == 40


def test_the_fidelity_map_is_that_of_frame_0() -> None:
    """`info` does not claim it for other frames."""
    image = opened(animated(movie(), fidelity=True))
    first = dict(image.info["fidelity"])
    image.seek(1)
    image.load()
    assert "fidelity" not in image.info
    image.seek(0)
    assert image.info["fidelity"].items() >= first.items()
    image.load()
    assert image.info["fidelity"]["holds"] is True


def test_max_pixels_holds_for_all_frames(file: bytes) -> None:
    """It limits the pixels of a frame."""
    image = opened(file)
    image.seek(1)
    with settings.using(max_pixels=WIDTH * HEIGHT - 1), pytest.raises(LimitError):
        image.load()
    image.load()


def test_a_file_may_be_saved_over_itself(file: bytes, tmp_path: Path) -> None:
    """Its frames are in memory when it is written."""
    path = tmp_path / "a.sdl"
    path.write_bytes(file)
    with Image.open(path) as image:
        image.save(path, save_all=True, quality=20, fidelity=False)
    assert path.read_bytes() == images.saved(opened(file), save_all=True, quality=20, fidelity=False)


def test_progress_is_told_for_each_frame(file: bytes) -> None:
    """From 0 to 1000, in order."""
    image = opened(file)
    for frame in (3, 0):
        image.seek(frame)
        told: list[int] = []
        with settings.using(progress=lambda done, _, told=told: told.append(done)):
            image.load()
        assert told == sorted(told)
        assert (told[0], told[-1]) == (0, 1000)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_one_progress_for_an_animation_that_is_saved_again(mode: str) -> None:
    """Its frames are decoded meanwhile, and each is a part of the work."""
    image = opened(animated([picture.convert(mode) for picture in movie(6)]))
    image.load()  # Pillow does so before it calls the plugin.
    told: list[int] = []
    with settings.using(progress=lambda done, _: told.append(done)):
        images.saved(image, save_all=True)
    assert told == sorted(set(told))
    assert (told[0], told[-1]) == (0, 1000)
    assert len([done for done in told if 100 < done < 700]) >= 5


# What stays still


def differences(data: bytes) -> Iterator[tuple[Frame, NDArray[np.int64]]]:
    """Yield for each further frame its changes and the largest difference of each pixel to the frame before."""
    found = shown(data)
    for frame, (before, after) in zip(changes(data), itertools.pairwise(found), strict=True):
        yield frame, np.abs(after - before).max(2)


def test_still_parts_are_exactly_still() -> None:
    """Outside of the rectangles, grown by 32 pixels, no pixel changes.  Farther than 16 pixels little does."""
    pictures = [with_disc(ground(320, 240), 12 + 6 * index, 10) for index in range(3)]
    data = animated(pictures, quality=30)
    header = images.parsed(data).header
    for frame, difference in differences(data):
        assert frame.changes
        outside = np.ones(difference.shape, bool)
        for box in moving.shown(frame, header):
            rows, columns = (slice(SPACE.factor * part.start, SPACE.factor * part.stop) for part in box.slices)
            outside[rows, columns] = False
        assert outside.mean() > 0.4
        assert difference[outside].max() == 0
        far = np.ones(difference.shape, bool)
        far[: 31 + 16, : 46 + 16] = False
        assert difference[far].mean() < 0.5


def test_the_edge_of_what_is_decoded_anew_cannot_be_seen() -> None:
    """There, the decode of the whole picture differs by a few levels at most from what is shown."""
    pictures = [with_disc(ground(320, 240), 12 + 6 * index, 10) for index in range(3)]
    data = animated(pictures, quality=30)
    file = images.parsed(data)
    symbols, found = decode.quantized(file).symbols, shown(data)
    network = store.load(MODEL)
    step = scalar.steps(spaces.tables(SPACE).log2_steps, file.header.rate)
    for frame, samples in zip(changes(data), found[1:], strict=True):
        symbols = moving.with_changes(frame, symbols, file.header)
        whole = network.decode(scalar.dequantize(symbols, step), file.header.rate)[:240, :320]
        difference = np.abs(whole - samples)
        assert difference.max() <= 4
        assert (difference > 1).mean() < 0.001


def test_a_repeat_costs_three_bytes_at_most() -> None:
    """Two for the duration, one that says that nothing changes."""
    first = ground()
    sizes = [len(animated([first] * count)) for count in (2, 3, 50)]
    assert sizes[1] - sizes[0] == 2
    assert sizes[2] - sizes[1] == 47 * 2
    assert len(animated([first] * 3, duration=16000)) - len(animated([first] * 2, duration=16000)) == 3


def test_a_change_costs_less_than_a_picture() -> None:
    """The bytes are those of what changes."""
    pictures = [with_disc(ground(320, 240), 12 + 6 * index, 10) for index in range(2)]
    sizes = decode.inspect(images.parsed(animated(pictures)))["bytes"]
    assert sizes["m"] < 0.15 * sizes["L"]


def test_guarded_pixels_stay_where_nothing_changes() -> None:
    """They are those of frame 0, and are shown in later frames until these change there."""
    pictures = [with_disc(ground(320, 240), 12 + 6 * index, 10) for index in range(2)]
    image = opened(animated(pictures, guard=[(240, 180, 300, 220)], guard_share=0.9, quality=10))
    first = images.values(image)
    image.seek(1)
    box = slice(180, 220), slice(240, 300)
    assert np.array_equal(images.values(image)[box], first[box])
    assert np.abs(first[box] - images.values(pictures[0])[box]).mean() < 8


def test_tiny_frames_are_not_guarded_by_default() -> None:
    """Frame 0 must not look better than the others."""
    data = animated([images.gradient(20, 20), images.noise(20, 20)])
    assert images.parsed(data).get(container.Name.GUARD) is None


def test_tiles_show_the_same_frames(file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a picture is computed in one piece or in tiles changes a sample by one level at most."""
    expected, encoded = shown(file), animated(movie())
    monkeypatch.setattr(tiling, "WHOLE", 16)
    monkeypatch.setattr(tiling, "CORE", 4)
    for samples, same in zip(shown(file), expected, strict=True):
        assert np.abs(samples - same).max() <= 1
    tiled = animated(movie())
    assert abs(len(tiled) - len(encoded)) <= 8
    for samples, same in zip(shown(tiled), expected, strict=True):
        assert np.abs(samples - same).mean() < 1


@pytest.mark.parametrize("exact", [True, False])
def test_a_part_is_that_of_the_whole(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the latent and of the pixels, at the edges and inside."""
    network: Any = store.load(MODEL)
    assert isinstance(network, TiledAutoencoder)
    monkeypatch.setattr(network, "exact", exact)
    pixels = np.asarray(ground(300, 130))
    latent = network.encode(pixels)
    decoded = network.decode(latent, 100)
    for rows, columns in ((slice(0, 2), slice(17, 19)), (slice(3, 9), slice(5, 6)), (slice(0, 9), slice(0, 19))):
        part = network.encode_part(pixels, rows, columns)
        np.testing.assert_allclose(part, latent[:, rows, columns], atol=1e-4)
        found = network.decode_part(latent, 100, rows, columns).astype(int)
        assert np.abs(found - decoded[network.pixels_of(rows), network.pixels_of(columns)]).max() <= 1


def test_far_changes_are_computed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame with a change at either end costs less than half a picture to encode and to decode."""
    network: Any = store.load(MODEL)
    computed: dict[str, list[int]] = {}

    def count(name: str, axis: int) -> None:
        """Note the widths of the tiles that a method of the network gets."""
        tile = getattr(network, name)

        def counted(values: NDArray[Any], *given: Any) -> Any:
            computed.setdefault(name, []).append(values.shape[axis])
            return tile(values, *given)

        monkeypatch.setattr(network, name, counted)

    count("encode_tile", 1)
    count("decode_tile", 2)
    first = ground(1280, 32)
    data = animated([first, with_disc(with_disc(first, 4, 4), 1240, 4)])
    assert len(changes(data)[0].changes) == 2
    image = opened(data)
    found = images.values(image)
    image.seek(1)
    assert np.array_equal(images.values(image)[:, 200:1000], found[:, 200:1000])
    assert images.psnr(image, with_disc(with_disc(first, 4, 4), 1240, 4)) > 20
    for name, whole in (("encode_tile", 1280), ("decode_tile", 80)):
        assert computed[name][0] == whole
        assert len(computed[name]) == 3
        assert sum(computed[name][1:]) < whole / 2


def test_pieces_do_not_keep_the_latent_in_memory() -> None:
    """They are kept until all frames are encoded."""
    first = moving.Picture(np.asarray(ground()), None)
    second = moving.Picture(np.asarray(with_disc(ground(), 20, 20)), None)
    (step,) = moving.steps(store.load(MODEL), SPACE, first, [second], 1)
    for piece in step.pieces:
        assert piece.latent.base is None
        assert piece.fresh.base is None


# Modes and alpha


def sprites(mode: str) -> list[Image.Image]:
    """Return frames in which a gray disc moves over nothing."""
    found = []
    for index in range(3):
        frame = Image.new("LA", (70, 50))
        ImageDraw.Draw(frame).ellipse((5 + 8 * index, 5, 35 + 8 * index, 35), fill=(200, 255))
        found.append(frame.convert(mode))
    return found


@pytest.mark.parametrize("mode", ["LA", "RGBA", "L", "RGB", "P", "1"])
def test_every_mode(mode: str) -> None:
    """Alpha comes back exactly."""
    pictures = sprites(mode)
    image = opened(animated(pictures))
    assert image.mode == {"P": "RGB", "1": "L"}.get(mode, mode)
    for frame, source in zip(ImageSequence.Iterator(image), pictures, strict=True):
        assert frame.size == source.size
        if frame.mode.endswith("A"):
            assert frame.getchannel("A").tobytes() == source.getchannel("A").tobytes()


def test_frames_of_several_modes_get_one_that_holds_them_all() -> None:
    """Gray, color, and transparency."""
    gray, color, clear = images.checker(40, 30), images.gradient(40, 30), sprites("RGBA")[0].resize((40, 30))
    for pictures, mode in (
        ([gray, gray], "L"),
        ([gray, color], "RGB"),
        ([color, gray], "RGB"),
        ([gray, sprites("LA")[0].resize((40, 30))], "LA"),
        ([gray, clear], "RGBA"),
        ([clear, gray], "RGBA"),
    ):
        image = opened(animated(pictures))
        assert image.mode == mode
        for frame in ImageSequence.Iterator(image):
            assert frame.mode == mode
            frame.load()
    assert opened(animated([gray, clear])).getchannel("A").getextrema() == (255, 255)


def test_alpha_that_hides_nothing_is_not_stored() -> None:
    """GIF files often have such frames."""
    assert opened(animated([frame.convert("RGBA") for frame in movie()])).mode == "RGB"


def test_colors_that_nobody_sees_change_nothing() -> None:
    """A pixel that is fully transparent keeps the color that it has."""
    first, second = images.gradient(64, 48).convert("RGBA"), images.noise(64, 48).convert("RGBA")
    for picture in (first, second):
        picture.putalpha(0)
    assert changes(animated([first, second])) == [Frame(100)]


def test_only_alpha_changes() -> None:
    """In a rectangle of its own, and the symbols stay."""
    first = images.gradient(64, 48).convert("RGBA")
    first.putpixel((1, 1), (9, 9, 9, 0))
    second = first.copy()
    second.putalpha(first.getchannel("A").point(lambda value: value))
    alpha = second.getchannel("A")
    alpha.paste(77, (20, 10, 25, 12))
    second.putalpha(alpha)
    data = animated([first, second])
    frame = changes(data)[0]
    assert frame.changes == ()
    assert frame.alpha is not None
    assert frame.alpha.box == Box(20, 10, 5, 2)
    image = opened(data)
    image.seek(1)
    assert image.getchannel("A").tobytes() == alpha.tobytes()


# Saving


def test_without_save_all_the_current_frame_is_saved(file: bytes) -> None:
    """As a still picture."""
    image = opened(file)
    image.seek(2)
    expected = images.values(image)
    data = images.saved(image, fidelity=False)
    assert images.parsed(data).get(container.Name.FRAMES) is None
    assert np.abs(images.values(opened(data)) - expected).mean() < 8


def test_append_images_alone_save_all_frames() -> None:
    """That is Pillow's rule.  save_all=False saves one."""
    first, *rest = movie()
    assert opened(images.saved(first, append_images=rest)).n_frames == 4
    assert opened(images.saved(first, append_images=rest, save_all=False)).n_frames == 1


def test_a_single_frame_is_a_still_picture() -> None:
    """Whatever its duration."""
    data = images.saved(ground(), save_all=True, duration=70, loop=3)
    assert data == images.saved(ground())


def test_frames_of_animations_are_appended(file: bytes) -> None:
    """Those of all images, which then show what they showed before."""
    first, second = opened(file), opened(file)
    first.seek(1)
    second.seek(3)
    data = images.saved(first, save_all=True, append_images=(image for image in (second, ground())), duration=20)
    assert opened(data).n_frames == 9
    assert (first.tell(), second.tell()) == (1, 3)


def test_an_animation_is_saved_again_with_its_timing() -> None:
    """Durations and plays are those of the opened file."""
    data = animated(movie(), duration=[10, 200, 3000, 40000], loop=5)
    image = opened(images.saved(opened(data), save_all=True))
    assert timing(image) == [10, 200, 3000, 40000]
    assert image.info["loop"] == 5


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
@pytest.mark.parametrize("plays", [0, 1, 4])
def test_timing_comes_from_other_formats_and_goes_back(kind: str, plays: int) -> None:
    """Through Pillow, whose plugin for WebP takes the durations as options only."""
    durations = [40, 130, 1000, 50]
    pictures = [with_disc(ground(48, 32), 2 + 5 * index, 3) for index in range(4)]
    source = io.BytesIO()
    pictures[0].save(source, kind, save_all=True, append_images=pictures[1:], duration=durations, loop=plays)
    data = images.saved(Image.open(source), save_all=True, fidelity=False)
    image = opened(data)
    assert (timing(image), image.info["loop"]) == (durations, plays)
    image.seek(0)
    target = io.BytesIO()
    options = {"duration": durations, "loop": plays} if kind == "WEBP" else {}
    image.save(target, kind, save_all=True, **options)
    again = Image.open(target)
    assert (timing(again), again.info["loop"]) == (durations, plays)


def test_a_gif_that_says_nothing_is_shown_once() -> None:
    """Its extension for repetition is missing."""
    source = io.BytesIO()
    pictures = movie()
    pictures[0].save(source, "GIF", save_all=True, append_images=pictures[1:], duration=50)
    image = Image.open(source)
    assert "loop" not in image.info
    assert opened(images.saved(image, save_all=True)).info["loop"] == 1
    assert opened(images.saved(pictures[0], save_all=True, append_images=pictures[1:])).info["loop"] == 0


def test_the_default_image_of_a_png_is_no_frame() -> None:
    """Other programs show it in the place of the animation."""
    source = io.BytesIO()
    pictures = movie(3)
    ground().save(source, "PNG", save_all=True, append_images=pictures, default_image=True, duration=[30, 40, 50])
    image = opened(images.saved(Image.open(source), save_all=True))
    assert timing(image)[0] == 30
    assert image.n_frames == getattr(Image.open(source), "n_frames", 0) - 1


def test_durations_are_rounded() -> None:
    """APNG has fractions of a second."""
    assert timing(opened(animated(movie(3), duration=[33.4, 16.6, np.float64(5.2)]))) == [33, 17, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duration": [1, 2]}, "duration has 2 values for 4 frames"),
        ({"duration": [1, 2, 3, 4, 5]}, "duration has 5 values"),
        ({"duration": -1}, "duration must be a number of milliseconds from 0 to 16777215, not -1"),
        ({"duration": 2**24}, "duration must be"),
        ({"duration": float("nan")}, "duration must be"),
        ({"duration": "long"}, "duration must be"),
        ({"duration": [1, True, 2, 3]}, "duration must be"),
        ({"loop": -1}, "loop must be a whole number from 0 to 65535, not -1"),
        ({"loop": 65536}, "loop must be"),
        ({"loop": 1.5}, "loop must be"),
        ({"loop": True}, "loop must be"),
        ({"quality": 101}, "quality must be"),
        ({"quantizer": "palette", "model": "taesd"}, 'quantizer must be "scalar" for an animation'),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    """The message says what is allowed, and nothing is written."""
    target = io.BytesIO()
    first, *rest = movie()
    with pytest.raises(ValueError, match=message):
        first.save(target, "SDL", save_all=True, append_images=rest, **options)
    assert not target.getvalue()


def test_frames_of_another_size_are_refused() -> None:
    """As for WebP."""
    with pytest.raises(ValueError, match="frame 1 has 10 x 20, frame 0 has 96 x 64"):
        animated([ground(), images.gradient(10, 20)])


def test_too_many_frames_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The format holds 65536."""
    monkeypatch.setattr(frames, "MAX_FURTHER", 2)
    with pytest.raises(ValueError, match="at most 3 frames, not 4"):
        animated(movie())


def test_a_frame_that_cannot_be_read_is_named() -> None:
    """The image claims one frame more than it has."""
    source = io.BytesIO()
    pictures = movie(3)
    pictures[0].save(source, "GIF", save_all=True, append_images=pictures[1:])
    image = Image.open(source)
    image._n_frames = 9  # type: ignore[attr-defined]  # the plugin's own
    with pytest.raises(OSError, match="of 9 cannot be read"):
        images.saved(image, save_all=True)


def test_a_target_size_holds_for_the_sum() -> None:
    """All frames have one rate."""
    pictures = movie(3)
    for target, fidelity in ((500, False), (900, True)):
        data = animated(pictures, target_bytes=target, fidelity=fidelity)
        assert 0.9 * target <= len(data) <= target
        assert opened(data).n_frames == 3
    with pytest.raises(ValueError, match="cannot be saved in 60 bytes"):
        animated(pictures, target_bytes=60)


@pytest.mark.parametrize("options", [{"tune": "psnr"}, {"payload": "zstd"}, {"effort": 0}, {"quality": 100}])
def test_options_hold_for_all_frames(options: dict[str, Any]) -> None:
    """Every frame is decoded."""
    data = animated(movie(), **options)
    opened(data).verify()
    assert len(shown(data)) == 4


def test_the_highest_efforts_refine_frame_0(perfect: PerfectModel) -> None:
    """The other frames are stored as at lower efforts."""
    data = animated(movie(), effort=6)
    assert len(changes(data)) == 3
    assert perfect.decodes == 0


def test_metadata_belong_to_the_whole(srgb: bytes) -> None:
    """They are there at every frame."""
    image = opened(animated(movie(), icc_profile=srgb, exif=b"II*\0", xmp=b"<x:xmpmeta/>"))
    image.seek(2)
    image.load()
    assert image.info["icc_profile"] == srgb
    assert image.info["exif"] == b"II*\0"


def test_sections_are_in_the_order_of_the_specification(srgb: bytes) -> None:
    """The frames follow the fidelity map and the guard patches."""
    pictures = sprites("RGBA")
    options: dict[str, Any] = {"icc_profile": srgb, "fidelity": True, "guard": [(0, 0, 40, 40)], "guard_share": 0.9}
    data = animated(pictures, **options)
    assert b"".join(section.name for section in images.parsed(data).sections) == b"ifgmAL"


# Damage


def test_verify_reads_all_frames(file: bytes) -> None:
    """Damage in the last change is found, and the frames before it can be shown."""
    found = decode.read_frames(images.parsed(file))
    assert found is not None
    opened(file).verify()
    further = list(found.further)
    change = further[1].changes[0]
    further[1] = further[1]._replace(changes=(change._replace(payload=change.payload[:-2]),))
    damaged = images.with_section(file, b"m", frames.pack(found._replace(further=tuple(further))))
    with pytest.raises(MalformedError, match="in a further frame") as caught:
        opened(damaged).verify()
    assert caught.value.section == "m"
    image = opened(damaged)
    image.seek(1)
    expected = images.values(image)
    image.seek(2)
    for _ in range(2):
        with pytest.raises(MalformedError):
            image.load()
    image.seek(1)
    assert np.array_equal(images.values(image), expected)


def test_damage_in_the_list_of_frames_is_found_at_once(file: bytes) -> None:
    """As for other sections that are read when the file is opened."""
    with pytest.raises(MalformedError) as caught:
        opened(images.with_section(file, b"m", b"\0\0\0"))
    assert caught.value.rule == "T-01"
    with pytest.raises(LimitError):
        opened(images.with_section(file, b"m", frames.pack(Frames(65536, 0, (Frame(0),)))))


def test_alpha_of_a_frame_is_checked() -> None:
    """By `verify` and when the frame is shown."""
    data = animated(sprites("RGBA"))
    found = decode.read_frames(images.parsed(data))
    assert found is not None
    broken = found.further[0]._replace(alpha=AlphaChange(Box(0, 0, 2, 2), b""))
    damaged = images.with_section(data, b"m", frames.pack(found._replace(further=(broken,))))
    with pytest.raises(MalformedError, match="section A is empty") as caught:
        opened(damaged).verify()
    assert (caught.value.section, caught.value.rule) == ("m", "A-02")


# The command line


def run(*arguments: object) -> None:
    """Run the program, which must succeed."""
    assert cli.main([*map(str, arguments), "--quiet"]) == 0


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
@pytest.mark.parametrize("plays", [0, 1, 4])
def test_the_command_line_keeps_animations(suffix: str, plays: int, tmp_path: Path) -> None:
    """Frames, durations and plays, in both directions."""
    durations = [40, 130, 1000, 50]
    pictures = [with_disc(ground(48, 32), 2 + 5 * index, 3) for index in range(4)]
    source, middle, target = (tmp_path / name for name in (f"a{suffix}", "a.sdl", f"b{suffix}"))
    # GIF has no number for one play.
    loop: dict[str, Any] = {} if (suffix, plays) == (".gif", 1) else {"loop": plays}
    pictures[0].save(source, save_all=True, append_images=pictures[1:], duration=durations, **loop)
    run("encode", source, "-o", middle)
    with Image.open(middle) as image:
        assert (timing(image), image.info["loop"]) == (durations, plays)
    run("decode", middle, "-o", target)
    with Image.open(source) as before, Image.open(target) as after:
        assert timing(after) == timing(before)
        assert after.info.get("loop") == before.info.get("loop")


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_the_frames_that_are_reported_are_those_of_the_output(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pillow stores equal frames of some formats as one that is shown for longer."""
    first, second = ground(48, 32), with_disc(ground(48, 32), 9, 3)
    source, target = tmp_path / "a.sdl", tmp_path / f"a{suffix}"
    for pictures, equal in (([first, first, second], False), ([first, first], True)):
        source.write_bytes(animated(pictures))
        assert cli.main(["decode", "-f", str(source), "-o", str(target)]) == 0
        with Image.open(target) as image:
            count = getattr(image, "n_frames", 1)
        assert count in ({1, 2} if equal else {2, 3})
        expected = f"{target}: 48 x 32, " + (f"{count} frames, " if count > 1 else "")
        assert capsys.readouterr().err == f"{expected}{target.stat().st_size:,} bytes\n"


def test_the_still_picture_of_an_apng_file_is_not_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other programs show it in place of the animation.  Pillow counts it, but it is not stored."""
    source, target = tmp_path / "a.png", tmp_path / "a.sdl"
    pictures = [with_disc(ground(48, 32), 2 + 5 * index, 3) for index in range(3)]
    ground(48, 32).save(source, save_all=True, append_images=pictures, default_image=True, duration=40)
    assert cli.main(["encode", str(source), "-o", str(target)]) == 0
    with Image.open(target) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert f"{target}: 48 x 32, 3 frames, " in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_the_command_line_keeps_transparency(suffix: str, tmp_path: Path) -> None:
    """A pixel that becomes clear does not show the frame before."""
    pictures = sprites("RGBA")
    (tmp_path / "a.sdl").write_bytes(animated(pictures))
    run("decode", tmp_path / "a.sdl", "-o", tmp_path / f"a{suffix}")
    with Image.open(tmp_path / f"a{suffix}") as image:
        for frame, source in zip(ImageSequence.Iterator(image), pictures, strict=True):
            assert frame.convert("RGBA").getchannel("A").tobytes() == source.getchannel("A").tobytes()


def test_an_animation_is_encoded_again(file: bytes, tmp_path: Path) -> None:
    """All frames of an SDL file are taken."""
    source, target = tmp_path / "a.sdl", tmp_path / "b.sdl"
    source.write_bytes(file)
    assert cli.main(["encode", "--quiet", "-q", "20", str(source), "-o", str(target)]) == 0
    with opened(file) as first, opened(target.read_bytes()) as second:
        assert second.n_frames == first.n_frames > 1


def test_the_first_frame_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--still, and formats without animations, which give a warning."""
    pictures = movie()
    source = tmp_path / "a.gif"
    pictures[0].save(source, save_all=True, append_images=pictures[1:])
    run("encode", "--still", source, "-o", tmp_path / "still.sdl")
    with Image.open(tmp_path / "still.sdl") as image:
        assert getattr(image, "n_frames", None) == 1
    (tmp_path / "a.sdl").write_bytes(animated(pictures))
    run("decode", "--still", tmp_path / "a.sdl", "-o", tmp_path / "still.png")
    with Image.open(tmp_path / "still.png") as image:
        assert getattr(image, "n_frames", None) == 1
    assert not capsys.readouterr().err
    run("decode", tmp_path / "a.sdl", "-o", tmp_path / "a.jpg")
    assert "warning: only the first of 4 frames is stored" in capsys.readouterr().err


def test_info_tells_the_frames(file: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As text and as JSON."""
    path = tmp_path / "a.sdl"
    path.write_bytes(file)
    run("info", path)
    text = capsys.readouterr().out
    assert "frames    4 in 0.4 s, played without end" in text
    assert "further frames" in text
    run("info", "--json", path)
    found = json.loads(capsys.readouterr().out)
    assert (found["frames"], found["durations"], found["loop"]) == (4, [100] * 4, 0)
    assert found["bits_per_pixel"] == pytest.approx(8 * len(file) / (4 * WIDTH * HEIGHT), abs=1e-6)
    path.write_bytes(images.saved(ground()))
    run("info", "--json", path)
    found = json.loads(capsys.readouterr().out)
    assert (found["frames"], found["durations"], found["loop"]) == (1, None, None)


def test_a_damaged_animation_is_no_animation_without_it_being_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--still stores its first frame."""
    pictures = movie()
    source = tmp_path / "cut.gif"
    pictures[0].save(source, save_all=True, append_images=pictures[1:], duration=[10, 20, 30, 40])
    source.write_bytes(source.read_bytes()[:-600])
    target = tmp_path / "a.sdl"
    status = cli.main(["encode", str(source), "-o", str(target), "--quiet"])
    assert status == 1
    assert "truncated" in capsys.readouterr().err
    assert not target.exists()
    run("encode", "--still", source, "-o", target)


# Models of the Stable Diffusion family


@pytest.mark.usefixtures("fresh_store")
def test_frames_of_a_diffusion_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """They work alike, with a denoiser and without."""
    pytest.importorskip("diffusers", reason="diffusers is not installed")
    monkeypatch.setenv("PILLOW_SDL_MODELS", os.fspath(ROOT / "tests" / "golden" / "models"))
    pictures = [with_disc(ground(), 4 + 8 * index, 4) for index in range(3)]
    data = animated(pictures, model="taesd")
    opened(data).verify()
    for denoise in ("off", "small"):
        with settings.using(denoise=denoise):
            for frame, difference in differences(data):
                outside = np.ones(difference.shape, bool)
                for box in moving.shown(frame, images.parsed(data).header):
                    rows, columns = (slice(8 * part.start, 8 * part.stop) for part in box.slices)
                    outside[rows, columns] = False
                assert outside.any()
                assert difference[outside].max() == 0
                assert difference.max() > 0


def test_symbols_are_those_that_a_still_picture_would_have() -> None:
    """At the first frame, by either way through the quantizer."""
    quantizer = quantizers.QUANTIZERS["scalar"]
    latent = np.random.default_rng(1).normal(size=(4, 3, 5)).astype(np.float32)
    choices = Choices(payloads=(0, 1))
    coded = quantizer.encode(latent, SD1, 90, choices)
    again = scalar.code(scalar.choose(latent, SD1, 90, 0.0), SD1, 90, (0, 1))
    assert coded == again
