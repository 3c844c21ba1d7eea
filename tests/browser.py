"""Pages in a real browser where there is one: Chromium or Chrome, steered through its pipe."""

from __future__ import annotations

import atexit
import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

CHROME = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
    "about:blank",
]
PATIENCE = 60.0
"""Seconds until a page that does not answer is a failure."""
needs_browser = pytest.mark.skipif(CHROME is None, reason="no Chromium or Chrome is installed")

# the browser reads commands from descriptor 3 and answers on 4
_START = (
    "import os, sys; [os.dup2(int(sys.argv[i]), i + 2) for i in (1, 2)]; "
    "os.execv(sys.argv[3], sys.argv[3:])"
)


class Browser:
    """One browser process for all tests."""

    def __init__(self) -> None:
        self.profile = tempfile.mkdtemp(prefix="browser")
        (its_in, self.out), (self.into, its_out) = os.pipe(), os.pipe()
        # beyond 3 and 4, which the child takes
        theirs = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (its_in, its_out)]
        os.close(its_in), os.close(its_out)
        argv = [*map(str, theirs), CHROME, *FLAGS, f"--user-data-dir={self.profile}"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, *argv],
            pass_fds=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in theirs:
            os.close(fd)
        self.unread, self.events, self.count = b"", [], 0
        atexit.register(self.close)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)

    def ask(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """Send a command, and wait for its answer; events meanwhile are kept."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        message |= {"sessionId": session} if session else {}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.out, data) :]
        while (found := self._next()).get("id") != self.count:
            self.events.append(found)
        assert "error" not in found, found
        return found["result"]

    def wait(self, method: str, session: str) -> None:
        """Wait for an event that has not come yet, or has."""
        while not any(e["method"] == method and e["sessionId"] == session for e in self.events):
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while b"\0" not in self.unread:
            ready, _, _ = select.select([self.into], [], [], until - time.monotonic())
            assert ready, "the browser does not answer"
            self.unread += os.read(self.into, 1 << 20)
        message, _, self.unread = self.unread.partition(b"\0")
        return json.loads(message)


_browser: Browser | None = None


class Page:
    """An opened page."""

    def __init__(
        self,
        url: str,
        *,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        scripts: bool = True,
    ):
        global _browser
        _browser = _browser or Browser()
        self.browser = _browser
        target = self.browser.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.browser.ask("Target.attachToTarget", targetId=target, flatten=True)
        self.session, self.target = attached["sessionId"], target
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        if not scripts:
            self.ask("Emulation.setScriptExecutionDisabled", value=True)
        self.ask("Page.navigate", url=url)
        self.browser.wait("Page.loadEventFired", self.session)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.browser.ask("Target.closeTarget", targetId=self.target)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.ask(method, self.session, **params)

    def evaluate(self, script: str) -> Any:
        """The value of an expression, or of what its promise comes to."""
        found = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """A key, such as Tab or Enter."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, **_KEYS[key], **text)

    @property
    def dom(self) -> str:
        return self.evaluate("document.documentElement.outerHTML")

    @property
    def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return self.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )

    @property
    def console(self) -> list[Any]:
        """What the page wrote to the console, uncaught errors and refusals of its policy."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [e["params"] for e in self._events() if e["method"] in kinds]

    @property
    def requests(self) -> list[str]:
        """Addresses that were asked for."""
        sent = [e for e in self._events() if e["method"] == "Network.requestWillBeSent"]
        return [e["params"]["request"]["url"] for e in sent]

    def screenshot(self, path: Path, *, top: int = 0, height: int = 900) -> None:
        """A PNG of a stretch of the page, in its width."""
        width = self.evaluate("innerWidth")
        clip = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _events(self) -> list[dict[str, Any]]:
        self.evaluate("0")  # what is under way arrives before the answer
        return [e for e in self.browser.events if e.get("sessionId") == self.session]


_KEYS = {
    "Tab": {"windowsVirtualKeyCode": 9},
    "Enter": {"windowsVirtualKeyCode": 13},
    "Backspace": {"windowsVirtualKeyCode": 8},
    **{digit: {"windowsVirtualKeyCode": ord(digit)} for digit in "123"},
}


def opened(path: Path, hash: str = "") -> tuple[str, list[Any]]:
    """A file's DOM after its script ran, and what the console said."""
    with Page(path.as_uri() + hash) as page:
        return page.dom, page.console
