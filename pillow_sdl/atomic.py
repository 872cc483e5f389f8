"""Write files atomically.  Standard library only."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path


def write(name: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that it contains either all of the data or what it contained before.

    The data go to a temporary file in the same folder, which is then renamed.  A symbolic link keeps its target, and a
    file that is replaced keeps its permissions.  A device or a pipe is written directly.  Raises OSError, which names
    the file.
    """
    # Not of the real path: the one of /dev/stdout does not exist if that is a pipe.
    target = Path(name)
    if target.exists() and not target.is_file():
        target.write_bytes(data)
        return
    path = Path(os.path.realpath(name))
    temporary = path.with_name(f".sdl-{secrets.token_hex(8)}")
    try:
        # Not by tempfile, whose files only their owner can read.
        with temporary.open("xb") as file:
            file.write(data)
        # Windows knows no permission but "read-only", and a temporary file that has it could not be deleted.
        if path.exists() and os.name != "nt":
            temporary.chmod(stat.S_IMODE(path.stat().st_mode))
        temporary.replace(path)
    except BaseException as exc:
        temporary.unlink(missing_ok=True)
        if isinstance(exc, OSError) and exc.errno:
            raise OSError(exc.errno, exc.strerror, os.fspath(name)) from exc
        raise
