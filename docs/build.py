"""Build the documentation into docs/_build/: `python docs/build.py`, and with --strict fail at the first warning.

Pages are Markdown, read by Sphinx.  docs/conf.py has the settings and writes the generated parts first.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sphinx.cmd.build import build_main

DOCS = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> int:
    """Run Sphinx and return its exit status."""
    parser = argparse.ArgumentParser(description="Build the documentation.")
    parser.add_argument("--strict", action="store_true", help="read all pages anew; warnings are errors")
    parser.add_argument("--output", type=Path, default=DOCS / "_build", help="folder of the pages, default docs/_build")
    options = parser.parse_args(arguments)
    strict = ["--fail-on-warning", "--keep-going", "--fresh-env"] if options.strict else []
    return build_main(["--quiet", *strict, "-b", "html", str(DOCS), str(options.output)])


if __name__ == "__main__":
    sys.exit(main())
