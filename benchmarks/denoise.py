"""Measure what denoisers gain: files of one model at several steps and with palettes, decoded with each denoiser.

Bytes are those of whole files, so they do not depend on the denoiser.  Files with a palette are then compared with
files of the scalar quantizer of the same LPIPS, by interpolation of the mean curves.
"""

from __future__ import annotations

import io
import platform
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from benchmarks.bd_rate import interpolate
from benchmarks.codecs import Encoded
from benchmarks.metrics import SMALLEST_SIDE, Dists, Lpips
from benchmarks.peers import load
from benchmarks.rd import Perceptual, Reference
from benchmarks.report import METRICS, markdown
from benchmarks.runs import Journal, Row, command, photos, versions
from pillow_sdl import registry, settings
from pillow_sdl.latent import scalar, spaces
from pillow_sdl.options import EncodeOptions

SCHEMA: Final = 1

PALETTES: Final = {"palette": {"dither": True}, "palette, no dither": {"dither": False}}
"""Points with palettes, and their options."""

UNQUANTIZED: Final = "unquantized"
"""A point without a file: what the autoencoder makes of its own latent."""


def nearest_quality(step: float, space: registry.Space) -> tuple[int, float]:
    """Return the quality whose mean step is nearest to a step in latent units, and that mean step."""
    table = spaces.tables(space).log2_steps

    def mean_step(quality: int) -> float:
        return float(scalar.steps(table, EncodeOptions(quality=quality).rate).mean())

    found = min(range(101), key=lambda quality: abs(np.log(mean_step(quality) / step)))
    return found, mean_step(found)


class Shown:
    """Decodes files with one denoiser.  Implements `codecs.Codec` for `Reference.measure`.

    said: what the last picture's info says of the denoiser.
    """

    name = "SDL"
    qualities = range(101)

    def __init__(self, denoiser: str) -> None:
        self.denoiser = denoiser
        self.said: object = None

    def encode(self, image: Image.Image, quality: int) -> bytes:
        """Not implemented, because files are given."""
        raise NotImplementedError

    def decode(self, data: bytes, size: tuple[int, int]) -> Image.Image:
        """Return the picture, RGB."""
        with settings.using(denoise=self.denoiser), Image.open(io.BytesIO(data)) as image:
            shown = image.convert("RGB")
            self.said = image.info.get("sdl_denoiser")
        return shown


def points(model: str, steps: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Return the options of `save` by the names of points.   steps: of the scalar quantizer, in latent units."""
    space = registry.space(registry.model(model).space)
    found: dict[str, dict[str, Any]] = {}
    for step in steps:
        quality, actual = nearest_quality(step, space)
        found[f"step {step:g}"] = {"quality": quality, "step": round(actual, 4)}
    return found | {name: {"quantizer": "palette", **options} for name, options in PALETTES.items()}


def measure_photo(
    path: Path, model: str, wanted: dict[str, dict[str, Any]], denoisers: Sequence[str], perceptual: Perceptual
) -> Iterator[Row]:
    """Yield the rows of one photo."""
    reference = Reference(path, perceptual)
    network = load(model)
    pixels = np.array(reference.image)
    latent = network.encode(pixels)
    for name, options in wanted.items():
        if name == UNQUANTIZED:
            shown = network.decode(latent, spaces.RATES - 1)[: pixels.shape[0], : pixels.shape[1]]
            found = reference.measure(_Given(Image.fromarray(shown)), Encoded(b"", 0, 0.0))
            yield {"photo": path.name, "point": name, "denoiser": "off"} | found
            continue
        target = io.BytesIO()
        reference.image.save(
            target, "SDL", model=model, **{key: value for key, value in options.items() if key != "step"}
        )
        for denoiser in denoisers:
            shown_by = Shown(denoiser)
            found = reference.measure(shown_by, Encoded(target.getvalue(), 0, 0.0))
            yield {"photo": path.name, "point": name, "denoiser": denoiser, "said": shown_by.said} | found


class _Given(Shown):
    """A codec whose picture is given."""

    def __init__(self, image: Image.Image) -> None:
        super().__init__("off")
        self.image = image

    def decode(self, data: bytes, size: tuple[int, int]) -> Image.Image:
        """Return the picture."""
        return self.image


def summarize(rows: list[Row]) -> list[Row]:
    """Return means over photos of each point with each denoiser.

    `percent` is the change of LPIPS and DISTS against the same point without a denoiser.
    """
    means: list[Row] = []
    for key in dict.fromkeys((row["point"], row["denoiser"]) for row in rows):
        chosen = [row for row in rows if (row["point"], row["denoiser"]) == key]
        mean: Row = {"point": key[0], "denoiser": key[1], "photos": len(chosen)}
        for measured in ("bytes", "bpp", *METRICS, "decode_s"):
            mean[measured] = statistics.fmean(row[measured] for row in chosen)
        means.append(mean)
    plain = {mean["point"]: mean for mean in means if mean["denoiser"] == "off"}
    for mean in means:
        base = plain.get(mean["point"])
        if base and base is not mean:
            mean["percent"] = {name: 100 * (mean[name] / base[name] - 1) for name in ("lpips", "dists")}
    return means


def against_palettes(means: list[Row]) -> list[Row]:
    """Return the bytes that the scalar quantizer needs for the LPIPS of each palette, with the same denoiser."""
    found = []
    for mean in (mean for mean in means if mean["point"] in PALETTES):
        curve = [row for row in means if row["denoiser"] == mean["denoiser"] and row["point"].startswith("step")]
        curve.sort(key=lambda row: row["lpips"])
        x, y = (np.array([row[name] for row in curve]) for name in ("lpips", "bytes"))
        result: Row = {"point": mean["point"], "denoiser": mean["denoiser"], "lpips": mean["lpips"], "percent": None}
        if len(curve) > 1 and x[0] <= mean["lpips"] <= x[-1]:
            needed = float(np.exp(interpolate(x, np.log(y), mean["lpips"])))
            result |= {"bytes": needed, "percent": 100 * needed / mean["bytes"]}
        found.append(result)
    return found


def table(found: dict[str, Any]) -> str:
    """Return tables in Markdown: means, and the bytes that the scalar quantizer needs for the look of a palette."""
    titles = [metric.title for metric in METRICS.values()]
    lines = [["point", "denoiser", "bpp", *titles, "LPIPS by", "DISTS by", "decode s"]]
    for mean in found["means"]:
        cells = [mean["point"], mean["denoiser"], f"{mean['bpp']:.4f}"]
        cells += [f"{mean[name]:.{metric.decimals}f}" for name, metric in METRICS.items()]
        fall = mean.get("percent")
        cells += [f"{fall[name]:+.1f} %" if fall else "" for name in ("lpips", "dists")]
        lines.append([*cells, f"{mean['decode_s']:.2f}"])
    parts = [markdown(lines)]
    if found["against_palettes"]:
        lines = [["files by", "denoiser", "LPIPS", "scalar quantizer needs"]]
        for row in found["against_palettes"]:
            share = "-" if row["percent"] is None else f"{row['percent']:.0f} % of the bytes"
            lines.append([row["point"], row["denoiser"], f"{row['lpips']:.4f}", share])
        parts.append(markdown(lines))
    return "\n\n".join(parts)


def run(
    images: Path,
    metrics: Path,
    output: Path,
    *,
    model: str,
    steps: Sequence[float],
    denoisers: Sequence[str],
    limit: int | None,
    only: Sequence[str],
    restart: bool,
) -> None:
    """Measure, write `output`, a JSON file, and print the tables.

    steps: of the scalar quantizer, in latent units; the quality with the nearest mean step is taken.
    denoisers: as in `configure(denoise=...)`.   only: parts of photos' names; empty for all photos.
    """
    paths = [
        path for path in photos(images, None, SMALLEST_SIDE) if not only or any(part in path.name for part in only)
    ]
    paths = paths[:limit]
    wanted: dict[str, dict[str, Any]] = {UNQUANTIZED: {}} | points(model, steps)
    load(model)
    setting = {
        "images": images.name,
        "model": model,
        "points": wanted,
        "denoisers": list(denoisers),
        "versions": versions(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }
    journal = Journal(output, setting, restart=restart)
    perceptual: Perceptual = {"lpips": Lpips(metrics), "dists": Dists(metrics)}
    rows: list[Row] = []
    for path in tqdm(paths, unit="photo", disable=None):
        known = [row for row in journal.rows if row["photo"] == path.name]
        if len(known) < 1 + (len(wanted) - 1) * len(denoisers):  # Rows of a photo share one encoding.
            known = list(measure_photo(path, model, wanted, denoisers, perceptual))
            for row in known:
                journal.append(row)
        rows += known
    means = summarize(rows)
    found: dict[str, Any] = {"schema": SCHEMA, "command": command(), "setting": setting, "means": means}
    found |= {"against_palettes": against_palettes(means), "rows": rows}
    journal.finish(found)
    print(table(found))
