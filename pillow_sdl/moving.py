"""Encode and decode the symbols of further frames of an animation (SPEC 9.5).

    pixels of a frame -> Step: the differences from the frame before, as a latent -> `code` at a rate -> format.frames
    format.frames -> `with_changes`, `with_alpha` -> symbols and alpha of the frame

A position takes new symbols if one of its pixels has changed in the source, and keeps its symbols otherwise.  The
encoder's output would also change at neighboring positions.  Keeping the old symbols there costs at most 0.05 dB,
saves a tenth of the bytes, and more than halves the flicker around a moving object.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from . import progress, registry
from .errors import MalformedError, UnsupportedError
from .format import alpha as alpha_plane
from .format import frames as stored
from .format.frames import AlphaChange, Box, Change, Frame, Frames
from .latent import entropy, scalar, spaces
from .latent.rounding import MAX_SYMBOL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from .format.container import Header
    from .latent.base import Choices
    from .models.base import Autoencoder
    from .registry import Space

QUANTIZER: Final = "scalar"
"""The quantizer that frames are defined for."""

SHOWN: Final = 32
"""Pixels around a changed rectangle that are decoded anew (SPEC 9.5)."""

GAP: Final = 8
"""Two rectangles are kept apart if there are at least this many unchanged positions between them.

A rectangle costs about 12 bytes.
"""


# Symbols


def positions(header: Header) -> tuple[int, int]:
    """Return the numbers of columns and rows of latent positions of a picture."""
    _, height, width = spaces.shape(spaces.by_code(header.space), header.width, header.height)
    return width, height


def with_changes(frame: Frame, symbols: NDArray[np.int16], header: Header) -> NDArray[np.int16]:
    """Return the symbols of a frame, given those of the frame before it, int16 (C, h, w).

    Raises UnsupportedError (T-04) for a quantizer without frames, and MalformedError (T-02, T-03) or what
    `entropy.decode` raises for the frame's rectangles.
    """
    if header.quantizer != registry.load().quantizers[QUANTIZER]:
        msg = f"frames of an animation with quantizer {header.quantizer} are not supported"
        raise UnsupportedError(msg)
    if not frame.changes:
        return symbols
    space = spaces.by_code(header.space)
    logarithms = scalar.log2_steps(spaces.tables(space).log2_steps, header.rate)
    height, width = symbols.shape[1:]
    taken = np.zeros((height, width), bool)
    symbols = symbols.copy()
    for change in frame.changes:
        box = change.box
        place = (slice(None), *box.slices)
        if not box.is_within(width, height) or taken[box.slices].any():
            msg = f"a rectangle of a frame is empty, beyond the latent, or overlaps another one: {tuple(box)}"
            raise MalformedError(msg, section=stored.SECTION, rule="T-02")
        taken[box.slices] = True
        shape = len(symbols), box.height, box.width
        try:
            found = entropy.decode(change.payload, shape, header.payload, space.name, logarithms)
        except MalformedError as exc:
            raise _in_frames(exc) from exc
        if change.differences:
            sums = symbols[place].astype(np.int32) + found
            if np.abs(sums).max() > MAX_SYMBOL:
                msg = f"a frame has a symbol beyond +-{MAX_SYMBOL}"
                raise MalformedError(msg, section=stored.SECTION, rule="T-03")
            found = sums.astype(np.int16)
        symbols[place] = found
    return symbols


def with_alpha(frame: Frame, plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the alpha plane of a frame, given that of the frame before it, uint8 (H, W).

    Raises MalformedError, UnsupportedError or LimitError, as `format.alpha.decode` does.
    """
    if frame.alpha is None:
        return plane
    box, data = frame.alpha
    plane = plane.copy()
    try:
        plane[box.slices] = alpha_plane.decode(data, box.width, box.height)
    except MalformedError as exc:
        raise _in_frames(exc) from exc
    return plane


def _in_frames(exc: MalformedError) -> MalformedError:
    """Return an error of the form of section L or A as one of section m."""
    return MalformedError(f"in a further frame: {exc}", section=stored.SECTION, rule=exc.rule)


def shown(frame: Frame, header: Header) -> list[Box]:
    """Return the rectangles of latent positions that a frame decodes anew: its own, grown by `SHOWN` pixels."""
    margin = -(-SHOWN // spaces.by_code(header.space).factor)
    return [change.box.grown(margin, *positions(header)) for change in frame.changes]


def around(boxes: Iterable[Box]) -> Box:
    """Return the smallest rectangle that holds all given rectangles.   boxes: at least one."""
    lefts, tops, widths, heights = zip(*boxes, strict=True)
    left, top = min(lefts), min(tops)
    right = max(start + length for start, length in zip(lefts, widths, strict=True))
    bottom = max(start + length for start, length in zip(tops, heights, strict=True))
    return Box(left, top, right - left, bottom - top)


# Encoding


class Picture(NamedTuple):
    """A source picture.   pixels: uint8 (H, W, 3).   alpha: uint8 (H, W), None for modes without alpha."""

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.uint8] | None


class Source(NamedTuple):
    """The input of an animation besides frame 0.

    plays: see `format.frames.Frames`.   durations: of frame 0 and of each further frame, in milliseconds.
    pictures: yields the further frames.  They have the size of frame 0, and have alpha if frame 0 has it.
    """

    plays: int
    durations: Sequence[int]
    pictures: Callable[[], Iterable[Picture]]


class Piece(NamedTuple):
    """A part of a frame's latent that changes.

    latent: float32 (C, box.height, box.width).   fresh: the positions that take new symbols, bool of that size.
    """

    box: Box
    latent: NDArray[np.float32]
    fresh: NDArray[np.bool_]


class Step(NamedTuple):
    """The changes of a frame against the frame before it, before quantization."""

    pieces: tuple[Piece, ...]
    alpha: AlphaChange | None


def steps(network: Autoencoder, space: Space, first: Picture, pictures: Iterable[Picture], count: int) -> list[Step]:
    """Return the changes of each further frame.

    first: frame 0.   count: number of further frames.
    A pixel that is fully transparent does not count as changed and keeps the color that it has.
    """
    known, alpha = first
    found = []
    further = iter(pictures)
    for index in range(count):
        with progress.part(index / count, (index + 0.5) / count):
            pixels, plane = next(further)
        current = pixels if plane is None else np.where(plane[:, :, None] > 0, pixels, known)
        changed = _changed_positions(known, current, space.factor)
        with progress.part((index + 0.5) / count, (index + 1) / count):
            pieces = _pieces(network, current, changed) if changed.any() else ()
            progress.report(1, 1)
        new_alpha = None if plane is None or alpha is None else _alpha_change(alpha, plane)
        found.append(Step(pieces, new_alpha))
        known, alpha = current, plane
    return found


def _changed_positions(known: NDArray[np.uint8], current: NDArray[np.uint8], factor: int) -> NDArray[np.bool_]:
    """Return the latent positions whose pixels differ, bool (h, w)."""
    differs = (known != current).any(2)
    height, width = differs.shape
    padded = np.pad(differs, ((0, -height % factor), (0, -width % factor)))
    cells = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor)
    found: NDArray[np.bool_] = np.logical_or.reduce(cells, (1, 3))
    return found


def _pieces(network: Autoencoder, pixels: NDArray[np.uint8], changed: NDArray[np.bool_]) -> tuple[Piece, ...]:
    """Return the parts of a frame's latent that change.   changed: positions whose pixels differ, at least one."""
    boxes = {area: cut(changed[area.slices]) for area in areas(changed, network.encoder_margin, exact=network.exact)}
    if sum(map(len, boxes.values())) > stored.MAX_CHANGES:
        whole = around(boxes)
        boxes = {whole: [Box(0, 0, whole.width, whole.height)]}
    found = []
    for index, (area, inside) in enumerate(boxes.items()):
        with progress.part(index / len(boxes), (index + 1) / len(boxes)):
            latent = network.encode_part(pixels, *area.slices)
        fresh = changed[area.slices]
        for box in inside:
            place = box._replace(left=area.left + box.left, top=area.top + box.top)
            # Copies, because a view would keep the whole array in memory.
            found.append(Piece(place, latent[:, *box.slices].copy(), fresh[box.slices].copy()))
    return tuple(sorted(found, key=lambda piece: (piece.box.top, piece.box.left)))


def areas(mask: NDArray[np.bool_], margin: int, *, exact: bool) -> list[Box]:
    """Return the rectangles that a network computes to get all true positions of a mask, at least one.

    margin: positions that the network computes around each rectangle.   exact: whether it computes no more than that.
    A network that is not exact computes the whole picture every time, so there is one rectangle.
    """
    return cut(mask, 2 * margin) if exact else [around(cut(mask))]


def cut(mask: NDArray[np.bool_], overhead: int = 0) -> list[Box]:
    """Return rectangles that hold all true positions of a mask and do not overlap, empty for none.

    A rectangle is cut in two between true positions if that leaves out at least `GAP` positions.
    overhead: number of rows or columns that each cut adds again.
    """
    found = []
    todo = [(0, 0, mask)]
    while todo:
        left, top, part = todo.pop()
        rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
        if not rows.size:
            continue
        top, left = top + int(rows[0]), left + int(columns[0])
        part = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        height, width = part.shape
        after_row, saved_by_row = _gap(rows, width, overhead)
        after_column, saved_by_column = _gap(columns, height, overhead)
        if max(saved_by_row, saved_by_column) < GAP:
            found.append(Box(left, top, width, height))
        elif saved_by_row >= saved_by_column:
            todo += [(left, top, part[:after_row]), (left, top + after_row, part[after_row:])]
        else:
            todo += [(left, top, part[:, :after_column]), (left + after_column, top, part[:, after_column:])]
    return sorted(found, key=lambda box: (box.top, box.left))


def _gap(used: NDArray[np.intp], across: int, overhead: int) -> tuple[int, int]:
    """Return where the widest gap between used rows or columns begins, from the first one, and what a cut saves there.

    across: positions of a row or column.   overhead: see `cut`.
    """
    if len(used) < 2:
        return 0, 0
    jumps = np.diff(used)
    widest = int(np.argmax(jumps))
    return int(used[widest] - used[0]) + 1, (int(jumps[widest]) - 1 - overhead) * across


def _alpha_change(known: NDArray[np.uint8], plane: NDArray[np.uint8]) -> AlphaChange | None:
    """Return the change from one alpha plane to another, None if they are equal."""
    differs = known != plane
    if not differs.any():
        return None
    rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
    box = Box(int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)
    return AlphaChange(box, alpha_plane.encode(np.ascontiguousarray(plane[box.slices])))


def code(
    source: Source, changes: Sequence[Step], symbols: NDArray[np.int16], space: Space, rate: int, choices: Choices
) -> bytes:
    """Return the data of section m.

    changes: of each further frame.   symbols: of frame 0, int16 (C, h, w).
    choices: its payload method is the one of the header.
    """
    further = []
    for duration, step in zip(source.durations[1:], changes, strict=True):
        pieces = [_code_piece(piece, symbols, space, rate, choices) for piece in step.pieces]
        coded = [(change, new) for change, new in pieces if change is not None]
        if coded:
            symbols = symbols.copy()
        for change, new in coded:
            symbols[:, *change.box.slices] = new
        further.append(Frame(duration, tuple(change for change, _ in coded), step.alpha))
    return stored.pack(Frames(source.plays, source.durations[0], tuple(further)))


def _code_piece(
    piece: Piece, symbols: NDArray[np.int16], space: Space, rate: int, choices: Choices
) -> tuple[Change | None, NDArray[np.int16]]:
    """Return the coded change, None if no symbol changes, and the new symbols of its rectangle."""
    known = symbols[:, *piece.box.slices]
    chosen = scalar.choose(piece.latent, space, rate, choices.tune)
    new = np.where(piece.fresh, chosen, known)
    if np.array_equal(new, known):
        return None, new

    def coded(values: NDArray[np.int16]) -> bytes:
        return scalar.code(values, space, rate, choices.payloads).latent

    best = Change(piece.box, differences=False, payload=coded(new))
    difference = new.astype(np.int32) - known
    if np.abs(difference).max() <= MAX_SYMBOL:
        payload = coded(difference.astype(np.int16))
        if len(payload) < len(best.payload):
            best = Change(piece.box, differences=True, payload=payload)
    return best, new
