"""The tables of latent spaces: the quantizer's steps, and the linear map of the preview (SPEC 7.1, 8.2, 8.5).

A space is named apart from the models that decode it, so that any of them can decode a file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

from .. import registry
from ..errors import ModelMismatchError, ModelNotFoundError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATES: Final = 256
"""Number of rate codes in a header: 0 is the fewest bytes, 255 the most."""

STEP_UNIT: Final = 256
"""Step sizes are stored as integers: their logarithms to base 2, times this."""


@dataclass(frozen=True, slots=True)
class Tables:
    """log2_steps: int16 (knots, C), units of 1/256 octave.   preview: float32 (C + 1, 3 * 8 * 8), see `preview`."""

    log2_steps: NDArray[np.int16]
    preview: NDArray[np.float32]


def shape(space: registry.Space, width: int, height: int) -> tuple[int, int, int]:
    """Return the shape (C, h, w) of the latent of an image of width x height pixels (SPEC 8.1)."""
    return space.channels, -(-height // space.factor), -(-width // space.factor)


def by_code(code: int) -> registry.Space:
    """Return the space with a number of a header.  Raises UnsupportedError for an unknown number."""
    known = registry.load().spaces
    for space in known:
        if space.code == code:
            return space
    names = ", ".join(f"{space.code} ({space.name})" for space in known)
    msg = f"latent space {code} found; this reader knows {names}"
    raise UnsupportedError(msg)


@cache
def tables(space: registry.Space) -> Tables:
    """Return the tables of a space, read once.  Raises ModelNotFoundError, ModelMismatchError as `read_arrays`."""
    arrays = read_arrays(space.tables)
    return Tables(arrays["log2_steps"].astype(np.int16), arrays["preview"].astype(np.float32))


def read_arrays(stored: registry.StoredFile) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a file in the weights folder.

    Raises ModelNotFoundError if it is missing, ModelMismatchError if its SHA-256 is not the registry's.
    """
    from safetensors.numpy import load

    try:
        data = stored.path.read_bytes()
    except FileNotFoundError as exc:
        msg = f"the file {stored.path} is missing; reinstall pillow-sdl"
        raise ModelNotFoundError(msg, model_id=stored.file, searched=(str(stored.path),)) from exc
    found = hashlib.sha256(data).hexdigest()
    if found != stored.sha256:
        msg = f"the file {stored.path} has SHA-256 {found}; the registry names {stored.sha256}"
        raise ModelMismatchError(msg, expected=stored.sha256, found=found)
    arrays: dict[str, NDArray[np.generic]] = load(data)
    return arrays
