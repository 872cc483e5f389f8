"""Encode a picture or an animation.  The input consists of arrays, and the output is the bytes of a file."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from . import coding, decode, fidelity_map, guard, moving, progress, registry, settings
from . import options as opt
from .coding import Animation, CodedFile, LatentCoder
from .errors import BackendError
from .format import container
from .format import patches as guard_patches
from .format.container import Container, Mode, Name, Section
from .latent import optimize
from .options import EncodeOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from .latent.base import Refine
    from .models.base import Autoencoder, DifferentiableAutoencoder

TRIES: Final = 4
"""Largest number of attempts to make a file with patches or a fidelity map that fits into `target_bytes`."""

MAP_ROOM: Final = 256
"""Bytes that patches leave for a fidelity map."""

SECTION_FRAME: Final = 8
"""Largest number of bytes that a section adds to its data, for data of less than 2 MiB."""

DRAWING: Final = 256
"""A lossless drawing may take this number of bytes even if the file of its latent is smaller."""

FRAMES_SHARE: Final = 0.6
"""Share of the further frames in the time that an animation takes, roughly.  Only the progress uses it."""


def encode(
    pixels: NDArray[np.uint8],
    alpha: NDArray[np.uint8] | None = None,
    *,
    mode: Mode = Mode.RGB,
    options: EncodeOptions | None = None,
    source: moving.Source | None = None,
) -> bytes:
    """Return the file of a picture or of an animation.

    pixels: uint8 (H, W, 3); for modes L and LA the gray value three times.
    alpha: uint8 (H, W) for modes LA and RGBA, else None.
    source: the further frames of an animation, whose frame 0 are `pixels` and `alpha`.  None for a still picture.
    Raises ValueError for arrays or a size that the format cannot hold, ModelError, BackendError.
    """
    options = options or EncodeOptions()
    height, width = pixels.shape[:2]
    coding.check_size(width, height)
    _check_arrays(moving.Picture(pixels, alpha), (height, width), mode)
    if source is not None and options.quantizer != moving.QUANTIZER:
        msg = f'quantizer must be "{moving.QUANTIZER}" for an animation, not {options.quantizer!r}'
        raise ValueError(msg)
    options = _with_guard_settled(options, animated=source is not None)
    network, refine = _network(options, pixels)
    tiny = guard.cells_if_tiny(width, height) if options.guards_whole else None
    # Further frames change the latent of the first one, so that must hold the picture.
    drawn = options.guards_whole and source is None and guard.is_drawn(pixels)
    decoded = options.with_fidelity or options.with_guard or tiny is not None
    share = 1 / (1 + coding.duration(options) + 2 * decoded)
    if source is not None:
        share *= 1 - FRAMES_SHARE
    with progress.part(0, share):
        latent = network.encode(pixels)
    animation = None
    if source is not None:
        with progress.part(share, share + FRAMES_SHARE):
            animation = _animation(network, source, moving.Picture(pixels, alpha), mode, options)
        share += FRAMES_SHARE
    digest = bytes.fromhex(network.hash)
    with progress.part(share, 1):
        coder = LatentCoder(
            latent, width, height, digest, alpha, options=options, mode=mode, refine=refine, animation=animation
        )
        if drawn:
            with progress.part(0, 0):
                data = _drawing(coder, pixels, options)
            if data is not None:
                return data
        return _with_decode(coder, pixels, options, tiny) if decoded else coder.file(options.target).data


def _with_guard_settled(options: EncodeOptions, *, animated: bool) -> EncodeOptions:
    """Return the options with the guard switched off where the default cannot have one.

    Raises ValueError if the options ask for a guard and Pillow lacks WebP.
    """
    if options.with_guard and not guard_patches.has_webp():
        msg = f'guard must be "{opt.NO_GUARD}" or left out: other values need a Pillow with WebP'
        raise ValueError(msg)
    # In an animation, pixels of tiny pictures are those of frame 0 only.  The other frames would look different.
    if options.guard is None and (animated or not guard_patches.has_webp()):
        return replace(options, guard=opt.NO_GUARD)
    return options


def _network(options: EncodeOptions, pixels: NDArray[np.uint8]) -> tuple[Autoencoder, Refine | None]:
    """Return the network of the options' model, and what moves a latent towards the pixels, None for low efforts."""
    from .models import store

    model = registry.model(options.model)
    if not options.refinements:
        return store.load(model), None
    try:
        network = store.load_differentiable(model)
    except BackendError as exc:
        msg = f"effort {options.effort} needs gradients, and so PyTorch: {exc}"
        raise ValueError(msg) from exc
    return network, partial(_refined, network, pixels, options.refinements)


def _check_arrays(picture: moving.Picture, shape: tuple[int, int], mode: Mode) -> None:
    """Raise ValueError unless arrays are those of a picture of a shape (H, W) and a mode."""
    pixels, alpha = picture
    if pixels.dtype != np.uint8 or pixels.shape != (*shape, 3):
        msg = f"pixels must be uint8 (H, W, 3), not {pixels.dtype} {pixels.shape}"
        raise ValueError(msg)
    if mode.has_alpha != (alpha is not None) or (
        alpha is not None and (alpha.shape != shape or alpha.dtype != np.uint8)
    ):
        needs = "needs an alpha plane, uint8, of the size of the pixels" if mode.has_alpha else "has no alpha"
        msg = f"mode {mode.name} {needs}"
        raise ValueError(msg)


def _animation(
    network: Autoencoder, source: moving.Source, first: moving.Picture, mode: Mode, options: EncodeOptions
) -> Animation:
    """Return the further frames of an animation.   first: frame 0."""

    def checked() -> Iterator[moving.Picture]:
        for picture in source.pictures():
            _check_arrays(picture, first.pixels.shape[:2], mode)
            yield picture

    return Animation(source, moving.steps(network, options.space, first, checked(), len(source.durations) - 1))


def _drawing(coder: LatentCoder, pixels: NDArray[np.uint8], options: EncodeOptions) -> bytes | None:
    """Return the file of a picture that is stored as one patch, None if a latent does better.

    The file takes at most `target_bytes`, or without a target at most as many bytes as the file of the latent.  Without
    a target, a lossless patch may always take up to `DRAWING` bytes.  A patch with fewer colors is used only if its
    squared error is below that of the latent.  The patch covers the whole picture, so nothing of the latent is visible.
    """
    target = options.target
    room = len(coder.file(None).data) if target is None else target
    flat = coder.flat()
    least = len(flat.to_bytes())
    worst: float | None = None
    for patches, error in guard.drawings(pixels, room):
        bound = room if error or target is not None else max(room, DRAWING)
        if least + len(patches.data) > bound:
            continue
        if error and worst is None:
            worst = _latent_error(coder, pixels, target)
        if worst is not None and error >= worst:
            continue
        data = _with_sections(flat, _additions(flat, pixels.copy(), pixels, patches, measured=options.with_fidelity))
        if len(data) <= bound:
            return data
    return None


def _latent_error(coder: LatentCoder, pixels: NDArray[np.uint8], target: int | None) -> float:
    """Return the mean square error of what the network shows in a file, infinity if there is no file of the size."""
    try:
        found = coder.file(target)
    except ValueError:
        return math.inf
    return guard.mean_square(_shown(found), pixels)


def _shown(found: CodedFile) -> NDArray[np.uint8]:
    """Return what the file's own decoder shows, uint8 (H, W, 3): the reference of the fidelity map (SPEC 9.3)."""
    with settings.using(denoise="off", dtype="float32", max_pixels=None):
        return decode.of_network(found.container, found.quantized).pixels


def _follows_additions(section: Section) -> bool:
    return section.name == Name.FRAMES or container.is_critical(section.name)


def _with_sections(file: Container, added: list[Section]) -> bytes:
    """Return the bytes of a file with more ignorable sections, which stand before the frames and the critical ones."""
    later = (index for index, found in enumerate(file.sections) if _follows_additions(found))
    place = next(later)
    return Container(file.header, (*file.sections[:place], *added, *file.sections[place:])).to_bytes()


def _with_decode(
    coder: LatentCoder, pixels: NDArray[np.uint8], options: EncodeOptions, tiny: NDArray[np.bool_] | None
) -> bytes:
    """Return the file of a picture with what is made of its own decode: guard patches and the fidelity map.

    tiny: all cells of a picture that is guarded as a whole, else None.  With `target_bytes`, the patches may take their
        share of it: `guard_share`, or `MOST_SHARE` for a tiny picture.  The additions are left out if no file with them
        fits.
    """
    target = options.target
    guarded, cells = options.with_guard or tiny is not None, tiny
    share = opt.MOST_SHARE if tiny is not None else options.guard_share
    if tiny is None and guarded:
        cells = guard.cells_for(options.guard, pixels)

    def finished(found: CodedFile, limit: int) -> tuple[bytes, int]:
        """Return the file with its additions, and the bytes that they take.   limit: bytes for patches."""
        color = _shown(found)
        patches = guard.choose(pixels, color, limit - SECTION_FRAME, cells) if guarded else None
        added = _additions(found.container, color, pixels, patches, measured=options.with_fidelity)
        return _with_sections(found.container, added), sum(len(section.to_bytes()) for section in added)

    coded = 1 / (1 + 2 / coding.duration(options))
    if target is None:
        with progress.part(0, coded):
            found = coder.file(None)
        with progress.part(coded, 1):
            return finished(found, _share_of(len(found.data), share))[0]
    limit = 0
    if guarded:
        # Patches must leave room for the smallest latent.
        with progress.part(0, 0):
            least = len(coder.smallest().data)
        limit = min(int(share * target), target - least - MAP_ROOM)
    height, width = pixels.shape[:2]
    room = max(limit, 0) + (fidelity_map.expected_size(width, height) if options.with_fidelity else 0)
    best, last = b"", b""
    for _ in range(TRIES):
        try:
            with progress.part(0, coded):
                found = coder.file(target - room)
        except ValueError:  # The picture does not fit beside its additions.
            break
        if found.data == last:
            break
        last = found.data
        with progress.part(coded, 1):
            data, size = finished(found, limit)
        if len(data) <= target:
            best = max(best, data, key=len)
            if len(best) >= coding.FILL * target:
                break
            room -= target - len(data)  # Another latent has other additions, and these are smaller.
        else:
            room = max(size, room + len(data) - target)
    return best or coder.file(target).data


def _share_of(size: int, share: float) -> int:
    """Return how many bytes a section takes that has a share of a file whose other bytes are `size`."""
    return int(size * share / (1 - share))


def _additions(
    file: Container,
    color: NDArray[np.uint8],
    pixels: NDArray[np.uint8],
    patches: guard_patches.Patches | None,
    *,
    measured: bool,
) -> list[Section]:
    """Return the sections that are made of a file's own decode.

    color: what the network makes of the file, uint8 (H, W, 3).   pixels: the original, of the same shape.
    patches: guard patches, None for none.   measured: whether there is a fidelity map.
    """
    header = file.header
    found = []
    if patches is not None:
        found.append(Section(Name.GUARD, guard_patches.pack(patches, header.width, header.height)))
    if measured:
        # The map is about the picture with its patches.
        shown = decode.finish(Container(header._replace(mode=header.mode.opaque), tuple(found)), color)
        fidelity = fidelity_map.measure(pixels[:, :, : shown.shape[2]], shown)
        found.insert(0, Section(Name.FIDELITY, fidelity))
    return found


def _refined(
    network: DifferentiableAutoencoder,
    pixels: NDArray[np.uint8],
    passes: int,
    scaled: NDArray[np.float32],
    rate: int,
    steps: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return a latent in units of its steps after some passes of `optimize.refine` towards the pixels."""
    unit = steps[:, None, None]

    def error(symbols: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
        total, gradient = network.squared_error(symbols * unit, rate, pixels)
        return total, gradient * unit

    def curvature(symbols: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = network.curvature(symbols * unit, rate) * steps**2
        return result

    return optimize.refine(scaled, passes, curvature, error)
