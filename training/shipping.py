"""What every export does: put hashes of what ships into the code and the registry."""

from __future__ import annotations

import re
from pathlib import Path


def replace_once(path: Path, pattern: str, value: str) -> None:
    """Put `value` after the pattern's first group in a text file."""
    text, count = re.subn(pattern, lambda match: match[1] + value, path.read_text(), count=1, flags=re.DOTALL)
    assert count == 1, f"{path} has nothing like {pattern}"
    path.write_text(text)
