"""The import graph, the cost of importing the package, its public names, and where facts of the registry stand."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.metadata
import json
import re
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pillow_sdl
from pillow_sdl import registry

from .conftest import MODEL, ROOT, SPACE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.plain

PACKAGE = Path(pillow_sdl.__file__).parent

LAYERS: list[dict[str, set[str]]] = [
    {"errors": set(), "registry": set(), "settings": set(), "atomic": set(), "progress": set()},
    {"format": {"zstandard", "numpy", "PIL"}},
    {"latent": {"numpy", "safetensors", "threadpoolctl"}},
    {"models": {"numpy", "safetensors", "huggingface_hub", "tqdm", "torch", "transformers"}},
    {"models.networks": {"numpy", "safetensors", "torch", "diffusers", "onnxruntime"}},
    {"models.store": {"numpy", "safetensors"}},
    {
        "options": {"PIL", "numpy"},
        "failures": {"PIL"},
        "pictures": {"PIL"},
        "fidelity_map": {"numpy"},
        "detectors": {"numpy", "dlib", "rapidocr"},
        "guard": {"PIL", "numpy"},
        "moving": {"numpy"},
        "player": {"numpy"},
        "coding": {"numpy"},
        "encode": {"numpy"},
        "decode": {"numpy"},
        "reading": {"PIL"},
        "latent_io": {"PIL", "numpy"},
    },
    {"SdlImagePlugin": {"PIL", "numpy"}},
    {"": {"PIL"}},
    {
        "autoload": set(),
        "desktop": set(),
        "startup": set(),
        "report": {"PIL", "numpy"},
        "ray": {"PIL", "numpy", "pyarrow", "ray", "threadpoolctl"},
        "_pyinstaller": {"PyInstaller"},
    },
    {"cli": {"PIL", "numpy", "pyarrow", "ray", "threadpoolctl", "tqdm"}},
    {"__main__": set()},
]
"""Modules and folders of the package from the bottom to the top, and the third-party packages that each may import.

A module belongs to its longest entry.  "" is `pillow_sdl/__init__.py`.  A module imports from its own layer and from
lower ones.  `models.store` builds networks, so it is above them; the rest of `models` is below.
"""

STRANGERS = [("format", "models"), ("settings", "latent")]
"""Pairs of entries that import nothing from each other, in either direction, although their layers would allow it."""

RUN_TIMES = {"torch", "diffusers", "onnxruntime", "transformers", "dlib", "rapidocr", "ray", "pyarrow"}
"""Packages that take seconds to import.  Only modules of `models.networks` import them when they are imported."""

PUBLIC = ["pillow_sdl", "pillow_sdl.SdlImagePlugin", "pillow_sdl.errors", "pillow_sdl.ray"]
"""The modules that users may import."""


@dataclass(frozen=True)
class Import:
    """One import statement.   late: whether it is inside a function.   typing: whether only type checkers run it."""

    importer: str
    imported: str
    late: bool
    typing: bool

    @property
    def inner(self) -> bool:
        """Whether the imported module is one of the package."""
        return self.imported.split(".")[0] == "pillow_sdl"


def modules() -> dict[str, Path]:
    """Return the paths of all modules of the package by their full names."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(module: str, source: str, *, is_package: bool) -> Iterator[Import]:
    """Find every import statement of a module, in functions and for type checkers too."""
    package = module if is_package else module.rpartition(".")[0]

    def names(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(filter(None, [base, node.module]))
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield full if full in MODULES else source

    def visit(node: ast.AST, *, late: bool, typing: bool) -> Iterator[Import]:
        yield from (Import(module, name, late, typing) for name in names(node))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for statement in node.body:
                yield from visit(statement, late=late, typing=True)
            children: list[ast.AST] = list(node.orelse)
        else:
            children = list(ast.iter_child_nodes(node))
        late = late or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in children:
            yield from visit(child, late=late, typing=typing)

    yield from visit(ast.parse(source), late=False, typing=False)


IMPORTS = [
    found
    for module, path in MODULES.items()
    for found in imports(module, path.read_text("utf-8"), is_package=path.name == "__init__.py")
]
INNER = sorted({(found.importer, found.imported) for found in IMPORTS if found.inner})


def entry(module: str) -> str:
    """Return the entry of `LAYERS` that a module of the package belongs to."""
    name = module.partition(".")[2]
    while name and not any(name in layer for layer in LAYERS):
        name = name.rpartition(".")[0]
    return name


def height(module: str) -> int:
    """Return the number of a module's layer, counted from the bottom."""
    return next(index for index, layer in enumerate(LAYERS) if entry(module) in layer)


def circles(edges: list[tuple[str, str]]) -> list[str]:
    """Return the circles of a graph of imports, each as text; empty if there is none."""
    found, done = [], set()
    targets: dict[str, list[str]] = {}
    for importer, imported in edges:
        targets.setdefault(importer, []).append(imported)

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in targets.get(module, ()):
                visit(target, [*path, module])
            done.add(module)

    for importer, _ in edges:
        visit(importer, [])
    return found


# The graph


def test_every_module_has_an_entry_in_the_table() -> None:
    """Only `pillow_sdl/__init__.py` belongs to the entry "".  Entries without a module do not exist."""
    assert [module for module in MODULES if not entry(module)] == ["pillow_sdl"]
    assert {entry(module) for module in MODULES} == {name for layer in LAYERS for name in layer}


def test_all_kinds_of_imports_are_found() -> None:
    """At module top, in functions, in `try`, in classes, for type checkers, absolute and relative."""
    source = """if True:
        import numpy as np
        from ..format import container, zstd
        try:
            from . import hub
        except ImportError:
            pass
        if TYPE_CHECKING:
            from ..registry import Space
        else:
            import torch
        class Network:
            import diffusers
            def run(self):
                import onnxruntime.capi
                from .networks.embedded import Block
    """
    found = {(i.imported, i.late, i.typing) for i in imports("pillow_sdl.models.store", source, is_package=False)}
    assert found == {
        ("numpy", False, False),
        ("pillow_sdl.format.container", False, False),
        ("pillow_sdl.format.zstd", False, False),
        ("pillow_sdl.models.hub", False, False),
        ("pillow_sdl.registry", False, True),
        ("torch", False, False),
        ("diffusers", False, False),
        ("onnxruntime.capi", True, False),
        ("pillow_sdl.models.networks.embedded", True, False),
    }
    (inside,) = imports("pillow_sdl.latent", "from .rans import Encoder", is_package=True)
    assert inside.imported == "pillow_sdl.latent.rans"


def test_the_graph_holds_edges_that_are_known_to_exist() -> None:
    """A reader that found nothing would pass all other tests here."""
    assert ("pillow_sdl", "pillow_sdl.SdlImagePlugin") in INNER
    assert ("pillow_sdl.decode", "pillow_sdl.models.store") in INNER
    assert ("pillow_sdl.models.store", "pillow_sdl.models.networks.embedded") in INNER
    assert ("pillow_sdl.latent.entropy", "pillow_sdl.format.zstd") in INNER


@pytest.mark.parametrize(("importer", "imported"), INNER)
def test_imports_go_down(importer: str, imported: str) -> None:
    """Into the same layer or a lower one.  The bottom layer imports nothing of the package."""
    assert height(imported) <= height(importer)
    assert height(importer) > 0
    for pair in STRANGERS:
        assert {entry(importer).split(".")[0], entry(imported).split(".")[0]} != set(pair)


def test_latent_imports_no_containers() -> None:
    """Of `format` it uses zstd frames and the fidelity map, whose cells it codes."""
    found = {imported for importer, imported in INNER if entry(importer) == "latent" and entry(imported) == "format"}
    assert found == {"pillow_sdl.format.zstd", "pillow_sdl.format.fidelity"}


def test_imports_have_no_circles() -> None:
    """Imports in functions and for type checkers count too."""
    assert circles([("a", "b"), ("b", "c"), ("c", "b")]) == ["b -> c -> b"]
    assert circles([("a", "a")]) == ["a -> a"]
    assert circles([("a", "b"), ("a", "c"), ("b", "c")]) == []
    assert circles(INNER) == []


def test_modules_import_only_the_packages_of_their_entry() -> None:
    """Beside the standard library.  Nothing of the package imports tests, training, benchmarks or examples."""
    allowed = {name: packages for layer in LAYERS for name, packages in layer.items()}
    for found in IMPORTS:
        package = found.imported.split(".")[0]
        if not found.inner and package not in sys.stdlib_module_names:
            assert package in allowed[entry(found.importer)], f"{found.importer} imports {package}"


def test_only_networks_import_a_run_time_at_module_top() -> None:
    """Elsewhere a run time is imported by the function that needs it."""
    found = {
        found.importer
        for found in IMPORTS
        if found.imported.split(".")[0] in RUN_TIMES and not found.late and not found.typing
    }
    assert found
    assert {entry(module) for module in found} == {"models.networks"}


def test_networks_are_imported_by_functions_only() -> None:
    """Otherwise the import of `models.store` would import every run time."""
    for found in IMPORTS:
        if entry(found.imported) == "models.networks" != entry(found.importer) and found.inner:
            assert found.late or found.typing, f"{found.importer} imports {found.imported}"


# What a program pays

HEAVY = f"sorted({RUN_TIMES | {'numpy', 'safetensors', 'PIL.ImageCms'}} & set(sys.modules))"
RUN_TIMES_LOADED = f"sorted({RUN_TIMES} & set(sys.modules))"


@pytest.mark.parametrize("fixture", ["plain_file", "rich_file"])
def test_opening_imports_neither_numpy_nor_a_run_time(
    fixture: str, tmp_path: Path, python: Callable[..., str], request: pytest.FixtureRequest
) -> None:
    """Importing the package, opening a file and reading compressed metadata leave them out."""
    path = tmp_path / "file.sdl"
    path.write_bytes(request.getfixturevalue(fixture))
    program = f"""if True:
        import sys
        import pillow_sdl
        from PIL import Image
        print({HEAVY})
        with Image.open(sys.argv[1]) as image:
            image.info, image.size, image.getexif()
        print({HEAVY})
    """
    assert python(program, path) == "[]\n[]"


def test_importing_the_package_does_not_import_the_plugin(python: Callable[..., str]) -> None:
    """A program that opens no .sdl file pays for the registration only."""
    program = "import sys, pillow_sdl; print(sorted(name for name in sys.modules if 'pillow_sdl' in name))"
    assert python(program) == "['pillow_sdl', 'pillow_sdl.errors']"


def test_thumbnails_verify_and_symbols_import_no_run_time(plain_path: Path, python: Callable[..., str]) -> None:
    """They need NumPy alone, and so does the description of a file."""
    program = f"""if True:
        import sys
        import pillow_sdl
        from PIL import Image
        Image.open(sys.argv[1]).verify()
        with Image.open(sys.argv[1]) as image:
            image.thumbnail((8, 8))
            print(image.size)
        from pillow_sdl import decode
        from pillow_sdl.format import container
        with open(sys.argv[1], "rb") as stream:
            file = container.read(stream)
        print(decode.quantized(file).symbols.shape[0], decode.inspect(file)["model"])
        print({RUN_TIMES_LOADED})
    """
    assert python(program, plain_path) == f"(8, 6)\n{SPACE.channels} {MODEL.name}\n[]"


def test_latents_import_no_run_time(plain_path: Path, python: Callable[..., str]) -> None:
    """Latents of NumPy are read and written without one."""
    program = f"""if True:
        import sys
        import pillow_sdl
        found = pillow_sdl.latents(sys.argv[1])
        pillow_sdl.from_latents(found.latent, sys.argv[1], model={MODEL.name!r}, size=(found.width, found.height))
        print(found.latent.shape[0], pillow_sdl.latents(sys.argv[1]).model == found.model)
        print({RUN_TIMES_LOADED})
    """
    assert python(program, plain_path) == f"{SPACE.channels} True\n[]"


# Public names


def test_public_modules_are_those_with_all() -> None:
    """Other modules are private and may change without notice."""
    found = [
        module for module, path in MODULES.items() if re.search(r"^__all__\b", path.read_text("utf-8"), re.MULTILINE)
    ]
    assert sorted(found) == PUBLIC


@pytest.mark.parametrize("module", PUBLIC)
def test_all_is_sorted_and_every_name_in_it_exists(module: str) -> None:
    """Names that are imported when they are first needed included."""
    names = importlib.import_module(module).__all__
    assert names == sorted(set(names))
    for name in names:
        assert getattr(importlib.import_module(module), name) is not None


def test_all_lists_everything_that_the_package_defines() -> None:
    """A name without an underscore that is not in `__all__` would be public by accident."""
    public = {
        name
        for name, value in vars(pillow_sdl).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and getattr(value, "__module__", "").startswith("pillow_sdl")
    }
    assert public <= set(pillow_sdl.__all__)


def test_dir_lists_all_public_names() -> None:
    """Names that are imported when they are first needed included: shells complete them."""
    assert set(pillow_sdl.__all__) <= set(dir(pillow_sdl))


def test_a_star_import_gives_all_public_names(python: Callable[..., str]) -> None:
    """Names that are imported when they are first needed included."""
    program = "from pillow_sdl import *; print(sorted(n for n in dir() if n == '__version__' or n[0] != '_'))"
    assert python(program) == str(sorted(pillow_sdl.__all__))


def test_an_unknown_name_raises_attribute_error() -> None:
    """With the message that modules give."""
    with pytest.raises(AttributeError, match=r"module 'pillow_sdl' has no attribute 'encoder'"):
        _ = pillow_sdl.encoder


def test_the_package_is_marked_as_typed() -> None:
    """Type checkers look for this file."""
    assert (PACKAGE / "py.typed").is_file()


def test_the_version_is_that_of_the_installed_package() -> None:
    """The version stands in one place."""
    try:
        installed = importlib.metadata.version("pillow-sdl")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pillow-sdl is not installed")
    assert installed == pillow_sdl.__version__


# Facts of the registry


def texts() -> Iterator[tuple[str, str]]:
    """Yield the name and the content of each text file in which a fact of the registry could be repeated."""
    patterns = ["pillow_sdl", "training", "benchmarks", "docs", "spec/*.md", "spec/*.py"]
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns]
    try:
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the tests do not run in a git checkout")
    for name in sorted(set(filter(None, listed.split("\0")))):
        if name.startswith(("benchmarks/results/", "spec/vectors/")) or name == "pillow_sdl/weights/registry.json":
            continue
        try:
            yield name, (ROOT / name).read_text("utf-8")
        except (UnicodeDecodeError, FileNotFoundError):  # A picture or weights; a file that was deleted.
            continue


def hashes() -> set[str]:
    """Return all SHA-256, model hashes and commits in registry.json."""
    text = (registry.WEIGHTS_FOLDER / "registry.json").read_text("utf-8")
    found: set[str] = set()

    def visit(value: object) -> None:
        if isinstance(value, dict):
            for key, entry in value.items():
                if key in {"sha256", "hash", "revision"} and re.fullmatch("[0-9a-f]{32,}", entry):
                    found.add(entry)
                visit(entry)
        elif isinstance(value, list):
            for entry in value:
                visit(entry)

    visit(json.loads(text))
    return found


def test_hashes_stand_in_the_registry_alone() -> None:
    """A copy elsewhere would be out of date after the next change of the registry."""
    known = hashes()
    assert {MODEL.hash, SPACE.tables.sha256, SPACE.context.sha256, registry.load().distributions.sha256} <= known
    found = list(texts())
    assert {"pillow_sdl/registry.py", "spec/SPEC.md"} <= {name for name, _ in found}
    copies = [f"{name}: {fact}" for name, text in found for fact in sorted(known) if fact in text.lower()]
    assert not copies


def test_every_stored_file_has_the_hash_of_the_registry() -> None:
    """Every file in the weights folder is named once, and has the SHA-256 that the registry states."""
    known = registry.load()
    stored = [known.distributions]
    stored += [part for space in known.spaces for part in (space.tables, space.context, space.denoiser) if part]
    stored += [model.weights for model in known.models if model.weights]
    stored += [part for model in known.models if model.graphs for part in (model.graphs.encoder, model.graphs.decoder)]
    assert len({part.file for part in stored}) == len(stored)
    for part in stored:
        assert hashlib.sha256(part.path.read_bytes()).hexdigest() == part.sha256, part.file
    present = {path.name for path in registry.WEIGHTS_FOLDER.iterdir() if path.is_file()}
    assert present - {"README.md", "registry.json"} == {part.file for part in stored}
