"""Options of encoding, checked once at the edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Final, SupportsIndex

import numpy as np
from PIL import Image

from . import registry
from .errors import UnsupportedError
from .format import container, metadata
from .latent import palette, spaces
from .latent.base import Choices
from .latent.entropy import METHODS
from .latent.quantizers import QUANTIZERS

AUTO: Final = "auto"
"""Value of the option `payload`: the method that gives the smaller file is used."""

DEFAULT_QUALITY: Final = 50
DEFAULT_EFFORT: Final = 5
MAX_EFFORT: Final = 9
FIDELITY_EFFORT: Final = 3
"""Smallest effort at which files carry a fidelity map by default."""

GUARD_EFFORT: Final = 3
"""Smallest effort at which tiny and drawn pictures are stored as pixels by default."""

AUTO_GUARD: Final = "auto"
NO_GUARD: Final = "off"
DETECTED: Final = ("text", "faces")
"""Values of the option `guard` besides boxes and masks.  A comma can join the values of `DETECTED`."""

LEAST_SHARE: Final = 0.01
MOST_SHARE: Final = 0.95
"""Smallest and largest value of the option `guard_share`."""

REFINEMENTS: Final = (0, 0, 0, 0, 0, 0, 1, 2, 3, 6)
"""Passes through the decoder's gradient, by effort."""

TUNES: Final = {"look": 0.0, "psnr": 0.05}
"""Values of the option `tune`, and the price of a bit in squared steps when symbols are chosen."""

MAX_TARGET: Final = 2**40
"""Largest `target_bytes`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """How a picture is encoded.

    quality: whole number from 0 (fewest bytes) to 100.  The default is 50, if target_bytes is not given either.
    target_bytes: largest size of the file in bytes.  The file uses at least 97 % of it, unless the best quality needs
        fewer bytes.
    model: name of a model that `sdl models` lists.
    payload: "zstd", "range", or "auto" for the smaller one.
    quantizer: "scalar", or "palette" for models with 4 latent channels.  "palette" excludes quality, payload "range"
        and tune "psnr"; effort has no effect; target_bytes looks for the largest palette.
    palette_size: largest number of palette entries, 1 to 256.
    dither: whether the quantizer "palette" uses error diffusion, which passes the error of each latent position on to
        its neighbors.
    effort: 0 (fastest) to 9.  Effort 0 writes payload "zstd" unless payload says otherwise.  From effort 3 on there is
        a fidelity map, and some pictures are stored as pixels (see guard).  Efforts 6 to 9 also refine the latent
        through the decoder's gradient.  This needs the extra `pillow-sdl[torch]`, saves bytes at equal PSNR, and takes
        10 to 60 times as long.
    tune: "look", or "psnr" for fewer bytes and a slightly smoother picture.  With the embedded model of this release,
        "psnr" does about what a lower quality does.
    fidelity: whether the file carries a map of how far its picture is from the original.  Making it needs a decode.
        None (the default): there is a map from effort 3 on.
    guard: which parts of the picture are stored as real pixels.  This needs a decode.  "auto": where the network does
        most harm.  "off": nothing.  "text", "faces" or "text,faces": what detectors find, from the extra
        `pillow-sdl[guard]`.  A list of boxes (left, top, right, bottom) in pixels.  A mask: an image of the picture's
        size; pixels that are not 0 are guarded.  None (the default): no parts.  Two kinds of pictures are stored
        entirely as pixels: those with a side below 32 pixels, and drawings that take no more bytes this way than as a
        latent, with all or a few of their colors.  The default does so from effort 3 on; "auto", "text" and "faces" do
        at every effort.
    guard_share: largest part of the file's bytes that these pixels may take, 0.01 to 0.95.  It does not hold for
        pictures that are stored as pixels as a whole.
    icc_profile, exif, xmp: bytes to store; empty for none; at most 16 MiB each.
    Raises ValueError, which says what is allowed.
    """

    quality: int | None = None
    target_bytes: int | None = None
    model: str = registry.EMBEDDED
    quantizer: str = "scalar"
    palette_size: int = palette.MAX_SIZE
    dither: bool = True
    payload: str = AUTO
    effort: int = DEFAULT_EFFORT
    tune: str = "look"
    fidelity: bool | None = None
    guard: Any = None
    guard_share: float = 0.25
    icc_profile: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""

    def __post_init__(self) -> None:
        if self.quality is not None:
            _check_whole("quality", self.quality, 0, 100)
        if self.target_bytes is not None:
            _check_whole("target_bytes", self.target_bytes, 1, MAX_TARGET)
        _check_whole("effort", self.effort, 0, MAX_EFFORT)
        if self.quality is not None and self.target_bytes is not None:
            msg = "quality and target_bytes exclude each other"
            raise ValueError(msg)
        registry.model(self.model)
        _check_choice("quantizer", self.quantizer, tuple(QUANTIZERS))
        _check_choice("payload", self.payload, (AUTO, *METHODS))
        _check_choice("tune", self.tune, tuple(TUNES))
        _check_whole("palette_size", self.palette_size, 1, palette.MAX_SIZE)
        _check_flag("dither", self.dither)
        if self.fidelity is not None:
            _check_flag("fidelity", self.fidelity)
        _check_guard(self.guard)
        _check_share("guard_share", self.guard_share)
        self._check_quantizer()
        for option in container.METADATA.values():
            value = getattr(self, option)
            if not isinstance(value, bytes):
                msg = f"{option} must be bytes, not {type(value).__name__}"
                raise ValueError(msg)  # noqa: TRY004  options of a wrong type are ValueErrors, as in Pillow's own formats
            if len(value) > metadata.MAX_LENGTH:
                msg = f"{option} has {len(value)} bytes; at most {metadata.MAX_LENGTH} can be stored"
                raise ValueError(msg)

    def _check_quantizer(self) -> None:
        """Raise ValueError for a model or for options that the quantizer does not take."""
        quantizer = QUANTIZERS[self.quantizer]
        for option, allowed in quantizer.excluded_options.items():
            value = getattr(self, option)
            if value not in allowed:
                shown = " or ".join("nothing" if choice is None else str(choice) for choice in allowed)
                msg = f'{option} must be {shown} with quantizer="{self.quantizer}", not {value!r}'
                raise ValueError(msg)
        try:
            quantizer.check_space(self.space)
        except UnsupportedError:
            fitting = ", ".join(model.name for model in registry.load().models if _fits(self.quantizer, model))
            msg = f'model {self.model!r} does not go with quantizer="{self.quantizer}", which takes {fitting}'
            raise ValueError(msg) from None

    @property
    def space(self) -> registry.Space:
        """The latent space of the model."""
        return registry.space(registry.model(self.model).space)

    @property
    def rate(self) -> int:
        """The rate code, 0..255, of the quality."""
        return round(int(DEFAULT_QUALITY if self.quality is None else self.quality) * (spaces.RATES - 1) / 100)

    @property
    def target(self) -> int | None:
        """Bytes that the file may take."""
        return None if self.target_bytes is None else int(self.target_bytes)

    @property
    def smallest(self) -> EncodeOptions:
        """The options that give the smallest file."""
        if self.quantizer == "palette":
            return replace(self, target_bytes=None, palette_size=1)
        return replace(self, target_bytes=None, quality=0)

    @property
    def refinements(self) -> int:
        """Passes through the decoder's gradient."""
        return REFINEMENTS[self.effort]

    @property
    def with_fidelity(self) -> bool:
        """Whether the file carries a fidelity map."""
        return self.effort >= FIDELITY_EFFORT if self.fidelity is None else bool(self.fidelity)

    @property
    def with_guard(self) -> bool:
        """Whether parts of a picture are stored as real pixels, whatever its size."""
        return self.guard is not None and (not isinstance(self.guard, str) or self.guard != NO_GUARD)

    @property
    def guards_whole(self) -> bool:
        """Whether pictures that are too small for a latent, and drawings, are stored as real pixels as a whole."""
        if self.guard is None:
            return self.effort >= GUARD_EFFORT
        return isinstance(self.guard, str) and self.guard != NO_GUARD

    @property
    def choices(self) -> Choices:
        """What the quantizer is told."""
        numbers = registry.load().payloads
        names = [self.payload] if self.payload != AUTO else numbers if self.effort else ["zstd"]
        payloads = tuple(numbers[name] for name in names)
        return Choices(payloads=payloads, tune=TUNES[self.tune], dither=bool(self.dither))


SAVE_OPTIONS: Final = (
    *("quality", "target_bytes", "effort", "payload", "tune", "fidelity", "guard", "guard_share"),
    *("model", "quantizer", "palette_size", "dither"),
)
"""Options of `Image.save`, and of `sdl encode`, besides the metadata."""


def _fits(quantizer: str, model: registry.Model) -> bool:
    try:
        QUANTIZERS[quantizer].check_space(registry.space(model.space))
    except UnsupportedError:
        return False
    return True


def _check_choice(option: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        msg = f"{option} must be one of {', '.join(allowed)}, not {value!r}"
        raise ValueError(msg)


def _check_share(option: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not LEAST_SHARE <= float(value) <= MOST_SHARE:
        msg = f"{option} must be a number from {LEAST_SHARE} to {MOST_SHARE}, not {value!r}"
        raise ValueError(msg)


def _check_guard(value: Any) -> None:
    """Raise ValueError for a value that is no choice of the option `guard`.  The size of a mask is not looked at."""
    if value is None or isinstance(value, Image.Image):
        return
    if isinstance(value, str):
        names = value.split(",")
        if value in {AUTO_GUARD, NO_GUARD} or (set(names) <= set(DETECTED) and len(set(names)) == len(names)):
            return
    elif isinstance(value, Sequence) and value and all(_is_box(box) for box in value):
        return
    msg = (
        f'guard must be "{AUTO_GUARD}", "{NO_GUARD}", "text", "faces", "text,faces", a list of boxes '
        f"(left, top, right, bottom) in whole pixels, or a mask, not {value!r}"
    )
    raise ValueError(msg)


def _is_box(box: Any) -> bool:
    if not isinstance(box, Sequence) or len(box) != 4 or not all(isinstance(side, SupportsIndex) for side in box):
        return False
    left, top, right, bottom = (side.__index__() for side in box)
    return bool(left < right and top < bottom)


def _check_flag(option: str, value: Any) -> None:
    """Raise ValueError unless a value is True or False; NumPy's are allowed."""
    if not isinstance(value, (bool, np.bool_)):
        msg = f"{option} must be True or False, not {value!r}"
        raise ValueError(msg)  # noqa: TRY004  options of a wrong type are ValueErrors, as in Pillow's own formats


def _check_whole(option: str, value: object, least: int, most: int) -> None:
    """Raise ValueError unless a value is a whole number in a range.  NumPy's integers are allowed, True is not."""
    if not isinstance(value, SupportsIndex) or isinstance(value, bool) or not least <= value.__index__() <= most:
        msg = f"{option} must be a whole number from {least} to {most}, not {value!r}"
        raise ValueError(msg)


def exif_and_xmp(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return Exif and XMP from the options of `save` as bytes.  An `Image.Exif`, text and None are accepted too."""
    exif = options.get("exif")
    if isinstance(exif, Image.Exif):  # Do not test its truth: Exif with nothing but a GPS part counts as false.
        exif = exif.tobytes()
    xmp = options.get("xmp") or b""
    if isinstance(xmp, str):
        xmp = xmp.encode()
    return {"exif": exif or b"", "xmp": xmp}
