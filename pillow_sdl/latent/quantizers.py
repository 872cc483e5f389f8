"""The quantizers by name and by number."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from .. import registry
from ..errors import UnsupportedError
from .palette import PaletteQuantizer
from .scalar import ScalarQuantizer

if TYPE_CHECKING:
    from .base import Quantizer

QUANTIZERS: Final[dict[str, Quantizer]] = {"scalar": ScalarQuantizer(), "palette": PaletteQuantizer()}
"""By the names of `save(quantizer=...)`.  The registry gives the numbers."""


@cache
def by_code(code: int) -> Quantizer:
    """Return the quantizer with a number of a header.  Raises UnsupportedError for an unknown number."""
    numbers = registry.load().quantizers
    for name, number in numbers.items():
        if number == code:
            return QUANTIZERS[name]
    known = ", ".join(f"{number} ({name})" for name, number in numbers.items())
    msg = f"quantizer {code} found; this reader knows {known}"
    raise UnsupportedError(msg)
