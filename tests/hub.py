"""A hub of models on the loopback address, as far as the hub's client asks for it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse


@dataclass
class Hub:
    """repositories: by name, the folder of each, whatever commit is asked for.   requests: paths, in order."""

    address: str
    repositories: dict[str, Path]
    requests: list[str] = field(default_factory=list)


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Keep quiet."""

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
            commit = next(iter(re.findall(r"/([0-9a-f]{40})(?:/|$)", path)), "0123456789" * 4)
            for name, folder in hub.repositories.items():
                if path.startswith(f"/api/models/{name}"):
                    files = [
                        file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()
                    ]
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

        do_HEAD = do_GET  # noqa: N815  the server's name

    return Handler


@contextmanager
def serving(repositories: dict[str, Path]) -> Iterator[Hub]:
    """A hub with these repositories, until the block ends."""
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
