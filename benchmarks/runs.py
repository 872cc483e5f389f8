"""What measurements share: photos, the settings that results depend on, a journal of rows, times."""

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
from typing import Any, Final, TypeAlias

from PIL import Image, features

import pillow_sdl
from pillow_sdl.registry import WEIGHTS_FOLDER

Row: TypeAlias = dict[str, Any]
"""One measurement, in JSON types."""

PACKAGES: Final = (
    *("pillow-sdl", "pillow", "numpy", "onnxruntime", "torch", "zstandard"),
    *("pillow-heif", "pillow-jxl-plugin", "imagecodecs", "diffusers", "vaepack", "vaezip"),
)
"""Packages whose versions are recorded."""

SOURCE: Final = "pillow_sdl/*.py, registry.json"
"""Name of the hash of the package's code and registry among the versions."""

ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Environment variables with which times are those of one core."""


def _source_hash() -> str:
    """Return the SHA-256 of the package's code and registry.

    The version does not change with every change of the code.  The registry has the SHA-256 of all weights.
    """
    folder = Path(pillow_sdl.__file__).parent
    found = hashlib.sha256()
    for path in [*sorted(folder.rglob("*.py")), WEIGHTS_FOLDER / "registry.json"]:
        found.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def versions() -> dict[str, str]:
    """Return what a result depends on: versions of packages and of the libraries in them, and a hash of the code."""
    found = {"python": platform.python_version(), SOURCE: _source_hash()}
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
    """Whether an argument is a path.  A name may have a slash too, as in "blocks at 1/4"."""
    return "\\" in text or ("/" in text and (Path(text).is_absolute() or Path(text).parent.is_dir()))


def command(module: str = "benchmarks") -> str:
    """Return the command of this run.  Of paths only the last part is given, because results are published."""
    arguments = [Path(text).name if _is_path(text) else text for text in sys.argv[1:]]
    return shlex.join(["python", "-m", module, *arguments])


def photos(folder: Path, limit: int | None, least: int = 1, every: int = 1) -> list[Path]:
    """Return photos of a folder in the order of their names.

    limit: number of photos, None for all.   least: pixels that each side must have.
    every: distance in the list from one photo to the next.
    Raises SystemExit if there are none, for a photo with a shorter side, and if `every` is below 1.
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
    """Return the middle of a photo, side x side pixels, RGB.  Raises SystemExit for a photo with a shorter side."""
    with Image.open(photo) as image:
        _refuse_below(side, photo, image)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.convert("RGB").crop((left, top, left + side, top + side))


def _refuse_below(least: int, path: Path, image: Image.Image) -> None:
    if min(image.size) < least:
        msg = f"{path}: {least} pixels a side are needed, not {image.width} x {image.height}"
        raise SystemExit(msg)


def write_json(path: Path, found: dict[str, Any]) -> None:
    """Write results.  The folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def median_seconds(action: Callable[[], object], repeats: int) -> float:
    """Return the median time of several calls, after one call that does not count."""
    action()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _changed(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Yield the names of the values that differ, with those of nested dictionaries."""
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from (f"{name}: {inner}" for inner in _changed(before, after))
        elif before != after:
            yield name


class Journal:
    """Rows on disk, beside the results that they belong to.  Each row is a line of JSON, written when it is measured.

    The first line is the setting.  A run that was interrupted goes on with these rows.  A run that has ended goes on
    with the rows of its results, if their setting is the same.
    """

    def __init__(
        self,
        output: Path,
        setting: dict[str, Any],
        *,
        restart: bool,
        keep: Callable[[Row, dict[str, Any]], bool] = lambda _, __: False,
    ) -> None:
        """Open the journal.

        output: file of the results.   setting: what rows depend on.   restart: whether earlier rows are dropped.
        keep: whether a row of earlier results, whose other setting is given too, is still what would be measured.
        Raises SystemExit if an interrupted run had another setting.
        """
        self._keep = keep
        self.output, self.path = output, output.with_suffix(".rows.jsonl")
        self.setting: dict[str, Any] = json.loads(json.dumps(setting))  # As it is read back, with lists for tuples.
        self.rows: list[Row] = []
        if not restart:
            self.rows = self._interrupted() or self._finished()
        output.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(json.dumps(line) + "\n" for line in [self.setting, *self.rows]), "utf-8")

    def _interrupted(self) -> list[Row]:
        text = self.path.read_text("utf-8") if self.path.exists() else ""
        # Text after the last line feed is a line that was not written to its end.
        whole = text[: text.rfind("\n") + 1]
        if not whole:
            return []
        earlier, *rows = map(json.loads, whole.splitlines())
        if rows and earlier != self.setting:
            changed = ", ".join(_changed(earlier, self.setting))
            msg = f"{self.path} was measured with other settings ({changed}): --restart measures everything again"
            raise SystemExit(msg)
        return rows

    def _finished(self) -> list[Row]:
        found: dict[str, Any] = json.loads(self.output.read_text("utf-8")) if self.output.exists() else {}
        rows: list[Row] = found.get("rows", [])
        earlier = found.get("setting")
        return [row for row in rows if earlier == self.setting or self._keep(row, earlier or {})]

    def append(self, row: Row) -> None:
        """Add a row."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.rows.append(row)

    def finish(self, results: dict[str, Any]) -> None:
        """Write the results, which hold the rows, and delete the journal."""
        write_json(self.output, results)
        self.path.unlink()
