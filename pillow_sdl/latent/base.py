"""What every quantizer takes and gives.  The implementations are `scalar` and `palette`; `quantizers` lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from ..errors import UnsupportedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..registry import Space
    from .noise import Noise

Refine: TypeAlias = "Callable[[NDArray[np.float32], int, NDArray[np.float32]], NDArray[np.float32]]"
"""Move a latent, in units of its steps, so that its symbols decode nearer to the picture.

Arguments: the scaled latent float32 (C, h, w), the rate code, and the steps float32 (C,).
"""


@dataclass(frozen=True, slots=True)
class Coded:
    """A quantized latent as it stands in a file.

    rate: the header's rate code.   payload: number of the payload method.   latent: data of section L.
    palette: data of section P, None if the quantizer has none.
    quantized: what `Quantizer.decode` would return, if the encoder knows it.
    """

    rate: int
    payload: int
    latent: bytes
    palette: bytes | None = None
    quantized: Quantized | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A quantized latent.

    symbols: int16 (C, h, w), bit-exact on every machine.
    rate: rate code 0..255 that networks are told, None if the quantizer has no rate.
    noise: what the quantizer did to the latent, for a denoiser.
    dequantize: returns the latent, float32 (C, h, w).
    """

    symbols: NDArray[np.int16]
    rate: int | None
    noise: Noise
    dequantize: Callable[[], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Options of encoding that quantizers know.   See `options.EncodeOptions` for what they mean.

    payloads: numbers of the payload methods to try.   tune: squared steps that one bit is worth.
    """

    payloads: tuple[int, ...]
    tune: float = 0.0
    dither: bool = True


class Options(Protocol):
    """The options that choose a level, see `options.EncodeOptions`."""

    @property
    def rate(self) -> int:
        """Rate code of the quality, 0..255."""

    @property
    def palette_size(self) -> int:
        """Most entries of a palette, 1..256."""


class Quantizer(Protocol):
    """A way to turn latents into the sections of a file and back."""

    @property
    def excluded_options(self) -> dict[str, tuple[object, ...]]:
        """Options of encoding that the quantizer restricts, and the values that it allows."""

    def level_range(self, options: Options) -> int:
        """Return the number of levels of quality to choose from: 0 gives the fewest bytes, the last the best picture."""

    def level(self, options: Options) -> int:
        """Return the level of quality that the options ask for, if they set no size in bytes."""

    def check_space(self, space: Space) -> None:
        """Raise UnsupportedError if the quantizer does not take latents of a space."""

    def check_latent(self, latent: NDArray[np.float32], space: Space, level: int | None) -> None:
        """Raise ValueError for a finite latent that cannot be held at a level, or at any of them if it is None."""

    def encode(
        self, latent: NDArray[np.float32], space: Space, level: int, choices: Choices, refine: Refine | None = None
    ) -> Coded:
        """Quantize and code a finite latent, float32 (C, h, w), at a level of quality.

        refine: quantizers that can use it call it before they choose symbols.
        """

    def decode(self, coded: Coded, space: Space, shape: tuple[int, int, int]) -> Quantized:
        """Return the symbols of a file.   shape: (C, h, w) of the latent.

        Raises SdlError: MalformedError, LimitError or UnsupportedError for what the sections hold.
        """


def name_of(numbers: Mapping[str, int], code: int, what: str) -> str:
    """Return the name that a number of a header has in the registry's `quantizers` or `payloads`.

    what: is named in the message.   Raises UnsupportedError, which lists the numbers, for an unknown number.
    """
    for name, number in numbers.items():
        if number == code:
            return name
    known = ", ".join(f"{number} ({name})" for name, number in numbers.items())
    msg = f"{what} {code} found; this reader knows {known}"
    raise UnsupportedError(msg)
