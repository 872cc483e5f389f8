"""Benchmarks: the search for a size, metrics, BD-rates, runs that resume, tables and charts."""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks import entropy, rd, report, runs, stages
from benchmarks.__main__ import main
from benchmarks.bd_rate import bd_rate, interpolate
from benchmarks.codecs import FORMATS, Codec, Format, Search, sdl_variant
from benchmarks.metrics import Dists, Lpips, ms_ssim, psnr
from benchmarks.peers import VAEPACK_BITS, VAEZIP_BITS, Peer, Tiny, encoder, peers
from pillow_sdl import registry
from pillow_sdl.latent import scalar, spaces
from pillow_sdl.options import EncodeOptions

from . import networks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

pytestmark = pytest.mark.research

ROOT = Path(__file__).parent.parent
WEBP = next(codec for codec in FORMATS if codec.name == "WebP")
JPEG = next(codec for codec in FORMATS if codec.name == "JPEG")
METRICS = Path(os.environ.get("PILLOW_SDL_METRICS", "not given"))
SIDE = 176


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute with one thread here and in programs that tests run, which is faster for small pictures."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Noise of three colors, which takes many bytes in every format."""
    return Image.merge("RGB", [Image.effect_noise((96, 64), sigma) for sigma in (30, 60, 90)])


def sizes(codec: Format, picture: Image.Image) -> list[int]:
    """Return the bytes of all qualities."""
    return [len(codec.encode(picture, quality)) for quality in codec.qualities]


def test_the_largest_file_within_a_budget_is_found(picture: Image.Image) -> None:
    """The search agrees with an exhaustive one."""
    every = sizes(WEBP, picture)
    found = Search(WEBP, picture).largest_within(every[60] + 1)
    assert len(found.data) == max(size for size in every if size <= every[60] + 1)


def test_the_smallest_file_is_given_if_none_fits(picture: Image.Image) -> None:
    """The smallest file answers a budget that is too low, and a size that is too small."""
    search = Search(WEBP, picture)
    assert len(search.largest_within(10).data) == len(search.nearest(10).data) == min(sizes(WEBP, picture))


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_the_nearest_size_is_found(picture: Image.Image, off: int) -> None:
    """One byte below or above a size, the nearest size is that one; above the largest, it is the largest."""
    every = sizes(WEBP, picture)
    for quality in (60, 100):
        assert len(Search(WEBP, picture).nearest(every[quality] + off).data) == every[quality]


def test_no_quality_is_encoded_twice(picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow encoder is called once for each quality."""
    asked: list[int] = []
    encode = Format.encode

    def counted(self: Format, image: Image.Image, quality: int) -> bytes:
        asked.append(quality)
        return encode(self, image, quality)

    monkeypatch.setattr(Format, "encode", counted)
    search = Search(WEBP, picture)
    for wanted in (2000, 2100, 4000):
        search.nearest(wanted)
    assert len(asked) == len(set(asked))


def test_a_variant_of_sdl_passes_what_it_names_and_no_more() -> None:
    """Empty parts leave the defaults of `save`."""
    assert sdl_variant("") == next(codec for codec in FORMATS if codec.name == "SDL")
    full = sdl_variant("taesd:9:range")
    assert full.options == {"model": "taesd", "effort": 9, "payload": "range"}
    assert full.name == "SDL taesd effort 9 range"
    assert sdl_variant("::zstd").options == {"payload": "zstd"}
    for wrong in ("taesd:most", "taesd:9:range:more"):
        with pytest.raises(ValueError, match=r"most|MODEL:EFFORT:PAYLOAD"):
            sdl_variant(wrong)


def test_a_format_without_its_plugin_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """So is a format that Pillow was built without."""
    absent = Format("HEIC", "HEIF", plugin="no_such_plugin"), Format("JPEG XL", "NONE")
    monkeypatch.setattr(rd, "PLUGINS", absent)
    codecs, skipped = rd.available([], None)
    assert [codec.name for codec in codecs] == ["JPEG", "WebP", "AVIF", "SDL"]
    assert "no_such_plugin cannot be imported" in skipped["HEIC"]
    assert skipped["JPEG XL"] == "Pillow has no encoder of NONE"
    assert skipped["vaepack, vaezip"] == "--latents names no autoencoder"


def test_a_format_that_fails_is_left_out_but_sdl_must_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins may be built without their encoder.  A wrong option of SDL is a mistake of the caller."""
    monkeypatch.setattr(rd, "PLUGINS", (Format("HEIC", "PNG", qualities=range(0)), Format("odd", "WebP", {"xmp": 1})))
    assert {"HEIC", "odd"} <= set(rd.available([], None)[1])
    with pytest.raises(SystemExit, match="SDL none: ValueError: model must be one of"):
        rd.available([sdl_variant("none")], None)


def test_only_the_formats_that_are_named_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are reported as left out, and an unknown name is an error before anything is measured."""
    monkeypatch.setattr(rd, "PLUGINS", ())
    codecs, skipped = rd.available([], None, ["WebP"])
    assert [codec.name for codec in codecs] == ["WebP", "SDL"]
    assert skipped["AVIF"] == "--formats does not name it"
    assert [codec.name for codec in rd.available([], None, [])[0]] == ["SDL"]
    with pytest.raises(SystemExit, match="--formats GIF: there are JPEG, WebP, AVIF"):
        rd.available([], None, ["GIF", "AVIF"])


def test_psnr_is_that_of_its_definition() -> None:
    """An error of one tenth everywhere is 20 dB."""
    x = torch.full((2, 3, 8, 8), 0.5)
    assert psnr(x + 0.1, x).tolist() == pytest.approx([20, 20], abs=1e-4)


def test_ms_ssim_of_a_shift_is_the_luminance_of_the_coarsest_scale() -> None:
    """Flat images have equal contrast, which leaves (2 a b + C1) / (a^2 + b^2 + C1) to the power of 0.1333."""
    a, b, c1 = 0.25, 0.75, 1e-4
    x = torch.full((2, 3, SIDE, SIDE + 5), a)
    expected = ((2 * a * b + c1) / (a * a + b * b + c1)) ** 0.1333
    assert ms_ssim(x, torch.full_like(x, b)).tolist() == pytest.approx([expected] * 2, abs=1e-6)


def test_ms_ssim_is_that_of_a_second_reading_of_the_paper() -> None:
    """The second one cuts out windows one by one, in double precision, of noise and of a blurred copy of it."""
    x = torch.rand(1, 1, SIDE, 181, generator=torch.Generator().manual_seed(0))
    y = F.avg_pool2d(x, 3, 1, 1)
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    a, b = x[0, 0].double().numpy(), y[0, 0].double().numpy()
    expected = 1.0
    for scale, weight in enumerate([0.0448, 0.2856, 0.3001, 0.2363, 0.1333]):
        if scale:
            a, b = (np.pad(i, [(0, side % 2) for side in i.shape], mode="symmetric") for i in (a, b))
            a, b = ((i[::2, ::2] + i[1::2, ::2] + i[::2, 1::2] + i[1::2, 1::2]) / 4 for i in (a, b))
        u, v = (np.lib.stride_tricks.sliding_window_view(i, (11, 11)) for i in (a, b))
        mean_u, mean_v = ((i * window).sum((2, 3)) for i in (u, v))
        du, dv = u - mean_u[..., None, None], v - mean_v[..., None, None]
        var_u, var_v, covariance = ((i * window).sum((2, 3)) for i in (du * du, dv * dv, du * dv))
        similarity = (2 * covariance + 9e-4) / (var_u + var_v + 9e-4)
        if scale == 4:
            similarity = similarity * (2 * mean_u * mean_v + 1e-4) / (mean_u**2 + mean_v**2 + 1e-4)
        expected *= similarity.mean() ** weight
    assert 0.3 < expected < 0.95
    assert ms_ssim(x, y).item() == pytest.approx(expected, abs=1e-6)


def test_ms_ssim_of_a_negative_is_zero_and_of_a_small_image_an_error() -> None:
    """A negative number has no real fractional power."""
    x = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    assert ms_ssim(x, x).item() == pytest.approx(1, abs=1e-5)
    assert ms_ssim(x, 1 - x).item() == 0
    with pytest.raises(ValueError, match="176 x 176 pixels or more, not 175 x 200"):
        ms_ssim(torch.zeros(1, 3, 200, 175), torch.zeros(1, 3, 200, 175))


def test_interpolation_is_monotone() -> None:
    """Values of PCHIP; the curve does not overshoot beside a flat piece, and is a line through two points."""
    x, y = np.array([25.0, 27, 28, 31]), np.log([0.1, 0.15, 0.25, 0.5])
    found = [interpolate(x, y, at) for at in (25.5, 27.3, 30)]
    assert found == pytest.approx([-2.267814935824147, -1.7633522364649288, -0.8068321284958344], abs=1e-12)
    flat = [interpolate(np.arange(4.0), np.array([0.0, 1, 1, 2]), at) for at in np.linspace(1, 2, 9)]
    assert flat == pytest.approx(np.ones(9), abs=1e-12)
    assert interpolate(np.array([0.0, 2]), np.array([1.0, 5]), 0.5) == pytest.approx(2)


def test_bd_rate_of_half_the_bytes_is_minus_fifty_per_cent() -> None:
    """The result holds for metrics of either direction, for any order of points, and with useless points among them."""
    anchor = [(0.1, 25.0), (0.15, 27.0), (0.25, 28.0), (0.5, 31.0)]
    half = [(rate / 2, quality) for rate, quality in anchor]
    assert bd_rate(anchor, half, higher_is_better=True).percent == pytest.approx(-50)
    assert bd_rate(half, anchor[::-1], higher_is_better=True).percent == pytest.approx(100)
    assert bd_rate(anchor, [*half, (0.3, 30.9)], higher_is_better=True).percent == pytest.approx(-50)
    lower = [[(rate, -quality) for rate, quality in curve] for curve in (anchor, half)]
    found = bd_rate(*lower, higher_is_better=False)
    assert found.percent == pytest.approx(-50)
    assert found.overlap == (-31, -25)


def test_bd_rate_counts_only_qualities_of_both_curves() -> None:
    """If log rate is linear in quality, the mean difference over 26..27 is that of any of its points."""
    anchor = [(2.0**quality, quality) for quality in (24.0, 27.0)]
    tested = [(3 * 2.0**quality, quality) for quality in (26.0, 29.0)]
    found = bd_rate(anchor, tested, higher_is_better=True)
    assert found.percent == pytest.approx(200)
    assert found.overlap == (26, 27)


def test_bd_rate_says_why_there_is_none() -> None:
    """The reasons are curves without common qualities, and a curve with one useful point."""
    anchor = [(0.1, 25.0), (0.2, 27.0)]
    apart = bd_rate(anchor, [(0.1, 20.0), (0.2, 22.0)], higher_is_better=True)
    assert apart.percent is None
    assert apart.reason == "the curves do not overlap: all of the format's quality is below the anchor's"
    above = bd_rate(anchor, [(0.1, 27.0), (0.2, 29.0)], higher_is_better=True)
    assert "above" in str(above.reason)
    single = bd_rate(anchor, [(0.1, 26.0), (0.2, 25.0)], higher_is_better=True)
    assert single.percent is None
    assert "fewer than two points" in str(single.reason)


class Difference:
    """The mean absolute difference of pixels, in place of LPIPS and DISTS."""

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Return the pixels."""
        return [pixels]

    def distance(self, x: list[Tensor], y: list[Tensor]) -> Tensor:
        """Return the distance (B,)."""
        return (x[0] - y[0]).abs().mean((1, 2, 3))


class Pooled:
    """Means of 8 x 8 pixels and a fourth channel of zeros, in place of an autoencoder."""

    def encode(self, image: Image.Image) -> Tensor:
        """Return the latent of a picture."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        return F.pad(F.avg_pool2d(pixels, 8, ceil_mode=True), (0, 0, 0, 0, 0, 1))

    def decode(self, latent: Tensor, size: tuple[int, int]) -> Image.Image:
        """Return the picture of a latent."""
        pixels = ((latent[0, :3].clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
        large = Image.fromarray(pixels).resize((8 * latent.shape[3], 8 * latent.shape[2]))
        return large.crop((0, 0, *size))


def rounded(latent: Tensor, bits: int, size: tuple[int, int]) -> bytes:
    """Return a peer's file: width and height of the latent, then a byte for each value."""
    steps = 2**bits - 1
    symbols = ((latent[0] + 1) / 2 * steps).round() * (255 / steps)
    content: bytes = symbols.byte().numpy().tobytes()
    return bytes([latent.shape[3], latent.shape[2]]) + content


def restored(data: bytes) -> Tensor:
    """Return the latent of a file of `rounded`."""
    symbols = np.frombuffer(data[2:], np.uint8).reshape(1, 4, data[1], data[0])
    return torch.from_numpy(symbols.astype(np.float32) / 127.5 - 1)


PEER = Peer("rounded", (1, 3), Pooled(), rounded, restored)
SDL = Format("SDL", "SDL", {"effort": 0, "payload": "zstd"}, range(0, 101, 50))  # The fastest options.
CODECS: list[Codec] = [JPEG, WEBP, PEER, SDL]
RATES = [0.002, 0.5, 2.0]
PERCEPTUAL: rd.Perceptual = {"lpips": Difference(), "dists": Difference()}


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Two photos, as small as MS-SSIM allows.  One has a color profile that is too large for all wanted rates."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        noise = Image.effect_noise((SIDE, SIDE + index), 60).convert("RGB")
        Image.blend(noise, Image.linear_gradient("L").resize(noise.size).convert("RGB"), 0.7).save(
            folder / f"{index}.png", icc_profile=bytes(50_000 * index)
        )
    return runs.photos(folder, None)


def measure(paths: list[Path], output: Path) -> list[runs.Row]:
    """Return rows of all codecs above, with a journal beside `output`."""
    return rd.measure(paths, CODECS, RATES, PERCEPTUAL, runs.Journal(output, {"rates": RATES}, restart=False))


def test_a_run_measures_every_format_at_every_target(tmp_path: Path, paths: list[Path]) -> None:
    """Targets are rates, of which no format meets the first, and a peer's own files; the plot is drawn."""
    rows = measure(paths, tmp_path / "results.json")
    labels = ["rounded 1 bit", "rounded 3 bit"]
    targets: dict[str, list[rd.Target]] = {"JPEG": [*RATES], "WebP": [*RATES], "rounded": [*labels]}
    targets["SDL"] = [*RATES, *labels]
    expected = [(name, target) for name, every in targets.items() for target in every]
    for path in paths:
        assert [(row["format"], row["target"]) for row in rows if row["photo"] == path.name] == expected
    sizes = {(row["photo"], row["target"]): row["bytes"] for row in rows if row["format"] == "rounded"}
    for row in rows:
        pixels = SIDE * (SIDE + int(row["photo"][0]))
        assert row["bpp"] == 8 * row["bytes"] / pixels
        wanted = sizes.get((row["photo"], row["target"])) or round(row["target"] * pixels / 8)
        assert row["off_target"] == (abs(row["bytes"] - wanted) > 0.1 * wanted)
        assert row["dists"] == row["lpips"] > 0
        assert 0 < row["ms_ssim"] < 1
    assert all(row["off_target"] == (row["target"] == 0.002) for row in rows if row["format"] in ("JPEG", "WebP"))
    found = report.results({}, rows)
    assert found["schema"] == report.SCHEMA
    order = [(mean["target"], mean["format"]) for mean in found["means"]]
    assert order == [(rate, name) for rate in RATES for name in ("JPEG", "WebP", "SDL")] + [
        (label, name) for label in labels for name in ("rounded", "SDL")
    ]
    assert {mean["photos"] for mean in found["means"]} == {2}
    assert [mean["off_target"] for mean in found["means"][:4]] == [2, 2, 2, 0]
    webp = [mean["psnr"] for mean in found["means"] if mean["format"] == "WebP"]
    assert webp == sorted(webp)
    report.plot(found["means"], tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width > 1000


def test_an_interrupted_run_takes_up_where_it_stopped(
    tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After eight rows and half of a ninth, the eight stay as they are, and the rest is measured."""
    output = tmp_path / "results.json"
    path = tmp_path / "results.rows.jsonl"
    whole = measure(paths, output)
    lines = path.read_text("utf-8").splitlines(keepends=True)
    assert len(lines) == 1 + len(whole)
    path.write_text("".join(lines[:9]) + lines[9][:50], "utf-8")
    resumed = measure(paths, output)
    times = {"encode_s", "decode_s"}
    without = [[{k: v for k, v in row.items() if k not in times} for row in rows] for rows in (whole, resumed)]
    assert without[0] == without[1]
    assert resumed[:8] == whole[:8]
    assert resumed[8]["decode_s"] != whole[8]["decode_s"]
    monkeypatch.setattr(rd, "measure_photo", None)  # Nothing is left to measure.
    assert measure(paths, output) == resumed
    assert measure(paths[:1], output) == [row for row in resumed if row["photo"] == "0.png"]


def test_rows_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    """The message names what differs, and --restart drops the rows.  A journal without rows is replaced."""
    output = tmp_path / "results.json"
    setting = {"rates": [0.1], "versions": {"pillow": "13", "torch": "2"}}
    runs.Journal(output, setting | {"rates": [0.5]}, restart=False)
    runs.Journal(output, setting, restart=False).append({"photo": "a"})
    assert runs.Journal(output, setting, restart=False).rows == [{"photo": "a"}]
    other = setting | {"versions": {"pillow": "14", "torch": "2"}}
    with pytest.raises(SystemExit, match=r"other settings \(versions: pillow\): --restart"):
        runs.Journal(output, other, restart=False)
    assert runs.Journal(output, setting, restart=False).rows == [{"photo": "a"}]
    assert runs.Journal(output, other, restart=True).rows == []


def test_a_run_that_ended_leaves_its_results_only_and_can_be_extended(tmp_path: Path) -> None:
    """Rows come from results of the same setting.  Results of another one are replaced."""
    output = tmp_path / "results.json"
    journal = runs.Journal(output, {"space": "a", "points": (1, 2)}, restart=False)
    journal.append({"photo": "a"})
    journal.finish({"setting": journal.setting, "rows": journal.rows})
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert runs.Journal(output, {"space": "a", "points": (1, 2)}, restart=False).rows == [{"photo": "a"}]
    output.with_suffix(".rows.jsonl").write_text('{"spa')  # Cut off in the first line.
    assert runs.Journal(output, {"space": "b"}, restart=False).rows == []


def test_what_cannot_be_measured_is_said_before_the_run(tmp_path: Path) -> None:
    """The folder has no photos, or a photo is too small."""
    with pytest.raises(SystemExit, match=r"has no \.png or \.jpg"):
        runs.photos(tmp_path, None)
    Image.new("RGB", (300, 175)).save(tmp_path / "small.png")
    assert len(runs.photos(tmp_path, None)) == 1
    with pytest.raises(SystemExit, match="every must be 1 or more, not 0"):
        runs.photos(tmp_path, None, 1, 0)
    with pytest.raises(SystemExit, match=r"small\.png: 176 pixels a side are needed, not 300 x 175"):
        runs.photos(tmp_path, None, SIDE)


def test_photos_are_taken_in_the_order_of_their_names(tmp_path: Path) -> None:
    """`limit` and `every` choose among all photos."""
    for index in (3, 0, 4, 1, 2, 6, 5):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{index}.png")
    chosen = [(None, 1, "0123456"), (2, 1, "01"), (None, 3, "036"), (2, 3, "03")]
    for limit, every, names in chosen:
        assert "".join(path.stem for path in runs.photos(tmp_path, limit, 1, every)) == names


def test_the_command_is_told_without_the_folders_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are published, and folders are private."""
    monkeypatch.setattr("sys.argv", ["x", "rd", "--images", "/home/me/my photos", "--sdl", "taesd:9:range"])
    assert runs.command() == "python -m benchmarks rd --images 'my photos' --sdl taesd:9:range"
    monkeypatch.setattr("sys.argv", ["x", "--output", "../found.json", "--only", "blocks at 1/4"])
    assert runs.command("training.compare") == "python -m training.compare --output found.json --only 'blocks at 1/4'"


def test_versions_and_code_are_recorded() -> None:
    """Results name the versions of packages, and a hash of the code and of the registry."""
    found = runs.versions()
    assert found["pillow"] == PIL.__version__
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]  # Some builds name themselves here only.
    assert len(found[runs.SOURCE]) == 64
    assert set(runs.PACKAGES) <= set(found)


def result(**changed: object) -> runs.Row:
    """Return a row of a measurement."""
    row: runs.Row = {"photo": "a", "format": "SDL", "target": 0.25, "off_target": False, "bpp": 0.2}
    row |= {"psnr": 30.0, "ms_ssim": 0.9, "lpips": 0.1, "dists": 0.2, "encode_s": 0.1, "decode_s": 0.2}
    return row | changed


def test_bd_rates_are_of_sdl_against_the_others() -> None:
    """They are against other formats, against peers on their own files, and of variants against the first one."""
    rows = []
    for rate, quality in ((0.25, 30.0), (0.5, 33.0), (1.0, 35.0)):
        for name, share in (("WebP", 1.0), ("SDL", 0.5), ("SDL zstd", 0.6)):
            rows.append(result(format=name, target=rate, bpp=share * rate, psnr=quality))
        rows.append(result(format="peer", target=f"peer {quality}", bpp=rate / 4, psnr=quality))
        rows.append(result(target=f"peer {quality}", bpp=rate / 4, psnr=0.0))
    found = report.results({}, rows)["bd_rates"]
    percent = {(pair["format"], pair["anchor"]): pair["percent"] for pair in found if pair["metric"] == "psnr"}
    assert percent == pytest.approx(
        {
            ("SDL", "WebP"): -50,
            ("SDL", "peer"): 100,
            ("SDL zstd", "WebP"): -40,
            ("SDL zstd", "peer"): 140,
            ("SDL zstd", "SDL"): 20,
        }
    )
    assert all("fewer than two points" in pair["reason"] for pair in found if pair["metric"] == "lpips")


def test_the_table_has_means_and_bd_rates() -> None:
    """Rows are means of two photos, with misses counted, and a peer's own file."""
    rows = [result(format="peer", target="peer 2 bit"), result(target="peer 2 bit", bpp=0.19)]
    rows += [result(), result(photo="b", bpp=0.3, off_target=True)]
    found = report.results({"setting": {"skipped": {"HEIC": "not there"}}}, rows)
    assert report.table(found).splitlines() == [
        "| target | format | bpp | PSNR dB | MS-SSIM | LPIPS | DISTS | encode s | decode s |",
        "|---|---|---|---|---|---|---|---|---|",
        "| 0.25 | SDL | 0.2500 (1 off) | 30.00 | 0.9000 | 0.1000 | 0.2000 | 0.10 | 0.20 |",
        "| peer 2 bit | peer | 0.2000 | 30.00 | 0.9000 | 0.1000 | 0.2000 | 0.10 | 0.20 |",
        "| peer 2 bit | SDL | 0.1900 | 30.00 | 0.9000 | 0.1000 | 0.2000 | 0.10 | 0.20 |",
        "",
        "(n off): for n of the 2 photos no file is within 10 % of the target; the nearest one counts.",
        "",
        "BD-rate: difference in bytes for the same quality, less is better; - if the qualities do not overlap.",
        "",
        "| bytes of | against | PSNR | MS-SSIM | LPIPS | DISTS |",
        "|---|---|---|---|---|---|",
        "| SDL | peer | - | - | - | - |",
        "",
        "Not measured: HEIC (not there).",
    ]
    with pytest.raises(ValueError, match="schema None, not 1"):
        report.table({"means": []})


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("rd*.json")), ids=lambda path: path.stem)
def test_committed_results_can_be_read(path: Path) -> None:
    """Their means and BD-rates are those of their rows."""
    found = json.loads(path.read_text("utf-8"))
    again = report.results({}, found["rows"])
    assert again["means"] == found["means"]
    for pair, kept in zip(again["bd_rates"], found["bd_rates"], strict=True):
        assert pair["percent"] == pytest.approx(kept["percent"], abs=1e-6)
        assert (pair["format"], pair["anchor"], pair["metric"]) == (kept["format"], kept["anchor"], kept["metric"])
    assert report.table(found)


def test_vaepack_codes_a_latent_losslessly_but_for_its_rounding() -> None:
    """Its header counts, and the error is that of 2^bits levels over -4..4."""
    pytest.importorskip("vaepack")
    coder = next(peer for peer in peers(Pooled())[0] if peer.name == "vaepack")
    latent = torch.randn(1, 4, 9, 13, generator=torch.Generator().manual_seed(0)).clamp(-4, 4)
    for bits in VAEPACK_BITS:
        data = coder.pack(latent, bits, (100, 70))
        assert data.startswith(b"ZVAE0001")
        assert b'"original_width":100,"original_height":70' in data
        assert (coder.unpack(data) - latent).abs().max() <= 4 / (2**bits - 1) + 1e-6


def test_vaezip_codes_a_latent_at_every_bit_setting() -> None:
    """The numbers of bits here are among its shortcuts, and the error falls as they grow."""
    vaezip = pytest.importorskip("vaezip")
    assert {f"lbrq_{bits}bit" for bits in VAEZIP_BITS} <= set(vaezip.codecs.list_shortcuts())
    latent = torch.randn(1, 4, 9, 13, generator=torch.Generator().manual_seed(0))
    coder = next(peer for peer in peers(Pooled())[0] if peer.name == "vaezip")
    files = [coder.pack(latent, bits, (100, 70)) for bits in coder.qualities]
    errors = [(coder.unpack(data) - latent).square().mean().item() for data in files]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 2e-2


def test_a_peer_that_is_not_installed_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python marks a module that cannot be imported by an entry of None in sys.modules."""
    for package in ("vaepack", "vaezip"):
        monkeypatch.setitem(sys.modules, package, None)
    found, missing = peers(Pooled())
    assert found == []
    assert set(missing) == {"vaepack", "vaezip"}


@pytest.mark.skipif(not METRICS.exists(), reason="PILLOW_SDL_METRICS names no folder with LPIPS and DISTS")
def test_perceptual_distances_grow_with_damage(picture: Image.Image) -> None:
    """The distance of a picture from itself is 0, and it grows as a copy is blurred more."""
    tensors = [torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))]
    tensors += [torch.nn.functional.avg_pool2d(tensors[0], size, 1, size // 2) for size in (3, 7)]
    for metric in (Lpips(METRICS), Dists(METRICS)):
        same, little, much = (metric(tensor, tensors[0]).item() for tensor in tensors)
        assert same == pytest.approx(0, abs=1e-5)
        assert 0.01 < little < much


SPACE = registry.EMBEDDED
"""The latent space of most tests."""

CHANNELS = registry.space(SPACE).channels


@pytest.fixture
def symbols() -> entropy.Symbols:
    """Symbols of the space, mostly zero, with one channel beyond int8."""
    drawn = np.random.default_rng(0).laplace(0, 1, (CHANNELS, 5, 7)).round().astype(np.int16)
    drawn[3] *= 100
    return drawn


def test_order_0_is_the_entropy_of_the_frequencies() -> None:
    """Four equally likely values take two bits each, one value takes none, and frequencies by channel cost less."""
    four = np.arange(4, dtype=np.int16).repeat(8)
    assert entropy.order_0_size(four) == pytest.approx(8)
    assert entropy.order_0_size(np.zeros(50, np.int16)) == 0
    repeats = CHANNELS // 4
    drawn = np.tile(four.reshape(4, 1, 8), (repeats, 1, 1))
    row = entropy.measure_symbols(drawn, SPACE, np.zeros(CHANNELS, np.int64), 1, None)
    assert (row["order_0"], row["order_0_channels"]) == (pytest.approx(repeats * 8), 0)


def test_the_plain_coder_takes_int16_only_where_it_must(symbols: entropy.Symbols) -> None:
    """The frame is as large as the planes that noise fills."""
    assert entropy.zstd_size(np.full((1, 90, 90), 127, np.int16)) < 30
    noise = np.random.default_rng(0).integers(-128, 128, (4, 50, 50)).astype(np.int16)
    assert 10_000 < entropy.zstd_size(noise) < 10_050
    noise[0, 0, 0] = 128
    assert entropy.zstd_size(noise) > 11_000
    assert entropy.zstd_size(symbols) > symbols.size // 4


def test_the_range_payload_takes_little_more_than_its_ideal(symbols: entropy.Symbols) -> None:
    """It adds two bytes, a state and the rounding to a word.  Zeros take nothing.  Decoding is checked and timed."""
    steps = np.full(CHANNELS, -256, np.int64)
    ideal = entropy.ideal_size(symbols, SPACE, steps)
    row = entropy.times(symbols, SPACE, steps, 1)
    assert ideal < row["range"] < ideal * 1.001 + 12
    assert min(row[f"{name}_{work}_ms"] for name in ("zstd", "range") for work in ("encode", "decode")) > 0
    assert entropy.ideal_size(np.zeros_like(symbols), SPACE, steps) == 0


def test_a_coder_that_loses_symbols_is_an_error(symbols: entropy.Symbols, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of a coder that cannot decode do not count."""
    monkeypatch.setattr("pillow_sdl.latent.entropy.decode", lambda *_: symbols + 1)
    with pytest.raises(RuntimeError, match=f"payload method zstd does not give back the symbols of {SPACE}"):
        entropy.times(symbols, SPACE, np.zeros(CHANNELS, np.int64), 1)


def test_points_are_one_step_or_those_of_save() -> None:
    """Coders get the step in 1/256 octave."""
    half = entropy.uniform(0.5, 4)
    assert (half.name, half.step.tolist(), half.log2_steps.tolist()) == ("step 0.5", [0.5] * 4, [-256] * 4)
    assert entropy.uniform(0.75, 1).log2_steps.tolist() == [-106]
    low, high = (entropy.of_quality(quality, SPACE) for quality in (10, 90))
    assert low.log2_steps.shape == (CHANNELS,)
    assert (low.step > high.step).all()
    assert np.log2(low.step) * 256 == pytest.approx(low.log2_steps, abs=1e-3)


def test_vaepacks_coder_of_integers_takes_any_range(symbols: entropy.Symbols) -> None:
    """It takes 8 bits, or more if a symbol needs them, and checks that the symbols come back."""
    pytest.importorskip("vaepack")
    coder = entropy.vaepack_coder()
    assert coder
    assert coder(symbols) > coder(np.clip(symbols, -20, 20)) > 500


def entropy_run(folder: Path, output: Path, **changed: object) -> dict[str, Any]:
    """Return the results of `entropy.run` on a folder of photos."""
    options: dict[str, Any] = {"model": None, "space": SPACE, "steps": None, "qualities": [10, 90], "scale": False}
    options |= {"repeats": 1, "limit": None, "restart": False}
    entropy.run(folder, output, **options | changed)
    found: dict[str, Any] = json.loads(output.read_text("utf-8"))
    return found


def test_an_entropy_run_measures_prints_and_resumes(
    tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows of a run on the first photo are not measured again."""
    threads = torch.get_num_threads()
    output = tmp_path / "entropy.json"
    try:
        first = entropy_run(paths[0].parent, output, limit=1)
        second = entropy_run(paths[0].parent, output)
        assert second["rows"][:2] == first["rows"]
        monkeypatch.setattr(entropy, "measure_symbols", None)
        assert entropy_run(paths[0].parent, output, scale=True)["rows"] == second["rows"]
    finally:
        torch.set_num_threads(threads)
    assert [mean["point"] for mean in second["means"]] == ["quality 10", "quality 90"]
    for mean in second["means"]:
        values = [row for row in second["rows"] if row["point"] == mean["point"]]
        assert mean["photos"] == len(values) == 2
        assert mean["range"] == (values[0]["range"] + values[1]["range"]) / 2
        assert mean["range_percent"]["zstd_19"] == pytest.approx(100 * (mean["range"] / mean["zstd_19"] - 1))
    printed = capsys.readouterr().out
    assert "| payload range against | zstd 19 |" in printed
    assert f"| quality 90, 16 x | {CHANNELS * 16 * 11 * 11:,} |" in printed
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_space_without_a_context_model_is_said(tmp_path: Path, paths: list[Path]) -> None:
    """So is a space without a model."""
    with pytest.raises(SystemExit, match="latent space none has no context model; there are sd1"):
        entropy_run(paths[0].parent, tmp_path / "entropy.json", space="none")
    with pytest.raises(SystemExit, match="no model here has the latent space none"):
        encoder("none", None)


def test_the_folder_of_an_autoencoder_gives_latents(tmp_path: Path, paths: list[Path]) -> None:
    """Edges are repeated to whole positions, pictures are cropped, and a wrong number of channels is an error."""
    model = tmp_path / "model"
    levels: dict[str, Any] = {f"{part}_block_out_channels": (8, 8) for part in ("encoder", "decoder")}
    levels |= {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    networks.tiny(0, **levels).save_pretrained(model)
    with Image.open(paths[1]) as photo:
        latent = encoder("any", model)(np.array(photo))
    assert latent.shape == (4, 89, 88)
    assert Tiny(model).decode(torch.from_numpy(latent)[None], (176, 177)).size == (176, 177)
    threads = torch.get_num_threads()
    try:
        with pytest.raises(SystemExit, match=f"latents have 4 channels, those of {SPACE} {CHANNELS}"):
            entropy_run(paths[0].parent, tmp_path / "entropy.json", model=model, qualities=None)
    finally:
        torch.set_num_threads(threads)


# Stages


def small_pipeline(folder: Path) -> None:
    """Write a pipeline of tiny networks in place of Stable Diffusion's."""
    networks.kl(1).save_pretrained(folder / "vae")
    networks.pipeline(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_every_stage_is_measured_in_the_order_of_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each stage runs in its own process and writes what the next one reads; results hold no path."""
    photo, output = ROOT / "docs" / "grace_hopper.jpg", tmp_path / "new" / "stages.json"
    monkeypatch.setattr(stages, "full_size", small_pipeline)
    kept = keep_folder(tmp_path / "work", monkeypatch)
    stages.run(photo, output, repeats=1, side=72, quality=20)
    found = json.loads(output.read_text("utf-8"))
    assert [row["stage"] for row in found["rows"]] == list(stages.STAGES)
    assert all(0 < row["s"] < 600 and 0 <= row["load_s"] < 600 and row["peak_mb"] > 10 for row in found["rows"])
    # A stage that needs no network takes no memory for one.
    peaks = {row["stage"]: row["peak_mb"] for row in found["rows"]}
    assert max(peaks["entropy encode"], peaks["entropy decode"]) < min(peaks["UNet step"], peaks["decode"])
    steps = scalar.steps(spaces.tables(registry.space("sd1")).log2_steps, EncodeOptions(quality=20).rate)
    symbols = np.load(kept / "symbols.npy")
    assert found["payload_bytes"] == len(np.load(kept / "payload.npy"))
    assert np.array_equal(np.load(kept / "coded.npy"), scalar.dequantize(symbols, steps))
    assert not np.array_equal(np.load(kept / "clean.npy"), np.load(kept / "coded.npy"))
    assert np.load(kept / "clean.npy").shape == (4, 9, 9)
    assert str(tmp_path) not in output.read_text("utf-8")
    assert len(capsys.readouterr().out.splitlines()) == len(stages.STAGES)


def keep_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the folder in which stages keep their files, and return it after the run too."""
    folder.mkdir()
    monkeypatch.setattr("benchmarks.stages.tempfile.TemporaryDirectory", lambda: nullcontext(str(folder)))
    return folder


def test_the_stages_networks_are_stable_diffusion_s() -> None:
    """By the numbers of their parameters, 859.5 and 83.7 million, without room for them."""
    kinds: Any = diffusers
    with torch.device("meta"):
        networks = kinds.UNet2DConditionModel(**stages.UNET), kinds.AutoencoderKL(**stages.AUTOENCODER)
    counts = [sum(parameter.numel() for parameter in network.parameters()) for network in networks]
    assert counts == [859_520_964, 83_653_863]


def test_a_photo_too_small_for_the_stages_is_refused(tmp_path: Path) -> None:
    """Its size stands in the message."""
    with pytest.raises(SystemExit, match="2000 pixels a side"):
        runs.middle(ROOT / "docs" / "grace_hopper.jpg", 2000)


def test_times_of_both_payloads_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are small and in tiles, in this process and in new ones."""
    results = tmp_path / "speed.json"
    photo = ROOT / "docs" / "grace_hopper.jpg"
    options = ["--repeats", "1", "--side", "300", "--output", str(results)]
    monkeypatch.setattr("sys.argv", ["benchmarks", "speed", "--photo", str(photo), *options])
    main()
    found = json.loads(results.read_text())
    small = {payload: found[f"512x512 {payload}"] for payload in ("range", "zstd")}
    assert 0 < small["range"]["bytes"] < small["zstd"]["bytes"]
    assert 0 < found["import_s"] < found["python_and_pillow_s"] + 10
    for row in small.values():
        assert 0 < row["open_s"] < row["decode_s"] < row["cold_load_s"]["total"]
        assert min(row[name] for name in ("encode_s", "thumbnail_96_s", "verify_s")) > 0
        assert set(row["cold_load_s"]) == {"import", "open", "network", "decode", "total"}
    assert min(found["300x300 RGBA"].values()) > 0
    Image.new("RGB", (511, 600)).save(tmp_path / "narrow.png")
    monkeypatch.setattr("sys.argv", ["benchmarks", "speed", "--photo", str(tmp_path / "narrow.png"), *options])
    with pytest.raises(SystemExit, match="512 pixels a side are needed"):
        main()


def test_one_part_of_the_guards_figures_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other parts of the results stay as they are."""
    results, photos = tmp_path / "fidelity.json", tmp_path / "photos"
    results.write_text(json.dumps({"text": "of an earlier run"}))
    photos.mkdir()
    with Image.open(ROOT / "docs" / "grace_hopper.jpg") as image:
        image.save(photos / "a.png")
    monkeypatch.setattr("benchmarks.fidelity.TIMES", 1)
    folders = [word for name in ("images", "faces", "fonts", "signs", "metrics") for word in (f"--{name}", str(photos))]
    monkeypatch.setattr("sys.argv", ["benchmarks", "fidelity", *folders, "--parts", "times", "--output", str(results)])
    main()
    found = json.loads(results.read_text())
    assert found["text"] == "of an earlier run"
    seconds = found["times"]["medians"]
    assert 0 < seconds["neither"]["encode_s"] < seconds["map and named box"]["encode_s"]
    assert all(row["decode_s"] > 0 for row in seconds.values())
    monkeypatch.setattr("sys.argv", ["benchmarks", "fidelity", *folders, "--parts", "time", "--output", str(results)])
    with pytest.raises(SystemExit, match="there is no part time: choose from text, signs, faces, photos, times"):
        main()


def test_the_chart_shows_every_format_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small SVG with the names of all formats as text, the same at every run, and a PNG."""
    rows = [
        result(format=name, target=rate, bpp=rate, lpips=lpips / rate)
        for name, lpips in (("WebP", 0.02), ("AVIF", 0.0201), ("SDL", 0.01))
        for rate in (0.1, 0.25, 0.5)
    ]
    results, svg, png = (tmp_path / name for name in ("results.json", "chart.svg", "chart.png"))
    results.write_text(json.dumps(report.results({}, rows)), "utf-8")
    monkeypatch.setattr("sys.argv", ["benchmarks", "chart", str(results), "--output", str(svg), str(png)])
    main()
    text = svg.read_text("utf-8")
    assert len(text) < 30_000
    assert all(text.count(f">{name}</text>") == 1 for name in ("WebP", "AVIF", "SDL"))
    assert "LPIPS (lower is better)" in text
    main()
    assert svg.read_text("utf-8") == text
    with Image.open(png) as picture:
        assert 500 < picture.width < 1200
