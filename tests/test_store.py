"""Weights: named by what they hold, checked before they are used, and replaced by others of their latent space."""

from __future__ import annotations

import hashlib
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from pillow_sdl.errors import ModelError, ModelMismatchError, ModelNotFoundError, UnsupportedError
from pillow_sdl.models import cards, store

from . import images

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[Any]]

CARD = cards.by_name("embedded")
SHIPPED = store.WEIGHTS / CARD.file


def tensors() -> Tensors:
    """A few tensors of several types and shapes; names that sort otherwise as text than as bytes."""
    random = np.random.default_rng(0)
    return {
        "b.weight": random.normal(size=(3, 4, 2)).astype(np.float32),
        "a.bias": random.normal(size=5).astype(np.float16),
        "B": np.array(3.5, np.float64),
        "\u00e9": np.arange(6, dtype=np.int32).reshape(2, 3),
        "\U0001f600": np.zeros((0, 2), np.int8),
        "\uff5e": np.ones(1, np.int16),
    }


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_store: None) -> Path:
    """Where the shipped model's weights are looked for: an empty folder's file of that name."""
    monkeypatch.setattr(store, "WEIGHTS", tmp_path)
    return tmp_path / CARD.file


# Hash


def test_the_hash_of_the_specification() -> None:
    """The example of SPEC 7.2."""
    found = store.tensor_hash({"w": np.array([1, -2], np.float32)})
    assert found.hex() == "7a20c0bac56fc155b883b445525378c8"


def test_the_hash_is_that_of_the_listing() -> None:
    """SPEC 7.2 written out, for names beyond ASCII, an empty tensor and one without dimensions."""
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
    assert store.tensor_hash(tensors()) == hashlib.sha256(listing).digest()[:16]


@given(st.permutations(sorted(tensors())))
def test_the_hash_does_not_depend_on_the_order_of_saving(names: list[str]) -> None:
    """Tensors are sorted before they are listed."""
    assert store.tensor_hash({name: tensors()[name] for name in names}) == store.tensor_hash(tensors())


def test_the_hash_does_not_depend_on_the_file(tmp_path: Path) -> None:
    """The same weights saved by another tool, with other notes and in another order, are the same weights."""
    save_file(tensors(), tmp_path / "one.safetensors")
    others = dict(reversed(tensors().items()))
    save_file(others, tmp_path / "two.safetensors", metadata={"made by": "another tool"})
    found = [load_file(tmp_path / name) for name in ("one.safetensors", "two.safetensors")]
    assert (tmp_path / "one.safetensors").read_bytes() != (tmp_path / "two.safetensors").read_bytes()
    assert store.tensor_hash(found[0]) == store.tensor_hash(found[1]) == store.tensor_hash(tensors())


def test_the_hash_does_not_depend_on_the_layout_in_memory() -> None:
    """Rows or columns first, either byte order, views: values count."""
    changed: Tensors = {name: np.array(tensor, order="F") for name, tensor in tensors().items()}
    changed["b.weight"] = tensors()["b.weight"].astype(">f4")[::-1][::-1]
    changed["a.bias"] = np.repeat(tensors()["a.bias"], 2)[::2]
    assert store.tensor_hash(changed) == store.tensor_hash(tensors())


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.update({"c.weight": found.pop("b.weight")}),
        lambda found: found.update({"b.weight": found["b.weight"].reshape(4, 3, 2)}),
        lambda found: found.update({"b.weight": found["b.weight"].astype(np.float64)}),
        lambda found: found.update({"b.weight": np.nextafter(found["b.weight"], np.float32(9))}),
        lambda found: found.update({"B": np.array([3.5], np.float64)}),
        lambda found: found.update({"\uff5e": np.array([257], "<i2").view("<i2")}),
        lambda found: found.pop("\U0001f600"),
    ],
    ids=["name", "shape", "type", "values", "dimensions", "bytes", "absence"],
)
def test_the_hash_depends_on_all_that_matters(change: Callable[[Tensors], object]) -> None:
    """A name, a shape, a type, the last bit of a value."""
    changed = tensors()
    change(changed)
    assert store.tensor_hash(changed) != store.tensor_hash(tensors())


# Load


def test_the_shipped_weights_are_those_of_their_card() -> None:
    """The decoder's hash is the one that files name."""
    decoder = {
        name.removeprefix("decoder."): tensor
        for name, tensor in load_file(SHIPPED).items()
        if name.startswith("decoder.")
    }
    assert store.tensor_hash(decoder).hex() == CARD.hash


def test_a_network_is_built_once(fresh_store: None) -> None:
    """And again after it was released."""
    model = store.load(CARD)
    assert store.load(CARD) is model
    store.release()
    assert store.load(CARD) is not model


def test_threads_share_a_network(monkeypatch: pytest.MonkeyPatch, fresh_store: None) -> None:
    """Eight that want it at the same moment build it once."""
    built: list[cards.ModelCard] = []
    build = store._build

    def counted(card: cards.ModelCard, folder: Path) -> store.Autoencoder:
        built.append(card)
        return build(card, folder)

    monkeypatch.setattr(store, "_build", counted)
    barrier = threading.Barrier(8)

    def load(_: int) -> int:
        barrier.wait()
        return id(store.load(CARD))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(load, range(8)))) == 1
    assert built == [CARD]


def test_missing_weights_are_named(weights: Path, plain_file: bytes) -> None:
    """Which model, and where it was looked for; header and thumbnail are there all the same."""
    with pytest.raises(ModelNotFoundError, match="embedded") as caught:
        images.opened(plain_file).load()
    assert str(weights) in str(caught.value)
    assert caught.value.model_id == CARD.hash
    assert caught.value.searched == (str(weights),)
    image = images.opened(plain_file)
    image.thumbnail((8, 8))
    assert image.size == (8, 6)


def test_wrong_weights_are_named(weights: Path, plain_file: bytes) -> None:
    """Both hashes stand in the message and in the error."""
    save_file({f"decoder.{name}": tensor for name, tensor in tensors().items()}, weights)
    found = store.tensor_hash(tensors()).hex()
    with pytest.raises(ModelMismatchError) as caught:
        images.opened(plain_file).load()
    assert found in str(caught.value)
    assert CARD.hash in str(caught.value)
    assert str(weights) in str(caught.value)
    assert (caught.value.expected, caught.value.found) == (CARD.hash, found)


def test_one_flipped_bit_of_the_weights_is_noticed(weights: Path) -> None:
    """A network that is nearly right is not used."""
    shipped = load_file(SHIPPED)
    name = max(name for name in shipped if name.startswith("decoder."))
    shipped[name].view(np.uint8).reshape(-1)[-1] ^= 1
    save_file(shipped, weights)
    with pytest.raises(ModelMismatchError):
        store.load(CARD)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 100, b"\x08" + bytes(7) + b"no json!", bytes(64)])
def test_a_file_that_holds_no_weights_is_named(content: bytes, weights: Path) -> None:
    """The error says which file, and whose weights it should hold."""
    weights.write_bytes(content)
    with pytest.raises(ModelMismatchError, match="embedded") as caught:
        store.load(CARD)
    assert str(weights) in str(caught.value)
    assert caught.value.expected == CARD.hash


@pytest.mark.parametrize("part", [0.001, 0.5, 0.999])
def test_weights_that_are_cut_short_are_noticed(part: float, weights: Path) -> None:
    """As a download that broke off leaves them."""
    data = SHIPPED.read_bytes()
    weights.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ModelMismatchError):
        store.load(CARD)


@pytest.mark.parametrize("kind", ["uint8", "int64", "uint16", "bool", "uint64"])
def test_weights_of_any_type_are_compared(kind: str, weights: Path) -> None:
    """Tensors that no model of ours has are other weights, not a KeyError."""
    save_file({"decoder.w": np.ones(3, kind)}, weights)
    with pytest.raises(ModelMismatchError):
        store.load(CARD)


def test_weights_of_the_type_bfloat16_are_compared(weights: Path) -> None:
    """NumPy has no such type, and much of the world's weights have."""
    import torch
    from safetensors.torch import save_file as save_torch

    save_torch({"decoder.w": torch.ones(3, dtype=torch.bfloat16)}, weights)
    with pytest.raises(ModelMismatchError):
        store.load(CARD)


def test_a_decoder_without_an_encoder_is_no_model(weights: Path) -> None:
    """The hash is the decoder's alone, so that tensors may be missing or too many all the same."""
    shipped = load_file(SHIPPED)
    for chosen in (
        {name: tensor for name, tensor in shipped.items() if name.startswith("decoder.")},
        {**shipped, "another": np.ones(3, np.float32)},
        {**shipped, "encoder.layers.1.bias": np.ones(3, np.float32)},
    ):
        save_file(chosen, weights)
        with pytest.raises(ModelError):
            store.load(CARD)


def test_a_failed_load_is_tried_again(weights: Path) -> None:
    """Weights that come later are found."""
    with pytest.raises(ModelNotFoundError):
        store.load(CARD)
    shutil.copyfile(SHIPPED, weights)
    assert store.load(CARD) is store.load(CARD)


# Other models


def test_a_file_of_an_unknown_model_is_decoded_by_another(plain_file: bytes) -> None:
    """One of the same latent space; the image says which."""
    image = images.opened(images.with_header(plain_file, model=bytes(range(16))))
    assert image.info["sdl_model"] == bytes(range(16)).hex()
    image.load()
    assert image.info["sdl_decoder"] == f"embedded in place of {bytes(range(16)).hex()}"
    assert image.tobytes() == images.opened(plain_file).tobytes()


def test_a_model_is_looked_for_by_hash_first() -> None:
    """Then by latent space; without either the error names the file's model."""
    assert store.choose(bytes.fromhex(CARD.hash), CARD.space) is CARD
    assert store.choose(bytes(16), "sdl1").space == "sdl1"
    with pytest.raises(ModelNotFoundError, match=bytes(16).hex()) as caught:
        store.choose(bytes(16), "sd1")
    assert caught.value.model_id == bytes(16).hex()


def test_a_file_of_an_unknown_latent_space_can_be_looked_at(plain_file: bytes) -> None:
    """Size and mode; pixels and previews are refused with the number."""
    data = images.with_header(plain_file, space=5)
    assert images.opened(data).size == images.SIZE
    with pytest.raises(UnsupportedError, match="latent space 5"):
        images.opened(data).load()
    with pytest.raises(UnsupportedError, match="latent space 5"):
        images.opened(data).verify()


def test_every_card_is_whole() -> None:
    """Names and hashes are unique, and the weights of each are there."""
    assert len({card.name for card in cards.CARDS}) == len(cards.CARDS)
    hashes = [card.hash for card in cards.CARDS if card.hash]
    assert len(set(hashes)) == len(hashes)
    for card in cards.CARDS:
        assert len(bytes.fromhex(card.hash)) == 16 or (not card.hash and card.repositories)
        assert cards.by_name(card.name) is card


# Missing packages


def test_without_torch_all_but_pixels_is_there(plain_path: Path, python: Callable[..., str]) -> None:
    """Open, verify and thumbnail work; load and save say what to install."""
    program = """if True:
        import io, sys
        sys.modules["torch"] = None
        import pillow_sdl
        from PIL import Image
        path = sys.argv[1]
        Image.open(path).verify()
        with Image.open(path) as image:
            image.thumbnail((8, 8))
            print(image.size, image.getpixel((0, 0)) is not None)
        with Image.open(path) as image:
            for action in (image.load, lambda: Image.new("L", (9, 9)).save(io.BytesIO(), "SDL")):
                try:
                    action()
                except pillow_sdl.BackendError as error:
                    print("pip install torch" in str(error))
    """
    assert python(program, plain_path) == "(8, 6) True\nTrue\nTrue"


@pytest.mark.parametrize(("payload", "answer"), [("zstd", "True"), ("range", "loaded")])
def test_without_zstandard_a_file_can_be_opened(
    tmp_path: Path, python: Callable[..., str], payload: str, answer: str
) -> None:
    """A file without packed metadata; where its payload needs zstandard, the error says what to install."""
    path = tmp_path / "plain.sdl"
    images.gradient().save(path, payload=payload)
    program = """if True:
        import sys
        sys.modules["zstandard"] = None
        import pillow_sdl
        from PIL import Image
        with Image.open(sys.argv[1]) as image:
            print(image.size)
            try:
                image.load()
                print("loaded")
            except pillow_sdl.BackendError as error:
                print("pip install zstandard" in str(error))
    """
    assert python(program, path) == f"(47, 33)\n{answer}"
