"""A hub of models on the loopback address, and the program `sdl` with that hub.  Nothing here is a test.

The server answers what the hub's client asks when it downloads a snapshot of a repository.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlparse

from pillow_sdl import registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

ROOT: Final = Path(__file__).parent.parent

UNKNOWN_COMMIT: Final = "0123456789" * 4
"""The commit that a branch stands for."""


@dataclass
class Hub:
    """A running server.

    address: its URL.   repositories: folders by the names of repositories; all commits have the same files.
    requests: methods and paths of the requests so far, in order.
    """

    address: str
    repositories: dict[str, Path]
    requests: list[str] = field(default_factory=list)

    def downloads(self) -> set[str]:
        """Return the paths of the files that were downloaded, inside their repositories."""
        found = (re.fullmatch(r"GET /.+?/resolve/[^/]+/(.+)", request) for request in self.requests)
        return {match[1] for match in found if match}


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Print nothing."""

        def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = unquote(urlparse(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            commit = next(iter(re.findall(r"/([0-9a-f]{40})(?:/|$)", path)), UNKNOWN_COMMIT)
            for name, folder in hub.repositories.items():
                if path.startswith(f"/api/models/{name}"):
                    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
                    if "/tree/" in path:
                        found: object = [{"type": "file", "path": file, "size": 1, "oid": "0"} for file in files]
                    else:
                        siblings = [{"rfilename": file} for file in files]
                        found = {"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []}
                    self._answer(200, json.dumps(found).encode(), Content_Type="application/json")
                    return
                if path.startswith(f"/{name}/resolve/"):
                    file = folder / path.removeprefix(f"/{name}/resolve/").partition("/")[2]
                    if file.is_file():
                        body = file.read_bytes()
                        etag = f'"{hashlib.sha256(body).hexdigest()}"'
                        self._answer(200, body, ETag=etag, X_Repo_Commit=commit)
                        return
                    self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
                    return
            self._answer(404, X_Error_Code="RepoNotFound")

        do_HEAD = do_GET  # noqa: N815  the server's name for it

    return Handler


@contextmanager
def serving(repositories: dict[str, Path]) -> Iterator[Hub]:
    """Serve repositories until the `with` block ends.  Yields the hub."""
    hub = Hub("", repositories)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def connect(monkeypatch: pytest.MonkeyPatch, hub: Hub) -> None:
    """Let the hub's client of this process ask a hub.  Undoes the offline part of `networks.isolate`."""
    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    template = f"{hub.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def unchecked() -> registry.Registry:
    """Return the registry without the hashes of downloads, so that small networks pass for the real ones."""

    def without(model: registry.Model) -> registry.Model:
        places = tuple(dataclasses.replace(place, sha256="") for place in model.repositories)
        unet = model.unet and dataclasses.replace(model.unet, sha256="")
        return dataclasses.replace(model, repositories=places, unet=unet)

    known = registry.load()
    return dataclasses.replace(known, models=tuple(map(without, known.models)))


def accept_any_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the registry of this process by that of `unchecked`."""
    known = unchecked()
    monkeypatch.setattr(registry, "load", lambda: known)


PROGRAM: Final = """
import sys
from pillow_sdl import cli, registry
from tests import hub

known = hub.unchecked()
registry.load = lambda: known
sys.exit(cli.main(sys.argv[1:]))
"""
"""The program `sdl` with the registry of `unchecked`."""


def sdl(hub: Hub, home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `sdl` in a fresh interpreter with a hub and the registry of `unchecked`.

    home: folder of the hub's caches.   environment: variables beside the usual ones.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PILLOW_SDL_"))}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env=kept | {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
