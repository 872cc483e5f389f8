"""Measure: `python -m benchmarks rd ...`, `entropy`, `denoise`, `palette`, `overhead`, `speed`, `stages`.

README's table: `table ...`.  Results are committed in results/.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    from benchmarks.codecs import sdl_variant

    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    rd = commands.add_parser("rd", help="quality of formats at equal whole-file bytes")
    rd.add_argument("--images", type=Path, required=True, help="folder of photos, lossless ones for figures that count")
    rd.add_argument("--metrics", type=Path, required=True, help="folder of LPIPS and DISTS weights")
    rd.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.15, 0.25, 0.5], help="bits per pixel")
    rd.add_argument(
        "--sdl",
        type=sdl_variant,
        action="append",
        default=[],
        metavar="MODEL:EFFORT:PAYLOAD",
        help="a variant of SDL, any part may be empty; may be repeated; default: the defaults of save",
    )
    rd.add_argument(
        "--formats", nargs="*", metavar="NAME", help="of others, as JPEG or 'JPEG XL'; default: all there are"
    )
    rd.add_argument("--latents", type=Path, help="folder of an AutoencoderTiny: measure vaepack and vaezip on it")
    rd.add_argument("--every", type=int, default=1, help="only every so many photos")
    rd.add_argument("--limit", type=int, help="only the first photos")
    rd.add_argument("--restart", action="store_true", help="measure anew what an earlier run has measured")
    rd.add_argument("--output", type=Path, default=RESULTS / "rd.json")
    entropy = commands.add_parser("entropy", help="bytes and times of entropy coders on the same symbols")
    entropy.add_argument("--images", type=Path, required=True, help="folder of photos")
    entropy.add_argument("--space", required=True, help="name of the latent space, whose context model is used")
    entropy.add_argument("--model", type=Path, help="folder of an AutoencoderTiny; default: the package's own model")
    points = entropy.add_mutually_exclusive_group()
    points.add_argument("--steps", type=float, nargs="+", help="one for all channels; default with --model: .25 .5 .75")
    points.add_argument("--qualities", type=int, nargs="+", help="the space's own steps; default: 10 30 50 70 90")
    entropy.add_argument("--scale", action="store_true", help="also times on a latent repeated 1, 4 and 16 times")
    entropy.add_argument("--repeats", type=int, default=5, help="calls that a time is the median of")
    entropy.add_argument("--limit", type=int, help="only the first photos")
    entropy.add_argument("--restart", action="store_true", help="measure anew what an earlier run has measured")
    entropy.add_argument("--output", type=Path, help="default: entropy_SPACE.json among the results")
    table = commands.add_parser("table", help="write the table of results between README's markers")
    table.add_argument("results", type=Path)
    table.add_argument("--readme", type=Path, required=True)
    denoise = commands.add_parser("denoise", help="quality of one model's files with and without each denoiser")
    denoise.add_argument("--images", type=Path, required=True, help="folder of photos")
    denoise.add_argument("--metrics", type=Path, required=True, help="folder of LPIPS and DISTS weights")
    denoise.add_argument("--model", default="taesd", help="found as `save` finds it (default %(default)s)")
    denoise.add_argument("--steps", type=float, nargs="+", default=[0.25, 0.35, 0.5, 0.62, 0.75, 1.0, 1.25])
    denoise.add_argument("--denoisers", nargs="+", default=["off", "small"], help="as in configure(denoise=...)")
    denoise.add_argument("--only", nargs="+", default=[], metavar="PART", help="photos with one of these in the name")
    denoise.add_argument("--limit", type=int, help="only the first photos")
    denoise.add_argument("--restart", action="store_true", help="measure anew what an earlier run has measured")
    denoise.add_argument("--output", type=Path, help="default: denoise_MODEL.json among the results")
    palette = commands.add_parser("palette", help="bytes and latent error of the palette quantiser")
    palette.add_argument("--images", type=Path, required=True, help="folder of photos of at least 512 x 512")
    palette.add_argument("--model", default="taesd", help="found as `save` finds it (default %(default)s)")
    palette.add_argument("--starts", type=int, default=5, help="of the reference's k-means (default %(default)s)")
    palette.add_argument("--limit", type=int, help="only the first photos")
    palette.add_argument("--restart", action="store_true", help="measure anew what an earlier run has measured")
    palette.add_argument("--output", type=Path, default=RESULTS / "palette.json")
    overhead = commands.add_parser("overhead", help="time of a diffusers model here against diffusers by hand")
    overhead.add_argument("--photo", type=Path, required=True, help="a photo of at least 512 x 512")
    overhead.add_argument("--model", default="taesd", help="found as `save` finds it (default %(default)s)")
    overhead.add_argument("--repeats", type=int, default=9)
    overhead.add_argument("--output", type=Path, help="default: overhead_MODEL.json among the results")
    speed = commands.add_parser("speed", help="time of encode, decode, open, thumbnail, import; memory")
    speed.add_argument("--photo", type=Path, required=True, help="a photo of at least 512 x 512")
    speed.add_argument("--repeats", type=int, default=15)
    speed.add_argument("--side", type=int, default=10_000, help="of the large picture in pixels, 0 for none")
    speed.add_argument("--output", type=Path, default=RESULTS / "speed.json")
    stages = commands.add_parser(
        "stages", help="time and memory of each stage, with networks of Stable Diffusion's size"
    )
    stages.add_argument("--photo", type=Path, required=True)
    stages.add_argument("--side", type=int, default=512, help="of the photo's middle that is used, in pixels")
    stages.add_argument("--quality", type=int, default=30)
    stages.add_argument("--repeats", type=int, default=3, help="calls after the first that a time is the median of")
    stages.add_argument("--output", type=Path, default=RESULTS / "stages.json")
    options = vars(parser.parse_args())
    command = options.pop("command")
    if command == "rd":
        from benchmarks import rd as measure_rd

        measure_rd.run(**options)
    elif command == "entropy":
        from benchmarks.runs import ONE_THREAD

        # BLAS reads these when numpy is imported.
        assert "numpy" not in sys.modules
        os.environ.update(ONE_THREAD)
        from benchmarks import entropy as measure_entropy

        options["output"] = options["output"] or RESULTS / f"entropy_{options['space']}.json"
        measure_entropy.run(**options)
    elif command == "denoise":
        from benchmarks import denoise as measure_denoise

        options["output"] = options["output"] or RESULTS / f"denoise_{options['model']}.json"
        measure_denoise.run(**options)
    elif command == "palette":
        from benchmarks import palette as measure_palette

        measure_palette.run(**options)
    elif command == "overhead":
        from benchmarks import overhead as measure_overhead

        options["output"] = options["output"] or RESULTS / f"overhead_{options['model']}.json"
        measure_overhead.run(**options)
    elif command == "table":
        from benchmarks import report

        found = report.table(json.loads(options["results"].read_text("utf-8")))
        readme: Path = options["readme"]
        readme.write_text(report.insert(readme.read_text("utf-8"), found), "utf-8")
    elif command == "stages":
        from benchmarks import stages as measure_stages

        # Networks of 4 GB are written there: TMPDIR says where that is.
        with tempfile.TemporaryDirectory() as folder:
            measure_stages.run(folder=Path(folder), **options)
    else:
        from benchmarks import speed as measure_speed

        with tempfile.TemporaryDirectory() as folder:
            measure_speed.run(folder=Path(folder), **options)


if __name__ == "__main__":
    main()
