"""Files of one latent: at a level of quality, or of at most some number of bytes.  Needs no network."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from . import moving, progress, registry
from . import options as opt
from .format import alpha as alpha_plane
from .format import container, metadata
from .format.container import Container, Header, Mode, Name, Section
from .latent import scalar, spaces
from .latent.quantizers import QUANTIZERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .latent.base import Coded, Quantized, Refine
    from .options import EncodeOptions

FILL: Final = 0.97
"""Smallest share of a target size that a file takes, if its picture can take as much."""


class CodedFile(NamedTuple):
    """A file of a latent.

    container: its content.   data: its bytes.
    quantized: the latent in it, None if that has to be decoded from it.
    """

    container: Container
    data: bytes
    quantized: Quantized | None = None


class Animation(NamedTuple):
    """The further frames of an animation before quantization."""

    source: moving.Source
    steps: list[moving.Step]


def check_size(width: int, height: int) -> None:
    """Raise ValueError for a size that the format cannot hold."""
    if not (0 < width <= container.MAX_SIDE and 0 < height <= container.MAX_SIDE):
        msg = f"an image of {width} x {height} cannot be saved as SDL: sides must be 1 to {container.MAX_SIDE} pixels"
        raise ValueError(msg)


def duration(options: EncodeOptions) -> float:
    """Return about how long `LatentCoder.file` takes, in units of the encoder's time; for progress.

    With a target it codes some 12 times, and refines twice.
    """
    last = _duration_of_one(options, refined=options.refinements > 0)
    return last if options.target_bytes is None else 10 * _duration_of_one(options, refined=False) + 2 * last


def _duration_of_one(options: EncodeOptions, *, refined: bool) -> float:
    """Return about how long it takes to code a latent once."""
    return 0.3 + 1.2 * (options.tune != "look") + (9.0 * (options.refinements + 1) if refined else 0)


class LatentCoder:
    """Makes the files of one latent.  The file of each level of quality is made once, and kept."""

    def __init__(
        self,
        latent: NDArray[np.float32],
        width: int,
        height: int,
        model: bytes,
        alpha: NDArray[np.uint8] | None = None,
        *,
        options: EncodeOptions,
        mode: Mode = Mode.RGB,
        refine: Refine | None = None,
        animation: Animation | None = None,
    ) -> None:
        """Check the latent.

        latent: float32 (C, h, w), of the latent space of the options' model.   width, height: of the picture.
        model: the 16 bytes that name the decoder (SPEC 7.2).   alpha: uint8 (H, W) for modes LA and RGBA, else None.
        refine: moves the latent towards the picture before symbols are chosen; None leaves it as it is.
        animation: the further frames, None for a still picture.
        Raises ValueError for a size that the format cannot hold, for a latent whose shape does not fit the size, for
        values that are not finite, and for values too large for a symbol (a palette clips them).
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
        for values in (latent, *pieces):
            if not np.isfinite(values).all():
                msg = "the latent holds values that are not finite"
                raise ValueError(msg)
            quantizer.check_latent(
                values, space, None if options.target_bytes is not None else quantizer.level(options)
            )
        self._latent, self._space, self._quantizer = latent, space, quantizer
        self._options, self._refine, self._animation = options, refine, animation
        self._header = Header(
            width=width,
            height=height,
            mode=mode,
            space=space.code,
            quantizer=registry.load().quantizers[options.quantizer],
            rate=0,
            payload=0,
            model=model,
        )
        self._metadata = [
            Section(name, metadata.pack(getattr(options, option)))
            for name, option in container.METADATA.items()
            if getattr(options, option)
        ]
        self._alpha = () if alpha is None else (Section(Name.ALPHA, alpha_plane.encode(alpha)),)
        self._known: dict[tuple[int, bool], CodedFile] = {}

    def file(self, target: int | None) -> CodedFile:
        """Return the file of the options' quality, or the best one of at most `target` bytes.

        Raises ValueError, which says the smallest size, if no file is small enough.
        """
        spent, expected = 0.0, duration(self._options)

        def timed(level: int, *, refined: bool = False) -> CodedFile:
            nonlocal spent
            if (level, refined) in self._known:
                return self._known[level, refined]
            start, spent = spent, spent + _duration_of_one(self._options, refined=refined)
            with progress.part(start / expected, spent / expected):
                return self._at(level, refined=refined)

        refined = None if self._refine is None else lambda level: timed(level, refined=True)
        if target is None:
            return (refined or timed)(self._quantizer.level(self._options))
        return _largest_within(target, self._quantizer.level_range(self._options), timed, refined)

    def smallest(self) -> CodedFile:
        """Return the file of the lowest quality."""
        return self._at(self._quantizer.level(self._options.smallest), refined=False)

    def flat(self) -> Container:
        """Return the smallest file of a latent that is the same everywhere, for a picture of which nothing is seen."""
        even = np.broadcast_to(self._latent.mean((1, 2), keepdims=True), self._latent.shape)
        smallest = replace(self._options.smallest, payload=opt.AUTO)
        level = self._quantizer.level(smallest)
        return self._container(self._quantizer.encode(even, self._space, level, smallest.choices))

    def _at(self, level: int, *, refined: bool) -> CodedFile:
        """Return the file of a level of quality.   refined: whether the latent is moved towards the picture first."""
        key = level, refined
        if key not in self._known:
            refine = self._refine if refined else None
            choices, frames = self._options.choices, None
            if self._animation is None:
                coded = self._quantizer.encode(self._latent, self._space, level, choices, refine)
            else:
                symbols = scalar.choose(self._latent, self._space, level, choices.tune, refine)
                coded = scalar.code(symbols, self._space, level, choices.payloads)
                source, steps = self._animation
                alike = replace(choices, payloads=(coded.payload,))
                frames = moving.code(source, steps, symbols, self._space, level, alike)
            made = self._container(coded, frames)
            # The symbols are not kept: they take as much memory as the latent.
            self._known[key] = CodedFile(made, made.to_bytes())
            return self._known[key]._replace(quantized=coded.quantized)
        return self._known[key]

    def _container(self, coded: Coded, frames: bytes | None = None) -> Container:
        """Return the content of a file.   frames: data of section m."""
        further = () if frames is None else (Section(Name.FRAMES, frames),)
        palette = () if coded.palette is None else (Section(Name.PALETTE, coded.palette),)
        latent = Section(Name.LATENT, coded.latent)
        header = self._header._replace(rate=coded.rate, payload=coded.payload)
        return Container(header, (*self._metadata, *further, *self._alpha, *palette, latent))


def _largest_within(
    target: int,
    count: int,
    plain: Callable[[int], CodedFile],
    refined: Callable[[int], CodedFile] | None = None,
) -> CodedFile:
    """Return the largest file of at most `target` bytes among those of all levels 0..count - 1.

    plain: makes the file of a level quickly.   refined: makes the file that is wanted, if it is another one; its size is
    near that of the plain one.   Both return the same object for the same level.
    Sizes grow with the level except for a few bytes.  So bisection finds a level, and the next ones are tried if it
    leaves too much room.  Raises ValueError, which says the smallest size, if no file is small enough.
    """

    def size(file: CodedFile) -> int:
        return len(file.data)

    def bisect(limit: float) -> int:
        low, high = 0, count
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if size(plain(middle)) <= limit else (low, middle)
        return low

    smallest = plain(0)
    if size(smallest) > target:
        msg = f"the picture cannot be saved in {target} bytes; the smallest file takes {size(smallest)}"
        raise ValueError(msg)
    level, wanted = bisect(target), plain
    if refined is not None:
        wanted = refined
        level = bisect(target * size(plain(level)) / size(wanted(level)))
    found = wanted(level)
    while level and size(found) > target:
        level -= 1
        found = wanted(level)
    best = found if size(found) <= target else smallest
    for above in range(level + 1, min(level + 4, count)):
        if size(best) >= FILL * target:
            break
        found = wanted(above)
        if size(best) < size(found) <= target:
            best = found
    return best
