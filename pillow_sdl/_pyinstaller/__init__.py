"""Hook for PyInstaller, found by its entry point: frozen programs get the weights without an option."""

from __future__ import annotations

from pathlib import Path


def hook_dirs() -> list[str]:
    """Return the folders that hold hooks."""
    return [str(Path(__file__).parent)]
