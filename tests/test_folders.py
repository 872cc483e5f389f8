"""Many files: folders, worker processes, what is skipped and ignored, the summary, and Ctrl-C.

Most tests run the real program, with a time limit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pillow_sdl import cli, failures, settings
from pillow_sdl.cli import folders, printing
from pillow_sdl.cli.files import exists
from pillow_sdl.cli.signals import Interrupts
from pillow_sdl.cli.tasks import Made, Outcome, Task
from pillow_sdl.cli.workers import PATIENCE, Workers
from pillow_sdl.format import container

from . import images

pytestmark = pytest.mark.plain

PROGRAM = [sys.executable, "-m", "pillow_sdl"]

TIME_LIMIT = 120
"""Seconds after which a run fails.  It takes one or two on an idle machine."""

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find processes")

PICTURES = {
    "a.jpg": (48, 32),
    "UPPER.PNG": (24, 40),
    "two words.png": (40, 24),
    "ünï.webp": (33, 17),
    "sub/b.bmp": (16, 16),
    "sub/a.jpg": (47, 33),
    "sub/pages.tif": (20, 20),
    "sub/deep er/c.tif": (32, 32),
    "sub/deep er/ö.png": (9, 70),
    "sub/deep er/d.ppm": (8, 8),
    "z/e.jpg": (64, 64),
}
"""Pictures of the tree, by their paths, with their sizes.  One more is damaged."""

OUTPUTS = {Path(name).with_suffix(".sdl").as_posix() for name in PICTURES}

WARNING = "pages.tif: warning: only the first of 2 frames is stored"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with 12 pictures, one of them damaged, and with other files."""
    top = tmp_path / "in"
    for number, (name, size) in enumerate(PICTURES.items()):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = images.noise(*size, seed=number)
        more: dict[str, Any] = (
            {"save_all": True, "append_images": [images.gradient(*size)]} if path.stem == "pages" else {}
        )
        image.save(path, **more)
    whole = (top / "a.jpg").read_bytes()
    (top / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    (top / "sub" / "notes.txt").write_text("not a picture")
    (top / "video.mpg").write_bytes(b"\0\0\1\xb3" + bytes(100))
    (top / "old.sdl").write_bytes(images.saved(images.gradient()))
    (top / "._a.jpg").write_bytes(b"what macOS leaves on other file systems")
    (top / ".cache").mkdir()
    images.gradient().save(top / ".cache" / "x.png")
    return top


@pytest.fixture(scope="session")
def damaged() -> bytes:
    """An SDL file with a wrong byte."""
    return images.flipped(images.saved(images.gradient()), 8 * 60)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A tree of eleven SDL files."""
    top = tmp_path / "sdl"
    data = images.saved(images.gradient())
    for name in OUTPUTS:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(data)
    return top


def sdl(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the program."""
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True,
        check=False,
        encoding="utf-8",
        errors="backslashreplace",
        timeout=TIME_LIMIT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )


def contents(top: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder, also of hidden ones, by its path."""
    return {path.relative_to(top).as_posix(): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def snapshot(top: Path) -> dict[str, tuple[int, int]]:
    """Return when every file and folder was modified, and its size."""
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in [top, *top.rglob("*")]}


def summary(found: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines of the summary."""
    lines = found.stderr.splitlines()
    start = next(number for number, line in enumerate(lines) if line[0].isdigit())
    return [line.strip() for line in lines[start:]]


# The tree


def test_the_tree_is_kept(tree: Path, tmp_path: Path) -> None:
    """Every picture is encoded to its place; a damaged one stops nothing; the summary counts all files."""
    out = tmp_path / "out" / "new"
    found = sdl("encode", "--recursive", tree, "-o", out)
    assert found.returncode == 1
    assert found.stdout == ""
    assert contents(out).keys() == OUTPUTS
    for name, size in PICTURES.items():
        with Image.open(out / Path(name).with_suffix(".sdl")) as image:
            assert (image.format, image.size) == ("SDL", size)
            image.verify()
    before = sum((tree / name).stat().st_size for name in PICTURES)
    after = sum(map(len, contents(out).values()))
    lines = summary(found)
    assert lines[0].startswith("11 files encoded, 1 failed; ")
    assert lines[0].endswith(" files/s")
    assert lines[1] == f"bytes: {before:,} before, {after:,} after ({100 * after / before:.1f} %)"
    assert lines[2] == "failed: 1 x image file is truncated"
    assert sorted(lines[3:]) == ["ignored: 2 x hidden", "ignored: 3 x not a picture"]
    errors = found.stderr.splitlines()[: -len(lines)]
    assert len(errors) == 2
    assert errors[0].startswith(f"sdl: {tree / 'broken.jpg'}: image file is truncated")
    assert errors[1] == f"sdl: {tree / 'sub'}{os.sep}{WARNING}"


def test_several_processes_write_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    """With --jobs 1 and 2 for a tree, and without options for single files."""
    for jobs in (1, 2):
        found = sdl("encode", "-r", tree, "-o", tmp_path / f"out{jobs}", "--jobs", jobs)
        assert found.returncode == 1
        assert summary(found)[0].startswith("11 files encoded, 1 failed; ")
        assert WARNING in found.stderr
    (plain := tmp_path / "plain").mkdir()
    found = sdl("encode", *[tree / name for name in PICTURES if name != "sub/a.jpg"], "-o", plain)
    assert found.returncode == 0
    first = contents(tmp_path / "out1")
    assert len(first) == 11
    assert first == contents(tmp_path / "out2")
    assert contents(plain) == {Path(name).name: data for name, data in first.items() if name != "sub/a.sdl"}


def test_jobs_work_for_single_files(tree: Path, tmp_path: Path) -> None:
    """Files that are named go into one folder, or beside their inputs."""
    (out := tmp_path / "out").mkdir()
    names = ["a.jpg", "two words.png", "sub/b.bmp"]
    found = sdl("encode", "-j", 2, *[tree / name for name in names], tree / "none.png", "-o", out)
    assert found.returncode == 1
    assert contents(out).keys() == {"a.sdl", "two words.sdl", "b.sdl"}
    assert summary(found)[0].startswith("3 files encoded, 1 failed; ")
    found = sdl("encode", "-j", 2, *[tree / name for name in names])
    assert found.returncode == 0
    assert all((tree / name).with_suffix(".sdl").exists() for name in names)


def test_files_and_folders_are_mixed(tree: Path, tmp_path: Path) -> None:
    """A file that is named goes to the top of the tree; one that is named twice is done once."""
    images.noise().save(other := tmp_path / "other.png")
    out = tmp_path / "out"
    found = sdl("encode", "-r", other, tree / "sub", tree / "z", tree / "sub" / "b.bmp", "-o", out)
    assert found.returncode == 0
    below = {name.partition("/")[2] for name in OUTPUTS if name.startswith(("sub/", "z/"))}
    assert contents(out).keys() == {"other.sdl", *below}
    assert "ignored: 1 x named twice" in summary(found)


def test_recursive_makes_the_folder_for_files_alone(tree: Path, tmp_path: Path) -> None:
    """As for folders, so a script need not know which of its inputs are folders.  One file goes to a file."""
    names = [str(tree / "a.jpg"), str(tree / "sub" / "b.bmp")]
    assert cli.main(["encode", "-r", "--quiet", *names, "-o", str(tmp_path / "new" / "folder")]) == 0
    assert contents(tmp_path / "new").keys() == {"folder/a.sdl", "folder/b.sdl"}
    assert cli.main(["encode", "-r", "--quiet", names[0], "-o", f"{tmp_path / 'other'}/"]) == 0
    assert cli.main(["encode", "-r", "--quiet", names[0], "-o", str(tmp_path / "one.sdl")]) == 0
    assert contents(tmp_path / "other").keys() == {"a.sdl"}
    assert (tmp_path / "one.sdl").read_bytes() == (tmp_path / "other" / "a.sdl").read_bytes()


def test_decode_keeps_the_tree(files: Path, tmp_path: Path) -> None:
    """Other files are ignored; the format is that of --format."""
    (files / "notes.txt").write_text("")
    for jobs in (1, 2):
        found = sdl("decode", "-r", files, "-o", tmp_path / f"out{jobs}", "--format", "bmp", "-j", jobs)
        assert found.returncode == 0
        assert summary(found)[0].startswith("11 files decoded; ")
        assert summary(found)[-1] == "ignored: 1 x not an SDL file"
    first = contents(tmp_path / "out1")
    assert first.keys() == {name.removesuffix("sdl") + "bmp" for name in OUTPUTS}
    assert first == contents(tmp_path / "out2")
    with Image.open(tmp_path / "out1" / "z" / "e.bmp") as image:
        assert image.size == images.SIZE


@pytest.mark.parametrize("jobs", [1, 2])
def test_verify_finds_the_damaged_file(jobs: int, files: Path, damaged: bytes) -> None:
    """Its name and its kind are printed, on standard error only."""
    (files / "sub" / "deep er" / "ö.sdl").write_bytes(damaged)
    before = snapshot(files)
    found = sdl("verify", "-r", files, "-j", jobs)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith(f"sdl: {files / 'sub' / 'deep er' / 'ö.sdl'}: ")
    lines = summary(found)
    assert lines[0].startswith("10 files verified, 1 failed; ")
    assert lines[2:] == ["failed: 1 x a checksum does not match"]
    assert snapshot(files) == before


@needs_posix
def test_links_are_followed_to_files_only(tree: Path, tmp_path: Path) -> None:
    """A loop ends, a link to a file is a file, and a link to nothing is a file that fails."""
    (tree / "sub" / "loop").symlink_to("..")
    (tree / "sub" / "self").symlink_to("self")
    (tree / "link.png").symlink_to("two words.png")
    (tree / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(tree / "pipe.png")
    found = sdl("encode", "-r", tree, "-o", tmp_path / "out")
    assert contents(tmp_path / "out").keys() == {*OUTPUTS, "link.sdl"}
    lines = summary(found)
    assert lines[0].startswith("12 files encoded, 2 failed; ")
    assert "ignored: 1 x link to a folder" in lines
    assert "failed: 1 x No such file or directory" in lines


def test_a_folder_that_cannot_be_read_fails(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The files in other folders are processed."""
    scandir = os.scandir

    def refuse(place: str) -> Any:
        if Path(place).name == "sub":
            raise PermissionError(13, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    assert cli.main(["verify", "-r", str(files)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"sdl: {files / 'sub'}: Permission denied"
    assert lines[1].startswith("5 files verified, 1 failed; ")
    assert lines[3:] == ["  failed: 1 x Permission denied"]


# Before any work


def test_what_is_up_to_date_is_skipped(tree: Path, tmp_path: Path) -> None:
    """An output that is missing, or older than its input, is written; the others keep their bytes and their times."""
    (tree / "broken.jpg").unlink()
    arguments = ["encode", "-r", tree, "-o", out := tmp_path / "out", "--skip-existing"]
    assert sdl(*arguments).returncode == 0
    first = snapshot(out)
    found = sdl(*arguments, "--jobs", "2")
    assert found.returncode == 0
    assert summary(found)[0].startswith("0 files encoded, 11 up to date; ")
    assert snapshot(out) == first
    images.noise(30, 30).save(tree / "a.jpg")
    time_of_output = (out / "a.sdl").stat().st_mtime_ns
    os.utime(tree / "a.jpg", ns=(time_of_output + 10**9,) * 2)
    os.utime(tree / "UPPER.PNG", ns=((out / "UPPER.sdl").stat().st_mtime_ns,) * 2)  # Equal times: not older.
    (out / "z" / "e.sdl").unlink()
    found = sdl(*arguments)
    assert found.returncode == 0
    assert summary(found)[0].startswith("2 files encoded, 9 up to date; ")
    second = snapshot(out)
    changed = {path for path, state in second.items() if first.get(path) != state and Path(path).is_file()}
    assert changed == {str(out / "a.sdl"), str(out / "z" / "e.sdl")}
    with Image.open(out / "a.sdl") as image:
        assert image.size == (30, 30)


def test_outputs_that_exist_are_kept(tree: Path, tmp_path: Path) -> None:
    """Without -f each is a failure of its own, named before any work."""
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    for name in ("a.sdl", "sub/b.sdl"):
        (out / name).write_bytes(b"precious")
    found = sdl("encode", "-r", tree, "-o", out, "-j", 2)
    assert found.returncode == 1
    assert (out / "a.sdl").read_bytes() == (out / "sub" / "b.sdl").read_bytes() == b"precious"
    assert contents(out).keys() == OUTPUTS
    assert found.stderr.startswith(f"sdl: {out / 'a.sdl'}: the file exists; -f replaces it\n")
    lines = summary(found)
    assert lines[0].startswith("9 files encoded, 3 failed; ")
    assert lines[2:4] == ["failed: 2 x the file exists", "failed: 1 x image file is truncated"]


def test_a_dry_run_writes_nothing(tree: Path, tmp_path: Path) -> None:
    """It prints what would be done and what would fail.  No folder is made, and none is changed."""
    before = snapshot(tmp_path)
    found = sdl("encode", "-r", tree, "-o", out := tmp_path / "out", "--dry-run")
    assert found.returncode == 0
    expected = {f"{tree / name} -> {(out / name).with_suffix('.sdl')}" for name in [*PICTURES, "broken.jpg"]}
    assert set(found.stdout.splitlines()) == expected
    assert summary(found)[0] == "12 files would be encoded"
    assert snapshot(tmp_path) == before
    out.mkdir()
    (out / "a.sdl").write_bytes(b"precious")
    before = snapshot(tmp_path)
    found = sdl("encode", "-r", tree, "-o", out, "--dry-run", "--jobs", 2)
    assert found.returncode == 1
    assert summary(found)[:2] == ["11 files would be encoded, 1 failed", "failed: 1 x the file exists"]
    assert sdl("verify", "-r", tree, "--dry-run").stdout == f"{tree / 'old.sdl'}\n"
    assert snapshot(tmp_path) == before


def test_a_dry_run_makes_no_temporary_file(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether a folder may be written is asked of the system, not tried as before real work."""
    (out := tmp_path / "out").mkdir()

    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert cli.main(["encode", "-r", str(tree / "z"), "-o", str(out), "--dry-run"]) == 0
    assert cli.main(["encode", "-r", str(tree / "z"), "-o", str(out)]) == 1
    monkeypatch.setattr(os, "access", lambda *_: False)
    capsys.readouterr()
    assert cli.main(["encode", "-r", str(tree / "z"), "-o", str(out), "--dry-run"]) == 1
    assert capsys.readouterr().err.startswith(f"sdl: {out / 'e.sdl'}: Permission denied\n")


def test_outputs_can_keep_the_extensions_of_their_inputs(tmp_path: Path) -> None:
    """Pictures that differ in the extension alone get different outputs, in a tree, in a folder and beside them."""
    (folder := tmp_path / "photos").mkdir()
    (out := tmp_path / "out").mkdir()
    inputs = [folder / "a.jpg", folder / "a.png"]
    for path in inputs:
        images.gradient().save(path)
    encode = ["encode", "--quiet", "--keep-extension", "--effort", "0"]
    assert cli.main([*encode, "-r", str(folder), "-o", str(tmp_path / "tree")]) == 0
    assert cli.main([*encode, *map(str, inputs), "-o", str(out)]) == 0
    assert cli.main([*encode, *map(str, inputs)]) == 0
    names = {"a.jpg.sdl", "a.png.sdl"}
    assert {path.name for path in (tmp_path / "tree").iterdir()} == {path.name for path in out.iterdir()} == names
    assert {path.name for path in folder.iterdir()} == {"a.jpg", "a.png"} | names


def test_two_inputs_with_one_output_are_refused(tree: Path, tmp_path: Path) -> None:
    """The status is 2, both inputs of each pair are named, and nothing is done."""
    images.noise().save(tree / "a.png")
    images.noise().save(tree / "sub" / "b.tif")
    found = sdl("encode", "-r", "-f", tree, "-o", out := tmp_path / "out")
    assert found.returncode == 2
    assert f"{tree / 'a.jpg'} and {tree / 'a.png'} would both be written to {out / 'a.sdl'}\n" in found.stderr
    assert f"{tree / 'sub' / 'b.bmp'} and {tree / 'sub' / 'b.tif'} would both" in found.stderr
    assert "--keep-extension gives them different names" in found.stderr
    assert not out.exists()
    for option in ("--skip-existing", "--dry-run"):
        assert sdl("encode", "-r", option, tree, "-o", out).returncode == 2
    found = sdl("encode", "-r", tree / "z", tree / "sub", tree, "-o", out)  # sub/a.jpg and a.jpg
    assert found.returncode == 2
    assert f"{tree / 'sub' / 'a.jpg'} and {tree / 'a.jpg'} would both" in found.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "-r", "-"], "standard input"),
        (["encode", "-j", "2", "a.jpg", "-o", "-"], "standard output"),
        (["decode", "--dry-run", "-"], "standard input"),
        (["encode", "-r", ".", "-o", "a.jpg"], "-o must be a folder"),
        (["encode", "-j", "2", "a.jpg", "sub/a.jpg", "-o", "none"], "existing folder"),
        (["encode", "-j", "0", "a.jpg"], "must be 1 to 60"),
        (["encode", "-j", "61", "a.jpg"], "must be 1 to 60"),
        (["verify", "-j", "two", "old.sdl"], "must be 1 to 60"),
        (["verify", "--skip-existing", "old.sdl"], "unrecognized arguments"),
    ],
)
def test_wrong_command_lines(
    arguments: list[str],
    message: str,
    tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The status is 2, and nothing is done."""
    monkeypatch.chdir(tree)
    before = snapshot(tree)
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
    assert snapshot(tree) == before


def test_quiet_prints_errors_and_warnings_only(tree: Path, tmp_path: Path) -> None:
    """There is no summary."""
    found = sdl("encode", "-r", tree, "-o", tmp_path / "out", "--quiet", "-j", 2)
    assert (found.returncode, found.stdout) == (1, "")
    lines = found.stderr.splitlines()
    assert len(lines) == 2
    assert any(WARNING in line for line in lines)
    assert any("broken.jpg: image file is truncated" in line for line in lines)
    found = sdl("encode", "-r", tree / "z", "-o", tmp_path / "z", "--quiet", "--dry-run")
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_a_file_that_appears_meanwhile_is_kept(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program may write an output after the plan; it is not replaced without -f."""
    target = tmp_path / "out" / "e.sdl"

    def make(*_: object) -> Made:
        target.parent.mkdir()
        target.write_bytes(b"precious")
        return Made("", b"new")

    monkeypatch.setattr("pillow_sdl.cli.encode.COMMAND", _command(make))
    assert cli.main(["encode", "-r", str(tree / "z"), "-o", str(target.parent)]) == 1
    assert target.read_bytes() == b"precious"


def _command(make: Any) -> folders.Command:
    from pillow_sdl.cli import encode

    return encode.COMMAND._replace(make=make)


@needs_posix
def test_a_terminal_shows_one_bar_for_all_files(files: Path, damaged: bytes) -> None:
    """It shows how many files are done, the rate and the time that is left.  Errors are lines of their own."""
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    import termios

    (files / "a.sdl").write_bytes(damaged)
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (30, 100))
    process = subprocess.Popen(
        [*PROGRAM, "verify", "-r", files], stderr=theirs, env=os.environ | {"TQDM_MININTERVAL": "0"}
    )
    os.close(theirs)
    text = b""
    try:
        while chunk := os.read(ours, 4096):
            text += chunk
    except OSError:  # Linux's answer when the other side is closed.
        pass
    os.close(ours)
    assert process.wait(TIME_LIMIT) == 1
    shown = text.decode().replace("\r", "\n").splitlines()
    bars = [line for line in shown if "of 11 files |" in line]
    assert bars[0].startswith("verified: 0 of 11 files")
    assert " files/s, " in bars[-1]
    assert bars[-1].rstrip().endswith(" left")
    assert any(line.startswith(f"sdl: {files / 'a.sdl'}: ") for line in shown)


# Ctrl-C


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A folder of 40 pictures, with which one process is busy for several seconds."""
    (top := tmp_path / "in").mkdir()
    for number in range(40):
        images.gradient(500 + number, 400).save(top / f"{number}.png", compress_level=1)
    return top


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("utf-8").split()]
    except OSError:
        return []


def is_running(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def is_worker(pid: int) -> bool:
    """Whether a process is a worker, and not one that `multiprocessing` starts for itself."""
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()


def blocks_sigint(pid: int) -> bool:
    """Whether SIGINT does not reach a process, from its start on."""
    status = Path(f"/proc/{pid}/status").read_text("utf-8")
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk:"))
    return bool(int(mask, 16) >> (signal.SIGINT - 1) & 1)


def started(large: Path, out: Path, jobs: int) -> subprocess.Popen[str]:
    """Start to encode a folder, and return when some files are written."""
    command = [*PROGRAM, "encode", "-r", str(large), "-o", str(out), "--jobs", str(jobs)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    limit = time.monotonic() + TIME_LIMIT
    while len(list(out.glob("*.sdl"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.01)
    return process


def gone(processes: list[int]) -> bool:
    """Whether all processes end within ten seconds."""
    limit = time.monotonic() + 10
    while any(map(is_running, processes)) and time.monotonic() < limit:
        time.sleep(0.05)
    return not any(map(is_running, processes))


@needs_posix
@needs_proc
@pytest.mark.parametrize(("jobs", "everyone"), [(1, False), (2, False), (2, True)])
def test_ctrl_c_ends_the_program_and_leaves_whole_files(jobs: int, everyone: bool, large: Path, tmp_path: Path) -> None:
    """With the signal to the main process, and to all processes as a terminal sends it.

    The limit of five seconds is for slow machines: the program ends in less than one on an idle machine.
    """
    out = tmp_path / "out"
    process = started(large, out, jobs)
    workers = children(process.pid)
    assert [blocks_sigint(pid) for pid in workers if is_worker(pid)] == [True] * (jobs if jobs > 1 else 0)
    start = time.monotonic()
    (os.killpg if everyone else os.kill)(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=TIME_LIMIT)
    assert time.monotonic() - start < 5
    assert process.returncode == 130
    found = contents(out)
    assert 3 <= len(found) < 40
    assert all(name.endswith(".sdl") and not name.startswith(".") for name in found)
    for name in found:
        with (out / name).open("rb") as file:
            container.read(file, strict=True)
    lines = error.splitlines()
    assert lines[0].startswith(f"{len(found)} files encoded, {40 - len(found)} not reached; ")
    assert lines[-1] == "sdl: interrupted"
    assert len(lines) == 3
    assert gone(workers)


@needs_posix
@needs_proc
def test_ctrl_c_before_the_workers_are_ready(large: Path, tmp_path: Path) -> None:
    """Processes that are starting receive the signal too, and print nothing."""
    for wait in (0, 0.05, 0.1, 0.2):
        command = [*PROGRAM, "encode", "-r", str(large), "-o", str(tmp_path / "out"), "--jobs", "3"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        limit = time.monotonic() + TIME_LIMIT
        while len(children(process.pid)) < 2:
            assert process.poll() is None
            assert time.monotonic() < limit
        time.sleep(wait)
        processes = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=TIME_LIMIT)
        assert process.returncode == 130
        assert error.splitlines()[-1] == "sdl: interrupted"
        assert "Traceback" not in error
        assert "Error" not in error
        assert gone(processes)


@needs_posix
@needs_proc
def test_workers_end_with_the_main_process(large: Path, tmp_path: Path) -> None:
    """Also if it is killed and cannot end them."""
    process = started(large, tmp_path / "out", 2)
    workers = children(process.pid)
    process.kill()
    _, error = process.communicate(timeout=TIME_LIMIT)
    assert gone(workers)
    assert "Traceback" not in error


def test_an_interrupt_waits_until_a_file_is_written() -> None:
    """It is raised after the block, and again by `check` if other code has swallowed it."""
    steps = []
    with Interrupts() as interrupts:
        interrupts.check()

        def write() -> None:
            with interrupts.held():
                signal.raise_signal(signal.SIGINT)
                steps.append("written")

        with pytest.raises(KeyboardInterrupt):
            write()
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert steps == ["written"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_during_a_write_leaves_a_whole_file(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal comes after the temporary file was made, where atomic.py alone could not delete it."""
    open_path = Path.open

    def interrupted(path: Path, mode: str = "r", **options: Any) -> Any:
        found = open_path(path, mode, **options)
        if mode == "xb":
            signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr(Path, "open", interrupted)
    out = tmp_path / "out"
    assert cli.main(["encode", "-r", str(tree / "z"), str(tree / "sub"), "-o", str(out)]) == 130
    assert contents(out).keys() == {"e.sdl"}
    with Image.open(out / "e.sdl") as image:
        image.verify()


def test_an_ignored_interrupt_stays_ignored() -> None:
    """As in a background job of a shell."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts, interrupts.held():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


# Worker processes


def threads(task: Task, options: Namespace) -> Made:
    """Work of a test: return the number of threads, and some warnings."""
    printing.warn(task.name, f"{options.note}")
    return Made(f"{settings.current().threads}", b"")


def die(task: Task, _: Namespace) -> Made:
    """Work of a test: end the process in two ways, or not."""
    if task.name == "exit":
        os._exit(7)
    if task.name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return Made("good")


def sleep(task: Task, _: Namespace) -> Made:
    """Work of a test: take a minute, or no time."""
    if task.name == "long":
        time.sleep(60)
    return Made("good")


class Poison:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (5,)


def outcomes(make: Any, names: list[str], jobs: int, **options: Any) -> dict[str, Outcome]:
    """Let worker processes do tasks."""
    with Workers(jobs, (make, Namespace(**options), jobs), Interrupts()) as workers:
        return {task.name: outcome for task, outcome in workers.outcomes(map(Task, names))}


@pytest.mark.parametrize(("given", "jobs", "share"), [(5, 2, "2"), (1, 2, "1"), (4, 1, "4")])
def test_the_threads_are_divided(given: int, jobs: int, share: str) -> None:
    """Each process gets its share, at least one.  Warnings come back with the outcome."""
    found = outcomes(threads, ["x", "y", "z"], jobs, threads=given, note="odd")
    assert {name: outcome.made for name, outcome in found.items()} == dict.fromkeys("xyz", Made(share, b""))
    assert found["x"].messages == ("sdl: x: warning: odd",)


def test_the_environment_gives_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """OMP_NUM_THREADS is divided; PILLOW_SDL_THREADS counts before it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert outcomes(threads, ["x"], 2, note="")["x"].made == Made("3", b"")
    monkeypatch.setenv("PILLOW_SDL_THREADS", "8")
    assert outcomes(threads, ["x"], 2, note="")["x"].made == Made("4", b"")


@needs_posix
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_process_that_dies_fails_one_file(jobs: int) -> None:
    """Another process takes its place."""
    found = outcomes(die, ["a", "exit", "b", "kill", "c"], jobs)
    assert [name for name, outcome in found.items() if outcome.made] == ["a", "b", "c"] or jobs == 2
    assert {name for name, outcome in found.items() if outcome.made} == {"a", "b", "c"}
    failures = {name: outcome.failure for name, outcome in found.items() if outcome.failure}
    assert failures["exit"] == ("exit", "its process ended with status 7", "a process ended with status 7")
    assert "was killed, perhaps because memory ran out" in failures["kill"].text


def test_a_process_that_died_holds_nothing() -> None:
    """Its connection is closed.  No process is started for which there is no task."""
    with Workers(1, (die, Namespace(), 1), Interrupts()) as workers:
        started, found = [], workers.outcomes(map(Task, ["exit", "a", "exit"]))
        for _, outcome in found:
            started += [worker for worker in workers._workers if worker not in started]
            assert len(workers._workers) <= 1
            assert outcome.made or outcome.failure
        assert len(started) == 1
        assert workers._workers == []


def test_processes_that_cannot_start_are_an_error(tree: Path, tmp_path: Path) -> None:
    """There is no endless row of attempts."""
    with pytest.raises(failures.RefusedError, match="a worker process cannot be started: it ended with status 5"):
        outcomes(Poison(), ["a", "b"], 2)


def test_busy_processes_are_killed_after_an_error() -> None:
    """Nothing waits for work whose result nobody wants."""
    start: list[float] = []

    def fail() -> None:
        with Workers(2, (sleep, Namespace(), 2), Interrupts()) as workers:
            next(workers.outcomes(map(Task, ["long", "short", "long"])))
            start.append(time.monotonic())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert time.monotonic() - start[0] < PATIENCE


def test_kinds_of_failures() -> None:
    """Similar failures have one kind, whatever the details in their messages."""
    assert failures.kind(OSError("image file is truncated (51 bytes not processed)")) == "image file is truncated"
    assert failures.kind(exists("x")) == "the file exists"
    assert failures.kind(KeyError("x")) == "KeyError"
    assert failures.kind(OSError(2, "No such file or directory", "x")) == "No such file or directory"
    assert failures.kind(Image.DecompressionBombError("Image size (1 pixels) exceeds ...")) == failures.KINDS[4][1]
