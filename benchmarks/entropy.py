"""Compare entropy coders on the same symbols: bytes of each, the ideal code length, and times on one core.

Symbols are the latents of whole photos, divided by their steps and rounded to the nearest whole number.
"""

from __future__ import annotations

import importlib
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from benchmarks.peers import encoder
from benchmarks.report import markdown
from benchmarks.runs import ONE_THREAD, Journal, Row, command, median_seconds, photos, versions
from pillow_sdl import registry
from pillow_sdl.latent import context, entropy, rans, scalar, spaces
from pillow_sdl.latent.rounding import round_to_nearest
from pillow_sdl.options import EncodeOptions

Symbols: TypeAlias = NDArray[np.int16]
"""Symbols of a latent, (C, h, w)."""

SCHEMA: Final = 1
STEPS: Final = (0.25, 0.5, 0.75)
QUALITIES: Final = (10, 30, 50, 70, 90)
SCALES: Final = (1, 2, 4)
"""How often a latent is repeated on each axis, to see how times grow."""

CODERS: Final = {
    "zstd_19": "zstd 19",
    "zstd": "payload zstd",
    "order_0": "order 0",
    "order_0_channels": "order 0 by channel",
    "vaepack": "vaepack's JXL",
    "range_ideal": "range, ideal",
    "range": "payload range",
}
"""Columns of bytes and their titles.  Order 0 is without the cost of its table."""

METHODS: Final = tuple(entropy.METHODS)
"""Names of the payload methods."""


class Point(NamedTuple):
    """A quantizer.

    name: in tables.   step: latent units for each symbol, float32 (C,).
    log2_steps: steps as coders take them, int64 (C,), in 1/256 octave.
    """

    name: str
    step: NDArray[np.float32]
    log2_steps: NDArray[np.int64]


def uniform(step: float, channels: int) -> Point:
    """Return the quantizer with one step for all channels."""
    log2_step = round(spaces.STEP_UNIT * float(np.log2(step)))
    return Point(f"step {step}", np.full(channels, step, np.float32), np.full(channels, log2_step, np.int64))


def of_quality(quality: int, space: str) -> Point:
    """Return the quantizer of `save(quality=...)`."""
    rate = EncodeOptions(quality=quality).rate
    table = spaces.tables(registry.space(space)).log2_steps
    return Point(f"quality {quality}", scalar.steps(table, rate), scalar.log2_steps(table, rate))


def zstd_size(symbols: Symbols) -> int:
    """Return the bytes of the simplest coder: int8 planes, or int16 if a symbol needs it, in one frame of zstd 19."""
    narrow = symbols.astype(np.int8)
    planes = narrow if np.array_equal(narrow, symbols) else symbols
    return len(zstandard.ZstdCompressor(level=19).compress(planes.tobytes()))


def order_0_size(symbols: NDArray[np.int16]) -> float:
    """Return the bytes that symbols take if each costs what its frequency among them says."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float((counts * np.log2(symbols.size / counts)).sum()) / 8


def ideal_size(symbols: Symbols, space: str, log2_steps: NDArray[np.int64]) -> float:
    """Return the ideal code length under the context model, in bytes.

    The payload method "range" adds its coder's states and rounds up to whole words.
    """
    model = context.model(space)
    used = [index for index, group in enumerate(model.groups, 1) if symbols[group.channels].any()]
    coder = rans.Encoder()
    walk = context.Walk(model, log2_steps, max(used, default=0), *symbols.shape[1:])
    context.code(walk, context.distributions(), symbols, coder)
    return coder.bits() / 8


def vaepack_coder() -> Callable[[Symbols], int] | None:
    """Return a function that gives the bytes of vaepack's coder of integers, lossless JPEG XL.

    Returns None if vaepack is not installed.  vaezip has no such coder.
    """
    try:
        coder = importlib.import_module("vaepack").JXLCodec()
    except ImportError:
        return None

    def size(symbols: Symbols) -> int:
        low, high = int(symbols.min()), int(symbols.max())
        bits = max(8, (high - low).bit_length())
        plane = (symbols.astype(np.int32) - low).transpose(1, 2, 0).astype(np.uint8 if bits == 8 else np.uint16)
        data = coder.encode(plane, lossless=True, effort=7, quant_bits=bits)
        assert np.array_equal(coder.decode(data).reshape(plane.shape), plane)
        return len(data)

    return size


def times(symbols: Symbols, space: str, log2_steps: NDArray[np.int64], repeats: int) -> Row:
    """Return bytes and milliseconds of both payload methods.  Raises RuntimeError if other symbols come back."""
    found: Row = {}
    channels, height, width = symbols.shape
    for name in METHODS:
        method = registry.load().payloads[name]
        encode = partial(entropy.encode, symbols, method, space, log2_steps)
        data = encode()
        decode = partial(entropy.decode, data, (channels, height, width), method, space, log2_steps)
        if not np.array_equal(decode(), symbols):
            msg = f"the payload method {name} does not give back the symbols of {space} that it was given"
            raise RuntimeError(msg)
        found[name] = len(data)
        found[f"{name}_encode_ms"] = 1000 * median_seconds(encode, repeats)
        found[f"{name}_decode_ms"] = 1000 * median_seconds(decode, repeats)
    return found


def measure_symbols(
    symbols: Symbols, space: str, log2_steps: NDArray[np.int64], repeats: int, vaepack: Callable[[Symbols], int] | None
) -> Row:
    """Return bytes of all coders and times of both payload methods.   vaepack: see `vaepack_coder`."""
    found: Row = {"symbols": symbols.size}
    found |= {"zstd_19": zstd_size(symbols), "order_0": order_0_size(symbols)}
    found["order_0_channels"] = sum(order_0_size(plane) for plane in symbols)
    found["range_ideal"] = ideal_size(symbols, space, log2_steps)
    if vaepack:
        found["vaepack"] = vaepack(symbols)
    return found | times(symbols, space, log2_steps, repeats)


def summarize(rows: list[Row]) -> list[Row]:
    """Return means over photos for each quantizer, and the difference of "range" from the others in per cent."""
    means = []
    for name in dict.fromkeys(row["point"] for row in rows):
        chosen = [row for row in rows if row["point"] == name]
        mean: Row = {"point": name, "photos": len(chosen)}
        for measured, value in chosen[0].items():
            if not isinstance(value, str):
                mean[measured] = statistics.fmean(row[measured] for row in chosen)
        others = [other for other in CODERS if other in mean and other != "range"]
        mean["range_percent"] = {other: 100 * (mean["range"] / mean[other] - 1) for other in others}
        means.append(mean)
    return means


def table(found: dict[str, Any]) -> str:
    """Return tables in Markdown: bytes, "range" against the others in per cent, and times, also of repeated latents."""
    means = found["means"]
    coders = [name for name in CODERS if name in means[0]]
    clocks = [f"{name}_{work}_ms" for name in METHODS for work in ("encode", "decode")]
    clock_titles = [f"{CODERS[name]} {work} ms" for name in METHODS for work in ("encode", "decode")]
    size = [["bytes", *(CODERS[name] for name in coders)]]
    ratio = [["payload range against", *(CODERS[name] for name in means[0]["range_percent"])]]
    clock = [["one core", "symbols", *clock_titles]]
    for mean in means:
        size.append([mean["point"], *(f"{mean[name]:,.0f}" for name in coders)])
        ratio.append([mean["point"], *(f"{percent:+.1f} %" for percent in mean["range_percent"].values())])
    clock += [
        [row["point"], f"{row['symbols']:,.0f}", *(f"{row[name]:.1f}" for name in clocks)]
        for row in [*means, *found["scale"]]
    ]
    return "\n\n".join(map(markdown, (size, ratio, clock)))


Encoder: TypeAlias = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Turns pixels uint8 (H, W, 3) into a latent float32 (C, h, w)."""


def latent_of(path: Path, encode: Encoder) -> NDArray[np.float32]:
    """Return the latent of a photo."""
    return encode(np.asarray(Image.open(path).convert("RGB")))


def check_space(space: str) -> None:
    """Raise SystemExit for a latent space without a context model."""
    try:
        context.model(space)
    except KeyError as exc:
        names = ", ".join(known.name for known in registry.load().spaces)
        msg = f"the latent space {space} has no context model; there are {names}"
        raise SystemExit(msg) from exc


def measure(
    paths: Sequence[Path],
    points: Sequence[Point],
    space: str,
    encode: Encoder,
    repeats: int,
    journal: Journal,
) -> list[Row]:
    """Return rows of all photos at all points.  Those that the journal has already are not measured again."""
    done = {(row["photo"], row["point"]): row for row in journal.rows}
    vaepack = vaepack_coder()
    with tqdm(total=len(paths) * len(points), unit="latent", disable=None) as bar:
        for path in paths:
            left = [point for point in points if (path.name, point.name) not in done]
            bar.update(len(points) - len(left))
            if not left:
                continue
            latent = latent_of(path, encode)
            if len(latent) != len(points[0].step):
                msg = f"the model's latents have {len(latent)} channels, those of {space} {len(points[0].step)}"
                raise SystemExit(msg)
            for point in left:
                symbols = round_to_nearest(scalar.scale(latent, point.step))
                found = measure_symbols(symbols, space, point.log2_steps, repeats, vaepack)
                row: Row = {"photo": path.name, "point": point.name} | found
                journal.append(row)
                done[path.name, point.name] = row
                bar.set_postfix_str(f"{path.name} {point.name}")
                bar.update()
    return [done[path.name, point.name] for path in paths for point in points]


def measure_scale(latent: NDArray[np.float32], point: Point, space: str, repeats: int) -> list[Row]:
    """Return times on a latent repeated 1, 4 and 16 times.  Its bytes mean little: zstd finds the repetition."""
    symbols = round_to_nearest(scalar.scale(latent, point.step))
    found = []
    for scale in SCALES:
        tiled = np.tile(symbols, (1, scale, scale))
        row = times(tiled, space, point.log2_steps, repeats)
        found.append({"point": f"{point.name}, {scale * scale} x", "symbols": tiled.size} | row)
    return found


def run(
    images: Path,
    output: Path,
    *,
    model: Path | None,
    space: str,
    steps: Sequence[float] | None,
    qualities: Sequence[int] | None,
    scale: bool,
    repeats: int,
    limit: int | None,
    restart: bool,
) -> None:
    """Measure, write `output`, a JSON file, and print the tables.

    model: folder of an `AutoencoderTiny`; None for the registry's model of the space.
    steps, qualities: quantizers; at most one of them is given.   scale: whether times of repeated latents are measured.
    """
    paths = photos(images, limit)
    check_space(space)
    torch.set_num_threads(1)
    encode = encoder(space, model)
    if steps is None and (qualities is not None or model is None):
        points = [of_quality(quality, space) for quality in qualities or QUALITIES]
    else:
        points = [uniform(step, len(context.model(space).exponent)) for step in steps or STEPS]
    setting = {
        "images": images.name,
        "model": model.name if model else "the package's",
        "space": space,
        "context_model": registry.space(space).context.sha256,
        "points": [point.name for point in points],
        "skipped": {} if vaepack_coder() else {"vaepack": "not installed"},
        "versions": versions(),
        "machine": platform.machine(),
        "times": f"medians of {repeats} calls after a first one",
        "threads": {name: os.environ.get(name) for name in ONE_THREAD},
    }
    journal = Journal(output, setting, restart=restart)
    rows = measure(paths, points, space, encode, repeats, journal)
    found = {"schema": SCHEMA, "command": command(), "setting": setting, "means": summarize(rows)}
    found["scale"] = (
        measure_scale(latent_of(paths[0], encode), points[len(points) // 2], space, repeats) if scale else []
    )
    found["rows"] = rows
    journal.finish(found)
    print(table(found))
