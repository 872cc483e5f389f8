"""latent/quantizers.py: what every quantizer keeps of `base.Quantizer`, and the sections that each refuses."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pillow_sdl import registry
from pillow_sdl.errors import MalformedError, SdlError, UnsupportedError
from pillow_sdl.latent import palette, quantizers, scalar, spaces
from pillow_sdl.latent.base import Choices, Coded, Quantized
from pillow_sdl.latent.quantizers import QUANTIZERS
from pillow_sdl.latent.rounding import MAX_SYMBOL, round_to_nearest
from pillow_sdl.options import EncodeOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

pytestmark = pytest.mark.plain

KNOWN = registry.load()
ZSTD, RANGE = KNOWN.payloads["zstd"], KNOWN.payloads["range"]
CHOICES = Choices(payloads=(ZSTD,))
SD1 = registry.space("sd1")
SIDES = 20, 18
"""Latent positions, more than a palette has entries."""

SHAPE = SD1.channels, *SIDES


def fits(name: str, space: registry.Space) -> bool:
    """Whether a quantizer takes latents of a space."""
    return name == "scalar" or space.channels == palette.CHANNELS


EACH = pytest.mark.parametrize("name", QUANTIZERS)
EACH_WITH_SPACE = pytest.mark.parametrize(
    ("name", "space"),
    [
        pytest.param(name, space, id=f"{name}-{space.name}")
        for name in QUANTIZERS
        for space in KNOWN.spaces
        if fits(name, space)
    ],
)


def latent_of(space: registry.Space, seed: int = 0) -> NDArray[np.float32]:
    """Return a latent float32 (C, *SIDES) of normal values."""
    return np.random.default_rng(seed).normal(size=(space.channels, *SIDES)).astype(np.float32)


def options_of(name: str, space: registry.Space) -> EncodeOptions:
    """Return the default options for a quantizer and a space."""
    model = next(model.name for model in KNOWN.models if model.space == space.name)
    return EncodeOptions(quantizer=name, model=model)


def levels_of(name: str, space: registry.Space) -> tuple[int, int, int]:
    """Return the lowest, a middle and the highest level of a quantizer."""
    count = QUANTIZERS[name].level_range(options_of(name, space))
    return 0, count // 2, count - 1


def round_trip(name: str, latent: NDArray[np.float32], space: registry.Space, level: int) -> Quantized:
    """Return what a quantizer reads from the sections that it has written."""
    quantizer = QUANTIZERS[name]
    coded = quantizer.encode(latent, space, level, CHOICES)
    channels, height, width = latent.shape
    return quantizer.decode(coded, space, (channels, height, width))


def chosen(name: str, latent: NDArray[np.float32], space: registry.Space, level: int) -> NDArray[np.int16]:
    """Return the symbols that a quantizer chooses, without the sections of a file."""
    if name == "palette":
        return palette.symbols(*palette.fit_indices(latent, level + 1, dither=True))
    return round_to_nearest(scalar.scale(latent, scalar.steps(spaces.tables(space).log2_steps, level)))


# Names and numbers


def test_every_quantizer_of_the_registry_has_an_implementation() -> None:
    """The names in `QUANTIZERS` are those of the registry, and `by_code` finds each by its number."""
    assert list(QUANTIZERS) == list(KNOWN.quantizers)
    for name, code in KNOWN.quantizers.items():
        assert quantizers.by_code(code) is QUANTIZERS[name]


def test_an_unknown_number_is_unsupported() -> None:
    """The message names the number that was found and the quantizers that this reader knows (H-07)."""
    unknown = max(KNOWN.quantizers.values()) + 1
    known = ".*".join(rf"{code} \({name}\)" for name, code in KNOWN.quantizers.items())
    with pytest.raises(UnsupportedError, match=f"quantizer {unknown} found.*{known}"):
        quantizers.by_code(unknown)


@EACH
def test_excluded_options_are_options_with_allowed_defaults(name: str) -> None:
    """Each is a field of `EncodeOptions`, and the default value is among those that are allowed."""
    defaults = {field.name: field.default for field in dataclasses.fields(EncodeOptions)}
    for option, allowed in QUANTIZERS[name].excluded_options.items():
        assert defaults[option] in allowed


# Round trip


@EACH_WITH_SPACE
def test_symbols_survive_their_sections(name: str, space: registry.Space) -> None:
    """At every level tried, the symbols that are read are exactly those that were chosen."""
    latent = latent_of(space)
    for level in levels_of(name, space):
        found = round_trip(name, latent, space, level)
        assert found.symbols.dtype == np.int16
        assert np.array_equal(found.symbols, chosen(name, latent, space, level))
        dequantized = found.dequantize()
        assert dequantized.dtype == np.float32
        assert dequantized.shape == latent.shape


@EACH_WITH_SPACE
def test_a_latent_that_was_quantized_once_keeps_its_symbols(name: str, space: registry.Space) -> None:
    """Encoding a decoded latent at the same level gives the same sections."""
    quantizer = QUANTIZERS[name]
    level = levels_of(name, space)[1]
    coded = quantizer.encode(latent_of(space), space, level, CHOICES)
    decoded = quantizer.decode(coded, space, (space.channels, *SIDES)).dequantize()
    assert quantizer.encode(decoded, space, level, CHOICES) == coded


@EACH_WITH_SPACE
def test_a_higher_level_gives_more_bytes_and_a_smaller_error(name: str, space: registry.Space) -> None:
    """The first level has the fewest bytes, the last level the best picture."""
    quantizer, latent = QUANTIZERS[name], latent_of(space)
    sizes, errors = [], []
    for level in levels_of(name, space):
        coded = quantizer.encode(latent, space, level, CHOICES)
        sizes.append(len(coded.latent) + len(coded.palette or b""))
        found = quantizer.decode(coded, space, (space.channels, *SIDES)).dequantize()
        errors.append(float(np.square(found - latent).mean()))
    assert sizes[0] < sizes[1] < sizes[2]
    assert errors[0] > errors[1] > errors[2]


@EACH_WITH_SPACE
def test_the_level_of_the_options_is_one_of_the_levels(name: str, space: registry.Space) -> None:
    """`level` is in the range that `level_range` states."""
    quantizer, options = QUANTIZERS[name], options_of(name, space)
    assert 0 <= quantizer.level(options) < quantizer.level_range(options)


@EACH
def test_a_file_has_the_level_as_its_rate_or_no_rate(name: str) -> None:
    """The header's rate is the level of the scalar quantizer.  A palette has none: the header says 0, networks None."""
    quantizer = QUANTIZERS[name]
    coded = quantizer.encode(latent_of(SD1), SD1, 77, CHOICES)
    found = quantizer.decode(coded, SD1, SHAPE)
    assert (coded.rate, found.rate) == ((77, 77) if name == "scalar" else (0, None))
    assert (coded.palette is None) == (name == "scalar")


@EACH
def test_the_stated_noise_is_of_the_size_of_the_error(name: str) -> None:
    """The deviation is within 15 % of the root mean square error of a large latent."""
    # A palette's noise was measured on latents of photos, which are smoother than independent values.
    coarse = np.random.default_rng(1).normal(size=(SD1.channels, 16, 16))
    fine = np.random.default_rng(2).normal(0, 0.3, (SD1.channels, 64, 64))
    latent = (np.kron(coarse, np.ones((4, 4))) + fine).astype(np.float32)
    found = round_trip(name, latent, SD1, 63)
    error = float(np.sqrt(np.square(found.dequantize() - latent).mean()))
    assert found.noise.deviation == pytest.approx(error, rel=0.15)
    assert found.noise.palette == (name == "palette")


@EACH
def test_the_smallest_of_the_allowed_payloads_is_written(name: str) -> None:
    """Of several payload methods the one with fewest bytes is taken, if the quantizer has a choice."""
    quantizer, latent = QUANTIZERS[name], latent_of(SD1)
    sizes = {
        payloads: len(quantizer.encode(latent, SD1, 63, Choices(payloads=payloads)).latent)
        for payloads in ((ZSTD,), (RANGE,), (ZSTD, RANGE))
    }
    both = quantizer.encode(latent, SD1, 63, Choices(payloads=(ZSTD, RANGE)))
    assert sizes[ZSTD, RANGE] == min(sizes.values())
    assert both.payload == (RANGE if sizes[RANGE,] < sizes[ZSTD,] else ZSTD)


@EACH
def test_only_the_scalar_quantizer_calls_refine(name: str) -> None:
    """It is given the scaled latent, the level and the steps, and its result is rounded."""
    calls: list[tuple[Any, ...]] = []

    def refine(scaled: NDArray[np.float32], level: int, step: NDArray[np.float32]) -> NDArray[np.float32]:
        calls.append((scaled, level, step))
        return np.full_like(scaled, 3)

    latent = latent_of(SD1)
    coded = QUANTIZERS[name].encode(latent, SD1, 63, CHOICES, refine)
    found = QUANTIZERS[name].decode(coded, SD1, SHAPE)
    if name == "palette":
        assert calls == []
        return
    ((scaled, level, step),) = calls
    assert level == 63
    assert np.array_equal(scaled, scalar.scale(latent, step))
    assert (found.symbols == 3).all()


# Checks


@pytest.mark.parametrize("space", KNOWN.spaces, ids=lambda space: space.name)
@EACH
def test_a_space_that_does_not_fit_is_unsupported(name: str, space: registry.Space) -> None:
    """The palette quantizer takes 4 channels only, and the error says what was found."""
    quantizer = QUANTIZERS[name]
    if fits(name, space):
        quantizer.check_space(space)
        return
    coded = Coded(0, ZSTD, b"", b"")
    refused = f"takes latents of 4 channels; those of the space {space.name} have {space.channels}"
    for action in (quantizer.check_space, lambda space: quantizer.decode(coded, space, (space.channels, 1, 1))):
        with pytest.raises(UnsupportedError, match=refused):
            action(space)


def test_the_scalar_quantizer_refuses_values_that_no_symbol_holds() -> None:
    """The message names the channel, the value and the limit, for a level and for any level."""
    quantizer, table = QUANTIZERS["scalar"], spaces.tables(SD1).log2_steps
    finest = np.exp2(table.min(axis=0) / spaces.STEP_UNIT)
    for level, steps in ((255, scalar.steps(table, 255)), (0, scalar.steps(table, 0)), (None, finest)):
        for sign in (1, -1):
            latent = np.zeros(SHAPE, np.float32)
            latent[2, 5, 5] = sign * 0.999 * MAX_SYMBOL * steps[2]
            quantizer.check_latent(latent, SD1, level)
            latent[2, 5, 5] = sign * 1.001 * MAX_SYMBOL * steps[2]
            with pytest.raises(ValueError, match="channel 2 of the latent has a value of magnitude"):
                quantizer.check_latent(latent, SD1, level)


def test_the_palette_quantizer_clips_large_values() -> None:
    """Values beyond the levels become the first or the last level."""
    latent = np.zeros(SHAPE, np.float32)
    latent[1, 0, 0], latent[2, 0, 0] = 1e9, -1e9
    QUANTIZERS["palette"].check_latent(latent, SD1, None)
    found = round_trip("palette", latent, SD1, 255).symbols
    assert (found[1, 0, 0], found[2, 0, 0]) == (255, 0)


# Wrong sections

ONE = np.zeros((1, 1), np.uint8)

BAD: list[tuple[str, str, Callable[[Coded], Coded], type[SdlError], str | None, str]] = [
    ("scalar", "a palette", lambda c: replace(c, palette=b"\0\0"), MalformedError, "P", "K-01"),
    ("scalar", "no frame", lambda c: replace(c, latent=b""), MalformedError, "L", "Z-01"),
    ("scalar", "a cut frame", lambda c: replace(c, latent=c.latent[:-1]), MalformedError, "L", "Z-03"),
    ("scalar", "no groups", lambda c: replace(c, payload=RANGE, latent=b""), MalformedError, "L", "R-01"),
    ("scalar", "an unknown payload", lambda c: replace(c, payload=99), UnsupportedError, None, "payload method 99"),
    ("palette", "no palette", lambda c: replace(c, palette=None), MalformedError, "P", "K-01"),
    ("palette", "an unknown flag", lambda c: with_byte(c, 0, 2), UnsupportedError, None, "palette flags 0x02"),
    ("palette", "another flag", lambda c: with_byte(c, 0, 0x81), UnsupportedError, None, "palette flags 0x81"),
    ("palette", "an empty palette", lambda c: replace(c, palette=b""), MalformedError, "P", "K-03"),
    ("palette", "flags only", lambda c: replace(c, palette=b"\1"), MalformedError, "P", "K-03"),
    ("palette", "a last byte of 0", lambda c: replace(c, palette=b"\0\0\1\0"), MalformedError, "P", "K-03"),
    ("palette", "a long number", lambda c: replace(c, palette=b"\0\0\1\1\1\1\1"), MalformedError, "P", "K-03"),
    ("palette", "a large number", lambda c: replace(c, palette=b"\0\1" + b"\xff" * 8), MalformedError, "P", "K-04"),
    ("palette", "too few indices", lambda c: replace(c, latent=palette.pack_indices(ONE)), MalformedError, "L", "K-05"),
    ("palette", "an index too large", lambda c: replace(c, palette=b"\0\0"), MalformedError, "L", "K-06"),
    ("palette", "a rate", lambda c: replace(c, rate=1), MalformedError, "header", "K-07"),
    ("palette", "payload range", lambda c: replace(c, payload=RANGE), UnsupportedError, None, "payload method 1 found"),
    ("palette", "an unknown payload", lambda c: replace(c, payload=99), UnsupportedError, None, "payload method 99"),
]
"""Quantizer, case, change to valid sections, class of the error, section, and the rule or a part of the message."""


def with_byte(coded: Coded, index: int, value: int) -> Coded:
    """Return sections with another byte in the palette."""
    assert coded.palette is not None
    return replace(coded, palette=coded.palette[:index] + bytes([value]) + coded.palette[index + 1 :])


@pytest.mark.parametrize(
    ("name", "change", "error", "section", "reason"),
    [pytest.param(name, *rest, id=f"{name}: {case}") for name, case, *rest in BAD],
)
def test_wrong_sections_are_refused_with_their_rules(
    name: str, change: Callable[[Coded], Coded], error: type[SdlError], section: str | None, reason: str
) -> None:
    """Malformed sections name their rule; what a newer reader may know is unsupported (H-07, K-02)."""
    coded = QUANTIZERS[name].encode(latent_of(SD1), SD1, 40, CHOICES)
    with pytest.raises(error) as caught:
        QUANTIZERS[name].decode(change(coded), SD1, SHAPE)
    assert type(caught.value) is error
    if isinstance(caught.value, MalformedError):
        assert (caught.value.section, caught.value.rule) == (section, reason)
    else:
        assert reason in str(caught.value)


@pytest.mark.parametrize("dither", [False, True])
def test_the_flags_of_a_palette_say_whether_it_was_dithered(dither: bool) -> None:
    """Bit 0 of the flags changes the stated noise and no symbol."""
    quantizer = QUANTIZERS["palette"]
    coded = quantizer.encode(latent_of(SD1), SD1, 40, Choices(payloads=(ZSTD,), dither=dither))
    assert coded.palette is not None
    assert coded.palette[0] == int(dither)
    found, other = (quantizer.decode(part, SD1, SHAPE) for part in (coded, with_byte(coded, 0, 1 - coded.palette[0])))
    assert np.array_equal(found.symbols, other.symbols)
    assert (found.noise.deviation > other.noise.deviation) == dither


def test_unknown_flags_are_reported_before_the_rest_of_the_section() -> None:
    """K-02 comes before K-03 and K-04, so that a newer palette is unsupported and not malformed (SPEC 8.8.2)."""
    for data in (b"\2", b"\2\0\0", b"\2\0" + b"\xff" * 9):
        with pytest.raises(UnsupportedError):
            palette.unpack(data)
