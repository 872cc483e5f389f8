"""Settings: of the process, of a `with` block, and of the environment."""

from __future__ import annotations

import inspect
import os
import threading
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import pillow_sdl
from pillow_sdl import settings

from . import images

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.plain

VARIABLES = ["DEVICE", "THREADS", "MAX_PIXELS", "MODELS", "DOWNLOAD", "DENOISE", "DENOISE_STEPS", "DTYPE"]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove all variables of the package from the environment."""
    for name in VARIABLES:
        monkeypatch.delenv(f"PILLOW_SDL_{name}", raising=False)


def in_another_thread(action: Callable[[], str]) -> str:
    """Return the result of an action in a new thread."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(action()))
    thread.start()
    thread.join()
    return found[0]


def device() -> str:
    """Return the device in force."""
    return settings.current().device


# The environment


def test_the_defaults_hold_without_an_environment() -> None:
    """They are those of the class."""
    assert settings.current() == pillow_sdl.Settings()
    assert settings.current().threads is settings.current().max_pixels is None


@pytest.mark.parametrize(
    ("variable", "text", "setting", "value"),
    [
        ("DEVICE", "cpu", "device", "cpu"),
        ("THREADS", "3", "threads", 3),
        ("MAX_PIXELS", "1000000", "max_pixels", 10**6),
        ("MODELS", f"here{os.pathsep}there", "model_dirs", ("here", "there")),
        ("DOWNLOAD", "1", "download", True),
        ("DENOISE", "off", "denoise", "off"),
        ("DENOISE_STEPS", "3", "denoise_steps", 3),
        ("DTYPE", "float16", "dtype", "float16"),
    ],
)
def test_a_variable_sets_a_setting(
    variable: str, text: str, setting: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty variable counts as not set."""
    monkeypatch.setenv(f"PILLOW_SDL_{variable}", text)
    assert settings.current() == pillow_sdl.Settings(**{setting: value})  # type: ignore[arg-type]
    monkeypatch.setenv(f"PILLOW_SDL_{variable}", "")
    assert settings.current() == pillow_sdl.Settings()


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DEVICE", "gpu"),
        ("THREADS", "0"),
        ("THREADS", "many"),
        ("THREADS", "-1"),
        ("MAX_PIXELS", "1e6"),
        ("MAX_PIXELS", "0"),
        ("DOWNLOAD", "yes"),
        ("DENOISE", "much"),
        ("DENOISE_STEPS", "51"),
        ("DENOISE_STEPS", "two"),
        ("DTYPE", "int8"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable and its value, and the default is not used silently."""
    monkeypatch.setenv(f"PILLOW_SDL_{variable}", text)
    with pytest.raises(ValueError, match=f"PILLOW_SDL_{variable}.*{text}"):
        settings.current()


def test_configure_takes_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the settings that it names.  The others keep the values of the environment."""
    monkeypatch.setenv("PILLOW_SDL_DEVICE", "cuda")
    monkeypatch.setenv("PILLOW_SDL_THREADS", "3")
    assert pillow_sdl.configure(device="cpu") == pillow_sdl.Settings(device="cpu", threads=3)
    assert device() == "cpu"


# The process and blocks


def test_configure_reaches_all_threads() -> None:
    """Threads that are started later too."""
    pillow_sdl.configure(device="cuda:1")
    assert in_another_thread(device) == "cuda:1"


def test_configure_keeps_other_settings() -> None:
    """It changes only the settings that it names."""

    def progress(done: int, todo: int) -> None:
        pass

    pillow_sdl.configure(device="cpu")
    assert pillow_sdl.configure(progress=progress) == pillow_sdl.Settings(device="cpu", progress=progress)
    assert pillow_sdl.configure(device="mps").progress is progress


def test_using_holds_in_its_block_and_thread() -> None:
    """It yields the settings in force.  Other threads see those of the process."""
    pillow_sdl.configure(device="cuda")
    with pillow_sdl.using(device="cpu") as found:
        assert found.device == device() == "cpu"
        assert in_another_thread(device) == "cuda"
    assert device() == "cuda"


def test_using_can_be_nested() -> None:
    """The innermost block counts, and it keeps the settings that it does not name."""
    with pillow_sdl.using(device="cpu"):
        with pillow_sdl.using(device="cuda"):
            assert device() == "cuda"
            with pillow_sdl.using():
                assert device() == "cuda"
        assert device() == "cpu"
    assert device() == "auto"


def leave_by_an_error() -> None:
    """Leave a block by an exception."""
    with pillow_sdl.using(device="cpu"):
        raise KeyError


def test_using_ends_when_an_exception_leaves_its_block() -> None:
    """The exception passes through."""
    with pytest.raises(KeyError):
        leave_by_an_error()
    assert device() == "auto"


def test_configure_does_not_keep_the_settings_of_a_block() -> None:
    """The settings of a block end with it, also if `configure` is called inside."""
    with pillow_sdl.using(device="cpu"):
        pillow_sdl.configure()
    assert device() == "auto"


# Values


def enter(**options: object) -> None:
    """Enter and leave a block with these settings."""
    with pillow_sdl.using(**options):
        pass


@pytest.mark.parametrize(
    "wrong", ["gpu", "cuda:", "cuda:x", "CPU", "", "cpu ", "cpu\n", "cuda:-1", None, 0, b"cpu", Path("cpu")]
)
def test_a_wrong_device_is_refused(wrong: object) -> None:
    """The message names it and what is allowed, and nothing is changed."""
    for action in (pillow_sdl.configure, enter):
        with pytest.raises(ValueError, match=r"auto, cpu, mps, cuda, xpu.*not ") as caught:
            action(device=wrong)
        assert repr(wrong) in str(caught.value)
        assert device() == "auto"


@pytest.mark.parametrize("right", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12", "xpu", "xpu:3"])
def test_every_kind_of_device_is_accepted(right: str) -> None:
    """Whether the machine has it is found out when a network is built."""
    assert pillow_sdl.configure(device=right).device == right


@pytest.mark.parametrize("name", ["threads", "max_pixels"])
def test_whole_numbers_from_1_are_accepted(name: str) -> None:
    """Integers of NumPy too.  None is the default."""
    for value in (1, 1024, np.int64(7), None):
        assert getattr(pillow_sdl.configure(**{name: value}), name) == value
    for wrong in (0, -1, 1.0, "4", True, np.float32(2)):
        with pytest.raises(ValueError, match=f"{name} must be None or a whole number (of at least|from) 1"):
            pillow_sdl.configure(**{name: wrong})
    assert getattr(settings.current(), name) is None


def test_more_threads_than_any_machine_runs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime would report them in its own words.  OMP_NUM_THREADS, which others read too, is cut."""
    for action in (pillow_sdl.configure, enter):
        with pytest.raises(ValueError, match="threads must be None or a whole number from 1 to 1024, not 99999999999"):
            action(threads=99999999999)
    monkeypatch.setenv("OMP_NUM_THREADS", "99999999999")
    assert settings.default_threads() == 1024
    monkeypatch.setenv("OMP_NUM_THREADS", "9" * 5000)  # More digits than Python converts.
    assert settings.default_threads() >= 1
    monkeypatch.setenv("PILLOW_SDL_THREADS", "1025")
    with pytest.raises(ValueError, match=r"PILLOW_SDL_THREADS: threads must be .* 1 to 1024, not 1025"):
        settings.current()
    assert pillow_sdl.Settings(max_pixels=10**12).max_pixels == 10**12


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("dtype", "float64"),
        ("dtype", None),
        ("model_dirs", "folder"),
        ("model_dirs", b"folder"),
        ("model_dirs", None),
        ("download", "yes"),
        ("download", []),
        ("progress", True),
        ("denoise", "much"),
        ("denoise_steps", 0),
        ("denoise_steps", 51),
        ("denoise_steps", 1.5),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_setting(name: str, wrong: object) -> None:
    """By `configure` and by `using`."""
    for action in (pillow_sdl.configure, enter):
        with pytest.raises(ValueError, match=f"^{name} must be .*not "):
            action(**{name: wrong})
    assert settings.current() == pillow_sdl.Settings()


def test_an_unknown_setting_raises_type_error() -> None:
    """As an unknown argument of any function does."""
    with pytest.raises(TypeError, match="speed"):
        pillow_sdl.configure(speed=9)
    with pytest.raises(TypeError, match="speed"):
        enter(speed=9)


def test_settings_cannot_be_changed_in_place() -> None:
    """Threads that hold them see one state."""
    with pytest.raises(FrozenInstanceError):
        settings.current().device = "cpu"  # type: ignore[misc]


def test_every_setting_is_documented() -> None:
    """The docstring of the class has an entry for each."""
    for field in fields(pillow_sdl.Settings):
        assert f"\n{field.name}: " in str(inspect.getdoc(pillow_sdl.Settings))  # Python 3.13 removes indents itself.


# Effects


@pytest.mark.usefixtures("fresh_store")
@pytest.mark.parametrize("absent", ["cuda", "cuda:7", "mps", "xpu"])
def test_a_device_that_the_machine_lacks_is_named(absent: str, plain_file: bytes) -> None:
    """Load and save raise ValueError, because the file is not to blame."""
    torch = pytest.importorskip("torch")
    here = torch.accelerator.current_accelerator(check_available=True)
    if here is not None and absent.startswith(here.type):
        pytest.skip(f"this machine has {here.type}")
    with pillow_sdl.using(device=absent):
        with pytest.raises(ValueError, match=absent):
            images.opened(plain_file).load()
        with pytest.raises(ValueError, match=absent):
            images.saved(images.gradient())


@pytest.mark.usefixtures("fresh_store")
def test_the_cpu_gives_the_picture_of_auto(plain_file: bytes) -> None:
    """At most 1 level apart."""
    with pillow_sdl.using(device="cpu"):
        found = images.values(images.opened(plain_file))
    assert abs(found - images.values(images.opened(plain_file))).max() <= 1


@pytest.mark.usefixtures("fresh_store")
def test_the_number_of_threads_does_not_change_the_picture(plain_file: bytes) -> None:
    """Files and pixels are equal for one thread and for three."""
    found = []
    for threads in (1, 3):
        with pillow_sdl.using(threads=threads):
            found.append((images.saved(images.gradient()), images.opened(plain_file).tobytes()))
    assert found[0] == found[1]


def test_torch_gets_its_number_of_threads_back() -> None:
    """The setting holds while a network runs, not for the other work of the program."""
    torch = pytest.importorskip("torch")
    from pillow_sdl.models.networks import pytorch

    before = torch.get_num_threads()
    with pillow_sdl.using(threads=before + 1):
        with pytorch.running(torch.device("cpu")):
            assert torch.get_num_threads() == before + 1
        assert torch.get_num_threads() == before
        with pytest.raises(pillow_sdl.ModelError), pytorch.running(torch.device("cpu")):
            torch.ones(2) + torch.ones(3)
        assert torch.get_num_threads() == before
