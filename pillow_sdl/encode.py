"""Encode: pixels, or a latent, to the bytes of a file.  Arrays in, bytes out; knows nothing of Pillow."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Final

import numpy as np

from . import options as opt
from . import registry, settings
from .errors import BackendError
from .format import alpha as alpha_plane
from .format import container, metadata
from .format.container import Container, Header, Mode, Name, Section
from .latent import optimize, spaces
from .latent.quantizers import QUANTIZERS
from .options import EncodeOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .latent.base import Refine
    from .models.base import DifferentiableAutoencoder

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
) -> bytes:
    """Return the file of a picture.

    pixels: uint8 (H, W, 3); for modes L and LA the grey value three times.
    alpha: uint8 (H, W) for modes LA and RGBA, else None.
    Raises ValueError for arrays or a size that the format cannot hold, ModelError, BackendError.
    """
    from .models import store

    options = options or EncodeOptions()
    height, width = pixels.shape[:2]
    check_size(width, height)
    if pixels.dtype != np.uint8 or pixels.shape[2:] != (3,):
        msg = f"pixels must be uint8 (H, W, 3), not {pixels.dtype} {pixels.shape}"
        raise ValueError(msg)
    if mode.has_alpha != (alpha is not None) or (alpha is not None and alpha.shape != (height, width)):
        needs = "needs an alpha plane of the size of the pixels" if mode.has_alpha else "has no alpha"
        msg = f"mode {mode.name} {needs}"
        raise ValueError(msg)
    model = registry.model(options.model)
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
    latent = network.encode(pixels, settings.current().progress)
    return encode_latent(
        latent, width, height, bytes.fromhex(network.hash), alpha, mode=mode, options=options, refine=refine
    )


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
) -> bytes:
    """Return the file of a latent.  Needs no network.

    latent: float32 (C, h, w), of the latent space of the options' model.   width, height: of the picture.
    model: the 16 bytes that name the decoder (SPEC 7.2).   alpha: uint8 (H, W) for modes LA and RGBA, else None.
    refine: moves the latent towards the picture before symbols are chosen; None leaves it as it is.
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
    if not np.isfinite(latent).all():
        msg = "the latent holds values that are not finite"
        raise ValueError(msg)
    target = options.target_bytes
    quantizer.check_latent(latent, space, None if target is not None else quantizer.level(options))
    sections = [
        Section(name, metadata.pack(getattr(options, option)))
        for option, name in opt.METADATA.items()
        if getattr(options, option)
    ]
    if alpha is not None:
        sections.append(Section(Name.ALPHA, alpha_plane.encode(alpha)))

    def file(level: int, refine: Refine | None = None) -> bytes:
        coded = quantizer.encode(latent, space, level, options.choices, refine)
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
        return Container(header, (*sections, *palette, Section(Name.LATENT, coded.latent))).to_bytes()

    if target is None:
        return file(quantizer.level(options), refine)
    refined = None if refine is None else lambda level: file(level, refine)
    return _largest_within(int(target), quantizer.level_range(options), file, refined)


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
