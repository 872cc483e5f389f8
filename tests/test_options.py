"""Options of encoding: defaults, what is refused, and what the levels of quality and effort mean."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from pillow_sdl import options, registry
from pillow_sdl.format import container, metadata
from pillow_sdl.options import EncodeOptions

pytestmark = pytest.mark.plain


def test_the_defaults_are_the_embedded_model_at_quality_50() -> None:
    """Quality 50 is the middle of the rate codes."""
    found = EncodeOptions()
    assert found.model == registry.EMBEDDED
    assert found.space == registry.space(registry.EMBEDDED)
    assert found.rate == EncodeOptions(quality=50).rate == 128
    assert found.effort == EncodeOptions(effort=5).effort
    assert found.refinements == 0


def test_qualities_are_spread_over_all_rate_codes() -> None:
    """Quality 0 is rate code 0, quality 100 is 255, and every step of quality is another rate code."""
    rates = [EncodeOptions(quality=quality).rate for quality in range(101)]
    assert (rates[0], rates[-1]) == (0, 255)
    assert len(set(rates)) == 101
    assert rates == sorted(rates)


def test_more_effort_never_means_fewer_refinements() -> None:
    """Efforts up to 5 need no gradient."""
    found = [EncodeOptions(effort=effort).refinements for effort in range(options.MAX_EFFORT + 1)]
    assert found == sorted(found)
    assert not any(found[:6])
    assert all(found[6:])


def test_payloads_follow_effort_and_option() -> None:
    """Effort 0 writes zstd only, more effort tries every method, and an option names one."""
    numbers = registry.load().payloads
    assert EncodeOptions().choices.payloads == tuple(numbers.values())
    assert EncodeOptions(effort=0).choices.payloads == (numbers["zstd"],)
    for name, number in numbers.items():
        assert EncodeOptions(payload=name).choices.payloads == (number,)


@pytest.mark.parametrize(
    "wrong",
    [
        {"quality": 50, "target_bytes": 1000},
        {"quality": -1},
        {"quality": 101},
        {"quality": 50.5},
        {"quality": True},
        {"target_bytes": 0},
        {"target_bytes": -5},
        {"target_bytes": 1e3},
        {"target_bytes": True},
        {"target_bytes": 2**40 + 1},
        {"effort": 10},
        {"effort": -1},
        {"effort": "fast"},
        {"payload": "huffman"},
        {"tune": "ssim"},
        {"quantizer": "vector"},
        {"model": "sd9"},
        {"palette_size": 0},
        {"palette_size": 257},
        {"dither": 1},
        {"exif": "text"},
        {"xmp": None},
        {"icc_profile": bytearray(4)},
        {"xmp": bytes(metadata.MAX_LENGTH + 1)},
    ],
    ids=lambda wrong: " ".join(f"{name}={str(value)[:20]}" for name, value in wrong.items()),
)
def test_a_wrong_option_is_refused_by_its_name(wrong: dict[str, object]) -> None:
    """The message names the option."""
    with pytest.raises(ValueError, match="|".join(wrong)):
        EncodeOptions(**wrong)  # type: ignore[arg-type]


def test_integers_of_numpy_are_accepted() -> None:
    """Wherever a whole number is wanted."""
    found = EncodeOptions(quality=np.int64(70), effort=np.uint8(3))  # type: ignore[arg-type]
    assert found.rate == EncodeOptions(quality=70).rate
    assert EncodeOptions(dither=np.bool_(False)).choices.dither is False  # type: ignore[arg-type]


def test_metadata_of_the_largest_size_is_accepted() -> None:
    """16 MiB each."""
    largest = bytes(metadata.MAX_LENGTH)
    assert EncodeOptions(exif=largest, xmp=largest, icc_profile=largest).exif is largest


def test_options_of_save_are_all_options_but_metadata() -> None:
    """`save` takes metadata in more forms and converts it."""
    names = {field.name for field in dataclasses.fields(EncodeOptions)}
    assert set(options.SAVE_OPTIONS) == names - set(container.METADATA.values())
    assert len(set(options.SAVE_OPTIONS)) == len(options.SAVE_OPTIONS)
