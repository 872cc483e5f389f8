"""Protocols of the networks.  Imports no inference runtime.

All of them report to `progress` after each tile that they compute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..latent.noise import Noise


class Autoencoder(Protocol):
    """A network that turns pixels into latents and latents into pixels.

    hash: first 16 bytes of the hash of its decoder, hexadecimal (SPEC 7.2).
    encoder_margin, decoder_margin, exact: see `tiled.TiledAutoencoder`.
    """

    hash: str
    encoder_margin: int
    decoder_margin: int
    exact: bool

    def encode(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Encode pixels uint8 (H, W, 3) to a latent float32 (C, h, w)."""

    def decode(self, latent: NDArray[np.float32], rate: int | None) -> NDArray[np.uint8]:
        """Decode a latent float32 (C, h, w) to pixels uint8 (factor * h, factor * w, 3).

        rate: rate code 0..255, None if the latent's quantizer has none.  Most networks do not use it.
        """

    def encode_part(self, pixels: NDArray[np.uint8], rows: slice, columns: slice) -> NDArray[np.float32]:
        """Encode pixels uint8 (H, W, 3) and return some rows and columns of the latent, float32 (C, h', w')."""

    def decode_part(
        self, latent: NDArray[np.float32], rate: int | None, rows: slice, columns: slice
    ) -> NDArray[np.uint8]:
        """Decode a latent float32 (C, h, w) and return the pixels of some rows and columns of its positions."""


@runtime_checkable
class DifferentiableAutoencoder(Autoencoder, Protocol):
    """An autoencoder that can also say how its picture changes with the latent."""

    def squared_error(
        self, latent: NDArray[np.float32], rate: int, pixels: NDArray[np.uint8]
    ) -> tuple[float, NDArray[np.float32]]:
        """Return the squared error of the decoded picture, summed, and its gradient by the latent.

        pixels: uint8 (H, W, 3), as they were given to `encode`.  Errors are those of samples in 0..1.
        """

    def curvature(self, latent: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
        """Estimate the second derivative of the squared error by a value of each channel: float32 (C,)."""


class Denoiser(Protocol):
    """A network that removes what a quantizer did to a latent.   name: what `image.info` says of it."""

    name: str

    def denoise(self, latent: NDArray[np.float32], noise: Noise, steps: int) -> NDArray[np.float32]:
        """Return a latent float32 (C, h, w) without the quantizer's error, in the same shape.  Deterministic.

        steps: calls of the network, 1 or more, for denoisers that have a choice.
        """
