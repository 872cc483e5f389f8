"""The only composition: pixels -> latent -> symbols -> payload -> file, and back.

Arrays in, bytes out; knows nothing of Pillow.  Networks are loaded by the functions that need one (`encode` and
`decode`), so that `encode_latent`, `read_latent`, `preview` and `inspect` work without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, SupportsIndex, TypeAlias

import numpy as np

from . import alpha as alpha_plane
from . import container as sdl
from . import settings, zstdframe
from .container import Container, Header, Mode, Name, Section
from .errors import UnsupportedError
from .latent import entropy, noise, optimize, palette, quantize, spaces
from .latent import preview as linear
from .models import cards, schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from .models.store import Autoencoder

QUANTIZERS: Final = {"scalar": quantize.SCALAR, "palette": palette.PALETTE}
PAYLOADS: Final = {"zstd": entropy.ZSTD, "range": entropy.RANGE}

AUTO: Final = "auto"
"""Payload option: whichever method is smaller."""

DEFAULT_QUALITY: Final = 50
DEFAULT_EFFORT: Final = 5
MAX_EFFORT: Final = 9

REFINEMENTS: Final = (0, 0, 0, 0, 0, 0, 1, 2, 3, 6)
"""Passes through the decoder's gradient, by effort."""

TUNES: Final = {"look": 0.0, "psnr": 0.05}
"""Squared steps that a bit is worth when symbols are chosen, by what they are chosen for."""

FILL: Final = 0.97
"""Least share of `target_bytes` that a file takes, if its picture can take as much."""

Refine: TypeAlias = "Callable[[NDArray[np.float32], int, int, NDArray[np.float32]], NDArray[np.float32]]"
"""Refines a latent in units of its steps, given how many passes to make, the rate, and the steps."""

# ITU-R BT.601, as Pillow's conversion to L.
LUMA: Final = (0.299, 0.587, 0.114)


def _check_choice(option: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        msg = f"{option} must be one of {', '.join(allowed)}, not {value!r}"
        raise ValueError(msg)


def _check_whole(option: str, value: object, least: int, most: int) -> None:
    """Raise ValueError unless a value is a whole number in a range; NumPy's are welcome, True is not."""
    if not isinstance(value, SupportsIndex) or isinstance(value, bool) or not least <= value.__index__() <= most:
        msg = f"{option} must be a whole number from {least} to {most}, not {value!r}"
        raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """How a picture is encoded.

    quality: 0 (fewest bytes) .. 100, whole number; 50 if neither it nor target_bytes is given.
    target_bytes: the file takes at most so many bytes, and at least 97 % of them where the best quality takes as much.
    model: name of a model card.   payload: "auto" (the smaller one), "zstd" or "range".
    quantizer: "scalar", or "palette", the way of 2022, for models whose latent has 4 channels; with it go neither
    quality, nor payload "range", nor tune "psnr", effort changes nothing, and target_bytes asks for the largest palette.
    palette_size: most entries of the palette, 1..256.   dither: whether errors of "palette" are passed on to neighbours.
    effort: 0 (fastest) .. 9.   0 writes "zstd" where payload is "auto"; from 6 on the latent is refined through the
    decoder's gradient, which gives fewer bytes at equal PSNR and takes 10 to 60 times as long.
    tune: "look", or "psnr" for fewer bytes at equal PSNR and a picture that looks a little smoother.
    icc_profile, exif, xmp: bytes stored as they are; empty for none; at most 16 MiB each.
    Raises ValueError, which names what is allowed.
    """

    quality: int | None = None
    target_bytes: int | None = None
    model: str = "embedded"
    quantizer: str = "scalar"
    palette_size: int = palette.MAX_SIZE
    dither: bool = True
    payload: str = AUTO
    effort: int = DEFAULT_EFFORT
    tune: str = "look"
    icc_profile: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""

    def __post_init__(self) -> None:
        if self.quality is not None:
            _check_whole("quality", self.quality, 0, 100)
        if self.target_bytes is not None:
            _check_whole("target_bytes", self.target_bytes, 1, 2**40)
        _check_whole("effort", self.effort, 0, MAX_EFFORT)
        if self.quality is not None and self.target_bytes is not None:
            msg = "quality and target_bytes exclude each other"
            raise ValueError(msg)
        cards.by_name(self.model)
        _check_choice("quantizer", self.quantizer, tuple(QUANTIZERS))
        _check_choice("payload", self.payload, (AUTO, *PAYLOADS))
        _check_choice("tune", self.tune, tuple(TUNES))
        _check_whole("palette_size", self.palette_size, 1, palette.MAX_SIZE)
        dither: Any = self.dither
        if not isinstance(dither, (bool, np.bool_)):
            msg = f"dither must be True or False, not {dither!r}"
            raise ValueError(msg)  # noqa: TRY004  as for all options
        if self.quantizer == "palette":
            self._check_palette()
        for option in ("icc_profile", "exif", "xmp"):
            value = getattr(self, option)
            if not isinstance(value, bytes):
                msg = f"{option} must be bytes, not {type(value).__name__}"
                raise ValueError(msg)  # noqa: TRY004  Pillow's plugins raise ValueError for bad options
            if len(value) > zstdframe.MAX_METADATA:
                msg = f"{option} has {len(value)} bytes; at most {zstdframe.MAX_METADATA} can be stored"
                raise ValueError(msg)

    def _check_palette(self) -> None:
        """Raise ValueError for what does not go with quantizer="palette"."""
        if self.quality is not None:
            msg = 'quality does not apply to quantizer="palette": palette_size or target_bytes do'
            raise ValueError(msg)
        for option, given, allowed in (("payload", self.payload, (AUTO, "zstd")), ("tune", self.tune, ("look",))):
            if given not in allowed:
                msg = f'{option} must be {" or ".join(allowed)} with quantizer="palette", not {given!r}'
                raise ValueError(msg)
        if spaces.by_name(cards.by_name(self.model).space).channels != palette.CHANNELS:
            fitting = [card.name for card in cards.CARDS if spaces.by_name(card.space).channels == palette.CHANNELS]
            msg = (
                f'model {self.model!r} does not go with quantizer="palette", which takes latents of {palette.CHANNELS} '
                f"channels: those of {', '.join(fitting)}"
            )
            raise ValueError(msg)

    @property
    def rate(self) -> int:
        """The header's rate code, 0..255, of the quality."""
        return round(int(DEFAULT_QUALITY if self.quality is None else self.quality) * (spaces.RATES - 1) / 100)


def check_size(width: int, height: int) -> None:
    """Raise ValueError for a size that the format cannot hold."""
    if not (0 < width <= sdl.MAX_SIDE and 0 < height <= sdl.MAX_SIDE):
        msg = f"an image of {width} x {height} cannot be saved as SDL: sides must be 1 to {sdl.MAX_SIDE} pixels"
        raise ValueError(msg)


def encode(
    pixels: NDArray[np.uint8],
    alpha: NDArray[np.uint8] | None = None,
    *,
    mode: Mode = Mode.RGB,
    options: EncodeOptions | None = None,
) -> bytes:
    """A file.

    pixels: uint8 (H, W, 3); for modes L and LA the grey three times.   alpha: uint8 (H, W) for modes LA and RGBA.
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
        msg = (
            f"mode {mode.name} {'needs an alpha plane of the size of the pixels' if mode.has_alpha else 'has no alpha'}"
        )
        raise ValueError(msg)
    network = store.load(cards.by_name(options.model))
    latent = network.encode(pixels, settings.current().progress)
    model, refine = bytes.fromhex(network.hash), partial(_refined, network, pixels)
    return encode_latent(latent, width, height, model, alpha, mode=mode, options=options, refine=refine)


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
    """A file of a latent.  Needs no network.

    latent: float32 (C, h, w), of the latent space of the options' model.   width, height: of the picture.
    model: the 16 bytes that name the decoder (SPEC 7.2).   alpha: as its mode wants it, see `encode`.
    refine: without it efforts above 5 do what 5 does.
    Raises ValueError for a size that the format cannot hold, for a latent that is not of its space's shape for that
    size, for values that are not finite, and for those that are too large for a symbol; a palette clips them.
    """
    check_size(width, height)
    space = spaces.by_name(cards.by_name(options.model).space)
    if latent.shape != space.shape(width, height):
        msg = (
            f"the latent of a picture of {width} x {height} in the space {space.name} has the shape "
            f"{space.shape(width, height)}, not {latent.shape}"
        )
        raise ValueError(msg)
    if not np.isfinite(latent).all():
        msg = "the latent holds values that are not finite"
        raise ValueError(msg)
    if options.quantizer == "scalar":
        _check_range(latent, space, options)
    metadata = zip(sdl.METADATA, (options.icc_profile, options.exif, options.xmp), strict=True)
    sections = [Section(name, zstdframe.pack(data)) for name, data in metadata if data]
    if alpha is not None:
        sections.append(Section(Name.ALPHA, alpha_plane.encode(alpha)))

    def file(rate: int, payload: int, *coded: Section) -> bytes:
        header = Header(
            width=width,
            height=height,
            mode=mode,
            space=space.code,
            quantizer=QUANTIZERS[options.quantizer],
            rate=rate,
            payload=payload,
            model=model,
        )
        return Container(header, (*sections, *coded)).to_bytes()

    def by_palette(size: int) -> bytes:
        entries, indices = palette.encode(latent, size, dither=bool(options.dither))
        coded = Section(Name.PALETTE, palette.pack(entries)), Section(Name.LATENT, palette.pack_indices(indices))
        return file(int(options.dither), entropy.ZSTD, *coded)

    def by_rate(rate: int, refinements: int = 0) -> bytes:
        log2_steps = quantize.log2_steps(space.tables.log2_steps, rate)
        steps = quantize.steps(space.tables.log2_steps, rate)
        scaled = quantize.scale(latent, steps)
        if refine is not None and refinements:
            scaled = refine(scaled, refinements, rate, steps)
        symbols = optimize.choose(scaled, space.name, log2_steps, TUNES[options.tune])
        payload, data = _payload(symbols, space.name, log2_steps, options)
        return file(rate, payload, Section(Name.LATENT, data))

    if options.quantizer == "palette":
        size = int(options.palette_size)
        if options.target_bytes is None:
            return by_palette(size)
        return _largest_within(int(options.target_bytes), size, lambda index: by_palette(index + 1))
    refinements = 0 if refine is None else REFINEMENTS[options.effort]
    if options.target_bytes is None:
        return by_rate(options.rate, refinements)
    refined = (lambda rate: by_rate(rate, refinements)) if refinements else None
    return _largest_within(int(options.target_bytes), spaces.RATES, by_rate, refined)


def _check_range(latent: NDArray[np.float32], space: spaces.LatentSpace, options: EncodeOptions) -> None:
    """Raise ValueError for values beyond the largest symbol, which would be clipped without a word.

    No autoencoder gives such: the latent is not in its diffusion model's scale, or something has diverged.
    """
    table = space.tables.log2_steps
    if options.target_bytes is None:
        step = quantize.steps(table, options.rate)
    else:  # Any rate may be tried: the finest step of all.
        step = np.exp2(table.min(axis=0) / spaces.STEP_UNIT).astype(np.float32)
    found, limit = np.maximum(latent.max(axis=(1, 2)), -latent.min(axis=(1, 2))), quantize.MAX_SYMBOL * step
    if (found > limit).any():
        channel = int(np.argmax(found > limit))
        msg = (
            f"channel {channel} of the latent has a value of magnitude {found[channel]:.6g}; at this quality "
            f"at most {limit[channel]:.6g} can be held"
        )
        raise ValueError(msg)


def _refined(
    network: Autoencoder,
    pixels: NDArray[np.uint8],
    scaled: NDArray[np.float32],
    passes: int,
    rate: int,
    steps: NDArray[np.float32],
) -> NDArray[np.float32]:
    """A latent in units of its steps, after some passes of `optimize.refine` towards the pixels."""
    unit = steps[:, None, None]

    def error(symbols: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
        total, gradient = network.squared_error(symbols * unit, rate, pixels)
        return total, gradient * unit

    def curvature(symbols: NDArray[np.float32]) -> NDArray[np.float32]:
        result: NDArray[np.float32] = network.curvature(symbols * unit, rate) * steps**2
        return result

    return optimize.refine(scaled, passes, curvature, error)


def _payload(
    symbols: NDArray[np.int16], space: str, log2_steps: NDArray[np.int64], options: EncodeOptions
) -> tuple[int, bytes]:
    """Payload method and payload."""
    methods = tuple(PAYLOADS.values()) if options.effort else (entropy.ZSTD,)
    if options.payload != AUTO:
        methods = (PAYLOADS[options.payload],)
    coded = [(method, entropy.encode(symbols, method, space, log2_steps)) for method in methods]
    return min(coded, key=lambda pair: len(pair[1]))


def _largest_within(
    target: int, count: int, plain: Callable[[int], bytes], refined: Callable[[int], bytes] | None = None
) -> bytes:
    """The largest file of at most `target` bytes among those of all rates 0..count - 1, or of as many sizes of a palette.

    plain: the file of a rate, quickly.   refined: the one that is wanted, where that is another: its size is near.
    Sizes grow with the rate but for a few bytes, so bisection finds a rate, and its neighbours are tried where it
    leaves too much room.  Raises ValueError, which tells the smallest size, if there is none.
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
    rate, wanted = bisect(target), plain
    if refined is not None:
        wanted = cache(refined)
        rate = bisect(target * len(plain(rate)) / len(wanted(rate)))
    while rate and len(wanted(rate)) > target:
        rate -= 1
    best = wanted(rate) if len(wanted(rate)) <= target else plain(0)
    for above in range(rate + 1, min(rate + 4, count)):
        if len(best) >= FILL * target:
            break
        if len(best) < len(wanted(above)) <= target:
            best = wanted(above)
    return best


def _space(header: Header) -> spaces.LatentSpace:
    """The latent space of a file.  Raises UnsupportedError for a space or quantizer that this reader lacks."""
    if header.quantizer not in QUANTIZERS.values():
        known = ", ".join(f"{code} ({name})" for name, code in QUANTIZERS.items())
        msg = f"quantizer {header.quantizer} found; this reader knows {known}"
        raise UnsupportedError(msg)
    space = spaces.by_code(header.space)
    if header.quantizer == palette.PALETTE and space.channels != palette.CHANNELS:
        msg = f"quantizer 1 (palette) found with latent space {space.name}, which has {space.channels} channels, not 4"
        raise UnsupportedError(msg)
    return space


def _palette(file: Container) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Palette uint8 (K, 4) and indices uint8 (h, w) of a file of that quantiser."""
    header = file.header
    entries, payload = file.get(Name.PALETTE), file.get(Name.LATENT)
    assert entries is not None  # rules K-01 and S-05, held by container.read
    assert payload is not None
    _, height, width = _space(header).shape(header.width, header.height)
    if header.payload != entropy.ZSTD:
        msg = f"payload method {header.payload} found with quantizer 1 (palette), which has 0 (zstd) only"
        raise UnsupportedError(msg)
    if header.rate > 1:
        msg = f"rate {header.rate} found with quantizer 1 (palette); this reader knows 0 (plain) and 1 (dithered)"
        raise UnsupportedError(msg)
    found = palette.unpack(entries)
    return found, palette.unpack_indices(payload, (height, width), len(found))


def read_symbols(file: Container) -> NDArray[np.int16]:
    """The quantised latent, int16 (C, h, w), bit-exact on every machine.  Needs no network.

    Multiples of the steps; for a palette the levels 0..255 of the vectors that the indices stand for.
    """
    header = file.header
    if header.quantizer == palette.PALETTE:
        return palette.symbols(*_palette(file))
    payload = file.get(Name.LATENT)
    assert payload is not None  # rule S-05, held by container.read
    space = _space(header)
    log2_steps = quantize.log2_steps(space.tables.log2_steps, header.rate)
    shape = space.shape(header.width, header.height)
    return entropy.decode(payload, shape, header.payload, space.name, log2_steps)


def read_latent(file: Container) -> NDArray[np.float32]:
    """The dequantised latent, float32 (C, h, w), not denoised.  Needs no network."""
    space = _space(file.header)
    symbols = read_symbols(file)
    if file.header.quantizer == palette.PALETTE:
        return palette.dequantize(symbols)
    return quantize.dequantize(symbols, quantize.steps(space.tables.log2_steps, file.header.rate))


def _noise(file: Container) -> noise.Noise:
    """What the quantiser of a file did to its latent."""
    if file.header.quantizer == palette.PALETTE:
        return palette.noise(*_palette(file), dithered=bool(file.header.rate))
    return noise.of_steps(quantize.steps(_space(file.header).tables.log2_steps, file.header.rate))


def _alpha(file: Container) -> NDArray[np.uint8] | None:
    data = file.get(Name.ALPHA)
    return None if data is None else alpha_plane.decode(data, file.header.width, file.header.height)


def verify(file: Container) -> None:
    """Decode all that needs no network: symbols, alpha, metadata.  Raises SdlError if any of it is wrong."""
    read_symbols(file)
    _alpha(file)
    for section in file.sections:
        if section.name in sdl.METADATA:
            zstdframe.unpack(section.data, section=section.label)


def _assemble(colour: NDArray[np.uint8], alpha: NDArray[np.uint8] | None, mode: Mode) -> NDArray[np.uint8]:
    """Bands of a mode, uint8 (H, W, bands), from colour (H, W, 3) and alpha (H, W)."""
    if mode in (Mode.L, Mode.LA):
        grey = np.empty((*colour.shape[:2], 1), np.uint8)
        for row, line in zip(grey, colour, strict=True):  # A row at a time: floats take four times the room.
            row[:, 0] = np.rint(line @ np.array(LUMA, np.float32))
        colour = grey
    return colour if alpha is None else np.concatenate([colour, alpha[:, :, None]], axis=2)


def decoder(header: Header) -> cards.ModelCard:
    """The model that `decode` uses: the file's own, else another of its latent space.  Raises ModelNotFoundError."""
    from .models import store

    return store.choose(header.model, _space(header).name)


def decoder_name(header: Header) -> str:
    """Name of the model that `decode` uses, and of the file's own if it is another.  Errors as for `decoder`."""
    from .models import store

    card, own = decoder(header), header.model.hex()
    return card.name if store.hash_of(card) == own else f"{card.name} in place of {own}"


def decode(file: Container, made: dict[str, str] | None = None) -> NDArray[np.uint8]:
    """The picture, uint8 (H, W, bands of the mode).  Loads the file's network, or another of its latent space.

    The latent is denoised before, as the settings say (SPEC 8.7).   made: is told under "sdl_denoiser" by what, if it
    was.   Raises SdlError: for the payload, ModelError, BackendError.
    """
    from .models import store

    header, options = file.header, settings.current()
    alpha = _alpha(file)
    latent = read_latent(file)
    network = store.load(decoder(header))
    found = _noise(file)
    # A denoiser is not even loaded where there is nothing for it to do.
    denoiser = store.load_denoiser(_space(header).name) if found.deviation >= schedule.LEAST else None
    if denoiser is not None:
        latent = denoiser.denoise(latent, found, int(options.denoise_steps), options.progress)
        if made is not None:
            made["sdl_denoiser"] = denoiser.name
    # A palette's rate tells of dithering only, and is lost on its models: none of 4 channels asks for a rate.
    colour = network.decode(latent, header.rate, options.progress)[: header.height, : header.width]
    return _assemble(colour, alpha, header.mode)


def preview_reduction(header: Header, scale: int) -> int:
    """Pixels of the picture, each axis, that one pixel of the preview with `scale` pixels per position stands for."""
    return _space(header).factor // scale


def preview_size(header: Header, scale: int) -> tuple[int, int]:
    """(width, height) of the preview with `scale` pixels per latent position."""
    reduction = preview_reduction(header, scale)
    return -(-header.width // reduction), -(-header.height // reduction)


def preview_scale(header: Header, width: float, height: float) -> int | None:
    """Fewest pixels per latent position whose preview is at least width x height, or None if none is.

    A preview is at most half the picture's size each way: a blurred one of full size is not worth having.
    """
    for scale in linear.SCALES:
        if preview_reduction(header, scale) < 2:
            continue
        found = preview_size(header, scale)
        if found[0] >= width and found[1] >= height:
            return scale
    return None


def preview(file: Container, scale: int) -> NDArray[np.uint8]:
    """A small picture without a network, uint8 (H', W', bands of the mode), of `preview_size`."""
    space = _space(file.header)
    width, height = preview_size(file.header, scale)
    colour = linear.preview(read_latent(file), space.tables, scale)[:height, :width]
    alpha = _alpha(file)
    if alpha is not None:
        reduction = preview_reduction(file.header, scale)
        rows = np.minimum(np.arange(height) * reduction + reduction // 2, alpha.shape[0] - 1)
        columns = np.minimum(np.arange(width) * reduction + reduction // 2, alpha.shape[1] - 1)
        alpha = alpha[rows[:, None], columns]
    return _assemble(colour, alpha, file.header.mode)


def inspect(file: Container) -> dict[str, Any]:
    """What a file says, without decoding its payload: JSON types only.  `bytes` adds up to the file's size.

    Names are None where this reader does not know the file's number, `palette_size` and `dithered` where there is no
    palette.
    """
    header = file.header
    entries = file.get(Name.PALETTE)
    by_palette = header.quantizer == palette.PALETTE
    space = next((space for space in spaces.SPACES if space.code == header.space), None)
    sizes = {"header": len(header.to_bytes())}
    sizes |= {section.label: len(section.to_bytes()) for section in file.sections}
    size = sum(sizes.values())
    return {
        "format_version": sdl.FORMAT_VERSION,
        "width": header.width,
        "height": header.height,
        "mode": header.mode.name,
        "model": next((card.name for card in cards.CARDS if card.hash == header.model.hex()), None),
        "model_hash": header.model.hex(),
        "latent_space": space and space.name,
        "latent_shape": space and list(space.shape(header.width, header.height)),
        "quantizer": next((name for name, code in QUANTIZERS.items() if code == header.quantizer), None),
        "rate": header.rate,
        "palette_size": entries[0] + 1 if by_palette and entries else None,
        "dithered": {0: False, 1: True}.get(header.rate) if by_palette else None,
        "payload": next((name for name, code in PAYLOADS.items() if code == header.payload), None),
        "size": size,
        "bits_per_pixel": round(8 * size / (header.width * header.height), 6),
        "bytes": sizes,
    }
