"""Measure: `python -m benchmarks rd ...`, `python -m benchmarks speed ...`.  Results are JSON, committed in results/."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    rd = commands.add_parser("rd", help="quality of formats at equal whole-file bytes")
    rd.add_argument("--images", type=Path, required=True, help="folder of photos, lossless ones for figures that count")
    rd.add_argument("--metrics", type=Path, required=True, help="folder of LPIPS and DISTS weights")
    rd.add_argument("--rates", type=float, nargs="+", default=[0.15, 0.25, 0.5], help="bits per pixel")
    rd.add_argument("--limit", type=int, help="only the first photos")
    rd.add_argument("--output", type=Path, default=RESULTS / "rd.json")
    speed = commands.add_parser("speed", help="time of encode, decode, open, thumbnail, import; memory")
    speed.add_argument("--photo", type=Path, required=True, help="a photo of at least 512 x 512")
    speed.add_argument("--repeats", type=int, default=15)
    speed.add_argument("--side", type=int, default=10_000, help="of the large picture in pixels, 0 for none")
    speed.add_argument("--output", type=Path, default=RESULTS / "speed.json")
    options = parser.parse_args()
    if options.command == "rd":
        from benchmarks import rd as measure_rd

        measure_rd.run(options.images, options.metrics, options.output, options.rates, options.limit)
    else:
        from benchmarks import speed as measure_speed

        with tempfile.TemporaryDirectory() as folder:
            measure_speed.run(options.photo, options.output, Path(folder), options.repeats, options.side)


if __name__ == "__main__":
    main()
