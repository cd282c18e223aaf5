"""A headless Chromium that tests drive by real key presses and mouse clicks, over the DevTools protocol's pipe."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
                None)
KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40, "Backspace": 8, "Enter": 13, "s": 83}


class Browser:
    """One page. Use it as a context: the process ends with it."""

    def __init__(self, profile: Path) -> None:
        read, theirs_write = os.pipe()
        theirs_read, write = os.pipe()
        options = ("--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --remote-debugging-pipe "
                   "--no-first-run --disable-extensions --disable-background-networking")
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" {options} --user-data-dir="$1" about:blank 3<&{theirs_read} 4>&{theirs_write}',
             str(CHROMIUM), str(profile)],
            pass_fds=(theirs_read, theirs_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_read)
        os.close(theirs_write)
        self.read, self.write, self.buffer, self.number, self.session = read, write, b"", 0, ""
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.read)
        os.close(self.write)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of one command; events are ignored."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + 60
        while time.monotonic() < until:
            while b"\0" in self.buffer:
                line, _, self.buffer = self.buffer.partition(b"\0")
                found = json.loads(line)
                if found.get("id") == self.number:
                    assert "error" not in found, found["error"]
                    return found["result"]
            if select.select([self.read], [], [], 1)[0]:
                self.buffer += os.read(self.read, 1 << 20)
        raise TimeoutError(f"no answer to {method}")

    def open(self, page: Path) -> None:
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait("document.readyState === 'complete' && location.protocol === 'file:'")

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str) -> None:
        until = time.monotonic() + 30
        while not self.value(expression):
            assert time.monotonic() < until, f"never true: {expression}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def click(self, identity: str) -> None:
        """The middle of the element with this id."""
        self.value(f"document.getElementById('{identity}').scrollIntoView({{block: 'center'}})")
        box = self.value(f"(r => [r.x + r.width / 2, r.y + r.height / 2])"
                         f"(document.getElementById('{identity}').getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)
