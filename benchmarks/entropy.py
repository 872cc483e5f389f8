"""Entropy coders on the same symbols: bytes of each, with the ideal code length beside them, and times on one core.

Symbols are the latents of whole photos, divided by their steps and rounded to the nearest.
"""

from __future__ import annotations

import importlib
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from benchmarks.peers import Tiny
from benchmarks.report import markdown
from benchmarks.runs import ONE_THREAD, Journal, Row, command, median_seconds, photos, versions
from pillow_sdl import codec
from pillow_sdl.errors import SdlError
from pillow_sdl.latent import context, entropy, quantize, rans, spaces
from pillow_sdl.models import cards, store

Symbols = NDArray[np.int16]
"""(C, h, w)."""

SCHEMA: Final = 1
STEPS: Final = (0.25, 0.5, 0.75)
QUALITIES: Final = (10, 30, 50, 70, 90)
SCALES: Final = (1, 2, 4)
"""How many times a latent is repeated each way, to see how times grow."""

CODERS: Final = {
    "zstd_19": "zstd 19",
    "zstd": "method 0",
    "order_0": "order 0",
    "order_0_channels": "order 0 by channel",
    "vaepack": "vaepack's JXL",
    "range_ideal": "method 1, ideal",
    "range": "method 1",
}
"""Columns of bytes and their titles; order 0 without the cost of its table."""
METHODS: Final = {"zstd": entropy.ZSTD, "range": entropy.RANGE}


class Point(NamedTuple):
    """A quantiser.   step: latent units per symbol, float32 (C,).   log2_steps: as coders are given it, int64 (C,)."""

    name: str
    step: NDArray[np.float32]
    log2_steps: NDArray[np.int64]


def uniform(step: float, channels: int) -> Point:
    """One step for all channels."""
    log2_step = round(spaces.STEP_UNIT * float(np.log2(step)))
    return Point(f"step {step}", np.full(channels, step, np.float32), np.full(channels, log2_step, np.int64))


def of_quality(quality: int, space: str) -> Point:
    """The steps of `save(quality=...)`."""
    rate = codec.EncodeOptions(quality=quality).rate
    table = spaces.by_name(space).tables.log2_steps
    return Point(f"quality {quality}", quantize.steps(table, rate), quantize.log2_steps(table, rate))


def zstd_size(symbols: Symbols) -> int:
    """Bytes of the plainest coder: int8 planes, int16 if they must be, in one frame of zstd 19."""
    narrow = symbols.astype(np.int8)
    planes = narrow if np.array_equal(narrow, symbols) else symbols
    return len(zstandard.ZstdCompressor(level=19).compress(planes.tobytes()))


def order_0_size(symbols: NDArray[np.int16]) -> float:
    """Bytes that the symbols take if each costs what its frequency among them says."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float((counts * np.log2(symbols.size / counts)).sum()) / 8


def ideal_size(symbols: Symbols, space: str, log2_steps: NDArray[np.int64]) -> float:
    """Bytes that the context model's probabilities ask for; method 1 adds its states and rounds up to words."""
    model = context.model(space)
    used = [index for index, group in enumerate(model.groups, 1) if symbols[group.channels].any()]
    coder = rans.Encoder()
    walk = context.Walk(model, log2_steps, max(used, default=0), *symbols.shape[1:])
    context.code(walk, context.distributions(), symbols, coder)
    return coder.bits() / 8


def vaepack_coder() -> Callable[[Symbols], int] | None:
    """Bytes of vaepack's coder of integers, lossless JPEG XL; None if it is not installed.  vaezip has no such coder."""
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
    """Bytes and milliseconds of both methods.  Raises RuntimeError if other symbols come back."""
    found: Row = {}
    channels, height, width = symbols.shape
    for name, method in METHODS.items():
        encode = partial(entropy.encode, symbols, method, space, log2_steps)
        data = encode()
        decode = partial(entropy.decode, data, (channels, height, width), method, space, log2_steps)
        if not np.array_equal(decode(), symbols):
            msg = f"method {method} does not give back the symbols of {space} that it was given"
            raise RuntimeError(msg)
        found[name] = len(data)
        found[f"{name}_encode_ms"] = 1000 * median_seconds(encode, repeats)
        found[f"{name}_decode_ms"] = 1000 * median_seconds(decode, repeats)
    return found


def measure_symbols(
    symbols: Symbols, space: str, log2_steps: NDArray[np.int64], repeats: int, vaepack: Callable[[Symbols], int] | None
) -> Row:
    """Bytes of all coders, times of both methods."""
    found: Row = {"symbols": symbols.size}
    found |= {"zstd_19": zstd_size(symbols), "order_0": order_0_size(symbols)}
    found["order_0_channels"] = sum(order_0_size(plane) for plane in symbols)
    found["range_ideal"] = ideal_size(symbols, space, log2_steps)
    if vaepack:
        found["vaepack"] = vaepack(symbols)
    return found | times(symbols, space, log2_steps, repeats)


def summarise(rows: list[Row]) -> list[Row]:
    """Means over photos for each quantiser, and by how many per cent method 1 differs from the others."""
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
    """Means in Markdown, per cents of method 1 against the others, times; and the times of repeated latents."""
    means = found["means"]
    coders = [name for name in CODERS if name in means[0]]
    clocks = [f"{name}_{work}_ms" for name in METHODS for work in ("encode", "decode")]
    clock_titles = [f"{CODERS[name]} {work} ms" for name in METHODS for work in ("encode", "decode")]
    size = [["bytes", *(CODERS[name] for name in coders)]]
    ratio = [["method 1 against", *(CODERS[name] for name in means[0]["range_percent"])]]
    clock = [["one core", "symbols", *clock_titles]]
    for mean in means:
        size.append([mean["point"], *(f"{mean[name]:,.0f}" for name in coders)])
        ratio.append([mean["point"], *(f"{percent:+.1f} %" for percent in mean["range_percent"].values())])
    clock += [
        [row["point"], f"{row['symbols']:,.0f}", *(f"{row[name]:.1f}" for name in clocks)]
        for row in [*means, *found["scale"]]
    ]
    return "\n\n".join(map(markdown, (size, ratio, clock)))


Encoder = Callable[[Path], NDArray[np.float32]]
"""A photo to its latent, float32 (C, h, w)."""


def encoder(model: Path | None, space: str) -> Encoder:
    """Of the folder of an AutoencoderTiny, or of the package's own model of that space.

    Raises SystemExit if there is none.
    """
    if model is None:
        card = next((card for card in cards.CARDS if card.space == space), None)
        if card is None:
            msg = f"no model here has the latent space {space}: --model names the folder of one"
            raise SystemExit(msg)
        network = store.load(card)
        return lambda path: network.encode(np.asarray(Image.open(path).convert("RGB")))
    tiny = Tiny(model)
    return lambda path: tiny.encode(Image.open(path).convert("RGB"))[0].numpy()


def check_space(space: str) -> None:
    """Raise SystemExit for a latent space without a context model."""
    try:
        context.model(space)
    except SdlError as exc:
        raise SystemExit(str(exc)) from exc


def measure(
    paths: Sequence[Path],
    points: Sequence[Point],
    space: str,
    encode: Encoder,
    repeats: int,
    journal: Journal,
) -> list[Row]:
    """Rows of all photos at all points, those that the journal has already among them."""
    done = {(row["photo"], row["point"]): row for row in journal.rows}
    vaepack = vaepack_coder()
    with tqdm(total=len(paths) * len(points), unit="latent", disable=None) as bar:
        for path in paths:
            left = [point for point in points if (path.name, point.name) not in done]
            bar.update(len(points) - len(left))
            if not left:
                continue
            latent = encode(path)
            if len(latent) != len(points[0].step):
                msg = f"the model's latents have {len(latent)} channels, those of {space} {len(points[0].step)}"
                raise SystemExit(msg)
            for point in left:
                symbols = quantize.round_off(quantize.scale(latent, point.step))
                found = measure_symbols(symbols, space, point.log2_steps, repeats, vaepack)
                row: Row = {"photo": path.name, "point": point.name} | found
                journal.append(row)
                done[path.name, point.name] = row
                bar.set_postfix_str(f"{path.name} {point.name}")
                bar.update()
    return [done[path.name, point.name] for path in paths for point in points]


def measure_scale(latent: NDArray[np.float32], point: Point, space: str, repeats: int) -> list[Row]:
    """Times on a latent repeated 1, 4 and 16 times; of bytes, zstd finds the repetition, so they say little."""
    symbols = quantize.round_off(quantize.scale(latent, point.step))
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
    """Measure, write `output`, a JSON file, and print the tables.   steps and qualities: at most one of them."""
    paths = photos(images, limit)
    check_space(space)
    torch.set_num_threads(1)
    encode = encoder(model, space)
    if steps is None and (qualities is not None or model is None):
        points = [of_quality(quality, space) for quality in qualities or QUALITIES]
    else:
        points = [uniform(step, len(context.model(space).exponent)) for step in steps or STEPS]
    setting = {
        "images": images.name,
        "model": model.name if model else "the package's",
        "space": space,
        "context_model": context.TABLES[space],
        "points": [point.name for point in points],
        "skipped": {} if vaepack_coder() else {"vaepack": "not installed"},
        "versions": versions(),
        "machine": platform.machine(),
        "times": f"medians of {repeats} calls after a first one",
        "threads": {name: os.environ.get(name) for name in ONE_THREAD},
    }
    journal = Journal(output, setting, restart=restart)
    rows = measure(paths, points, space, encode, repeats, journal)
    found = {"schema": SCHEMA, "command": command(), "setting": setting, "means": summarise(rows)}
    found["scale"] = measure_scale(encode(paths[0]), points[len(points) // 2], space, repeats) if scale else []
    found["rows"] = rows
    journal.finish(found)
    print(table(found))
