"""Replace files in the weights folder of a checkout, and their SHA-256 in its registry.json.

All commands that ship something write through `Shelf`.  The registry is the only text that they change.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from safetensors.numpy import save_file

from pillow_sdl import registry

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).parent.parent
"""This checkout."""

REGISTRY: Final = "registry.json"


def add_root(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the checkout to ship into."""
    parser.add_argument("--root", type=Path, default=ROOT, help="checkout to ship into; default: this one")


class Shelf:
    """The weights folder of a checkout, while its files are replaced.

    In a `with` block, files are written to a folder beside it.  At the end of the block they and the registry take the
    places of the old ones.  An error in the block leaves everything as it was.

    registry: content of registry.json, to be changed in place.
    """

    def __init__(self, root: Path = ROOT) -> None:
        """Read the registry.   root: folder of the checkout."""
        self._folder = root / registry.WEIGHTS_FOLDER.relative_to(ROOT)
        self.registry: dict[str, Any] = json.loads((self._folder / REGISTRY).read_text("utf-8"))

    def __enter__(self) -> Self:
        self._staging = Path(tempfile.mkdtemp(dir=self._folder.parent, prefix="weights-"))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            text = json.dumps(self.registry, indent=2, ensure_ascii=False) + "\n"
            (self._staging / REGISTRY).write_text(text, "utf-8")
            # The registry comes last.
            for path in sorted(self._staging.iterdir(), key=lambda path: path.name == REGISTRY):
                path.chmod(0o644)
                path.replace(self._folder / path.name)
        shutil.rmtree(self._staging)

    def entry(self, kind: str, name: str) -> dict[str, Any]:
        """Return the entry of a name.   kind: "spaces" or "models".  Raises SystemExit if there is none."""
        entries: list[dict[str, Any]] = self.registry[kind]
        for entry in entries:
            if entry["name"] == name:
                return entry
        msg = f"the registry has no {name} among its {kind}: {', '.join(entry['name'] for entry in entries)}"
        raise SystemExit(msg)

    def store(self, entry: dict[str, Any], part: str, file: str, arrays: Mapping[str, np.ndarray]) -> Path:
        """Write a file of arrays, and enter it; return its path until the end of the block.

        part: key of the file in the entry, such as "tables".   file: its name, unless the entry has one already.
        """
        path: Path = self._staging / entry.get(part, {}).get("file", file)
        # safetensors writes an array as it lies in memory.
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
        self.record(entry, part, path)
        return path

    def record(self, entry: dict[str, Any], part: str, path: Path) -> None:
        """Enter the name and the SHA-256 of a file that lies beside those of `store`, under the key `part`."""
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        entry[part] = {"file": path.name, "sha256": digest}
        print(f"{path.name}: {path.stat().st_size} bytes, SHA-256 {digest}")


def as_float16(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return torch tensors as float16 arrays.  Raises SystemExit if a weight is too large for float16."""
    found = {name: np.ascontiguousarray(tensor.detach().cpu().half().numpy()) for name, tensor in tensors.items()}
    for name, array in found.items():
        if not np.isfinite(array).all():
            msg = f"{name} has a weight that float16 cannot hold"
            raise SystemExit(msg)
    return found
