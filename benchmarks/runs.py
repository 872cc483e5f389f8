"""What measurements share: their photos, the settings that they depend on, rows kept as they come, times."""

from __future__ import annotations

import hashlib
import importlib
import json
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from PIL import Image, features

import pillow_sdl

Row = dict[str, Any]
"""One measurement: JSON types only."""

PACKAGES: Final = (
    *("pillow-sdl", "pillow", "torch", "numpy", "zstandard"),
    *("pillow-heif", "pillow-jxl-plugin", "imagecodecs", "diffusers", "vaepack", "vaezip"),
)


ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""The environment in which times are those of one core."""


def _source_hash() -> str:
    """SHA-256 of the package's code: its version does not change with every change of the code."""
    folder = Path(pillow_sdl.__file__).parent
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def versions() -> dict[str, str]:
    """What a result depends on: packages, the libraries in them, the code that is measured."""
    found = {"python": platform.python_version(), "pillow_sdl/*.py": _source_hash()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    for library in ("jpg", "libjpeg_turbo", "webp", "avif"):
        found[library] = str(features.version(library))
    if found["pillow-heif"] != "none":
        heif = importlib.import_module("pillow_heif").libheif_info()
        found |= {"libheif": heif["libheif"], "HEIC encoder": heif["HEIF"]}
    return found


def _is_path(text: str) -> bool:
    """A slash alone may stand in a name, as in "most at 1/4"."""
    return "\\" in text or ("/" in text and (Path(text).is_absolute() or Path(text).parent.is_dir()))


def command(module: str = "benchmarks") -> str:
    """The command of this run.  Of paths only the last part: where they lie is nobody else's business."""
    arguments = [Path(text).name if _is_path(text) else text for text in sys.argv[1:]]
    return shlex.join(["python", "-m", module, *arguments])


def photos(folder: Path, limit: int | None, least: int = 1, every: int = 1) -> list[Path]:
    """The first photos by name; only every so many.

    Raises SystemExit if there are none, for one with a side below `least` pixels, and if `every` is below 1.
    """
    if every < 1:
        msg = f"every must be 1 or more, not {every}"
        raise SystemExit(msg)
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in {".png", ".jpg", ".jpeg"})
    paths = paths[::every][:limit]
    if not paths:
        msg = f"{folder} has no .png or .jpg"
        raise SystemExit(msg)
    for path in paths:
        with Image.open(path) as image:
            _refuse_below(least, path, image)
    return paths


def middle(photo: Path, side: int) -> Image.Image:
    """The middle of a photo, side x side pixels, RGB.   Raises SystemExit for a photo with a shorter side."""
    with Image.open(photo) as image:
        _refuse_below(side, photo, image)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.convert("RGB").crop((left, top, left + side, top + side))


def _refuse_below(least: int, path: Path, image: Image.Image) -> None:
    if min(image.size) < least:
        msg = f"{path}: {least} pixels a side are needed, not {image.width} x {image.height}"
        raise SystemExit(msg)


def median_seconds(action: Callable[[], object], repeats: int) -> float:
    """Of several calls, after one that is not counted."""
    action()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _changed(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Names of the values that differ, in depth."""
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from (f"{name}: {inner}" for inner in _changed(before, after))
        elif before != after:
            yield name


class Journal:
    """Rows on disk beside the results that they are for, one JSON line each as soon as it is measured.

    The first line is the setting.  A run that was interrupted goes on with these rows, one that has ended with those
    of its results, if their setting is the same.  Raises SystemExit if a journal has rows of another setting, unless
    all is to be measured anew.
    """

    def __init__(self, output: Path, setting: dict[str, Any], *, restart: bool) -> None:
        self.output, self.path = output, output.with_suffix(".rows.jsonl")
        self.setting: dict[str, Any] = json.loads(json.dumps(setting))  # As it is read back: lists for tuples.
        self.rows: list[Row] = []
        if not restart:
            self.rows = self._interrupted() or self._finished()
        output.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(json.dumps(line) + "\n" for line in [self.setting, *self.rows]), "utf-8")

    def _interrupted(self) -> list[Row]:
        text = self.path.read_text("utf-8") if self.path.exists() else ""
        # What comes after the last line feed was cut off in the writing.
        whole = text[: text.rfind("\n") + 1]
        if not whole:
            return []
        earlier, *rows = map(json.loads, whole.splitlines())
        if rows and earlier != self.setting:
            changed = ", ".join(_changed(earlier, self.setting))
            msg = f"{self.path} was measured with other settings ({changed}): --restart measures all anew"
            raise SystemExit(msg)
        return rows

    def _finished(self) -> list[Row]:
        found: dict[str, Any] = json.loads(self.output.read_text("utf-8")) if self.output.exists() else {}
        rows: list[Row] = found["rows"] if found.get("setting") == self.setting else []
        return rows

    def append(self, row: Row) -> None:
        """Keep a row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(row)

    def finish(self, results: dict[str, Any]) -> None:
        """Write the results; the rows are in them, so their own file goes."""
        self.output.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
        self.path.unlink()
