"""A headless Chromium for tests, spoken to in its own DevTools protocol (no further package than `websockets`)."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
#: Software WebGL 2: no GPU is needed, and pictures are the same everywhere.
FLAGS = (
    "--headless=new", "--no-sandbox", "--remote-debugging-port=0", "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--disable-extensions", "--disable-background-networking", "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding", "--disable-backgrounding-occluded-windows",
)  # fmt: skip


def find_chromium() -> str:
    """Its path: $HEADRECON_CHROMIUM or on the PATH; skips the test where there is none."""
    named = os.environ.get("HEADRECON_CHROMIUM")
    found = named or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"needs a browser: none of {', '.join(NAMES)} is on the PATH, and HEADRECON_CHROMIUM is not set")
    return found


class Chromium:
    """One browser with its own empty profile. Use it as a context."""

    def __init__(self, profile: Path, size: tuple[int, int] = (1000, 700)) -> None:
        self._log = profile / "chromium.log"
        profile.mkdir(parents=True, exist_ok=True)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [find_chromium(), *FLAGS, f"--window-size={size[0]},{size[1]}", f"--user-data-dir={profile}"],
                stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        self._port = self._wait_for_port()

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def _wait_for_port(self) -> int:
        end = time.monotonic() + 60
        while time.monotonic() < end and self._process.poll() is None:
            found = re.search(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", self._log.read_text(errors="replace"))
            if found:
                return int(found[1])
            time.sleep(0.1)
        raise RuntimeError(f"Chromium did not start: {self._log.read_text(errors='replace')[-800:]}")

    def open(self, url: str) -> Page:
        """A new tab."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            address = json.load(answer)["webSocketDebuggerUrl"]
        page = Page(address)
        page.call("Page.enable")
        page.call("Runtime.enable")
        page.call("Page.navigate", url=url)
        return page


class Page:
    """A tab."""

    def __init__(self, address: str) -> None:
        from websockets.sync.client import connect

        self._socket = connect(address, max_size=1 << 28, open_timeout=30)
        self._ids = itertools.count(1)
        self.errors: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol; raises RuntimeError for its error."""
        wanted = next(self._ids)
        self._socket.send(json.dumps({"id": wanted, "method": method, "params": params}))
        while True:
            answer = json.loads(self._socket.recv(timeout=120))
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(answer["params"]["exceptionDetails"].get("exception", {}).get("description")))
            if answer.get("id") == wanted:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression (promises are awaited)."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"].get("exception", {}).get("description", script))
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 60.0) -> Any:
        """Until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = self.run(script)
            if value:
                return value
            time.sleep(0.1)
        raise TimeoutError(f"never true in {seconds:.0f} s: {script}")

    def picture(self, path: Path | None = None) -> np.ndarray:
        """What the tab shows, uint8 [H,W,3]; also written to `path`."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 12) -> None:
        """The left button pressed, moved and let go."""

        def mouse(kind: str, x: float, y: float, buttons: int) -> None:
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=buttons, clickCount=1)

        mouse("mouseMoved", *start, 0)
        mouse("mousePressed", *start, 1)
        for i in range(1, steps + 1):
            share = i / steps
            x, y = (a + (b - a) * share for a, b in zip(start, end, strict=True))
            mouse("mouseMoved", x, y, 1)
        mouse("mouseReleased", *end, 0)

    def click(self, x: float, y: float) -> None:
        """The left button, once."""
        self.drag((x, y), (x, y), steps=1)

    def close(self) -> None:
        """Close the tab."""
        self.call("Page.close")
        self._socket.close()
