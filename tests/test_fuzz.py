"""The target of the fuzzer, run on its corpus: refusals are documented errors, and all ways to read a file agree."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import types
from math import prod
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pillow_sdl import decode, registry
from pillow_sdl.errors import SdlError
from pillow_sdl.latent import spaces

from . import images
from .conftest import EXIF, MODEL, ROOT, SPACE, XMP
from .fuzz.target import ALLOWED, LARGEST, target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.plain

VECTORS = sorted((ROOT / "spec" / "vectors").glob("*.sdl"))

SEEDS: dict[str, Callable[[], bytes]] = {
    "one pixel": lambda: images.saved(Image.new("RGB", (1, 1), "red"), quality=0),
    "one position": lambda: images.saved(images.gradient(SPACE.factor, SPACE.factor), quality=100),
    "odd": lambda: images.saved(images.noise(35, 17), quality=100),
    "gray": lambda: images.saved(images.checker(20, 9)),
    "gray and alpha": lambda: images.saved(images.noise(9, 20, "LA")),
    "everything": lambda: images.saved(
        images.noise(7, 5, "RGBA"), quality=0, exif=EXIF, xmp=XMP, icc_profile=b"i" * 99
    ),
    "animation": lambda: images.saved(
        images.noise(20, 9, "RGBA"), save_all=True, append_images=[images.noise(20, 9, "RGBA", seed) for seed in (1, 1)]
    ),
    "large": lambda: images.with_header(images.saved(images.gradient(16, 16)), width=4000, height=4000),
    "huge": lambda: images.with_header(images.saved(images.gradient(16, 16)), width=65535, height=65535),
}


@pytest.fixture(scope="module")
def corpus() -> list[bytes]:
    """Return valid files, which tests damage."""
    return [make() for make in SEEDS.values()] + [path.read_bytes() for path in VECTORS]


def attempt(data: bytes) -> bool:
    """Return whether the target decodes the bytes.  Refusals give False, faults raise."""
    with contextlib.suppress(*ALLOWED):
        return target(data)
    return False


@pytest.mark.parametrize("name", SEEDS)
def test_a_seed_is_decoded(name: str) -> None:
    """Every seed reaches the decoder, except for pictures that are too large for the target."""
    if name == "huge":
        with pytest.raises(Image.DecompressionBombError):
            target(SEEDS[name]())
    else:
        assert target(SEEDS[name]()) == (name != "large")


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.name)
def test_a_vector_is_decoded_or_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file of the specification, as its JSON file says.

    Files that are too large for the target are not decoded, nor are those of a latent space without an installed model.
    """
    alone = dataclasses.replace(registry.load(), models=(MODEL,))
    monkeypatch.setattr(registry, "load", lambda: alone)
    data = path.read_bytes()
    expected = json.loads(path.with_suffix(".json").read_text("utf-8"))
    decodable = expected["expect"] == expected["verify"] == "success" and prod(expected["size"]) <= LARGEST
    if decodable:
        decodable = spaces.by_code(images.parsed(data).header.space) == SPACE
    assert attempt(data) == decodable


@given(data=st.data())
def test_damaged_files_are_refused(data: st.DataObject, corpus: list[bytes]) -> None:
    """A few bytes are changed, lost or added, and the checksums stay.  No such file is a picture."""
    sound = data.draw(st.sampled_from(corpus))
    start = data.draw(st.integers(0, len(sound)))
    stop = data.draw(st.integers(start, min(len(sound), start + 9)))
    damaged = sound[:start] + data.draw(st.binary(max_size=9)) + sound[stop:]
    assert damaged == sound or not attempt(damaged)


@given(data=st.data())
def test_damaged_files_with_fitting_checksums_are_read_or_refused(data: st.DataObject, corpus: list[bytes]) -> None:
    """The same with new checksums, so that the decoders of metadata, alpha and symbols read the damage."""
    sound = data.draw(st.sampled_from(corpus))
    try:
        pieces = images.pieces(sound)
    except (SdlError, SyntaxError):  # A vector that must be refused.
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
def test_random_bytes_are_refused(tail: bytes) -> None:
    """With the signature and without it."""
    assert not attempt(b"\x89SDL" + tail)
    assert not attempt(tail)


def test_a_disagreement_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target finds a file that verify accepts and load refuses."""
    monkeypatch.setattr(decode, "verify", lambda _: None)
    broken = images.with_section(SEEDS["one position"](), b"L", b"no frame")
    with pytest.raises(AssertionError, match="cannot be shown"):
        target(broken)


def test_pictures_that_are_too_large_are_not_decoded() -> None:
    """A header of a few bytes must not cost minutes."""
    side = int(LARGEST**0.5)
    small = images.saved(images.gradient(side, side))
    assert target(small)
    assert not target(images.with_header(small, width=side + 1))


def test_the_fuzzer_runs_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program passes the target to atheris and lets only faults through.  Atheris itself is not needed here."""
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
