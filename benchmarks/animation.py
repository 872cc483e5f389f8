"""Measure animations: a thing moves over a photo that stands still.

Bytes and LPIPS of SDL, animated WebP and GIF; how much the decoded pixels flicker where the source stands still; and
the bytes of a frame that equals the one before it.
"""

from __future__ import annotations

import io
import itertools
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageSequence
from tqdm import tqdm

from benchmarks.metrics import Lpips
from benchmarks.runs import command, middle, photos, versions, write_json
from pillow_sdl import decode, moving, registry
from pillow_sdl.format import container

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE: Final = 384
DISC: Final = 64
"""Pixels along the sides of the frames and across the moving disc."""

MOVES: Final = 10
"""Frames in which the disc moves.  One more equals the last of them."""

DURATION: Final = 80
"""Of each frame in milliseconds."""

SEEN: Final = 4
"""A pixel that stands still in the source flickers if a sample changes by more levels than this."""

VARIANTS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "SDL, quality 20": ("SDL", {"quality": 20}),
    "SDL, quality 30": ("SDL", {"quality": 30}),
    "SDL, quality 50": ("SDL", {"quality": 50}),
    "SDL, quality 30, each frame a file of its own": ("SDL", {"quality": 30, "alone": True}),
    "WebP, quality 0": ("WEBP", {"quality": 0, "method": 6}),
    "WebP, quality 10": ("WEBP", {"quality": 10, "method": 6}),
    "WebP, quality 30": ("WEBP", {"quality": 30, "method": 6}),
    "WebP, quality 50": ("WEBP", {"quality": 50, "method": 6}),
    "GIF": ("GIF", {}),
}
"""Format and options of what is measured, by its name."""


def movie(ground: Image.Image, thing: Image.Image) -> list[Image.Image]:
    """Return frames in which a disc with a part of another photo moves over a photo."""
    mask = Image.new("L", (DISC, DISC))
    ImageDraw.Draw(mask).ellipse((0, 0, DISC - 1, DISC - 1), fill=255)
    found = []
    for index in range(MOVES):
        frame = ground.copy()
        frame.paste(thing, (20 + 30 * index, 150 + round(90 * np.sin(index / 2))), mask)
        found.append(frame)
    return [*found, found[-1].copy()]


def _saved(pictures: list[Image.Image], kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    pictures[0].save(stream, kind, save_all=True, append_images=pictures[1:], duration=DURATION, loop=0, **options)
    return stream.getvalue()


def _decoded(data: bytes) -> list[NDArray[np.uint8]]:
    return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(io.BytesIO(data)))]


def _measure(name: str, pictures: list[Image.Image], lpips: Lpips) -> dict[str, Any]:
    """Return a row of results for one animation."""
    kind, options = VARIANTS[name]
    if options.get("alone"):
        files = [_saved([picture], kind, quality=options["quality"]) for picture in pictures]
        size, shown = sum(map(len, files)), [_decoded(file)[0] for file in files]
    else:
        data = _saved(pictures, kind, **options)
        size, shown = len(data), _decoded(data)
    # GIF and WebP may leave out the frame that equals the one before it.
    shown += [shown[-1]] * (len(pictures) - len(shown))
    sources = [np.asarray(picture) for picture in pictures]
    with torch.inference_mode():
        distances = [
            float(lpips(*(torch.from_numpy(a.copy()).permute(2, 0, 1)[None] / 255 for a in pair)))
            for pair in zip(sources, shown, strict=True)
        ]
    still, seen = [], []
    for before, after in itertools.pairwise(range(len(pictures) - 1)):
        stands = (sources[before] == sources[after]).all(2)
        difference = np.abs(shown[after].astype(int) - shown[before]).max(2)[stands]
        still.append(float(difference.mean()))
        seen.append(float((difference > SEEN).mean()))
    row = {"bytes": size, "lpips": statistics.mean(distances)}
    row |= {"still_mean": statistics.mean(still), "still_seen": statistics.mean(seen)}
    if kind == "SDL" and not options.get("alone"):
        row |= _outside(data, shown)
    return row


def _outside(data: bytes, shown: list[NDArray[np.uint8]]) -> dict[str, float]:
    """Return the share of the pixels that lie outside of the changed rectangles, and their largest change."""
    file = container.read(io.BytesIO(data))
    frames = decode.read_frames(file)
    assert frames is not None
    factor = registry.space(registry.EMBEDDED).factor
    shares, largest = [], 0
    for frame, (before, after) in zip(frames.further, itertools.pairwise(shown), strict=True):
        outside = np.ones(after.shape[:2], bool)
        for box in moving.shown(frame, file.header):
            rows, columns = (slice(factor * part.start, factor * part.stop) for part in box.slices)
            outside[rows, columns] = False
        if frame.changes:
            shares.append(float(outside.mean()))
        largest = max(largest, int(np.abs(after.astype(int) - before)[outside].max(initial=0)))
    return {"outside_share": statistics.mean(shares), "outside_largest": largest}


def _repeat_bytes(picture: Image.Image) -> dict[str, int]:
    """Return the bytes that one more frame without changes takes, by format."""
    kinds: dict[str, dict[str, Any]] = {"SDL": {"fidelity": False}, "WEBP": {}, "GIF": {}}
    other = picture.copy()
    other.paste((255, 0, 0), (0, 0, 16, 16))
    # Alternating with another frame, so that no format can join the two.
    return {
        kind: len(_saved([picture, other, other, picture], kind, **options))
        - len(_saved([picture, other, picture], kind, **options))
        for kind, options in kinds.items()
    }


def run(images: Path, metrics: Path, limit: int | None, output: Path) -> None:
    """Measure animations made of photos of a folder and write the results."""
    lpips = Lpips(metrics)
    paths = photos(images, limit, SIDE)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    for path, other in zip(tqdm(paths), [*paths[1:], paths[0]], strict=True):
        pictures = movie(middle(path, SIDE), middle(other, DISC))
        for name in VARIANTS:
            rows[name].append({"photo": path.name, **_measure(name, pictures, lpips)})
    means = {
        name: {key: statistics.mean(row[key] for row in found) for key in found[0] if key != "photo"}
        for name, found in rows.items()
    }
    model = registry.model(registry.EMBEDDED)
    assert model.weights is not None
    write_json(
        output,
        {
            "command": command(),
            "versions": versions(),
            "setting": {"models": {model.name: model.weights.sha256}},
            "side": SIDE,
            "frames": MOVES + 1,
            "seen": SEEN,
            "means": means,
            "repeat_bytes": _repeat_bytes(middle(paths[0], SIDE)),
            "rows": rows,
        },
    )
