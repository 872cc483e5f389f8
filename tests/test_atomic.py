"""atomic.py: a file has its new content or its old one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pillow_sdl import atomic

pytestmark = pytest.mark.plain

POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")


def test_a_file_is_replaced_and_keeps_its_permissions(tmp_path: Path) -> None:
    """Nothing else remains in its folder."""
    path = tmp_path / "a"
    atomic.write(path, b"first")
    path.chmod(0o600)
    mode = path.stat().st_mode
    atomic.write(path, b"second")
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode == mode
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_and_leaves_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller does not know the temporary file."""
    missing = tmp_path / "missing" / "a"
    with pytest.raises(FileNotFoundError) as caught:
        atomic.write(missing, b"")
    assert caught.value.filename == str(missing)

    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "full", str(self), None, str(target))

    path = tmp_path / "a"
    atomic.write(path, b"first")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="full") as caught_later:
        atomic.write(str(path), b"second")
    assert str(caught_later.value) == f"[Errno {errno.ENOSPC}] full: {str(path)!r}"
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


@POSIX
def test_devices_are_written_directly() -> None:
    """They stay what they are."""
    atomic.write("/dev/null", b"anything")
    assert Path("/dev/null").is_char_device()


@POSIX
def test_standard_output_may_be_a_pipe() -> None:
    """Its real path is the name of no file."""
    program = "from pillow_sdl import atomic; atomic.write('/dev/stdout', b'anything')"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert found.stdout == b"anything"
