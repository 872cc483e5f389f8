"""Write files atomically.  Standard library only."""

from __future__ import annotations

import os
import stat
import tempfile
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
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".sdl-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # mkstemp creates files that only their owner can read.  Set the permissions of the old file, or the usual ones.
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~mask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
