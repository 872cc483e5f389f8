"""The fuzzer's target over its corpus, in every run: refusals are documented errors, and the ways to read agree."""

from __future__ import annotations

import contextlib
import json
import sys
import types
from math import prod
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pillow_sdl.errors import SdlError
from pillow_sdl.latent import spaces
from pillow_sdl.models import cards

from . import images
from .conftest import EXIF, ROOT, XMP
from .fuzz.target import ALLOWED, LARGEST, target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VECTORS = sorted((ROOT / "spec" / "vectors").glob("*.sdl"))

SEEDS: dict[str, Callable[[], bytes]] = {
    "one pixel": lambda: images.saved(Image.new("RGB", (1, 1), "red"), quality=0),
    "one position": lambda: images.saved(images.gradient(16, 16), quality=100),
    "odd": lambda: images.saved(images.noise(35, 17), quality=100),
    "grey": lambda: images.saved(images.checker(20, 9)),
    "grey and alpha": lambda: images.saved(images.noise(9, 20, "LA")),
    "everything": lambda: images.saved(
        images.noise(7, 5, "RGBA"), quality=0, exif=EXIF, xmp=XMP, icc_profile=b"i" * 99
    ),
    "large": lambda: images.with_header(images.saved(images.gradient(16, 16)), width=4000, height=4000),
    "huge": lambda: images.with_header(images.saved(images.gradient(16, 16)), width=65535, height=65535),
}


@pytest.fixture(scope="module")
def corpus() -> list[bytes]:
    """Files that are sound, to be damaged."""
    return [make() for make in SEEDS.values()] + [path.read_bytes() for path in VECTORS]


def attempt(data: bytes) -> bool:
    """Whether the target decodes the bytes.  Refusals pass, faults do not."""
    with contextlib.suppress(*ALLOWED):
        return target(data)
    return False


@pytest.mark.parametrize("name", SEEDS)
def test_a_seed_is_decoded(name: str) -> None:
    """The corpus reaches the decoder: all but pictures that are too large for the target."""
    if name == "huge":
        with pytest.raises(Image.DecompressionBombError):
            target(SEEDS[name]())
    else:
        assert target(SEEDS[name]()) == (name != "large")


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.name)
def test_a_vector_is_decoded_or_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file of the specification, as the file beside it says.

    Those apart that are too large for the target, or of a latent space whose models do not ship.
    """
    embedded = cards.by_name("embedded")
    monkeypatch.setattr(cards, "CARDS", (embedded,))
    data = path.read_bytes()
    expected = json.loads(path.with_suffix(".json").read_text("utf-8"))
    decodable = expected["expect"] == "success" and prod(expected["size"]) <= LARGEST
    if decodable:
        decodable = spaces.by_code(images.parsed(data).header.space).name == embedded.space
    assert attempt(data) == decodable


@given(data=st.data())
def test_damaged_files_are_refused(data: st.DataObject, corpus: list[bytes]) -> None:
    """A few bytes changed, lost or added, without a care for checksums: no such file is a picture."""
    sound = data.draw(st.sampled_from(corpus))
    start = data.draw(st.integers(0, len(sound)))
    stop = data.draw(st.integers(start, min(len(sound), start + 9)))
    damaged = sound[:start] + data.draw(st.binary(max_size=9)) + sound[stop:]
    assert damaged == sound or not attempt(damaged)


@given(data=st.data())
def test_damaged_files_with_fitting_checksums_are_read_or_refused(data: st.DataObject, corpus: list[bytes]) -> None:
    """The same below the checksums, where the decoders of metadata, alpha and symbols are met."""
    sound = data.draw(st.sampled_from(corpus))
    try:
        pieces = images.pieces(sound)
    except (SdlError, SyntaxError):  # a vector that is meant to be refused
        assert not attempt(sound)
        return
    for _ in range(data.draw(st.integers(1, 3))):
        index = data.draw(st.integers(0, len(pieces) - 1))
        piece = pieces[index]
        start = data.draw(st.integers(0, len(piece)))
        stop = data.draw(st.integers(start, min(len(piece), start + 4)))
        pieces[index] = piece[:start] + data.draw(st.binary(max_size=4)) + piece[stop:]
    attempt(images.with_crcs(pieces))


@given(tail=st.binary(max_size=300))
def test_bytes_of_no_meaning_are_refused(tail: bytes) -> None:
    """With the signature and without."""
    assert not attempt(b"\x89SDL" + tail)
    assert not attempt(tail)


def test_a_disagreement_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target would notice a file that verify accepts and load refuses."""
    from pillow_sdl import codec

    monkeypatch.setattr(codec, "verify", lambda _: None)
    broken = images.with_section(SEEDS["one position"](), b"L", b"no frame")
    with pytest.raises(AssertionError, match="cannot be shown"):
        target(broken)


def test_pictures_that_are_too_large_are_not_decoded() -> None:
    """The target takes no minutes for a header that takes no bytes."""
    side = int(LARGEST**0.5)
    small = images.saved(images.gradient(side, side))
    assert target(small)
    assert not target(images.with_header(small, width=side + 1))


def test_the_fuzzer_runs_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """Atheris itself is not needed to see that its program hands over the target, and minds its exceptions."""
    handed: list[Callable[[bytes], None]] = []
    fake: Any = types.ModuleType("atheris")
    fake.instrument_imports = contextlib.nullcontext
    fake.Setup = lambda _, one_input: handed.append(one_input)
    fake.Fuzz = lambda: handed[0](b"no SDL file")
    monkeypatch.setitem(sys.modules, "atheris", fake)
    monkeypatch.delitem(sys.modules, "tests.fuzz.atheris_main", raising=False)
    from .fuzz import atheris_main

    atheris_main.main()
    monkeypatch.setattr(atheris_main, "target", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        handed[0](b"")
