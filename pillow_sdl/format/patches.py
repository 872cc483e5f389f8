"""Guard patches: rectangles whose pixels are stored by WebP and blended over the decoded picture (SPEC 9.4).

The picture is divided into cells of 16 x 16 pixels, the macroblocks of WebP.  Each patch is a rectangle of cells.  All
patches lie in one picture, the *atlas*, which is coded once.  Choosing patches is the task of `pillow_sdl.guard`.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from PIL import Image, features

from ..errors import BackendError, LimitError, MalformedError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

SECTION: Final = "g"

CELL: Final = 16
"""Pixels along each side of a cell."""

MAX_ATLAS: Final = 1023
"""Largest number of columns and rows of cells of an atlas.  A side of a WebP picture has at most 16383 pixels."""

MAX_PATCHES: Final = 65535
"""Largest number of patches of a file."""

FEATHER: Final = 4
"""Pixels over which a patch fades in from its edges."""

STRIP: Final = 4
"""Rows of cells that are computed at a time, so that memory stays bounded."""

METHODS: Final = (b"VP8 ", b"VP8L")
"""Names of the WebP chunk, by the method: lossy, lossless."""

_HEAD: Final = 5


class Rect(NamedTuple):
    """A rectangle of cells.   left, top: of its first cell.   columns, rows: its size."""

    left: int
    top: int
    columns: int
    rows: int

    @property
    def right(self) -> int:
        """The column after the last one."""
        return self.left + self.columns

    @property
    def bottom(self) -> int:
        """The row after the last one."""
        return self.top + self.rows

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of cells."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Rows and columns of pixels."""
        return (
            slice(CELL * self.top, CELL * self.bottom),
            slice(CELL * self.left, CELL * self.right),
        )


class Patches(NamedTuple):
    """The content of section g.

    rects: where the patches lie in the picture.   columns: width of the atlas in cells.
    method: 0 for lossy, 1 for lossless.   data: the WebP chunk `METHODS[method]`, without its name and length.
    """

    rects: tuple[Rect, ...]
    columns: int
    method: int
    data: bytes


def grid(width: int, height: int) -> tuple[int, int]:
    """Return the numbers of columns and rows of cells of a picture of width x height pixels."""
    return -(-width // CELL), -(-height // CELL)


def layout(rects: Iterable[Rect], columns: int) -> tuple[list[Rect], int]:
    """Return where each patch lies in an atlas, and the number of the atlas' rows.

    The patches stand side by side from the left.  One that does not fit into what is left of `columns` begins a new
    line below the highest patch of the line before.
    """
    places = []
    left = top = bottom = 0
    for rect in rects:
        if left + rect.columns > columns:
            left, top = 0, bottom
        places.append(rect._replace(left=left, top=top))
        left, bottom = left + rect.columns, max(bottom, top + rect.rows)
    return places, bottom


def pack(patches: Patches, width: int, height: int) -> bytes:
    """Return the data of section g.   width, height: of the picture, in pixels."""
    head = bytes([patches.method]) + np.array([len(patches.rects), patches.columns], "<u2").tobytes()
    return head + np.array(patches.rects, _field_type(width, height)).tobytes() + patches.data


def unpack(data: bytes, width: int, height: int) -> Patches:
    """Return the patches of a section of a picture of width x height pixels.  The WebP data are not looked at.

    Raises MalformedError (G-01 to G-03), UnsupportedError (G-01) for an unknown method, LimitError (L-07).
    """
    if len(data) < _HEAD:
        msg = "section g does not begin with a method and two numbers"
        raise MalformedError(msg, section=SECTION, rule="G-01")
    method = data[0]
    if method >= len(METHODS):
        msg = f"method {method} of section g is not supported; this reader knows 0 and 1"
        raise UnsupportedError(msg)
    count, columns = np.frombuffer(data, "<u2", 2, 1).tolist()
    field = _field_type(width, height)
    end = _HEAD + 4 * count * field.itemsize
    if not count or len(data) <= end:
        msg = "section g has no patch, or ends before its data"
        raise MalformedError(msg, section=SECTION, rule="G-01")
    rects = tuple(Rect(*fields) for fields in np.frombuffer(data, field, 4 * count, _HEAD).reshape(-1, 4).tolist())
    wide, high = grid(width, height)
    taken = np.zeros((high, wide), bool)
    for rect in rects:
        if not (rect.columns and rect.rows) or rect.right > wide or rect.bottom > high or taken[rect.slices].any():
            msg = "a guard patch is empty, beyond the picture, or overlaps another one"
            raise MalformedError(msg, section=SECTION, rule="G-02")
        taken[rect.slices] = True
    if max(rect.columns for rect in rects) > columns:
        msg = "a guard patch is wider than the atlas"
        raise MalformedError(msg, section=SECTION, rule="G-03")
    rows = layout(rects, columns)[1]
    if max(columns, rows) > MAX_ATLAS or columns * rows > wide * high:
        msg = f"the atlas of guard patches has {columns} x {rows} cells, the picture {wide} x {high}"
        raise LimitError(msg)
    return Patches(rects, columns, method, data[end:])


def _field_type(width: int, height: int) -> np.dtype[np.unsignedinteger]:
    """Return the type of a number of cells: one byte if it holds all numbers of cells of the picture."""
    return np.dtype("u1" if max(grid(width, height)) <= 255 else "<u2")


def has_webp() -> bool:
    """Return whether Pillow was built with WebP."""
    return bool(features.check("webp"))


def decode(patches: Patches) -> list[NDArray[np.uint8]]:
    """Return the pixels of each patch, uint8 (16 rows, 16 columns, 3).

    Raises MalformedError (G-04) for data that are no WebP picture of the atlas' size, and BackendError if Pillow was
    built without WebP.
    """
    if not has_webp():
        msg = "the file has guard patches, which need a Pillow with WebP"
        raise BackendError(msg)
    places, rows = layout(patches.rects, patches.columns)
    size = CELL * patches.columns, CELL * rows
    try:
        with open_atlas(patches.method, patches.data) as image:
            # The size comes first: a small atlas may claim to be a large picture.
            fits = image.size == size and image.mode == "RGB"
            found = np.asarray(image.convert("RGB")) if fits else None
    except Exception as exc:  # Pillow raises many kinds for damaged data.
        msg = f"the atlas of guard patches cannot be decoded: {exc}"
        raise MalformedError(msg, section=SECTION, rule="G-04") from exc
    if found is None:
        msg = f"the atlas of guard patches has not {size[0]} x {size[1]} pixels, or has alpha"
        raise MalformedError(msg, section=SECTION, rule="G-04")
    return [found[place.pixels] for place in places]


def open_atlas(method: int, data: bytes) -> Image.Image:
    """Open the data of a WebP chunk, which are decoded when they are loaded.  Raises what Pillow raises."""
    body = b"WEBP" + METHODS[method] + len(data).to_bytes(4, "little") + data + bytes(len(data) % 2)
    return Image.open(io.BytesIO(b"RIFF" + len(body).to_bytes(4, "little") + body), formats=["WEBP"])


def chunk(webp: bytes) -> tuple[int, bytes]:
    """Return the method and the chunk's data of a WebP file without alpha and metadata.  Inverse of `decode`."""
    method = METHODS.index(webp[12:16])
    return method, webp[20 : 20 + int.from_bytes(webp[16:20], "little")]


def blend(color: NDArray[np.uint8], rects: Iterable[Rect], patches: Iterable[NDArray[np.uint8]]) -> None:
    """Blend patches over a picture, uint8 (H, W, 3), in place.

    The weight of a patch grows from 1/8 to 1 over the `FEATHER` pixels next to pixels that lie in no patch.  It does
    not fall towards the picture's edge and towards other patches.
    """
    height, width = color.shape[:2]
    for strip, weight, pixels in _strips(rects, patches, width, height):
        target = color[strip.pixels]
        rows, columns = target.shape[:2]
        share = weight[:rows, :columns, None].astype(np.uint16)
        mixed = (8 - share) * target + share * pixels[:rows, :columns] + 4
        target[...] = mixed >> 3


def _strips(
    rects: Iterable[Rect], patches: Iterable[NDArray[np.uint8]], width: int, height: int
) -> Iterator[tuple[Rect, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Yield patches in strips of some rows of cells: their place, the weights of their pixels, and their pixels.

    The weights are eighths, uint8 (16 rows, 16 columns).   width, height: of the picture.
    """
    wide, high = grid(width, height)
    taken = np.zeros((high, wide), bool)
    rects = tuple(rects)
    for rect in rects:
        taken[rect.slices] = True
    # One ring of cells more.  Beyond the picture's edge it repeats the picture's cells, which keeps edges sharp.
    taken = np.pad(taken, 1, mode="edge")
    for rect, patch in zip(rects, patches, strict=True):
        for top in range(0, rect.rows, STRIP):
            strip = rect._replace(top=rect.top + top, rows=min(STRIP, rect.rows - top))
            around = taken[strip.top : strip.bottom + 2, strip.left : strip.right + 2]
            yield strip, _weights(around), patch[CELL * top : CELL * (top + strip.rows)]


def _weights(around: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the weights of pixels in eighths, uint8 (16 rows, 16 columns).

    around: whether cells lie in a patch, bool (rows + 2, columns + 2), with one ring of cells more.
    """
    mask = around.repeat(CELL, 0).repeat(CELL, 1)
    weight = mask.astype(np.uint8)
    for step in range(1, FEATHER + 1):
        mask = _eroded(mask)
        weight += mask if step == FEATHER else 2 * mask.astype(np.uint8)
    return weight[CELL:-CELL, CELL:-CELL]


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return where a mask is true in the whole 3 x 3 neighborhood.  Beyond its edges it repeats."""
    padded = np.pad(mask, 1, mode="edge")
    across = padded[:, :-2] & padded[:, 1:-1] & padded[:, 2:]
    found: NDArray[np.bool_] = across[:-2] & across[1:-1] & across[2:]
    return found


def blend_preview(
    preview: NDArray[np.uint8],
    rects: tuple[Rect, ...],
    patches: Iterable[NDArray[np.uint8]],
    size: tuple[int, int],
    reduction: int,
) -> None:
    """Blend patches over a preview, uint8 (H', W', 3), in place.

    size: (width, height) of the picture.   reduction: pixels of the picture for each pixel of the preview, on each
    axis: a divisor of 16.
    """
    side = CELL // reduction
    for strip, weight, pixels in _strips(rects, patches, *size):
        target = preview[side * strip.top : side * strip.bottom, side * strip.left : side * strip.right]
        rows, columns = target.shape[:2]
        share = (_means(weight[:, :, None], reduction) / 8)[:rows, :columns]
        target[...] = np.rint((1 - share) * target + share * _means(pixels, reduction)[:rows, :columns])


def _means(values: NDArray[np.uint8], reduction: int) -> NDArray[np.float32]:
    """Return the means of squares of values, (H, W, bands) to (H / reduction, W / reduction, bands)."""
    height, width, bands = values.shape
    shape = height // reduction, reduction, width // reduction, reduction, bands
    found: NDArray[np.float32] = values.reshape(shape).mean((1, 3), dtype=np.float32)
    return found
