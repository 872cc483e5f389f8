"""models/store.py: networks are built once, and a file gets the network of its decoder or another of its space."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import pillow_sdl
from pillow_sdl import registry, settings
from pillow_sdl.errors import ModelMismatchError, ModelNotFoundError
from pillow_sdl.models import hashes, local, store

from . import images

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = pytest.mark.plain

MODEL = registry.model(registry.EMBEDDED)
assert MODEL.weights is not None
SHIPPED = MODEL.weights.path
OTHER = bytes(range(16))
"""A model hash that no model has."""


def decoder_tensors(seed: int) -> dict[str, NDArray[Any]]:
    """Return a few tensors under the names of a decoder."""
    random = np.random.default_rng(seed)
    return {
        "decoder.weight": random.normal(size=(3, 4)).astype(np.float32),
        "post_quant_conv.bias": random.normal(size=5).astype(np.float16),
        "encoder.weight": np.ones(3, np.float32),
    }


def put_model(folder: Path, seed: int) -> bytes:
    """Write a folder in diffusers' layout, of which only the hash is of use.  Returns the hash of the decoder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / local.CONFIG).write_text("{}")
    save_file(decoder_tensors(seed), folder / local.WEIGHT_FILES[0])
    return hashes.of_arrays(hashes.decoder_part(decoder_tensors(seed)))


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch, fresh_store: store.Store) -> None:
    """Hide the hub's cache of this machine, and forget the hashes of files."""
    monkeypatch.setattr(local, "cached", lambda *_, **__: None)


# The store


def test_a_network_is_built_once_for_each_key(fresh_store: store.Store) -> None:
    """Later calls with the key return the same object.  After `release` it is built anew."""
    first = fresh_store.network("key", object)
    assert fresh_store.network("key", object) is first
    assert fresh_store.network("another", object) is not first
    pillow_sdl.release()
    assert fresh_store.network("key", object) is not first


def test_threads_that_ask_at_once_build_one_network(fresh_store: store.Store) -> None:
    """The other threads wait for the one that builds."""
    barrier = threading.Barrier(8)
    built = []

    def build() -> object:
        built.append(threading.get_ident())
        return object()

    def ask(_: int) -> object:
        barrier.wait()
        return fresh_store.network("key", build)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert len(built) == 1
    assert all(network is found[0] for network in found)


def test_a_failed_build_is_tried_again(fresh_store: store.Store) -> None:
    """An error is passed on and not remembered."""

    def fail() -> object:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fresh_store.network("key", fail)
    assert fresh_store.network("key", lambda: 1) == 1


def test_a_hash_is_computed_again_after_a_change_of_its_file(tmp_path: Path, fresh_store: store.Store) -> None:
    """The modification time and the size tell a change.  `release` does not forget hashes."""
    path = tmp_path / "file"
    path.write_bytes(b"1")
    assert fresh_store.hash_of_file(path, lambda: "first") == "first"
    fresh_store.release()
    assert fresh_store.hash_of_file(path, lambda: "second") == "first"
    path.write_bytes(b"22")
    assert fresh_store.hash_of_file(path, lambda: "second") == "second"
    os.utime(path, ns=(1, 1))
    assert fresh_store.hash_of_file(path, lambda: "third") == "third"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_can_decode(plain_path: Path, python: Callable[..., str]) -> None:
    """The child has a new lock, although a thread of the parent held the old one, and no network of the parent."""
    program = """if True:
        import os, signal, sys, threading, time, warnings
        import pillow_sdl
        from PIL import Image
        from pillow_sdl.models import store

        def show():
            with Image.open(sys.argv[1]) as image:
                return image.tobytes()

        before, built = show(), len(store.STORE._networks)
        held, done = threading.Event(), threading.Event()

        def hold():
            with store.STORE._lock:
                held.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks with threads.
        child = os.fork()
        if not child:
            kept = len(store.STORE._networks)
            os._exit(0 if (kept, show() == before) == (0, True) else 1)
        deadline = time.monotonic() + 60
        found, status = os.waitpid(child, os.WNOHANG)
        while not found and time.monotonic() < deadline:
            time.sleep(0.05)
            found, status = os.waitpid(child, os.WNOHANG)
        if not found:  # The child hangs.
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
        done.set()
        thread.join()
        print(built, status)
    """
    assert python(program, plain_path) == "1 0"


# Loading


def test_the_embedded_model_is_loaded_by_its_registry_entry(fresh_store: store.Store) -> None:
    """Its hash is that of the registry, and it is one object for equal settings."""
    network = store.load(MODEL)
    assert network.hash == MODEL.hash == store.hash_of(MODEL)
    assert store.load(MODEL) is network
    with settings.using(device="cpu"):
        assert store.load(MODEL) is network


@pytest.fixture
def weights_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_store: store.Store) -> Path:
    """A copy of the weights folder without the weights of the embedded model, in place of the real one."""
    folder = tmp_path / "weights"
    shutil.copytree(registry.WEIGHTS_FOLDER, folder, ignore=shutil.ignore_patterns(SHIPPED.name, "*denoiser*"))
    monkeypatch.setattr(registry, "WEIGHTS_FOLDER", folder)
    return folder


def test_missing_weights_are_named(weights_folder: Path, plain_file: bytes) -> None:
    """The error names the model and the file.  Header and thumbnail can still be had."""
    path = weights_folder / SHIPPED.name
    with pytest.raises(ModelNotFoundError, match=f"model {MODEL.name} are missing.*reinstall pillow-sdl") as caught:
        images.opened(plain_file).load()
    assert str(path) in str(caught.value)
    assert caught.value.model_id == MODEL.hash
    assert caught.value.searched == (str(path),)
    with images.opened(plain_file) as image:
        image.thumbnail((8, 8))
        assert image.size == (8, 6)


def test_weights_that_appear_later_are_found(weights_folder: Path) -> None:
    """A failed load is tried again."""
    with pytest.raises(ModelNotFoundError):
        store.load(MODEL)
    shutil.copy(SHIPPED, weights_folder)
    assert store.load(MODEL).hash == MODEL.hash


@pytest.mark.parametrize("content", [b"", b"short", bytes(64)])
def test_other_bytes_than_the_weights_are_refused(weights_folder: Path, content: bytes) -> None:
    """The error names the file, the model and both hashes."""
    path = weights_folder / SHIPPED.name
    path.write_bytes(content)
    with pytest.raises(ModelMismatchError, match=f"model {MODEL.name} ") as caught:
        store.load(MODEL)
    assert caught.value.expected == hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert all(part in str(caught.value) for part in (str(path), caught.value.expected, caught.value.found))


# The choice of a model


def test_the_embedded_model_decodes_its_own_files_only(plain_file: bytes) -> None:
    """A file of another release is refused, because its tables may differ too (SPEC 7.1)."""
    assert store.choose(bytes.fromhex(MODEL.hash), MODEL.space) == MODEL
    with pytest.raises(ModelNotFoundError, match=f"another release.*{OTHER.hex()}.*{MODEL.hash}") as caught:
        store.choose(OTHER, MODEL.space)
    assert caught.value.model_id == OTHER.hex()


def test_a_file_of_another_release_keeps_its_header_and_metadata(plain_file: bytes) -> None:
    """Everything that depends on the latent raises ModelNotFoundError."""
    data = images.with_header(plain_file, model=OTHER)
    image = images.opened(data)
    assert image.size == images.SIZE
    assert image.info["sdl_model"] == OTHER.hex()
    for action in (image.load, lambda: images.opened(data).verify(), lambda: images.opened(data).thumbnail((8, 8))):
        with pytest.raises(ModelNotFoundError, match="another release"):
            action()


@pytest.mark.usefixtures("no_cache")
def test_a_file_gets_the_model_with_its_hash(tmp_path: Path) -> None:
    """The hash of the weights that are found counts, not the name of their folder."""
    first, second = put_model(tmp_path / "taesd", 1), put_model(tmp_path / "sd-vae-ft-mse", 2)
    with settings.using(model_dirs=[tmp_path]):
        assert store.choose(first, "sd1").name == "taesd"
        assert store.choose(second, "sd1").name == "sd-vae-ft-mse"
        assert [store.name_of(part, "sd1") for part in (first, second, OTHER)] == ["taesd", "sd-vae-ft-mse", None]
        assert store.name_of(first, "sdxl") is None
        assert store.hash_of(registry.model("taesd")) == first.hex()
        put_model(tmp_path / "taesd", 3)
        assert store.name_of(first, "sd1") is None
        assert store.choose(first, "sd1").name == "taesd"


@pytest.mark.usefixtures("no_cache")
def test_a_file_gets_the_first_model_of_its_space_that_is_present(tmp_path: Path) -> None:
    """The order is that of the registry.  Models of other spaces do not count (D-02)."""
    put_model(tmp_path / "sdxl", 1)
    put_model(tmp_path / "sd-1.5" / "vae", 2)
    put_model(tmp_path / "sd-1.4" / "vae", 3)
    with settings.using(model_dirs=[tmp_path]):
        assert store.choose(OTHER, "sd1").name == "sd-1.5"
        assert store.choose(OTHER, "sdxl").name == "sdxl"


@pytest.mark.usefixtures("no_cache")
def test_without_a_model_of_the_space_the_error_says_what_to_do(tmp_path: Path) -> None:
    """It names the file's model, the models that would do, the places that were searched, and the command."""
    of_space = [model.name for model in registry.load().models if model.space == "sd1"]
    with settings.using(model_dirs=[tmp_path]), pytest.raises(ModelNotFoundError) as caught:
        store.choose(OTHER, "sd1")
    text = str(caught.value)
    assert f"any of {', '.join(of_space)} decodes it" in text
    assert all(part in text for part in (OTHER.hex(), str(tmp_path), f"`sdl models fetch {of_space[0]}`"))
    assert caught.value.model_id == OTHER.hex()
    assert caught.value.searched[0] == str(tmp_path)


@pytest.mark.usefixtures("no_cache")
def test_a_model_may_be_downloaded_if_none_is_present(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the setting `download`, the first model of the space is chosen, or the one with the file's hash."""
    known = registry.load()
    of_space = [model for model in known.models if model.space == "sd1"]
    with settings.using(download=True, model_dirs=[]):
        assert store.choose(OTHER, "sd1") == of_space[0]
        named = dataclasses.replace(of_space[2], hash=OTHER.hex())
        models = tuple(named if model is of_space[2] else model for model in known.models)
        changed = dataclasses.replace(known, models=models)
        monkeypatch.setattr(registry, "load", lambda: changed)
        assert store.choose(OTHER, "sd1") == named


@pytest.mark.usefixtures("no_cache")
def test_weights_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A damaged file of weights has no hash."""
    put_model(tmp_path / "taesd", 1)
    path = tmp_path / "taesd" / local.WEIGHT_FILES[0]
    path.write_bytes(b"\x10" + bytes(40))
    with settings.using(model_dirs=[tmp_path]):
        for action in (store.choose, store.name_of):
            with pytest.raises(ModelMismatchError, match="weights of model taesd cannot be read") as caught:
                action(OTHER, "sd1")
            assert str(path) in str(caught.value)


@pytest.mark.usefixtures("no_cache")
def test_weights_of_any_dtype_have_a_hash(tmp_path: Path) -> None:
    """NumPy has no bfloat16, and most published weights are of that dtype."""
    put_model(tmp_path / "taesd", 1)
    path = tmp_path / "taesd" / local.WEIGHT_FILES[0]
    header = b'{"decoder.w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x80\x3f\0\xc0")
    expected = hashes.of_listing([("w", "BF16", (2,), b"\x80\x3f\0\xc0")])
    with settings.using(model_dirs=[tmp_path]):
        assert store.hash_of(registry.model("taesd")) == expected.hex()


# Missing packages


def test_without_onnxruntime_everything_but_pixels_works(plain_path: Path, python: Callable[..., str]) -> None:
    """Open, verify and thumbnail work.  Load and save say what to install."""
    program = """if True:
        import io, sys
        sys.modules["onnxruntime"] = None
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
                    print("pip install onnxruntime" in str(error))
    """
    assert python(program, plain_path) == "(8, 6) True\nTrue\nTrue"


def test_without_torch_gradients_and_gpus_name_the_extra(python: Callable[..., str]) -> None:
    """The embedded model needs torch for gradients and for other devices than the CPU."""
    program = """if True:
        import sys
        sys.modules["torch"] = None
        import pillow_sdl
        from pillow_sdl import registry
        from pillow_sdl.models import store
        model = registry.model(registry.EMBEDDED)
        for action, device in ((store.load_differentiable, "auto"), (store.load, "cuda")):
            with pillow_sdl.using(device=device):
                try:
                    action(model)
                except pillow_sdl.BackendError as error:
                    print("pip install 'pillow-sdl[torch]'" in str(error))
    """
    assert python(program) == "True\nTrue"


@pytest.mark.parametrize(("payload", "answer"), [("zstd", "True"), ("range", "loaded")])
def test_without_zstandard_a_file_can_be_opened(
    tmp_path: Path, python: Callable[..., str], payload: str, answer: str
) -> None:
    """A payload that needs zstandard says what to install; one of the method "range" is decoded."""
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
