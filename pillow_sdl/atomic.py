"""Files that are there in whole or not at all.  Standard library only."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def write(name: str | os.PathLike[str], data: bytes) -> None:
    """All of the data or nothing: a temporary file beside the target takes its name at the end.

    A link goes on pointing where it does, permissions of a file that is replaced are kept, and a device or a pipe is
    written to directly.  Raises OSError.
    """
    path = Path(os.path.realpath(name))
    if path.exists() and not path.is_file():  # A device, a pipe.
        path.write_bytes(data)
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".sdl-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        # mkstemp makes files that only their owner may read: give those of the old file, or the usual ones.
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~mask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
