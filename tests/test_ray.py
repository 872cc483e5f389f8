"""Pictures on a Ray cluster: nothing is lost or doubled when workers die, bad inputs are rows of a report.

All tests use one real Ray with two CPUs on this machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from PIL import Image

import pillow_sdl
import pillow_sdl.ray as cluster
from pillow_sdl import cli
from pillow_sdl.errors import BackendError

from . import images
from .conftest import ROOT

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
fsspec_local = pytest.importorskip("fsspec.implementations.local")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"
)
"""Of Ray's own code."""

GOOD = [f"{'sub/' if number % 3 == 0 else ''}{number:02}.png" for number in range(16)]
"""Pictures that can be encoded."""

BAD = {
    "empty.jpg": "not a picture that Pillow can read",
    "cut.png": "image file is truncated",
    "text.png": "not a picture that Pillow can read",
}
"""Files that cannot be encoded, and how the reasons begin."""

DEADLY = "deadly.png"
"""A picture whose reader kills its process, as one that needs more memory than there is."""

TIME_LIMIT = 300
"""Seconds after which the program fails.  It takes a few on an idle machine."""


class Deadly(fsspec_local.LocalFileSystem):  # type: ignore[misc, name-defined]  # has no types
    """The local file system.  Its users die of the picture `DEADLY`."""

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if path.endswith(f"/{DEADLY}"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._open(path, mode=mode, **options)


@pytest.fixture(scope="module", autouse=True)
def address() -> Iterator[str]:
    """The address of a Ray of two CPUs.  Its workers import the package and the tests from this checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.delenv("RAY_ADDRESS", raising=False)
        for name in ("RAY_USAGE_STATS_ENABLED", "RAY_worker_niceness"):
            patch.setenv(name, "")  # So that it is as before after the tests.
            patch.delenv(name)
        cluster.connect("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        yield ray.get_runtime_context().gcs_address
        cluster.disconnect()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of pictures with other files."""
    top = tmp_path_factory.mktemp("photos")
    (top / "sub").mkdir()
    for number, name in enumerate(GOOD):
        images.noise(96, 64, seed=number).save(top / name)
    images.gradient().save(top / DEADLY)
    (top / "empty.jpg").touch()
    (top / "text.png").write_text("text")
    images.noise(64, 64).save(top / "cut.png")
    (top / "cut.png").write_bytes((top / "cut.png").read_bytes()[:2000])
    (top / "notes.txt").write_text("not a picture")
    (top / ".hidden.png").write_bytes(b"")
    (top / "sub" / "circle").symlink_to(top, target_is_directory=True)
    return top


class Killed(NamedTuple):
    """A run with a killed worker.   process: its pid.   before: outputs at that time, with when they were modified."""

    report: list[dict[str, Any]]
    out: Path
    process: int
    before: dict[Path, int]


def workers() -> list[int]:
    """Return the processes of this Ray that hold a network."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            grandparent = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):  # The process has ended.
            continue
        if title.startswith(b"ray::MapWorker") and grandparent == os.getpid():
            found.append(int(folder.name))
    return found


@pytest.fixture(scope="module")
def killed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """A run of two workers on all pictures.  One worker is killed when two outputs are there."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc to find processes")
    out = tmp_path_factory.mktemp("killed")
    killed: list[tuple[int, dict[Path, int]]] = []

    def kill() -> None:
        while len(list(out.rglob("*.sdl"))) < 2:
            time.sleep(0.02)
        process = workers()[0]
        before = {path: path.stat().st_mtime_ns for path in out.rglob("*.sdl")}
        os.kill(process, signal.SIGKILL)
        killed.append((process, before))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    report = cluster.encode(photos, out, filesystem=Deadly(), concurrency=2, effort=3)
    killer.join()
    return Killed(report.to_pylist(), out, *killed[0])


def test_nothing_is_lost_and_nothing_is_doubled(killed: Killed, photos: Path) -> None:
    """Every picture has one row, and every good one has one valid output, although a worker was killed."""
    assert killed.process not in workers()
    assert len(killed.before) < len(GOOD)
    names = [Path(row["path"]).relative_to(photos).as_posix() for row in killed.report]
    assert names == sorted([*GOOD, *BAD, DEADLY])
    encoded = {row["output"]: row["output_bytes"] for row in killed.report if row["status"] == "encoded"}
    assert len(encoded) == len(GOOD)
    found = {path.as_posix(): path.stat().st_size for path in killed.out.rglob("*") if path.is_file()}
    assert found == encoded
    for name in GOOD:
        with Image.open(killed.out / Path(name).with_suffix(".sdl")) as image:
            image.verify()


def test_complete_outputs_are_not_written_again(killed: Killed) -> None:
    """Those that were there when the worker was killed are as they were."""
    assert killed.before == {path: path.stat().st_mtime_ns for path in killed.before}


def test_files_are_those_of_other_ways_to_encode(killed: Killed, photos: Path) -> None:
    """Byte by byte."""
    with Image.open(photos / GOOD[1]) as image:
        expected = images.saved(image, effort=3)
    assert (killed.out / GOOD[1]).with_suffix(".sdl").read_bytes() == expected


def test_bad_inputs_are_rows(killed: Killed) -> None:
    """With their reason; a picture that ends its process several times is given up."""
    rows = {Path(row["path"]).name: row for row in killed.report}
    for name, reason in BAD.items():
        assert rows[name]["status"] == "failed"
        assert rows[name]["error"].startswith(reason)
        assert rows[name]["error"].startswith(rows[name]["kind"])
        assert rows[name]["output_bytes"] == 0
    assert rows[DEADLY]["error"] == "its process was killed 3 times, perhaps because memory ran out"
    for name in (Path(name).name for name in GOOD):
        assert (rows[name]["error"], rows[name]["kind"], rows[name]["warnings"]) == ("", "", [])
        assert rows[name]["seconds"] > 0
        assert rows[name]["input_bytes"] > rows[name]["output_bytes"] > 0


def test_a_second_run_does_the_rest(killed: Killed, photos: Path) -> None:
    """Outputs that are up to date are skipped; an output older than its picture, and a missing one, are planned."""
    plan = cluster.make_plan(photos, killed.out)
    assert [Path(row["path"]).relative_to(photos).as_posix() for row in plan.rows] == sorted(GOOD)
    assert {row["status"] for row in plan.rows} == {"skipped"}
    assert {Path(job.path).name for job in plan.jobs} == {*BAD, DEADLY}
    assert plan.ignored == 2
    output = (killed.out / GOOD[2]).with_suffix(".sdl")
    times = output.stat().st_atime_ns, output.stat().st_mtime_ns
    os.utime(output, ns=(0, 0))
    try:
        assert (photos / GOOD[2]).as_posix() in {job.path for job in cluster.make_plan(photos, killed.out).jobs}
    finally:
        os.utime(output, ns=times)
    again = cluster.encode(photos / "sub", killed.out / "sub")
    assert again.column("status").to_pylist() == ["skipped"] * sum(name.startswith("sub/") for name in GOOD)


def test_an_output_that_has_changed_since_the_plan_is_complete(tmp_path: Path, photos: Path) -> None:
    """An actor that died has written it.  Warnings of others are in the report."""
    first, second = tmp_path / "a.png", tmp_path / "b.tiff"
    images.gradient().save(first)
    images.noise(20, 20).save(second, save_all=True, append_images=[images.gradient(20, 20)])
    plan = cluster.make_plan([first, second], None)
    first.with_suffix(".sdl").write_bytes(b"complete")
    work = cluster.Work(False, {"effort": 0}, plan.source, plan.target)
    rows = {Path(row["path"]).name: row for row in cluster.run(plan.jobs, work, 1)}
    assert (rows["a.png"]["status"], rows["a.png"]["output_bytes"]) == ("encoded", 8)
    assert first.with_suffix(".sdl").read_bytes() == b"complete"
    assert rows["b.tiff"]["warnings"] == ["only the first of 2 frames is stored"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.sdl", "b.sdl", "b.tiff"]


def test_programs_have_their_own_pipelines(photos: Path) -> None:
    """`Encoder` takes what Ray Data reads, and keeps other columns."""
    names = [photos / GOOD[1], photos / "text.png"]
    files = ray.data.read_binary_files([str(name) for name in names], include_paths=True)
    done = files.map_batches(
        cluster.Encoder,
        fn_constructor_kwargs={"quality": 20, "effort": 0},
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
    )
    rows = {Path(row["path"]).name: row for row in done.take_all()}
    with Image.open(photos / GOOD[1]) as image:
        assert rows[Path(GOOD[1]).name] == {
            "path": str(photos / GOOD[1]),
            "sdl": images.saved(image, quality=20, effort=0),
            "error": "",
        }
    assert (rows["text.png"]["sdl"], rows["text.png"]["error"]) == (b"", "not a picture that Pillow can read")


# The command line


def test_the_program_uses_a_cluster(address: str, photos: Path, tmp_path: Path) -> None:
    """The summary and the exit status are those of several processes."""
    top = tmp_path / "in"
    (top / "deep").mkdir(parents=True)
    for name in (GOOD[1], "text.png"):
        (top / "deep" / name).write_bytes((photos / name).read_bytes())
    images.gradient().save(top / "done.png")
    out = tmp_path / "out"
    out.mkdir()
    (out / "done.sdl").write_bytes(images.saved(images.gradient()))
    command = ["encode", "--ray", address, "-r", str(top), "-o", str(out), "--effort", "0", "--skip-existing"]
    found = subprocess.run(
        [sys.executable, "-m", "pillow_sdl", *command],
        capture_output=True,
        check=False,
        encoding="utf-8",
        timeout=TIME_LIMIT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert found.returncode == 1, found.stderr
    assert f"sdl: {top / 'deep' / 'text.png'}: not a picture that Pillow can read" in found.stderr.splitlines()
    assert "1 file encoded, 1 up to date, 1 failed; " in found.stderr
    assert "failed: 1 x not a picture that Pillow can read" in found.stderr
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.*")} == {"done.sdl", "deep/01.sdl"}


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Calls of `run`, which does nothing but yield rows of success."""
    calls: list[tuple[Any, ...]] = []

    def run(jobs: list[cluster.Job], *more: Any) -> Iterator[dict[str, Any]]:
        calls.append((jobs, *more))
        yield from (cluster.row_of(job, "encoded", output_bytes=5, warnings=["odd"]) for job in jobs)

    monkeypatch.setattr(cluster, "run", run)
    return calls


def test_uris_name_folders_of_any_filesystem(
    no_work: list[tuple[Any, ...]], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Outputs that exist fail, or are replaced with --force."""
    (tmp_path / "01.sdl").write_bytes(b"old")
    command = ["encode", "--ray", "auto", photos.as_uri(), "-o", tmp_path.as_uri(), "-q", "7", "--threads", "2"]
    assert cli.main([*command, "-r", "--jobs", "3"]) == 1
    jobs, work, concurrency = no_work[0]
    assert {Path(job.path).relative_to(photos).as_posix() for job in jobs} == {*GOOD, *BAD, DEADLY} - {"01.png"}
    assert (work.options, work.num_cpus, concurrency) == ({"quality": 7}, 2, 3)
    error = capsys.readouterr().err
    assert f"sdl: {photos / '01.png'}: the output exists" in error
    assert f"sdl: {photos / '02.png'}: warning: odd" in error
    assert f"{len(jobs)} files encoded, 1 failed; " in error
    assert "ignored: 2 x not a picture, or hidden" in error
    assert cli.main([*command, "-r", "--force", "--quiet"]) == 0
    assert len(no_work[1][0]) == len(jobs) + 1
    assert cli.main([*command, "-r", "--skip-existing", "--dry-run"]) == 0
    assert f"{len(jobs)} files would be encoded, 1 up to date" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(command)


def test_two_pictures_with_one_output_stop_everything(
    no_work: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As for several processes."""
    for name in ("a.png", "a.jpg"):
        images.gradient().save(tmp_path / name)
    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png would both be written to .*a\.sdl"):
        cluster.make_plan(tmp_path, None)
    plan = cluster.make_plan(tmp_path, None, keep_extension=True)
    assert sorted(job.output for job in plan.jobs) == [f"{tmp_path.as_posix()}/a.{kind}.sdl" for kind in ("jpg", "png")]
    with pytest.raises(SystemExit, match="2"):
        cli.main(["encode", "--ray", "auto", "-r", tmp_path.as_uri()])
    assert "would both be written" in capsys.readouterr().err
    assert not no_work


def test_a_wrong_address_is_an_error(
    monkeypatch: pytest.MonkeyPatch, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names it."""

    def connect(*_: object, **__: object) -> bool:
        msg = "no cluster there"
        raise ConnectionError(msg)

    monkeypatch.setattr(cluster, "connect", connect)
    assert cli.main(["encode", "--ray", "nowhere:1", str(photos / GOOD[1]), "-o", str(tmp_path)]) == 1
    assert "sdl: Ray at nowhere:1: no cluster there" in capsys.readouterr().err


def test_workers_that_cannot_work_are_an_error(
    monkeypatch: pytest.MonkeyPatch, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on machines without this package."""

    def run(*_: object) -> Iterator[dict[str, Any]]:
        yield from ()
        msg = "The actor died\ntraceback\nModuleNotFoundError: No module named 'pillow_sdl'\n"
        raise ray.exceptions.RayError(msg)

    monkeypatch.setattr(cluster, "run", run)
    assert cli.main(["encode", "--ray", "auto", str(photos / GOOD[1]), "-o", str(tmp_path)]) == 1
    assert "sdl: Ray at auto: ModuleNotFoundError: No module named 'pillow_sdl'" in capsys.readouterr().err


def test_without_ray_the_message_has_the_install_line(
    monkeypatch: pytest.MonkeyPatch, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In programs and on the command line."""
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(BackendError, match=r"pip install 'pillow-sdl\[ray\]'"):
        cluster.encode(photos)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["encode", "--ray", "local", "-r", str(photos)])
    assert "pip install 'pillow-sdl[ray]'" in capsys.readouterr().err


def test_importing_the_module_imports_no_ray(python: Callable[..., str]) -> None:
    """It is imported when it is used."""
    assert python("import sys, pillow_sdl.ray; print('ray' in sys.modules, 'pyarrow' in sys.modules)") == "False False"


# Arguments


def test_wrong_arguments_raise_value_error(tmp_path: Path) -> None:
    """Before Ray does anything."""
    with pytest.raises(ValueError, match="existing must be one of skip, overwrite, error, not 'keep'"):
        cluster.encode(tmp_path, existing="keep")
    with pytest.raises(ValueError, match="quality must be"):
        cluster.encode(tmp_path, quality=101)
    with pytest.raises(ValueError, match="paths names no file"):
        cluster.encode([])
    with pytest.raises(ValueError, match="same filesystem"):
        cluster.make_plan([tmp_path, "mock://bucket/photos"], None)
    with pytest.raises(TypeError):
        cluster.Encoder(qualitty=5)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("num_cpus", (0, -1, float("nan"), float("inf"), None, "2")),
        ("num_gpus", (-1, float("nan"), "1")),
        ("memory", (-1, "1 GB")),
        ("concurrency", (0, -1, 1.5, "2")),
    ],
)
def test_reservations_that_ray_cannot_make_raise_value_error(
    name: str, values: tuple[Any, ...], tmp_path: Path
) -> None:
    """Before the pictures are looked for.  Ray would not refuse all of them, or not before it has started actors."""
    for value in values:
        with pytest.raises(ValueError, match=f"{name} must be"):
            cluster.encode(tmp_path / "missing", **{name: value})


def test_a_write_that_fails_leaves_no_file(tmp_path: Path) -> None:
    """Neither if the data cannot be written nor if the complete file cannot be moved to its place."""
    from pyarrow import fs

    (tmp_path / "a.sdl" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match=r"a\.sdl"):
        cluster._write(fs.LocalFileSystem(), (tmp_path / "a.sdl").as_posix(), b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["a.sdl"]
    cluster._write(fs.LocalFileSystem(), (tmp_path / "new" / "b.sdl").as_posix(), b"data")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["b.sdl"]


def test_an_input_is_never_its_own_output(plain_path: Path) -> None:
    """An SDL file that is named."""
    plan = cluster.make_plan(plain_path, None, existing="overwrite")
    assert (plan.jobs, [row["error"] for row in plan.rows]) == ([], ["output and input are the same file"])


def test_missing_inputs_are_planned_and_fail_later(tmp_path: Path) -> None:
    """As rows of the report, also if an output is there."""
    (tmp_path / "gone.sdl").write_bytes(b"old")
    assert [job.path for job in cluster.make_plan(tmp_path / "gone.png", None).jobs] == [
        (tmp_path / "gone.png").as_posix()
    ]


def test_actors_have_the_settings_of_the_caller(tmp_path: Path) -> None:
    """And as many threads as CPUs, unless a setting says otherwise."""
    with pillow_sdl.using(device="cpu", model_dirs=[tmp_path], progress=print):
        assert cluster._settings(None, 3) | {"threads": 3, "device": "cpu", "progress": None} == cluster._settings(
            None, 3
        )
    with pillow_sdl.using(threads=2):
        assert cluster._settings(None, 3)["threads"] == 2
