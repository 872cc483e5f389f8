"""Encode many pictures on a Ray cluster, with packages of the extra `pillow-sdl[ray]`.

`encode` is for files.  `Encoder` is for programs that have a Ray dataset already.  Only the functions that use Ray
import it.

Ray Data gives blocks of jobs to actors, each of which keeps a network.  An actor reads the pictures itself.  So a file
that cannot be read becomes a row of the report, and photos do not travel through Ray's memory.  If an actor dies, Ray
starts another one and gives it the block again.  It skips outputs that were written after the plan was made, so no
picture is encoded twice.
"""

from __future__ import annotations

import dataclasses
import io
import math
import os
import posixpath
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image

from . import failures, pictures, settings
from .errors import BackendError
from .options import EncodeOptions

__all__ = ["Encoder", "encode"]

SUFFIX: Final = ".sdl"

EXISTING: Final = ("skip", "overwrite", "error")

OBJECT_STORES: Final = {"s3", "gcs", "abfs"}
"""Filesystems, by pyarrow's names, whose files appear when they are complete, and which have no folders."""

ATTEMPTS: Final = 3
"""A picture fails after this many actors have died while they encoded it."""

MOST_IN_BLOCK: Final = 16
"""Largest number of pictures that an actor gets at once."""

BLOCKS_PER_ACTOR: Final = 8
"""Each actor gets at least this many blocks if there are enough pictures.  So all actors end at about the same time."""


class Encoder:
    """Encodes pictures in batches, for `ray.data.Dataset.map_batches`.

    A batch has a column `bytes` with the files of pictures, as `ray.data.read_binary_files` makes them.  It is returned
    with two columns in the place of that one.  `sdl` has the SDL files, empty after a failure.  `error` has the
    reasons of failures, empty after a success.  The network is loaded for the first picture and kept.

    settings: the `pillow_sdl.Settings` to use; None: the settings in force.  If they set no number of threads, an actor
        uses as many as its num_cpus, which Ray passes in OMP_NUM_THREADS.
    strip: whether Exif, XMP and the ICC profile are left out.   options: of `save`.
    Raises ValueError for an invalid option, and TypeError for an unknown one.
    """

    def __init__(self, *, settings: settings.Settings | None = None, strip: bool = False, **options: Any) -> None:
        EncodeOptions(**options)
        self._settings, self._strip, self._options = _settings(settings), strip, options
        _limit_threads(self._settings["threads"])

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Encode the pictures of a batch, whose columns are NumPy arrays."""
        files, errors = [], []
        for data in batch["bytes"]:
            try:
                file, error = self.encode(data)[0], ""
            except Exception as exc:  # noqa: BLE001  plugins of other formats raise anything
                file, error = b"", failures.reason(exc)
            files.append(file)
            errors.append(error)
        others = {name: column for name, column in batch.items() if name != "bytes"}
        return others | {"sdl": _column(files), "error": _column(errors)}

    def encode(self, data: bytes) -> tuple[bytes, list[str]]:
        """Return the SDL file of a picture's file, and what is lost of the picture.

        Raises what Pillow's plugins raise, which may be anything.
        """
        with settings.using(**self._settings), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with Image.open(io.BytesIO(data)) as image:
                lost = list(pictures.losses(image))
                file = pictures.encoded(image, strip=self._strip, **self._options)
        return file, lost + [str(warning.message) for warning in caught]


def _settings(given: settings.Settings | None, threads: int | None = None) -> dict[str, Any]:
    """Return settings as keywords that can be sent to another process."""
    known = given or settings.current()
    found = {field.name: getattr(known, field.name) for field in dataclasses.fields(known)}
    count = known.threads or threads or settings.default_threads()
    return found | {"threads": count, "progress": None}


def _limit_threads(threads: int) -> None:
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads, user_api="blas")


def _column(values: list[Any]) -> Any:
    """Return bytes or texts as a column.  NumPy's own type for bytes would cut zeros at the end."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


# Files


def encode(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
    *,
    filesystem: Any = None,
    existing: str = "skip",
    concurrency: int | None = None,
    num_cpus: float = 1,
    num_gpus: float | None = None,
    memory: float | None = None,
    strip: bool = False,
    keep_extension: bool = False,
    **options: Any,
) -> Any:
    """Encode files and folders of pictures on a Ray cluster.  Returns a report, a `pyarrow.Table`.

    Uses the Ray that the program is connected to; otherwise the one that RAY_ADDRESS names; otherwise one that is
    started on this machine, without usage statistics.  The settings in force are those of the workers too.

    The report has one row for each picture, sorted by path: path, output, status ("encoded", "skipped" or "failed"),
    input_bytes, output_bytes, seconds (of the actor, with reading and writing), error and kind (the reason of a failure
    and its kind, otherwise empty), warnings (a list of texts).

    paths: files and folders.  A folder stands for the pictures in it and in its subfolders, by their extensions,
        except for hidden ones.  URIs such as s3://bucket/photos are paths too.
    output: folder for the SDL files, which keeps the tree below each folder.  None: beside the pictures.
    filesystem: a pyarrow or fsspec filesystem for `paths` and `output`.  None: the one that each URI names.  A path
        that is no URI is a path on this machine, and all workers must see the file under the same path.
    existing: what is done if an output exists.  "skip": nothing, unless it is older than the picture.  "overwrite": it
        is replaced.  "error": the picture fails.
    concurrency: number of actors, at least 1.  None: as many as the cluster's CPUs and GPUs allow now.
    num_cpus, num_gpus, memory: what Ray reserves for an actor: CPUs, more than 0; GPUs; memory in bytes.  An actor uses
        num_cpus threads, unless a setting says otherwise.
    strip: whether Exif, XMP and the ICC profile are left out.
    keep_extension: whether photo.jpg becomes photo.jpg.sdl instead of photo.sdl.   options: of `save`.
    Raises ValueError for invalid options and if two pictures have the same output, BackendError if Ray is missing,
    OSError if a folder cannot be listed.
    """
    EncodeOptions(**options)
    _check_reservation(concurrency, num_cpus, num_gpus, memory)
    require()
    plan = make_plan(paths, output, filesystem=filesystem, existing=existing, keep_extension=keep_extension)
    connect()
    work = Work(strip, options, plan.source, plan.target, num_cpus, num_gpus, memory)
    rows = [*plan.rows, *run(plan.jobs, work, concurrency)]
    return _table(sorted(rows, key=lambda row: str(row["path"])))


def _check_reservation(concurrency: Any, num_cpus: Any, num_gpus: Any, memory: Any) -> None:
    """Raise ValueError for what Ray cannot reserve.  An actor without a CPU would compete with all the others."""
    if concurrency is not None and (not isinstance(concurrency, int) or concurrency < 1):
        msg = f"concurrency must be None or a whole number of at least 1, not {concurrency!r}"
        raise ValueError(msg)
    if not _is_number(num_cpus) or num_cpus <= 0:
        msg = f"num_cpus must be a number above 0, not {num_cpus!r}"
        raise ValueError(msg)
    for name, value in {"num_gpus": num_gpus, "memory": memory}.items():
        if value is not None and (not _is_number(value) or value < 0):
            msg = f"{name} must be None or a number of at least 0, not {value!r}"
            raise ValueError(msg)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def require() -> None:
    """Raise BackendError, with the install line, if Ray Data is missing."""
    try:
        import ray.data  # noqa: F401  also finds pyarrow
    except ImportError as exc:
        msg = f"encoding on Ray needs Ray Data: pip install 'pillow-sdl[ray]' ({exc})"
        raise BackendError(msg) from exc


def connect(address: str | None = None, **options: Any) -> bool:
    """Connect to Ray unless the program is connected.  Returns whether it was not.

    A Ray that is started here sends no usage statistics, and its workers have the priority of this process.
    address, options: of `ray.init`.   Raises what that raises.
    """
    import ray

    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's own default is 15.  Beside any other busy program its workers would get almost no time.
    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(address, **options)
    return True


def disconnect() -> None:
    """Disconnect from Ray, and end what `connect` has started."""
    import ray

    ray.shutdown()


class Job(NamedTuple):
    """A picture that is to be encoded.   before: when its output was modified, in nanoseconds, -1 if there is none."""

    path: str
    output: str
    input_bytes: int
    before: int


class Plan(NamedTuple):
    """What is to be done.

    jobs: the pictures to encode.   rows: the report's rows of the others.   ignored: number of other files in folders.
    source, target: filesystems of the pictures and of the outputs.
    """

    jobs: list[Job]
    rows: list[dict[str, Any]]
    ignored: int
    source: Any
    target: Any


def row_of(job: Job, status: str, **more: Any) -> dict[str, Any]:
    """Return a row of the report.   more: values that differ from those of a picture with which nothing was done."""
    empty = {"output_bytes": 0, "seconds": 0.0, "error": "", "kind": "", "warnings": []}
    return {"path": job.path, "output": job.output, "status": status, "input_bytes": job.input_bytes} | empty | more


def _refused(job: Job, error: str) -> dict[str, Any]:
    return row_of(job, "failed", error=error, kind=error)


def _table(rows: list[dict[str, Any]]) -> Any:
    import pyarrow as pa

    text, size = pa.string(), pa.int64()
    columns = {"path": text, "output": text, "status": text, "input_bytes": size, "output_bytes": size}
    columns |= {"seconds": pa.float64(), "error": text, "kind": text, "warnings": pa.list_(text)}
    return pa.Table.from_pylist(rows, pa.schema(list(columns.items())))


# The plan


def make_plan(
    paths: Any, output: Any, *, filesystem: Any = None, existing: str = "skip", keep_extension: bool = False
) -> Plan:
    """Return the plan of `encode`.  Raises ValueError and OSError as it does."""
    if existing not in EXISTING:
        msg = f"existing must be one of {', '.join(EXISTING)}, not {existing!r}"
        raise ValueError(msg)
    named = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    places = [_place(name, filesystem) for name in named]
    if not places:
        msg = "paths names no file and no folder"
        raise ValueError(msg)
    source = places[0][0]
    if not all(found.equals(source) for found, _ in places):
        msg = "all paths must be on the same filesystem"
        raise ValueError(msg)
    target, top = (source, None) if output is None else _place(output, filesystem)
    found: dict[str, tuple[str, Any]] = {}
    ignored = 0
    for _, place in places:
        for info, inside in _inputs(source, place):
            if not inside:
                ignored += 1
                continue
            kept = info.path if top is None else posixpath.join(top, inside)
            made = kept + SUFFIX if keep_extension else str(PurePosixPath(kept).with_suffix(SUFFIX))
            other = found.setdefault(made, (info.path, info))[0]
            if other != info.path:
                msg = f"{other} and {info.path} would both be written to {made}"
                raise ValueError(msg)
    jobs, rows = [], []
    for (made, (path, info)), old in zip(found.items(), target.get_file_info(list(found)), strict=True):
        job = Job(path, made, info.size or 0, modified(old))
        if made == path and target.equals(source):
            rows.append(_refused(job, "output and input are the same file"))
        elif old.is_file and info.is_file and existing == "skip" and job.before >= modified(info):
            rows.append(row_of(job, "skipped", output_bytes=old.size or 0))
        elif old.is_file and existing == "error":
            rows.append(_refused(job, "the output exists"))
        else:
            jobs.append(job)
    return Plan(jobs, rows, ignored, source, target)


def modified(info: Any) -> int:
    """Return when a file was modified, in nanoseconds; -1 if it does not exist or the filesystem does not know."""
    return -1 if info.mtime_ns is None else int(info.mtime_ns)


def _place(name: Any, filesystem: Any) -> tuple[Any, str]:
    """Return the filesystem of a path, and the path in it."""
    from pyarrow import fs

    path = os.fspath(name)
    if filesystem is None and "://" in path:
        found, inside = fs.FileSystem.from_uri(path)
        return found, str(inside).rstrip("/")
    if filesystem is None:
        return fs.LocalFileSystem(), PurePosixPath(os.path.abspath(path).replace(os.sep, "/")).as_posix()  # noqa: PTH100  links stay
    if not isinstance(filesystem, fs.FileSystem):
        filesystem = fs.PyFileSystem(fs.FSSpecHandler(filesystem))
    return filesystem, filesystem.normalize_path(path).rstrip("/")


def _inputs(source: Any, place: str) -> Iterator[tuple[Any, str]]:
    """Yield the files that a path stands for, and their paths in the tree, empty for those that are not taken."""
    from pyarrow import fs

    top = source.get_file_info(place)
    if top.type != fs.FileType.Directory:
        yield top, posixpath.basename(place)
        return
    if isinstance(source, fs.LocalFileSystem):  # A selector would follow links to folders, also in a circle.
        names = [posixpath.join(folder, name) for folder, _, names in os.walk(place) for name in names]
        listed = source.get_file_info([name.replace(os.sep, "/") for name in names])
    else:
        listed = source.get_file_info(fs.FileSelector(place, recursive=True))
    takes = pictures.extensions()
    for info in sorted(listed, key=lambda info: str(info.path)):
        inside = PurePosixPath(posixpath.relpath(info.path, place))
        if info.type != fs.FileType.Directory:
            taken = inside.suffix.lower() in takes and not any(part.startswith(".") for part in inside.parts)
            yield info, str(inside) if taken else ""


# The work


class Work(NamedTuple):
    """What actors are told.

    strip, options: of `Encoder`.   source, target: filesystems.
    num_cpus, num_gpus, memory: what Ray reserves for an actor.
    """

    strip: bool
    options: dict[str, Any]
    source: Any
    target: Any
    num_cpus: float = 1
    num_gpus: float | None = None
    memory: float | None = None


def run(jobs: Sequence[Job], work: Work, concurrency: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the report's row of each job, in the order in which their blocks end.

    The settings in force hold for the actors too.   concurrency: as for `encode`.
    """
    import ray

    if not jobs:
        return
    actors = min(len(jobs), concurrency or _room(work))
    size = max(1, min(MOST_IN_BLOCK, len(jobs) // (BLOCKS_PER_ACTOR * actors)))
    attempts = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Attempts).remote()
    data = ray.data.from_items([job._asdict() for job in jobs], override_num_blocks=-(-len(jobs) // size))
    done = data.map_batches(
        FileEncoder,
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
        fn_constructor_args=(work, _settings(None, max(1, int(work.num_cpus))), attempts),
        num_cpus=work.num_cpus,
        num_gpus=work.num_gpus,
        memory=work.memory,
    )
    for batch in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()


def _room(work: Work) -> int:
    """Return how many actors the cluster has room for, at least 1."""
    import ray

    total = ray.cluster_resources()
    needed = {"CPU": work.num_cpus, "GPU": work.num_gpus, "memory": work.memory}
    return max(1, min(int(total.get(name, 0) // share) for name, share in needed.items() if share))


class Attempts:
    """Counts how often the work on an output was started and did not end.

    It is an actor of its own, so the counts stay when an actor that encodes dies.
    """

    def __init__(self) -> None:
        self._started: Counter[str] = Counter()

    def start(self, output: str) -> int:
        """Return how often the work was started before."""
        self._started[output] += 1
        return self._started[output] - 1

    def end(self, output: str) -> None:
        """Forget an output."""
        self._started.pop(output, None)


class FileEncoder:
    """The work of an actor: encodes files.   given: settings.   attempts: handle of the actor `Attempts`."""

    def __init__(self, work: Work, given: dict[str, Any], attempts: Any) -> None:
        self._source, self._target, self._attempts = work.source, work.target, attempts
        self._encoder = Encoder(settings=settings.Settings(**given), strip=work.strip, **work.options)

    def __call__(self, jobs: Any) -> Any:
        """Return the report's rows of a table of jobs."""
        return _table([self._one(Job(**job)) for job in jobs.to_pylist()])

    def _one(self, job: Job) -> dict[str, Any]:
        import ray

        started = time.monotonic()
        if ray.get(self._attempts.start.remote(job.output)) >= ATTEMPTS:
            kind = "its process was killed"
            _discard(self._target, _part_of(job.output))  # The last process may have left it.
            return row_of(job, "failed", error=f"{kind} {ATTEMPTS} times, perhaps because memory ran out", kind=kind)
        try:
            size, lost = self._encode(job)
            row = row_of(job, "encoded", output_bytes=size, warnings=lost)
        except Exception as exc:  # noqa: BLE001  plugins of other formats raise anything
            row = row_of(job, "failed", error=failures.reason(exc), kind=failures.kind(exc))
        self._attempts.end.remote(job.output)
        return row | {"seconds": time.monotonic() - started}

    def _encode(self, job: Job) -> tuple[int, list[str]]:
        """Return the size of the output, and what is lost of the picture."""
        done = self._target.get_file_info(job.output)
        if done.is_file and modified(done) != job.before:  # By an actor that died before it had done its block.
            return done.size, []
        with self._source.open_input_stream(job.path) as stream:
            data = stream.read()
        file, lost = self._encoder.encode(data)
        _write(self._target, job.output, file)
        return len(file), lost


def _write(target: Any, output: str, data: bytes) -> None:
    """Write a file whole or not at all, and leave no other file.  Raises OSError.

    The data go to a temporary file, except on filesystems whose files appear when they are complete.  The temporary
    file has the same name at each attempt: if an actor dies while it writes, the next attempt replaces what it left.
    """
    if target.type_name in OBJECT_STORES:
        _put(target, output, data)
        return
    part = _part_of(output)
    target.create_dir(posixpath.dirname(output), recursive=True)
    try:
        _put(target, part, data)
        target.move(part, output)
    except BaseException:
        _discard(target, part)
        raise


def _put(target: Any, place: str, data: bytes) -> None:
    with target.open_output_stream(place) as stream:
        stream.write(data)


def _part_of(output: str) -> str:
    """Return the name of the temporary file of an output."""
    folder, name = posixpath.split(output)
    return posixpath.join(folder, f".{name}.part")


def _discard(target: Any, path: str) -> None:
    """Delete a file if it is there and can be deleted."""
    with suppress(OSError):
        target.delete_file(path)
