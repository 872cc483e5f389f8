"""Summarize rows of rate and distortion: means, differences of rate, tables in Markdown, plots."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from benchmarks.runs import Row

SCHEMA: Final = 1
"""Version of the results' JSON.  It rises when an older reader would misread them."""
TIMES: Final = ("encode_s", "decode_s")


class Metric(NamedTuple):
    """How a metric is shown and compared."""

    title: str
    higher_is_better: bool
    decimals: int


METRICS: Final = {
    "psnr": Metric("PSNR dB", True, 2),
    "ms_ssim": Metric("MS-SSIM", True, 4),
    "lpips": Metric("LPIPS", False, 4),
    "dists": Metric("DISTS", False, 4),
}


COLORS: Final = {
    "SDL": "#c2410c",
    "AVIF": "#0072b2",
    "WebP": "#009e73",
    "JPEG": "#666666",
    "HEIC": "#56b4e9",
    "JPEG XL": "#cc79a7",
}
"""Colors of the small chart's lines, which color-blind people can tell apart.  Other formats have matplotlib's."""


def summarize(rows: list[Row]) -> list[Row]:
    """Return means over photos of each format at each target: rates first, rising, then the files of peers.

    A row has a photo, a format, a target (bits per pixel, or the name of a peer's file, whose bytes are the target),
    off_target (whether the file is more than 10 % off), and what was measured; bpp is that of the whole file.
    """
    formats = list(dict.fromkeys(row["format"] for row in rows))
    labels = list(dict.fromkeys(row["target"] for row in rows if isinstance(row["target"], str)))
    groups: dict[tuple[float | str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["target"], row["format"]), []).append(row)

    def order(group: tuple[float | str, str]) -> tuple[int, float, int]:
        target, name = group
        place = (1, labels.index(target)) if isinstance(target, str) else (0, target)
        return (*place, formats.index(name))

    means = []
    for target, name in sorted(groups, key=order):
        chosen = groups[target, name]
        mean: Row = {"target": target, "format": name, "photos": len(chosen)}
        mean["off_target"] = sum(row["off_target"] for row in chosen)
        for measured in ("bpp", *METRICS, *TIMES):
            mean[measured] = statistics.fmean(row[measured] for row in chosen)
        means.append(mean)
    return means


def _curve(means: list[Row], name: str) -> list[Row]:
    """Return the points of a format: those at wanted rates, or all if it has none of them."""
    points = [mean for mean in means if mean["format"] == name]
    return [point for point in points if isinstance(point["target"], float)] or points


def differences(means: list[Row]) -> list[dict[str, Any]]:
    """Return BD-rates in each metric, on the curves of means.

    Every variant of SDL is compared with every other format, and with the first variant.
    """
    from benchmarks.bd_rate import bd_rate

    formats = list(dict.fromkeys(mean["format"] for mean in means))
    sdl = [name for name in formats if name.split()[0] == "SDL"]
    pairs = [(name, anchor) for name in sdl for anchor in formats if anchor not in sdl]
    pairs += [(name, sdl[0]) for name in sdl[1:]]
    found = []
    for name, anchor in pairs:
        for metric, about in METRICS.items():
            curves = [[(mean["bpp"], mean[metric]) for mean in _curve(means, which)] for which in (anchor, name)]
            result = bd_rate(*curves, higher_is_better=about.higher_is_better)
            found.append({"format": name, "anchor": anchor, "metric": metric} | result._asdict())
    return found


def results(about: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
    """Return the content of the results' JSON.   about: how they were measured."""
    means = summarize(rows)
    return {"schema": SCHEMA, **about, "means": means, "bd_rates": differences(means), "rows": rows}


def markdown(lines: list[list[str]]) -> str:
    """Return a table in Markdown, whose first line has the titles."""
    titles, *rest = (f"| {' | '.join(cells)} |" for cells in lines)
    return "\n".join([titles, "|---" * len(lines[0]) + "|", *rest])


def _means_table(means: list[Row]) -> str:
    titles = ["target", "format", "bpp", *(metric.title for metric in METRICS.values()), "encode s", "decode s"]
    lines = [titles]
    for mean in means:
        target = mean["target"] if isinstance(mean["target"], str) else f"{mean['target']:.2f}"
        missed = f" ({mean['off_target']} off)" if mean["off_target"] else ""
        cells = [target, mean["format"], f"{mean['bpp']:.4f}{missed}"]
        cells += [f"{mean[name]:.{metric.decimals}f}" for name, metric in METRICS.items()]
        cells += [f"{mean[name]:.2f}" for name in TIMES]
        lines.append(cells)
    return markdown(lines)


def _bd_table(found: list[dict[str, Any]]) -> str:
    """Return the table of BD-rates, with a dash where curves have no quality in common."""
    pairs: dict[tuple[str, str], list[str]] = {}
    for pair in found:
        shown = "-" if pair["percent"] is None else f"{pair['percent']:+.0f} %"
        pairs.setdefault((pair["format"], pair["anchor"]), []).append(shown)
    titles = ["bytes of", "against", *(metric.title.removesuffix(" dB") for metric in METRICS.values())]
    return markdown([titles, *([name, anchor, *cells] for (name, anchor), cells in pairs.items())])


def table(found: dict[str, Any]) -> str:
    """Return means and BD-rates in Markdown.   found: content of `results`.  Raises ValueError for another schema."""
    if found.get("schema") != SCHEMA:
        msg = f"the results are of schema {found.get('schema')}, not {SCHEMA}: measure again"
        raise ValueError(msg)
    parts = [_means_table(found["means"])]
    if any(mean["off_target"] for mean in found["means"]):
        photos = max(mean["photos"] for mean in found["means"])
        parts += [
            f"(n off): for n of the {photos} photos no file is within 10 % of the target; the nearest one counts."
        ]
    if found["bd_rates"]:
        parts += [
            "BD-rate: difference in bytes for the same quality, less is better; - if the qualities do not overlap."
        ]
        parts += [_bd_table(found["bd_rates"])]
    parts += [f"Not measured: {name} ({reason})." for name, reason in found["setting"]["skipped"].items()]
    return "\n\n".join(parts)


def plot(means: list[Row], path: Path) -> None:
    """Plot each metric over bits per pixel, as PNG.  Lines are dashed for formats with sizes of their own."""
    plt = _pyplot()
    figure, axes = plt.subplots(2, 2, figsize=(12, 9), layout="constrained")
    for axis, name in zip(axes.flat, ("lpips", "dists", "psnr", "ms_ssim"), strict=True):
        for codec in dict.fromkeys(mean["format"] for mean in means):
            points = _curve(means, codec)
            style = "--" if isinstance(points[0]["target"], str) else "-"
            x, y = ([point[key] for point in points] for key in ("bpp", name))
            axis.plot(x, y, style, marker="o", markersize=4, label=codec)
        better = "higher" if METRICS[name].higher_is_better else "lower"
        axis.set(xlabel="bits per pixel, whole file", ylabel=f"{METRICS[name].title} ({better} is better)")
        axis.grid(alpha=0.3)
    axes.flat[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def chart(means: list[Row], path: Path, metric: str = "lpips") -> None:
    """Draw a small chart of a metric over bits per pixel, with the name of each format at the end of its line.

    path: of the file, .png or .svg.   metric: its name in a row.
    """
    plt = _pyplot()
    # Text stays text in an SVG, and the same data gives the same file.
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": metric, "font.size": 9}):
        figure, axis = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
        ends = []
        for name in dict.fromkeys(mean["format"] for mean in means):
            points = _curve(means, name)
            x, y = ([point[key] for point in points] for key in ("bpp", metric))
            own = name.split()[0] == "SDL"
            (line,) = axis.plot(x, y, marker="o", markersize=3.5, linewidth=2.4 if own else 1.2, color=COLORS.get(name))
            ends.append((y[-1], x[-1], name, line.get_color(), "bold" if own else "normal"))
        about = METRICS[metric]
        better = "higher" if about.higher_is_better else "lower"
        axis.set(xlabel="bits per pixel of the whole file", ylabel=f"{about.title} ({better} is better)")
        axis.set_xlim(0, 1.22 * max(end[1] for end in ends))
        if not about.higher_is_better:
            axis.set_ylim(0)
        low, high = axis.get_ylim()
        # Names stand at least a line apart.
        place, line_height = low - 1, (high - low) / 17
        for y_end, x_end, name, color, weight in sorted(ends):
            place = max(y_end, place + line_height)
            at = x_end + 0.02 * axis.get_xlim()[1], place
            axis.annotate(name, (x_end, y_end), at, color=color, weight=weight, va="center")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
        plt.close(figure)


def _pyplot() -> Any:
    """Return matplotlib's interface, set to draw files."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def write_chart(results: Path, output: Sequence[Path]) -> None:
    """Write the small chart of results.   output: files, .png or .svg."""
    means = json.loads(results.read_text("utf-8"))["means"]
    for path in output:
        chart(means, path)
