"""Settings of Sphinx.  Build with `python docs/build.py`."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from docs import generate
from docs.docstrings import parse, to_rst

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "pillow-sdl"
author = "The pillow-sdl developers"
copyright = author  # noqa: A001  the name is Sphinx's

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "_generated/*.md"]
nitpicky = False
smartquotes = False  # Quotes and dashes are those of code.
default_role = "py:obj"  # In docstrings: a link where the name is documented, otherwise code.

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "pillow-sdl"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False


def _names(documented: Any) -> list[str]:
    """The parameters and fields that a docstring may describe."""
    if inspect.isclass(documented):
        if dataclasses.is_dataclass(documented):
            return [field.name for field in dataclasses.fields(documented)]
        if fields := getattr(documented, "_fields", None):
            return list(fields)
    try:
        return list(inspect.signature(documented).parameters)
    except (TypeError, ValueError):
        return []


def _title(documented: Any) -> str:
    if not inspect.isclass(documented):
        return "Parameters"
    return "Attributes" if issubclass(documented, Exception) else "Fields"


def _convert(_: Sphinx, __: str, ___: str, documented: Any, ____: Any, lines: list[str]) -> None:
    text = to_rst(parse(lines, _names(documented)), _title(documented))
    lines[:] = [line.replace("see `EncodeOptions`", "see :doc:`options`") for line in text]


def setup(app: Sphinx) -> None:
    """Write the generated files, and convert docstrings."""
    generate.main()
    app.connect("autodoc-process-docstring", _convert)
