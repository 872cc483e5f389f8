"""Headless Chromium, driven through a pipe by the DevTools protocol (chromedevtools.github.io/devtools-protocol).

It needs the program `chromium` and nothing else.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

TIMEOUT = 60
"""Most seconds that one command may take."""

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""The browser, None if there is none."""

# The browser reads commands from descriptor 3 and writes answers to descriptor 4.
_LAUNCHER = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)

_KEYS = {
    **{
        name: 35 + index
        for index, name in enumerate(["End", "Home", "ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown"])
    },
    "Tab": 9,
    " ": 32,
}


class Browser:
    """A running browser with one page.   profile: an empty folder.  Use it in a `with` statement."""

    def __init__(self, profile: Path) -> None:
        assert PROGRAM is not None
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
        options = [
            "--headless",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            "--no-sandbox",
            "--no-first-run",
        ]
        options += ["--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars"]
        launcher = [sys.executable, "-c", _LAUNCHER, *map(str, ends), PROGRAM, *options, "about:blank"]
        self._process = subprocess.Popen(
            launcher, pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        for end in (commands, answers, *ends):
            os.close(end)
        self._number = 0
        self._received = b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(RuntimeError, TimeoutError, OSError):
            self._session = None
            self.send("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)  # It has a process group of its own.
            self._process.wait()
        os.close(self._commands)
        os.close(self._answers)

    def _message(self, deadline: float) -> dict[str, Any]:
        """Return the next message of the browser.  Raises TimeoutError."""
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._answers], [], [], max(deadline - time.monotonic(), 0))
            data = os.read(self._answers, 1 << 20) if ready else b""
            if not data:
                msg = "the browser does not answer"
                raise TimeoutError(msg)
            self._received += data
        data, _, self._received = self._received.partition(b"\0")
        found: dict[str, Any] = json.loads(data)
        return found

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result.  Raises RuntimeError if it fails."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        data = json.dumps(command).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        deadline = time.monotonic() + TIMEOUT
        while (found := self._message(deadline)).get("id") != self._number:
            self.events.append(found)
        if "error" in found:
            msg = f"{method}: {found['error']}"
            raise RuntimeError(msg)
        result: dict[str, Any] = found["result"]
        return result

    def open(self, url: str, width: int, height: int, *, scheme: str = "light", touch: bool = False) -> None:
        """Load a page and wait until its pictures are decoded.   scheme: "light" or "dark", as the system prefers."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.send("Emulation.setTouchEmulationEnabled", enabled=touch)
        self.prefer(scheme)
        self.events.clear()
        found = self.send("Page.navigate", url=url)
        if "errorText" in found:
            msg = f"{url}: {found['errorText']}"
            raise RuntimeError(msg)
        deadline = time.monotonic() + TIMEOUT
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message(deadline))
        self.run("Promise.allSettled([...document.images].map((image) => image.decode())).then(() => true)")

    def prefer(self, scheme: str) -> None:
        """Let the system prefer a color scheme, "light" or "dark"."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression, of a promise what it becomes.  Raises RuntimeError."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Return the left, top, width and height of an element in the window, which is scrolled to it."""
        script = (
            f"(() => {{ const found = document.querySelector({json.dumps(selector)});"
            "found.scrollIntoView({block: 'center', behavior: 'instant'}); const box = found.getBoundingClientRect();"
            "return [box.left, box.top, box.width, box.height]; })()"
        )
        left, top, width, height = self.run(script)
        return left, top, width, height

    def click(self, selector: str) -> None:
        """Click the middle of an element."""
        left, top, width, height = self.box(selector)
        self.mouse("mousePressed", left + width / 2, top + height / 2)
        self.mouse("mouseReleased", left + width / 2, top + height / 2)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Send an event of the mouse: mousePressed, mouseMoved, mouseReleased or mouseWheel."""
        pressed = {"button": "left", "buttons": 0 if kind == "mouseReleased" else 1, "clickCount": 1}
        if kind == "mouseWheel":
            pressed = {}
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **pressed, **more)

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        """Send a touch event, touchStart, touchMove or touchEnd, with the places of all fingers."""
        fingers = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(points)]
        self.send("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)

    def key(self, key: str, *, shift: bool = False) -> None:
        """Press and release a key."""
        code = _KEYS.get(key, ord(key[0]) if len(key) == 1 else 0)
        for kind in ("keyDown", "keyUp"):
            text = {"text": key} if len(key) == 1 and kind == "keyDown" else {}
            self.send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                modifiers=8 if shift else 0,
                **text,
            )

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a PNG file of the page, or of what the window shows."""
        data = self.send("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def complaints(self) -> list[str]:
        """Return errors and warnings of the page since `open`: exceptions, the console, and the browser's log."""
        self.run("0")
        found = []
        for event in self.events:
            method, parameters = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(json.dumps(parameters["exceptionDetails"]))
            elif method == "Runtime.consoleAPICalled":
                found.append(json.dumps(parameters["args"]))
            elif method == "Log.entryAdded":
                found.append(parameters["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for since `open`, without those of data."""
        self.run("0")
        sent = [event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [found["request"]["url"] for found in sent if not found["request"]["url"].startswith("data:")]
