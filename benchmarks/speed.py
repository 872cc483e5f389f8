"""Measure time and memory: medians of calls, fresh processes, and the peak memory of a large picture.

Measured are import, open, thumbnail, verify, encode and decode of a small picture, a cold start, and encode and decode
of a large picture in tiles.  A cold start is a fresh process that opens and decodes a file, from the start of the
interpreter to its end.
"""

from __future__ import annotations

import io
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from PIL import Image

from benchmarks.runs import command, median_seconds, middle, versions, write_json

SIDE: Final = 512
"""Pixels along each side of the small picture."""

FRESH: Final = 11
"""Fresh processes that a median is taken of."""

IMPORTS: Final = """
import time
from PIL import Image
start = time.perf_counter()
import pillow_sdl
print(time.perf_counter() - start)
"""

COLD: Final = "from PIL import Image; import pillow_sdl; Image.open({path!r}).load()"
"""A cold start."""

EMPTY: Final = "from PIL import Image; Image.init()"
"""What a process without this package does before it opens a file."""

PARTS: Final = """
import json, time
start = time.perf_counter()
from PIL import Image
import pillow_sdl
imported = time.perf_counter()
image = Image.open({path!r})
opened = time.perf_counter()
from pillow_sdl import registry, settings
from pillow_sdl.models import store
store.load(registry.model(registry.EMBEDDED))
network = time.perf_counter()
image.load()
end = time.perf_counter()
print(json.dumps({{"import": imported - start, "open": opened - imported, "network": network - opened,
                  "decode": end - network}}))
"""
"""The parts of a cold start.  "network" is the import of the run time and the reading of the weights."""

LARGE: Final = """
import resource
from PIL import Image
import pillow_sdl
Image.MAX_IMAGE_PIXELS = None
side = {side}
{action}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

# A large picture with detail everywhere: a photo, repeated.  The alpha plane is a gradient that is clear at the top.
MAKE: Final = """
source = Image.open({photo!r}).convert("RGB")
picture = Image.new("RGB", (side, side))
for y in range(0, side, source.height):
    for x in range(0, side, source.width):
        picture.paste(source, (x, y))
if {alpha}:
    picture.putalpha(Image.linear_gradient("L").resize((side, side)))
"""


def _python(program: str) -> str:
    """Run a program in a fresh process, and return what it prints."""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)  # noqa: S603
    return done.stdout


def _fresh_seconds(program: str, repeats: int) -> float:
    """Return the median time of a program in a fresh process, with the start and the end of the interpreter."""
    return median_seconds(lambda: _python(program), repeats)


def _large(photo: Path, folder: Path, side: int, *, alpha: bool) -> dict[str, float]:
    """Return seconds and peak megabytes of encoding and decoding side x side pixels, each in a fresh process."""
    path = str(folder / "large.sdl")
    found: dict[str, float] = {}
    actions = {
        "encode": MAKE.format(photo=str(photo), alpha=alpha) + f"picture.save({path!r})",
        "decode": f"Image.open({path!r}).load()",
    }
    for name, action in actions.items():
        started = time.perf_counter()
        peak = int(_python(LARGE.format(side=side, action=action)))
        found[f"{name}_s"] = time.perf_counter() - started
        found[f"{name}_peak_mb"] = peak / 1024
    return found


def _small(image: Image.Image, path: Path, payload: str, repeats: int) -> dict[str, Any]:
    """Return the bytes of a picture's file, and median seconds of what is done with it.   path: of the file."""
    image.save(path, payload=payload)
    data = path.read_bytes()
    fresh = min(FRESH, repeats)
    parts = [json.loads(_python(PARTS.format(path=str(path)))) for _ in range(fresh)]
    return {
        "bytes": len(data),
        "encode_s": median_seconds(lambda: image.save(io.BytesIO(), "SDL", payload=payload), repeats),
        "decode_s": median_seconds(lambda: Image.open(io.BytesIO(data)).load(), repeats),
        "open_s": median_seconds(lambda: Image.open(path).close(), 10 * repeats),
        "thumbnail_96_s": median_seconds(lambda: Image.open(path).thumbnail((96, 96)), repeats),
        "verify_s": median_seconds(lambda: Image.open(path).verify(), repeats),
        "cold_load_s": {name: statistics.median(row[name] for row in parts) for name in parts[0]}
        | {"total": _fresh_seconds(COLD.format(path=str(path)), fresh)},
    }


def run(photo: Path, output: Path, *, repeats: int, side: int) -> None:
    """Measure with a photo, write `output`, a JSON file, and print it.

    The small picture is the photo's middle, for both payloads.   repeats: calls that a time is the median of.
    side: of the large picture in pixels, 0 for none.
    """
    import pillow_sdl  # noqa: F401  registers the format
    from pillow_sdl import settings

    image = middle(photo, SIDE)
    found: dict[str, Any] = {
        "command": command(),
        "versions": versions(),
        "machine": platform.machine(),
        "threads": settings.default_threads(),
        "import_s": statistics.median(float(_python(IMPORTS)) for _ in range(min(FRESH, repeats))),
        "python_and_pillow_s": _fresh_seconds(EMPTY, min(FRESH, repeats)),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for payload in ("range", "zstd"):
            found[f"{SIDE}x{SIDE} {payload}"] = _small(image, folder / f"{payload}.sdl", payload, repeats)
        if side:
            found[f"{side}x{side} RGB"] = _large(photo, folder, side, alpha=False)
            found[f"{side}x{side} RGBA"] = _large(photo, folder, side, alpha=True)
    found["benchmark_peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    write_json(output, found)
    print(json.dumps(found, indent=1))
