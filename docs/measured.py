"""Tables, sentences and charts of the benchmarks' results, in Markdown and SVG."""

from __future__ import annotations

import functools
import json
import operator
import statistics
from pathlib import Path
from typing import Any, Final

from benchmarks.report import COLORS, METRICS
from docs.tables import listed, table
from pillow_sdl import registry

RESULTS: Final = Path(__file__).resolve().parent.parent / "benchmarks" / "results"

README_RATE: Final = 0.15
"""Bits per pixel of README's table."""

NOT_MEASURED: Final = "Not measured for this release."

COLUMNS: Final = {"lpips": 3, "dists": 3, "psnr": 1, "ms_ssim": 3}
"""Decimals of each metric, in the order of the tables' columns."""

Results = dict[str, Any]
Row = dict[str, Any]


def _time(seconds: float) -> str:
    """Return a time with two or three digits."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.2f} ms"


def results(name: str) -> Results | None:
    """Return the results of one benchmark, None if it has not been measured.   name: of the file, without .json."""
    path = RESULTS / f"{name}.json"
    found: Results | None = json.loads(path.read_text("utf-8")) if path.exists() else None
    return found


def model_note(found: Results) -> str:
    """Return a sentence if the results are not known to be those of this release's embedded model, else nothing."""
    weights = registry.model(registry.EMBEDDED).weights
    assert weights is not None
    models = found.get("setting", {}).get("models")
    if models is None:
        return "The results do not record which embedded model they were measured with."
    return "" if weights.sha256 in models.values() else "These are results of an earlier embedded model."


def _points(found: Results, target: object) -> list[Row]:
    """Return the means of all formats at a target, in the order of the charts' legend, others last."""
    means = [mean for mean in found["means"] if mean["target"] == target and is_shown(mean["format"])]
    order = list(COLORS)
    return sorted(means, key=lambda mean: order.index(mean["format"]) if mean["format"] in order else len(order))


def is_shown(name: str) -> bool:
    """Whether a format is shown: all but SDL with a model that the registry does not have."""
    parts = name.split()
    if parts[0] != "SDL" or len(parts) != 2:
        return True
    return parts[1] in {model.name for model in registry.load().models}


def _targets(found: Results) -> list[float]:
    return sorted({mean["target"] for mean in found["means"] if isinstance(mean["target"], float)})


def _cells(mean: Row, metrics: tuple[str, ...]) -> list[str]:
    return [f"{mean[metric]:.{COLUMNS[metric]}f}" for metric in metrics]


def _titles(metrics: tuple[str, ...]) -> list[str]:
    return [f"{METRICS[metric].title} {'↑' if METRICS[metric].higher_is_better else '↓'}" for metric in metrics]


def rate_tables(found: Results) -> str:
    """Return a table for each bit rate, with a note on formats that have no file of the bit rate."""
    parts = []
    for target in _targets(found):
        rows, missed = [], []
        for mean in _points(found, target):
            star = r"\*" if mean["off_target"] else ""
            rows.append([mean["format"], f"{mean['bpp']:.3f}{star}", *_cells(mean, tuple(COLUMNS))])
            if mean["off_target"]:
                missed.append(f"{mean['format']} {mean['off_target']} of {mean['photos']}")
        parts.append(f"### {target:.2f} bits per pixel\n")
        parts.append(table(["format", "bits per pixel", *_titles(tuple(COLUMNS))], rows) + "\n")
        if missed:
            parts.append(
                rf"\* Photos for which the format has no file within 10 % of the bit rate: {', '.join(missed)}."
                " The nearest file counts.\n"
            )
    return "\n".join(parts)


def _change(percent: float | None) -> str:
    """Return a difference of bytes in words.   percent: None where the two formats reach no common quality."""
    if percent is None:
        return "no common quality"
    return f"{abs(percent):.0f} % {'fewer' if percent < 0 else 'more'}"


def _changes(pairs: dict[tuple[str, str], float | None], names: list[str], title: str) -> str:
    """Return a table of differences in bytes.   pairs: the differences in per cent, by name and metric."""
    titles = [title, *(f"at equal {METRICS[metric].title.removesuffix(' dB')}" for metric in COLUMNS)]
    return table(titles, [[name, *(_change(pairs[name, metric]) for metric in COLUMNS)] for name in names])


def bd_rates(found: Results) -> str:
    """Return the table of BD-rates of SDL against each format."""
    pairs = {(pair["anchor"], pair["metric"]): pair["percent"] for pair in found["bd_rates"] if pair["format"] == "SDL"}
    return _changes(pairs, [name for name in COLORS if (name, "lpips") in pairs], "bytes of SDL against")


def summary(found: Results) -> str:
    """Return what the results say in a few sentences."""
    formats = ["WebP", "AVIF", "HEIC"]
    changes = {
        (pair["anchor"], pair["metric"]): pair["percent"] for pair in found["bd_rates"] if pair["format"] == "SDL"
    }
    sentences = []
    for metric in ("lpips", "dists", "psnr"):
        against = [
            f"{_change(changes[name, metric])} bytes than {name}"
            for name in formats
            if changes.get((name, metric)) is not None
        ]
        if against:
            sentences.append(f"For the same {METRICS[metric].title.removesuffix(' dB')}, SDL takes {listed(against)}.")
    photos = max(mean["photos"] for mean in found["means"])
    rates = _targets(found)
    about = (
        f"These are means over {photos} photos and all bit rates from {rates[0]:.2f} to {rates[-1]:.2f} bits per pixel."
    )
    return " ".join([*sentences, about, model_note(found)]).strip()


def qualities(found: Results) -> str:
    """Return the median quality and bytes of SDL at each bit rate."""
    rows = []
    for target in _targets(found):
        own = [row for row in found["rows"] if row["format"] == "SDL" and row["target"] == target]
        quality, size = (statistics.median(row[key] for row in own) for key in ("quality", "bytes"))
        rows.append([f"{quality:.0f}", f"{target:.2f}", f"{round(size, -2):,.0f}"])
    return table(["quality", "bits per pixel", "bytes"], rows)


def limit(found: Results) -> str:
    """Return the PSNR that SDL reaches at the highest bit rate, beside other formats."""
    rate = _targets(found)[-1]
    reached = {mean["format"]: f"{mean['psnr']:.1f} dB" for mean in _points(found, rate)}
    others = listed([f"{name} {reached[name]}" for name in ("AVIF", "WebP", "JPEG") if name in reached])
    return (
        f"At {rate:.2f} bits per pixel, the highest bit rate in the results, SDL has a mean PSNR of {reached['SDL']}; "
        f"{others}."
    )


def setting(found: Results) -> str:
    """Return the command and the versions of a measurement."""
    versions = found.get("versions") or found.get("setting", {}).get("versions", {})
    names = ("python", "pillow-sdl", "pillow", "torch", "onnxruntime", "numpy", "libjpeg_turbo", "webp", "avif")
    shown = [f"{name} {versions[name]}" for name in (*names, "libheif", "pillow-jxl-plugin") if name in versions]
    parts = ["```text\n" + found["command"].replace(" --", " \\\n    --") + "\n```\n"] if "command" in found else []
    if shown:
        parts.append(f"Versions: {', '.join(shown)}.")
    return "\n".join(parts)


def latents_table(found: Results) -> str:
    """Return other coders of the same latents beside SDL at the same bytes."""
    metrics = ("lpips", "dists", "psnr")
    labels = dict.fromkeys(mean["target"] for mean in found["means"] if isinstance(mean["target"], str))
    rows = []
    for label in labels:
        for mean in _points(found, label):
            name = label if mean["format"] in label else mean["format"]
            rows.append([name, f"{mean['bpp']:.3f}", *_cells(mean, metrics)])
    return table(["coder", "bits per pixel", *_titles(metrics)], rows)


def default_and_taesd(found: Results) -> str:
    """Return the default model beside `taesd` with its denoiser, on the photos of the results of `taesd`.

    The bit rates are the two of `taesd` that are nearest to bit rates of the default model's results.
    """
    ours = results("rd")
    assert ours is not None
    metrics = ("lpips", "dists", "psnr")
    photos = {row["photo"] for row in found["rows"]}
    rows = []
    for rate, label in ((0.15, "vaepack 4 bit"), (0.25, 0.25)):
        for name, measured, target, shown in (("SDL", ours, rate, "`sdl`"), ("SDL taesd", found, label, "`taesd`")):
            of_target = [row for row in measured["rows"] if (row["format"], row["target"]) == (name, target)]
            chosen = [row for row in of_target if row["photo"] in photos]
            assert len(chosen) == len(photos)
            mean = {key: statistics.fmean(row[key] for row in chosen) for key in ("bpp", *metrics)}
            rows.append([shown, f"{mean['bpp']:.3f}", *_cells(mean, metrics)])
    return table(["model", "bits per pixel", *_titles(metrics)], rows)


def entropy_table(found: Results) -> str:
    """Return the bytes of entropy coders for the same symbols."""
    rows = [
        [
            mean["point"],
            *(f"{mean[coder]:,.0f}" for coder in ("zstd_19", "zstd", "range")),
            _change(mean["range_percent"]["zstd_19"]),
            *(f"{mean[f'range_{direction}_ms']:.0f} ms" for direction in ("encode", "decode")),
        ]
        for mean in found["means"]
    ]
    titles = ["", "zstd 19", 'payload "zstd"', 'payload "range"', "range against zstd 19", "range, encode", "decode"]
    return table(titles, rows)


def read_times(found: Results) -> str:
    """Return the times to decode the symbols of a latent with either payload."""
    mean = found["means"][len(found["means"]) // 2]
    zstd, coded = (_time(mean[f"{name}_decode_ms"] / 1000) for name in ("zstd", "range"))
    return (
        f'The symbols of a Kodak photo in the space `{found["setting"]["space"]}` are decoded in {zstd} with `"zstd"` and '
        f'in {coded} with `"range"`, on one core.'
    )


def speed_table(found: Results) -> str:
    """Return times for a picture of 512 x 512, and of the first decode of a process."""
    payloads = {name.removeprefix("512x512 "): part for name, part in found.items() if name.startswith("512x512 ")}
    if not payloads:
        return NOT_MEASURED
    times = {
        "encode": ("encode_s",),
        "decode": ("decode_s",),
        "`Image.open`": ("open_s",),
        "`thumbnail((96, 96))`": ("thumbnail_96_s",),
        "`verify()`": ("verify_s",),
        "first decode of a process": ("cold_load_s", "total"),
    }
    rows = [["bytes of the file", *(f"{part['bytes']:,}" for part in payloads.values())]]
    for name, keys in times.items():
        rows.append([name, *(_time(functools.reduce(operator.getitem, keys, part)) for part in payloads.values())])
    note = f"{found.get('threads', 1)} threads of a server CPU, medians; the network is loaded, except in the last row."
    shown = table(["", *(f'payload "{name}"' for name in payloads)], rows)
    return f"{shown}\n\n{note} {model_note(found)}"


def large_table(found: Results) -> str:
    """Return time and memory for large pictures."""
    rows = [
        [
            name.replace("x", " x ", 1),
            *(f"{part[f'{what}_s']:.0f} s, {part[f'{what}_peak_mb'] / 1000:.2f} GB" for what in ("encode", "decode")),
        ]
        for name, part in found.items()
        if isinstance(part, dict) and "encode_peak_mb" in part
    ]
    if not rows:
        return NOT_MEASURED
    return f"{table(['picture', 'encode', 'decode'], rows)}\n\nMemory is that of the whole process. {model_note(found)}"


def fidelity_tables(found: Results) -> str:
    """Return what the guard brings for text and faces, and what it and the map cost for photos."""
    text, signs, faces, photos = (found[part] for part in ("text", "signs", "faces", "photos"))
    rates = text["mean_error_rates"]
    kinds = [kind for kind in rates if kind != "original"]
    sizes = sorted({row["size"] for row in text["rows"]})
    rows = []
    for kind in ("original", *kinds):
        cells = []
        for size in sizes:
            of_size = [row[kind] for row in text["rows"] if row["size"] == size]
            values = [cell if kind == "original" else cell["error_rate"] for cell in of_size]
            cells.append(f"{100 * sum(values) / len(values):.1f} %")
        rows.append([kind, *cells, f"{100 * rates[kind]:.1f} %"])
    parts = [
        (
            f"Characters that Tesseract reads wrongly on pages of 512 x 512 pixels, three fonts, at most "
            f"{text['bits_per_pixel']} bits per pixel. By default such pages are stored as drawings:"
        ),
        table(["file", *(f"{size} pixels" for size in sizes), "all"], rows),
        (
            f"Characters that Tesseract reads otherwise than in the original: {len(signs['rows'])} photographed pages and "
            f"screenshots, at most {signs['bits_per_pixel']} bits per pixel; with the guard at "
            f"`guard_share={signs['guard_share']}`:"
        ),
        table(
            ["file", "difference"],
            [[kind, f"{100 * value:.1f} %"] for kind, value in signs["mean_differences"].items()],
        ),
        (
            f"Distance between the embeddings of the original and the decoded face, {faces['faces']} faces of at most 120 "
            f"pixels, {faces['bits_per_pixel']} bits per pixel of the whole picture. Less is better, and 0.6 is another "
            "person:"
        ),
        table(["file", "mean distance"], [[kind, f"{value:.3f}"] for kind, value in faces["mean_distances"].items()]),
        f'With `guard="faces"` {faces["better_with_guard"]} of {faces["faces"]} faces are nearer than without.',
    ]
    if times := found.get("times"):
        parts += [
            f"Times for the middle of a Kodak photo, {times['side']} x {times['side']} pixels, two threads, medians:",
            table(
                ["file", "encode", "decode"],
                [[kind, _time(row["encode_s"]), _time(row["decode_s"])] for kind, row in times["medians"].items()],
            ),
        ]
    means = photos["means"]
    count, above = len(photos["rows"]), means["auto"]["cells_above_bound"] + means["off"]["cells_above_bound"]
    parts.append(
        f"On {count} photos at {photos['bits_per_pixel']} bits per pixel the map takes "
        f"{100 * means['off']['map_share']:.1f} % of the bytes, and {above} cells are above their bound. The guard stores "
        f"{100 * means['auto']['patch_share']:.1f} % of the bytes as pixels. At equal bytes LPIPS is "
        f"{means['auto']['lpips']:.4f} with the guard and {means['off']['lpips']:.4f} without."
    )
    notes = {model_note(part) for part in (text, signs, faces, photos)} - {""}
    return "\n\n".join([*parts, *(f"Text, faces and photos: {note}" for note in sorted(notes))])


def animation_tables(found: Results) -> str:
    """Return bytes, quality and flicker of animations, and what a frame without changes takes."""
    means, side = found["means"], found["side"]
    rows = [
        [
            name,
            f"{mean['bytes']:,.0f}",
            f"{mean['lpips']:.3f}",
            f"{mean['still_mean']:.2f}",
            f"{100 * mean['still_seen']:.1f} %",
        ]
        for name, mean in means.items()
    ]
    own = [mean for mean in means.values() if "outside_share" in mean]
    largest = max(mean["outside_largest"] for mean in own)
    share = sum(mean["outside_share"] for mean in own) / len(own)
    count = len(next(iter(found["rows"].values())))
    repeats = found["repeat_bytes"]
    return "\n\n".join(
        [
            (
                f"Means of {count} photos of {side} x {side} pixels over which a disc moves, {found['frames']} frames, the "
                f"last one twice. The last two columns are about pixels that stand still in the source: how much they "
                f"change from frame to frame, in levels of 0 to 255, and how many change by more than {found['seen']} "
                f"levels."
            ),
            table(["file", "bytes", "LPIPS", "mean change", f"above {found['seen']} levels"], rows),
            (
                f"{100 * share:.0f} % of the pixels lie outside of the parts that SDL decodes anew. The largest change of one "
                f"of them is {largest:.0f}. A frame that equals the one before it takes {repeats['SDL']} bytes. Pillow joins "
                f"it with the one before in WebP and GIF, where it takes {repeats['WEBP']} and {repeats['GIF']}."
            ),
            model_note(found),
        ]
    ).rstrip()


def denoise_table(found: Results) -> str:
    """Return the metrics of one model's files with and without the small denoiser."""
    rows = []
    means = {(mean["point"], mean["denoiser"]): mean for mean in found["means"]}
    for (point, denoiser), small in means.items():
        if denoiser != "small":
            continue
        off = means[point, "off"]
        cells = [
            f"{off[metric]:.{decimals}f} → {small[metric]:.{decimals}f}"
            for metric, decimals in (("lpips", 3), ("dists", 3), ("psnr", 1))
        ]
        rows.append([point, f"{off['bpp']:.3f}", *cells])
    ceiling = means.get(("unquantized", "off"))
    text = table(["quantizer", "bits per pixel", "LPIPS ↓", "DISTS ↓", "PSNR dB ↑"], rows)
    if ceiling:
        text += (
            f"\n\nEach cell shows the figure without and with the denoiser, the mean of {ceiling['photos']} photos. "
            f"The autoencoder alone, without a quantizer, has an LPIPS of {ceiling['lpips']:.3f} and a DISTS of "
            f"{ceiling['dists']:.3f}."
        )
    return text


def overhead_text(found: Results) -> str:
    """Return the times of one model here and with diffusers called by hand."""
    times = found["medians_s"]
    rows = [
        ["encode", f"{times['encode']:.2f} s", f"{times['encode_by_hand']:.2f} s"],
        ["decode", f"{times['decode']:.2f} s", f"{times['decode_by_hand']:.2f} s"],
        ["denoise and decode", f"{times['decode_denoised']:.2f} s", ""],
    ]
    side = found["side"]
    text = table([f"`{found['model']}`, {side} x {side}", "pillow-sdl", "diffusers by hand"], rows)
    return f"{text}\n\nMedians with {found['threads']} threads."


def stages_table(found: Results) -> str:
    """Return time and memory of each stage with networks of Stable Diffusion's size."""
    rows = [[row["stage"], _time(row["s"]), f"{row['peak_mb'] / 1000:.2f} GB"] for row in found["rows"]]
    side, threads = found["setting"]["side"], found["setting"]["threads"]
    return f"{table(['stage', 'time', 'memory'], rows)}\n\n{side} x {side} pixels, {threads} threads, random weights."


def palette_text(found: Results) -> str:
    """Return what the palette quantizer takes."""
    means, side = found["means"], found["setting"]["side"]
    return (
        f"Crops of {side} x {side} pixels of {len(found['rows'])} photos with `{found['setting']['model']}` take "
        f"{means['bytes_dithered']:,.0f} bytes on average. The palette takes {means['palette_bytes_dithered']:.0f} bytes "
        "of these, because it is stored as a set; 256 vectors of 4 bytes each are 1,024 bytes."
    )


def against_palette(found: Results) -> str:
    """Return what the scalar quantizer takes for the palette's quality."""
    for pair in found["against_palettes"]:
        if (pair["point"], pair["denoiser"]) == ("palette", "small"):
            return (
                f"For the same LPIPS, both with the small denoiser, the scalar quantizer takes {pair['percent']:.0f} % "
                "of the bytes."
            )
    return ""


def readme_table(found: Results) -> str:
    """Return README's table: all formats at one bit rate."""
    metrics = ("lpips", "dists", "psnr")
    rows = [[mean["format"], f"{mean['bpp']:.3f}", *_cells(mean, metrics)] for mean in _points(found, README_RATE)]
    return table(["format", "bits per pixel", *_titles(metrics)], rows)
