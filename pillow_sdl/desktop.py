"""Register the format with a Linux desktop: its media type, and the program that makes thumbnails.

    DATA/mime/packages/pillow-sdl.xml      name, signature and extension of image/x-sdl
    DATA/thumbnailers/sdl.thumbnailer      the command that file managers run for a thumbnail

DATA is the user's data folder, or another one.  Sources: shared-mime-info specification 0.21; Thumbnailer entries of
GNOME, as tumbler reads them too; XDG Base Directory specification 0.8.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from . import atomic

MEDIA_TYPE: Final = "image/x-sdl"

MIME_FILE: Final = Path("mime", "packages", "pillow-sdl.xml")
THUMBNAILER_FILE: Final = Path("thumbnailers", "sdl.thumbnailer")
FILES: Final = (MIME_FILE, THUMBNAILER_FILE)
"""What is installed, below the data folder."""

UPDATE: Final = "update-mime-database"
"""The program of shared-mime-info that makes the desktop read its media types again."""

MIME: Final = f"""<?xml version="1.0" encoding="UTF-8"?>
<mime-info xmlns="http://www.freedesktop.org/standards/shared-mime-info">
  <mime-type type="{MEDIA_TYPE}">
    <comment>SDL latent image</comment>
    <acronym>SDL</acronym>
    <generic-icon name="image-x-generic"/>
    <magic priority="60">
      <match type="string" offset="0" value="\\x89SDL"/>
    </magic>
    <glob pattern="*.sdl"/>
  </mime-type>
</mime-info>
"""


def data_folder() -> Path:
    """Return the folder of this user's data: $XDG_DATA_HOME, or ~/.local/share."""
    given = os.environ.get("XDG_DATA_HOME", "")
    # The specification says that a relative path is to be ignored.
    return Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "share"


def thumbnailer() -> str:
    """Return the thumbnailer entry, which runs `sdl thumbnail` of this Python environment."""
    # With -P no module is taken from the current folder, which may be one with files of strangers.
    program = [sys.executable, "-P", "-m", "pillow_sdl", "thumbnail"]
    # Thumbnailers run in a sandbox or with another PATH, so the command names the interpreter.
    command = " ".join(shlex.quote(part).replace("%", "%%") for part in program)
    return f"[Thumbnailer Entry]\nTryExec={sys.executable}\nExec={command} -s %s %i %o\nMimeType={MEDIA_TYPE};\n"


def install(folder: Path) -> list[Path]:
    """Write the files below a data folder; return their paths.  Older ones are replaced.  Raises OSError."""
    written = []
    for name, text in zip(FILES, (MIME, thumbnailer()), strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write(path, text.encode())
        written.append(path)
    return written


def uninstall(folder: Path) -> list[Path]:
    """Delete the files below a data folder; return the paths of those that were there.  Raises OSError."""
    removed = []
    for name in FILES:
        path = folder / name
        if path.is_file():
            path.unlink()
            removed.append(path)
    return removed


def update(folder: Path) -> str | None:
    """Make the desktop read the media types of a data folder again.  Return what went wrong, None if nothing did."""
    program = shutil.which(UPDATE)
    if program is None:
        return f"{UPDATE} is not installed; it comes with the package shared-mime-info"
    done = subprocess.run([program, str(folder / "mime")], capture_output=True, text=True, check=False)  # noqa: S603
    return None if done.returncode == 0 else f"{UPDATE} failed: {(done.stderr or done.stdout).strip()}"


def remove_empty_folders(folder: Path) -> None:
    """Delete the folders of `FILES` that are empty, but not the data folder."""
    for name in FILES:
        for parent in list(name.parents)[:-1]:
            path = folder / parent
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
