"""Measure how fast the program encodes many files, and the memory of each process.

It compares one process for all files, with all processors and with one thread; several worker processes; one process
for each file, as a loop in a shell starts them; and, if asked, a Ray cluster of this machine with as many actors as
workers.  Every run is a fresh process.  Its time begins with the start of the interpreter and ends with the last file.
The cluster runs already.
"""

from __future__ import annotations

import json
import os
import platform
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from PIL import Image
from tqdm import tqdm

from benchmarks.runs import command, photos, versions, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM: Final = (sys.executable, "-m", "pillow_sdl")

LARGE: Final = 4000, 3000
"""Width and height of the large picture with which memory is measured: that of a camera of 12 megapixels."""

# The largest of the processes that a command starts, in KB, with those that they start and wait for.
PEAK: Final = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def make_photos(sources: list[Path], folder: Path, count: int, side: int) -> list[Path]:
    """Write square parts of photos as JPEG files of side x side pixels, and return their paths.

    Each is a random part of at least half the shorter side of its photo, reduced or enlarged to its size.
    """
    choose = random.Random(0)  # noqa: S311  pictures of a benchmark
    made = []
    for number in range(count):
        with Image.open(sources[number % len(sources)]) as image:
            part = min(image.size) * choose.uniform(0.5, 1)
            left, top = choose.uniform(0, image.width - part), choose.uniform(0, image.height - part)
            square = image.convert("RGB").resize(
                (side, side), Image.Resampling.LANCZOS, (left, top, left + part, top + part)
            )
        made.append(folder / f"{number:04}.jpg")
        square.save(made[-1], quality=95)
    return made


class Cost(NamedTuple):
    """What pictures cost: seconds, and seconds of all processors together, which depend less on other programs."""

    seconds: float
    cpu_seconds: float


def _cost(commands: list[list[str]]) -> Cost:
    """Return what commands cost, one after the other, with all processes that they start."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for arguments in commands:
        subprocess.run([*PROGRAM, *arguments, "--quiet"], check=True)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(time.perf_counter() - started, cpu)


def _peak(arguments: list[str]) -> float:
    """Return the peak memory of the largest process of a command, in megabytes."""
    program = [sys.executable, "-c", PEAK, *PROGRAM, *arguments, "--quiet"]
    found = subprocess.run(program, check=True, capture_output=True, text=True)  # noqa: S603
    return int(found.stdout) / 1024


def _memory(made: list[Path], sources: list[Path], folder: Path) -> dict[str, float]:
    """Return the peak memory of one worker process, in megabytes, for the pictures and for two large ones."""
    found = {}
    with Image.open(sources[0]) as image:
        large = image.convert("RGB").resize(LARGE, Image.Resampling.LANCZOS)
    two = [folder / "large1.jpg", folder / "large2.jpg"]
    for path in two:
        large.save(path, quality=95)
    for name, paths in (("small", made[:8]), ("large", two)):
        (out := folder / f"memory {name}").mkdir()
        found[f"encode_{name}_mb"] = _peak(["encode", "--jobs", "2", *map(str, paths), "-o", str(out)])
        files = [str(out / path.with_suffix(".sdl").name) for path in paths]
        found[f"decode_{name}_mb"] = _peak(["decode", "--jobs", "2", *files, "-o", str(out)])
    return found


@contextmanager
def _cluster(cpus: int) -> Iterator[None]:
    """Keep a Ray of this machine running, with its workers at the priority of this process."""
    program = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--port=0"]
    options = [f"--num-cpus={cpus}", "--include-dashboard=false", "--disable-usage-stats"]
    node = subprocess.Popen(  # noqa: S603
        [*program, *options], env=os.environ | {"RAY_worker_niceness": "0"}, stdout=subprocess.PIPE, text=True
    )
    assert node.stdout is not None
    try:
        for line in node.stdout:
            if "Ray runtime started" in line:
                break
        else:
            msg = f"ray start ended with status {node.wait()}"
            raise RuntimeError(msg)
        yield
    finally:
        node.terminate()
        node.wait()
        node.stdout.close()


def run(
    photos_folder: Path, output: Path, *, count: int, side: int, jobs: int, singles: int | None, repeats: int, ray: bool
) -> None:
    """Measure with parts of the photos in a folder, write `output`, a JSON file, and print it.

    count: number of pictures.   side: of each in pixels.   jobs: number of worker processes.
    singles: number of pictures that are encoded by a process each, None for all.
    repeats: runs that a rate is the median of.   ray: whether a Ray of this machine is measured too.
    """
    sources = photos(photos_folder, None)
    one, single, several = "one process", "one process with one thread", f"--jobs {jobs}"
    options = {one: ["--jobs", "1"], single: ["--jobs", "1", "--threads", "1"], several: ["--jobs", str(jobs)]}
    if ray:
        options["Ray"] = ["--ray", "auto", "--jobs", str(jobs)]
    each = "one process per file"
    pictures = dict.fromkeys(options, count) | {each: min(singles or count, count)}
    costs: dict[str, list[Cost]] = {way: [] for way in pictures}
    with tempfile.TemporaryDirectory() as name, _cluster(jobs) if ray else nullcontext():
        folder = Path(name)
        (inputs := folder / "in").mkdir()
        made = make_photos(sources, inputs, count, side)
        for _ in tqdm(range(repeats), unit="turn", disable=None):
            for way, given in options.items():
                out = folder / "out"
                costs[way].append(_cost([["encode", "-r", str(inputs), "-o", str(out), *given]]))
                shutil.rmtree(out)
            (out := folder / "out").mkdir()
            costs[each].append(_cost([["encode", str(path), "-o", str(out)] for path in made[: pictures[each]]]))
            shutil.rmtree(out)
        memory = _memory(made, sources, folder)
    rates = {way: pictures[way] / statistics.median(cost.seconds for cost in costs[way]) for way in costs}
    cpu = {way: statistics.median(cost.cpu_seconds for cost in costs[way]) / pictures[way] for way in costs}
    found: dict[str, Any] = {
        "command": command(),
        "versions": versions(),
        "machine": platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "pictures": count,
        "side": side,
        "images_per_second": rates,
        "cpu_seconds_per_image": cpu,
        "ratios": {f"{several} to {way}": rates[several] / rates[way] for way in costs if way != several},
        "worker_peak": memory,
        "runs": {way: [cost._asdict() for cost in costs[way]] for way in costs},
    }
    write_json(output, found)
    print(json.dumps(found, indent=1))
