"""Virtual environments for tests, made in a moment, which see the packages of the environment that runs the tests."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Environment:
    """A virtual environment.   folder: that it is in."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def packages(self) -> Path:
        """Its folder site-packages."""
        return Path(
            sysconfig.get_path("purelib", "venv", {"base": str(self.folder), "installed_base": sys.base_prefix})
        )

    def files(self) -> set[str]:
        """Return all files and folders in site-packages, without those in linked folders."""
        found = set()
        for folder, folders, files in os.walk(self.packages):
            found |= {str(Path(folder, name).relative_to(self.packages)) for name in folders + files}
        return found

    def run(
        self, *command: object, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run Python in the environment.   command: its arguments.   env: more variables of its environment."""
        # IPython warns if VIRTUAL_ENV names another environment, such as the one from which the tests are run.
        ours = ("PYTHON", "COVERAGE", "VIRTUAL_ENV")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return subprocess.run(
            [self.python, *map(str, command)],
            cwd=cwd or self.folder,
            env=inherited | (env or {}),
            capture_output=True,
            check=False,
            text=True,
            timeout=120,
        )

    def output(self, *command: object, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
        """Run Python in the environment and return its output.  Fails if its status is not 0 or if it has errors."""
        found = self.run(*command, cwd=cwd, env=env)
        assert (found.returncode, found.stderr) == (0, ""), found.stdout + found.stderr
        return found.stdout.strip()

    def sdl(self, *arguments: object, env: dict[str, str] | None = None) -> str:
        """Run `sdl` in the environment and return what it prints on both streams.  Fails if its status is not 0."""
        found = self.run("-m", "pillow_sdl", *arguments, env=env)
        assert found.returncode == 0, found.stderr
        return (found.stdout + found.stderr).strip()


def make(folder: Path, *, system: bool = False) -> Environment:
    """Make an environment in which the packages of this one and this package can be imported.

    Nothing is installed.  The package is a link in site-packages, which can be deleted.   system: whether the
    environment uses the site-packages of the Python that it is based on, and those of the user.
    """
    venv.create(folder, system_site_packages=system, symlinks=os.name != "nt")
    made = Environment(folder)
    here = [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
    (made.packages / "dependencies.pth").write_text("\n".join(here) + "\n")
    (made.packages / "pillow_sdl").symlink_to(ROOT / "pillow_sdl", target_is_directory=True)
    return made
