"""`sdl autoload`: programs that do not import the package open .sdl files, and start as they did before.

The tests run real programs in virtual environments, whose site-packages get the files.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import pkgutil
import re
import site
import subprocess
import sys
from contextlib import nullcontext
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

import pillow_sdl
from pillow_sdl import autoload, cli, startup

from . import environments

if TYPE_CHECKING:
    from .environments import Environment

pytestmark = pytest.mark.plain

KNOWN = "from PIL import Image; print('SDL' in Image.OPEN)"
"""A program that says whether Pillow knows the format."""

STARTER = f"pillow_sdl_autoload{'.start' if sys.version_info >= (3, 15) else '.pth'}"
HOOK = "_pillow_sdl_autoload.py"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment in which nothing is enabled."""
    return environments.make(tmp_path_factory.mktemp("plain") / "env")


@pytest.fixture(scope="module")
def enabled(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment in which `sdl autoload enable` ran.  No test changes it."""
    made = environments.make(tmp_path_factory.mktemp("enabled") / "env")
    made.sdl("autoload", "enable")
    return made


@pytest.fixture
def fresh(tmp_path: Path) -> Environment:
    """An environment for one test."""
    return environments.make(tmp_path / "env")


def write_files(folder: Path) -> None:
    """Write the files of `sdl autoload enable` into a folder, without trying whether they work."""
    for path, text in autoload._contents(folder).items():
        path.write_text(text, "utf-8")


# What programs get


def test_a_program_without_the_import_opens_a_file(enabled: Environment, plain: Environment, plain_path: Path) -> None:
    """With its size, its pixels and its media type, and only where the command has run."""
    program = """if True:
        import sys
        from PIL import Image
        with Image.open(sys.argv[1]) as image:
            print(image.format, *image.size, Image.MIME[image.format], image.convert("L").getextrema()[1] > 0)
    """
    assert enabled.output("-W", "error", "-c", program, plain_path) == "SDL 47 33 image/x-sdl True"
    refused = plain.run("-c", program, plain_path)
    assert "cannot identify image file" in refused.stderr


def test_a_program_without_the_import_saves_a_file(enabled: Environment, tmp_path: Path) -> None:
    """By its extension."""
    program = "import sys; from PIL import Image; Image.new('RGB', (40, 30), 'teal').save(sys.argv[1], quality=10)"
    enabled.output("-W", "error", "-c", program, tmp_path / "new.sdl")
    with Image.open(tmp_path / "new.sdl") as image:
        assert (image.format, image.size) == ("SDL", (40, 30))


@pytest.mark.parametrize(
    "statement", ["import PIL.Image", "from PIL import Image", "import PIL.ImageFilter, PIL.Image"]
)
def test_every_kind_of_import_registers_the_format(enabled: Environment, statement: str) -> None:
    """Also when another module of Pillow imports `PIL.Image` first."""
    program = f"{statement}; import sys; print('SDL' in sys.modules['PIL.Image'].OPEN)"
    assert enabled.output("-W", "error", "-c", program) == "True"


@pytest.mark.parametrize("first", ["pillow_sdl", "PIL.Image"])
def test_a_program_with_the_import_runs_as_before(enabled: Environment, plain_path: Path, first: str) -> None:
    """In either order: while the package is imported, `PIL.Image` finds only a part of it."""
    program = f"""if True:
        import sys
        import {first}
        import pillow_sdl
        from PIL import Image
        with Image.open(sys.argv[1]) as image:
            print(Image.ID.count("SDL"), image.format, pillow_sdl.__version__)
    """
    assert enabled.output("-W", "error", "-c", program, plain_path) == f"1 SDL {pillow_sdl.__version__}"
    assert "not registered" not in enabled.run("-v", "-c", program, plain_path).stderr


def test_the_module_keeps_its_own_loader(enabled: Environment) -> None:
    """Nothing of the hook is left in `PIL.Image`, so that tools that look for its source find it."""
    program = """if True:
        import inspect
        from PIL import Image
        print(type(Image.__loader__).__name__, Image.__loader__ is Image.__spec__.loader)
        print("def open(" in inspect.getsource(Image))
    """
    assert enabled.output("-c", program) == "SourceFileLoader True\nTrue"


def test_looking_for_the_module_does_not_use_up_the_hook(enabled: Environment) -> None:
    """`find_spec` finds what it always finds, and imports nothing.  A later import registers the format."""
    program = f"""if True:
        import importlib.util, runpy, sys
        spec = importlib.util.find_spec("PIL.Image")
        print(spec.name, spec.has_location, spec.loader.is_package("PIL.Image"), "PIL.Image" in sys.modules)
        print("def open(" in spec.loader.get_source("PIL.Image"))
        {KNOWN}
    """
    assert enabled.output("-c", program) == "PIL.Image True False False\nTrue\nTrue"


def test_a_module_that_is_loaded_lazily_registers_the_format(enabled: Environment) -> None:
    """With `importlib.util.LazyLoader`, as some programs start faster: when the first name in it is used."""
    program = """if True:
        import importlib.util, sys
        spec = importlib.util.find_spec("PIL.Image")
        spec.loader = importlib.util.LazyLoader(spec.loader)
        module = sys.modules["PIL.Image"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        print("pillow_sdl" in sys.modules)
        print("SDL" in module.OPEN, "pillow_sdl" in sys.modules)
    """
    assert enabled.output("-c", program) == "False\nTrue True"


def test_reloading_pillow_registers_the_format_again(enabled: Environment, plain_path: Path) -> None:
    """`importlib.reload` empties Pillow's tables.  So does an import after all modules were removed."""
    program = """if True:
        import importlib, sys
        from PIL import Image
        importlib.reload(Image)
        print(Image.open(sys.argv[1]).format)
        for name in [name for name in sys.modules if name.startswith(("PIL", "pillow_sdl"))]:
            del sys.modules[name]
        from PIL import Image as again
        print(again is Image, again.open(sys.argv[1]).convert("L").size)
    """
    assert enabled.output("-c", program, plain_path) == "SDL\nFalse (47, 33)"


def test_other_import_hooks_still_work(enabled: Environment) -> None:
    """A finder before this one that asks all finders, as tools for monitoring do, and one after it."""
    program = f"""if True:
        import importlib.util, sys

        class Outer:
            busy = False
            def find_spec(self, name, path=None, target=None):
                if name != "PIL.Image" or self.busy:
                    return None
                self.busy = True
                spec = importlib.util.find_spec(name)
                print("outer", spec.name)
                return spec

        class Inner:
            def find_spec(self, name, path=None, target=None):
                if name == "PIL.Image":
                    print("inner")

        sys.meta_path[:0] = [Outer()]
        sys.meta_path[2:2] = [Inner()]
        {KNOWN}
    """
    assert enabled.output("-c", program) == "inner\nouter PIL.Image\nTrue"


def test_an_error_in_pillow_is_not_hidden(enabled: Environment) -> None:
    """A program that has caught it may import Pillow again."""
    program = f"""if True:
        import sys
        sys.modules["PIL._imaging"] = None
        try:
            import PIL.Image
        except ImportError as exc:
            print("_imaging" in str(exc), "PIL.Image" in sys.modules, "pillow_sdl" in sys.modules)
        del sys.modules["PIL._imaging"]
        {KNOWN}
    """
    assert enabled.output("-c", program) == "True False False\nTrue"


def test_threads_that_import_pillow_at_once(enabled: Environment) -> None:
    """One of them imports it, another one the package: neither waits for the other for ever."""
    program = f"""if True:
        import collections.abc  # Threads that import it at once fail in Python 3.13.0 itself.
        import threading
        start = threading.Barrier(4)
        def work(name):
            start.wait()
            __import__(name)
        names = ["PIL.Image", "pillow_sdl", "PIL.ImageOps", "pillow_sdl.errors"]
        threads = [threading.Thread(target=work, args=(name,)) for name in names]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        {KNOWN}
    """
    assert enabled.output("-c", program) == "True"


# What programs pay


def loaded(environment: Environment, statement: str) -> set[str]:
    """Return the names of all modules after a statement, in a new process that imports nothing else."""
    return set(environment.output("-c", f"{statement}; import sys; print(*sys.modules)").split())


def test_a_start_imports_one_small_module(enabled: Environment, plain: Environment) -> None:
    """Neither Pillow nor the package nor anything else of what a start does not import anyway."""
    assert loaded(enabled, "pass") - loaded(plain, "pass") == {"_pillow_sdl_autoload"}


def test_a_start_compiles_nothing(enabled: Environment) -> None:
    """The command has compiled the module for programs of users who cannot write into site-packages."""
    (compiled,) = (enabled.packages / "__pycache__").glob("_pillow_sdl_autoload.*.pyc")
    assert Path(importlib.util.source_from_cache(str(compiled))) == enabled.packages / HOOK
    started = enabled.run("-v", "-c", "pass", env={"PYTHONDONTWRITEBYTECODE": "1"}).stderr
    assert f"# code object from '{compiled}'" in started


def test_importing_pillow_imports_the_package_and_no_more(enabled: Environment, plain: Environment) -> None:
    """The package's two smallest modules, and `importlib`: neither NumPy nor a run time."""
    found = loaded(enabled, "import PIL.Image, importlib") - loaded(plain, "import PIL.Image, importlib")
    assert found == {"_pillow_sdl_autoload", "pillow_sdl", "pillow_sdl.errors"}


# How Python starts


@pytest.mark.parametrize(("option", "known"), [("-S", False), ("-I", True), ("-s", True), ("-E", True), ("-O", True)])
def test_options_of_python(enabled: Environment, option: str, known: bool) -> None:
    """Python reads site-packages with every option but -S."""
    path = "import sys; sys.path += sys.argv[1:]; "
    packages = (enabled.packages / "dependencies.pth").read_text().splitlines()
    assert enabled.output(option, "-c", path + KNOWN, *packages) == str(known)


def test_pillow_that_another_start_up_file_imports_first(fresh: Environment) -> None:
    """The format is then registered at once."""
    (fresh.packages / "first.pth").write_text("import PIL.Image\n")
    write_files(fresh.packages)
    assert fresh.output("-c", "import sys; print('SDL' in sys.modules['PIL.Image'].OPEN)") == "True"


def test_a_folder_of_packages_that_is_added_later(enabled: Environment, plain: Environment) -> None:
    """`site.addsitedir` reads the file in a running program, even twice."""
    program = f"""if True:
        import site, sys
        from PIL import Image
        print("SDL" in Image.OPEN)
        site.addsitedir(sys.argv[1])
        site.addsitedir(sys.argv[1])
        {KNOWN}
        print(sum(type(finder).__module__ == "_pillow_sdl_autoload" for finder in sys.meta_path))
    """
    assert plain.output("-c", program, enabled.packages) == "False\nTrue\n1"


def test_worker_processes_know_the_format(enabled: Environment, plain_path: Path, tmp_path: Path) -> None:
    """Of every start method that this platform has."""
    program = tmp_path / "program.py"
    program.write_text(f"""if True:
        import multiprocessing
        from PIL import Image
        def work(path):
            with Image.open(path) as image:
                return image.format
        if __name__ == "__main__":
            for method in multiprocessing.get_all_start_methods():
                with multiprocessing.get_context(method).Pool(1) as pool:
                    print(method, pool.map(work, [{str(plain_path)!r}]))
    """)
    found = enabled.output("-W", "error", program).splitlines()
    assert "spawn ['SDL']" in found
    assert all(line.endswith(" ['SDL']") for line in found)


# A package that is gone


def test_without_the_package_programs_are_not_disturbed(fresh: Environment) -> None:
    """The files stay when the package is uninstalled.  `python -v` says why the format is not registered."""
    write_files(fresh.packages)
    (fresh.packages / "pillow_sdl").unlink()
    assert fresh.output("-c", "import importlib.util; print(importlib.util.find_spec('pillow_sdl'))") == "None"
    assert fresh.output("-W", "error", "-c", KNOWN) == "False"
    started = fresh.run("-v", "-c", KNOWN)
    assert started.returncode == 0
    assert "pillow-sdl: the format .sdl is not registered: ModuleNotFoundError(" in started.stderr


def test_with_a_broken_package_programs_are_not_disturbed(fresh: Environment) -> None:
    """Whatever its import raises.  The user who interrupts a program is heard."""
    write_files(fresh.packages)
    package = fresh.packages / "pillow_sdl"
    package.unlink()
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('broken')")
    assert fresh.output("-c", KNOWN) == "False"
    assert "not registered: RuntimeError('broken')" in fresh.run("-v", "-c", KNOWN).stderr
    (package / "__init__.py").write_text("raise KeyboardInterrupt")
    assert "KeyboardInterrupt" in fresh.run("-c", KNOWN).stderr


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="a .start file names a function, and cannot handle errors")
@pytest.mark.parametrize("hook", [None, "raise RuntimeError", "not Python"])
def test_without_its_module_the_line_does_nothing(fresh: Environment, hook: str | None) -> None:
    """Python would report an error of the line at every start of every program."""
    write_files(fresh.packages)
    (fresh.packages / HOOK).unlink()
    if hook:
        (fresh.packages / HOOK).write_text(hook)
    started = fresh.run("-c", KNOWN)
    assert (started.returncode, started.stdout.strip(), started.stderr) == (0, "False", "")


def test_files_without_effect_are_reported(fresh: Environment) -> None:
    """By `status`, which asks a new process, and does not count the folder in which it runs."""
    write_files(fresh.packages)
    (fresh.packages / "pillow_sdl").unlink()
    found = fresh.run("-m", "pillow_sdl", "autoload", "status", "--json", cwd=environments.ROOT)
    status = json.loads(found.stdout)
    assert (found.returncode, status["enabled"], status["works"]) == (1, True, False)
    assert "does not know the format: ModuleNotFoundError: No module named 'pillow_sdl'" in found.stderr


def test_a_package_that_programs_would_not_find_is_refused(fresh: Environment) -> None:
    """Such as a checkout that is not installed.  No file is left."""
    (fresh.packages / "pillow_sdl").unlink()
    before = fresh.files()
    found = fresh.run("-m", "pillow_sdl", "autoload", "enable", cwd=environments.ROOT)
    assert found.returncode == 1
    assert found.stderr.startswith(
        f"sdl: {fresh.packages}: a new process of this Python still does not know the format"
    )
    assert fresh.files() == before


# The command


def test_removal_leaves_nothing(fresh: Environment) -> None:
    """Neither files nor folders, and programs do not know the format any more."""
    before = fresh.files()
    said = fresh.sdl("autoload", "enable")
    assert said == f"enabled: {fresh.packages / STARTER}"
    assert fresh.files() - before >= {STARTER, HOOK}
    assert fresh.sdl("autoload", "status") == f"enabled: {fresh.packages / STARTER}"
    assert fresh.output("-c", KNOWN) == "True"
    said = fresh.sdl("autoload", "disable")
    assert said.splitlines()[:2] == [f"deleted: {fresh.packages / name}" for name in (STARTER, HOOK)]
    assert fresh.files() == before
    assert fresh.output("-c", KNOWN) == "False"
    assert fresh.sdl("autoload", "disable") == "disabled already: there is nothing to delete"


def test_the_user_alone(tmp_path: Path) -> None:
    """With --user, programs of this user know the format: not those that run with -s."""
    environment = environments.make(tmp_path / "env", system=True)
    user = {"PYTHONUSERBASE": str(tmp_path / "home")}
    before = environment.files()
    said = environment.sdl("autoload", "enable", "--user", env=user)
    path = Path(said.removeprefix("enabled: "))
    assert path.is_relative_to(tmp_path / "home")
    assert environment.files() == before
    assert environment.output("-c", KNOWN, env=user) == "True"
    assert environment.output("-s", "-c", KNOWN, env=user) == "False"
    (place,) = json.loads(environment.sdl("autoload", "status", "--json", env=user))["places"]
    assert (place["user"], place["own"], place["current"]) == (True, True, True)
    environment.sdl("autoload", "disable", env=user)
    assert list(path.parent.iterdir()) == []


def test_an_environment_without_the_user_is_told_so(plain: Environment) -> None:
    """Most virtual environments do not read the user's site-packages."""
    found = plain.run("-m", "pillow_sdl", "autoload", "enable", "--user")
    assert found.returncode == 1
    assert found.stderr == "sdl: this Python does not read the user's site-packages; leave out --user\n"


def test_a_subcommand_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    """Without one, nothing is changed."""
    with pytest.raises(SystemExit, match="2"):
        cli.main(["autoload"])
    assert "required: COMMAND" in capsys.readouterr().err


# PEP 829

# What Python 3.15 does with .start files, for earlier versions: it reads the .pth files and then calls the functions.
PEP_829 = """
import pkgutil, site
from pathlib import Path
for path in sorted(Path(__file__).parent.glob("*.start")):
    for line in path.read_text("utf-8-sig").splitlines():
        if line.strip() and not line.startswith("#"):
            pkgutil.resolve_name(line.strip())()
"""

AS_3_15 = """
import sys
from pillow_sdl import autoload, cli
autoload.FIRST_WITH_START = (3,)
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="the other tests use this file")
def test_python_3_15_reads_a_start_file(fresh: Environment) -> None:
    """An emulation of PEP 829.  There is no .pth file beside it."""
    (fresh.packages / "sitecustomize.py").write_text(PEP_829)
    before = fresh.files()
    fresh.output("-c", AS_3_15, "autoload", "enable", "--quiet")
    added = {name for name in fresh.files() - before if not name.endswith(".pyc")} - {"__pycache__"}
    assert added == {"pillow_sdl_autoload.start", HOOK}
    assert fresh.output("-c", KNOWN) == "True"
    status = fresh.run("-m", "pillow_sdl", "autoload", "status")
    assert (status.returncode, "incomplete: " in status.stdout) == (1, True)
    fresh.sdl("autoload", "disable")
    assert {name for name in fresh.files() if "autoload" in name} == set()


@pytest.mark.parametrize(
    ("version", "ending"), [((3, 11), ".pth"), ((3, 14), ".pth"), ((3, 15), ".start"), ((3, 16), ".start")]
)
def test_each_version_of_python_has_its_file(
    version: tuple[int, int], ending: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A line that it executes, or one that names a function."""
    monkeypatch.setattr(autoload, "sys", SimpleNamespace(version_info=version))
    path, text = list(autoload._contents(tmp_path).items())[-1]
    assert path.name == f"pillow_sdl_autoload{ending}"
    assert text.isascii()
    (line,) = [line for line in text.splitlines() if not line.startswith("#")]
    if ending == ".pth":
        assert re.fullmatch(r"import .*\b(\w+)\\n \1\.install\(\)\\n.*", line)
    else:
        assert re.fullmatch(r"\w+:\w+", line)
        monkeypatch.setitem(sys.modules, "_pillow_sdl_autoload", startup)
        assert pkgutil.resolve_name(line) is startup.install


# What is refused


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder in the place of this environment's site-packages.  The user has none."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr(autoload, "_environment_folder", lambda: folder)
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(folder)])
    monkeypatch.setattr(site, "ENABLE_USER_SITE", False)
    return folder


def fail(*_: object, **__: object) -> None:
    """Refuse to write a file."""
    raise PermissionError(errno.EACCES, "Permission denied", "a file")


@pytest.mark.parametrize(
    ("user", "advice"),
    [
        (False, "run sdl as the owner of this environment"),
        (True, "with --user, the format is registered for this user only"),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], user: bool, advice: str
) -> None:
    """With the reason and with what can be done.  `user`: whether this Python reads the user's folder."""
    monkeypatch.setattr(site, "ENABLE_USER_SITE", user)
    monkeypatch.setattr(site, "getusersitepackages", lambda: str(here.parent / "user"))
    monkeypatch.setattr("pillow_sdl.atomic.write", fail)
    assert cli.main(["autoload", "enable"]) == 1
    assert capsys.readouterr().err == f"sdl: {here}: Permission denied; {advice}\n"
    if user:
        assert cli.main(["autoload", "enable", "--user"]) == 1
        assert capsys.readouterr().err == f"sdl: {here.parent / 'user'}: Permission denied\n"


def test_a_failure_half_way_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that is full after the first file."""
    monkeypatch.setattr("py_compile.compile", fail)
    with pytest.raises(autoload.AutoloadError):
        autoload.enable()
    assert list(here.iterdir()) == []


def test_files_that_cannot_be_deleted_are_an_error(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the reason."""
    monkeypatch.setattr(autoload, "failure", lambda: None)
    autoload.enable()
    monkeypatch.setattr(Path, "unlink", fail)
    assert cli.main(["autoload", "disable"]) == 1
    assert capsys.readouterr().err == f"sdl: {here}: Permission denied\n"


def test_a_folder_that_python_does_not_read_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that was only added to the path."""
    monkeypatch.setattr(site, "getsitepackages", list)
    with pytest.raises(autoload.AutoloadError, match="does not read") as raised:
        autoload.enable()
    assert raised.value.place == here


def test_a_frozen_program_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads no site-packages, and a process that it starts is the program itself."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(autoload.AutoloadError, match="a frozen program has no site-packages"):
        autoload.enable()
    assert list(here.iterdir()) == []


def test_the_environment_below_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An environment with the packages of another one reads its files too, but does not change them."""
    monkeypatch.setattr(autoload, "failure", lambda: None)
    base = here.parent / "base"
    base.mkdir()
    write_files(base)
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(here), str(base)])
    assert cli.main(["autoload", "status"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "  belongs to the environment on which this one is based"
    assert cli.main(["autoload", "disable"]) == 1
    assert f"sdl: {base}: the environment on which this one is based has the file" in capsys.readouterr().err
    assert len(list(base.iterdir())) == 2


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (subprocess.TimeoutExpired("python", 60), "timed out"),
        (FileNotFoundError(errno.ENOENT, "No such file"), "No such file"),
        (subprocess.CompletedProcess([], 3, "", ""), "exit status 3"),
        (subprocess.CompletedProcess([], 1, "", "Traceback:\nOSError: no\n"), "OSError: no"),
    ],
)
def test_why_a_new_process_fails(result: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of its errors, or why there is none."""

    def run(*_: object, **__: object) -> object:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(subprocess, "run", run)
    assert reason in str(autoload.failure())


def test_removal_leaves_the_compiled_files_of_others(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And removes those of every version of Python."""
    monkeypatch.setattr(autoload, "failure", lambda: None)
    assert cli.main(["autoload", "enable", "--quiet"]) == 0
    folder = here / "__pycache__"
    (folder / "_pillow_sdl_autoload.cpython-399.pyc").touch()
    (folder / "six.cpython-311.pyc").touch()
    assert cli.main(["autoload", "disable", "--quiet"]) == 0
    assert [path.name for path in here.rglob("*")] == ["__pycache__", "six.cpython-311.pyc"]


# What `status` says


def test_status(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As text and as JSON: disabled, enabled, and written by another version, which `enable` replaces."""
    monkeypatch.setattr(autoload, "failure", lambda: None)

    def status(expected: int = 0) -> tuple[list[str], dict[str, Any]]:
        found = []
        for options in ([], ["--json"]):
            assert cli.main(["autoload", "status", *options]) == expected
            found.append(capsys.readouterr().out)
        return found[0].splitlines(), json.loads(found[1])

    version = pillow_sdl.__version__
    assert status() == (["disabled"], {"enabled": False, "works": False, "version": version, "places": []})
    assert cli.main(["autoload", "enable", "--quiet"]) == 0
    path = here / STARTER
    place = {
        "folder": str(here),
        "files": [str(path), str(here / HOOK)],
        "user": False,
        "own": True,
        "complete": True,
        "version": version,
        "current": True,
    }
    enabled = {"enabled": True, "works": True, "version": version, "places": [place]}
    assert status() == ([f"enabled: {path}"], enabled)

    path.write_text(path.read_text().replace(version, "0.0.1"))
    text, found = status()
    assert text == [f"enabled: {path}", "  written by pillow-sdl 0.0.1; `sdl autoload enable` renews it"]
    assert found["places"] == [{**place, "version": "0.0.1", "current": False}]
    assert cli.main(["autoload", "enable", "--quiet"]) == 0
    assert status() == ([f"enabled: {path}"], enabled)

    path.unlink()
    text, found = status(expected=1)
    assert text == ["disabled", f"incomplete: {here / HOOK}; `sdl autoload disable` deletes it"]
    assert (found["enabled"], found["places"][0]["complete"]) == (False, False)


# The hook, inside this process


@pytest.fixture
def meta_path(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A copy of `sys.meta_path` in its place."""
    found = list(sys.meta_path)
    monkeypatch.setattr(sys, "meta_path", found)
    return found


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows with each call of `pillow_sdl.register`."""
    found: list[str] = []
    monkeypatch.setattr(pillow_sdl, "register", lambda: found.append("register"))
    return found


def test_the_hook_is_installed_once(meta_path: list[Any], calls: list[str]) -> None:
    """Here Pillow is imported already, so that each call registers the format."""
    startup.install()
    startup.install()
    assert meta_path.count(startup.FINDER) == 1
    assert meta_path[0] is startup.FINDER
    assert calls == ["register", "register"]


def test_the_hook_asks_the_finders_after_it(meta_path: list[Any]) -> None:
    """For no other module, for none that they do not find, and not without being one of them."""
    assert startup.FINDER.find_spec("PIL.Image") is None
    meta_path[:] = [startup.FINDER, SimpleNamespace()]
    assert startup.FINDER.find_spec("PIL.Image") is None
    spec = ModuleSpec("PIL.Image", None)
    meta_path.append(SimpleNamespace(find_spec=lambda *_: spec))
    assert startup.FINDER.find_spec("PIL.Image") is spec
    assert startup.FINDER.find_spec("PIL.ImageOps") is None
    assert spec.loader is None
    meta_path.insert(1, startup.Finder())  # Another one of this kind, which asks all finders after itself too.
    assert startup.FINDER.find_spec("PIL.Image") is spec


@pytest.mark.parametrize("error", [None, ImportError])
def test_the_hook_registers_after_each_execution(calls: list[str], error: type[Exception] | None) -> None:
    """Not before, and not if it fails.  The module has its own loader from the start, with all of its attributes."""
    seen: list[object] = []

    class Own(Loader):
        name = "PIL.Image"

        def exec_module(self, module: ModuleType) -> None:
            seen.extend([*calls, module.__loader__, module.__spec__ and module.__spec__.loader])
            if error:
                raise error

    own = Own()
    wrapper: Any = startup.Wrapper(own)
    assert wrapper.name == "PIL.Image"
    module = importlib.util.module_from_spec(ModuleSpec("PIL.Image", wrapper))
    for _ in range(2):
        with pytest.raises(error) if error else nullcontext():
            wrapper.exec_module(module)
        assert seen == [own, own]
        assert calls == ([] if error else ["register"])
        seen.clear()
        calls.clear()


def test_the_hook_is_silent_without_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And while the package is being imported, when it has no `register` yet."""
    monkeypatch.setitem(sys.modules, "pillow_sdl", ModuleType("pillow_sdl"))
    startup.register()
    monkeypatch.setitem(sys.modules, "pillow_sdl", None)
    startup.register()
    assert capsys.readouterr() == ("", "")


# The public function


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Pillow's tables of formats, which the test may change."""
    found: dict[str, Any] = {}
    for name in ("ID", "OPEN", "SAVE", "EXTENSION", "MIME"):
        found[name] = getattr(Image, name).copy()
        monkeypatch.setattr(Image, name, found[name])
    return found


def test_register_again_changes_nothing(tables: dict[str, Any]) -> None:
    """It is what the import of the package has done."""
    before = {name: table.copy() for name, table in tables.items()}
    pillow_sdl.register()
    pillow_sdl.register()
    assert tables == before
    assert tables["ID"].count("SDL") == 1


def test_register_restores_what_was_removed(tables: dict[str, Any], plain_path: Path) -> None:
    """After a program has emptied Pillow's tables, as tests of other plugins do."""
    for table in tables.values():
        table.clear()
    pillow_sdl.register()
    assert (tables["ID"], tables["EXTENSION"], tables["MIME"]) == (["SDL"], {".sdl": "SDL"}, {"SDL": "image/x-sdl"})
    assert tables["SAVE"].keys() == {"SDL"}
    with Image.open(plain_path) as image:
        assert image.convert("L").size == (47, 33)
