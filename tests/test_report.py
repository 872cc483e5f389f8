"""`sdl report`: the figures, the page, what is escaped, and how the page behaves in a browser.

The browser tests need the program `chromium`, and axe-core from npm for the accessibility rules.
"""

from __future__ import annotations

import base64
import dataclasses
import errno
import hashlib
import html.parser
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from pillow_sdl import cli, fidelity, fidelity_map, settings
from pillow_sdl.cli import report
from pillow_sdl.report import compare, embed, formats, heat, metrics, page
from pillow_sdl.SdlImagePlugin import SdlImageFile

from . import images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pillow_sdl.report.compare import Comparison
    from tests.browser import Browser

ROOT = Path(__file__).parent.parent

HOSTILE = "<img src=x onerror=alert(1)>\"'&\u202egpj.png"
"""A file's name that would run a script if it were not escaped, and that turns the direction of the text."""


@pytest.fixture(scope="session")
def comparison(photo: Image.Image) -> Comparison:
    """The comparison of a photo of 320 x 320 pixels, with the name and Exif of an attacker."""
    exif = Image.Exif()
    exif[0x010E] = "</script><script>alert(2)</script>"
    exif[0x0110] = 'Camera" onload="alert(3)'
    stream = io.BytesIO()
    photo.save(stream, "PNG", exif=exif)
    with Image.open(stream) as image:
        return compare.compare(image, HOSTILE, len(stream.getbuffer()), {})


@pytest.fixture(scope="session")
def text(comparison: Comparison) -> str:
    """The page of that comparison."""
    return page_of(comparison)


def page_of(*comparisons: Comparison, failures: tuple[tuple[str, str], ...] = ()) -> str:
    """Return the page of comparisons."""
    panels = [page.panel(found, number, len(comparisons)) for number, found in enumerate(comparisons, 1)]
    return page.page(panels, failures).decode("utf-8")


def compared(image: Image.Image, **options: Any) -> Comparison:
    """Return the comparison of a picture that was not read from a file."""
    return compare.compare(image, "photo.png", None, options)


class Parsed(html.parser.HTMLParser):
    """The tags and texts of a page.  Fails if a tag is not closed by its own end.

    tags: names and attributes.   texts: all text outside of style and script, by the tag that holds it.
    """

    VOID = frozenset({"meta", "link", "img", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that it ends the tag that was opened last."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note a text."""
        if self._open and self._open[-1] not in {"style", "script"}:
            self.texts.append((self._open[-1], data))

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of all tags of one name."""
        return [found for name, found in self.tags if name == tag]

    def all_text(self) -> str:
        """Return all text, with single spaces."""
        return " ".join("".join(data for _, data in self.texts).split())


# Metrics


@pytest.mark.plain
def test_psnr_by_hand() -> None:
    """An error of 5 levels everywhere; no error; and errors that a uint8 would wrap."""
    gray = np.full((4, 6, 3), 100, np.uint8)
    assert metrics.psnr(gray, gray + np.uint8(5)) == pytest.approx(20 * np.log10(255 / 5))
    assert metrics.psnr(gray, gray) == np.inf
    assert metrics.psnr(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)) == pytest.approx(0)


def slow_ssim(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    """Return SSIM as the paper states it, window by window."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            a, b = (values[row : row + 11, column : column + 11].astype(float) for values in (x, y))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            c1, c2 = 2.55**2, 7.65**2
            found.append(
                (2 * mean_a * mean_b + c1)
                * (2 * covariance + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return float(np.mean(found))


@pytest.mark.plain
def test_ssim_is_that_of_the_paper() -> None:
    """Against its definition; equal pictures; flat pictures, where only the luminance term is left."""
    x, y = (np.asarray(images.noise(19, 14, "L", seed)) for seed in (1, 2))
    assert metrics.ssim(x, y) == pytest.approx(slow_ssim(x, y))
    mixed = (x // 2 + y // 2).astype(np.uint8)
    assert metrics.ssim(x, mixed) == pytest.approx(slow_ssim(x, mixed))
    assert metrics.ssim(x, x) == pytest.approx(1)
    flat = np.full((12, 12), 100, np.uint8), np.full((12, 12), 50, np.uint8)
    assert metrics.ssim(*flat) == pytest.approx((2 * 100 * 50 + 2.55**2) / (100**2 + 50**2 + 2.55**2))


def test_ssim_of_colors_is_that_of_their_luma() -> None:
    """Blue counts less than green; a picture with a side below 11 pixels has none."""
    gray = np.full((16, 16, 3), 100, np.uint8)
    bluer, greener = gray.copy(), gray.copy()
    bluer[:, ::2, 2] += 60
    greener[:, ::2, 1] += 60
    blue, green = metrics.ssim(gray, bluer), metrics.ssim(gray, greener)
    assert blue is not None
    assert green is not None
    assert green < blue < 1
    assert metrics.ssim(gray[:10], gray[:10]) is None


# Search


@pytest.mark.parametrize(
    ("budget", "quality", "fits"),
    [(0, 1, False), (9, 1, False), (10, 1, True), (19, 1, True), (20, 2, True), (955, 95, True), (10**9, 95, True)],
)
def test_the_largest_file_within_a_budget(budget: int, quality: int, fits: bool) -> None:
    """The highest quality that fits, the smallest file if none does, and no quality is encoded twice."""
    asked: list[int] = []

    def encode(quality: int) -> bytes:
        asked.append(quality)
        return bytes(10 * quality)

    found = formats.largest_within(encode, formats.JPEG.qualities, budget)
    assert (len(found.data), found.quality, found.fits) == (10 * quality, quality, fits)
    assert len(asked) == len(set(asked)) <= 8


# One photo


def test_every_file_takes_at_most_the_bytes_of_sdl(comparison: Comparison, photo: Image.Image) -> None:
    """And nearly as many; the next quality would take more; figures are those of the files."""
    budget = len(comparison.sdl.data)
    assert [entry.name for entry in comparison.others] == ["AVIF", "WebP", "JPEG"]
    for entry, kind in zip(comparison.others, formats.FORMATS, strict=True):
        assert entry.fits
        assert 0.85 * budget < len(entry.data) <= budget
        assert entry.quality is not None
        assert len(kind.encode(photo, entry.quality + 1)) > budget
        decoded = Image.open(io.BytesIO(entry.data)).convert("RGB")
        assert entry.psnr == pytest.approx(images.psnr(decoded, photo), abs=1e-4)
        assert entry.ssim is not None
        assert 0.5 < entry.ssim < 1


def test_the_sdl_file_is_the_one_that_save_writes(comparison: Comparison, photo: Image.Image) -> None:
    """At the default quality, with its map, its picture and its model."""
    data = images.saved(photo, fidelity=True)
    assert comparison.sdl.data == data
    assert comparison.sdl.quality == 50
    assert comparison.decoded.tobytes() == images.opened(data).tobytes()
    assert comparison.original.tobytes() == photo.tobytes()
    found = fidelity(io.BytesIO(data))
    assert comparison.fidelity is not None
    assert found is not None
    assert np.array_equal(comparison.fidelity.error, found.error)
    assert comparison.model == "sdl"


def test_a_number_of_bytes_instead_of_a_quality(photo: Image.Image) -> None:
    """The SDL file keeps to it, and so do the others.  The page names the quality of the others only."""
    found = compared(photo.crop((60, 60, 188, 188)), target_bytes=900)
    assert len(found.sdl.data) <= 900
    assert found.sdl.quality is None
    assert "SDL for its size" in Parsed(page_of(found)).all_text()


def test_a_format_that_cannot_get_so_small_says_so() -> None:
    """Its smallest file is shown, marked as such."""
    found = compared(images.gradient(24, 16), quality=0)
    jpeg = found.others[-1]
    assert (jpeg.quality, jpeg.fits) == (1, False)
    assert len(jpeg.data) > len(found.sdl.data)
    shown = Parsed(page_of(found)).all_text()
    more = 100 * len(jpeg.data) / len(found.sdl.data) - 100
    assert f"JPEG cannot get as small as the SDL file. Its smallest file is {more:.0f} % larger." in shown
    assert "JPEG its smallest file" in shown
    assert "JPEG cannot get as small." in page.panel(found, 1, 1).lead


def test_formats_that_pillow_lacks_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page says which ones, and pictures are then embedded as PNG."""
    check = features.check
    monkeypatch.setattr(features, "check", lambda name: name not in {"avif", "webp"} and check(name))
    found = compared(images.gradient(40, 32))
    assert [entry.name for entry in found.others] == ["JPEG"]
    assert found.missing == ("AVIF", "WebP")
    parsed = Parsed(page_of(found))
    for name in ("AVIF", "WebP"):
        assert f"{name} is missing, because this Pillow cannot write it." in parsed.all_text()
    kinds = [tag["data-kind"] for tag in parsed.attributes("div") if "data-kind" in tag]
    assert kinds == ["original", "sdl", "jpeg"]
    assert {str(tag["src"])[:15] for tag in parsed.attributes("img")} == {"data:image/png;", "data:image/jpeg"}


def test_a_file_without_room_for_a_map_says_so() -> None:
    """There is no choice of a map then."""
    smallest = len(images.saved(images.noise(64, 64), quality=0, fidelity=False, guard="off"))
    found = compared(images.noise(64, 64), target_bytes=smallest)
    assert found.fidelity is None
    text = page_of(found)
    assert "The SDL file has no map: there is no room for one in so few bytes." in text
    assert "data-group=" in text
    assert 'data-group="map"' not in text


def test_a_map_that_does_not_hold_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A denoiser changes the picture that the map is about."""
    load = SdlImageFile.load

    def denoised(self: SdlImageFile) -> Any:
        result = load(self)
        self.info["fidelity"]["holds"] = False
        return result

    monkeypatch.setattr(SdlImageFile, "load", denoised)
    found = compared(images.gradient(40, 32))
    assert found.fidelity is None
    assert "its bounds do not hold for a picture that was denoised" in page_of(found)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(orientation: int) -> None:
    """By each value of the Exif tag, as Pillow itself does it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    images.noise(7, 5).save(stream, "PNG", exif=exif)
    found, changes = compare._prepared(Image.open(stream), 100)
    assert found.tobytes() == ImageOps.exif_transpose(Image.open(stream)).tobytes()
    assert changes == (() if orientation == 1 else ("Turned upright, as its Exif says.",))


@pytest.mark.parametrize("mode", images.MODES)
def test_every_mode_becomes_rgb_or_gray(mode: str) -> None:
    """Opaque, of the same size, without metadata."""
    image = images.MODES[mode]()
    found, changes = compare._prepared(image, 100)
    assert found.mode == ("L" if mode in {"1", "F", "I", "I;16", "I;16B", "I;16L", "I;16N", "L", "LA", "La"} else "RGB")
    assert found.size == images.SIZE
    assert ("Laid on white, because JPEG has no transparency." in changes) == (
        mode in {"LA", "La", "PA", "RGBA", "RGBa"}
    )
    if mode == "RGBA":
        assert found.getpixel((0, 0)) == (255, 255, 255)


def test_large_photos_are_scaled_down() -> None:
    """The page says from which size."""
    found, changes = compare._prepared(images.gradient(300, 200), 120)
    assert found.size == (120, 80)
    assert changes == ("Scaled down from 300 \u00d7 200 to 120 \u00d7 80 pixels before it was encoded.",)


def test_colors_are_converted_to_srgb(srgb: bytes) -> None:
    """From a profile that is another one; a broken profile is ignored and named; sRGB changes nothing."""
    image = images.gradient()
    image.info["icc_profile"] = srgb
    found, changes = compare._prepared(image, 100)
    assert (found.tobytes(), changes) == (image.tobytes(), ())
    image.info["icc_profile"] = b"no profile"
    found, changes = compare._prepared(image, 100)
    assert (found.tobytes(), changes) == (image.tobytes(), ("Its color profile cannot be read and is ignored.",))
    profile = srgb.replace(b"\0s\0R\0G\0B", b"\0o\0t\0h\0r").replace(b"rXYZ", b"1XYZ")
    image.info["icc_profile"] = profile.replace(b"gXYZ", b"rXYZ").replace(b"1XYZ", b"gXYZ")  # Red is green.
    found, (change,) = compare._prepared(image, 100)
    assert found.tobytes() != image.tobytes()
    assert change.startswith("Converted to sRGB from the color profile \u201coth")


def test_damaged_exif_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    """The photo is compared without it."""

    def fail(_: Image.Image) -> None:
        raise SyntaxError

    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert compare._exif(images.gradient()) == {}
    assert compare._prepared(images.gradient(), 100)[1] == ()


def test_exif_texts_are_those_of_camera_time_and_description() -> None:
    """Long ones are cut; numbers and the place are not shown."""
    exif = Image.Exif()
    exif[0x010E], exif[0x010F], exif[0x0110], exif[0x0132] = "x" * 300, "Maker", "Maker 5", "2001:02:03 04:05:06"
    exif.get_ifd(0x8825)[1] = "N"
    image = images.gradient()
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    assert compare._exif(Image.open(stream)) == {
        "Description": "x" * 200 + "…",
        "Camera": "Maker 5",
        "Taken": "2001:02:03 04:05:06",
    }
    assert compare._text(7) == ""


def test_sdl_files_are_refused() -> None:
    """They have no original to be compared with."""
    with pytest.raises(ValueError, match="a comparison needs the original"):
        compared(images.opened(images.saved(images.gradient())))


def test_one_progress_for_all_parts() -> None:
    """It grows from 0 to 1000, with numbers between."""
    seen: list[int] = []
    with settings.using(progress=lambda done, total: seen.append(1000 * done // total)):
        compared(images.gradient(48, 48))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 1000)
    assert len({done for done in seen if 0 < done < 1000}) > 5


# Pictures in the page


def decoded(uri: str) -> Image.Image:
    """Return the picture of a data URI."""
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_pictures_are_embedded_without_loss(photo: Image.Image) -> None:
    """If there is room for it; else as JPEG, whose loss is stated."""
    found = embed.embedded(photo, embed.LIMIT)
    assert found.loss == ""
    assert decoded(found.uri).convert("RGB").tobytes() == photo.tobytes()
    small = embed.embedded(photo, 60_000)
    shown = decoded(small.uri)
    assert shown.format == "JPEG"
    assert len(small.uri) < 60_000 * 4 / 3 + 100
    match = re.fullmatch(r"JPEG of quality (\d+) with full color resolution, ([\d.]+) dB from the pixels", small.loss)
    assert match is not None
    assert int(match[1]) in embed.QUALITIES
    assert float(match[2]) == pytest.approx(images.psnr(shown.convert("RGB"), photo), abs=0.05)


def test_the_lowest_quality_is_taken_even_if_it_is_too_large(photo: Image.Image) -> None:
    """A page without the picture would be worse."""
    assert embed.embedded(photo, 10).loss.startswith(f"JPEG of quality {embed.QUALITIES[-1]}")


def test_many_photos_share_the_page() -> None:
    """Each has less room, down to a limit."""
    assert embed.limit(1) == embed.limit(20) == embed.LIMIT
    assert embed.limit(100) == embed.TOTAL // 200
    assert embed.limit(10**6) == embed.LEAST


@pytest.mark.parametrize("kind", ["photo", "noise"])
def test_a_page_of_512_pixels_is_below_2_mb(kind: str, comparison: Comparison) -> None:
    """The pictures are embedded without loss; noise, which is larger than any photo, is not."""
    with Image.open(ROOT / "docs" / "grace_hopper.jpg") as image:
        picture = image.convert("RGB").crop((0, 40, 512, 552)) if kind == "photo" else images.noise(512, 512)
    # The files of the other formats take at most a twentieth of it.  They are those of a smaller photo here.
    text = page_of(dataclasses.replace(comparison, original=picture, decoded=picture))
    assert len(text.encode()) < 2e6
    assert ("The original and the decoded SDL picture without loss" in text) == (kind == "photo")


# The map


def test_the_map_is_drawn_with_one_pixel_for_a_cell() -> None:
    """Colors grow lighter with the error, and stop at the ends of the scale."""
    values = np.array([[1, 2, 4], [16, 64, 255]], np.float32)
    drawn = np.asarray(Image.open(io.BytesIO(heat.png(values))).convert("RGB")).astype(int)
    assert drawn.shape == (2, 3, 3)
    assert drawn[0, 0].tolist() == drawn[0, 1].tolist() == list(heat.COLORS[0])
    assert drawn[1, 1].tolist() == drawn[1, 2].tolist() == list(heat.COLORS[-1])
    assert drawn[0, 2].tolist() == list(heat.COLORS[1])
    between = heat.colors(np.exp2(np.linspace(1, 6, 40, dtype=np.float32))) @ np.array(fidelity_map.LUMA)
    assert (np.diff(between) > 0).all()


def test_guarded_parts_are_clear_and_the_rest_is_dark() -> None:
    """One pixel for a cell of 16; boxes at the edge are cut off there."""
    drawn = np.asarray(Image.open(io.BytesIO(heat.spotlight([[16, 0, 48, 16], [64, 32, 70, 40]], (70, 40), 16))))
    assert drawn[:, :, 1].tolist() == [[255, 0, 0, 255, 255], [255] * 5, [255, 255, 255, 255, 0]]
    assert not drawn[:, :, 0].any()


# The page


def test_texts_of_files_are_escaped(text: str) -> None:
    """The hostile name and Exif stand on the page as text, and add no tag, attribute or script."""
    parsed = Parsed(text)
    name = HOSTILE.replace("\u202e", "\ufffd")
    assert parsed.texts.count(("bdi", name)) == 2 - 1
    for shown in ("</script><script>alert(2)</script>", 'Camera" onload="alert(3)', name):
        assert shown in parsed.all_text()
    assert len(parsed.attributes("script")) == len(parsed.attributes("style")) == 1
    for _, attributes in parsed.tags:
        assert not [attribute for attribute in attributes if attribute.startswith("on") or attribute == "style"]
    assert all(str(tag["src"]).startswith("data:image/") for tag in parsed.attributes("img"))
    (link,) = [tag for tag in parsed.attributes("a") if tag["data-file"] == "sdl"]
    assert link["download"] == f"{Path(name).stem}.sdl"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a<b>&\"'", "a&lt;b&gt;&amp;&quot;&#x27;"),
        ("line\nline\0", "line\ufffdline\ufffd"),
        ("half \udcff of \ud800 pairs", "half \ufffd of \ufffd pairs"),
        ("gpj.\u202eexe", "gpj.\ufffdexe"),
        (
            "$style \u00e9 \u65e5\u672c \U0001f469\u200d\U0001f52c",
            "$style \u00e9 \u65e5\u672c \U0001f469\u200d\U0001f52c",
        ),
    ],
)
def test_values_are_escaped_once(raw: str, shown: str) -> None:
    """Only `Html` is not; a value is no template."""
    assert page.fill("<p>$value</p>", value=raw) == f"<p>{shown}</p>"
    assert page.fill("<p>$value</p>", value=page.Html("<b>$style</b>")) == "<p><b>$style</b></p>"


def test_the_policy_forbids_the_network(text: str) -> None:
    """It allows the page's own style and script by their hashes, data URIs for pictures, and nothing else."""
    (policy,) = [tag for tag in Parsed(text).attributes("meta") if tag.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in str(policy["content"]).split("; "))
    hashes = {}
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        hashes[tag] = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": f"'sha256-{hashes['style']}'",
        "script-src": f"'sha256-{hashes['script']}'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_the_page_names_the_model_and_the_risk(text: str) -> None:
    """Detail is partly invented."""
    shown = Parsed(text).all_text()
    assert "SDL invents part of the detail that it shows. Its decoder, the model sdl, fills in" in shown
    assert "Do not use such pictures as evidence or in medicine." in shown


def test_the_table_has_the_figures(comparison: Comparison, text: str) -> None:
    """Bytes, bits per pixel, PSNR and SSIM of each file."""
    shown = Parsed(text).all_text()
    for entry in (comparison.sdl, *comparison.others):
        assert entry.ssim is not None
        bits = 8 * len(entry.data) / 320**2
        row = f"{entry.name} quality {entry.quality} {len(entry.data):,} {bits:.3f} {entry.psnr:.2f} {entry.ssim:.3f}"
        assert row.replace(" ", "") in shown.replace(" ", "")
    assert f"Original PNG {comparison.file_size:,}".replace(" ", "") in shown.replace(" ", "")


def test_equal_and_tiny_pictures_have_no_figures() -> None:
    """A PSNR that is infinite, an SSIM that is not defined, and a file of unknown size."""
    found = compared(images.gradient(9, 7))
    found = dataclasses.replace(found, sdl=found.sdl._replace(psnr=np.inf))
    shown = Parsed(page_of(found)).all_text()
    assert re.search(r"SDL quality 50\s?[\d,]+\s?[\d.]+\s?equal\s?\u2013", shown)


def test_exif_can_be_left_out(comparison: Comparison) -> None:
    """The page then has none of its texts."""
    panel = page.panel(comparison, 1, 1, with_exif=False)
    assert "alert(2)" not in panel.body
    assert "Camera" not in panel.body


def test_a_page_of_several_photos_lists_them(comparison: Comparison) -> None:
    """Each has its own part, and the list leads there; failures are named."""
    others = [dataclasses.replace(comparison, name=name) for name in ("first.jpg", "second.jpg")]
    parsed = Parsed(page_of(*others, failures=(("bad<b>.jpg", "it is <i>bad"),)))
    assert ("h1", "") not in parsed.texts
    assert "2 photos" in parsed.all_text()
    links = [tag["href"] for tag in parsed.attributes("a") if str(tag.get("href")).startswith("#")]
    assert links == [f"#{tag['id']}" for tag in parsed.attributes("section") if "id" in tag] == ["#photo-1", "#photo-2"]
    assert "Not comparedbad<b>.jpg: it is <i>bad" in parsed.all_text()
    names = [tag["name"] for tag in parsed.attributes("input")]
    assert {names.count(name) for name in names} == {3, 5}
    ids = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


# The command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two photos, a broken one, and files that are no photos."""
    images.gradient(40, 24).save(tmp_path / "b.png")
    images.noise(30, 30).save(tmp_path / "a.jpg")
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    for name in ("notes.txt", ".hidden.png", "old.sdl", "page.html"):
        (tmp_path / name).write_bytes(b"nothing")
    (tmp_path / "folder.png").mkdir()
    return tmp_path


@pytest.mark.plain
def test_a_folder_with_a_bad_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The photos are on the page, in order, and so is the failure; the status is 1."""
    output = folder / "report.html"
    assert cli.main(["report", str(folder), "-o", str(output)]) == 1
    parsed = Parsed(output.read_text("utf-8"))
    assert [tag["aria-label"] for tag in parsed.attributes("section") if "aria-label" in tag] == [
        "Photo 1: a.jpg",
        "Photo 2: b.png",
    ]
    assert "Not compared" in parsed.all_text()
    assert "broken.jpg: not a picture that Pillow can read" in parsed.all_text()
    for name in ("notes.txt", ".hidden.png", "old.sdl", "page.html", "folder.png"):
        assert name not in parsed.all_text()
    messages = capsys.readouterr().err.splitlines()
    assert messages[0] == f"sdl: {folder / 'broken.jpg'}: not a picture that Pillow can read"
    assert messages[1].startswith(f"{output}: 2 of 3 photos, ")


def test_options_reach_the_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of SDL, the largest side, and --strip."""
    calls: list[tuple[Any, ...]] = []

    def record(image: Image.Image, name: str, size: int, given: dict[str, Any], **more: Any) -> None:
        calls.append((image.size, name, size, given, more))
        msg = "recorded"
        raise ValueError(msg)

    monkeypatch.setattr(compare, "compare", record)
    path = tmp_path / "photo.png"
    images.gradient().save(path)
    chosen = ["--target-bytes", "900", "--effort", "3", "--model", "taesd", "--max-side", "700"]
    for options in ([], chosen):
        assert cli.main(["report", str(path), "-o", str(tmp_path / "x.html"), *options]) == 1
    size = path.stat().st_size
    assert calls == [
        (images.SIZE, "photo.png", size, {}, {"max_side": 1024}),
        (images.SIZE, "photo.png", size, {"target_bytes": 900, "effort": 3, "model": "taesd"}, {"max_side": 700}),
    ]


@pytest.mark.parametrize(
    "options",
    [
        ["-o", "report.txt"],
        ["-o", "photo.png"],
        ["-o", ""],
        ["--max-side", "15"],
        ["--max-side", "x"],
        ["--quality", "101"],
        ["--quality", "1", "--target-bytes", "900"],
        ["--fidelity"],
        ["-"],
    ],
    ids=str,
)
def test_wrong_command_lines(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 2, and nothing is written.  The output cannot be the photo, because its name must end in .html."""
    monkeypatch.chdir(tmp_path)
    images.gradient().save("photo.png")
    before = Path("photo.png").read_bytes()
    with pytest.raises(SystemExit) as exit_:
        cli.main(["report", "photo.png", *options])
    assert exit_.value.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
    assert Path("photo.png").read_bytes() == before


def test_inputs_that_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without photos, a missing file, an SDL file: status 1, and no page without a photo."""
    empty = tmp_path / "empty"
    empty.mkdir()
    sdl = tmp_path / "photo.sdl"
    sdl.write_bytes(images.saved(images.gradient()))
    missing = tmp_path / "missing.jpg"
    assert cli.main(["report", str(empty), str(missing), str(sdl), "-o", str(tmp_path / "x.html")]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"sdl: {empty}: there are no photos in this folder",
        f"sdl: {missing}: No such file or directory",
        f"sdl: {sdl}: this is an SDL file; a comparison needs the original",
    ]
    assert not (tmp_path / "x.html").exists()


def test_a_folder_that_cannot_be_listed_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is one input that fails, with the reason of the system."""

    def refuse(_: str) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "scandir", refuse)
    assert cli.main(["report", str(tmp_path), "-o", str(tmp_path / "x.html")]) == 1
    assert capsys.readouterr().err == f"sdl: {tmp_path}: {os.strerror(errno.EACCES)}\n"


def test_folders_stand_for_the_pictures_that_encode_takes(tmp_path: Path) -> None:
    """An MPEG video is none: Pillow reads nothing but its name.  An MPO file is one, which Pillow opens as JPEG."""
    for name in ("video.mpg", "weather.grib", "both.mpo", "a.png"):
        (tmp_path / name).touch()
    assert report._photos([str(tmp_path)]) == ([str(tmp_path / "a.png"), str(tmp_path / "both.mpo")], {})


def test_a_page_that_exists_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unless -f is given.  It is seen before any work is done."""
    images.gradient().save(tmp_path / "photo.png")
    output = tmp_path / "report.html"
    output.write_text("mine")
    assert cli.main(["report", str(tmp_path / "photo.png"), "-o", str(output)]) == 1
    assert output.read_text() == "mine"
    assert capsys.readouterr().err == f"sdl: {output}: the file exists; -f replaces it\n"
    assert cli.main(["report", "-f", "--quiet", str(tmp_path / "photo.png"), "-o", str(output)]) == 0
    assert output.read_text("utf-8").startswith("<!doctype html>")
    assert capsys.readouterr().err == ""


def test_standard_input_and_output() -> None:
    """A photo comes in, and a page goes out."""
    stream = io.BytesIO()
    images.gradient().save(stream, "PNG")
    command = [sys.executable, "-m", "pillow_sdl", "report", "-", "-o", "-"]
    found = subprocess.run(command, input=stream.getvalue(), capture_output=True, check=True, cwd=ROOT)
    shown = Parsed(found.stdout.decode("utf-8")).all_text()
    assert "standard input" in shown
    assert f"Original PNG {len(stream.getvalue()):,}".replace(" ", "") in shown.replace(" ", "")


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="names of files are Unicode there")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 in a file's name."""
    path = os.fsencode(tmp_path) + b"/\xff<b>.png"
    images.gradient().save(os.fsdecode(path))
    output = tmp_path / "report.html"
    assert cli.main(["report", str(tmp_path), "-o", str(output)]) == 0
    assert "\ufffd<b>.png" in Parsed(output.read_bytes().decode("utf-8")).all_text()


# In a browser


WIDTHS = {1280: 900, 390: 844}
"""Widths and heights of the window."""


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests."""
    if sys.platform == "win32":
        pytest.skip("the tests drive the browser through inherited pipes, which Windows does not have")
    from . import browser as module

    if module.PROGRAM is None:
        pytest.skip("there is no chromium")
    with module.Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="session")
def axe() -> str:
    """The script of axe-core, which checks the rules of accessibility."""
    folders = [ROOT / "node_modules", *map(Path, filter(None, os.environ.get("NODE_PATH", "").split(os.pathsep)))]
    if npm := shutil.which("npm"):
        found = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, check=False)
        folders.append(Path(found.stdout.strip()))
    for folder in folders:
        path = folder / "axe-core" / "axe.min.js"
        if path.exists():
            return path.read_text("utf-8")
    pytest.skip("axe-core is not installed: npm install axe-core")


@pytest.fixture(scope="session")
def addresses(
    tmp_path_factory: pytest.TempPathFactory, comparison: Comparison, text: str, photo: Image.Image
) -> dict[str, str]:
    """Addresses of a page with one photo, of one with two photos and a failure, and of one with a guarded part."""
    folder = tmp_path_factory.mktemp("pages")
    several = page_of(*[comparison] * 2, failures=(("bad.jpg", "it is bad"),))
    guarded = page_of(compared(photo, guard=[(100, 100, 160, 140)]))
    pages = {"one": text, "several": several, "guarded": guarded}
    for name, content in pages.items():
        (folder / f"{name}.html").write_text(content, "utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in pages}


@pytest.fixture
def opened(browser: Browser, addresses: dict[str, str]) -> Iterator[Callable[..., Browser]]:
    """A function that opens a page.  Afterwards the page must have asked for nothing and complained about nothing."""
    address, across = "", 0

    def load(width: int, name: str = "one", scheme: str = "light") -> Browser:
        nonlocal address, across
        address, across = addresses[name], width
        browser.open(address, width, WIDTHS[width], scheme=scheme, touch=width == 390)
        return browser

    yield load
    assert browser.complaints() == []
    assert browser.requests() == [address]
    assert browser.run("document.documentElement.scrollWidth") <= across, "the page is wider than the window"


def at(browser: Browser) -> float:
    """Return where the line is, in per cent, after checking that the pictures are cut there."""
    found = float(browser.run("document.querySelector('.divider').getAttribute('aria-valuenow')"))
    stage, line = browser.box(".stage"), browser.box(".divider")
    assert line[0] + line[2] / 2 == pytest.approx(stage[0] + stage[2] * found / 100, abs=stage[2] / 100)
    cut = browser.run("getComputedStyle(document.querySelector('.layer.right')).clipPath")
    assert float(re.findall(r"[\d.]+", cut)[-1]) == pytest.approx(found, abs=0.6)
    return found


def zoom(browser: Browser) -> int:
    """Return the zoom that the page states, in per cent of the fitted picture, after checking the picture's size."""
    sizes = [browser.run(f"document.querySelector('{name}').getBoundingClientRect().width") for name in
             (".layer.left .picture", ".stage")]  # fmt: skip
    stated = int(browser.run("document.querySelector('output').textContent").split()[0])
    assert stated == pytest.approx(100 * sizes[0] / 320, abs=1)
    found: int = round(100 * sizes[0] / sizes[1])
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_the_line_is_dragged(opened: Callable[..., Browser], width: int) -> None:
    """With the mouse, or on the phone with a finger; a finger that only touches does not move it."""
    browser = opened(width)
    assert at(browser) == 50
    left, top, across, down = browser.box(".stage")
    places = [(left + across * part, top + down / 2) for part in (0.5, 0.6, 0.8)]
    if width == 390:
        browser.touch("touchStart", (left + across * 0.2, top + down / 3))
        browser.touch("touchEnd")
        assert at(browser) == 50
        browser.touch("touchStart", places[0])
        for place in places[1:]:
            browser.touch("touchMove", place)
        browser.touch("touchEnd")
    else:
        browser.mouse("mousePressed", *places[0])
        for place in places[1:]:
            browser.mouse("mouseMoved", *place)
        browser.mouse("mouseReleased", *places[-1])
    assert at(browser) == pytest.approx(80, abs=1)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_keyboard_moves_the_line_and_zooms(opened: Callable[..., Browser], width: int) -> None:
    """Arrows, Page Up and Down, Home and End; +, -, 0; Shift with arrows moves the enlarged picture."""
    browser = opened(width)
    browser.run("document.querySelector('.divider').focus()")
    for key, place in (("ArrowRight", 52), ("ArrowUp", 54), ("ArrowLeft", 52), ("ArrowDown", 50), ("PageUp", 60),
                       ("PageDown", 50), ("End", 100), ("Home", 0), ("ArrowLeft", 0)):  # fmt: skip
        browser.key(key)
        assert at(browser) == place, key
    label = "document.querySelector('.divider').getAttribute('aria-valuetext')"
    assert browser.run(label) == "0 % Original, the rest SDL"
    assert zoom(browser) == 100
    browser.key("+")
    browser.key("+")
    assert zoom(browser) == 400
    corner = "document.querySelector('.layer.left .picture').getBoundingClientRect().left"
    before = browser.run(corner)
    browser.key("ArrowRight", shift=True)
    assert browser.run(corner) == before - 40
    browser.key("-")
    assert zoom(browser) == 200
    browser.key("0")
    assert zoom(browser) == 100


def test_tab_reaches_every_control_and_shows_where_it_is(opened: Callable[..., Browser]) -> None:
    """Each has an outline while it has the focus."""
    browser = opened(1280)
    reached = []
    outline = (
        "(() => { const found = document.activeElement; const shown = [found, found.parentElement, ...found.children];"
        "return [found.dataset.group || found.dataset.zoom || found.dataset.file || found.className || found.localName,"
        "shown.some((one) => getComputedStyle(one).outlineStyle === 'solid')]; })()"
    )
    expected = [
        "plain",
        "divider",
        "summary",
        "left",
        "right",
        "out",
        "in",
        "fit",
        "map",
        "sdl",
        "avif",
        "webp",
        "jpeg",
    ]
    for _ in [*expected, "summary"]:
        browser.key("Tab")
        name, visible = browser.run(outline)
        reached.append(name)
        assert visible, name
    assert reached == [*expected, "summary"]


@pytest.mark.parametrize("width", WIDTHS)
def test_the_wheel_fingers_and_buttons_zoom(opened: Callable[..., Browser], width: int) -> None:
    """The wheel scrolls the page until the picture is clicked; then the point below it stays.  Dragging moves it."""
    browser = opened(width)
    left, top, across, down = browser.box(".stage")
    x, y = left + across * 0.25, top + down * 0.25
    if width == 390:
        browser.touch("touchStart", (x - 20, y), (x + 20, y))
        browser.touch("touchMove", (x - 40, y), (x + 40, y))
        browser.touch("touchMove", (x - 60, y), (x + 60, y))
        browser.touch("touchEnd")
        assert zoom(browser) == pytest.approx(300, abs=60)
    else:
        browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-300)
        assert zoom(browser) == 100
        browser.mouse("mousePressed", x, y)
        browser.mouse("mouseReleased", x, y)
        browser.mouse("mouseWheel", x, y, deltaX=0, deltaY=-300)
        browser.run("new Promise((done) => setTimeout(done, 100))")
        assert zoom(browser) == pytest.approx(272, abs=2)
        stage, picture = browser.box(".stage"), browser.box(".layer.left .picture")
        assert (x - picture[0]) / picture[2] == pytest.approx((x - left) / stage[2], abs=0.01)
        browser.mouse("mousePressed", x + 90, y)  # Beside the line, which the click has moved to x.
        browser.mouse("mouseMoved", x + 60, y)
        browser.mouse("mouseReleased", x + 60, y)
        assert browser.box(".layer.left .picture")[0] == pytest.approx(picture[0] - 30, abs=0.5)
    browser.click("[data-zoom=fit]")
    assert zoom(browser) == 100
    browser.click("[data-zoom=in]")
    assert zoom(browser) == 200
    browser.click("[data-zoom=out]")
    assert zoom(browser) == 100


@pytest.mark.parametrize("width", WIDTHS)
def test_the_map_is_switched_on_and_off(opened: Callable[..., Browser], width: int) -> None:
    """It lies over the SDL picture, covers it, comes with its legend, and brings SDL back if it was not shown."""
    browser = opened(width)
    visible = "[...document.querySelectorAll('.map')].map((map) => getComputedStyle(map).visibility === 'visible')"
    legends = "[...document.querySelectorAll('.legend')].map((legend) => legend.checkVisibility())"
    assert browser.run(visible) == browser.run(legends) == [False, False]
    browser.click("label:has([data-group=map][value=error])")
    assert browser.run(visible) == browser.run(legends) == [True, False]
    picture, covered = browser.box(".layer.right .picture"), browser.box(".map.error")
    assert covered[2] / picture[2] == pytest.approx(7 * 48 / 320, abs=0.001)
    assert covered[3] / picture[3] == pytest.approx(7 * 48 / 320, abs=0.001)
    browser.click("label:has([data-group=map][value=off])")
    browser.click("label:has([data-group=right][value=jpeg])")
    shown = "[...document.querySelectorAll('.tag')].map((tag) => tag.textContent)"
    assert browser.run(shown) == ["Original", "JPEG"]
    browser.click("label:has([data-group=map][value=invented])")
    assert browser.run(shown) == ["Original", "SDL"]
    assert browser.run(visible) == browser.run(legends) == [False, True]


def test_guarded_parts_are_switched_on(opened: Callable[..., Browser]) -> None:
    """The picture keeps its colors then, and the dark cells cover it from edge to edge."""
    browser = opened(1280, "guarded")
    browser.click("label:has([data-group=map][value=guard])")
    picture, covered = browser.box(".layer.right .picture"), browser.box(".map.guard")
    assert covered == pytest.approx(picture, abs=0.5)
    assert browser.run("getComputedStyle(document.querySelector('.map.guard')).visibility") == "visible"
    assert browser.run("getComputedStyle(document.querySelector('.layer.right .picture')).filter") == "none"
    assert browser.run("document.querySelector('.legend[data-map=guard]').checkVisibility()") is True


def test_the_pictures_are_chosen_by_keyboard(opened: Callable[..., Browser]) -> None:
    """Arrow keys in a group of radio buttons; every picture is shown by the browser."""
    browser = opened(1280)
    browser.run("document.querySelector('[data-group=left]:checked').focus()")
    for kind in ("sdl", "avif", "webp", "jpeg", "original"):
        browser.key("ArrowRight")
        assert browser.run("document.querySelector('.layer.left').dataset.kind") == kind
    assert browser.run("[...document.querySelectorAll('.picture')].map((one) => one.naturalWidth)") == [320] * 5
    assert browser.run("document.querySelectorAll(':disabled').length") == 0


def test_a_picture_that_the_browser_cannot_show_is_no_choice(
    browser: Browser, tmp_path: Path, comparison: Comparison
) -> None:
    """Such as AVIF in an old browser."""
    broken = comparison.others[0]._replace(data=b"a format of the future")
    path = tmp_path / "page.html"
    path.write_text(page_of(dataclasses.replace(comparison, others=(broken, *comparison.others[1:]))), "utf-8")
    browser.open(path.as_uri(), 1280, 900)
    disabled = "[...document.querySelectorAll(':disabled')].map((one) => one.value)"
    assert browser.run(disabled) == ["avif", "avif"]


def test_the_files_can_be_saved(opened: Callable[..., Browser], comparison: Comparison) -> None:
    """The links hold the very files."""
    browser = opened(1280)
    uris = browser.run("[...document.querySelectorAll('[data-file]')].map((one) => one.href)")
    data = [base64.b64decode(uri.partition(",")[2]) for uri in uris]
    assert data == [comparison.sdl.data, *(entry.data for entry in comparison.others)]


def test_no_script_of_an_attacker_runs(browser: Browser, addresses: dict[str, str]) -> None:
    """The name of the file is text.  If a text were not escaped, the policy would stop its script and its requests."""
    browser.open(addresses["one"], 1280, 900)
    assert browser.run("document.querySelector('h1').textContent") == HOSTILE.replace("\u202e", "\ufffd")
    assert browser.complaints() == []
    attack = '<img src="data:image/gif;," onerror="window.ran = true"><img src=http://127.0.0.1:9/x>'
    browser.run(f"document.body.insertAdjacentHTML('beforeend', '{attack}')")
    browser.run("new Promise((done) => setTimeout(done, 100))")
    assert browser.run("window.ran") is None
    complaints = browser.complaints()
    assert sum("Content Security Policy" in complaint for complaint in complaints) == len(complaints) == 2


def test_the_theme_follows_the_system_until_it_is_chosen(opened: Callable[..., Browser]) -> None:
    """The button says which one is on."""
    browser = opened(1280, scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    pressed = "document.querySelector('#theme').getAttribute('aria-pressed')"
    dark = browser.run(ground)
    assert browser.run(pressed) == "true"
    browser.prefer("light")
    light = browser.run(ground)
    assert light != dark
    assert browser.run(pressed) == "false"
    browser.click("#theme")
    assert (browser.run(ground), browser.run(pressed)) == (dark, "true")
    browser.prefer("dark")
    browser.click("#theme")
    assert (browser.run(ground), browser.run(pressed)) == (light, "false")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["one", "several"])
def test_the_page_keeps_the_rules_of_accessibility(
    opened: Callable[..., Browser], axe: str, width: int, scheme: str, name: str
) -> None:
    """axe-core finds no violation, with the map's legend and all details open."""
    browser = opened(width, name, scheme)
    browser.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    browser.run("document.querySelector('[data-group=map][value=error]').click()")
    browser.run(f"{axe}; 0")
    names = "found.violations.map((one) => [one.id, one.nodes.map((node) => node.html.slice(0, 200))])"
    found = browser.run(f"axe.run(document, {{resultTypes: ['violations']}}).then((found) => {names})")
    assert found == []
    assert browser.run("axe.version")
