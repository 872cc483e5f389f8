"""Symbols <-> payload bytes, by two methods.

Method 0, for the simplest readers: planes of symbols, packed at their narrowest width, in one zstd frame.  Method 1:
what the integer context model of the latent space foretells (`context`), coded by `rans`.

Content of the frame of method 0 (SPEC 8.3): a byte for each channel, the bits per symbol of its plane (0, 2, 4, 8 or 16); then
the planes, those of 2 bits first, then those of 4, 8 and 16, within a width in the order of the channels.  Grouping
planes of like spread is worth 7 to 11 % against int8 planes in channel order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from .. import zstdframe
from ..errors import MalformedError, UnsupportedError
from . import context, rans
from .quantize import MAX_SYMBOL

if TYPE_CHECKING:
    from numpy.typing import NDArray

ZSTD: Final = 0
RANGE: Final = 1
"""Numbers of the methods in a header."""

STATE_SHARE: Final = 600
"""Payload bytes for each state of the coder: a state costs 3 bytes, so they take .5 % at most."""

MANY: Final = 1 << 21
"""Symbols from which on several states are quicker than one."""

MAX_LANES: Final = 12
"""Largest value of the byte that gives the number of states."""

SYMBOLS_PER_BIT: Final = 1 << 15
"""More symbols than a bit can tell.  No value has a frequency above 2^16 - 4, as each distribution has 5 values or more."""

SECTION: Final = "L"
WIDTHS: Final = (0, 2, 4, 8, 16)
"""Bits per symbol that a plane may have; 0: the plane is all zero and takes no bytes."""


def _width(plane: NDArray[np.int16]) -> int:
    """Fewest bits that hold every symbol of a plane as a two's complement number."""
    lowest, highest = int(plane.min()), int(plane.max())
    if lowest == highest == 0:
        return 0
    return next(bits for bits in WIDTHS[1:] if -(1 << bits - 1) <= lowest and highest < 1 << bits - 1)


def _pack(plane: NDArray[np.int16], bits: int) -> bytes:
    """A plane's bytes: symbols in rows, the first in the lowest bits; 16 bits: all low bytes, then all high ones."""
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
    """The symbols of a plane's bytes, int16 (count,); MalformedError (P-04) if the bits left over are not zero."""
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


def _encode_zstd(symbols: NDArray[np.int16]) -> bytes:
    widths = [_width(plane) for plane in symbols]
    groups = [
        b"".join(_pack(plane, bits) for plane, found in zip(symbols, widths, strict=True) if found == bits)
        for bits in WIDTHS[1:]
    ]
    return zstdframe.compress(bytes(widths), *groups)


def _decode_zstd(payload: bytes, shape: tuple[int, int, int]) -> NDArray[np.int16]:
    channels, count = shape[0], shape[1] * shape[2]
    content = zstdframe.decompress(payload, limit=channels * (1 + 2 * count), section=SECTION)
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


def _states(lanes: int) -> int:
    """Number of the coder's states for the byte in the payload."""
    return rans.LANES << lanes - 1 if lanes else 1


def _encode_range(symbols: NDArray[np.int16], space: str, log2_steps: NDArray[np.int64]) -> bytes:
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
    del walk  # It holds as much as the picture.
    wanted = min(coder.bits() / 8 / STATE_SHARE, coded / (1 << 15)) if coded >= MANY else 0
    lanes = max(lanes for lanes in range(MAX_LANES + 1) if lanes == 0 or _states(lanes) <= wanted)
    return bytes([groups, lanes]) + coder.finish(_states(lanes))


def _decode_range(
    payload: bytes, shape: tuple[int, int, int], space: str, log2_steps: NDArray[np.int64]
) -> NDArray[np.int16]:
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
        # Bound to come, and told before a few bytes make room for the largest picture.
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


def encode(symbols: NDArray[np.int16], method: int, space: str, log2_steps: NDArray[np.int64]) -> bytes:
    """Payload of symbols int16 (C, h, w), all sides at least 1.

    space: name of the latent space.   log2_steps: int64 (C,), as `quantize.log2_steps` gives them.
    Raises ValueError for an unknown method, and for a symbol of -32768 in method 1; UnsupportedError for method 1 in a
    space without a context model.
    """
    if method == ZSTD:
        return _encode_zstd(symbols)
    if method == RANGE:
        return _encode_range(symbols, space, log2_steps)
    msg = f"payload method must be {ZSTD} (zstd) or {RANGE} (range), not {method}"
    raise ValueError(msg)


def decode(
    payload: bytes, shape: tuple[int, int, int], method: int, space: str, log2_steps: NDArray[np.int64]
) -> NDArray[np.int16]:
    """Symbols int16 of that shape (C, h, w): exactly those that were encoded.

    Raises UnsupportedError for an unknown method, LimitError if a zstd frame is larger than the shape allows,
    MalformedError (Z-01 to Z-03 for the frame, P-01 to P-04 for its content, R-01 to R-06 for method 1).
    """
    if method == ZSTD:
        return _decode_zstd(payload, shape)
    if method == RANGE:
        return _decode_range(payload, shape, space, log2_steps)
    msg = f"payload method {method} found; this reader knows {ZSTD} (zstd) and {RANGE} (range)"
    raise UnsupportedError(msg)
