"""Latent spaces: what a latent's channels are, whichever network made it (SPEC 7.1, spec/registry.md).

A space is named apart from the models that read it, so that a file can be decoded by any of them.  Its tables lie
in `weights/`: the quantiser's steps, and the linear map that shows a picture without a network.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from ..errors import ModelMismatchError, ModelNotFoundError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

WEIGHTS: Final = Path(__file__).parent.parent / "weights"

RATES: Final = 256
"""Rate codes 0..255 of a file's header, from the fewest bytes to the most."""

STEP_UNIT: Final = 256
"""Steps stand in the tables as logarithms to base 2 times this, integers."""


@dataclass(frozen=True, slots=True)
class LatentSpace:
    """One row of the registry.

    code: its number in a header.   factor: pixels per latent position, each axis.   tables_sha256: of its tables' file.
    """

    code: int
    name: str
    channels: int
    factor: int
    tables_sha256: str

    def shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of the latent of an image of width x height pixels: padded up to whole positions (SPEC 8.1)."""
        return self.channels, -(-height // self.factor), -(-width // self.factor)

    @property
    def tables(self) -> Tables:
        """The space's tables, read once.  Takes numpy and a small file, no network.

        Raises ModelNotFoundError or ModelMismatchError if the file is missing or not the registry's.
        """
        return _tables(self)


@dataclass(frozen=True, slots=True)
class Tables:
    """log2_steps: int16 (knots, C), units of 1/256 octave.   preview: float32 (C + 1, 3 * 8 * 8), see `preview`."""

    log2_steps: NDArray[np.int16]
    preview: NDArray[np.float32]


def read_arrays(name: str, sha256: str) -> dict[str, NDArray[np.generic]]:
    """Arrays of a file that ships in `weights/`, which must be the registry's.

    Raises ModelNotFoundError or ModelMismatchError if the file is missing or another.
    """
    from safetensors.numpy import load

    path = WEIGHTS / f"{name}.safetensors"
    try:
        data = path.read_bytes()
    except FileNotFoundError as exc:
        msg = f"the tables {name} are missing: {path}; reinstall pillow-sdl"
        raise ModelNotFoundError(msg, model_id=name, searched=(str(path),)) from exc
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        msg = f"the tables in {path} have SHA-256 {found}; those of the registry have {sha256}"
        raise ModelMismatchError(msg, expected=sha256, found=found)
    arrays: dict[str, NDArray[np.generic]] = load(data)
    return arrays


@cache
def _tables(space: LatentSpace) -> Tables:
    arrays = read_arrays(f"{space.name}-tables", space.tables_sha256)
    return Tables(arrays["log2_steps"].astype(np.int16), arrays["preview"].astype(np.float32))


SPACES: Final = (
    LatentSpace(
        code=1,
        name="sd1",
        channels=4,
        factor=8,
        tables_sha256="9175347874b72999d30f70598e00beda0cd1606e27d6b92f335293bebb823145",
    ),
    LatentSpace(
        code=2,
        name="sdxl",
        channels=4,
        factor=8,
        tables_sha256="669edb19b8abdfd36af2ef044e847ef06a8c872e56e6533718b35446beeb515d",
    ),
    LatentSpace(
        code=3,
        name="sd3",
        channels=16,
        factor=8,
        tables_sha256="413905de3ede9613198b6ec2e2ddfe5d8e26513c5b97d280bf07e509b3ac7ef6",
    ),
    LatentSpace(
        code=4,
        name="flux1",
        channels=16,
        factor=8,
        tables_sha256="2a349feaa5449ba9900ec0fe309ab15eab89a2a5f8d9884e5f934f16b6d96bcb",
    ),
    LatentSpace(
        code=16,
        name="sdl1",
        channels=96,
        factor=16,
        tables_sha256="546f4265c45cd3899b516dd2f45055035a9139c208d5d503284a7d6eb9729d36",
    ),
    LatentSpace(
        code=17,
        name="sdl2",
        channels=96,
        factor=16,
        tables_sha256="ddf2eb676f7b77208b060b8064587e667f2756d1816778f2dc46eb22804cac99",
    ),
    LatentSpace(
        code=18,
        name="sdl3",
        channels=96,
        factor=16,
        tables_sha256="5268ee4441d119e6e94c4b2a9f5dc341ea037d688811b3a23e4d3de407eab3e3",
    ),
    LatentSpace(
        code=19,
        name="sdl4",
        channels=96,
        factor=16,
        tables_sha256="98f02e605d8873e0e288a2c61b6ae685bc2785f2a78b7669ffb4977dbdb0b284",
    ),
    LatentSpace(
        code=20,
        name="sdl5",
        channels=96,
        factor=16,
        tables_sha256="1e8d2a5cec54a69d44d8d018ea2e7fc688b1994222ba999ff44d0f9d3382725d",
    ),
)
"""In the order of spec/registry.md.  1 to 4: Stable Diffusion 1 and 2, SDXL, Stable Diffusion 3, FLUX.1; 16 to 20: ours."""


def by_code(code: int) -> LatentSpace:
    """The space with that number; UnsupportedError if this reader does not know it."""
    for space in SPACES:
        if space.code == code:
            return space
    msg = f"latent space {code} found; this reader knows {', '.join(f'{s.code} ({s.name})' for s in SPACES)}"
    raise UnsupportedError(msg)


def by_name(name: str) -> LatentSpace:
    """The space of that name, which a model card states.  KeyError if there is none."""
    return {space.name: space for space in SPACES}[name]
