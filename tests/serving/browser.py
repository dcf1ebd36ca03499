"""Chromium without a window, by the DevTools protocol over pipes."""

import json
import os
import subprocess
import time
from contextlib import contextmanager

OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe")
KEYS = {"Tab": 9, "Enter": 13}


class Tab:
    """A page of `width` pixels. `requests`: every address that it asked for."""

    def __init__(self, reader, writer, width):
        self.reader, self.writer, self.number, self.session, self.requests = reader, writer, 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=700, deviceScaleFactor=1, mobile=False)
        self.call("Network.enable")

    def call(self, method, **params):
        self.number += 1
        session = {"sessionId": self.session} if self.session else {}
        self.writer.write(
            json.dumps({"id": self.number, "method": method, "params": params} | session).encode() + b"\0"
        )
        self.writer.flush()
        while True:
            message = json.loads(b"".join(iter(lambda: self.reader.read(1), b"\0")))
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]

    def value(self, expression):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def until(self, expression, seconds=20):
        ends = time.monotonic() + seconds
        while not (value := self.value(expression)):
            assert time.monotonic() < ends, f"never true on the page: {expression}"
            time.sleep(0.02)
        return value

    def press(self, key):
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key], **text)

    def write(self, text):
        self.call("Input.insertText", text=text)

    def tab_to(self, expression, most=40):
        """Presses Tab until `expression` holds of the element in focus, `e`."""
        for _ in range(most):
            if self.value(f"(e => {expression})(document.activeElement)"):
                return
            self.press("Tab")
        raise AssertionError(f"Tab reaches nothing of which this holds: {expression}")


@contextmanager
def browse(chromium, folder, width):
    """A Tab of a Chromium of its own, whose profile lies in `folder`."""
    (ask_end, writer), (reader, answer_end) = os.pipe(), os.pipe()
    command = f'exec "$@" 3<&{ask_end} 4>&{answer_end}'
    process = subprocess.Popen(
        ["bash", "-c", command, "bash", chromium, *OPTIONS, f"--user-data-dir={folder}"],
        pass_fds=(ask_end, answer_end), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(ask_end)
    os.close(answer_end)
    with os.fdopen(reader, "rb") as answers, os.fdopen(writer, "wb") as questions:
        try:
            yield Tab(answers, questions, width)
        finally:
            process.kill()
            process.wait()
