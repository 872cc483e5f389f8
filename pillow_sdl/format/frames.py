"""Further frames of an animation: when each is shown, and what changes in it (SPEC 9.5).  Standard library only.

A file's other sections are frame 0.  Section m lists the changes of each further frame against the frame before it:
rectangles of latent positions with their coded symbols, and a rectangle of the alpha plane.  This module reads and
writes the list.  `pillow_sdl.moving` codes the symbols.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from ..errors import MalformedError
from .container import MAX_VARINT, read_varint, write_varint

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTION: Final = "m"

MAX_PLAYS: Final = 65535
"""Largest number of plays; 0 stands for no end."""

MAX_FURTHER: Final = 65535
"""Largest number of further frames: an animation has at most 65536 frames."""

MAX_CHANGES: Final = 1024
"""Largest number of rectangles of the latent that a frame changes."""

MAX_DURATION: Final = 2**24 - 1
"""Longest duration of a frame in milliseconds, about 4.6 hours."""


class Box(NamedTuple):
    """A rectangle, in latent positions or in pixels.   left, top: its first column and row."""

    left: int
    top: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def is_within(self, width: int, height: int) -> bool:
        """Whether the rectangle is not empty and lies in an area of that size."""
        return bool(self.width and self.height) and self.left + self.width <= width and self.top + self.height <= height

    def grown(self, by: int, width: int, height: int) -> Box:
        """Return the rectangle with a margin on each side, limited to an area of that size."""
        left, top = max(0, self.left - by), max(0, self.top - by)
        right, bottom = min(width, self.left + self.width + by), min(height, self.top + self.height + by)
        return Box(left, top, right - left, bottom - top)


class Change(NamedTuple):
    """New symbols in a rectangle of latent positions.

    differences: whether the payload holds differences to the symbols of the frame before, not the symbols themselves.
    payload: symbols in the form of section L.
    """

    box: Box
    differences: bool
    payload: bytes


class AlphaChange(NamedTuple):
    """New alpha values in a rectangle of pixels.   data: as in section A."""

    box: Box
    data: bytes


class Frame(NamedTuple):
    """A further frame.   duration: how long it is shown, in milliseconds.   alpha: None if alpha does not change."""

    duration: int
    changes: tuple[Change, ...] = ()
    alpha: AlphaChange | None = None


class Frames(NamedTuple):
    """The content of section m.

    plays: how often the animation is shown, 0..65535; 0 stands for no end.
    duration: how long frame 0 is shown, in milliseconds.   further: the frames after it, at least one.
    """

    plays: int
    duration: int
    further: tuple[Frame, ...]

    @property
    def durations(self) -> tuple[int, ...]:
        """Durations of all frames, frame 0 included, in milliseconds."""
        return self.duration, *(frame.duration for frame in self.further)


def pack(frames: Frames) -> bytes:
    """Return the data of section m."""
    out = [*map(write_varint, (frames.plays, len(frames.further), frames.duration))]
    for frame in frames.further:
        out += map(write_varint, (frame.duration, 2 * len(frame.changes) + (frame.alpha is not None)))
        for change in frame.changes:
            out += map(write_varint, (*change.box, 2 * len(change.payload) + change.differences))
            out.append(change.payload)
        if frame.alpha is not None:
            out += map(write_varint, (*frame.alpha.box, len(frame.alpha.data)))
            out.append(frame.alpha.data)
    return b"".join(out)


class Timing(NamedTuple):
    """When frames are shown.   plays, durations: see `Frames`."""

    plays: int
    durations: tuple[int, ...]


def unpack(data: bytes, width: int, height: int, *, has_alpha: bool) -> Frames:
    """Return the frames of a section.  Payloads and alpha values are not decoded.

    width, height: of the picture, in pixels.   has_alpha: whether its mode has alpha.
    Rectangles of the latent are not compared with its size, which depends on the latent space.
    Raises MalformedError (T-01, T-02, V-01, V-02) and LimitError (L-08).
    """
    plays, duration, further = _read(data, width, height, has_alpha=has_alpha)
    return Frames(plays, duration, tuple(further))


def timing(data: bytes, width: int, height: int, *, has_alpha: bool) -> Timing:
    """Return when the frames of a section are shown.  Checks what `unpack` checks, and keeps no rectangles."""
    plays, duration, further = _read(data, width, height, has_alpha=has_alpha)
    return Timing(plays, (duration, *(frame.duration for frame in further)))


def _read(data: bytes, width: int, height: int, *, has_alpha: bool) -> tuple[int, int, Iterator[Frame]]:
    """Return the number of plays, the duration of frame 0, and the further frames one after the other."""
    cursor = _Cursor(data)
    plays = cursor.varint("the number of plays", MAX_PLAYS)
    count = cursor.varint("the number of further frames", MAX_FURTHER)
    if not count:
        msg = "section m has no further frame"
        raise MalformedError(msg, section=SECTION, rule="T-01")
    duration = cursor.varint("a duration", MAX_DURATION)

    def further() -> Iterator[Frame]:
        for _ in range(count):
            yield cursor.frame(width, height, has_alpha=has_alpha)
        if cursor.at < len(data):
            msg = "bytes follow the last frame of section m"
            raise MalformedError(msg, section=SECTION, rule="T-01")

    return plays, duration, further()


class _Cursor:
    """A position in the data of section m.  Nothing that the data declare is allocated before it is there."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            msg = "section m ends within a frame"
            raise MalformedError(msg, section=SECTION, rule="T-01")
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self, what: str = "a number", limit: int = MAX_VARINT) -> int:
        """Read a varint, see `container.read_varint`."""
        return read_varint(lambda: self.take(1)[0], f"{what} in section m", limit, SECTION)

    def box(self) -> Box:
        return Box(self.varint(), self.varint(), self.varint(), self.varint())

    def change(self) -> Change:
        box, length = self.box(), self.varint()
        return Change(box, bool(length & 1), self.take(length >> 1))

    def frame(self, width: int, height: int, *, has_alpha: bool) -> Frame:
        duration = self.varint("a duration", MAX_DURATION)
        count = self.varint("the number of rectangles of a frame, doubled,", 2 * MAX_CHANGES + 1)
        changes = tuple(self.change() for _ in range(count >> 1))
        if not count & 1:
            return Frame(duration, changes)
        if not has_alpha:
            msg = "a frame changes alpha, but the picture has none"
            raise MalformedError(msg, section=SECTION, rule="T-01")
        box = self.box()
        if not box.is_within(width, height):
            msg = f"a rectangle of alpha is empty or beyond the picture: {tuple(box)}"
            raise MalformedError(msg, section=SECTION, rule="T-02")
        return Frame(duration, changes, AlphaChange(box, self.take(self.varint())))
