"""How files are decoded: the process's settings, those of a block, and those of the environment."""

from __future__ import annotations

import threading
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING

import pytest

import pillow_sdl
from pillow_sdl import settings

from . import images

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says nothing, unless a test makes it."""
    monkeypatch.delenv("PILLOW_SDL_DEVICE", raising=False)


def in_another_thread(action: Callable[[], str]) -> str:
    """Result of an action in a thread that is started for it."""
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(action()))
    thread.start()
    thread.join()
    return found[0]


def device() -> str:
    """The device in force."""
    return settings.current().device


def test_the_device_is_chosen_by_itself_unless_told() -> None:
    """Nothing set: auto, and nobody to tell of progress."""
    assert settings.current() == pillow_sdl.Settings(device="auto", progress=None)


def test_the_environment_names_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """PILLOW_SDL_DEVICE; empty is as good as absent."""
    monkeypatch.setenv("PILLOW_SDL_DEVICE", "cpu")
    assert device() == "cpu"
    monkeypatch.setenv("PILLOW_SDL_DEVICE", "")
    assert device() == "auto"


def test_a_bad_device_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not taken for auto."""
    monkeypatch.setenv("PILLOW_SDL_DEVICE", "gpu")
    with pytest.raises(ValueError, match="'gpu'"):
        settings.current()


def test_configure_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program says counts more."""
    monkeypatch.setenv("PILLOW_SDL_DEVICE", "cuda")
    assert pillow_sdl.configure(device="cpu") == pillow_sdl.Settings(device="cpu")
    assert device() == "cpu"


def test_configure_reaches_all_threads() -> None:
    """Those that are started later too."""
    pillow_sdl.configure(device="cuda:1")
    assert in_another_thread(device) == "cuda:1"


def test_configure_keeps_what_it_does_not_name() -> None:
    """One option at a time."""

    def progress(done: int, todo: int) -> None:
        pass

    pillow_sdl.configure(device="cpu")
    assert pillow_sdl.configure(progress=progress) == pillow_sdl.Settings(device="cpu", progress=progress)
    assert pillow_sdl.configure(device="mps").progress is progress


def test_using_holds_within_its_block_and_thread() -> None:
    """It gives the settings in force, and other threads see those of the process."""
    pillow_sdl.configure(device="cuda")
    with pillow_sdl.using(device="cpu") as found:
        assert found.device == device() == "cpu"
        assert in_another_thread(device) == "cuda"
    assert device() == "cuda"


def test_using_can_be_nested() -> None:
    """The innermost block counts, and keeps what it does not name."""
    with pillow_sdl.using(device="cpu"):
        with pillow_sdl.using(device="cuda"):
            assert device() == "cuda"
            with pillow_sdl.using():
                assert device() == "cuda"
        assert device() == "cpu"
    assert device() == "auto"


def leave_by_an_error() -> None:
    """A block that ends with an exception."""
    with pillow_sdl.using(device="cpu"):
        raise KeyError


def test_using_ends_with_its_block_however_that_ends() -> None:
    """An exception passes through, and the settings are those of before."""
    with pytest.raises(KeyError):
        leave_by_an_error()
    assert device() == "auto"


def test_configure_within_a_block_takes_nothing_over_from_it() -> None:
    """What is meant for a block stays there: the process keeps its own values."""
    with pillow_sdl.using(device="cpu"):
        pillow_sdl.configure()
    assert device() == "auto"


def enter(device: object) -> None:
    """A block with a device."""
    with pillow_sdl.using(device=device):
        pass


@pytest.mark.parametrize("bad", ["gpu", "cuda:", "cuda:x", "CPU", "", "cpu ", "cpu\n", "cuda:-1", None, 0, b"cpu"])
def test_a_bad_device_is_refused(bad: object) -> None:
    """By every way in; the message names it and what is allowed, and nothing is changed."""
    for action in (lambda: pillow_sdl.configure(device=bad), lambda: enter(bad)):
        with pytest.raises(ValueError, match=r"auto, cpu, mps, cuda, xpu.*not ") as caught:
            action()
        assert repr(bad) in str(caught.value)
        assert device() == "auto"


@pytest.mark.parametrize("good", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12", "xpu", "xpu:3"])
def test_a_good_device_is_taken(good: str) -> None:
    """Whether the machine has it is found out when a network runs."""
    assert pillow_sdl.configure(device=good).device == good


def test_an_unknown_setting_is_a_type_error() -> None:
    """As an unknown argument of any function is."""
    with pytest.raises(TypeError, match="speed"):
        pillow_sdl.configure(speed=9)
    with pytest.raises(TypeError, match="speed"), pillow_sdl.using(speed=9):
        pass


def test_settings_cannot_be_changed_in_place() -> None:
    """Threads that hold them see one state."""
    with pytest.raises(FrozenInstanceError):
        settings.current().device = "cpu"  # type: ignore[misc]


@pytest.mark.parametrize("absent", ["cuda", "cuda:7", "mps", "xpu"])
def test_a_device_that_the_machine_lacks_is_named(absent: str, plain_file: bytes, fresh_store: None) -> None:
    """By load and by save, as a ValueError: the file is not to blame."""
    import torch

    here = torch.accelerator.current_accelerator(check_available=True)
    if here is not None and absent.startswith(here.type):
        pytest.skip(f"this machine has {here.type}")
    with pillow_sdl.using(device=absent):
        with pytest.raises(ValueError, match=absent):
            images.opened(plain_file).load()
        with pytest.raises(ValueError, match=absent):
            images.saved(images.gradient())


def test_the_cpu_is_always_there(plain_file: bytes, fresh_store: None) -> None:
    """And gives the picture that auto gives, within a level."""
    with pillow_sdl.using(device="cpu"):
        found = images.values(images.opened(plain_file))
    assert abs(found - images.values(images.opened(plain_file))).max() <= 1
