"""Entropy coding: symbols to payload bytes and back, by one of two methods.

The method "zstd" is the simplest one for other readers: planes of symbols, packed at their narrowest width, in one
zstd frame (SPEC 8.3).  The frame holds a byte for each channel, the bits per symbol of its plane (0, 2, 4, 8 or 16).
Then come the planes: those of 2 bits first, then those of 4, 8 and 16 bits, each in the order of the channels.
Grouping planes of similar spread saves 7 to 11 % of the bytes against int8 planes in channel order.

The method "range" codes each symbol with the probabilities that the integer context model of the latent space predicts
(`context`), by asymmetric numeral systems (`rans`, SPEC 8.6).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from .. import registry
from ..errors import MalformedError
from ..format import zstd
from . import base, context, rans
from .rounding import MAX_SYMBOL

if TYPE_CHECKING:
    from numpy.typing import NDArray

STATE_SHARE: Final = 600
"""Payload bytes for each state of the coder.  A state costs 3 bytes, so all states take at most 0.5 %."""

MANY: Final = 1 << 21
"""Number of symbols from which on several states are faster than one."""

MAX_LANES: Final = 12
"""Largest value of the byte that gives the number of states."""

SYMBOLS_PER_BIT: Final = 1 << 15
"""More symbols than one bit can code: each distribution has at least 5 values, so no frequency is above 2^16 - 4."""

SECTION: Final = "L"
WIDTHS: Final = (0, 2, 4, 8, 16)
"""Bits per symbol that a plane may have.  A plane with 0 bits is all zero and takes no bytes."""


def _width(plane: NDArray[np.int16]) -> int:
    """The fewest bits that hold every symbol of a plane as a two's complement number."""
    lowest, highest = int(plane.min()), int(plane.max())
    if lowest == highest == 0:
        return 0
    return next(bits for bits in WIDTHS[1:] if -(1 << bits - 1) <= lowest and highest < 1 << bits - 1)


def _pack(plane: NDArray[np.int16], bits: int) -> bytes:
    """Pack a plane in rows, the first symbol in the lowest bits.  16 bits: all low bytes, then all high bytes."""
    flat = plane.ravel()
    if bits == 16:
        return flat.astype("<i2").view(np.uint8).reshape(-1, 2).T.tobytes()
    per_byte = 8 // bits
    flat = np.pad(flat, (0, -flat.size % per_byte)) & ((1 << bits) - 1)
    shifts = bits * np.arange(per_byte)
    packed: NDArray[np.uint8] = (flat.reshape(-1, per_byte) << shifts).sum(1).astype(np.uint8)
    return packed.tobytes()


def _packed_size(count: int, bits: int) -> int:
    return -(-count * bits // 8)


def _unpack(data: bytes, bits: int, count: int) -> NDArray[np.int16]:
    """Unpack a plane: int16 (count,).  Raises MalformedError (P-04) if the bits left over at the end are not zero."""
    values = np.frombuffer(data, np.uint8)
    if bits == 16:
        return values.reshape(2, -1).T.copy().view("<i2").ravel().astype(np.int16)
    shifts = (bits * np.arange(8 // bits)).astype(np.uint8)
    symbols = ((values[:, None] >> shifts) & ((1 << bits) - 1)).ravel().astype(np.int16)
    if symbols[count:].any():
        msg = "bits left over at the end of a plane are not zero"
        raise MalformedError(msg, section=SECTION, rule="P-04")
    sign = 1 << bits - 1
    result: NDArray[np.int16] = (symbols[:count] ^ sign) - sign
    return result


def _states(lanes: int) -> int:
    """Number of the coder's states for the payload's byte `lanes`."""
    return rans.LANES << lanes - 1 if lanes else 1


class Method(Protocol):
    """A payload method."""

    def encode(self, symbols: NDArray[np.int16], space: str, log2_steps: NDArray[np.int64]) -> bytes:
        """Return the payload of symbols int16 (C, h, w), see `encode`."""

    def decode(
        self, payload: bytes, shape: tuple[int, int, int], space: str, log2_steps: NDArray[np.int64]
    ) -> NDArray[np.int16]:
        """Return symbols int16 of a shape (C, h, w), see `decode`."""


class ZstdMethod:
    """Packed planes in a zstd frame (SPEC 8.3).  Implements `Method`."""

    def encode(self, symbols: NDArray[np.int16], space: str, log2_steps: NDArray[np.int64]) -> bytes:
        """Return the payload of symbols int16 (C, h, w)."""
        widths = [_width(plane) for plane in symbols]
        groups = [
            b"".join(_pack(plane, bits) for plane, found in zip(symbols, widths, strict=True) if found == bits)
            for bits in WIDTHS[1:]
        ]
        return zstd.compress(bytes(widths), *groups)

    def decode(
        self, payload: bytes, shape: tuple[int, int, int], space: str, log2_steps: NDArray[np.int64]
    ) -> NDArray[np.int16]:
        """Return symbols int16 of a shape (C, h, w)."""
        channels, count = shape[0], shape[1] * shape[2]
        content = zstd.decompress(payload, limit=channels * (1 + 2 * count), section=SECTION)
        widths = content[:channels]
        if len(widths) < channels:
            msg = f"the payload ends within its list of {channels} widths"
            raise MalformedError(msg, section=SECTION, rule="P-01")
        if unknown := set(widths).difference(WIDTHS):
            msg = f"a plane of {min(unknown)} bits per symbol; 0, 2, 4, 8 and 16 are allowed"
            raise MalformedError(msg, section=SECTION, rule="P-02")
        expected = channels + sum(_packed_size(count, bits) for bits in widths)
        if len(content) != expected:
            msg = f"the payload holds {len(content)} bytes, its planes take {expected}"
            raise MalformedError(msg, section=SECTION, rule="P-03")
        symbols = np.zeros((channels, count), np.int16)
        position = channels
        for bits in WIDTHS[1:]:
            for channel in (index for index, found in enumerate(widths) if found == bits):
                end = position + _packed_size(count, bits)
                symbols[channel] = _unpack(content[position:end], bits, count)
                position = end
        return symbols.reshape(shape)


class RangeMethod:
    """Context model and asymmetric numeral systems (SPEC 8.6).  Implements `Method`."""

    def encode(self, symbols: NDArray[np.int16], space: str, log2_steps: NDArray[np.int64]) -> bytes:
        """Return the payload of symbols int16 (C, h, w).  Raises ValueError for a symbol of -32768."""
        model = context.model(space)
        if symbols.min() < -MAX_SYMBOL:
            msg = f"a symbol beyond +-{MAX_SYMBOL}, the largest that method 1 can hold"
            raise ValueError(msg)
        used = [index for index, group in enumerate(model.groups, 1) if symbols[group.channels].any()]
        groups = max(used, default=0)
        if not groups:
            return bytes(2)
        coder = rans.Encoder()
        walk = context.Walk(model, log2_steps, groups, *symbols.shape[1:])
        context.code(walk, context.distributions(), symbols, coder)
        coded = sum(len(group.channels) for group in walk.groups) * symbols[0].size
        del walk  # It takes as much memory as the picture.
        wanted = min(coder.bits() / 8 / STATE_SHARE, coded / (1 << 15)) if coded >= MANY else 0
        lanes = max(lanes for lanes in range(MAX_LANES + 1) if lanes == 0 or _states(lanes) <= wanted)
        return bytes([groups, lanes]) + coder.finish(_states(lanes))

    def decode(
        self, payload: bytes, shape: tuple[int, int, int], space: str, log2_steps: NDArray[np.int64]
    ) -> NDArray[np.int16]:
        """Return symbols int16 of a shape (C, h, w)."""
        model = context.model(space)
        if len(payload) < 2 or payload[0] > len(model.groups):
            msg = f"the payload does not begin with a number of groups of channels up to {len(model.groups)}"
            raise MalformedError(msg, section=SECTION, rule="R-01")
        groups, lanes = payload[:2]
        if lanes > (MAX_LANES if groups else 0):
            msg = f"{lanes} found where the number of the entropy coder's states should be"
            raise MalformedError(msg, section=SECTION, rule="R-02")
        coded = sum(len(group.channels) for group in model.groups[:groups]) * shape[1] * shape[2]
        if coded > SYMBOLS_PER_BIT * 8 * len(payload):
            # The payload must end early.  Refuse it before a few bytes claim memory for the largest picture.
            raise rans.exhausted()
        symbols = np.zeros(shape, np.int16)
        if groups:
            coder = rans.Decoder(payload[2:], _states(lanes))
            walk = context.Walk(model, log2_steps, groups, *shape[1:])
            context.decode(walk, context.distributions(), symbols, coder)
            coder.finish()
        elif len(payload) > 2:
            msg = "a payload without groups goes on after its two bytes"
            raise MalformedError(msg, section=SECTION, rule="R-05")
        return symbols


METHODS: Final[dict[str, Method]] = {"zstd": ZstdMethod(), "range": RangeMethod()}
"""By the names of `save(payload=...)`.  The registry gives the numbers."""


def _method(code: int) -> Method:
    return METHODS[base.name_of(registry.load().payloads, code, "payload method")]


def encode(symbols: NDArray[np.int16], method: int, space: str, log2_steps: NDArray[np.int64]) -> bytes:
    """Return the payload of symbols int16 (C, h, w), all sides at least 1.

    method: its number.   space: name of the latent space.   log2_steps: int64 (C,), see `scalar.log2_steps`.
    Raises UnsupportedError for an unknown method, ValueError for a symbol of -32768 in the method "range".
    """
    return _method(method).encode(symbols, space, log2_steps)


def decode(
    payload: bytes, shape: tuple[int, int, int], method: int, space: str, log2_steps: NDArray[np.int64]
) -> NDArray[np.int16]:
    """Return exactly the symbols that were encoded, int16 of that shape (C, h, w).

    Raises UnsupportedError for an unknown method, LimitError if a zstd frame is larger than the shape allows, and
    MalformedError (Z-01 to Z-03 for the frame, P-01 to P-04 for its content, R-01 to R-06 for the method "range").
    """
    return _method(method).decode(payload, shape, space, log2_steps)
