"""Who may import whom, what a program pays for the import, and which names the package has."""

from __future__ import annotations

import ast
import importlib.metadata
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pillow_sdl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PACKAGE = Path(pillow_sdl.__file__).parent

LAYERS = [
    {"errors", "settings", "atomic"},
    {"zstdframe", "container"},
    {"alpha", "latent"},
    {"models"},
    {"codec"},
    {"SdlImagePlugin"},
    {"pipeline"},
    {""},
    {"cli"},
    {"__main__"},
]
"""Modules and folders of the package, lowest first; "" is the package itself.  Imports go down, never up or across."""

STRANGERS = {frozenset({"container", "models"}), frozenset({"container", "latent"}), frozenset({"settings", "latent"})}
"""Pairs that never meet, although their layers would let them."""

THIRD_PARTY = {
    "": {"PIL"},
    "errors": set(),
    "settings": set(),
    "atomic": set(),
    "container": set(),
    "zstdframe": {"zstandard"},
    "alpha": {"numpy"},
    "latent": {"numpy", "safetensors", "threadpoolctl"},
    "models": {"numpy", "safetensors", "torch", "diffusers", "huggingface_hub", "tqdm", "transformers"},
    "codec": {"numpy"},
    "SdlImagePlugin": {"PIL", "numpy"},
    "pipeline": {"PIL", "numpy"},
    "cli": {"PIL", "numpy", "tqdm"},
    "__main__": set(),
}
"""What each may import from outside, beside the standard library."""


def part(module: str) -> str:
    """The entry of `LAYERS` that a module of the package belongs to: `pillow_sdl.latent.entropy` to `latent`."""
    return module.split(".")[1] if "." in module else ""


def modules() -> dict[str, Path]:
    """All modules of the package by their full names."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(module: str, path: Path) -> Iterator[str]:
    """Full names of all that a module imports, anywhere in it: in functions and for type checkers too."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(filter(None, [base, node.module]))
            known = modules() if source.split(".")[0] == "pillow_sdl" else {}
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield full if full in known else source


EDGES = [(module, found) for module, path in modules().items() for found in imports(module, path)]
INNER = sorted({(part(a), part(b)) for a, b in EDGES if b.split(".")[0] == "pillow_sdl" and part(a) != part(b)})
OUTER = sorted({(part(a), b.split(".")[0]) for a, b in EDGES if b.split(".")[0] != "pillow_sdl"})


def height(name: str) -> int:
    """Number of a layer, from the lowest."""
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


def test_every_module_has_its_layer() -> None:
    """A new module has to be put into the picture."""
    layers = {name for layer in LAYERS for name in layer}
    assert {part(module) for module in modules()} <= layers
    assert layers == set(THIRD_PARTY)


def test_the_graph_is_seen() -> None:
    """The reader of imports finds those that are known to be there: of functions, relative, of modules by name."""
    assert ("SdlImagePlugin", "codec") in INNER
    assert ("codec", "models") in INNER
    assert ("", "SdlImagePlugin") in INNER
    assert ("latent", "errors") in INNER
    assert ("models", "torch") in OUTER
    assert ("zstdframe", "zstandard") in OUTER
    assert ("pillow_sdl.codec", "pillow_sdl.models.store") in EDGES


@pytest.mark.parametrize(("importer", "imported"), INNER)
def test_imports_go_down(importer: str, imported: str) -> None:
    """The order is errors <- container, latent <- models <- codec <- plugin <- command line."""
    assert height(imported) < height(importer)
    assert frozenset({importer, imported}) not in STRANGERS


@pytest.mark.parametrize(("importer", "imported"), OUTER)
def test_only_declared_packages_are_imported(importer: str, imported: str) -> None:
    """PyTorch by models/ alone, nothing but the standard library by the container, nothing of the second tier by any."""
    assert imported in sys.stdlib_module_names | THIRD_PARTY[importer]


def test_numbers_and_networks_are_told_apart() -> None:
    """The table of packages itself keeps torch to models/ and the second tier out."""
    assert [name for name, allowed in THIRD_PARTY.items() if "torch" in allowed] == ["models"]
    assert not set().union(*THIRD_PARTY.values()) & {"training", "benchmarks", "examples", "tests"}


HEAVY = "sorted({'torch', 'diffusers', 'transformers', 'numpy', 'safetensors', 'PIL.ImageCms'} & set(sys.modules))"


@pytest.mark.parametrize("fixture", ["plain_file", "rich_file"])
def test_opening_imports_neither_numpy_nor_torch(
    fixture: str, tmp_path: Path, python: Callable[..., str], request: pytest.FixtureRequest
) -> None:
    """Nor does the import of the package, nor reading packed metadata."""
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


def test_the_import_leaves_the_plugin_alone(python: Callable[..., str]) -> None:
    """A program that opens no .sdl file pays for the registration only."""
    program = "import sys, pillow_sdl; print(sorted(name for name in sys.modules if 'pillow_sdl' in name))"
    assert python(program) == "['pillow_sdl', 'pillow_sdl.errors']"


def test_thumbnail_and_verify_import_no_torch(plain_path: Path, python: Callable[..., str]) -> None:
    """Nor do the symbols and what a file says of itself."""
    program = f"""if True:
        import sys
        import pillow_sdl
        from PIL import Image
        Image.open(sys.argv[1]).verify()
        with Image.open(sys.argv[1]) as image:
            image.thumbnail((8, 8))
            print(image.size)
        from pillow_sdl import codec, container
        with open(sys.argv[1], "rb") as stream:
            file = container.read(stream)
        print(codec.read_symbols(file).shape, codec.inspect(file)["model"])
        print([name for name in {HEAVY} if name in ("torch", "diffusers")])
    """
    assert python(program, plain_path) == "(8, 6)\n(96, 3, 3) embedded\n[]"


def test_latents_import_no_torch(plain_path: Path, python: Callable[..., str]) -> None:
    """Neither to read one nor to write one of NumPy's."""
    program = f"""if True:
        import sys
        import pillow_sdl
        found = pillow_sdl.latents(sys.argv[1])
        pillow_sdl.from_latents(found.latent, sys.argv[1], model="embedded", size=(found.width, found.height))
        print(found.latent.shape, pillow_sdl.latents(sys.argv[1]).model == found.model)
        print([name for name in {HEAVY} if name in ("torch", "diffusers")])
    """
    assert python(program, plain_path) == "(96, 3, 3) True\n[]"


def test_all_names_what_is_exported() -> None:
    """`__all__` is sorted, each name is there, and nothing of the package's own is public and left out."""
    assert sorted(pillow_sdl.__all__) == pillow_sdl.__all__
    assert len(set(pillow_sdl.__all__)) == len(pillow_sdl.__all__)
    for name in pillow_sdl.__all__:
        assert getattr(pillow_sdl, name) is not None
    public = {
        name
        for name, value in vars(pillow_sdl).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and getattr(value, "__module__", "").startswith("pillow_sdl")
    }
    assert public <= set(pillow_sdl.__all__)


def test_a_star_import_gives_all(python: Callable[..., str]) -> None:
    """Names that are imported when they are wanted included."""
    program = "from pillow_sdl import *; print(sorted(n for n in dir() if n == '__version__' or n[0] != '_'))"
    assert python(program) == str(sorted(pillow_sdl.__all__))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """The lazy look-up says so as modules do."""
    with pytest.raises(AttributeError, match=r"module 'pillow_sdl' has no attribute 'encoder'"):
        _ = pillow_sdl.encoder


def test_the_package_is_typed() -> None:
    """Type checkers of its users look for this file."""
    assert (PACKAGE / "py.typed").is_file()


def test_the_version_is_that_of_the_installed_package() -> None:
    """One number, in one place."""
    try:
        installed = importlib.metadata.version("pillow-sdl")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pillow-sdl is not installed")
    assert installed == pillow_sdl.__version__
