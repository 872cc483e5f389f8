"""Decode a file to symbols, a latent, a preview or pixels, or describe it.

`decode` and `of_network` run a network.  All other functions need NumPy only, and Pillow for guard patches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import fidelity_map, moving, progress, registry, settings
from .errors import LimitError, ModelError
from .fidelity_map import LUMA
from .format import alpha as alpha_plane
from .format import container, metadata
from .format import frames as stored_frames
from .format import patches as guard_patches
from .format.container import Container, Header, Mode, Name
from .latent import preview as linear
from .latent import quantizers, spaces
from .latent.base import Coded, Quantized

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from .format.frames import Box
    from .models.base import Autoencoder


class Decoded(NamedTuple):
    """A decoded picture and what made it.

    pixels: uint8 (H, W, bands of the mode).
    decoder: name of the model, or "NAME in place of HASH" if it is not the file's own but another of its space.
    denoiser: name of the denoiser that ran before it, None if none did.
    own: whether the pixels are those that the file's fidelity map is about: of its own model, not denoised.
    """

    pixels: NDArray[np.uint8]
    decoder: str
    denoiser: str | None
    own: bool = True


def quantized(file: Container) -> Quantized:
    """Return the quantized latent of a file.  Needs no network.

    Raises UnsupportedError for a latent space, quantizer or payload method that this reader lacks, MalformedError,
    LimitError, and ModelNotFoundError for a file of another release of the embedded model (SPEC 7.1).
    """
    header = file.header
    check_limit(header)
    quantizer, space = quantizers.by_code(header.quantizer), spaces.by_code(header.space)
    quantizer.check_space(space)
    if space.name == registry.EMBEDDED:
        from .models import store

        store.choose(header.model, space.name)  # Tables of another release would give other symbols.
    latent = file.get(Name.LATENT)
    assert latent is not None  # rule S-05, checked by container.read
    coded = Coded(header.rate, header.payload, latent, file.get(Name.PALETTE))
    return quantizer.decode(coded, space, spaces.shape(space, header.width, header.height))


def check_limit(header: Header) -> None:
    """Raise LimitError for a picture of more pixels than the setting `max_pixels` allows."""
    limit = settings.current().max_pixels
    if limit is not None and header.width * header.height > limit:
        msg = (
            f"a picture of {header.width} x {header.height} has more pixels than the setting max_pixels allows, {limit}"
        )
        raise LimitError(msg)


def read_latent(file: Container) -> NDArray[np.float32]:
    """Return the dequantized latent, float32 (C, h, w), not denoised.  Needs no network."""
    return quantized(file).dequantize()


def verify(file: Container) -> None:
    """Decode everything that needs no network: symbols and alpha of all frames, metadata.

    Raises SdlError if any of it is wrong.
    """
    symbols, alpha = quantized(file).symbols, read_alpha(file)
    for section in file.sections:
        if section.name in container.METADATA:
            metadata.unpack(section.data, section=section.label)
    read_fidelity(file)
    patches = read_patches(file)
    if patches is not None:
        guard_patches.decode(patches)
    frames = read_frames(file)
    for frame in frames.further if frames else ():
        symbols = moving.with_changes(frame, symbols, file.header)
        if alpha is not None:
            alpha = moving.with_alpha(frame, alpha)


def read_frames(file: Container) -> stored_frames.Frames | None:
    """Return the further frames of an animation, None for a still picture.  Their symbols are not decoded.

    Raises MalformedError, LimitError.
    """
    data, header = file.get(Name.FRAMES), file.header
    if data is None:
        return None
    return stored_frames.unpack(data, header.width, header.height, has_alpha=header.mode.has_alpha)


def read_fidelity(file: Container) -> fidelity_map.Fidelity | None:
    """Return the fidelity map of a file, None if it has none.  Needs no network.  Raises MalformedError."""
    data = file.get(Name.FIDELITY)
    return None if data is None else fidelity_map.read(data, file.header.width, file.header.height)


def read_patches(file: Container) -> guard_patches.Patches | None:
    """Return the guard patches of a file, None if it has none.  Needs no network.

    Raises MalformedError, UnsupportedError, LimitError.
    """
    data = file.get(Name.GUARD)
    return None if data is None else guard_patches.unpack(data, file.header.width, file.header.height)


def decode(file: Container) -> Decoded:
    """Decode a file with its own network, or with another one of its latent space.

    The latent is denoised first if the settings say so (SPEC 8.7).
    Raises SdlError: MalformedError and its like for the file, ModelError, BackendError.
    """
    found = of_network(file)
    return found._replace(pixels=finish(file, found.pixels))


def finish(file: Container, color: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Add to the network's colors what else a file holds: guard patches and alpha.  Changes `color`.

    color: uint8 (H, W, 3).   Returns uint8 (H, W, bands of the mode).
    Raises MalformedError, UnsupportedError, LimitError, and BackendError if Pillow lacks WebP.
    """
    add_patches(file, color)
    return assemble(color, read_alpha(file), file.header.mode)


def add_patches(file: Container, color: NDArray[np.uint8]) -> None:
    """Blend the guard patches of a file, if it has any, over the network's colors, uint8 (H, W, 3), in place.

    Raises MalformedError, UnsupportedError, LimitError, and BackendError if Pillow lacks WebP.
    """
    patches = read_patches(file)
    if patches is not None:
        guard_patches.blend(color, patches.rects, guard_patches.decode(patches))


def of_network(
    file: Container,
    found: Quantized | None = None,
    boxes: Sequence[Box] | None = None,
    before: NDArray[np.uint8] | None = None,
) -> Decoded:
    """Decode the latent of a file alone: pixels are the network's colors, uint8 (H, W, 3).  See `decode`.

    found: the latent, if it is known already or is that of a further frame.
    boxes: rectangles of latent positions to decode; None for all positions.
    before: the colors of all other pixels, uint8 (H, W, 3).  None if there are no others.
    """
    from .models import schedule, store

    header, options = file.header, settings.current()
    space = spaces.by_code(header.space)
    if found is None:
        with progress.part(0, 0.1):
            found = quantized(file)
    model = store.choose(header.model, space.name)
    network = store.load(model)
    latent = found.dequantize()
    # A denoiser is not even loaded if there is nothing to remove.
    denoiser = store.load_denoiser(space.name) if found.noise.deviation >= schedule.LEAST else None
    if denoiser is not None:
        with progress.part(0.1, 0.5):
            latent = denoiser.denoise(latent, found.noise, int(options.denoise_steps))
    with progress.part(0.1 if denoiser is None else 0.5, 1):
        if boxes is None:
            color = network.decode(latent, found.rate)[: header.height, : header.width]
        else:
            color = np.empty((header.height, header.width, 3), np.uint8) if before is None else before.copy()
            _decode_boxes(network, latent, found.rate, boxes, color)
    own = header.model.hex()
    name = model.name if network.hash == own else f"{model.name} in place of {own}"
    # Of other types than float32 the specification says nothing.  The embedded model does not know them.
    exact = model.name == registry.EMBEDDED or options.dtype == "float32"
    is_own = network.hash == own and denoiser is None and exact
    return Decoded(color, name, None if denoiser is None else denoiser.name, is_own)


def _decode_boxes(
    network: Autoencoder, latent: NDArray[np.float32], rate: int | None, boxes: Sequence[Box], color: NDArray[np.uint8]
) -> None:
    """Decode some rectangles of a latent, float32 (C, h, w), into the colors of a picture, uint8 (H, W, 3)."""
    wanted = np.zeros(latent.shape[1:], bool)
    for box in boxes:
        wanted[box.slices] = True
    areas = moving.areas(wanted, network.decoder_margin, exact=network.exact)
    for index, area in enumerate(areas):
        with progress.part(index / len(areas), (index + 1) / len(areas)):
            found = network.decode_part(latent, rate, *area.slices)
        factor = len(found) // area.height
        target = color[factor * area.top :, factor * area.left :][: len(found), : found.shape[1]]
        height, width = target.shape[:2]
        fresh = wanted[area.slices].repeat(factor, 0).repeat(factor, 1)[:height, :width]
        np.copyto(target, found[:height, :width], where=fresh[:, :, None])


def read_alpha(file: Container) -> NDArray[np.uint8] | None:
    """Return the alpha plane of frame 0, uint8 (H, W), None for modes without alpha.  Raises SdlError."""
    data = file.get(Name.ALPHA)
    return None if data is None else alpha_plane.decode(data, file.header.width, file.header.height)


def assemble(color: NDArray[np.uint8], alpha: NDArray[np.uint8] | None, mode: Mode) -> NDArray[np.uint8]:
    """Return the bands of a mode, uint8 (H, W, bands), from color (H, W, 3) and alpha (H, W)."""
    if mode in (Mode.L, Mode.LA):
        gray = np.empty((*color.shape[:2], 1), np.uint8)
        for row, line in zip(gray, color, strict=True):  # One row at a time: floats take four times the memory.
            row[:, 0] = np.rint(line @ np.array(LUMA, np.float32))
        color = gray
    return color if alpha is None else np.concatenate([color, alpha[:, :, None]], axis=2)


# Preview


def preview_reduction(header: Header, scale: int) -> int:
    """Return how many pixels of the picture, on each axis, one pixel of a preview stands for.

    scale: pixels of the preview for each latent position.
    """
    return spaces.by_code(header.space).factor // scale


def preview_size(header: Header, scale: int) -> tuple[int, int]:
    """Return (width, height) of the preview with `scale` pixels for each latent position."""
    reduction = preview_reduction(header, scale)
    return -(-header.width // reduction), -(-header.height // reduction)


def preview_scale(header: Header, width: float, height: float) -> int | None:
    """Return the smallest scale whose preview has at least width x height pixels, None if there is none.

    A preview has at most half the picture's size on each axis, because a larger one would only be blurred.
    """
    for scale in linear.SCALES:
        if preview_reduction(header, scale) < 2:
            continue
        found = preview_size(header, scale)
        if found[0] >= width and found[1] >= height:
            return scale
    return None


def preview(file: Container, scale: int) -> NDArray[np.uint8]:
    """Return a small picture without a network, uint8 (H', W', bands of the mode), of `preview_size`."""
    header = file.header
    width, height = preview_size(header, scale)
    tables = spaces.tables(spaces.by_code(header.space))
    color = linear.preview(read_latent(file), tables, scale)[:height, :width]
    patches = read_patches(file)
    if patches is not None:
        pixels, reduction = guard_patches.decode(patches), preview_reduction(header, scale)
        guard_patches.blend_preview(color, patches.rects, pixels, (header.width, header.height), reduction)
    alpha = read_alpha(file)
    if alpha is not None:
        reduction = preview_reduction(header, scale)
        rows = np.minimum(np.arange(height) * reduction + reduction // 2, alpha.shape[0] - 1)
        columns = np.minimum(np.arange(width) * reduction + reduction // 2, alpha.shape[1] - 1)
        alpha = alpha[rows[:, None], columns]
    return assemble(color, alpha, header.mode)


# Description


def inspect(file: Container) -> dict[str, Any]:
    """Describe a file without decoding its payload.  The values are JSON types; `bytes` adds up to the file's size.

    A name is None if this reader does not know the file's number.  `model` is None if no model on this machine has the
    file's hash.
    `durations` are those of all frames in milliseconds, and `loop` is the number of plays, 0 for no end; both are None
    for a still picture.  `bits_per_pixel` counts the pixels of all frames.
    `guarded` has the boxes of guard patches: left, top, right, bottom in pixels.  `fidelity` has the fidelity map, see
    `Fidelity`, or None; it is about frame 0.
    `quality` is that of `save`, 0 to 100, rounded.  It is None for files with a palette.  `quality_index` is the number
    in the header.  `palette_size` and `dithered` are None for files without a palette.
    """
    header, frames = file.header, read_frames(file)
    known = registry.load()
    space = next((space for space in known.spaces if space.code == header.space), None)
    entries = file.get(Name.PALETTE)
    sizes = {"header": len(header.to_bytes())}
    sizes |= {section.label: len(section.to_bytes()) for section in file.sections}
    size = sum(sizes.values())
    count = 1 if frames is None else len(frames.durations)
    return {
        "format_version": container.FORMAT_VERSION,
        "width": header.width,
        "height": header.height,
        "mode": header.mode.name,
        "model": space and _model_name(header, space),
        "model_hash": header.model.hex(),
        "latent_space": space and space.name,
        "latent_shape": space and list(spaces.shape(space, header.width, header.height)),
        "quantizer": _name_of(known.quantizers, header.quantizer),
        "quality": None if entries else round(100 * header.rate / (spaces.RATES - 1)),
        "quality_index": header.rate,
        "palette_size": entries[1] + 1 if entries and len(entries) > 1 else None,
        "dithered": bool(entries[0] & 1) if entries else None,
        "payload": _name_of(known.payloads, header.payload),
        "frames": count,
        "durations": None if frames is None else list(frames.durations),
        "loop": None if frames is None else frames.plays,
        "guarded": guarded_boxes(file),
        "fidelity": _fidelity_of(file),
        "size": size,
        "bits_per_pixel": round(8 * size / (header.width * header.height * count), 6),
        "bytes": sizes,
    }


def _fidelity_of(file: Container) -> dict[str, Any] | None:
    """Return the fidelity map of a file as JSON types: see `Fidelity`."""
    found = read_fidelity(file)
    if found is None:
        return None
    grids = {"error": found.error, "invented": found.invented}
    rounded = {name: np.round(grid.astype(np.float64), 2).tolist() for name, grid in grids.items()}
    return {"cell": found.cell, "worst": round(found.worst, 2), "mean": round(found.mean, 2), **rounded}


def guarded_boxes(file: Container) -> list[list[int]]:
    """Return the left, top, right and bottom edge of each guard patch of a file, in pixels.  Empty if it has none."""
    patches, header = read_patches(file), file.header
    areas = [rect.pixels for rect in patches.rects] if patches else []
    return [
        [across.start, down.start, min(across.stop, header.width), min(down.stop, header.height)]
        for down, across in areas
    ]


def _name_of(numbers: dict[str, int], code: int) -> str | None:
    return next((name for name, number in numbers.items() if number == code), None)


def _model_name(header: Header, space: registry.Space) -> str | None:
    from .models import store

    try:
        return store.name_of(header.model, space.name)
    except ModelError:  # Weights that cannot be read have no hash.
        return None
