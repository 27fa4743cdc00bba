"""A headless Chromium driven over a pipe, for pages whose script has to be seen at work."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-sync", "--disable-background-networking", "--disable-component-update",
    "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip
# Chromium reads commands from descriptor 3 and writes to 4.
_PLACE_PIPES = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
WAIT_SECONDS = 60.0


class Navigated(Exception):
    """The page that was asked is gone."""


class Browser:
    """One tab. `problems` collects script errors and violations of the CSP."""

    def __init__(self, profile: Path) -> None:
        assert EXECUTABLE is not None, "there is no Chromium"
        self.problems: list[str] = []
        self._ids = itertools.count(1)
        self._buffer = b""
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-S", "-c", _PLACE_PIPES, str(to_read), str(to_write)),
                *(EXECUTABLE, *FLAGS, f"--user-data-dir={profile}", "about:blank"),
            ],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        self._session: str | None = None
        targets = self.command("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        self._session = self.command(
            "Target.attachToTarget", targetId=page["targetId"], flatten=True
        )["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.command(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        os.close(self._write)
        os.close(self._read)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def command(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command of the DevTools protocol and wait for its result."""
        number = next(self._ids)
        request: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            request["sessionId"] = self._session
        os.write(self._write, json.dumps(request).encode() + b"\0")
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            answer = self._next(deadline)
            if answer.get("id") == number:
                if "navigated" in answer.get("error", {}).get("message", ""):
                    raise Navigated
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            readable, _, _ = select.select([self._read], [], [], max(0.0, left))
            assert readable, "Chromium does not answer"
            chunk = os.read(self._read, 65536)
            assert chunk, "Chromium has ended"
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(line)
        params = answer.get("params", {})
        if answer.get("method") == "Runtime.exceptionThrown":
            self.problems.append(params["exceptionDetails"]["text"])
        if answer.get("method") == "Log.entryAdded":
            entry = params["entry"]
            if entry["level"] == "error" and entry["source"] != "network":
                self.problems.append(entry["text"])
        return answer

    def open(self, url: str) -> None:
        """Go to an address, freshly, and wait until the page has loaded."""
        self.command("Page.navigate", url="about:blank")
        self.wait_for("location.href === 'about:blank'")
        if url != "about:blank":
            self.command("Page.navigate", url=url)
            self.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """The value of a script's expression in the page."""
        result = self.command(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true in the page."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not self._is_true(expression):
            assert time.monotonic() < deadline, f"never came true: {expression}"
            time.sleep(0.02)

    def _is_true(self, expression: str) -> bool:
        # A page that is on its way out, or in, may lack what is asked for.
        guarded = f"(() => {{ try {{ return Boolean({expression}) }} catch {{ return false }} }})()"
        try:
            return bool(self.run(guarded))
        except Navigated:
            return False

    def text(self) -> str:
        """What a reader sees."""
        seen: str = self.run("document.body.innerText")
        return seen

    def screenshot(self, path: Path, *, width: int, height: int, dark: bool = False) -> None:
        """Save what a window of that size shows, as PNG."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = "dark" if dark else "light"
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.command("Emulation.setEmulatedMedia", features=[feature])
        image = self.command("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(image))
