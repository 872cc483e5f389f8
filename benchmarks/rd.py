"""Rate and distortion: formats at equal whole-file bytes, picture by picture."""

from __future__ import annotations

import json
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from benchmarks.codecs import FORMATS, Encoded, decode, largest_within, nearest
from benchmarks.metrics import Dists, Lpips, psnr
from pillow_sdl.models import cards

ANCHOR = "WebP"
METRICS = ("psnr", "lpips", "dists")


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255


class Reference:
    """A photo and its features, which all formats are compared with."""

    @torch.inference_mode()
    def __init__(self, image: Image.Image, lpips: Lpips, dists: Dists) -> None:
        self.pixels = _tensor(image)
        self.lpips, self.dists = lpips, dists
        self.lpips_features, self.dists_features = lpips.features(self.pixels), dists.features(self.pixels)


@torch.inference_mode()
def _measure(reference: Reference, encoded: Encoded) -> dict[str, Any]:
    image, seconds = decode(encoded.data)
    decoded = _tensor(image)
    lpips, dists = reference.lpips, reference.dists
    return {
        "bytes": len(encoded.data),
        "bpp": 8 * len(encoded.data) / (image.width * image.height),
        "quality": encoded.quality,
        "fits": encoded.fits,
        "psnr": psnr(decoded, reference.pixels).item(),
        "lpips": lpips.distance(lpips.features(decoded), reference.lpips_features).item(),
        "dists": dists.distance(dists.features(decoded), reference.dists_features).item(),
        "decode_s": seconds,
    }


def measure_photo(path: Path, rates: list[float], lpips: Lpips, dists: Dists) -> list[dict[str, Any]]:
    """Rows of one photo: for each rate, WebP's file nearest to it, and what others reach in at most its bytes."""
    image = Image.open(path).convert("RGB")
    reference = Reference(image, lpips, dists)
    anchor = next(codec for codec in FORMATS if codec.name == ANCHOR)
    rows = []
    for rate in rates:
        anchored = nearest(anchor, image, round(rate * image.width * image.height / 8))
        for codec in FORMATS:
            started = time.perf_counter()
            encoded = anchored if codec is anchor else largest_within(codec, image, len(anchored.data))
            found = _measure(reference, encoded)
            rows.append(
                {"photo": path.name, "rate": rate, "format": codec.name}
                | found
                | {"search_s": time.perf_counter() - started}
            )
    return rows


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over photos of each format at each rate."""
    means = []
    for rate in sorted({row["rate"] for row in rows}):
        for codec in FORMATS:
            chosen = [row for row in rows if row["rate"] == rate and row["format"] == codec.name]
            if not chosen:
                continue
            mean = {name: statistics.fmean(row[name] for row in chosen) for name in ("bpp", *METRICS)}
            over = sum(not row["fits"] for row in chosen)
            means.append({"rate": rate, "format": codec.name, "photos": len(chosen), "over_budget": over} | mean)
    return means


def table(means: list[dict[str, Any]]) -> str:
    """The means in Markdown."""
    lines = ["| target bpp | format | bpp | PSNR dB | LPIPS | DISTS | over budget |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row['rate']:.2f} | {row['format']} | {row['bpp']:.4f} | {row['psnr']:.2f} | {row['lpips']:.4f} "
        f"| {row['dists']:.4f} | {row['over_budget']} of {row['photos']} |"
        for row in means
    ]
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """What a result depends on."""
    packages = ("pillow-sdl", "pillow", "torch", "numpy", "zstandard")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Means of LPIPS, DISTS and PSNR over bits per pixel."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    means = summarise(rows)
    figure, axes = plt.subplots(1, len(METRICS), figsize=(13, 4), layout="constrained")
    for axis, metric in zip(axes, METRICS, strict=True):
        for codec in FORMATS:
            line = [(row["bpp"], row[metric]) for row in means if row["format"] == codec.name]
            axis.plot(*zip(*line, strict=True), marker="o", label=codec.name)
        axis.set(xlabel="bits per pixel, whole file", ylabel=metric.upper())
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def run(images: Path, metrics: Path, output: Path, rates: list[float], limit: int | None) -> None:
    """Measure, resuming what `output` holds already, and print the table.   output: a JSON file."""
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in {".png", ".jpg", ".jpeg"})[:limit]
    rows: list[dict[str, Any]] = []
    setting = {"rates": rates, "formats": [(c.name, c.options) for c in FORMATS], "versions": versions()}
    setting |= {"model": [card.sha256 for card in cards.CARDS], "images": images.name}
    setting = json.loads(json.dumps(setting))
    if output.exists():
        earlier = json.loads(output.read_text())
        if earlier["setting"] == setting:
            rows = earlier["rows"]
    done = {row["photo"] for row in rows}
    lpips, dists = Lpips(metrics), Dists(metrics)
    for path in tqdm(paths, unit="photo", disable=None):
        if path.name in done:
            continue
        rows += measure_photo(path, rates, lpips, dists)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps({"setting": setting, "means": summarise(rows), "rows": rows}, indent=1) + "\n")
    chosen = [row for row in rows if row["photo"] in {path.name for path in paths}]
    plot(chosen, output.with_suffix(".png"))
    print(table(summarise(chosen)))
