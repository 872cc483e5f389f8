"""Encode: pixels, or a latent, to the bytes of a file.  Arrays in, bytes out; knows nothing of Pillow."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from . import decode, fidelity_map, guard, moving, progress, registry, settings
from . import options as opt
from .errors import BackendError
from .format import alpha as alpha_plane
from .format import container, metadata
from .format import patches as guard_patches
from .format.container import Container, Header, Mode, Name, Section
from .latent import optimize, scalar, spaces
from .latent.quantizers import QUANTIZERS
from .options import EncodeOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from .latent.base import Refine
    from .models.base import Autoencoder, DifferentiableAutoencoder

TRIES: Final = 4
"""How often a file with patches or a fidelity map is made until it fits into `target_bytes` and fills them."""

MAP_ROOM: Final = 256
"""Bytes that are kept for a fidelity map when patches are chosen."""

SECTION_FRAME: Final = 8
"""Bytes of a section besides its data, at most, for data of less than 2 MiB."""

DRAWING: Final = 256
"""Bytes that a file with a drawing without loss may take although the file of its latent is smaller."""

FRAMES_SHARE: Final = 0.6
"""Part of the time that encoding the further frames of an animation takes, roughly; for progress."""

FILL: Final = 0.97
"""Smallest share of `target_bytes` that a file takes, if its picture can take as much."""


def check_size(width: int, height: int) -> None:
    """Raise ValueError for a size that the format cannot hold."""
    if not (0 < width <= container.MAX_SIDE and 0 < height <= container.MAX_SIDE):
        msg = f"an image of {width} x {height} cannot be saved as SDL: sides must be 1 to {container.MAX_SIDE} pixels"
        raise ValueError(msg)


def encode(
    pixels: NDArray[np.uint8],
    alpha: NDArray[np.uint8] | None = None,
    *,
    mode: Mode = Mode.RGB,
    options: EncodeOptions | None = None,
    source: moving.Source | None = None,
) -> bytes:
    """Return the file of a picture or of an animation.

    pixels: uint8 (H, W, 3); for modes L and LA the grey value three times.
    alpha: uint8 (H, W) for modes LA and RGBA, else None.
    source: the further frames of an animation, whose frame 0 are `pixels` and `alpha`.  None for a still picture.
    Raises ValueError for arrays or a size that the format cannot hold, ModelError, BackendError.
    """
    from .models import store

    options = options or EncodeOptions()
    height, width = pixels.shape[:2]
    check_size(width, height)
    _check_arrays(moving.Picture(pixels, alpha), (height, width), mode)
    if source is not None:
        if options.quantizer != moving.QUANTIZER:
            msg = f'quantizer must be "{moving.QUANTIZER}" for an animation, not {options.quantizer!r}'
            raise ValueError(msg)
        if options.guard is None:
            # Pixels of tiny pictures are those of frame 0 only.  The other frames would look different.
            options = replace(options, guard=opt.NO_GUARD)
    model = registry.model(options.model)
    network: Autoencoder
    refine: Refine | None = None
    if options.refinements:
        try:
            gradients = store.load_differentiable(model)
        except BackendError as exc:
            msg = f"effort {options.effort} needs gradients, and so PyTorch: {exc}"
            raise ValueError(msg) from exc
        network, refine = gradients, partial(_refined, gradients, pixels, options.refinements)
    else:
        network = store.load(model)
    tiny = guard.cells_if_tiny(width, height) if options.guards_whole else None
    # Further frames change the latent of the first one, so that must hold the picture.
    drawn = options.guards_whole and source is None and guard.is_drawn(pixels)
    decoded = options.with_fidelity or options.with_guard or tiny is not None
    share = 1 / (1 + _duration(options) + 2 * decoded)
    begin = 0.0 if source is None else FRAMES_SHARE
    with progress.part(begin, begin + (1 - begin) * share):
        latent = network.encode(pixels, progress.report)
    animation = None
    if source is not None:
        with progress.part(0, begin):
            animation = _animation(network, source, moving.Picture(pixels, alpha), mode, options)
    model_hash = bytes.fromhex(network.hash)

    def file(options: EncodeOptions) -> bytes:
        return encode_latent(
            latent, width, height, model_hash, alpha, mode=mode, options=options, refine=refine, animation=animation
        )

    with progress.part(begin + (1 - begin) * share, 1):
        if drawn:
            even = np.broadcast_to(latent.mean((1, 2), keepdims=True), latent.shape)
            smallest = replace(options.smallest, payload=opt.AUTO)
            flat = encode_latent(even, width, height, model_hash, alpha, mode=mode, options=smallest)
            with progress.part(0, 0):
                data = _drawing(file, flat, pixels, options)
            if data is not None:
                return data
        return _with_decode(file, pixels, mode, options, tiny) if decoded else file(options)


def _check_arrays(picture: moving.Picture, shape: tuple[int, int], mode: Mode) -> None:
    """Raise ValueError unless arrays are those of a picture of a shape (H, W) and a mode."""
    pixels, alpha = picture
    if pixels.dtype != np.uint8 or pixels.shape != (*shape, 3):
        msg = f"pixels must be uint8 (H, W, 3), not {pixels.dtype} {pixels.shape}"
        raise ValueError(msg)
    if mode.has_alpha != (alpha is not None) or (alpha is not None and alpha.shape != shape):
        needs = "needs an alpha plane of the size of the pixels" if mode.has_alpha else "has no alpha"
        msg = f"mode {mode.name} {needs}"
        raise ValueError(msg)


class _Animation(NamedTuple):
    """The further frames of an animation before quantization."""

    source: moving.Source
    steps: list[moving.Step]


def _animation(
    network: Autoencoder, source: moving.Source, first: moving.Picture, mode: Mode, options: EncodeOptions
) -> _Animation:
    """Return the further frames of an animation.   first: frame 0."""
    total = len(source.durations) - 1
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        progress.report(done, total)

    def checked() -> Iterator[moving.Picture]:
        for picture in source.pictures():
            _check_arrays(picture, first.pixels.shape[:2], mode)
            yield picture

    return _Animation(source, moving.steps(network, options.space, first, checked(), advance))


def _drawing(
    plain: Callable[[EncodeOptions], bytes], flat: bytes, pixels: NDArray[np.uint8], options: EncodeOptions
) -> bytes | None:
    """Return the file of a picture that is stored as one patch, None if a latent does better.

    It may take `target_bytes`, or else what the file of the latent takes.  Without loss it may always take a few bytes.
    With fewer colours, its squared error is below that of the latent.

    plain: makes the file of the latent.   flat: the file of an even latent.  No pixel of the network is seen.
    """
    target = options.target_bytes
    latent = plain(options) if target is None else b""
    room = int(target) if target is not None else len(latent)
    found = container.read(io.BytesIO(flat))
    worst: float | None = None
    for patches, error in guard.drawings(pixels, room):
        data = _with_sections(found, _additions(found, pixels.copy(), pixels, patches, measured=options.with_fidelity))
        if len(data) > (room if error or target is not None else max(room, DRAWING)):
            continue
        if error and worst is None:
            with settings.using(denoise="off", max_pixels=None):
                shown = decode.of_network(container.read(io.BytesIO(latent or plain(options)))).pixels
            worst = float(np.square(shown.astype(np.float32) - pixels).mean())
        if not error or error < (worst or 0):
            return data
    return None


def _follows_additions(section: Section) -> bool:
    return section.name == Name.FRAMES or container.is_critical(section.name)


def _with_sections(file: Container, added: list[Section]) -> bytes:
    """Return the bytes of a file with more ignorable sections, which stand before the frames and the critical ones."""
    later = (index for index, found in enumerate(file.sections) if _follows_additions(found))
    place = next(later)
    return Container(file.header, (*file.sections[:place], *added, *file.sections[place:])).to_bytes()


def _with_decode(
    file: Callable[[EncodeOptions], bytes],
    pixels: NDArray[np.uint8],
    mode: Mode,
    options: EncodeOptions,
    tiny: NDArray[np.bool_] | None,
) -> bytes:
    """Return the file of a picture with what is made of its own decode: guard patches and the fidelity map.

    file: makes the file without them.   tiny: all cells of a picture that is guarded as a whole, else None.  With
    `target_bytes` they take their share of them.  They are left out if there is no room for them.
    """
    target = None if options.target_bytes is None else int(options.target_bytes)
    guarded, cells = options.with_guard or tiny is not None, tiny
    if tiny is not None:
        options = replace(options, guard_share=opt.MOST_SHARE)
    elif guarded:
        cells = guard.cells_for(options.guard, pixels)

    def finished(options: EncodeOptions, limit: int | None) -> tuple[bytes, int]:
        """Return the file with its additions, and the bytes that they take.   limit: bytes for patches."""
        share = 1 / (1 + 2 / _duration(options))
        with progress.part(0, share):
            data = file(options)
        found = container.read(io.BytesIO(data))
        with settings.using(denoise="off", max_pixels=None), progress.part(share, 1):
            colour = decode.of_network(found).pixels
        room = _share_of(len(data), options.guard_share) if limit is None else limit
        patches = guard.choose(pixels, colour, room - SECTION_FRAME, cells) if guarded else None
        added = _additions(found, colour, pixels, patches, measured=options.with_fidelity)
        return _with_sections(found, added), sum(len(section.to_bytes()) for section in added)

    if target is None:
        return finished(options, None)[0]
    limit, room = int(options.guard_share * target), 0
    if guarded:
        # Patches must leave room for the smallest latent.
        with progress.part(0, 0):
            least = len(file(options.smallest))
        limit = min(limit, target - least - MAP_ROOM)
    best = b""
    for _ in range(TRIES):
        try:
            data, size = finished(replace(options, target_bytes=target - room), limit)
        except ValueError:  # The picture does not fit beside its additions.
            break
        if len(data) <= target:
            best = max(best, data, key=len)
            if len(best) >= FILL * target:
                break
            room -= target - len(data)  # Another latent has other additions, and these are smaller.
        else:
            room = max(size, room + len(data) - target)
    return best or file(options)


def _share_of(size: int, share: float) -> int:
    """Return how many bytes a section takes that has a share of a file whose other bytes are `size`."""
    return int(size * share / (1 - share))


def _additions(
    file: Container,
    colour: NDArray[np.uint8],
    pixels: NDArray[np.uint8],
    patches: guard_patches.Patches | None,
    *,
    measured: bool,
) -> list[Section]:
    """Return the sections that are made of a file's own decode.

    colour: what the network makes of the file, uint8 (H, W, 3).   pixels: the original, of the same shape.
    patches: guard patches, None for none.   measured: whether there is a fidelity map.
    """
    header = file.header
    found = []
    if patches is not None:
        found.append(Section(Name.GUARD, guard_patches.pack(patches, header.width, header.height)))
    if measured:
        # The map is about the picture with its patches.
        shown = decode.finish(Container(header._replace(mode=header.mode.opaque), tuple(found)), colour)
        fidelity = fidelity_map.measure(pixels[:, :, : shown.shape[2]], shown)
        found.insert(0, Section(Name.FIDELITY, fidelity))
    return found


def encode_latent(
    latent: NDArray[np.float32],
    width: int,
    height: int,
    model: bytes,
    alpha: NDArray[np.uint8] | None = None,
    *,
    mode: Mode = Mode.RGB,
    options: EncodeOptions,
    refine: Refine | None = None,
    animation: _Animation | None = None,
) -> bytes:
    """Return the file of a latent.  Needs no network.

    latent: float32 (C, h, w), of the latent space of the options' model.   width, height: of the picture.
    model: the 16 bytes that name the decoder (SPEC 7.2).   alpha: uint8 (H, W) for modes LA and RGBA, else None.
    refine: moves the latent towards the picture before symbols are chosen; None leaves it as it is.
    animation: the further frames, None for a still picture.
    Raises ValueError for a size that the format cannot hold, for a latent whose shape does not fit the size, for values
    that are not finite, and for values too large for a symbol (a palette clips them).
    """
    check_size(width, height)
    space, quantizer = options.space, QUANTIZERS[options.quantizer]
    shape = spaces.shape(space, width, height)
    if latent.shape != shape:
        msg = (
            f"the latent of a picture of {width} x {height} in the space {space.name} has the shape {shape}, not "
            f"{latent.shape}"
        )
        raise ValueError(msg)
    pieces = [piece.latent for step in animation.steps for piece in step.pieces] if animation else []
    target = options.target_bytes
    for values in (latent, *pieces):
        if not np.isfinite(values).all():
            msg = "the latent holds values that are not finite"
            raise ValueError(msg)
        quantizer.check_latent(values, space, None if target is not None else quantizer.level(options))
    metadata_sections = [
        Section(name, metadata.pack(getattr(options, option)))
        for option, name in opt.METADATA.items()
        if getattr(options, option)
    ]
    alpha_sections = () if alpha is None else (Section(Name.ALPHA, alpha_plane.encode(alpha)),)

    def file(level: int, refine: Refine | None = None) -> bytes:
        if animation is None:
            coded = quantizer.encode(latent, space, level, options.choices, refine)
            further: tuple[Section, ...] = ()
        else:
            symbols = scalar.choose(latent, space, level, options.choices.tune, refine)
            coded = scalar.code(symbols, space, level, options.choices.payloads)
            choices = replace(options.choices, payloads=(coded.payload,))
            data = moving.code(animation.source, animation.steps, symbols, space, level, choices)
            further = (Section(Name.FRAMES, data),)
        header = Header(
            width=width,
            height=height,
            mode=mode,
            space=space.code,
            quantizer=registry.load().quantizers[options.quantizer],
            rate=coded.rate,
            payload=coded.payload,
            model=model,
        )
        palette = () if coded.palette is None else (Section(Name.PALETTE, coded.palette),)
        before = (*metadata_sections, *further, *alpha_sections)
        return Container(header, (*before, *palette, Section(Name.LATENT, coded.latent))).to_bytes()

    spent, expected = 0.0, _duration(options)

    def timed(level: int, refine: Refine | None = None) -> bytes:
        nonlocal spent
        start, spent = spent, spent + _duration_of_file(options, refined=refine is not None)
        with progress.part(start / expected, spent / expected):
            return file(level, refine)

    if target is None:
        return timed(quantizer.level(options), refine)
    refined = None if refine is None else lambda level: timed(level, refine)
    return _largest_within(int(target), quantizer.level_range(options), timed, refined)


def _duration_of_file(options: EncodeOptions, *, refined: bool) -> float:
    """Return about how long it takes to code a latent once, in units of the encoder's time; for progress."""
    return 0.3 + 1.2 * (options.tune != "look") + (9.0 * (options.refinements + 1) if refined else 0)


def _duration(options: EncodeOptions) -> float:
    """Return about how long `encode_latent` takes.  With a target it codes some 12 times, and refines twice."""
    last = _duration_of_file(options, refined=options.refinements > 0)
    return last if options.target_bytes is None else 10 * _duration_of_file(options, refined=False) + 2 * last


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


def _largest_within(
    target: int, count: int, plain: Callable[[int], bytes], refined: Callable[[int], bytes] | None = None
) -> bytes:
    """Return the largest file of at most `target` bytes among those of all levels 0..count - 1.

    plain: makes the file of a level quickly.   refined: makes the file that is wanted, if it is another one; its size is
    near that of the plain one.
    Sizes grow with the level except for a few bytes.  So bisection finds a level, and the next ones are tried if it
    leaves too much room.  Raises ValueError, which says the smallest size, if no file is small enough.
    """
    plain = cache(plain)

    def bisect(limit: float) -> int:
        low, high = 0, count
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if len(plain(middle)) <= limit else (low, middle)
        return low

    if len(plain(0)) > target:
        msg = f"the picture cannot be saved in {target} bytes; the smallest file takes {len(plain(0))}"
        raise ValueError(msg)
    level, wanted = bisect(target), plain
    if refined is not None:
        wanted = cache(refined)
        level = bisect(target * len(plain(level)) / len(wanted(level)))
    while level and len(wanted(level)) > target:
        level -= 1
    best = wanted(level) if len(wanted(level)) <= target else plain(0)
    for above in range(level + 1, min(level + 4, count)):
        if len(best) >= FILL * target:
            break
        if len(best) < len(wanted(above)) <= target:
            best = wanted(above)
    return best
