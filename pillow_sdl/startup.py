"""Start-up hook: register the format when a program imports `PIL.Image`.  Standard library only.

`sdl autoload enable` copies this file into a folder of site-packages.  There Python imports it at every start, as the
top-level module `_pillow_sdl_autoload`, and calls `install`.  Nothing else of the package is imported until a program
imports `PIL.Image`.

The copy also stays where it is when the package is uninstalled.  It must never disturb a program: whatever goes wrong
in it is ignored, and `python -v` shows it.
"""

# This module runs at every start of Python.  It imports nothing that the interpreter has not imported by then, not even
# `__future__` and `typing`.

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

TARGET = "PIL.Image"


class Finder:
    """A finder of `sys.meta_path` that lets the other finders find `PIL.Image`, and gives it a `Wrapper` as its loader.

    It stays in `sys.meta_path`, so that `importlib.reload`, and an import after `PIL.Image` was removed from
    `sys.modules`, register the format again.  For other modules it costs one comparison of strings.
    """

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        """Return what the finders after this one find for `PIL.Image`, and None for every other module."""
        if name != TARGET:
            return None
        finders = list(sys.meta_path)
        # The finders before this one have found nothing, or they are asking this one.
        later = finders[finders.index(self) + 1 :] if self in finders else []
        for finder in later:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find else None
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = Wrapper(spec.loader)  # type: ignore[assignment]  # it has all that the loader has
                return spec
        return None


class Wrapper:
    """The loader of `PIL.Image`, but for one thing: when the module has been executed, the format is registered."""

    def __init__(self, loader: "Loader") -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> "Any":
        return getattr(self.loader, name)

    def exec_module(self, module: "ModuleType") -> None:
        """Execute the module with its own loader, which the module keeps, and register the format."""
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        register()


FINDER = Finder()
"""The only finder of a process, so that `install` may be called again."""


def install() -> None:
    """Register the format as soon as `PIL.Image` is imported, and at once if it is imported already."""
    if FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)
    if TARGET in sys.modules:
        register()


def register() -> None:
    """Register the format with Pillow, if the package is installed and works."""
    try:
        import pillow_sdl

        # There is no such name yet while the import of the package is what imports PIL.Image.  The package will
        # register the format itself.
        if hasattr(pillow_sdl, "register"):
            pillow_sdl.register()
    except Exception as exc:  # noqa: BLE001  the program is not one of ours
        if sys.flags.verbose:
            print(f"pillow-sdl: the format .sdl is not registered: {exc!r}", file=sys.stderr)  # noqa: T201
