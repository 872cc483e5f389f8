"""The embedded model on ONNX Runtime: without torch, without telemetry, with the same pictures as on torch."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import pillow_sdl
from pillow_sdl import decode, registry, settings
from pillow_sdl.format import container
from pillow_sdl.latent import spaces
from pillow_sdl.models import store
from pillow_sdl.models.networks import onnx

from . import images

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

pytestmark = pytest.mark.plain

ROOT = Path(__file__).parent.parent
PHOTO = ROOT / "docs" / "grace_hopper.jpg"
MODEL = registry.model(registry.EMBEDDED)

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # importing it raises ImportError
"""


def photo(width: int = 512, height: int = 512) -> Image.Image:
    """The middle of the documentation's photo."""
    with Image.open(PHOTO) as image:
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.convert("RGB").crop((left, top, left + width, top + height))


def test_a_picture_is_saved_opened_verified_and_shown_without_torch(python: Callable[..., str], tmp_path: Path) -> None:
    """All that a user of Pillow does works in a process in which torch cannot be imported."""
    program = (
        WITHOUT_TORCH
        + """
import pillow_sdl
from PIL import Image

photo, target = sys.argv[1:]
Image.open(photo).save(target, quality=40)
Image.open(target).verify()
image = Image.open(target)
image.load()
small = Image.open(target)
small.thumbnail((64, 64))
print(image.size, image.info["sdl_decoder"], small.info["sdl_decoder"], pillow_sdl.latents(target).space)
"""
    )
    with Image.open(PHOTO) as original:
        size = original.size
    found = python(program, PHOTO, tmp_path / "photo.sdl")
    assert found == f"{size} sdl preview sdl"


def test_all_commands_work_without_torch(python: Callable[..., str], tmp_path: Path) -> None:
    """`sdl encode`, `info`, `verify` and `decode` exit with 0 in a process in which torch cannot be imported."""
    program = (
        WITHOUT_TORCH
        + """
from pillow_sdl.cli import main

photo, target, picture = sys.argv[1:]
for arguments in (
    ["encode", "--quiet", photo, "-o", target],
    ["info", "--json", target],
    ["verify", "--quiet", target],
    ["decode", "--quiet", target, "-o", picture],
):
    status = main(arguments)
    assert status == 0, (arguments, status)
"""
    )
    python(program, PHOTO, tmp_path / "photo.sdl", tmp_path / "photo.png")
    with Image.open(tmp_path / "photo.png") as shown, Image.open(PHOTO) as original:
        assert shown.size == original.size
        error = np.abs(np.asarray(shown, np.float32) - np.asarray(original.convert("RGB"), np.float32)).mean()
    assert error < 8


def test_efforts_with_gradients_name_the_extra_that_they_need(python: Callable[..., str]) -> None:
    """Efforts 6 to 9 need torch."""
    program = (
        WITHOUT_TORCH
        + """
import io
import pillow_sdl
from PIL import Image

try:
    Image.new("RGB", (32, 32)).save(io.BytesIO(), "SDL", effort=6)
except ValueError as exc:
    print(exc)
"""
    )
    found = python(program)
    assert "effort 6" in found
    assert "pillow-sdl[torch]" in found


def test_neither_device_auto_nor_cpu_imports_torch(
    python: Callable[..., str], tmp_path: Path, plain_file: bytes
) -> None:
    """Torch takes a second to import, and the embedded model does not need it."""
    path = tmp_path / "plain.sdl"
    path.write_bytes(plain_file)
    program = """
import sys
import pillow_sdl
from PIL import Image

for device in ("auto", "cpu"):
    with pillow_sdl.using(device=device):
        Image.open(sys.argv[1]).load()
print("torch" in sys.modules)
"""
    assert python(program, path) == "False"


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_no_socket_is_opened_and_nothing_is_written_to_a_fresh_home(tmp_path: Path, plain_path: Path) -> None:
    """Onnxruntime's official builds send usage data and write a device id unless they are told not to."""
    home, trace = tmp_path / "home", tmp_path / "trace.txt"
    home.mkdir()
    program = "import sys, pillow_sdl; from PIL import Image; Image.open(sys.argv[1]).load()"
    names = {"XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "ORT_DISABLE_TELEMETRY"}
    environment = {name: value for name, value in os.environ.items() if name not in names}
    subprocess.run(
        ["strace", "-f", "-e", "trace=%network", "-o", trace, sys.executable, "-c", program, plain_path],
        check=True,
        timeout=120,
        env=environment | {"HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    calls = [line for line in trace.read_text().splitlines() if "socket(" in line or "connect(" in line]
    assert calls == []
    assert list(home.iterdir()) == []


def test_the_users_own_choice_of_telemetry_is_kept(python: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is set only where the user has not set it."""
    program = """
import os
import pillow_sdl.models.networks.onnx
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    assert python(program) == "1"
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "true")
    assert python(program) == "true"


def test_one_and_two_threads_give_equal_pictures_and_latents() -> None:
    """Deterministic whatever the number of threads."""
    pixels = np.asarray(photo(256, 208))
    networks = [onnx.OnnxAutoencoder(MODEL, threads) for threads in (1, 2)]
    latents = [network.encode(pixels) for network in networks]
    assert np.array_equal(latents[0], latents[1])
    pictures = [network.decode(latents[0], 128) for network in networks]
    assert np.array_equal(pictures[0], pictures[1])


@pytest.mark.parametrize(("variable", "expected"), [("3", 3), ("", None), ("0", None), ("many", None)])
def test_the_number_of_threads_follows_omp_num_threads(
    variable: str, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the variable it is the number of processors that the process may use."""
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert settings.default_threads() == (expected or available)


def test_a_setting_of_threads_is_used(fresh_store: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """`configure(threads=1)` reaches the session."""
    given: list[int] = []
    original = onnxruntime.InferenceSession

    def session(path: Path, options: Any, **more: Any) -> Any:
        given.append(options.intra_op_num_threads)
        return original(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    with pillow_sdl.using(threads=1):
        images.saved(images.gradient(32, 32))
    assert set(given) == {1}


def test_threads_share_a_session(plain_file: bytes, fresh_store: None) -> None:
    """Eight threads decode at once, with one network, and see the same picture."""

    def shown(_: int) -> bytes:
        with Image.open(io.BytesIO(plain_file)) as image:
            return image.tobytes()

    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(shown, range(16)))
    assert len(found) == 1
    assert store.load(MODEL) is store.load(MODEL)


def test_release_gives_the_network_back(plain_file: bytes, fresh_store: None) -> None:
    """And the next picture builds it again."""
    with Image.open(io.BytesIO(plain_file)) as image:
        before = image.tobytes()
    network = store.load(MODEL)
    pillow_sdl.release()
    assert store.load(MODEL) is not network
    with Image.open(io.BytesIO(plain_file)) as image:
        assert image.tobytes() == before


def test_a_damaged_graph_or_weight_is_refused(
    fresh_store: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plain_file: bytes
) -> None:
    """All three files are compared with the registry before they are used."""
    assert MODEL.weights is not None
    assert MODEL.graphs is not None
    for stored in (MODEL.weights, MODEL.graphs.encoder, MODEL.graphs.decoder):
        folder = tmp_path / stored.file
        shutil.copytree(registry.WEIGHTS_FOLDER, folder)
        path = folder / stored.file
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        with monkeypatch.context() as patch:
            patch.setattr(registry, "WEIGHTS_FOLDER", folder)
            pillow_sdl.release()
            with Image.open(io.BytesIO(plain_file)) as image, pytest.raises(pillow_sdl.ModelMismatchError) as found:
                image.load()
        assert found.value.expected == stored.sha256
        assert found.value.found == hashlib.sha256(data).hexdigest()


def test_the_weights_stand_once_in_the_package() -> None:
    """The graphs hold no weights of their own: tens of kilobytes beside megabytes."""
    assert MODEL.weights is not None
    assert MODEL.graphs is not None
    weights = MODEL.weights.path.stat().st_size
    for stored in (MODEL.graphs.encoder, MODEL.graphs.decoder):
        assert stored.path.stat().st_size < weights / 50


def test_a_large_flat_picture_is_decoded_as_its_tiles_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The short cut for constant tiles gives the picture that the network gives."""
    network = onnx.OnnxAutoencoder(MODEL, 2)
    side = 2 * network.decoder_margin + 30
    generator = np.random.default_rng(0)
    latent = (
        np.repeat(generator.normal(0, 0.5, (network.channels, 1, 1)), side, 1).repeat(side + 3, 2).astype(np.float32)
    )
    calls: list[tuple[int, ...]] = []
    plain = network.decode_tile

    def counted(piece: NDArray[np.float32], rate: int | None) -> NDArray[np.uint8]:
        calls.append(piece.shape)
        return plain(piece, rate)

    monkeypatch.setattr(network, "decode_tile", counted)
    found = network.decode(latent, 90)
    small = 2 * network.decoder_margin + 1
    assert calls == [(network.channels, small, small)]
    difference = np.abs(found.astype(int) - plain(latent, 90).astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 0.001


def test_a_few_bytes_cannot_demand_the_work_of_a_large_picture(
    fresh_store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of 50 bytes that declares 3000 x 3000 pixels costs one small tile."""
    network = store.load(MODEL)
    assert isinstance(network, onnx.OnnxAutoencoder)
    seen: list[int] = []
    plain = network.decode_tile

    def counted(piece: NDArray[np.float32], rate: int | None) -> NDArray[np.uint8]:
        seen.append(piece[0].size)
        return plain(piece, rate)

    monkeypatch.setattr(network, "decode_tile", counted)
    header = container.Header(
        width=3000,
        height=3000,
        mode=container.Mode.RGB,
        space=registry.space(registry.EMBEDDED).code,
        quantizer=registry.load().quantizers["scalar"],
        rate=100,
        payload=registry.load().payloads["range"],
        model=bytes.fromhex(MODEL.hash),
    )
    data = container.Container(header, (container.Section(container.Name.LATENT, bytes(2)),)).to_bytes()
    assert len(data) < 60
    with Image.open(io.BytesIO(data)) as image:
        image.load()
    assert sum(seen) <= (2 * network.decoder_margin + 1) ** 2


class TestAgainstTorch:
    """The same weights on torch.  Skipped where torch is not installed."""

    @pytest.fixture(autouse=True)
    def _needs_torch(self) -> None:
        pytest.importorskip("torch", reason="torch is not installed")

    def test_pictures_differ_by_one_level_in_a_thousandth_of_samples(self) -> None:
        """At most."""
        image = photo()
        file = container.read(io.BytesIO(images.saved(image)))
        found = decode.quantized(file)
        on_onnx = store.load(MODEL).decode(found.dequantize(), found.rate)
        on_torch = store.load_differentiable(MODEL).decode(found.dequantize(), found.rate)
        difference = np.abs(on_onnx.astype(int) - on_torch.astype(int))
        assert difference.max() <= 1
        assert (difference > 0).mean() <= 0.001

    def test_symbols_differ_in_a_thousandth(self) -> None:
        """At most, at a rate in the middle of the scale."""
        pixels = np.asarray(photo())
        tables = spaces.tables(registry.space(registry.EMBEDDED))
        step = np.exp2(tables.log2_steps[len(tables.log2_steps) // 2] / 256)[:, None, None]
        on_onnx, on_torch = (
            np.rint(load(MODEL).encode(pixels) / step) for load in (store.load, store.load_differentiable)
        )
        assert (on_onnx != on_torch).mean() <= 0.001

    @pytest.mark.research
    def test_the_graphs_are_what_the_export_writes(self, tmp_path: Path) -> None:
        """Nobody has edited them by hand."""
        graphs = pytest.importorskip("training.graphs", reason="onnx and onnxscript are not installed")
        import torch
        from safetensors.numpy import load_file

        from pillow_sdl.models.networks import embedded

        assert MODEL.weights is not None
        assert MODEL.graphs is not None
        network = embedded.EmbeddedAutoencoder().eval()
        tensors = load_file(MODEL.weights.path)
        network.load_state_dict({name: torch.from_numpy(tensor).float() for name, tensor in tensors.items()})
        weights = tmp_path / MODEL.weights.file
        shutil.copyfile(MODEL.weights.path, weights)
        space = registry.space(registry.EMBEDDED)
        found = graphs.write(network.encoder, network.decoder, weights, channels=space.channels, factor=space.factor)
        for name, stored in (("encoder", MODEL.graphs.encoder), ("decoder", MODEL.graphs.decoder)):
            assert hashlib.sha256(found[name].read_bytes()).hexdigest() == stored.sha256


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux says how much memory a process has")
def test_memory_for_large_tiles_goes_back_to_the_system(python: Callable[..., str]) -> None:
    """After a tile of 1.3 megapixels, which takes 400 MB, the process has at most 100 MB more than after a small one."""
    program = """
import os
from pathlib import Path
import numpy as np
from pillow_sdl import registry
from pillow_sdl.models import store

network = store.load(registry.model("sdl"))

def used(side):
    network.decode_tile(np.ones((network.channels, side, side), np.float32), 128)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6

print(round(-used(16) + used(72)))
"""
    assert int(python(program)) < 100
