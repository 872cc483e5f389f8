"""The summary of a fidelity map, which `Image.open` reads (SPEC 9.3).  Standard library only.

`latent.cells` codes the whole map.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ..errors import MalformedError

SECTION: Final = "f"

LEVELS: Final = 16
"""Number of levels: 4 bits."""

UNIT: Final = 16
"""The side of a cell is a multiple of this many pixels."""


class Summary(NamedTuple):
    """What a map says at its start.   side: of a cell, in pixels.   The others are levels 0..15.

    worst_error: error of the worst cell.   mean_error: error of the whole picture.
    worst_invented: invented structure of the worst cell.
    """

    side: int
    worst_error: int
    mean_error: int
    worst_invented: int


def bound(level: int) -> float:
    """Return the bound that a level 0..15 stands for, in levels of 0..255: 1.41 for 0, times 1.41 for each further one."""
    return 255.0 if level == LEVELS - 1 else 2 ** ((level + 1) / 2)


def pack(summary: Summary) -> bytes:
    """Return a summary as it stands in the section: 3 bytes."""
    return bytes([summary.side // UNIT, summary.worst_error << 4 | summary.mean_error, summary.worst_invented << 4])


def unpack(data: bytes) -> Summary:
    """Return the summary of a section's data.  Raises MalformedError (E-01) if it is too short or the side is 0."""
    if len(data) < 4 or not data[0]:
        msg = "the fidelity map does not begin with a cell size and a summary"
        raise MalformedError(msg, section=SECTION, rule="E-01")
    return Summary(UNIT * data[0], data[1] >> 4, data[1] & 15, data[2] >> 4)
