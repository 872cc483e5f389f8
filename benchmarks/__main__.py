"""Measure the codec, or draw a chart of results.

Results are committed in benchmarks/results.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Final

RESULTS: Final = Path(__file__).parent / "results"

MODULES: Final = {
    "rd": "rd:run",
    "entropy": "entropy:run",
    "denoise": "denoise:run",
    "palette": "palette:run",
    "overhead": "overhead:run",
    "speed": "speed:run",
    "stages": "stages:run",
    "folders": "folders:run",
    "autoload": "autoload:run",
    "fidelity": "fidelity:run",
    "animation": "animation:run",
    "chart": "report:write_chart",
}
"""Module and function of each command.  The function takes the command's options by name."""


def _parser() -> argparse.ArgumentParser:
    from benchmarks.codecs import sdl_variant

    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    rd = commands.add_parser("rd", help="quality of formats at equal whole-file bytes")
    rd.add_argument("--images", type=Path, required=True, help="folder of photos, best without lossy compression")
    rd.add_argument("--metrics", type=Path, required=True, help="folder of LPIPS and DISTS weights")
    rd.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.15, 0.25, 0.5], help="bits per pixel")
    rd.add_argument(
        "--sdl",
        type=sdl_variant,
        action="append",
        default=[],
        metavar="MODEL:EFFORT:PAYLOAD",
        help="variant of SDL, of which any part may be empty; may be repeated; default: the defaults of save",
    )
    rd.add_argument(
        "--formats", nargs="*", metavar="NAME", help="other formats, such as JPEG or 'JPEG XL'; default: all"
    )
    rd.add_argument("--latents", type=Path, help="folder of an AutoencoderTiny, to measure vaepack and vaezip on it")
    rd.add_argument("--every", type=int, default=1, help="take every Nth photo")
    _add_journal(rd, RESULTS / "rd.json")

    entropy = commands.add_parser("entropy", help="bytes and times of entropy coders on the same symbols")
    entropy.add_argument("--images", type=Path, required=True, help="folder of photos")
    entropy.add_argument("--space", required=True, help="name of the latent space, whose context model is used")
    entropy.add_argument("--model", type=Path, help="folder of an AutoencoderTiny; default: the registry's model")
    points = entropy.add_mutually_exclusive_group()
    points.add_argument("--steps", type=float, nargs="+", help="one for all channels; default with --model: .25 .5 .75")
    points.add_argument("--qualities", type=int, nargs="+", help="the space's own steps; default: 10 30 50 70 90")
    entropy.add_argument("--scale", action="store_true", help="also measure times of a latent repeated 1, 4, 16 times")
    entropy.add_argument("--repeats", type=int, default=5, help="calls that a time is the median of")
    _add_journal(entropy, None, "entropy_SPACE.json")

    denoise = commands.add_parser("denoise", help="quality of one model's files with and without each denoiser")
    denoise.add_argument("--images", type=Path, required=True, help="folder of photos")
    denoise.add_argument("--metrics", type=Path, required=True, help="folder of LPIPS and DISTS weights")
    _add_model(denoise)
    denoise.add_argument("--steps", type=float, nargs="+", default=[0.25, 0.35, 0.5, 0.62, 0.75, 1.0, 1.25])
    denoise.add_argument("--denoisers", nargs="+", default=["off", "small"], help="as in configure(denoise=...)")
    denoise.add_argument("--only", nargs="+", default=[], metavar="PART", help="photos with one of these in the name")
    _add_journal(denoise, None, "denoise_MODEL.json")

    palette = commands.add_parser("palette", help="bytes and latent error of the palette quantizer")
    palette.add_argument("--images", type=Path, required=True, help="folder of photos of at least 512 x 512 pixels")
    _add_model(palette)
    palette.add_argument(
        "--starts", type=int, default=5, help="starts of the reference's k-means (default %(default)s)"
    )
    _add_journal(palette, RESULTS / "palette.json")

    overhead = commands.add_parser("overhead", help="time of a diffusers model here against diffusers by hand")
    overhead.add_argument("--photo", type=Path, required=True, help="photo of at least 512 x 512 pixels")
    _add_model(overhead)
    overhead.add_argument("--repeats", type=int, default=9, help="calls that a time is the median of")
    _add_output(overhead, None, "overhead_MODEL.json")

    speed = commands.add_parser(
        "speed", help="time of import, open, thumbnail, verify, encode, decode and a cold start; memory"
    )
    speed.add_argument("--photo", type=Path, required=True, help="photo of at least 512 x 512 pixels")
    speed.add_argument("--repeats", type=int, default=15, help="calls that a time is the median of")
    speed.add_argument("--side", type=int, default=10_000, help="of the large picture in pixels, 0 for none")
    _add_output(speed, RESULTS / "speed.json")

    stages = commands.add_parser("stages", help="time and memory of each stage at Stable Diffusion's size")
    stages.add_argument("--photo", type=Path, required=True)
    stages.add_argument("--side", type=int, default=512, help="pixels of the photo's middle (default %(default)s)")
    stages.add_argument("--quality", type=int, default=30)
    stages.add_argument("--repeats", type=int, default=3, help="calls after the first one that a time is the median of")
    _add_output(stages, RESULTS / "stages.json")

    folders = commands.add_parser("folders", help="images per second of one process, of several, and of one per file")
    folders.add_argument("--photos", type=Path, required=True, dest="photos_folder", help="folder of photos")
    folders.add_argument("--count", type=int, default=200, help="pictures made of the photos (default %(default)s)")
    folders.add_argument("--side", type=int, default=512, help="of each picture in pixels (default %(default)s)")
    folders.add_argument("--jobs", type=int, default=2, help="worker processes (default %(default)s)")
    folders.add_argument("--singles", type=int, help="pictures that get a process each; default: all")
    folders.add_argument("--repeats", type=int, default=1, help="runs that a rate is the median of")
    folders.add_argument("--ray", action="store_true", help="also measure a Ray of this machine")
    _add_output(folders, RESULTS / "folders.json")

    autoload = commands.add_parser("autoload", help="time that `sdl autoload enable` adds to a start of Python")
    autoload.add_argument("--starts", type=int, default=50, help="processes that a time is the median of")
    _add_output(autoload, RESULTS / "autoload.json")

    fidelity = commands.add_parser("fidelity", help="what the fidelity map and the guard promise: bounds, text, faces")
    fidelity.add_argument("--images", type=Path, required=True, help="folder of photos, for the map and its cost")
    fidelity.add_argument("--faces", type=Path, required=True, help="folder of photos, for faces of at most 120 pixels")
    fidelity.add_argument("--fonts", type=Path, required=True, help="folder of fonts: DejaVuSans.ttf and others")
    fidelity.add_argument("--signs", type=Path, nargs="+", required=True, help="photographed pages, screenshots")
    fidelity.add_argument("--metrics", type=Path, required=True, help="folder of LPIPS and DISTS weights")
    fidelity.add_argument(
        "--parts",
        nargs="+",
        default=[],
        metavar="PART",
        help="what is measured, default: all; the rest of OUTPUT stays",
    )
    fidelity.add_argument("--most-faces", type=int, default=30, help="faces that are looked at (default %(default)s)")
    fidelity.add_argument("--limit", type=int, help="only the first photos of --images")
    _add_output(fidelity, RESULTS / "fidelity.json")

    animation = commands.add_parser("animation", help="bytes, quality and flicker of a thing that moves over a photo")
    animation.add_argument("--images", type=Path, required=True, help="folder of photos of at least 384 x 384 pixels")
    animation.add_argument("--metrics", type=Path, required=True, help="folder of LPIPS and DISTS weights")
    animation.add_argument("--limit", type=int, help="only the first photos of --images")
    _add_output(animation, RESULTS / "animation.json")

    chart = commands.add_parser("chart", help="draw a small chart of LPIPS over bits per pixel")
    chart.add_argument("results", type=Path)
    chart.add_argument("--output", type=Path, nargs="+", required=True, help="files to write, .png or .svg")
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="taesd", help="found as `save` finds it (default %(default)s)")


def _add_output(parser: argparse.ArgumentParser, default: Path | None, name: str = "") -> None:
    text = f"default: {default.name if default else name} among the results"
    parser.add_argument("--output", type=Path, default=default, help=text)


def _add_journal(parser: argparse.ArgumentParser, default: Path | None, name: str = "") -> None:
    """Add the options of measurements that keep a journal of rows."""
    parser.add_argument("--limit", type=int, help="only the first photos")
    parser.add_argument("--restart", action="store_true", help="measure again what an earlier run has measured")
    _add_output(parser, default, name)


def main() -> None:
    """Run the command line."""
    options = vars(_parser().parse_args())
    command = options.pop("command")
    if command == "entropy":
        from benchmarks.runs import ONE_THREAD

        # BLAS reads these variables when numpy is imported.
        assert "numpy" not in sys.modules
        os.environ.update(ONE_THREAD)
    if "output" in options and options["output"] is None:
        options["output"] = RESULTS / f"{command}_{options['space' if command == 'entropy' else 'model']}.json"
    module, function = MODULES[command].split(":")
    getattr(import_module(f"benchmarks.{module}"), function)(**options)


if __name__ == "__main__":
    main()
