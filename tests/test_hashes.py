"""models/hashes.py: the model hash, which depends on the values of a decoder's tensors alone (SPEC 7.2)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from pillow_sdl import registry
from pillow_sdl.models import hashes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[Any]]

pytestmark = pytest.mark.plain


def tensors() -> Tensors:
    """Return tensors of several dtypes and shapes, with names whose order as text is not that of their UTF-8 bytes."""
    random = np.random.default_rng(0)
    return {
        "b.weight": random.normal(size=(3, 4, 2)).astype(np.float32),
        "a.bias": random.normal(size=5).astype(np.float16),
        "B": np.array(3.5, np.float64),
        "\u00e9": np.arange(6, dtype=np.int32).reshape(2, 3),
        "\U0001f600": np.zeros((0, 2), np.int8),
        "\uff5e": np.ones(1, np.int16),
    }


def test_the_hash_of_the_example_is_that_of_the_specification() -> None:
    """The example of SPEC 7.2: one tensor of two values."""
    assert hashes.of_arrays({"w": np.array([1, -2], np.float32)}).hex() == "7a20c0bac56fc155b883b445525378c8"


def test_the_hash_is_that_of_the_listing() -> None:
    """The listing of SPEC 7.2, for names beyond ASCII, an empty tensor and a tensor without dimensions."""
    spelling = {"float16": "F16", "float32": "F32", "float64": "F64", "int8": "I8", "int16": "I16", "int32": "I32"}
    listing = b"".join(
        name.encode()
        + b"\0"
        + spelling[tensor.dtype.name].encode()
        + b"\0"
        + ",".join(str(side) for side in tensor.shape).encode()
        + b"\0"
        + tensor.tobytes()
        for name, tensor in sorted(tensors().items(), key=lambda item: item[0].encode())
    )
    assert hashes.of_arrays(tensors()) == hashlib.sha256(listing).digest()[:16]


@given(st.permutations(sorted(tensors())))
def test_the_order_of_the_tensors_does_not_matter(names: list[str]) -> None:
    """They are sorted before they are listed."""
    assert hashes.of_arrays({name: tensors()[name] for name in names}) == hashes.of_arrays(tensors())


def test_the_file_of_the_tensors_does_not_matter(tmp_path: Path) -> None:
    """The same weights in another order and with other metadata have the same hash, although the files differ."""
    save_file(tensors(), tmp_path / "one.safetensors")
    save_file(dict(reversed(tensors().items())), tmp_path / "two.safetensors", metadata={"made by": "another tool"})
    assert (tmp_path / "one.safetensors").read_bytes() != (tmp_path / "two.safetensors").read_bytes()
    for name in ("one.safetensors", "two.safetensors"):
        assert hashes.of_arrays(load_file(tmp_path / name)) == hashes.of_arrays(tensors())


def test_the_layout_in_memory_does_not_matter() -> None:
    """Column-major order, the other byte order and views give the same hash."""
    changed: Tensors = {name: np.array(tensor, order="F") for name, tensor in tensors().items()}
    changed["b.weight"] = tensors()["b.weight"].astype(">f4")[::-1][::-1]
    changed["a.bias"] = np.repeat(tensors()["a.bias"], 2)[::2]
    assert hashes.of_arrays(changed) == hashes.of_arrays(tensors())


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.update({"c.weight": found.pop("b.weight")}),
        lambda found: found.update({"b.weight": found["b.weight"].reshape(4, 3, 2)}),
        lambda found: found.update({"b.weight": found["b.weight"].astype(np.float64)}),
        lambda found: found.update({"b.weight": np.nextafter(found["b.weight"], np.float32(9))}),
        lambda found: found.update({"B": np.array([3.5], np.float64)}),
        lambda found: found.update({"\uff5e": np.array([257], "<i2")}),
        lambda found: found.pop("\U0001f600"),
    ],
    ids=["name", "shape", "dtype", "last bit", "dimensions", "high byte", "absence"],
)
def test_every_other_change_changes_the_hash(change: Callable[[Tensors], object]) -> None:
    """Names, shapes, dtypes and the last bit of a value count."""
    changed = tensors()
    change(changed)
    assert hashes.of_arrays(changed) != hashes.of_arrays(tensors())


def test_the_decoder_part_has_the_names_that_are_hashed() -> None:
    """`decoder.` is removed from a name, `post_quant_conv.` is kept, and other tensors are left out."""
    names = ("decoder.a", "decoder.decoder.b", "post_quant_conv.c", "encoder.decoder.d", "quant_conv.e", "decoders.f")
    found = hashes.decoder_part(dict(zip(names, range(6), strict=True)))
    assert found == {"a": 0, "decoder.b": 1, "post_quant_conv.c": 2}


@pytest.mark.parametrize(
    "model", [model for model in registry.load().models if model.weights], ids=lambda model: model.name
)
def test_the_shipped_weights_have_the_hash_of_the_registry(model: registry.Model) -> None:
    """Files name the decoder that is in the package."""
    assert model.weights is not None
    assert hashes.of_arrays(hashes.decoder_part(load_file(model.weights.path))).hex() == model.hash
