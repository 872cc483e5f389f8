"""Measure rate and distortion: formats at equal whole-file bytes, picture by picture."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from benchmarks.codecs import FORMATS, PLUGINS, Codec, Encoded, Format, Search
from benchmarks.metrics import SMALLEST_SIDE, Dists, Lpips, ms_ssim, psnr
from benchmarks.peers import Peer, Tiny, peers
from benchmarks.report import plot, results, table
from benchmarks.runs import Journal, Row, command, photos, versions
from pillow_sdl import registry, settings

TOLERANCE: Final = 0.1
"""Part of the wanted bytes by which a file may be off before it is marked."""


class FeatureMetric(Protocol):
    """A distance of features.  Those of a photo are computed once and compared with many pictures."""

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Return the features of pixels (1, 3, H, W) in 0..1."""

    def distance(self, x: list[Tensor], y: list[Tensor]) -> Tensor:
        """Return the distance (1,), 0 for equal images."""


Perceptual: TypeAlias = Mapping[str, FeatureMetric]
"""LPIPS and DISTS, by their names in a row."""


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float() / 255


class Reference:
    """A photo and its features, with which all formats are compared."""

    @torch.inference_mode()
    def __init__(self, path: Path, perceptual: Perceptual) -> None:
        with Image.open(path) as source:
            # Pixels only, so that no format pays for a photo's Exif or color profile.
            self.image = Image.fromarray(np.array(source.convert("RGB")))
        self.pixels = _tensor(self.image)
        self.perceptual = perceptual
        self.features = {name: metric.features(self.pixels) for name, metric in perceptual.items()}

    @torch.inference_mode()
    def measure(self, codec: Codec, encoded: Encoded) -> Row:
        """Return bytes, metrics and times of a file."""
        started = time.perf_counter()
        image = codec.decode(encoded.data, self.image.size)
        seconds = time.perf_counter() - started
        decoded = _tensor(image)
        found = {
            "quality": encoded.quality,
            "bytes": len(encoded.data),
            "bpp": 8 * len(encoded.data) / (self.image.width * self.image.height),
            "psnr": psnr(decoded, self.pixels).item(),
            "ms_ssim": ms_ssim(decoded, self.pixels).item(),
        }
        for name, metric in self.perceptual.items():
            found[name] = metric.distance(metric.features(decoded), self.features[name]).item()
        return found | {"encode_s": encoded.seconds, "decode_s": seconds}


Target: TypeAlias = float | str
"""Bytes that are wanted: a rate in bits per pixel, or the label of a peer's file, whose size counts."""


def _targets(codec: Codec, rates: Sequence[float], codecs: Sequence[Codec]) -> list[Target]:
    """Return the targets of a codec.

    Peers have no fine quality scale.  Their files are measured as they are, and SDL at the bytes of each of them.
    """
    if isinstance(codec, Peer):
        return list(codec.labels)
    sdl = isinstance(codec, Format) and codec.pillow == "SDL"
    return [*rates, *(label for peer in codecs if isinstance(peer, Peer) and sdl for label in peer.labels)]


def measure_photo(
    path: Path, wanted: Sequence[tuple[Codec, list[Target]]], perceptual: Perceptual, sizes: dict[Target, int]
) -> Iterator[Row]:
    """Yield the rows of one photo: the file nearest to each target.   sizes: known bytes of the peers' files."""
    reference = Reference(path, perceptual)
    pixels = reference.image.width * reference.image.height
    for codec, targets in wanted:
        search = Search(codec, reference.image)
        for target in targets:
            if isinstance(codec, Peer):
                encoded = search.at(codec.labels[str(target)])
                size = sizes[target] = len(encoded.data)
            else:
                size = round(target * pixels / 8) if isinstance(target, float) else sizes[target]
                encoded = search.nearest(size)
            off = abs(len(encoded.data) - size) > TOLERANCE * size
            row = {"photo": path.name, "format": codec.name, "target": target, "off_target": off}
            yield row | reference.measure(codec, encoded)


OTHERS_DEPEND_ON: Final = ("images", "rates", "search", "formats", "versions", "machine")
VERSIONS_OF_OTHERS: Final = (
    *("pillow", "torch", "numpy", "pillow-heif", "pillow-jxl-plugin"),
    *("jpg", "libjpeg_turbo", "webp", "avif", "libheif", "HEIC encoder"),
)
"""Parts of the setting, and versions in it, that rows of formats of other projects depend on."""


def _for_others(setting: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what rows of a format of another project depend on."""
    found = {key: setting.get(key) for key in OTHERS_DEPEND_ON}
    versions, formats = setting.get("versions", {}), setting.get("formats", {})
    known = {key: versions.get(key, "none") for key in VERSIONS_OF_OTHERS}
    return found | {"versions": known, "formats": formats.get(name)}


def measure(
    paths: Sequence[Path], codecs: Sequence[Codec], rates: Sequence[float], perceptual: Perceptual, journal: Journal
) -> list[Row]:
    """Return the rows of all photos.  Those that the journal has already are not measured again.

    codecs: peers stand before formats of SDL.
    """
    done = {(row["photo"], row["format"], row["target"]): row for row in journal.rows}
    targets = {codec.name: _targets(codec, rates, codecs) for codec in codecs}
    peer_names = {codec.name for codec in codecs if isinstance(codec, Peer)}
    total = len(paths) * sum(map(len, targets.values()))
    with tqdm(total=total, unit="file", disable=None) as bar:
        for path in paths:
            wanted = [(c, [t for t in targets[c.name] if (path.name, c.name, t) not in done]) for c in codecs]
            count = sum(len(left) for _, left in wanted)
            bar.update(total // len(paths) - count)
            files = [row for row in done.values() if row["photo"] == path.name and row["format"] in peer_names]
            sizes = {row["target"]: row["bytes"] for row in files}
            for row in measure_photo(path, wanted, perceptual, sizes) if count else ():
                journal.append(row)
                done[row["photo"], row["format"], row["target"]] = row
                bar.set_postfix_str(f"{row['photo']} {row['format']}")
                bar.update()
    return [done[path.name, codec.name, t] for path in paths for codec in codecs for t in targets[codec.name]]


def _refusal(codec: Codec) -> str | None:
    """Return why a codec does not work, None if it does.  The first use loads its network, so no time includes that."""
    image = Image.new("RGB", (64, 64))
    try:
        codec.decode(codec.encode(image, codec.qualities[0]), image.size)
    except Exception as exc:  # noqa: BLE001  packages of others may raise anything
        return f"{type(exc).__name__}: {exc}"
    return None


def available(
    sdl: Sequence[Format], latents: Path | None, wanted: Sequence[str] | None = None
) -> tuple[list[Codec], dict[str, str]]:
    """Return the codecs that can be measured here, and the reasons why others cannot.

    sdl: variants of SDL; empty for the defaults of `save`.   latents: folder of an `AutoencoderTiny` for the peers.
    wanted: names of other formats; None for all.
    Raises SystemExit for an unknown format, and if a variant of SDL has a wrong option or no weights.
    """
    found: list[Codec] = []
    skipped: dict[str, str] = {}
    others = [codec for codec in (*FORMATS, *PLUGINS) if codec.pillow != "SDL"]
    names = [codec.name for codec in others]
    if unknown := set(wanted or ()).difference(names):
        msg = f"--formats {' '.join(sorted(unknown))}: there are {', '.join(names)}"
        raise SystemExit(msg)
    for codec in others:
        if wanted is not None and codec.name not in wanted:
            skipped[codec.name] = "--formats does not name it"
        elif reason := codec.missing():
            skipped[codec.name] = reason
        else:
            found.append(codec)
    if latents:
        try:
            coders, missing = peers(Tiny(latents))
        except ImportError as exc:
            coders, missing = [], {"vaepack, vaezip": f"diffusers cannot be imported: {exc}"}
        found += coders
        skipped |= missing
    else:
        skipped["vaepack, vaezip"] = "--latents names no autoencoder"
    working = []
    for other in found:
        if refusal := _refusal(other):
            skipped[other.name] = refusal
        else:
            working.append(other)
    for variant in sdl or [codec for codec in FORMATS if codec.pillow == "SDL"]:
        if refusal := _refusal(variant):
            msg = f"{variant.name}: {refusal}"
            raise SystemExit(msg)
        working.append(variant)
    return working, skipped


def run(
    images: Path,
    metrics: Path,
    output: Path,
    *,
    rates: Sequence[float],
    every: int,
    limit: int | None,
    sdl: Sequence[Format],
    formats: Sequence[str] | None,
    latents: Path | None,
    restart: bool,
) -> None:
    """Measure, write `output`, a JSON file, and a plot next to it, and print the table."""
    paths = photos(images, limit, SMALLEST_SIDE, every)  # What MS-SSIM needs.
    codecs, skipped = available(sdl, latents, formats)
    for name, reason in skipped.items():
        print(f"Without {name}: {reason}")
    # Without the command and the choice of photos, so that rows of other photos stay valid.
    setting = {
        "images": images.name,
        "rates": list(rates),
        "search": "the file nearest to the target over the whole scale of qualities, in every format",
        "formats": {codec.name: codec.options for codec in codecs if isinstance(codec, Format)},
        "latents": latents and latents.name,
        "skipped": skipped,
        "versions": versions(),
        "models": {model.name: model.weights.sha256 for model in registry.load().models if model.weights},
        "machine": platform.machine(),
        "threads": settings.default_threads(),
    }

    def same(row: Row, earlier: dict[str, Any]) -> bool:
        """Whether a row is of a format that this project's code does not write, and nothing else has changed."""
        name = row["format"]
        if name not in names_of_others:
            return False
        old, new = (_for_others(found, name) for found in (earlier, setting))
        return old == new

    names_of_others = {codec.name for codec in codecs if isinstance(codec, Format) and codec.pillow != "SDL"}
    journal = Journal(output, setting, restart=restart, keep=same)
    perceptual: Perceptual = {"lpips": Lpips(metrics), "dists": Dists(metrics)}
    about = {"command": command(), "setting": setting, "rows_of_an_earlier_run": len(journal.rows)}
    found = results(about, measure(paths, codecs, rates, perceptual, journal))
    plot(found["means"], output.with_suffix(".png"))
    journal.finish(found)
    print(table(found))
