"""Write files atomically.  Standard library only."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path


def write(name: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that it contains either all of the data or what it contained before.

    The data go to a temporary file in the same folder, which is then renamed.  A symbolic link keeps its target, and a
    file that is replaced keeps its permissions.  A device or a pipe is written directly.  Raises OSError.
    """
    path = Path(os.path.realpath(name))
    if path.exists() and not path.is_file():  # A device or a pipe.
        path.write_bytes(data)
        return
    temporary = path.with_name(f".sdl-{secrets.token_hex(8)}")
    try:
        # Not by tempfile, whose files only their owner can read.
        with temporary.open("xb") as file:
            file.write(data)
        if path.exists():
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
