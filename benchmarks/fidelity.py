"""Measure what the fidelity map and the guard promise.

- map: its share of a file, and cells whose true error is above the bound.
- photos: LPIPS and DISTS at equal bytes with and without the guard, and the bytes that its patches take.
- text: error rate of Tesseract on rendered pages, decoded from files of equal bytes.
- signs: how far Tesseract's reading of a photographed page or a screenshot is from its reading of the original.
- faces: distance between the embeddings of the original and the decoded face, from files of equal bytes.
- times: seconds to encode and decode with and without map and guard.

Tesseract is Debian's program.  Faces are found and embedded by dlib, with the networks of face_recognition_models.
This detector of faces is not the guard's.
"""

from __future__ import annotations

import io
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from benchmarks.codecs import FORMATS, Search
from benchmarks.metrics import Dists, Lpips
from benchmarks.runs import command, middle, photos, versions, write_json
from pillow_sdl import decode, reading, registry

MAP_RATE: Final = 0.15
RATE: Final = 0.25
"""Bits per pixel of the files for map and photos, and of those for text and faces."""

FONTS: Final = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf")
SIZES: Final = (9, 12, 16)
SIDE: Final = 512
"""Fonts and sizes of the rendered pages, and the pages' sides, in pixels."""

TIMES: Final = 5
"""How often times are taken.  The first time of each kind does not count."""

SIGN_SHARE: Final = 0.9
"""guard_share for photographed pages, which hold nothing but text."""

LARGEST_FACE: Final = 120
"""Pixels along the side of the largest face that is looked at."""

WORDS: Final = (
    "Photographs lose their letters first. A sign that said No Entry may say something else after a network has drawn "
    "it again, and nobody notices until it matters. The guard keeps the pixels of such places. It costs bytes, so the "
    "rest of the picture gets fewer of them. In 1839 Louis Daguerre sold 57 cameras; by 1853 there were 3 million "
    "prints a year. Prices on Monday: bread 2.45, milk 1.19, coffee 6.80, rent 1,240. Call 555-0173 before 16:30 or "
    "write to desk 42. "
) * 6


def _bytes(rate: float, size: tuple[int, int]) -> int:
    return int(rate * size[0] * size[1] / 8)


def _sdl(image: Image.Image, target: int, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "SDL", target_bytes=target, **options)
    return stream.getvalue()


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _peers(image: Image.Image, target: int) -> Iterator[tuple[str, bytes]]:
    """Yield the names of WebP and AVIF and their largest files of at most `target` bytes."""
    for kind in FORMATS:
        if kind.name in {"WebP", "AVIF"}:
            yield kind.name, Search(kind, image).largest_within(target).data


# Map and photos


def _violations(original: Image.Image, data: bytes) -> tuple[int, int]:
    """Return the number of cells whose true error is above the file's bound, and the number of all cells."""
    found = reading.fidelity(io.BytesIO(data))
    assert found is not None
    square = np.square(np.asarray(original, np.float64) - np.asarray(_opened(data), np.float64)).mean(2)
    rows, columns = (range(0, side, found.cell) for side in square.shape)
    true = [[square[y : y + found.cell, x : x + found.cell].mean() ** 0.5 for x in columns] for y in rows]
    return int((np.array(true) > found.error).sum()), found.error.size


def measure_photos(paths: list[Path], metrics: Path) -> dict[str, Any]:
    """Return the figures of the map, and of the guard at equal bytes."""
    measures: dict[str, Callable[..., torch.Tensor]] = {"lpips": Lpips(metrics), "dists": Dists(metrics)}
    rows = []
    for path in tqdm(paths, desc="photos", disable=None):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        target = _bytes(MAP_RATE, image.size)
        row: dict[str, Any] = {"photo": path.stem}
        for guard in ("off", "auto"):
            data = _sdl(image, target, guard=guard)
            sizes = decode.inspect(reading.read_container(io.BytesIO(data)))["bytes"]
            above, cells = _violations(image, data)
            row[guard] = {
                "bytes": len(data),
                "map_share": sizes["f"] / len(data),
                "patch_share": sizes.get("g", 0) / len(data),
                "cells_above_bound": above,
                "cells": cells,
            }
            pair = [torch.from_numpy(np.array(one)).permute(2, 0, 1)[None] / 255 for one in (_opened(data), image)]
            with torch.inference_mode():
                row[guard] |= {name: measure(*pair).item() for name, measure in measures.items()}
        rows.append(row)
    means = {
        guard: {
            name: statistics.mean(row[guard][name] for row in rows)
            for name in ("map_share", "patch_share", "lpips", "dists")
        }
        | {"cells_above_bound": sum(row[guard]["cells_above_bound"] for row in rows)}
        for guard in ("off", "auto")
    }
    return {"bits_per_pixel": MAP_RATE, "means": means, "rows": rows}


# Text


def page(font: Path, size: int) -> tuple[Image.Image, str]:
    """Return a page of text, and the text."""
    image = Image.new("RGB", (SIDE, SIDE), (250, 248, 240))
    draw, face = ImageDraw.Draw(image), ImageFont.truetype(font, size)
    words, lines, top = WORDS.split(), [], 12
    while words and top + 1.4 * size < SIDE - 10:
        line = words.pop(0)
        while words and draw.textlength(f"{line} {words[0]}", face) < SIDE - 28:
            line += f" {words.pop(0)}"
        draw.text((14, top), line, (30, 30, 34), face)
        lines.append(line)
        top += round(1.45 * size)
    return image, " ".join(lines)


def reading_of(image: Image.Image) -> str:
    """Return what Tesseract reads in a picture that is enlarged four times."""
    large = image.convert("L").resize((4 * image.width, 4 * image.height), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    large.save(stream, "PNG")
    program = ["tesseract", "-", "-", "--psm", "6", "-l", "eng"]
    read = subprocess.run(program, input=stream.getvalue(), capture_output=True, check=True).stdout.decode()  # noqa: S603
    return " ".join(read.split())


def error_rate(image: Image.Image, text: str) -> float:
    """Return the character error rate of Tesseract on a picture of a text."""
    from rapidfuzz.distance import Levenshtein

    return float(Levenshtein.distance(reading_of(image), text) / len(text))


def measure_text(fonts: Path) -> dict[str, Any]:
    """Return error rates of all pages."""
    rows = []
    for name, size in tqdm([(name, size) for name in FONTS for size in SIZES], desc="pages", disable=None):
        image, text = page(fonts / name, size)
        target = _bytes(RATE, image.size)
        files = {
            "SDL, guard off": _sdl(image, target, guard="off"),
            "SDL, default": _sdl(image, target),
            **dict(_peers(image, target)),
        }
        row: dict[str, Any] = {"font": name, "size": size, "original": error_rate(image, text)}
        for kind, data in files.items():
            row[kind] = {"bytes": len(data), "error_rate": error_rate(_opened(data), text)}
        rows.append(row)
    kinds = [kind for kind in rows[0] if kind not in {"font", "size", "original"}]
    means = {kind: statistics.mean(row[kind]["error_rate"] for row in rows) for kind in kinds}
    return {
        "bits_per_pixel": RATE,
        "tesseract": _tesseract_version(),
        "mean_error_rates": {"original": statistics.mean(row["original"] for row in rows)} | means,
        "rows": rows,
    }


def measure_signs(paths: list[Path]) -> dict[str, Any]:
    """Return how far readings are from those of the originals, in parts of the characters."""
    rows = []
    for path in tqdm(paths, desc="signs", disable=None):
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        text, target = reading_of(image), _bytes(RATE, image.size)
        files = {
            "SDL, guard off": _sdl(image, target, guard="off"),
            "SDL, guard text": _sdl(image, target, guard="text", guard_share=SIGN_SHARE),
            **dict(_peers(image, target)),
        }
        row: dict[str, Any] = {"picture": path.name, "characters": len(text)}
        for kind, data in files.items():
            row[kind] = {"bytes": len(data), "difference": error_rate(_opened(data), text)}
        rows.append(row)
    kinds = [kind for kind in rows[0] if kind not in {"picture", "characters"}]
    means = {kind: statistics.mean(row[kind]["difference"] for row in rows) for kind in kinds}
    return {"bits_per_pixel": RATE, "guard_share": SIGN_SHARE, "mean_differences": means, "rows": rows}


def _tesseract_version() -> str:
    program = ["tesseract", "--version"]
    found = subprocess.run(program, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return found.splitlines()[0]


# Faces


class Embedder:
    """Finds faces, and maps a face to a vector of 128 numbers: dlib's ResNet."""

    def __init__(self) -> None:
        import dlib

        # The package itself cannot be imported with newer releases of setuptools.
        found = find_spec("face_recognition_models")
        assert found is not None, "pip install face-recognition-models"
        folder = Path(*(found.submodule_search_locations or [""])[:1], "models")
        self.detector: Any = dlib.cnn_face_detection_model_v1(str(folder / "mmod_human_face_detector.dat"))
        self.landmarks: Any = dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))
        self.network: Any = dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))

    def faces(self, pixels: np.ndarray) -> list[Any]:
        """Return the landmarks of the faces that are not too large."""
        boxes = [found.rect for found in self.detector(pixels, 1)]
        return [self.landmarks(pixels, box) for box in boxes if max(box.width(), box.height()) <= LARGEST_FACE]

    def distance(self, first: np.ndarray, second: np.ndarray, face: Any) -> float:
        """Return the distance of two pictures of a face, whose landmarks are those of the first."""
        vectors = [np.array(self.network.compute_face_descriptor(pixels, face)) for pixels in (first, second)]
        return float(np.linalg.norm(vectors[0] - vectors[1]))


class Face(NamedTuple):
    """A face of a photo.   side: of its box in pixels."""

    photo: str
    side: int
    distances: dict[str, float]


def measure_faces(paths: list[Path], most: int) -> dict[str, Any]:
    """Return distances of the embeddings of up to `most` faces, one photo after the other."""
    embedder = Embedder()
    found: list[Face] = []
    with tqdm(total=most, desc="faces", disable=None) as bar:
        for path in paths:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
            pixels = np.array(image)
            shapes = embedder.faces(pixels)
            if not shapes:
                continue
            target = _bytes(RATE, image.size)
            files = {
                "SDL, guard off": _sdl(image, target, guard="off"),
                "SDL, guard auto": _sdl(image, target, guard="auto"),
                "SDL, guard faces": _sdl(image, target, guard="faces"),
                **dict(_peers(image, target)),
            }
            shown = {kind: np.array(_opened(data)) for kind, data in files.items()}
            for shape in shapes:
                measure = partial(embedder.distance, pixels, face=shape)
                distances = {kind: measure(second) for kind, second in shown.items()}
                found.append(Face(path.stem, max(shape.rect.width(), shape.rect.height()), distances))
                bar.update()
            if len(found) >= most:
                break
    kinds = found[0].distances
    better = sum(face.distances["SDL, guard faces"] < face.distances["SDL, guard off"] for face in found)
    return {
        "bits_per_pixel": RATE,
        "faces": len(found),
        "better_with_guard": better,
        "mean_distances": {kind: statistics.mean(face.distances[kind] for face in found) for kind in kinds},
        "rows": [face._asdict() for face in found],
    }


# Times


def measure_times(path: Path) -> dict[str, Any]:
    """Return what the map and the guard cost in time, for the middle of a photo."""
    image = middle(path, SIDE)
    kinds: dict[str, dict[str, Any]] = {
        "neither": {"fidelity": False, "guard": "off"},
        "map": {"guard": "off"},
        "map and guard": {"guard": "auto"},
        "map and named box": {"guard": [(160, 160, 352, 352)]},
    }
    seconds: dict[str, dict[str, list[float]]] = {kind: {"encode_s": [], "decode_s": []} for kind in kinds}
    for _ in range(TIMES + 1):
        for kind, options in kinds.items():  # In turn, so that a slow moment of the machine meets all kinds.
            stream = io.BytesIO()
            start = time.perf_counter()
            image.save(stream, "SDL", **options)
            between = time.perf_counter()
            _opened(stream.getvalue())
            seconds[kind]["encode_s"].append(between - start)
            seconds[kind]["decode_s"].append(time.perf_counter() - between)
    medians = {
        kind: {name: statistics.median(values[1:]) for name, values in found.items()} for kind, found in seconds.items()
    }
    return {"photo": path.stem, "side": SIDE, "medians": medians}


def run(
    images: Path,
    faces: Path,
    fonts: Path,
    signs: list[Path],
    metrics: Path,
    output: Path,
    *,
    parts: list[str],
    most_faces: int,
    limit: int | None,
) -> None:
    """Measure some parts, or all if none is named, replace them in `output`, a JSON file, and print their means.

    Exits for a part that there is not.
    """
    measures: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
        "text": (lambda: measure_text(fonts), "mean_error_rates"),
        "signs": (lambda: measure_signs(signs), "mean_differences"),
        "faces": (lambda: measure_faces(photos(faces, None), most_faces), "mean_distances"),
        "photos": (lambda: measure_photos(photos(images, limit), metrics), "means"),
        "times": (lambda: measure_times(photos(images, 1)[0]), "medians"),
    }
    unknown = sorted(set(parts) - measures.keys())
    if unknown:
        sys.exit(f"there is no part {', '.join(unknown)}: choose from {', '.join(measures)}")
    found: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    for part in parts or measures:
        measure, figures = measures[part]
        models = {model.name: model.weights.sha256 for model in registry.load().models if model.weights}
        found[part] = {"command": command(), "versions": versions(), "setting": {"models": models}} | measure()
        write_json(output, found)
        print(part, json.dumps(found[part][figures], indent=1))
