"""Fuzz the reader with atheris, from the root of the repository, until it finds a fault:

    pip install atheris
    python -m tests.fuzz.atheris_main FOLDER spec/vectors

FOLDER keeps the inputs that reached new code; others are seeds.  See `-help=1` for libFuzzer's options.
"""

from __future__ import annotations

import contextlib
import sys

import atheris  # type: ignore[import-untyped]  # Linux only, not among the dependencies

with atheris.instrument_imports():
    from .target import ALLOWED, target


def one_input(data: bytes) -> None:
    """A refusal is an answer, anything else ends the run."""
    with contextlib.suppress(*ALLOWED):
        target(data)


def main() -> None:
    """Hand over to libFuzzer."""
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
