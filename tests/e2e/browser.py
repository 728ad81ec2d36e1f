"""A real headless Chromium, driven through its DevTools protocol: what a page does there, and how it looks.

Looks for ``$CHROMIUM``, then ``chromium``, ``chromium-browser`` and ``google-chrome`` on the path.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "no browser found: install one (Debian: sudo apt install chromium), or name it in the variable CHROMIUM"
_START_S_MAX, _STOP_S_MAX, _ANSWER_S_MAX = 60.0, 10.0, 60.0
_OPTIONS = (
    "--headless", "--no-sandbox", "--remote-debugging-port=0", "--no-first-run", "--disable-gpu",
    "--disable-dev-shm-usage", "--disable-extensions", "--disable-sync", "--disable-background-networking",
    "--disable-component-update", "--disable-breakpad", "--hide-scrollbars", "--force-device-scale-factor=1",
)  # fmt: skip


def executable() -> str:
    """The browser to start. Fails where there is none, and says how to install one."""
    named = os.environ.get("CHROMIUM", "")
    found = next((path for name in (named, *NAMES) if name and (path := shutil.which(name))), None)
    assert found is not None, MISSING
    return found


class Browser:
    """One page of a running browser. Everything that it logs, throws or asks for is kept."""

    def __init__(self, runner: asyncio.Runner, socket: aiohttp.ClientWebSocketResponse, process_id: int) -> None:
        self.process_id = process_id
        self._runner, self._socket, self._session, self._number = runner, socket, "", 0
        self._events: list[dict[str, Any]] = []

    def attach(self) -> None:
        """Open an empty page and listen to it."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """The answer to one command of the protocol; events that come before it are kept."""
        return self._runner.run(self._call(method, params))

    async def _call(self, method: str, params: dict[str, Any]) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        await self._socket.send_json({**message, "sessionId": self._session} if self._session else message)
        while True:
            answer = await self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    async def _receive(self) -> dict[str, Any]:
        answer: dict[str, Any] = await self._socket.receive_json(timeout=_ANSWER_S_MAX)
        if "method" in answer:
            self._events.append(answer)
        return answer

    def open(self, page: Path, width_px: int = 1280, height_px: int = 900) -> None:
        """Load a file in a window of that size; what was heard before is forgotten."""
        self.resize(width_px, height_px)
        self._events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._runner.run(self._receive())
        # One frame later everything is laid out, and what was logged has been heard.
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def resize(self, width_px: int, height_px: int = 900) -> None:
        """Give the page another window."""
        size = {"width": width_px, "height": height_px, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def _heard(self, method: str) -> list[dict[str, Any]]:
        return [event["params"] for event in self._events if event["method"] == method]

    def complaints(self) -> list[str]:
        """Messages of the console, exceptions, entries of the log, and requests that failed."""
        told = [f"console {one['type']}: {one['args']}" for one in self._heard("Runtime.consoleAPICalled")]
        told += [f"exception: {one['exceptionDetails']}" for one in self._heard("Runtime.exceptionThrown")]
        told += [f"log: {one['entry']['text']}" for one in self._heard("Log.entryAdded")]
        return told + [f"failed: {one['errorText']}" for one in self._heard("Network.loadingFailed")]

    def requests(self) -> list[str]:
        """Addresses that the page asked for, its own among them."""
        return [one["request"]["url"] for one in self._heard("Network.requestWillBeSent")]

    def screenshot(self) -> bytes:
        """The whole page as PNG, however long it is."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(found["data"])

    def pdf(self) -> bytes:
        """The page as it would be printed."""
        found = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        return base64.b64decode(found["data"])


@contextmanager
def browsing() -> Iterator[Browser]:
    """Start a browser with a profile of its own; at the end exactly its process group is stopped."""
    program = executable()
    with tempfile.TemporaryDirectory(prefix="browser", ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [program, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            address = _address(process, Path(profile) / "DevToolsActivePort")
            with asyncio.Runner() as runner:
                session, socket = runner.run(_connected(address))
                try:
                    browser = Browser(runner, socket, process.pid)
                    browser.attach()
                    yield browser
                finally:
                    runner.run(socket.close())
                    runner.run(session.close())
        finally:
            _stop(process)


async def _connected(address: str) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse]:
    session = aiohttp.ClientSession()
    try:
        return session, await session.ws_connect(address, max_msg_size=0)
    except BaseException:
        await session.close()
        raise


def _address(process: subprocess.Popen[bytes], said: Path) -> str:
    """Where the browser listens: it writes port and path into its profile."""
    deadline_s = time.monotonic() + _START_S_MAX
    while time.monotonic() < deadline_s:
        assert process.poll() is None, f"the browser ended at once, with status {process.returncode}"
        lines = said.read_text().split() if said.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    raise AssertionError(f"the browser did not listen within {_START_S_MAX:.0f} s")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the browser and all that it started: its children outlive it by a moment, or for good."""
    process.terminate()
    try:
        process.wait(_STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(_STOP_S_MAX)
