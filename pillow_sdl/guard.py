"""The guard chooses the parts of a picture that a file stores as real pixels, because the network gets them wrong.

The result is a set of patches (SPEC 9.4, `format.patches`).  The caller can name the parts.  Otherwise `harm` finds
them: it compares the decoded picture with the original.  This module needs NumPy and Pillow only.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from .fidelity_map import RADIUS, detail, luminance
from .format import patches as stored
from .format.patches import CELL, MAX_ATLAS, STRIP, Patches, Rect

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

QUIET: Final = 0.35
"""This quantile of the gradients in a cell is the gradient of the cell's background."""

LEAST_QUIET: Final = 4.0
"""Levels that are added to the gradient of the background.  A gradient is a difference over two pixels."""

LEAST_ERROR: Final = 6.0
"""A cell with a smaller root mean square error of fine detail, in levels, has no harm."""

HARMED: Final = 1.8
SPREAD: Final = 1.0
"""A cell with at least the first value of harm is guarded.  Beside such a cell, the second value suffices."""

TINY: Final = 32
"""A picture with a side of fewer pixels is stored as pixels as a whole.

Its latent has too few positions along that side.
"""

EVEN: Final = 0.5
"""A picture is probably drawn if this share of its pixels has the color of the left and the upper neighbor."""

WEBP_QUALITY: Final = (30, 90)
QUALITY_STEP: Final = 6
"""Lowest and highest WebP quality of patches, and the distance of the qualities that are tried."""

COLORS: Final = (2, 3, 4, 8, 16)
"""Numbers of colors to which drawn atlases are reduced."""

DRAWN: Final = 25.0
"""An atlas counts as drawn if 16 colors give a smaller mean square error than this, in squared levels."""

FEW_COLORS: Final = 6.0
"""The same limit for whole pictures.  It is lower, because a smooth gradient would become a few steps."""

MOST_REDUCED: Final = 4
"""A reduction of the colors makes the file of a drawing smaller by at most this factor, roughly."""

MOST_CRUNCHED: Final = 1.5
"""WebP's slow lossless coding is smaller than its fastest one by at most this factor, roughly."""

GOOD: Final = 16.0
"""Mean square error, in squared levels, that is good enough.  The smallest coding that is good enough is used."""

MIDDLE_QUALITY: Final = 60
"""Highest WebP quality of patches that the guard chooses on its own, and the one by which it judges cells."""


ONE_BAND: Final = ("1", "L", "I", "F", "I;16")
"""Modes of masks that are compared with 0 as they are."""


def cells_for(choice: Any, pixels: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """Return the cells that a value of the option `guard` names, bool (rows, columns).  None: leave it to `harm`.

    choice: see `options.EncodeOptions`, not "off".   pixels: the picture, uint8 (H, W, 3).
    Raises ValueError for a mask of another size, a box outside the picture, and a detector whose package is missing.
    """
    height, width = pixels.shape[:2]
    if choice is None or choice == "auto":
        return None
    if isinstance(choice, Image.Image):
        if choice.size != (width, height):
            msg = f"the mask for guard has {choice.width} x {choice.height} pixels, the picture {width} x {height}"
            raise ValueError(msg)
        # Not as L, which rounds faint values to 0.
        marked = np.asarray(choice if choice.mode in ONE_BAND else choice.convert("RGB")) != 0
        return cells_of_mask(marked if marked.ndim == 2 else marked.any(axis=2))
    if isinstance(choice, str):
        from . import detectors

        found = [box for name in choice.split(",") for box in detectors.find(name, pixels)]
        return cells_of_boxes(found, width, height)
    for left, top, right, bottom in choice:
        if left >= width or top >= height or right <= 0 or bottom <= 0:
            msg = (
                f"the box {left}, {top}, {right}, {bottom} of guard is outside the picture of {width} x {height} pixels"
            )
            raise ValueError(msg)
    return cells_of_boxes(choice, width, height)


def cells_if_tiny(width: int, height: int) -> NDArray[np.bool_] | None:
    """Return all cells of a picture that is too small for a latent, bool (rows, columns), None for a larger one."""
    columns, rows = stored.grid(width, height)
    return np.ones((rows, columns), bool) if min(width, height) < TINY else None


def is_drawn(pixels: NDArray[np.uint8]) -> bool:
    """Return whether a picture, uint8 (H, W, 3), has the even ground of a drawing and fits into one patch."""
    height, width = pixels.shape[:2]
    if max(stored.grid(width, height)) > MAX_ATLAS:
        return False
    even = 0
    for top in range(1, height, CELL * STRIP):
        here = pixels[top : top + CELL * STRIP]
        same = here[:, 1:] == here[:, :-1]
        same &= here[:, 1:] == pixels[top - 1 : top - 1 + len(here), 1:]
        even += int(np.count_nonzero(same[..., 0] & same[..., 1] & same[..., 2]))  # `all` takes six times as long.
    return bool(even >= EVEN * (height - 1) * (width - 1))


def drawings(pixels: NDArray[np.uint8], room: int) -> Iterator[tuple[Patches, float]]:
    """Yield a picture as one patch without loss, then with fewer and fewer colors, each with its mean square error.

    pixels: uint8 (H, W, 3), see `is_drawn`.   room: bytes that the section may take.  Fewer colors are not tried if
    the patch without loss takes several times as much, or if the picture needs many colors.
    """
    height, width = pixels.shape[:2]
    rect = Rect(0, 0, *stored.grid(width, height))
    atlas = Image.fromarray(_padded(pixels, rect))

    def patches(picture: Image.Image) -> Patches:
        return Patches((rect,), rect.columns, *stored.chunk(_webp(picture, lossless=True, quality=100, method=6)))

    exact = patches(atlas)
    yield exact, 0.0
    if len(exact.data) <= MOST_REDUCED * room and _error(atlas, _reduced(atlas, max(COLORS))) < FEW_COLORS:
        for colors in reversed(COLORS):
            reduced = _reduced(atlas, colors)
            yield patches(reduced), _error(atlas, reduced)


def cells_of_boxes(boxes: Iterable[Sequence[int]], width: int, height: int) -> NDArray[np.bool_]:
    """Return the cells that cover boxes (left, top, right, bottom) in pixels: bool (rows, columns).

    Cells are added around a box where a patch would otherwise fade within it.  Parts beyond the picture do not count.
    """
    columns, rows = stored.grid(width, height)
    found = np.zeros((rows, columns), bool)
    for left, top, right, bottom in boxes:
        across = slice(max(0, left - stored.FEATHER) // CELL, -(-max(0, right + stored.FEATHER) // CELL))
        down = slice(max(0, top - stored.FEATHER) // CELL, -(-max(0, bottom + stored.FEATHER) // CELL))
        found[down, across] = True
    return found


def cells_of_mask(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the cells that cover the true pixels of a mask (H, W): bool (rows, columns).  See `cells_of_boxes`."""
    near = np.pad(mask, stored.FEATHER)
    for axis in (0, 1):
        near = np.max(sliding_window_view(near, 2 * stored.FEATHER + 1, axis), 2)
    found: NDArray[np.bool_] = _in_cells(near.astype(np.float32)).max(2) > 0
    return found


def harm(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return how much harm the decoder has done to each cell, float32 (rows, columns), >= 0.

    original, decoded: uint8 (H, W, bands) without alpha.

    Errors of fine detail count, up to the detail that the original has.  They are divided by the gradient of the
    background, because lively surroundings hide them.  They count less where all edges have one direction, because the
    decoder keeps long edges.  What remains is small structure of high contrast on quiet ground: letters, eyes.
    """
    rows = -(-len(original) // CELL)
    parts = [_statistics(original, decoded, top, min(top + STRIP, rows)) for top in range(0, rows, STRIP)]
    error, quiet, xx, xy, yy = (np.concatenate(values) for values in zip(*parts, strict=True))
    quiet, xx, xy, yy = (_smooth(values) for values in (quiet, xx, xy, yy))
    coherence = np.sqrt((xx - yy) ** 2 + 4 * xy**2) / (xx + yy + 1e-6)
    found: NDArray[np.float32] = 2 * error * (1 - coherence) / (LEAST_QUIET + quiet)
    found[error < LEAST_ERROR] = 0
    return found


def _statistics(
    original: NDArray[np.uint8], decoded: NDArray[np.uint8], begin: int, end: int
) -> tuple[NDArray[np.float32], ...]:
    """Return statistics of the rows of cells begin to end, each float32 (end - begin, columns).

    These are the root mean square error of fine detail, at most that of the original's detail, the gradient of the
    background, and the structure tensor.
    """
    rows, missing = slice(CELL * begin, CELL * end), -original.shape[1] % CELL
    bright, shown = (
        np.pad(luminance(pixels, rows), ((0, 0), (0, missing)), mode="edge") for pixels in (original, decoded)
    )
    error, own = (np.sqrt(np.square(_in_cells(detail(gray))).mean(2)) for gray in (shown - bright, bright))
    inner = bright[RADIUS - 1 : 1 - RADIUS, RADIUS - 1 : 1 - RADIUS]
    dx, dy = inner[1:-1, 2:] - inner[1:-1, :-2], inner[2:, 1:-1] - inner[:-2, 1:-1]
    gradient = _in_cells(np.maximum(np.abs(dx), np.abs(dy)))
    place = int(QUIET * CELL * CELL)
    quiet = np.partition(gradient, place, axis=2)[:, :, place]
    tensor = (_in_cells(product).mean(2) for product in (dx * dx, dx * dy, dy * dy))
    return np.minimum(error, own), quiet, *tensor


def _in_cells(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return values (H, W) by cell, (rows, columns, CELL * CELL).  At the edges the last values repeat."""
    height, width = values.shape
    padded = np.pad(values, ((0, -height % CELL), (0, -width % CELL)), mode="edge")
    rows, columns = padded.shape[0] // CELL, padded.shape[1] // CELL
    return padded.reshape(rows, CELL, columns, CELL).swapaxes(1, 2).reshape(rows, columns, -1)


def _smooth(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the means over 3 x 3 cells, edges repeated."""
    windows = sliding_window_view(np.pad(values, 1, mode="edge"), (3, 3))
    found: NDArray[np.float32] = windows.mean((2, 3))
    return found


def _near(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the cells that touch any of these cells, and these cells."""
    found: NDArray[np.bool_] = np.max(sliding_window_view(np.pad(cells, 1), (3, 3)), (2, 3))
    return found


def choose(
    original: NDArray[np.uint8], decoded: NDArray[np.uint8], limit: int, cells: NDArray[np.bool_] | None = None
) -> Patches | None:
    """Return the patches of a picture, None if none are needed or none fit.

    original, decoded: uint8 (H, W, 3).   limit: bytes that the section may take.
    cells: cells to guard, bool (rows, columns); None: those with the greatest harm.  If there is no room for all
        of these cells, the ones with the greatest harm are taken.  Cells that the decoder shows better than a patch are
        left out.
    """
    if limit <= 0:
        return None
    scores = harm(original, decoded)
    highest = WEBP_QUALITY[-1]
    if cells is None:
        scores /= 1 + np.median(scores)
        harmed = scores >= HARMED
        wanted = harmed | (_near(harmed) & (scores >= SPREAD))
        highest = MIDDLE_QUALITY
    else:
        wanted = cells & _improved(original, decoded, cells)
    best = _patches(original, wanted, limit, highest)
    if best is not None:
        return best
    ranked = np.flatnonzero(wanted)
    ranked = ranked[np.argsort(-scores.flat[ranked], kind="stable")]  # Those with the greatest harm first.
    fits, fails = 0, len(ranked)  # Numbers of cells.
    while fails - fits > max(1, fits // 16):
        count = (fits + fails) // 2
        chosen = np.zeros_like(wanted)
        chosen.flat[ranked[:count]] = True
        found = _patches(original, chosen, limit, WEBP_QUALITY[0])
        if found is None:
            fails = count
        else:
            fits, best = count, found
    return best


def _improved(original: NDArray[np.uint8], decoded: NDArray[np.uint8], cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the given cells that a patch shows better than the decoder, bool (rows, columns)."""
    made = _atlas(original, cells)
    if made is None:  # There are no cells, or too many patches.
        return cells
    method, data = stored.chunk(_webp(made[0], quality=MIDDLE_QUALITY, method=6))
    patches = made[1]._replace(method=method, data=data)
    better = np.zeros_like(cells)
    for rect, pixels in zip(patches.rects, stored.decode(patches), strict=True):
        target = original[rect.pixels].astype(np.float32)
        height, width = target.shape[:2]
        before = np.square(decoded[rect.pixels] - target).mean(2)
        after = np.square(pixels[:height, :width] - target).mean(2)
        better[rect.slices] = _in_cells(after).mean(2) < _in_cells(before).mean(2)
    return better


def _patches(original: NDArray[np.uint8], cells: NDArray[np.bool_], limit: int, highest: int) -> Patches | None:
    """Return cells (rows, columns) as patches, with the best coding of at most `limit` bytes.

    highest: best WebP quality that is tried.
    None if there is no cell, if there are too many patches, or if there is no coding that fits.
    """
    made = _atlas(original, cells)
    if made is None:
        return None
    atlas, empty = made
    height, width = original.shape[:2]
    found = _coded(atlas, limit - len(stored.pack(empty, width, height)), highest)
    return None if found is None else empty._replace(method=found[0], data=found[1])


def _atlas(original: NDArray[np.uint8], cells: NDArray[np.bool_]) -> tuple[Image.Image, Patches] | None:
    """Return the atlas of cells (rows, columns), and their patches without data.

    None if there is no cell, or if there are too many patches.
    """
    rects = sorted(_rects(cells), key=lambda rect: (-rect.rows, -rect.columns, rect.top, rect.left))
    columns = _columns(rects, cells.size) if rects else None
    if columns is None or len(rects) > stored.MAX_PATCHES:
        return None
    places, rows = stored.layout(rects, columns)
    atlas = np.empty((CELL * rows, CELL * columns, 3), np.uint8)
    pieces = [_padded(original[rect.pixels], rect) for rect in rects]
    atlas[...] = np.mean([piece.mean((0, 1)) for piece in pieces], 0)
    for place, piece in zip(places, pieces, strict=True):
        atlas[place.pixels] = piece
    return Image.fromarray(atlas), Patches(tuple(rects), columns, 0, b"")


def _coded(atlas: Image.Image, limit: int, highest: int) -> tuple[int, bytes] | None:
    """Return the method and the data of an atlas with the least error of at most `limit` bytes.  None if none fits.

    Letters and drawings on even ground are smallest without loss after their colors were reduced to a few.
    """
    known: dict[int, bytes] = {}

    def size(quality: int) -> int:
        known[quality] = stored.chunk(_webp(atlas, quality=quality, method=6))[1]
        return len(known[quality])

    qualities = range(WEBP_QUALITY[0], highest + 1, QUALITY_STEP)
    count = bisect_right(qualities, limit, key=size)
    found = [(0, known[qualities[count - 1]])] if count else []
    if _error(atlas, _reduced(atlas, max(COLORS))) < DRAWN:
        for colors in COLORS:
            picture = _reduced(atlas, colors)
            # A photo of few colors takes seconds with slower codings, and is too large in the end.
            if len(_webp(picture, lossless=True, quality=0, method=0)) > MOST_CRUNCHED * limit:
                break
            found.append(stored.chunk(_webp(picture, lossless=True, quality=90, method=6)))
    found = [(method, data) for method, data in found if len(data) <= limit]
    if not found:
        return None
    errors = [_error(atlas, stored.open_atlas(method, data).convert("RGB")) for method, data in found]
    good = [index for index, error in enumerate(errors) if error <= max(GOOD, min(errors))]
    return min((found[index] for index in good), key=lambda coding: len(coding[1]))


def _reduced(atlas: Image.Image, colors: int) -> Image.Image:
    """Return a picture with at most some number of colors."""
    return atlas.quantize(colors, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE).convert("RGB")


def _error(first: Image.Image, second: Image.Image) -> float:
    """Return the mean square error of one picture against another, in squared levels."""
    return mean_square(np.asarray(first), np.asarray(second))


def mean_square(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Return the mean square difference of two pictures (H, W, bands), in squared levels."""
    total = 0.0
    for top in range(0, len(first), CELL * STRIP):
        rows = slice(top, top + CELL * STRIP)
        total += float(np.square(first[rows].astype(np.float32) - second[rows]).sum(dtype=np.float64))
    return total / first.size


def _webp(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "WEBP", **options)
    return stream.getvalue()


def _padded(pixels: NDArray[np.uint8], rect: Rect) -> NDArray[np.uint8]:
    """Return the pixels of a patch that reaches beyond the picture, its last row and column repeated."""
    missing = CELL * rect.rows - pixels.shape[0], CELL * rect.columns - pixels.shape[1]
    return np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


def _rects(cells: NDArray[np.bool_]) -> list[Rect]:
    """Divide cells into rectangles: each row into runs, and equal runs below each other into one."""
    found: list[Rect] = []
    open_runs: dict[tuple[int, int], Rect] = {}
    for top, row in enumerate(cells):
        edges = np.flatnonzero(np.diff(row.astype(np.int8), prepend=0, append=0))
        runs: dict[tuple[int, int], Rect] = {}
        for begin, end in edges.reshape(-1, 2).tolist():
            above = open_runs.pop((begin, end), None)
            runs[begin, end] = above._replace(rows=above.rows + 1) if above else Rect(begin, top, end - begin, 1)
        found += open_runs.values()
        open_runs = runs
    return [*found, *open_runs.values()]


def _columns(rects: list[Rect], limit: int) -> int | None:
    """Return the width of the smallest atlas for patches, in cells.  None if it would have more than `limit` cells."""
    area = sum(rect.columns * rect.rows for rect in rects)
    widest = max(rect.columns for rect in rects)
    if widest > MAX_ATLAS:
        return None
    best: tuple[int, int] | None = None
    for factor in (0, 0.7, 1.0, 1.4, 2.0):
        columns = min(MAX_ATLAS, max(widest, round(factor * area**0.5)))
        rows = stored.layout(rects, columns)[1]
        if columns <= MAX_ATLAS and rows <= MAX_ATLAS and columns * rows <= limit:
            best = min(best or (limit + 1, 0), (columns * rows, columns))
    return best[1] if best else None
