#
# Pillow plugin for SDL: images held as the quantised latent of an autoencoder.
#
# The format is specified in spec/SPEC.md.  The package registers it with Pillow and imports this module when the
# first .sdl file is opened or saved; numpy and torch are imported only when pixels are wanted.
#
"""Pillow glue: `Image.open`, `Image.save`, `thumbnail`, `verify` for `.sdl`.

Modes are stored as L, LA, RGB or RGBA.  Others are converted by one rule (`_prepare`):

    1, I, F, I;16*          L     I and F clipped to 0..255, I;16 by its high byte
    La                      LA
    P, PA                   RGB, or RGBA if there is transparency
    RGBa                    RGBA
    CMYK, YCbCr, HSV, RGBX  RGB
    LAB                     RGB   through a D50 Lab profile to sRGB

A colour key in `info["transparency"]` makes L LA, and RGB RGBA; in other modes it is ignored.  Colours under full
transparency are not kept: they are replaced by those of visible neighbours, which costs fewer bytes.
"""

from __future__ import annotations

import threading
from typing import IO, TYPE_CHECKING, Any, Final

from PIL import Image, ImageFile

from . import container as sdl
from . import zstdframe
from .errors import MalformedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

_GREY_MODES: Final = frozenset({"1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N", "LA", "La"})
_TRANSPARENT_MODES: Final = frozenset({"L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa"})
_INFO_KEYS: Final = {sdl.Name.ICC: "icc_profile", sdl.Name.EXIF: "exif", sdl.Name.XMP: "xmp"}

# What a profile says of the colours that it describes (ICC.1:2022, 7.2.6), by the stored mode it fits.
_ICC_SPACES: Final = {"L": b"GRAY", "LA": b"GRAY", "RGB": b"RGB ", "RGBA": b"RGB "}


class SdlImageFile(ImageFile.ImageFile):
    """An opened `.sdl` file.  Opening reads the header and the metadata; `load` runs the network."""

    format = "SDL"
    format_description = "SDL latent image"

    _header: sdl.Header
    _made: dict[str, str]

    def _open(self) -> None:
        assert self.fp is not None
        header, offset = sdl.read_header(self.fp)
        self._header = header
        self._size = header.width, header.height
        self._mode = header.mode.name
        self._load_lock = threading.RLock()
        self.info["sdl_version"] = sdl.FORMAT_VERSION
        self.info["sdl_model"] = header.model.hex()
        # What a decoder shows is partly invented: programs that must know can ask.
        self.info["generative"] = True
        for _ in range(header.sections):
            name = sdl.peek_name(self.fp)
            if not name or sdl.is_critical(name):
                break
            section, offset = sdl.read_section(self.fp, offset)
            if section.name in _INFO_KEYS:
                data = zstdframe.unpack(section.data, section=section.label)
                self.info[_INFO_KEYS[section.name]] = data
        self._is_preview = False
        self._made = {}
        self.tile = [ImageFile._Tile("sdl", (0, 0, *self.size), 0, (header, None, self._made))]

    def load(self) -> Image.core.PixelAccess | None:  # type: ignore[name-defined]  # as Pillow itself declares it
        """Decode the picture, once: other threads that ask for it wait."""
        if not self.tile:
            return super().load()
        with self._load_lock:
            try:
                return super().load()
            except BaseException:
                if self.tile:
                    # Not decoded: drop the empty picture that Pillow has made, whose size a later draft() changes.
                    self._im = None
                raise

    def load_seek(self, pos: int) -> None:
        """Seek in the file.  That it is here tells `ImageFile.Parser` to wait for the whole file."""
        assert self.fp is not None
        self.fp.seek(pos)

    def load_end(self) -> None:
        """Say in `info["sdl_decoder"]` what made the pixels.

        A model's name; "NAME in place of HASH" if it is not the file's own but another of its latent space
        (SPEC 7.2); or "preview".  In `info["sdl_denoiser"]` stands what denoised the latent, if anything did (8.7).
        """
        from . import codec

        if self._is_preview:
            self.info["sdl_decoder"] = "preview"
            return
        self.info["sdl_decoder"] = codec.decoder_name(self._header)
        self.info.update(self._made)

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> tuple[str, tuple[int, int, float, float]] | None:
        """Set the image up to load as a preview, straight from the latent.

        size: a box; the preview is at least as large as the whole picture fitted into it, as `thumbnail`, which calls
        this with twice its own size, means it.   mode: ignored.
        A preview needs no network and takes milliseconds; it is at most half the picture's size.  Does nothing if that
        is too small, or if `size` is None.
        """
        if len(self.tile) != 1 or size is None:
            return None
        from . import codec

        fit = min(size[0] / self._header.width, size[1] / self._header.height)
        scale = codec.preview_scale(self._header, fit * self._header.width, fit * self._header.height)
        if scale is None:
            return None
        self._is_preview = True
        self._size = codec.preview_size(self._header, scale)
        self.tile = [ImageFile._Tile("sdl", (0, 0, *self._size), 0, (self._header, scale, self._made))]
        # The last column and row may lie in part beyond the picture's edge: the box says how much of them counts.
        reduction = codec.preview_reduction(self._header, scale)
        return self.mode, (0, 0, self._header.width / reduction, self._header.height / reduction)

    def verify(self) -> None:
        """Check every CRC and decode all that needs no network: symbols, alpha, metadata.

        Must be called directly after open, and closes the file.  Raises SdlError if anything is wrong.
        """
        if self.fp is None:
            msg = "verify must be called directly after open"
            raise RuntimeError(msg)
        from . import codec

        try:
            self.fp.seek(0)
            codec.verify(_read_again(self.fp, self._header))
        finally:
            super().verify()


def _read_again(fp: IO[bytes], header: sdl.Header) -> sdl.Container:
    """The whole file, which must be the one whose header was read before."""
    msg = "the file has changed since it was opened"
    try:
        file = sdl.read(fp)
    except SyntaxError as exc:
        raise MalformedError(msg, section="header", rule="F-01") from exc
    if file.header != header:
        raise MalformedError(msg, section="header")
    return file


class SdlDecoder(ImageFile.PyDecoder):
    """Reads a whole file and decodes it.

    args: (header, scale of the preview or None for the picture, where `codec.decode` tells what it made that with).
    """

    _pulls_fd = True

    def decode(self, buffer: Image.DecoderInput) -> tuple[int, int]:
        """See PyDecoder."""
        from . import codec

        assert self.fd is not None
        header, scale, made = self.args
        file = _read_again(self.fd, header)
        pixels = codec.decode(file, made) if scale is None else codec.preview(file, scale)
        self.set_as_raw(pixels.tobytes())
        return -1, 0


def _prepare(image: Image.Image) -> tuple[sdl.Mode, NDArray[np.uint8], NDArray[np.uint8] | None]:
    """An image of any mode as stored mode, colours uint8 (H, W, 3), alpha uint8 (H, W) or None (module docstring)."""
    import numpy as np

    grey = image.mode in _GREY_MODES
    transparent = image.has_transparency_data and image.mode in _TRANSPARENT_MODES
    if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
        msg = "an image of mode F with values that are not finite cannot be saved as SDL"
        raise ValueError(msg)
    if image.mode == "LAB":
        image = _lab_to_rgb(image)
    elif image.mode.startswith("I;16"):
        # Pillow converts I;16 by its high byte, but its other byte orders not at all.
        values = np.asarray(image).astype(np.uint16) >> 8
        image = Image.fromarray(values.astype(np.uint8))
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "RGBX":
        image = Image.merge("RGB", image.split()[:3])
    if not transparent:
        mode = sdl.Mode.L if grey else sdl.Mode.RGB
        if grey:
            image = image.convert("L")
        return mode, np.asarray(image if image.mode == "RGB" else image.convert("RGB")), None
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    alpha = image.getchannel("A")
    if alpha.getextrema()[0] == 0:
        image = _fill_transparent(image)
    return sdl.Mode.LA if grey else sdl.Mode.RGBA, np.asarray(image.convert("RGB")), np.asarray(alpha)


def _fill_transparent(image: Image.Image) -> Image.Image:
    """RGBA -> RGBA whose fully transparent pixels have the colours of visible neighbours.

    Pixels are averaged into ever smaller pictures, and holes filled from the next smaller one, in the end with black.
    """
    image = image.copy()
    image.putalpha(image.getchannel("A").point(lambda value: 255 if value else 0))
    pyramid = [image]
    while max(pyramid[-1].size) > 1:
        pyramid.append(pyramid[-1].reduce(2))
    filled = Image.new("RGBA", (1, 1))
    while pyramid:
        level = pyramid.pop()
        filled = filled.resize(level.size, Image.Resampling.BILINEAR)
        filled.putalpha(255)
        filled = Image.alpha_composite(filled, level)
    return filled


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("LAB", 5000), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    assert converted is not None
    return converted


def _metadata(image: Image.Image, mode: sdl.Mode) -> dict[str, Any]:
    """ICC profile, Exif and XMP to be stored.

    Taken from the options of `save`.  A profile is otherwise taken from the image, as Pillow's own formats do, if it
    describes the colours of the stored mode: a CMYK profile says nothing of the RGB that is stored.
    """
    options = image.encoderinfo
    icc_profile = options.get("icc_profile")
    if icc_profile is None and "icc_profile" not in options:
        found = image.info.get("icc_profile")
        icc_profile = found if found and found[16:20] == _ICC_SPACES[mode.name] else b""
    return {"icc_profile": icc_profile or b"", **exif_and_xmp(options)}


def exif_and_xmp(options: Mapping[str, Any]) -> dict[str, Any]:
    """Exif and XMP among the options of `save` as `codec.EncodeOptions` wants them: an `Image.Exif`, text, None too."""
    exif = options.get("exif")
    if isinstance(exif, Image.Exif):  # Before its truth is asked for: one with nothing but a GPS part counts as empty.
        exif = exif.tobytes()
    xmp = options.get("xmp") or b""
    if isinstance(xmp, str):
        xmp = xmp.encode()
    return {"exif": exif or b"", "xmp": xmp}


def save(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    """Handler of `Image.save`: see `codec.EncodeOptions` for the options.  Writes once, when all is known."""
    from . import codec

    names = ("quality", "target_bytes", "model", "quantizer", "palette_size", "dither", "payload", "effort", "tune")
    chosen = {name: im.encoderinfo[name] for name in names if im.encoderinfo.get(name) is not None}
    # What is wrong with the call is told before any work is done.
    codec.EncodeOptions(**chosen)
    codec.check_size(*im.size)
    mode, pixels, alpha = _prepare(im)
    options = codec.EncodeOptions(**chosen, **_metadata(im, mode))
    fp.write(codec.encode(pixels, alpha, mode=mode, options=options))


Image.register_decoder("sdl", SdlDecoder)
