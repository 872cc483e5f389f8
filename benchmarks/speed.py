"""Time and memory: medians of repeated runs, cold starts in processes of their own, peak memory of a large picture."""

from __future__ import annotations

import io
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from PIL import Image

from benchmarks.runs import command, median_seconds, middle, versions

SIDE: Final = 512
"""Of the small picture, in pixels."""

COLD = """
import time
start = time.perf_counter()
from PIL import Image
import pillow_sdl
pillow = time.perf_counter()
image = Image.open({path!r})
opened = time.perf_counter()
import numpy
import torch
from pillow_sdl.models import embedded
imported = time.perf_counter()
from pillow_sdl.models import cards, store
store.load(cards.by_name("embedded"))
weights = time.perf_counter()
image.load()
end = time.perf_counter()
import json
print(json.dumps({{"pillow": pillow - start, "open": opened - pillow, "import_torch": imported - opened,
                  "weights": weights - imported, "network": end - weights, "total": end - start}}))
"""

IMPORTS = """
import time
from PIL import Image
start = time.perf_counter()
import pillow_sdl
print(time.perf_counter() - start)
"""

LARGE = """
import resource, sys, time
from PIL import Image
import pillow_sdl
Image.MAX_IMAGE_PIXELS = None
side = {side}
{action}
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

# A large picture with detail everywhere: a photo repeated; with alpha, a gradient that is clear at the top.
MAKE = """
source = Image.open({photo!r}).convert("RGB")
picture = Image.new("RGB", (side, side))
for y in range(0, side, source.height):
    for x in range(0, side, source.width):
        picture.paste(source, (x, y))
if {alpha}:
    picture.putalpha(Image.linear_gradient("L").resize((side, side)))
"""


def _python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout  # noqa: S603


def _large(photo: Path, folder: Path, side: int, *, alpha: bool) -> dict[str, float]:
    """Seconds and peak megabytes of encoding and decoding a picture of side x side pixels, the process included."""
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
    """Bytes of a picture's file and median seconds of all that is done with it; it is written to `path`."""
    image.save(path, payload=payload)
    data = path.read_bytes()
    cold = [json.loads(_python(COLD.format(path=str(path)))) for _ in range(min(5, repeats))]
    return {
        "bytes": len(data),
        "encode_s": median_seconds(lambda: image.save(io.BytesIO(), "SDL", payload=payload), repeats),
        "decode_s": median_seconds(lambda: Image.open(io.BytesIO(data)).load(), repeats),
        "open_s": median_seconds(lambda: Image.open(path).close(), 10 * repeats),
        "thumbnail_96_s": median_seconds(lambda: Image.open(path).thumbnail((96, 96)), repeats),
        "verify_s": median_seconds(lambda: Image.open(path).verify(), repeats),
        "cold_load_s": {name: statistics.median(row[name] for row in cold) for name in cold[0]},
    }


def run(photo: Path, output: Path, folder: Path, repeats: int, side: int) -> None:
    """Measure with a photo, 512 x 512 from its middle, for both payloads, and write JSON."""
    import pillow_sdl  # noqa: F401

    image = middle(photo, SIDE)
    import torch

    found: dict[str, Any] = {
        "command": command(),
        "versions": versions(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "import_s": statistics.median(float(_python(IMPORTS)) for _ in range(11)),
    }
    for payload in ("range", "zstd"):
        found[f"{SIDE}x{SIDE} {payload}"] = _small(image, folder / f"{payload}.sdl", payload, repeats)
    if side:
        found[f"{side}x{side} RGB"] = _large(photo, folder, side, alpha=False)
        found[f"{side}x{side} RGBA"] = _large(photo, folder, side, alpha=True)
    found["benchmark_peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
