#
# Pillow plugin for SDL: images stored as the quantized latent of an autoencoder.
#
# The format is specified in spec/SPEC.md.  The package registers it with Pillow and imports this module when the first
# .sdl file is opened or saved.  NumPy and the network's run time are imported when pixels are wanted.
#
"""Pillow plugin: `Image.open`, `Image.save`, `thumbnail` and `verify` for `.sdl`.

A file stores one of the modes L, LA, RGB and RGBA.  Images of other modes are converted (`_prepare`):

    1                       L
    I;16*                   L     0..65535 becomes 0..255, rounded
    I                       L     0..255 stays; with a larger value it is taken as I;16; other values are refused
    F                       L     0..255, rounded; other values are refused
    La                      LA
    P, PA                   RGB, or RGBA if there is transparency
    RGBa                    RGBA
    CMYK, YCbCr, HSV, RGBX  RGB
    LAB                     RGB   through a D50 Lab profile to sRGB

The frames of an animation have one mode: RGB if one of them has color, with alpha if one of them has a pixel that is
not opaque.

A color key in `info["transparency"]` turns L into LA and RGB into RGBA.  In other modes it is ignored.  Colors under
full transparency are not kept: they are replaced by the colors of visible neighbors, which saves bytes.
"""

from __future__ import annotations

import threading
from itertools import islice
from numbers import Real
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, SupportsIndex

from PIL import Image, ImageFile
from PIL._util import DeferredError

from .errors import MalformedError
from .format import container, fidelity, frames, metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from . import moving
    from .decode import Decoded
    from .player import Player

__all__ = ["SdlDecoder", "SdlImageFile", "save", "save_all"]

_DEEP_MODES: Final = frozenset({"I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
_GRAY_MODES: Final = _DEEP_MODES | {"1", "L", "LA", "La"}
_TRANSPARENT_MODES: Final = frozenset({"L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa"})

# The color space that an ICC profile must name (ICC.1:2022, 7.2.6) to fit a stored mode.
_ICC_SPACES: Final = {"L": b"GRAY", "LA": b"GRAY", "RGB": b"RGB ", "RGBA": b"RGB "}


class SdlImageFile(ImageFile.ImageFile):
    """An image in an `.sdl` file.

    `Image.open` reads the header and the metadata.  `load` runs the network.  `draft` and `thumbnail` can make a small
    picture without it.  `seek` goes to another frame of an animation.

    `n_frames` is the number of frames, 1 for a still picture.  `is_animated` says whether there is more than one.
    """

    format = "SDL"
    format_description = "SDL latent image"

    n_frames: int = 1
    is_animated: bool = False
    _frame = 0
    _header: container.Header

    def _open(self) -> None:
        assert self.fp is not None
        header, offset = container.read_header(self.fp)
        self._header = header
        self._size = header.width, header.height
        self._mode = header.mode.name
        self._load_lock = threading.RLock()
        self.info["sdl_version"] = container.FORMAT_VERSION
        self.info["sdl_model"] = header.model.hex()
        # The decoder invents a part of what it shows.  Programs that must know can look here.
        self.info["generative"] = True
        found: frames.Timing | None = None
        for _ in range(header.sections):
            name = container.peek_name(self.fp)
            if not name or container.is_critical(name):
                break
            section, offset = container.read_section(self.fp, offset)
            if section.name == container.Name.FIDELITY:
                self.info["fidelity"] = _fidelity(section.data)
            if section.name == container.Name.FRAMES:
                found = frames.timing(section.data, header.width, header.height, has_alpha=header.mode.has_alpha)
            if section.name in container.METADATA:
                data = metadata.unpack(section.data, section=section.label)
                self.info[container.METADATA[section.name]] = data
        self._durations = found.durations if found else ()
        self.n_frames = max(1, len(self._durations))
        self.is_animated = self.n_frames > 1
        self._player: Player | None = None
        if found:
            self.info["loop"] = found.plays
            self.info["duration"] = found.durations[0]
            # Other frames are read later.  `close` and `with` close the file, as for GIF.
            self._close_exclusive_fp_after_loading = False
            self._fp = self.fp
        self._about_frame_0 = {key: self.info[key] for key in ("fidelity",) if key in self.info}
        self._set_tile()

    def _set_tile(self) -> None:
        """Make the next `load` decode the current frame."""
        self._size = self._header.width, self._header.height
        self.tile = [ImageFile._Tile("sdl", (0, 0, *self._size), 0, (self._header, None, self._show, self._loaded))]

    def seek(self, frame: int) -> None:
        """Go to a frame, 0 to `n_frames` - 1.  It is decoded when it is loaded.

        `info["duration"]` is that of the frame, in milliseconds.  Guard patches are shown where frame 0 is unchanged,
        and `info["fidelity"]` exists for frame 0 only.   Raises EOFError for a frame that does not exist, and
        ValueError if the file is closed.
        """
        if not self._seek_check(frame):
            return
        if isinstance(self._fp, DeferredError):
            raise self._fp.ex
        self._frame = frame
        self.fp = self._fp
        self._im = None  # A new picture: the old one may be shared.
        for key in ("fidelity", "sdl_decoder", "sdl_denoiser"):
            self.info.pop(key, None)
        self.info["duration"] = self._durations[frame]
        if frame == 0:
            self.info.update(self._about_frame_0)
        self._set_tile()

    def tell(self) -> int:
        """Return the number of the current frame."""
        return self._frame

    def _show(self, fp: IO[bytes]) -> Decoded:
        """Return the current frame.   fp: the file."""
        from . import decode, player

        if not self.is_animated:
            return decode.decode(_read_again(fp, self._header))
        if self._player is None:
            self._player = player.Player(_read_again(fp, self._header))
        return self._player.show(self._frame)

    def load(self) -> Image.core.PixelAccess | None:  # type: ignore[name-defined]  # as Pillow itself declares it
        """Decode the picture once.  Other threads that ask for it meanwhile wait.

        Afterwards `info["sdl_decoder"]` names the model that decoded it: its name; "NAME in place of HASH" if it is not
        the file's own but another of its latent space (SPEC 7.2); or "preview".  `info["sdl_denoiser"]` names the
        denoiser, if one ran (SPEC 8.7).
        """
        if not self.tile:
            return super().load()
        with self._load_lock:
            if self.tile and self.fp is None:
                # Here, because Pillow asserts that there is a file before it calls load_prepare.
                msg = "Operation on closed image"
                raise ValueError(msg)
            try:
                return super().load()
            except BaseException:
                if self.tile:
                    # Pillow has made an empty picture, whose size a later draft() changes.  Drop it.
                    self._im = None
                raise

    def load_prepare(self) -> None:
        """Refuse a picture that is too large before Pillow allocates memory for it."""
        from . import decode

        decode.check_limit(self._header)
        super().load_prepare()

    def load_seek(self, pos: int) -> None:
        """Seek in the file.  `ImageFile.Parser` waits for the whole file because this method exists."""
        assert self.fp is not None
        self.fp.seek(pos)

    def _loaded(self, found: Decoded | None) -> None:
        """Note in `info` what made the pixels.   found: None for a preview."""
        self.info["sdl_decoder"] = "preview" if found is None else found.decoder
        if "fidelity" in self.info:
            # The bounds hold for the file's own model, without a denoiser.
            self.info["fidelity"]["holds"] = found is not None and found.own
        if found is not None and found.denoiser is not None:
            self.info["sdl_denoiser"] = found.denoiser

    def draft(self, mode: str | None, size: tuple[int, int] | None) -> tuple[str, tuple[int, int, float, float]] | None:
        """Make the next `load` decode a preview.  That needs no network and takes milliseconds.

        size: a box of (width, height).  The preview is at least as large as the picture would be in this box.
            `thumbnail` asks for twice the size that it needs.
        mode: ignored.

        A preview has at most half the picture's size.  If that is too small, if `size` is None, or if the current frame
        is not frame 0, nothing happens.
        """
        if len(self.tile) != 1 or size is None or self._frame:
            return None
        from . import decode

        fit = min(size[0] / self._header.width, size[1] / self._header.height)
        scale = decode.preview_scale(self._header, fit * self._header.width, fit * self._header.height)
        if scale is None:
            return None
        self._size = decode.preview_size(self._header, scale)
        arguments = self._header, scale, self._show, self._loaded
        self.tile = [ImageFile._Tile("sdl", (0, 0, *self._size), 0, arguments)]
        # The last column and row may reach beyond the picture's edge.  The box says how much of them counts.
        reduction = decode.preview_reduction(self._header, scale)
        return self.mode, (0, 0, self._header.width / reduction, self._header.height / reduction)

    def verify(self) -> None:
        """Check every CRC and decode everything that needs no network: symbols, alpha, metadata.

        Call it directly after open.  It closes the file.  Raises SdlError if anything is wrong, and MalformedError with
        rule F-03 if bytes follow the last section, which `load` ignores.
        """
        if self.fp is None:
            msg = "verify must be called directly after open"
            raise RuntimeError(msg)
        from . import decode

        try:
            self.fp.seek(0)
            decode.verify(_read_again(self.fp, self._header, strict=True))
        finally:
            super().verify()


def _fidelity(data: bytes) -> dict[str, float]:
    """Return the summary of a fidelity map: side of a cell in pixels, and bounds of the error in levels of 0..255."""
    found = fidelity.unpack(data)
    worst, mean = fidelity.bound(found.worst_error), fidelity.bound(found.mean_error)
    return {"cell": found.side, "worst": worst, "mean": mean}


def _read_again(fp: IO[bytes], header: container.Header, *, strict: bool = False) -> container.Container:
    """Read the whole file, which must be the one whose header was read before."""
    msg = "the file has changed since it was opened"
    try:
        file = container.read(fp, strict=strict)
    except SyntaxError as exc:
        raise MalformedError(msg, section="header", rule="F-01") from exc
    if file.header != header:
        raise MalformedError(msg, section="header")
    return file


class SdlDecoder(ImageFile.PyDecoder):
    """Reads a whole file and decodes it.

    args: the header; the scale of the preview, None for the picture; a function that decodes the picture from a file; a
    function that is told what was decoded.
    """

    _pulls_fd = True

    def decode(self, buffer: Image.DecoderInput) -> tuple[int, int]:
        """Decode the whole picture at once, see `PIL.ImageFile.PyDecoder`."""
        from . import decode, progress, settings

        assert self.fd is not None
        header, scale, show, report = self.args
        with progress.job(settings.current().progress):
            found = show(self.fd) if scale is None else None
        pixels = decode.preview(_read_again(self.fd, header), scale) if found is None else found.pixels
        self.set_as_raw(pixels.tobytes())
        report(found)
        return -1, 0


def _prepare(image: Image.Image) -> tuple[container.Mode, NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Convert an image to a mode that can be stored.  Return that mode, colors uint8 (H, W, 3), and alpha uint8 (H, W).

    Alpha is None for modes without alpha.
    """
    import numpy as np

    gray = image.mode in _GRAY_MODES
    transparent = image.has_transparency_data and image.mode in _TRANSPARENT_MODES
    if image.mode == "LAB":
        image = _lab_to_rgb(image)
    elif image.mode in _DEEP_MODES:
        image = Image.fromarray(_with_8_bits(np.asarray(image), image.mode))
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "RGBX":
        image = Image.merge("RGB", image.split()[:3])
    if not transparent:
        mode = container.Mode.L if gray else container.Mode.RGB
        if gray:
            image = image.convert("L")
        return mode, np.asarray(image if image.mode == "RGB" else image.convert("RGB")), None
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    alpha = image.getchannel("A")
    if alpha.getextrema()[0] == 0:
        image = _fill_transparent(image)
    return container.Mode.LA if gray else container.Mode.RGBA, np.asarray(image.convert("RGB")), np.asarray(alpha)


def _kind(image: Image.Image) -> tuple[bool, bool]:
    """Return whether an image is stored as gray, and whether it has a pixel that is not opaque."""
    transparent = image.has_transparency_data and image.mode in _TRANSPARENT_MODES
    if transparent:
        alpha = (image if image.mode == "RGBA" else image.convert("RGBA")).getchannel("A")
        transparent = alpha.getextrema() != (255, 255)
    return image.mode in _GRAY_MODES, transparent


def _with_8_bits(values: NDArray[np.generic], mode: str) -> NDArray[np.uint8]:
    """Return the samples of a mode with more than 8 bits as uint8.  The module's table has the rules.

    Raises ValueError for values that the rules do not cover.  Pillow's own conversions would clip them.
    """
    import numpy as np

    wide = values.astype(np.float64 if mode == "F" else np.int64)
    if mode == "F" and not np.isfinite(wide).all():
        msg = "an image of mode F with values that are not finite cannot be saved as SDL"
        raise ValueError(msg)
    lowest, highest = (wide.min(), wide.max()) if wide.size else (0, 0)
    largest = 255 if mode == "F" else 65535
    if lowest < 0 or highest > largest:
        msg = (
            f"an image of mode {mode} with values from {lowest:g} to {highest:g} cannot be saved as SDL: they must be in "
            f"0..{largest}"
        )
        raise ValueError(msg)
    if mode == "I" and highest <= 255:
        return wide.astype(np.uint8)
    return np.rint(wide if mode == "F" else wide / 257).astype(np.uint8)


def _fill_transparent(image: Image.Image) -> Image.Image:
    """Give fully transparent pixels of an RGBA image the colors of visible neighbors.

    Pixels are averaged into ever smaller pictures.  Holes are filled from the next smaller picture, finally with black.
    """

    def seen(level: Image.Image) -> Image.Image:
        """Make what is not fully transparent opaque, so that no black of holes is mixed in."""
        level.putalpha(level.getchannel("A").point(lambda value: 255 if value else 0))
        return level

    pyramid = [seen(image.copy())]
    while max(pyramid[-1].size) > 1:
        pyramid.append(seen(pyramid[-1].reduce(2)))
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


def _metadata(image: Image.Image, mode: container.Mode) -> dict[str, Any]:
    """Return the ICC profile, Exif and XMP to store.

    They come from the options of `save`.  Without the option, the image's own profile is taken, as in Pillow's own
    formats, but only if it describes the stored mode: a CMYK profile does not describe the RGB that is stored.
    """
    options = image.encoderinfo
    icc_profile = options.get("icc_profile")
    if icc_profile is None and "icc_profile" not in options:
        found = image.info.get("icc_profile")
        icc_profile = found if found and found[16:20] == _ICC_SPACES[mode.name] else b""
    from .options import exif_and_xmp

    return {"icc_profile": icc_profile or b"", **exif_and_xmp(options)}


def save(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    """Handle `Image.save`.  The options are those of `options.EncodeOptions`.  It writes once, when all is done."""
    from . import coding, encode, progress, settings
    from .options import EncodeOptions

    chosen = _chosen(im)
    coding.check_size(*im.size)
    mode, pixels, alpha = _prepare(im)
    options = EncodeOptions(**chosen, **_metadata(im, mode))
    with progress.job(settings.current().progress):
        fp.write(encode.encode(pixels, alpha, mode=mode, options=options))


def _chosen(im: Image.Image) -> dict[str, Any]:
    """Return the options of `options.EncodeOptions` that a call of `save` names.  Raises ValueError for wrong ones."""
    from .options import SAVE_OPTIONS, EncodeOptions

    chosen = {name: im.encoderinfo[name] for name in SAVE_OPTIONS if im.encoderinfo.get(name) is not None}
    # Mistakes in the call are reported before any work is done.
    EncodeOptions(**chosen)
    return chosen


# Animations


class _Still(NamedTuple):
    """Facts about a frame that are needed before frame 0 is encoded.

    gray: whether it is stored as gray.   transparent: whether it has a pixel that is not opaque.
    duration: in milliseconds, as the frame says, 0 if it does not say it.
    """

    gray: bool
    transparent: bool
    size: tuple[int, int]
    duration: Any


def _frames_of(sources: Iterable[Image.Image]) -> Iterator[Image.Image]:
    """Yield all frames of images.  Each frame is its image after `seek`.

    The default image of a PNG file is no frame of its animation.  Raises OSError for a frame that is missing.
    """
    for source in sources:
        count = getattr(source, "n_frames", 1)
        if count == 1:
            yield source
            continue
        for index in range(1 if getattr(source, "default_image", False) else 0, count):
            try:
                source.seek(index)
            except EOFError as exc:
                msg = f"frame {index} of {count} cannot be read: {exc}"
                raise OSError(msg) from exc
            yield source


def save_all(im: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    """Handle `Image.save` with `save_all`.  It takes the options of `save` and these:

    append_images: images whose frames follow those of `im`.
    duration: of all frames, or a list with one for each frame, in milliseconds, 0 to 2^24 - 1; rounded.  The default is
        the duration that each frame has itself, or 0.
    loop: how often the animation is shown, 0 to 65535; 0 stands for no end.  The default is what `im` says, or 0.  A
        GIF that says nothing is shown once.

    All frames must have one size.  A single frame is saved as a still picture.  Raises ValueError for options and
    frames that do not fit, and OSError for frames that cannot be read.
    """
    from . import progress, settings

    sources = [im, *im.encoderinfo.get("append_images", ())]
    places = [(source, source.tell()) for source in sources]
    with progress.job(settings.current().progress):
        try:
            data = _animation(im, sources)
        finally:
            for source, place in places:
                source.seek(place)
        if data is None:
            save(im, fp, filename)
        else:
            fp.write(data)


def _animation(im: Image.Image, sources: list[Image.Image]) -> bytes | None:
    """Return the file of all frames of images, None if there is only one.   im: the first image, with the options."""
    from . import coding, encode, moving, progress
    from .options import EncodeOptions

    chosen = _chosen(im)
    coding.check_size(*im.size)
    with progress.part(0, 0):  # Frames of .sdl files report their decoding here.
        stills = [_still(frame) for frame in _frames_of(sources)]
    if len(stills) == 1:
        return None
    _check_frames(stills)
    durations, plays = _durations(im, stills), _plays(im)
    gray, has_alpha = all(still.gray for still in stills), any(still.transparent for still in stills)
    mode = container.Mode["LA" if gray and has_alpha else "L" if gray else "RGBA" if has_alpha else "RGB"]

    def further() -> Iterator[moving.Picture]:
        return (_picture(frame, mode) for frame in islice(_frames_of(sources), 1, None))

    with progress.part(0, 0):
        first = _picture(next(_frames_of(sources)), mode)
    options = EncodeOptions(**chosen, **_metadata(im, mode))
    source = moving.Source(plays, durations, further)
    return encode.encode(first.pixels, first.alpha, mode=mode, options=options, source=source)


def _still(frame: Image.Image) -> _Still:
    if frame.format != SdlImageFile.format:
        frame.load()  # Only then other plugins know a frame's mode (GIF) and duration (WebP).
    return _Still(*_kind(frame), frame.size, frame.info.get("duration") or 0)


def _picture(frame: Image.Image, mode: container.Mode) -> moving.Picture:
    """Return a frame in the mode of its animation."""
    import numpy as np

    from . import moving

    _, pixels, alpha = _prepare(frame)
    if not mode.has_alpha:
        alpha = None
    elif alpha is None:
        alpha = np.full(pixels.shape[:2], 255, np.uint8)
    return moving.Picture(pixels, alpha)


def _check_frames(stills: list[_Still]) -> None:
    """Raise ValueError for too many frames or frames of several sizes."""
    if len(stills) > frames.MAX_FURTHER + 1:
        msg = f"an animation has at most {frames.MAX_FURTHER + 1} frames, not {len(stills)}"
        raise ValueError(msg)
    for index, still in enumerate(stills):
        if still.size != stills[0].size:
            sizes = [f"{width} x {height}" for width, height in (still.size, stills[0].size)]
            msg = f"all frames of an animation must have one size: frame {index} has {sizes[0]}, frame 0 has {sizes[1]}"
            raise ValueError(msg)


def _durations(im: Image.Image, stills: list[_Still]) -> list[int]:
    """Return the duration of each frame in whole milliseconds.  Raises ValueError."""
    given = im.encoderinfo.get("duration")
    if given is None:
        given = [still.duration for still in stills]
    elif not isinstance(given, (list, tuple)):
        given = [given] * len(stills)
    elif len(given) != len(stills):
        msg = f"duration has {len(given)} values for {len(stills)} frames"
        raise ValueError(msg)
    for value in given:
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= frames.MAX_DURATION:
            msg = f"duration must be a number of milliseconds from 0 to {frames.MAX_DURATION}, not {value!r}"
            raise ValueError(msg)
    return [round(float(value)) for value in given]


def _plays(im: Image.Image) -> int:
    """Return how often an animation is shown.  Raises ValueError."""
    value = im.encoderinfo.get("loop")
    if value is None:
        value = im.info.get("loop", 1 if im.format == "GIF" else 0)
    if (
        isinstance(value, bool)
        or not isinstance(value, SupportsIndex)
        or not 0 <= value.__index__() <= frames.MAX_PLAYS
    ):
        msg = f"loop must be a whole number from 0 to {frames.MAX_PLAYS}, not {value!r}"
        raise ValueError(msg)
    return value.__index__()
