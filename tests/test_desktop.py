"""`sdl desktop` and `sdl thumbnail`, with the tools of a Linux desktop where they are installed."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from PIL import Image

from pillow_sdl import cli, desktop
from pillow_sdl.models import store

from . import images

pytestmark = pytest.mark.plain

TUMBLER = Path("/usr/lib", f"{os.uname().machine}-linux-gnu" if hasattr(os, "uname") else "", "tumbler-1", "tumblerd")

QUEUE = """
{tumblerd} &
trap 'kill %1' EXIT
bus=org.freedesktop.thumbnails.Thumbnailer1
path=/org/freedesktop/thumbnails/Thumbnailer1
gdbus wait --session --timeout 20 $bus
gdbus call --session --dest $bus --object-path $path --method $bus.Queue \
    "['file://{picture}']" "['image/x-sdl']" normal foreground 0
for _ in $(seq 300); do
    if tail -c 8 "$XDG_CACHE_HOME"/thumbnails/normal/*.png | grep -qa IEND; then exit 0; fi
    sleep 0.2
done
exit 1
"""
"""Asks tumbler, the thumbnailer of Xfce, for a thumbnail, and waits until the last chunk of its PNG is there."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder and an empty cache of a user."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def need(*programs: str) -> None:
    """Skip the test unless these programs are installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


# Thumbnails


@pytest.mark.parametrize(("size", "expected"), [(16, (16, 10)), (128, (128, 80)), (300, (300, 188)), (900, (320, 200))])
def test_a_thumbnail_has_the_size_that_is_asked_for(size: int, expected: tuple[int, int], tmp_path: Path) -> None:
    """On its longer side.  Small pictures keep their size."""
    source, target = tmp_path / "a.sdl", tmp_path / "a.png"
    source.write_bytes(images.saved(images.gradient(320, 200)))
    assert cli.main(["thumbnail", "-s", str(size), str(source), str(target)]) == 0
    with Image.open(target) as found:
        assert (found.format, found.size) == ("PNG", expected)
        assert images.difference(found.convert("RGB"), images.gradient(320, 200).resize(expected)) < 12


def test_a_small_thumbnail_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file manager shows a folder of thousands of files."""
    source = tmp_path / "a.sdl"
    source.write_bytes(images.saved(images.gradient(1024, 600)))

    def fail(*_: object) -> None:
        msg = "the network was loaded"
        raise AssertionError(msg)

    monkeypatch.setattr(store, "load", fail)
    assert cli.main(["thumbnail", "-s", "256", str(source), str(tmp_path / "a.png")]) == 0


def test_an_output_that_is_open_is_written_into(tmp_path: Path) -> None:
    """Thumbnailers make the output first and read it through the handle that they have."""
    source, target = tmp_path / "a.sdl", tmp_path / "a.png"
    source.write_bytes(images.saved(images.gradient()))
    with target.open("w+b") as handle:
        assert cli.main(["thumbnail", str(source), str(target)]) == 0
        assert Image.open(io.BytesIO(handle.read())).size == images.SIZE


def test_an_sdl_file_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`sdl thumbnail *.sdl` gives the second file as the output."""
    paths = [tmp_path / "a.sdl", tmp_path / "b.sdl"]
    for path in paths:
        path.write_bytes(data := images.saved(images.gradient()))
    for output in paths:
        assert cli.main(["thumbnail", str(paths[0]), str(output)]) == 1
        assert f"{output}: this is an SDL file" in capsys.readouterr().err
        assert output.read_bytes() == data


def test_a_thumbnail_is_turned_as_exif_says(tmp_path: Path) -> None:
    """File managers turn no pictures."""
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.sdl").write_bytes(images.saved(images.gradient(96, 64), exif=exif))
    assert cli.main(["thumbnail", "-s", "48", str(tmp_path / "a.sdl"), str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (32, 48)
        assert 0x0112 not in image.getexif()


def test_the_thumbnailer_takes_no_code_from_the_current_folder(tmp_path: Path) -> None:
    """A folder of downloads may hold a file that is named like a module."""
    (tmp_path / "a.sdl").write_bytes(images.saved(images.gradient()))
    (tmp_path / "tempfile.py").write_text("raise SystemExit(7)")
    line = next(line for line in desktop.thumbnailer().splitlines() if line.startswith("Exec="))
    command = line.removeprefix("Exec=").replace("%s", "32").replace("%i", "a.sdl").replace("%o", "a.png")
    assert subprocess.run(command, shell=True, cwd=tmp_path, check=False).returncode == 0  # noqa: S602  as desktops do
    assert (tmp_path / "a.png").exists()


def test_a_file_of_another_format_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing is written."""
    images.gradient().save(tmp_path / "a.png")
    assert cli.main(["thumbnail", str(tmp_path / "a.png"), str(tmp_path / "b.png")]) == 1
    assert "not an SDL file" in capsys.readouterr().err
    assert not (tmp_path / "b.png").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell and POSIX file descriptors")
@pytest.mark.parametrize(
    ("arguments", "redirection", "message"),
    [
        ("- a.png", "<&-", "standard input: it is closed"),
        ("a.sdl -", ">&-", "standard output: it is closed"),
        (". a.png", "", ".: this is a folder; name a file in it"),
        ("a.sdl gone/a.png", "", "gone/a.png: No such file or directory"),
    ],
)
def test_a_wrong_input_or_output_is_named(arguments: str, redirection: str, message: str, tmp_path: Path) -> None:
    """The status is 1, without a traceback."""
    (tmp_path / "a.sdl").write_bytes(images.saved(images.gradient()))
    command = f"{sys.executable} -m pillow_sdl thumbnail {arguments} {redirection}"
    found = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S602
    assert (found.returncode, found.stderr) == (1, f"sdl: {message}\n")


def test_a_terminal_gets_no_thumbnail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its bytes would be commands to it.  An empty name of an output is a wrong command line."""
    (tmp_path / "a.sdl").write_bytes(images.saved(images.gradient()))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert cli.main(["thumbnail", str(tmp_path / "a.sdl"), "-"]) == 1
    assert "a terminal cannot show this file" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["thumbnail", str(tmp_path / "a.sdl"), ""])


@pytest.mark.parametrize("size", ["0", "-1", "4097", "x"])
def test_a_wrong_size_is_refused(size: str) -> None:
    """The program exits with status 2."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["thumbnail", f"--size={size}", "a", "b"])
    assert caught.value.code == 2


# The desktop


def test_what_is_installed_can_be_uninstalled(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both commands name the files.  Files of other programs stay."""
    other = home / "data" / "mime" / "packages" / "other.xml"
    other.parent.mkdir(parents=True)
    other.write_text('<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info"/>')
    assert cli.main(["desktop", "install"]) == 0
    paths = [home / "data" / name for name in desktop.FILES]
    said = capsys.readouterr().err
    assert all(f"installed: {path}" in said and path.is_file() for path in paths)
    assert ET.parse(paths[0]).getroot()[0].get("type") == desktop.MEDIA_TYPE  # noqa: S314  made by this test
    assert f"TryExec={sys.executable}" in paths[1].read_text()
    assert cli.main(["desktop", "install", "--quiet"]) == 0
    assert cli.main(["desktop", "uninstall"]) == 0
    said = capsys.readouterr().err
    assert all(f"deleted: {path}" in said and not path.exists() for path in paths)
    assert other.is_file()
    assert not paths[1].parent.exists()
    assert cli.main(["desktop", "uninstall"]) == 0
    assert "nothing to delete" in capsys.readouterr().err


def test_all_users_can_have_it(tmp_path: Path) -> None:
    """--prefix takes the place of the user's folder."""
    assert cli.main(["desktop", "install", "--quiet", "--prefix", str(tmp_path)]) == 0
    assert (tmp_path / "share" / desktop.THUMBNAILER_FILE).is_file()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message has the reason."""
    (tmp_path / "share").write_text("a file")
    assert cli.main(["desktop", "install", "--prefix", str(tmp_path)]) == 1
    assert str(tmp_path / "share") in capsys.readouterr().err


def test_a_user_without_a_home_must_name_a_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a container that runs under any number of a user."""

    def fail() -> Path:
        msg = "Could not determine home directory."
        raise RuntimeError(msg)

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    for command in ("install", "uninstall"):
        assert cli.main(["desktop", command]) == 1
        assert capsys.readouterr().err == "sdl: this user has no home folder: name a folder with --prefix\n"


def test_a_relative_data_folder_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The XDG specification demands it."""
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert desktop.data_folder() == Path.home() / ".local" / "share"


@pytest.mark.parametrize("name", ["a.sdl", "without_extension"])
def test_the_desktop_knows_the_media_type(name: str, home: Path) -> None:
    """By the extension and by the signature, through GIO."""
    need("gio", "update-mime-database")
    picture = home / name
    picture.write_bytes(images.saved(images.gradient()))
    assert cli.main(["desktop", "install", "--quiet"]) == 0
    command = ["gio", "info", "-a", "standard::content-type", str(picture)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1].split() == ["standard::content-type:", desktop.MEDIA_TYPE]


def test_a_file_manager_gets_its_thumbnail(home: Path) -> None:
    """Tumbler runs the command, and its cache then has the picture."""
    need("dbus-run-session", "gdbus", "update-mime-database")
    if not TUMBLER.exists():
        pytest.skip("tumbler is not installed")
    picture = home / "a.sdl"
    picture.write_bytes(images.saved(images.gradient(320, 200)))
    assert cli.main(["desktop", "install", "--quiet"]) == 0
    script = QUEUE.format(tumblerd=TUMBLER, picture=picture)
    command = ["dbus-run-session", "--", "bash", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = (home / "cache" / "thumbnails" / "normal").glob("*.png")
    with Image.open(found) as image:
        assert image.size == (128, 80)
        assert images.difference(image.convert("RGB"), images.gradient(128, 80)) < 12
