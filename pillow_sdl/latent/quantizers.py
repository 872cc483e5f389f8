"""The quantizers by name and by number."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from .. import registry
from . import base
from .palette import PaletteQuantizer
from .scalar import ScalarQuantizer

if TYPE_CHECKING:
    from .base import Quantizer

QUANTIZERS: Final[dict[str, Quantizer]] = {"scalar": ScalarQuantizer(), "palette": PaletteQuantizer()}
"""By the names of `save(quantizer=...)`.  The registry gives the numbers."""


@cache
def by_code(code: int) -> Quantizer:
    """Return the quantizer with a number of a header.  Raises UnsupportedError for an unknown number."""
    return QUANTIZERS[base.name_of(registry.load().quantizers, code, "quantizer")]
