"""A headless Chromium, driven over the pipe of its own DevTools protocol. Standard library only.

with Chromium() as browser:
    page = browser.open("http://127.0.0.1:8765/.../", width=1400, height=900)
    page.wait("document.querySelector('.chart')")
    page.save(Path("page.png"))
    assert not page.complaints
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

START_S = 60.0
"""For the browser to answer the first time, on a busy machine too."""


def find_chromium() -> str | None:
    """The browser on this machine; None without one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """A browser of its own: a new profile in a temporary folder, gone afterwards."""

    def __init__(self) -> None:
        path = find_chromium()
        assert path is not None, f"found none of {', '.join(NAMES)}; on Debian: apt-get install chromium"
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        options = ["--headless=new", "--remote-debugging-pipe", "--no-first-run", "--disable-gpu", "--hide-scrollbars"]
        options += ["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"]
        options += [f"--user-data-dir={self._profile.name}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        read_by_it, self._to = os.pipe()
        self._from, written_by_it = os.pipe()
        # It reads from 3 and writes to 4; ends with such numbers are moved out of the way first.
        ours = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read_by_it, written_by_it)]
        silence = os.open(os.devnull, os.O_WRONLY)
        actions = [(os.POSIX_SPAWN_DUP2, silence, 1), (os.POSIX_SPAWN_DUP2, silence, 2)]
        actions += [(os.POSIX_SPAWN_DUP2, ours[0], 3), (os.POSIX_SPAWN_DUP2, ours[1], 4)]
        self._pid = os.posix_spawn(path, [path, *options], os.environ, file_actions=actions, setsid=True)
        for end in (*ours, read_by_it, written_by_it, silence):
            os.close(end)
        self._rest, self._number = b"", 0
        self.pages: dict[str, Page] = {}

    def open(self, address: str, *, width: int = 1400, height: int = 900, is_dark: bool = False) -> Page:
        """A new page of that size in CSS pixels; returns at once, `Page.wait` waits."""
        target = self.call("Target.createTarget", {"url": "about:blank"}, wait_s=START_S)["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self.pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        page.dress(is_dark=is_dark)
        page.go(address)
        return page

    def call(self, method: str, parameters: Any = None, *, session: str | None = None, wait_s: float = 30.0) -> Any:
        """The result of a command of the protocol; events that come before it go to their pages."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters or {}}
        text = json.dumps(message | ({"sessionId": session} if session else {}))
        os.write(self._to, text.encode() + b"\0")
        end = time.monotonic() + wait_s
        while True:
            answer = self._next(end, method)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            if "method" in answer and answer.get("sessionId") in self.pages:
                self.pages[answer["sessionId"]].hear(answer["method"], answer["params"])

    def _next(self, end: float, method: str) -> Any:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"Chromium did not answer {method} in time"
            got = os.read(self._from, 1 << 20)
            assert got, "Chromium has ended"
            self._rest += got
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def close(self) -> None:
        """End the browser and what it started: its own process group."""
        for end in (self._to, self._from):
            os.close(end)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._profile.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Page:
    """One page; `complaints` are the errors and warnings of its console, refused scripts and failed requests too."""

    def __init__(self, browser: Chromium, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target
        self.complaints: list[str] = []
        self.addresses: list[str] = []

    def call(self, method: str, **parameters: Any) -> Any:
        return self._browser.call(method, parameters, session=self._session)

    def hear(self, method: str, found: Any) -> None:
        """Takes an event of the protocol."""
        if method == "Runtime.exceptionThrown":
            details = found["exceptionDetails"]
            self.complaints.append(str(details.get("exception", {}).get("description") or details["text"]))
        elif method == "Runtime.consoleAPICalled" and found["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(a.get("value", a.get("description"))) for a in found["args"]))
        elif method == "Log.entryAdded" and found["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{found['entry']['text']} {found['entry'].get('url', '')}".strip())
        elif method == "Network.requestWillBeSent":
            self.addresses.append(found["request"]["url"])

    def go(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def resize(self, width: int, height: int, scale: float = 1.0) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )

    def dress(self, *, is_dark: bool) -> None:
        """The scheme of colours that the page is asked for."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, promises awaited."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str, wait_s: float = 20.0) -> float:
        """Seconds until a JavaScript expression is true."""
        start = time.monotonic()
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() - start < wait_s, f"still not so after {wait_s} s: {condition}"
            time.sleep(0.02)
        return time.monotonic() - start

    def press(self, key: str) -> None:
        """A key of the keyboard, such as "j" or "ArrowLeft"."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def close(self) -> None:
        del self._browser.pages[self._session]
        self._browser.call("Target.closeTarget", {"targetId": self._target})

    def save(self, path: Path, *, is_whole: bool = False) -> None:
        """A picture of what the window shows, or of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=is_whole)
        path.write_bytes(base64.b64decode(shot["data"]))
