"""The only composition: pixels -> latent -> symbols -> payload -> file, and back.

Arrays in, bytes out; knows nothing of Pillow.  Networks are loaded by the functions that need one (`encode` and
`decode`), so that `read_symbols`, `preview` and `inspect` work without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from . import alpha as alpha_plane
from . import container as sdl
from . import settings, zstdframe
from .container import Container, Header, Mode, Name, Section
from .errors import UnsupportedError
from .latent import entropy, quantize, spaces
from .latent import preview as linear
from .models import cards

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUANTIZERS: Final = {"scalar": quantize.SCALAR}
PAYLOADS: Final = {"zstd": entropy.ZSTD}

# ITU-R BT.601, as Pillow's conversion to L.
LUMA: Final = (0.299, 0.587, 0.114)


def _check_choice(option: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        msg = f"{option} must be one of {', '.join(allowed)}, not {value!r}"
        raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """How a picture is encoded.

    quality: 0 (fewest bytes) .. 100, whole number.   model: name of a model card.
    quantizer: "scalar".   payload: "zstd".
    icc_profile, exif, xmp: bytes stored as they are; empty for none; at most 16 MiB each.
    Raises ValueError, which names what is allowed.
    """

    quality: int = 50
    model: str = "embedded"
    quantizer: str = "scalar"
    payload: str = "zstd"
    icc_profile: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""

    def __post_init__(self) -> None:
        # NumPy's integers are welcome, True and False are not.
        whole = hasattr(self.quality, "__index__") and not isinstance(self.quality, bool)
        if not whole or not 0 <= self.quality <= 100:
            msg = f"quality must be a whole number from 0 to 100, not {self.quality!r}"
            raise ValueError(msg)
        cards.by_name(self.model)
        _check_choice("quantizer", self.quantizer, tuple(QUANTIZERS))
        _check_choice("payload", self.payload, tuple(PAYLOADS))
        for option in ("icc_profile", "exif", "xmp"):
            value = getattr(self, option)
            if not isinstance(value, bytes):
                msg = f"{option} must be bytes, not {type(value).__name__}"
                raise ValueError(msg)  # noqa: TRY004  Pillow's plugins raise ValueError for bad options
            if len(value) > zstdframe.MAX_METADATA:
                msg = f"{option} has {len(value)} bytes; at most {zstdframe.MAX_METADATA} can be stored"
                raise ValueError(msg)

    @property
    def rate(self) -> int:
        """The header's rate code, 0..255, of the quality."""
        return round(int(self.quality) * (spaces.RATES - 1) / 100)


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
    card = cards.by_name(options.model)
    space = spaces.by_name(card.space)
    step = quantize.steps(space.tables.log2_steps, options.rate)
    symbols = quantize.quantize(store.load(card).encode(pixels, settings.current().progress), step)
    header = Header(
        width=width,
        height=height,
        mode=mode,
        space=space.code,
        quantizer=QUANTIZERS[options.quantizer],
        rate=options.rate,
        payload=PAYLOADS[options.payload],
        model=bytes.fromhex(card.hash),
    )
    metadata = zip(sdl.METADATA, (options.icc_profile, options.exif, options.xmp), strict=True)
    sections = [Section(name, zstdframe.pack(data)) for name, data in metadata if data]
    if alpha is not None:
        sections.append(Section(Name.ALPHA, alpha_plane.encode(alpha)))
    sections.append(Section(Name.LATENT, entropy.encode(symbols, header.payload)))
    return Container(header, tuple(sections)).to_bytes()


def _space(header: Header) -> spaces.LatentSpace:
    """The latent space of a file.  Raises UnsupportedError for a space or quantizer that this reader lacks."""
    if header.quantizer not in QUANTIZERS.values():
        msg = f"quantizer {header.quantizer} found; this reader knows 0 (scalar)"
        raise UnsupportedError(msg)
    return spaces.by_code(header.space)


def read_symbols(file: Container) -> NDArray[np.int16]:
    """The quantised latent, int16 (C, h, w), bit-exact on every machine.  Needs no network."""
    header = file.header
    payload = file.get(Name.LATENT)
    assert payload is not None  # rule S-05, held by container.read
    return entropy.decode(payload, _space(header).shape(header.width, header.height), header.payload)


def _latent(file: Container) -> NDArray[np.float32]:
    space = _space(file.header)
    return quantize.dequantize(read_symbols(file), quantize.steps(space.tables.log2_steps, file.header.rate))


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
    return cards.by_hash(header.model, _space(header).name)


def decode(file: Container) -> NDArray[np.uint8]:
    """The picture, uint8 (H, W, bands of the mode).  Loads the file's network, or another of its latent space.

    Raises SdlError: for the payload, ModelError, BackendError.
    """
    from .models import store

    header = file.header
    alpha = _alpha(file)
    latent = _latent(file)
    colour = store.load(decoder(header)).decode(latent, header.rate, settings.current().progress)[
        : header.height, : header.width
    ]
    return _assemble(colour, alpha, header.mode)


def preview_reduction(header: Header, scale: int) -> int:
    """Pixels of the picture, each axis, that one pixel of the preview with `scale` pixels per position stands for."""
    return _space(header).factor // scale


def preview_size(header: Header, scale: int) -> tuple[int, int]:
    """(width, height) of the preview with `scale` pixels per latent position."""
    reduction = preview_reduction(header, scale)
    return -(-header.width // reduction), -(-header.height // reduction)


def preview_scale(header: Header, width: float, height: float) -> int | None:
    """Fewest pixels per latent position whose preview is at least width x height, or None if none is."""
    for scale in linear.SCALES:
        found = preview_size(header, scale)
        if found[0] >= width and found[1] >= height:
            return scale
    return None


def preview(file: Container, scale: int) -> NDArray[np.uint8]:
    """A small picture without a network, uint8 (H', W', bands of the mode), of `preview_size`."""
    space = _space(file.header)
    width, height = preview_size(file.header, scale)
    colour = linear.preview(_latent(file), space.tables, scale)[:height, :width]
    alpha = _alpha(file)
    if alpha is not None:
        reduction = preview_reduction(file.header, scale)
        rows = np.minimum(np.arange(height) * reduction + reduction // 2, alpha.shape[0] - 1)
        columns = np.minimum(np.arange(width) * reduction + reduction // 2, alpha.shape[1] - 1)
        alpha = alpha[rows[:, None], columns]
    return _assemble(colour, alpha, file.header.mode)


def inspect(file: Container) -> dict[str, Any]:
    """What a file says, without decoding its payload: JSON types only.  `bytes` adds up to the file's size.

    Names are None where this reader does not know the file's number.
    """
    header = file.header
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
        "payload": next((name for name, code in PAYLOADS.items() if code == header.payload), None),
        "size": size,
        "bits_per_pixel": round(8 * size / (header.width * header.height), 6),
        "bytes": sizes,
    }
