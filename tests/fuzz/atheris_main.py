"""Fuzz the reader with atheris until it finds a fault.  Run it from the root of the repository:

    pip install atheris
    python -m tests.fuzz.atheris_main FOLDER spec/vectors

FOLDER keeps the inputs that reach new code.  Further folders hold seeds.  `-help=1` lists the options of libFuzzer.
"""

from __future__ import annotations

import contextlib
import sys

import atheris  # type: ignore[import-untyped]  # Linux only, not among the dependencies

with atheris.instrument_imports():
    from .target import ALLOWED, target


def one_input(data: bytes) -> None:
    """Run the target.  Refusals are expected, and any other exception ends the run."""
    with contextlib.suppress(*ALLOWED):
        target(data)


def main() -> None:
    """Run libFuzzer."""
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
