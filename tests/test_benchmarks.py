"""The benchmarks' parts: the search for a size, the metrics, BD-rates, runs and their resumption, the tables."""

from __future__ import annotations

import json
import os
import sys
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
from benchmarks.peers import VAEPACK_BITS, VAEZIP_BITS, Peer, Tiny, peers
from pillow_sdl.latent import quantize, spaces

from .test_denoise import pipeline
from .test_diffusion import kl

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "rd.json"
WEBP = next(codec for codec in FORMATS if codec.name == "WebP")
JPEG = next(codec for codec in FORMATS if codec.name == "JPEG")
METRICS = Path(os.environ.get("PILLOW_SDL_METRICS", "not given"))
SIDE = 176


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """Noise of three colours, which no codec holds in few bytes."""
    return Image.merge("RGB", [Image.effect_noise((96, 64), sigma) for sigma in (30, 60, 90)])


def sizes(codec: Format, picture: Image.Image) -> list[int]:
    """Of all qualities."""
    return [len(codec.encode(picture, quality)) for quality in codec.qualities]


def test_the_largest_file_within_a_budget_is_found(picture: Image.Image) -> None:
    """As an exhaustive search finds it."""
    every = sizes(WEBP, picture)
    found = Search(WEBP, picture).largest_within(every[60] + 1)
    assert len(found.data) == max(size for size in every if size <= every[60] + 1)


def test_the_smallest_file_is_given_if_none_fits(picture: Image.Image) -> None:
    """For a budget, and as the nearest to a size."""
    search = Search(WEBP, picture)
    assert len(search.largest_within(10).data) == len(search.nearest(10).data) == min(sizes(WEBP, picture))


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_the_nearest_size_is_found(picture: Image.Image, off: int) -> None:
    """One byte below or above a size, the nearest is that size; above the largest, the largest."""
    every = sizes(WEBP, picture)
    for quality in (60, 100):
        assert len(Search(WEBP, picture).nearest(every[quality] + off).data) == every[quality]


def test_no_quality_is_encoded_twice(picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the rates: a slow encoder is asked once for each quality."""
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
    """Parts left out are `save`'s defaults."""
    assert sdl_variant("") == next(codec for codec in FORMATS if codec.name == "SDL")
    full = sdl_variant("embedded:9:range")
    assert full.options == {"model": "embedded", "effort": 9, "payload": "range"}
    assert full.name == "SDL embedded effort 9 range"
    assert sdl_variant("::zstd").options == {"payload": "zstd"}
    for wrong in ("embedded:most", "embedded:9:range:more"):
        with pytest.raises(ValueError, match=r"most|MODEL:EFFORT:PAYLOAD"):
            sdl_variant(wrong)


def test_a_format_without_its_plugin_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """As is one that Pillow was built without."""
    absent = Format("HEIC", "HEIF", plugin="no_such_plugin"), Format("JPEG XL", "NONE")
    monkeypatch.setattr(rd, "PLUGINS", absent)
    codecs, skipped = rd.available([], None)
    assert [codec.name for codec in codecs] == ["JPEG", "WebP", "AVIF", "SDL"]
    assert "no_such_plugin cannot be imported" in skipped["HEIC"]
    assert skipped["JPEG XL"] == "Pillow has no encoder of NONE"
    assert skipped["vaepack, vaezip"] == "--latents names no autoencoder"


def test_a_format_that_fails_is_left_out_but_sdl_must_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins may be built without their encoder; a wrong option of SDL is the caller's."""
    monkeypatch.setattr(rd, "PLUGINS", (Format("HEIC", "PNG", qualities=range(0)), Format("odd", "WebP", {"xmp": 1})))
    assert {"HEIC", "odd"} <= set(rd.available([], None)[1])
    with pytest.raises(SystemExit, match="SDL none: ValueError: model must be one of"):
        rd.available([sdl_variant("none")], None)


def test_only_the_formats_that_are_named_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are told of as left out; a name that is none is an error before hours of measuring."""
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
    """Flat images have equal contrast; what is left is (2 a b + C1) / (a^2 + b^2 + C1), to the power of .1333."""
    a, b, c1 = 0.25, 0.75, 1e-4
    x = torch.full((2, 3, SIDE, SIDE + 5), a)
    expected = ((2 * a * b + c1) / (a * a + b * b + c1)) ** 0.1333
    assert ms_ssim(x, torch.full_like(x, b)).tolist() == pytest.approx([expected] * 2, abs=1e-6)


def test_ms_ssim_is_that_of_a_second_reading_of_the_paper() -> None:
    """Windows cut out one by one, in double precision, on one channel; noise and a blurred copy of it."""
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
    """No broken power of a negative number."""
    x = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    assert ms_ssim(x, x).item() == pytest.approx(1, abs=1e-5)
    assert ms_ssim(x, 1 - x).item() == 0
    with pytest.raises(ValueError, match="176 x 176 pixels or more, not 175 x 200"):
        ms_ssim(torch.zeros(1, 3, 200, 175), torch.zeros(1, 3, 200, 175))


def test_interpolation_is_pchip() -> None:
    """Values that scipy.interpolate.PchipInterpolator 1.17 gives; no overshoot beside a flat piece."""
    x, y = np.array([25.0, 27, 28, 31]), np.log([0.1, 0.15, 0.25, 0.5])
    expected = [-2.267814935824147, -1.7633522364649288, -0.8068321284958344]
    assert interpolate(x, y, np.array([25.5, 27.3, 30])) == pytest.approx(expected, abs=1e-12)
    flat = interpolate(np.arange(4.0), np.array([0.0, 1, 1, 2]), np.linspace(1, 2, 9))
    assert flat == pytest.approx(np.ones(9), abs=1e-12)
    assert interpolate(np.array([0.0, 2]), np.array([1.0, 5]), np.array([0.5])) == pytest.approx([2])


def test_bd_rate_of_half_the_bytes_is_minus_fifty_per_cent() -> None:
    """For metrics of either direction, whatever the order of the points, and for points of no use among them."""
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
    """Log rate linear in quality: the mean difference over 26..27 is that of any point of it."""
    anchor = [(2.0**quality, quality) for quality in (24.0, 27.0)]
    tested = [(3 * 2.0**quality, quality) for quality in (26.0, 29.0)]
    found = bd_rate(anchor, tested, higher_is_better=True)
    assert found.percent == pytest.approx(200)
    assert found.overlap == (26, 27)


def test_bd_rate_says_why_there_is_none() -> None:
    """Curves apart; a curve of one useful point."""
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
    """Stands in for LPIPS and DISTS: the mean absolute difference of pixels."""

    def features(self, pixels: Tensor) -> list[Tensor]:
        """The pixels."""
        return [pixels]

    def distance(self, x: list[Tensor], y: list[Tensor]) -> Tensor:
        """See `rd.FeatureMetric`."""
        return (x[0] - y[0]).abs().mean((1, 2, 3))


class Pooled:
    """Stands in for the autoencoder: means of 8 x 8 pixels, a fourth channel of zeros."""

    def encode(self, image: Image.Image) -> Tensor:
        """See `peers.Autoencoder`."""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
        return F.pad(F.avg_pool2d(pixels, 8, ceil_mode=True), (0, 0, 0, 0, 0, 1))

    def decode(self, latent: Tensor, size: tuple[int, int]) -> Image.Image:
        """See `peers.Autoencoder`."""
        pixels = ((latent[0, :3].clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
        large = Image.fromarray(pixels).resize((8 * latent.shape[3], 8 * latent.shape[2]))
        return large.crop((0, 0, *size))


def rounded(latent: Tensor, bits: int, size: tuple[int, int]) -> bytes:
    """A peer's file: width and height of the latent, then a byte for each value."""
    steps = 2**bits - 1
    symbols = ((latent[0] + 1) / 2 * steps).round() * (255 / steps)
    content: bytes = symbols.byte().numpy().tobytes()
    return bytes([latent.shape[3], latent.shape[2]]) + content


def restored(data: bytes) -> Tensor:
    """The latent of `rounded`."""
    symbols = np.frombuffer(data[2:], np.uint8).reshape(1, 4, data[1], data[0])
    return torch.from_numpy(symbols.astype(np.float32) / 127.5 - 1)


PEER = Peer("rounded", (1, 3), Pooled(), rounded, restored)
SDL = Format("SDL", "SDL", {"effort": 0, "payload": "zstd"}, range(0, 101, 50))  # Quick.
CODECS: list[Codec] = [JPEG, WEBP, PEER, SDL]
RATES = [0.002, 0.5, 2.0]
PERCEPTUAL: rd.Perceptual = {"lpips": Difference(), "dists": Difference()}


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Two photos, as small as MS-SSIM allows, one with a colour profile too large for any rate asked for."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        noise = Image.effect_noise((SIDE, SIDE + index), 60).convert("RGB")
        Image.blend(noise, Image.linear_gradient("L").resize(noise.size).convert("RGB"), 0.7).save(
            folder / f"{index}.png", icc_profile=bytes(50_000 * index)
        )
    return runs.photos(folder, None)


def measure(paths: list[Path], output: Path) -> list[runs.Row]:
    """Rows of all codecs above, with a journal beside `output`."""
    return rd.measure(paths, CODECS, RATES, PERCEPTUAL, runs.Journal(output, {"rates": RATES}, restart=False))


def test_a_run_measures_every_format_at_every_target(tmp_path: Path, paths: list[Path]) -> None:
    """Rates that are met, one that none can meet, a peer's own files and SDL at their bytes; the plot is drawn."""
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
    """After eight rows, a peer's among them, and half of a ninth: these stay as they are, the rest is measured."""
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
    """The message names what differs; --restart forgets the rows; without rows there is nothing to lose."""
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
    """Rows come from the results of the same setting; those of another one are replaced."""
    output = tmp_path / "results.json"
    journal = runs.Journal(output, {"space": "a", "points": (1, 2)}, restart=False)
    journal.append({"photo": "a"})
    journal.finish({"setting": journal.setting, "rows": journal.rows})
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert runs.Journal(output, {"space": "a", "points": (1, 2)}, restart=False).rows == [{"photo": "a"}]
    output.with_suffix(".rows.jsonl").write_text('{"spa')  # Cut off in the first line.
    assert runs.Journal(output, {"space": "b"}, restart=False).rows == []


def test_what_cannot_be_measured_is_said_before_the_run(tmp_path: Path) -> None:
    """A folder without photos, a photo too small."""
    with pytest.raises(SystemExit, match=r"has no \.png or \.jpg"):
        runs.photos(tmp_path, None)
    Image.new("RGB", (300, 175)).save(tmp_path / "small.png")
    assert len(runs.photos(tmp_path, None)) == 1
    with pytest.raises(SystemExit, match="every must be 1 or more, not 0"):
        runs.photos(tmp_path, None, 1, 0)
    with pytest.raises(SystemExit, match=r"small\.png: 176 pixels a side are needed, not 300 x 175"):
        runs.photos(tmp_path, None, SIDE)


def test_photos_are_taken_in_the_order_of_their_names(tmp_path: Path) -> None:
    """All, the first ones, every third one, the first ones of these."""
    for index in (3, 0, 4, 1, 2, 6, 5):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{index}.png")
    chosen = [(None, 1, "0123456"), (2, 1, "01"), (None, 3, "036"), (2, 3, "03")]
    for limit, every, names in chosen:
        assert "".join(path.stem for path in runs.photos(tmp_path, limit, 1, every)) == names


def test_the_command_is_told_without_the_folders_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are published; where somebody keeps photos is not."""
    monkeypatch.setattr("sys.argv", ["x", "rd", "--images", "/home/me/my photos", "--sdl", "embedded:9:range"])
    assert runs.command() == "python -m benchmarks rd --images 'my photos' --sdl embedded:9:range"
    monkeypatch.setattr("sys.argv", ["x", "--output", "../found.json", "--only", "at 1/4 and 1/2"])
    assert runs.command("training.architecture") == (
        "python -m training.architecture --output found.json --only 'at 1/4 and 1/2'"
    )


def test_versions_and_code_are_recorded() -> None:
    """Of what a result depends on, with the hash of the code."""
    found = runs.versions()
    assert found["pillow"] == PIL.__version__
    assert found["torch"] == torch.__version__
    assert len(found["pillow_sdl/*.py"]) == 64
    assert set(runs.PACKAGES) <= set(found)


def result(**changed: object) -> runs.Row:
    """A row as of a measurement."""
    row: runs.Row = {"photo": "a", "format": "SDL", "target": 0.25, "off_target": False, "bpp": 0.2}
    row |= {"psnr": 30.0, "ms_ssim": 0.9, "lpips": 0.1, "dists": 0.2, "encode_s": 0.1, "decode_s": 0.2}
    return row | changed


def test_bd_rates_are_of_sdl_against_the_others() -> None:
    """Half the bytes of WebP; a peer on its own files; a variant against the first; the reason where there is none."""
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


def test_the_table_goes_between_readmes_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Means of two photos, misses counted, a peer's own file; what stood there goes, what stands around stays."""
    rows = [result(format="peer", target="peer 2 bit"), result(target="peer 2 bit", bpp=0.19)]
    rows += [result(), result(photo="b", bpp=0.3, off_target=True)]
    found, readme = tmp_path / "results.json", tmp_path / "README.md"
    about = {"setting": {"skipped": {"HEIC": "not there"}}}
    found.write_text(json.dumps(report.results(about, rows)), "utf-8")
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", "utf-8")
    monkeypatch.setattr("sys.argv", ["benchmarks", "table", str(found), "--readme", str(readme)])
    for _ in range(2):
        main()
        assert readme.read_text("utf-8").splitlines() == [
            "before",
            report.BEGIN,
            "| target | format | bpp | PSNR dB | MS-SSIM | LPIPS | DISTS | encode s | decode s |",
            "|---|---|---|---|---|---|---|---|---|",
            "| 0.25 | SDL | 0.2500 (1 off) | 30.00 | 0.9000 | 0.1000 | 0.2000 | 0.10 | 0.20 |",
            "| peer 2 bit | peer | 0.2000 | 30.00 | 0.9000 | 0.1000 | 0.2000 | 0.10 | 0.20 |",
            "| peer 2 bit | SDL | 0.1900 | 30.00 | 0.9000 | 0.1000 | 0.2000 | 0.10 | 0.20 |",
            "",
            "(n off): on n of the 2 photos no file is within 10 % of the target; the nearest one counts.",
            "",
            "BD-rate: bytes more or less for the same quality, less is better; - where the qualities are apart.",
            "",
            "| bytes of | against | PSNR | MS-SSIM | LPIPS | DISTS |",
            "|---|---|---|---|---|---|",
            "| SDL | peer | - | - | - | - |",
            "",
            "Not measured: HEIC (not there).",
            report.END,
            "after",
        ]


def test_a_table_needs_its_markers_and_results_of_today() -> None:
    """Results of an earlier form, a text without a marker, one with markers in the wrong order."""
    with pytest.raises(ValueError, match="schema None, not 1"):
        report.table({"means": []})
    for text in ("", report.BEGIN, report.END + report.BEGIN, 2 * (report.BEGIN + report.END)):
        with pytest.raises(ValueError, match="needs one line"):
            report.insert(text, "table")


def test_readme_has_the_table_of_the_results() -> None:
    """Letter for letter, once the results that are committed are of this form."""
    readme, found = (ROOT / "README.md").read_text("utf-8"), json.loads(RESULTS.read_text("utf-8"))
    shown = report.table(found) if "schema" in found else readme.split(report.BEGIN)[1].split(report.END)[0].strip()
    assert report.insert(readme, shown) == readme


def test_vaepack_codes_a_latent_losslessly_but_for_its_rounding() -> None:
    """Its own header counts; the error is that of 2^bits levels over -4..4."""
    pytest.importorskip("vaepack")
    coder = next(peer for peer in peers(Pooled())[0] if peer.name == "vaepack")
    latent = torch.randn(1, 4, 9, 13, generator=torch.Generator().manual_seed(0)).clamp(-4, 4)
    for bits in VAEPACK_BITS:
        data = coder.pack(latent, bits, (100, 70))
        assert data.startswith(b"ZVAE0001")
        assert b'"original_width":100,"original_height":70' in data
        assert (coder.unpack(data) - latent).abs().max() <= 4 / (2**bits - 1) + 1e-6


def test_vaezip_codes_a_latent_at_every_bit_setting() -> None:
    """Bits that are listed here are among its shortcuts; the error falls with them."""
    vaezip = pytest.importorskip("vaezip")
    assert {f"lbrq_{bits}bit" for bits in VAEZIP_BITS} <= set(vaezip.codecs.list_shortcuts())
    latent = torch.randn(1, 4, 9, 13, generator=torch.Generator().manual_seed(0))
    coder = next(peer for peer in peers(Pooled())[0] if peer.name == "vaezip")
    files = [coder.pack(latent, bits, (100, 70)) for bits in coder.qualities]
    errors = [(coder.unpack(data) - latent).square().mean().item() for data in files]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 2e-2


def test_a_peer_that_is_not_installed_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry of None in sys.modules is how Python marks a module that cannot be imported."""
    for package in ("vaepack", "vaezip"):
        monkeypatch.setitem(sys.modules, package, None)
    found, missing = peers(Pooled())
    assert found == []
    assert set(missing) == {"vaepack", "vaezip"}


@pytest.mark.skipif(not METRICS.exists(), reason="PILLOW_SDL_METRICS names no folder with LPIPS and DISTS")
def test_perceptual_distances_grow_with_damage(picture: Image.Image) -> None:
    """0 for the picture itself, and more for its blurred copy than for a slightly blurred one."""
    tensors = [torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))]
    tensors += [torch.nn.functional.avg_pool2d(tensors[0], size, 1, size // 2) for size in (3, 7)]
    for metric in (Lpips(METRICS), Dists(METRICS)):
        same, little, much = (metric(tensor, tensors[0]).item() for tensor in tensors)
        assert same == pytest.approx(0, abs=1e-5)
        assert 0.01 < little < much


SPACE = "sdl1"
"""A latent space with a context model."""


@pytest.fixture
def symbols() -> entropy.Symbols:
    """A latent of the space, few symbols other than zero, one channel beyond int8."""
    drawn = np.random.default_rng(0).laplace(0, 1, (96, 5, 7)).round().astype(np.int16)
    drawn[3] *= 100
    return drawn


def test_order_0_is_the_entropy_of_the_frequencies() -> None:
    """Four equally likely values: two bits each; one value: nothing; channels apart know more than all at once."""
    four = np.arange(4, dtype=np.int16).repeat(8)
    assert entropy.order_0_size(four) == pytest.approx(8)
    assert entropy.order_0_size(np.zeros(50, np.int16)) == 0
    row = entropy.measure_symbols(np.tile(four.reshape(4, 1, 8), (24, 1, 1)), SPACE, np.zeros(96, np.int64), 1, None)
    assert (row["order_0"], row["order_0_channels"]) == (pytest.approx(24 * 8), 0)


def test_the_plain_coder_takes_int16_only_where_it_must(symbols: entropy.Symbols) -> None:
    """What the frame holds is as large as the planes."""
    assert entropy.zstd_size(np.full((1, 90, 90), 127, np.int16)) < 30
    noise = np.random.default_rng(0).integers(-128, 128, (4, 50, 50)).astype(np.int16)
    assert 10_000 < entropy.zstd_size(noise) < 10_050
    noise[0, 0, 0] = 128
    assert entropy.zstd_size(noise) > 11_000
    assert entropy.zstd_size(symbols) > symbols.size // 4


def test_method_1_takes_little_more_than_its_ideal(symbols: entropy.Symbols) -> None:
    """Two bytes of its own, a state and a word's rounding; zeros alone take nothing; decoding is checked and timed."""
    steps = np.full(96, -256, np.int64)
    ideal = entropy.ideal_size(symbols, SPACE, steps)
    row = entropy.times(symbols, SPACE, steps, 1)
    assert ideal < row["range"] < ideal * 1.001 + 12
    assert min(row[f"{name}_{work}_ms"] for name in ("zstd", "range") for work in ("encode", "decode")) > 0
    assert entropy.ideal_size(np.zeros_like(symbols), SPACE, steps) == 0


def test_a_coder_that_loses_symbols_is_an_error(symbols: entropy.Symbols, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of a coder that cannot decode are worth nothing."""
    monkeypatch.setattr("pillow_sdl.latent.entropy.decode", lambda *_: symbols + 1)
    with pytest.raises(RuntimeError, match="method 0 does not give back the symbols of sdl1"):
        entropy.times(symbols, SPACE, np.zeros(96, np.int64), 1)


def test_points_are_one_step_or_those_of_save() -> None:
    """Coders are told the step in 1/256 octave."""
    half = entropy.uniform(0.5, 4)
    assert (half.name, half.step.tolist(), half.log2_steps.tolist()) == ("step 0.5", [0.5] * 4, [-256] * 4)
    assert entropy.uniform(0.75, 1).log2_steps.tolist() == [-106]
    low, high = (entropy.of_quality(quality, SPACE) for quality in (10, 90))
    assert low.log2_steps.shape == (96,)
    assert (low.step > high.step).all()
    assert np.log2(low.step) * 256 == pytest.approx(low.log2_steps, abs=1e-3)


def test_vaepacks_coder_of_integers_takes_any_range(symbols: entropy.Symbols) -> None:
    """8 bits, and more where it must; it checks itself that the symbols come back."""
    pytest.importorskip("vaepack")
    coder = entropy.vaepack_coder()
    assert coder
    assert coder(symbols) > coder(np.clip(symbols, -20, 20)) > 500


def entropy_run(folder: Path, output: Path, **changed: object) -> dict[str, Any]:
    """Results of `entropy.run` on a folder of photos."""
    options: dict[str, Any] = {"model": None, "space": SPACE, "steps": None, "qualities": [10, 90], "scale": False}
    options |= {"repeats": 1, "limit": None, "restart": False}
    entropy.run(folder, output, **options | changed)
    found: dict[str, Any] = json.loads(output.read_text("utf-8"))
    return found


def test_an_entropy_run_measures_prints_and_resumes(
    tmp_path: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two photos at two qualities; the rows of a run on the first are not measured again."""
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
    assert "| method 1 against | zstd 19 |" in printed
    assert "| quality 90, 16 x | 185,856 |" in printed
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_space_without_a_context_model_is_said(tmp_path: Path, paths: list[Path]) -> None:
    """As is one without a model of the package's own."""
    with pytest.raises(SystemExit, match="latent space none has no context model"):
        entropy_run(paths[0].parent, tmp_path / "entropy.json", space="none")
    with pytest.raises(SystemExit, match="no model here has the latent space none"):
        entropy.encoder(None, "none")


def test_the_folder_of_an_autoencoder_gives_latents(tmp_path: Path, paths: list[Path]) -> None:
    """One with two narrow levels: whole positions, pictures cut to their size; another space's channels are told."""
    diffusers = pytest.importorskip("diffusers")
    model = tmp_path / "model"
    levels: dict[str, Any] = {f"{part}_block_out_channels": (8, 8) for part in ("encoder", "decoder")}
    levels |= {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    diffusers.AutoencoderTiny(**levels).save_pretrained(model)
    latent = entropy.encoder(model, "any")(paths[1])
    assert latent.shape == (4, 89, 88)
    assert Tiny(model).decode(torch.from_numpy(latent)[None], (176, 177)).size == (176, 177)
    threads = torch.get_num_threads()
    try:
        with pytest.raises(SystemExit, match="latents have 4 channels, those of sdl1 96"):
            entropy_run(paths[0].parent, tmp_path / "entropy.json", model=model, qualities=None)
    finally:
        torch.set_num_threads(threads)


# Stages


def small_pipeline(folder: Path) -> None:
    """A pipeline of tiny networks in place of Stable Diffusion's."""
    kl(1).save_pretrained(folder / "vae")
    pipeline(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_every_stage_is_measured_in_the_order_of_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each in its own process, which hands on what the next one needs; the result has no path of this machine."""
    (work := tmp_path / "work").mkdir()
    photo, output = ROOT / "docs" / "grace_hopper.jpg", tmp_path / "new" / "stages.json"
    stages.run(photo, output, work, repeats=1, side=72, quality=20, build=small_pipeline)
    found = json.loads(output.read_text("utf-8"))
    assert [row["stage"] for row in found["rows"]] == list(stages.STAGES)
    assert all(0 < row["s"] < 600 and 0 <= row["load_s"] < 600 and row["peak_mb"] > 10 for row in found["rows"])
    # What needs no network takes no memory for one.
    peaks = {row["stage"]: row["peak_mb"] for row in found["rows"]}
    assert max(peaks["entropy encode"], peaks["entropy decode"]) < min(peaks["UNet step"], peaks["decode"])
    steps = quantize.steps(spaces.by_name("sd1").tables.log2_steps, 51)
    symbols = np.load(work / "symbols.npy")
    assert found["payload_bytes"] == len(np.load(work / "payload.npy"))
    assert np.array_equal(np.load(work / "coded.npy"), quantize.dequantize(symbols, steps))
    assert not np.array_equal(np.load(work / "clean.npy"), np.load(work / "coded.npy"))
    assert np.load(work / "clean.npy").shape == (4, 9, 9)
    assert str(tmp_path) not in output.read_text("utf-8")
    assert len(capsys.readouterr().out.splitlines()) == len(stages.STAGES)


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
    """Whole pictures, small and in tiles, in this process and in new ones."""
    results = tmp_path / "speed.json"
    photo = ROOT / "docs" / "grace_hopper.jpg"
    options = ["--repeats", "1", "--side", "300", "--output", str(results)]
    monkeypatch.setattr("sys.argv", ["benchmarks", "speed", "--photo", str(photo), *options])
    main()
    found = json.loads(results.read_text())
    small = {payload: found[f"512x512 {payload}"] for payload in ("range", "zstd")}
    assert 0 < small["range"]["bytes"] < small["zstd"]["bytes"]
    for row in small.values():
        assert 0 < row["open_s"] < row["decode_s"] < row["cold_load_s"]["total"]
        assert 0 < row["verify_s"] < row["decode_s"]
        assert sum(row["cold_load_s"].values()) == pytest.approx(2 * row["cold_load_s"]["total"])
    # The context model runs before anything is seen.
    assert small["range"]["thumbnail_96_s"] > small["zstd"]["thumbnail_96_s"]
    assert min(found["300x300 RGBA"].values()) > 0
    Image.new("RGB", (511, 600)).save(tmp_path / "narrow.png")
    monkeypatch.setattr("sys.argv", ["benchmarks", "speed", "--photo", str(tmp_path / "narrow.png"), *options])
    with pytest.raises(SystemExit, match="512 pixels a side are needed"):
        main()
