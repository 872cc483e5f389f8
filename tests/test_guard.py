"""Guard patches: how they are stored and blended, what the guard chooses, and what it promises."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

import pillow_sdl
from pillow_sdl import cli, decode, detectors, encode, fidelity_map, guard, options
from pillow_sdl.coding import LatentCoder
from pillow_sdl.errors import BackendError, MalformedError
from pillow_sdl.format import container, patches
from pillow_sdl.format.patches import CELL, Patches, Rect
from pillow_sdl.latent import spaces
from pillow_sdl.options import EncodeOptions

from . import images

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .conftest import PerfectModel

pytestmark = pytest.mark.plain

PHOTO = Path(__file__).parent.parent / "docs" / "grace_hopper.jpg"

BOX = [(100, 80, 180, 140)]
"""A box in the picture of `photo`."""

SIGN = 150, 180, 310, 230
"""Box of the letters in the picture of `sign`, and some room around them."""


def photo(width: int = 320, height: int = 256) -> Image.Image:
    """The middle of the documentation's photo."""
    with Image.open(PHOTO) as image:
        left, top = (image.width - width) // 2, (image.height - height) // 3
        return image.convert("RGB").crop((left, top, left + width, top + height))


def sign() -> Image.Image:
    """A smooth picture with grain and a line of small print."""
    shade = Image.linear_gradient("L").resize((320, 256))
    image = Image.merge("RGB", [shade.point(lambda value, low=low: low + value // 4) for low in (150, 160, 170)])
    image = Image.blend(image, images.noise(320, 256), 0.02)
    ImageDraw.Draw(image).text((158, 192), "Gate 27, platform 4", (20, 20, 60), ImageFont.load_default(15))
    return image


def error(first: Image.Image, second: Image.Image, box: tuple[int, int, int, int]) -> float:
    """The mean square error in a box."""
    arrays = [np.asarray(image.crop(box), float) for image in (first, second)]
    return float(np.square(arrays[0] - arrays[1]).mean())


def guarded(data: bytes) -> list[list[int]]:
    """The boxes of a file's guard patches."""
    found: list[list[int]] = decode.inspect(images.parsed(data))["guarded"]
    return found


@st.composite
def rectangles(draw: st.DrawFn) -> tuple[int, int, tuple[Rect, ...]]:
    """A size of a picture in cells, and rectangles that do not overlap: those of random cells."""
    columns, rows = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    cells = draw(st.lists(st.booleans(), min_size=columns * rows, max_size=columns * rows).filter(any))
    return columns, rows, tuple(guard._rects(np.array(cells).reshape(rows, columns)))


# Storing


@given(rectangles(), st.integers(0, 1), st.binary(min_size=1), st.integers(0, 300))
def test_patches_survive_coding(
    found: tuple[int, int, tuple[Rect, ...]], method: int, data: bytes, more_columns: int
) -> None:
    """Whatever the rectangles, and for both sizes of the numbers."""
    columns, rows, rects = found
    atlas = guard._columns(list(rects), (columns + more_columns) * rows)
    if atlas is None:
        return
    made = Patches(rects, atlas, method, data)
    width, height = CELL * (columns + more_columns), CELL * rows - 5
    assert patches.unpack(patches.pack(made, width, height), width, height) == made


@given(rectangles())
def test_rectangles_cover_their_cells_once(found: tuple[int, int, tuple[Rect, ...]]) -> None:
    """In the picture and in the atlas."""
    columns, rows, rects = found
    for places, size in ((rects, (rows, columns)), (patches.layout(rects, columns)[0], (6 * rows * columns, columns))):
        count = np.zeros(size, int)
        for rect in places:
            count[rect.slices] += 1
        assert count.max() == 1
        assert count.sum() == sum(rect.columns * rect.rows for rect in rects)


@given(rectangles(), st.integers(0, 15), st.integers(0, 15))
def test_weights_are_those_of_the_specification(
    found: tuple[int, int, tuple[Rect, ...]], less_width: int, less_height: int
) -> None:
    """Computed from the distance of each pixel to the nearest cell without a patch."""
    columns, rows, rects = found
    covered = np.zeros((rows, columns), bool)
    for rect in rects:
        covered[rect.slices] = True
    free = np.pad(~covered, 1, mode="edge").repeat(CELL, 0).repeat(CELL, 1)
    places = np.argwhere(free)
    width, height = CELL * columns - less_width, CELL * rows - less_height
    picture = np.zeros((height, width, 3), np.uint8)
    patches.blend(picture, rects, [np.full((CELL * rect.rows, CELL * rect.columns, 3), 240) for rect in rects])
    for rect in rects:
        shown = picture[rect.pixels]
        last, right = shown.shape[0] - 1, shown.shape[1] - 1
        for y, x in ((0, 0), (min(3, last), min(12, right)), (last, max(0, right - 1)), (last // 2, right // 2)):
            here = np.array([CELL * (rect.top + 1) + y, CELL * (rect.left + 1) + x])
            distance = np.abs(places - here).max(1).min() if len(places) else 99
            assert shown[y, x, 0] == 30 * min(8, 2 * distance - 1)


def test_blending_rounds_as_specified() -> None:
    """The samples of one patch on a flat picture."""
    picture = np.full((48, 48, 3), 100, np.uint8)
    patches.blend(picture, [Rect(1, 1, 1, 1)], [np.full((16, 16, 3), 201, np.uint8)])
    expected = [100, 100, 113, 138, 163, 188, *[201] * 8, 188, 163, 138, 113, 100, 100]
    assert picture[24, 14:34, 0].tolist() == expected
    assert (picture[:16] == 100).all()


def test_a_damaged_atlas_is_refused() -> None:
    """Its checksum is right, so only the WebP decoder can see it."""
    data = images.saved(sign(), guard=[SIGN])
    assert images.opened(data).size == (320, 256)
    file = images.parsed(data)
    damaged = []
    for section in file.sections:
        body = section.data
        if section.name == container.Name.GUARD:
            kept = patches.unpack(body, 320, 256)
            body = patches.pack(kept._replace(data=kept.data[:10] + bytes(40)), 320, 256)
        damaged.append(container.Section(section.name, body))
    broken = container.Container(file.header, tuple(damaged))
    with pytest.raises(MalformedError) as caught:
        decode.verify(broken)
    assert (caught.value.section, caught.value.rule) == ("g", "G-04")


def test_a_pillow_without_webp_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such builds of Pillow exist."""
    data = images.saved(sign(), guard=[SIGN])
    monkeypatch.setattr("pillow_sdl.format.patches.features.check", lambda _: False)
    with pytest.raises(BackendError, match="Pillow with WebP"):
        images.opened(data).load()


@pytest.mark.parametrize("picture", [images.noise(8, 8), images.gradient(80, 40)], ids=["tiny", "drawn"])
def test_a_pillow_without_webp_saves_a_latent(picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default.  Options that ask for pixels are refused."""
    Image.init()
    monkeypatch.delitem(Image.SAVE, "WEBP", raising=False)
    monkeypatch.setattr("pillow_sdl.format.patches.features.check", lambda _: False)
    data = images.saved(picture)
    assert images.parsed(data).get(container.Name.GUARD) is None
    assert images.opened(data).convert("RGB").size == picture.size
    with pytest.raises(ValueError, match=r"guard must be .*WebP"):
        images.saved(picture, guard="auto")


def test_cells_are_judged_by_one_coding(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no limit, so there is nothing to search."""
    made = []
    webp = guard._webp

    def counted(image: Image.Image, **given: object) -> bytes:
        made.append(given)
        return webp(image, **given)

    monkeypatch.setattr(guard, "_webp", counted)
    pixels = np.asarray(sign())
    guard._improved(pixels, 255 - pixels, np.ones((16, 20), bool))
    assert made == [{"quality": guard.MIDDLE_QUALITY, "method": 6}]


# Boxes and masks


def test_a_box_is_stored_as_it_is() -> None:
    """Within it the error falls by a factor of three.  Far from it no pixel changes."""
    picture = photo()
    plain, held = (images.opened(images.saved(picture, quality=20, guard=g, guard_share=0.6)) for g in ("off", BOX))
    assert error(held, picture, (100, 80, 180, 140)) < error(plain, picture, (100, 80, 180, 140)) / 3
    first, second = (np.asarray(image).copy() for image in (plain, held))
    first[64:160, 80:192] = second[64:160, 80:192] = 0
    assert (first == second).all()


def test_a_mask_names_the_same_cells_as_its_box() -> None:
    """Any value but 0 counts."""
    picture = photo()
    mask = Image.new("L", picture.size)
    mask.paste(1, (100, 80, 180, 140))
    expected = images.saved(picture, guard=[(100, 80, 180, 140)])
    assert images.saved(picture, guard=mask) == expected
    faint = Image.new("F", picture.size)
    faint.paste(0.4, (100, 80, 180, 140))
    blue = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    blue.paste((0, 0, 4, 255), (100, 80, 180, 140))
    assert images.saved(picture, guard=faint) == images.saved(picture, guard=blue) == expected


@pytest.mark.parametrize("box", [(0, 0, 30, 20), (300, 240, 400, 300), (-50, 100, 10, 120)])
def test_boxes_may_reach_beyond_the_picture(box: tuple[int, int, int, int]) -> None:
    """What lies in the picture is guarded."""
    picture = photo(310, 250)
    data = images.saved(picture, quality=10, guard=[box])
    assert guarded(data)
    inside = max(0, box[0]), max(0, box[1]), min(310, box[2]), min(250, box[3])
    plain = images.opened(images.saved(picture, quality=10, guard="off"))
    assert error(images.opened(data), picture, inside) < error(plain, picture, inside)


@pytest.mark.parametrize("box", [(310, 0, 320, 20), (0, 250, 20, 270), (-20, 0, 0, 20), (0, -20, 20, 0)])
def test_a_box_outside_the_picture_is_refused(box: tuple[int, int, int, int]) -> None:
    """Its coordinates may be those of a larger version."""
    with pytest.raises(ValueError, match=r"of guard is outside the picture of 310 x 250 pixels"):
        images.saved(photo(310, 250), guard=[box])


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 33)])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_every_mode_and_small_pictures(mode: str, size: tuple[int, int]) -> None:
    """Alpha does not change."""
    picture = images.noise(*size, mode)
    data = images.saved(picture, guard=[(0, 0, *size)], guard_share=0.95)
    found = images.opened(data)
    assert (found.mode, found.size) == (mode, size)
    if "A" in mode:
        assert found.getchannel("A").tobytes() == picture.getchannel("A").tobytes()


def test_flat_drawings_are_stored_without_loss() -> None:
    """A chessboard of two colors takes few bytes without loss, and comes back exactly where no weight is below 1."""
    board = Image.merge("RGB", [images.checker(128, 128, 4)] * 3)
    data = images.saved(board, quality=0, guard=[(0, 0, 128, 128)], guard_share=0.95)
    assert np.array_equal(np.asarray(images.opened(data)), np.asarray(board))


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_patches_take_at_most_their_share(share: float) -> None:
    """A box that does not fit is stored in part, where the harm is greatest."""
    picture = photo()
    data = images.saved(picture, quality=10, guard=[(0, 0, 320, 256)], guard_share=share)
    sizes = decode.inspect(images.parsed(data))["bytes"]
    assert 0 < sizes["g"] <= share * len(data)


def test_a_box_without_harm_is_stored_in_part() -> None:
    """Cells of equal harm are taken in their order, until there is no room."""
    original = np.asarray(photo()).clip(0, 240)
    decoded = original + 12
    cells = np.ones((16, 20), bool)
    assert not guard.harm(original, decoded).any()
    found = guard.choose(original, decoded, 1500, cells)
    assert found is not None
    assert 0 < sum(rect.columns * rect.rows for rect in found.rects) < cells.size
    assert len(patches.pack(found, 320, 256)) <= 1500
    assert guard.choose(original, decoded, 0, cells) is None


def test_more_patches_than_a_file_holds_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask of many specks is guarded in part."""
    monkeypatch.setattr(patches, "MAX_PATCHES", 20)
    original = np.asarray(photo())
    cells = np.indices((16, 20)).sum(0) % 2 == 0
    found = guard.choose(original, 255 - original, 1 << 20, cells)
    assert found is not None
    assert 0 < len(found.rects) <= 20


def test_a_target_size_holds_with_patches() -> None:
    """The latent gives way to them."""
    picture = photo()
    data = images.saved(picture, target_bytes=3000, guard=[(100, 80, 180, 140)])
    assert 0.97 * 3000 <= len(data) <= 3000
    assert guarded(data)


# What the guard finds


def test_the_guard_finds_letters() -> None:
    """All patches lie on the line of print or touch it, and cover most of it."""
    data = images.saved(sign(), quality=30, guard="auto", guard_share=0.7)
    covered = Image.new("L", (320, 256))
    for box in guarded(data):
        left, top, right, bottom = box
        covered.paste(255, (left, top, right, bottom))
    left, top, right, bottom = covered.getbbox() or (0, 0, 0, 0)
    assert (left, top) >= (SIGN[0] - CELL, SIGN[1] - CELL)
    assert (right, bottom) <= (SIGN[2] + CELL, SIGN[3] + CELL)
    assert np.asarray(covered.crop((158, 194, 290, 206))).mean() > 0.8 * 255


@pytest.mark.parametrize("picture", [images.gradient(200, 120), images.gradient(256, 256)])
def test_the_guard_leaves_smooth_pictures_alone(picture: Image.Image) -> None:
    """Nothing is stored that is not needed."""
    assert not guarded(images.saved(picture, guard="auto"))


def test_harm_is_the_same_whatever_the_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips bound the memory."""
    picture = photo(150, 250)
    original, shown = np.asarray(picture), np.asarray(images.opened(images.saved(picture, quality=5, guard="off")))
    whole = guard.harm(original, shown)
    monkeypatch.setattr(guard, "STRIP", 2)
    np.testing.assert_allclose(guard.harm(original, shown), whole, rtol=1e-5)


def test_the_fidelity_map_is_about_the_guarded_picture() -> None:
    """Its bounds hold with the patches, and are lower than without."""
    picture = sign()
    data = images.saved(picture, quality=20, guard=[SIGN], guard_share=0.6)
    found = pillow_sdl.fidelity(io.BytesIO(data))
    without = pillow_sdl.fidelity(io.BytesIO(images.saved(picture, quality=20, guard="off")))
    assert found is not None
    assert without is not None
    original, shown = np.asarray(picture, float), np.asarray(images.opened(data), float)
    power = np.square(original - shown).mean(2)
    assert fidelity_map.RADIUS  # The measure of invented structure is that of the map.
    for row, column in np.ndindex(found.error.shape):
        cell = power[48 * row : 48 * row + 48, 48 * column : 48 * column + 48]
        assert np.sqrt(cell.mean()) <= found.error[row, column]
    assert found.worst < without.worst


def test_previews_show_patches() -> None:
    """Letters of a large sign can be seen in a thumbnail."""
    picture = sign()
    small = picture.resize((160, 128), Image.Resampling.BOX)
    errors = []
    for choice in ("off", [SIGN]):
        found = images.opened(images.saved(picture, quality=20, guard=choice, guard_share=0.6))
        found.draft(None, (160, 128))
        found.load()
        assert found.size == (160, 128)
        errors.append(error(found, small, (79, 96, 145, 103)))
    assert errors[1] < errors[0] / 3


# Options


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("eyes", "guard must be"),
        ("text,text", "guard must be"),
        ([], "guard must be"),
        ([(1, 2, 3)], "guard must be"),
        ([(10, 10, 10, 20)], "guard must be"),
        ([(0.5, 1, 2, 3)], "guard must be"),
        (7, "guard must be"),
        (Image.new("1", (9, 9)), "the mask for guard has 9 x 9 pixels"),
    ],
)
def test_a_wrong_choice_is_refused(choice: Any, message: str) -> None:
    """Before any work is done, except for the size of a mask."""
    with pytest.raises(ValueError, match=message):
        images.saved(photo(64, 48), guard=choice)


@pytest.mark.parametrize("share", [0, 1, -0.1, "half", True])
def test_a_wrong_share_is_refused(share: Any) -> None:
    """The message says what is allowed."""
    with pytest.raises(ValueError, match=r"guard_share must be a number from 0\.01 to 0\.95"):
        images.saved(photo(64, 48), guard_share=share)


def test_the_command_line_takes_boxes_and_masks(tmp_path: Path) -> None:
    """And refuses what is neither."""
    picture = photo()
    picture.save(tmp_path / "in.png")
    mask = Image.new("1", picture.size)
    mask.paste(1, (100, 80, 180, 140))
    mask.save(tmp_path / "mask.png")
    made = []
    for number, choice in enumerate(("100,80,180,140", str(tmp_path / "mask.png"))):
        target = tmp_path / f"{number}.sdl"
        assert (
            cli.main(
                [
                    "encode",
                    "-q",
                    "30",
                    "--guard",
                    choice,
                    "--guard-share",
                    "0.6",
                    str(tmp_path / "in.png"),
                    "-o",
                    str(target),
                ]
            )
            == 0
        )
        made.append(target.read_bytes())
    assert made[0] == made[1]
    assert guarded(made[0])
    with pytest.raises(SystemExit):
        cli.main(["encode", "--guard", "1,2,3", str(tmp_path / "in.png")])


# Detectors


@pytest.mark.parametrize(("name", "package"), [("text", "rapidocr"), ("faces", "dlib")])
def test_a_missing_detector_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the line that installs it."""
    for function in (detectors._text_detector, detectors._face_detector):
        function.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=r"pip install 'pillow-sdl\[guard\]'"):
        images.saved(photo(64, 48), guard=name)


def test_a_face_is_found() -> None:
    """The photo has one face, in the middle of its upper half."""
    pytest.importorskip("dlib", reason="the extra guard is not installed")
    with Image.open(PHOTO) as image:
        picture = image.convert("RGB")
        picture.thumbnail((512, 512))
    found = detectors.find("faces", np.asarray(picture))
    assert len(found) == 1
    left, top, right, bottom = found[0]
    assert left < picture.width / 2 < right
    assert top < picture.height / 3 < bottom
    assert guarded(images.saved(picture, guard="faces"))


def test_text_is_found() -> None:
    """The line of print, and nothing else."""
    pytest.importorskip("rapidocr", reason="the extra guard is not installed")
    found = detectors.find("text", np.asarray(sign()))
    left, top = np.min(found, 0)[:2]
    right, bottom = np.max(found, 0)[2:]
    assert (left, top) >= (SIGN[0], SIGN[1])
    assert (right, bottom) <= (SIGN[2], SIGN[3])
    assert right - left > 100
    assert guarded(images.saved(sign(), guard="text,faces" if "dlib" in sys.modules else "text"))


def test_the_default_guards_tiny_and_drawn_pictures_only() -> None:
    """From the effort on at which files are decoded anyway."""
    for effort in range(options.MAX_EFFORT + 1):
        found = options.EncodeOptions(effort=effort)
        assert (found.with_guard, found.guards_whole) == (False, effort >= options.GUARD_EFFORT)
    assert options.EncodeOptions(effort=0, guard="auto").with_guard
    assert options.EncodeOptions(effort=0, guard="auto").guards_whole
    assert options.EncodeOptions(guard="text").guards_whole
    assert not options.EncodeOptions(guard=[(0, 0, 9, 9)]).guards_whole
    assert not options.EncodeOptions(guard="off").guards_whole
    assert not guarded(images.saved(sign()))


def test_nothing_is_decoded_for_a_file_without_additions(perfect: PerfectModel) -> None:
    """Without a map, the default guard costs no decode of a picture that is not tiny."""
    images.saved(images.gradient(64, 48), fidelity=False)
    assert perfect.decodes == 0
    images.saved(images.gradient(20, 48), fidelity=False)
    assert perfect.decodes == 1


def boxes_of(mask: NDArray[np.bool_]) -> list[Rect]:
    """The rectangles of a mask of cells."""
    return guard._rects(mask)


def test_an_atlas_that_cannot_hold_all_patches_is_not_made() -> None:
    """A column and a row of cells need an atlas as large as the picture."""
    cells = np.zeros((40, 40), bool)
    cells[0] = cells[:, 0] = True
    assert guard._columns(boxes_of(cells), 100) is None
    columns = guard._columns(boxes_of(cells), 1600)
    assert columns == 40


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (31, 200)])
@pytest.mark.parametrize("color", [(255, 0, 0), (0, 255, 0), (250, 250, 251)])
def test_tiny_pictures_are_guarded_as_a_whole(size: tuple[int, int], color: tuple[int, int, int]) -> None:
    """One latent position cannot hold a color exactly."""
    picture = Image.new("RGB", size, color)
    assert images.difference(images.opened(images.saved(picture)), picture) <= 1


def test_small_pictures_are_not_guarded_as_a_whole() -> None:
    """From 32 pixels on the latent does it."""
    assert guard.cells_if_tiny(32, 32) is None
    assert guard.cells_if_tiny(31, 4000) is not None


def drawing(width: int, height: int) -> Image.Image:
    """A page with letters, a box and a chessboard."""
    image = Image.new("RGB", (width, height), (250, 250, 240))
    draw = ImageDraw.Draw(image)
    for top in range(8, height // 2, 16):
        draw.text((8, top), "Gate 27, platform 4. Mind the step.", (20, 20, 60), ImageFont.load_default(11))
    draw.rectangle((8, height // 2, width // 3, height - 8), (200, 30, 0))
    image.paste(images.checker(width // 3, height // 3, 2), (width // 2, height // 2))
    return image


@pytest.mark.parametrize("quality", [25, 60, 100])
@pytest.mark.parametrize(
    "picture",
    [
        *(Image.new("RGB", (33, 70), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 0))),
        Image.new("L", (64, 64), 77),
        Image.new("RGB", (517, 383), (0, 255, 0)),
        drawing(300, 200),
    ],
)
def test_drawings_are_stored_without_loss(picture: Image.Image, quality: int) -> None:
    """These qualities give the same picture, in no more bytes than a latent takes, or in a few."""
    data = images.saved(picture, quality=quality)
    assert np.array_equal(np.asarray(images.opened(data)), np.asarray(picture))
    assert len(data) <= max(256, len(images.saved(picture, quality=quality, guard="off", fidelity=False)))
    found = pillow_sdl.fidelity(io.BytesIO(data))
    assert found is not None
    assert found.error.max() == np.float32(2 ** (1 / 2))


def test_a_drawing_keeps_its_alpha_and_metadata() -> None:
    """A patch has no alpha, and does not need it."""
    picture = drawing(200, 160)
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    data = images.saved(picture, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
    found = images.opened(data)
    seen = np.asarray(picture.getchannel("A")) > 0
    assert np.array_equal(np.asarray(found)[seen], np.asarray(picture)[seen])
    assert found.getchannel("A").tobytes() == picture.getchannel("A").tobytes()
    assert decode.inspect(images.parsed(data))["bytes"]["e"]


def test_a_drawing_of_few_colors_is_nearer_than_a_latent_that_does_not_fit() -> None:
    """The target may be smaller than the file of the smallest latent."""
    shape = spaces.shape(EncodeOptions().space, 32, 32)
    coder = LatentCoder(np.zeros(shape, np.float32), 32, 32, bytes(16), options=EncodeOptions())
    assert encode._latent_error(coder, np.zeros((32, 32, 3), np.uint8), 10) == math.inf


def test_a_drawing_that_needs_more_bytes_than_its_latent_is_none() -> None:
    """Even ground beside a photo is not enough."""
    picture = Image.new("RGB", (640, 256), "white")
    picture.paste(photo(), (0, 0))
    assert guard.is_drawn(np.asarray(picture))
    assert not guarded(images.saved(picture, quality=30))


def test_a_drawing_takes_at_most_its_target_size() -> None:
    """What fits is stored without loss, for less with fewer colors, and for much less there is the latent."""
    picture = drawing(300, 200)
    size = len(images.saved(picture))
    data = images.saved(picture, target_bytes=size)
    assert images.difference(images.opened(data), picture) == 0
    less = images.saved(picture, target_bytes=size - 1)
    assert len(less) < size
    assert len(images.opened(less).getcolors(1 << 16) or []) in guard.COLORS
    latent = images.saved(picture, target_bytes=size - 1, guard="off")
    whole = (0, 0, *picture.size)
    assert 0 < error(images.opened(less), picture, whole) < error(images.opened(latent), picture, whole)


@pytest.mark.parametrize("chosen", [{"guard": "off"}, {"effort": options.GUARD_EFFORT - 1}])
def test_a_drawing_is_a_latent_if_it_is_asked_for(chosen: dict[str, Any]) -> None:
    """Both ways to ask are documented."""
    assert not guarded(images.saved(drawing(96, 64), **chosen))


def test_photos_and_pictures_too_large_for_a_patch_are_no_drawings() -> None:
    """A side of a WebP picture has at most 16383 pixels, and cells are whole."""
    assert not guard.is_drawn(np.asarray(photo()))
    assert guard.is_drawn(np.zeros((1, CELL * patches.MAX_ATLAS, 3), np.uint8))
    assert not guard.is_drawn(np.zeros((1, CELL * patches.MAX_ATLAS + 1, 3), np.uint8))


def test_colors_are_reduced_only_where_that_can_help() -> None:
    """A patch without loss that takes far too much, and a picture of many colors, are not tried again."""
    pixels = np.asarray(drawing(300, 200))
    assert len(list(guard.drawings(pixels, 10_000))) == 1 + len(guard.COLORS)
    assert len(list(guard.drawings(pixels, 10))) == 1
    ramp = np.asarray(images.gradient(128, 64).resize((1024, 512), Image.Resampling.NEAREST))
    assert guard.is_drawn(ramp)
    assert len(list(guard.drawings(ramp, 1 << 20))) == 1
    found = list(guard.drawings(pixels, 10_000))
    assert found[0][1] == 0
    assert [error for _, error in found] == sorted(error for _, error in found)
