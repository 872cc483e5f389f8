"""Compare the palette quantizer with the method of 2022: bytes of files, and the error of the latent.

The reference is written from M. Buehlmann's description alone: k-means on the 8-bit latent from several random starts,
of which the best one counts, then Floyd and Steinberg's error diffusion, position by position.
"""

from __future__ import annotations

import io
import platform
import statistics
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.peers import load
from benchmarks.report import markdown
from benchmarks.runs import Journal, Row, command, middle, photos, versions
from pillow_sdl import decode
from pillow_sdl.format import container
from pillow_sdl.latent import palette

SCHEMA: Final = 1

SIDE: Final = 512
"""Pixels along each side of a photo's middle."""

RAW_PALETTE: Final = 1024
"""Bytes of the palette of 2022: 256 entries of 4 values."""

Vectors: TypeAlias = NDArray[np.float64]


def k_means(vectors: Vectors, size: int, generator: np.random.Generator, passes: int = 300) -> Vectors:
    """Return the means (size, C) of clusters of vectors (n, C).

    The start is that of k-means++.  Lloyd's algorithm then runs until nothing moves, or for `passes` passes.
    """
    centers = vectors[[generator.integers(len(vectors))]]
    distance = np.square(vectors - centers[0]).sum(1)
    while len(centers) < size and distance.any():
        chosen = vectors[generator.choice(len(vectors), p=distance / distance.sum())]
        centers = np.concatenate([centers, chosen[None]])
        distance = np.minimum(distance, np.square(vectors - chosen).sum(1))
    for _ in range(passes):
        nearest = np.square(vectors[:, None] - centers).sum(2).argmin(1)
        moved = centers.copy()
        for index in np.unique(nearest):
            moved[index] = vectors[nearest == index].mean(0)
        if np.array_equal(moved, centers):
            break
        centers = moved
    return centers


def floyd_steinberg(levels: Vectors, entries: Vectors) -> Vectors:
    """Set each position of levels (h, w, C) to an entry (K, C), and pass the error on, row by row."""
    wanted = np.pad(levels, ((0, 1), (1, 1), (0, 0)))
    found = np.empty_like(levels)
    for row in range(levels.shape[0]):
        for column in range(levels.shape[1]):
            here = wanted[row, column + 1]
            entry = entries[np.square(entries - here).sum(1).argmin()]
            found[row, column] = entry
            error = here - entry
            wanted[row, column + 2] += error * (7 / 16)
            wanted[row + 1, column] += error * (3 / 16)
            wanted[row + 1, column + 1] += error * (5 / 16)
            wanted[row + 1, column + 2] += error * (1 / 16)
    return found


def reference(latent: NDArray[np.float32], starts: int, generator: np.random.Generator) -> dict[str, float]:
    """Return the mean squared errors of the best of several palettes, in latent units.

    One error is that of dithering, the other that of the nearest entry for each vector.
    """
    levels = palette.levels(latent).transpose(1, 2, 0).astype(np.float64)
    vectors = levels.reshape(-1, levels.shape[2])

    def nearest(entries: Vectors) -> Vectors:
        shown: Vectors = entries[np.square(vectors[:, None] - entries).sum(2).argmin(1)]
        return shown

    found = [np.rint(k_means(vectors, palette.MAX_SIZE, generator)) for _ in range(starts)]
    best = min(found, key=lambda entries: float(np.square(nearest(entries) - vectors).sum()))

    def error(chosen: Vectors) -> float:
        shown = palette.dequantize(chosen.reshape(levels.shape).transpose(2, 0, 1).astype(np.int16))
        return float(np.square(shown - latent, dtype=np.float64).mean())

    return {"reference_dithered": error(floyd_steinberg(levels, best)), "reference_plain": error(nearest(best))}


def measure(path: Path, model: str, starts: int) -> Row:
    """Return the bytes of the files of a photo's middle, and the errors of their latents."""
    image = middle(path, SIDE)
    latent = load(model).encode(np.array(image))
    row: Row = {"photo": path.name}
    for name, dither in (("dithered", True), ("plain", False)):
        target = io.BytesIO()
        image.save(target, "SDL", model=model, quantizer="palette", dither=dither)
        file = container.read(io.BytesIO(target.getvalue()))
        sizes = decode.inspect(file)["bytes"]
        row |= {f"bytes_{name}": len(target.getvalue()), f"palette_bytes_{name}": sizes["P"]}
        row[f"mse_{name}"] = float(np.square(decode.read_latent(file) - latent, dtype=np.float64).mean())
    return row | reference(latent, starts, np.random.default_rng(0))


def summarize(rows: list[Row]) -> dict[str, float]:
    """Return means over photos, the sizes of the largest files, and the ratios of our errors to the reference's."""
    found = {name: statistics.fmean(row[name] for row in rows) for name in rows[0] if name != "photo"}
    for name in ("dithered", "plain"):
        found[f"largest_{name}"] = max(row[f"bytes_{name}"] for row in rows)
        found[f"mse_ratio_{name}"] = statistics.fmean(row[f"mse_{name}"] / row[f"reference_{name}"] for row in rows)
    return found


def table(mean: dict[str, float]) -> str:
    """Return a table in Markdown."""
    lines = [["palette", "bytes", "largest", f"of which palette ({RAW_PALETTE} raw)", "MSE", "to the reference's"]]
    for name in ("dithered", "plain"):
        cells = [f"{mean[f'{part}_{name}']:,.0f}" for part in ("bytes", "largest", "palette_bytes")]
        lines.append([name, *cells, f"{mean[f'mse_{name}']:.4f}", f"{mean[f'mse_ratio_{name}']:.3f}"])
    return markdown(lines)


def run(images: Path, output: Path, *, model: str, starts: int, limit: int | None, restart: bool) -> None:
    """Measure, write `output`, a JSON file, and print the table.   starts: random starts of the reference."""
    paths = photos(images, limit, SIDE)
    load(model)
    setting = {"images": images.name, "side": SIDE, "model": model, "starts": starts, "versions": versions()}
    setting["machine"] = platform.machine()
    journal = Journal(output, setting, restart=restart)
    done = {row["photo"]: row for row in journal.rows}
    for path in tqdm(paths, unit="photo", disable=None):
        if path.name not in done:
            done[path.name] = measure(path, model, starts)
            journal.append(done[path.name])
    rows = [done[path.name] for path in paths]
    found: dict[str, Any] = {"schema": SCHEMA, "command": command(), "setting": setting, "means": summarize(rows)}
    journal.finish(found | {"rows": rows})
    print(table(found["means"]))
