"""Headless Chromium, driven over the DevTools protocol: one browser with one tab."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any, Self

import aiohttp

_FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
          "--no-first-run", "--remote-debugging-port=0")  # fmt: skip

# The centre of the innermost visible element whose text (or label) is the wanted one, once
# it stands still and nothing but a sibling lies over it.
_FIND = """(async (text, within) => {
  const says = e => [e.innerText, e.getAttribute('aria-label')]
    .some(s => text === null || (s || '').replace(/\\s+/g, ' ').trim() === text);
  const found = [...document.querySelectorAll(within)].filter(e => e.checkVisibility() && says(e));
  const element = found.find(e => !found.some(other => other !== e && e.contains(other)));
  if (!element) return null;
  element.scrollIntoView({block: 'nearest', inline: 'nearest'});
  const centre = () => (b => [b.x + b.width / 2, b.y + b.height / 2])(element.getBoundingClientRect());
  const before = centre();
  await new Promise(done => setTimeout(done, 150));
  const [x, y] = centre(), top = document.elementFromPoint(x, y);
  return x === before[0] && y === before[1] && element.parentElement.contains(top) ? [x, y] : null;
})"""


class BrowserError(RuntimeError):
    """Chromium did not start, a script raised, or something was not there in time."""


class Browser:
    """``async with Browser() as browser: ...``; no wait takes longer than ``timeout`` seconds."""

    def __init__(self, program: str = "chromium", timeout: float = 60.0) -> None:
        """Remember the program; it starts with the ``async with``."""
        self._program, self._timeout = program, timeout
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def __aenter__(self) -> Self:
        """Start Chromium with an empty profile and attach to its tab."""
        self._profile = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        self._http = aiohttp.ClientSession()
        self._process = await asyncio.create_subprocess_exec(
            self._program, *_FLAGS, f"--user-data-dir={self._profile.name}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL)  # fmt: skip
        try:
            async with self._http.get(f"http://127.0.0.1:{await self._port()}/json/list") as answer:
                tab = next(target for target in await answer.json() if target["type"] == "page")
            self._socket = await self._http.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)
            self._reader = asyncio.create_task(self._read())
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the browser."""
        await self.close()

    async def close(self) -> None:
        """End Chromium and remove its profile."""
        await self._http.close()
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), 10)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        self._profile.cleanup()

    async def _port(self) -> int:
        """The port that Chromium chose, from the file that it writes once it listens."""
        deadline, file = time.monotonic() + self._timeout, Path(self._profile.name, "DevToolsActivePort")
        while time.monotonic() < deadline and self._process.returncode is None:
            if file.exists() and (lines := file.read_text().splitlines()):
                return int(lines[0])
            await asyncio.sleep(0.05)
        raise BrowserError(f"{self._program} does not listen (exit code {self._process.returncode})")

    async def _read(self) -> None:
        """Hand every answer to the call that waits for it; events are dropped."""
        async for message in self._socket:
            answer = json.loads(message.data)
            if (waiting := self._answers.pop(answer.get("id"), None)) and not waiting.done():
                waiting.set_result(answer)

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its result."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        answer = await asyncio.wait_for(self._answers[number], self._timeout)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, url: str, width: int = 1280, height: int = 900) -> None:
        """Load a page in a window of that size, anew even if it differs only after the ``#``."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.send("Emulation.setDeviceMetricsOverride", **size)
        for address in ("about:blank", url):
            if failure := (await self.send("Page.navigate", url=address)).get("errorText"):
                raise BrowserError(f"{address}: {failure}")
        await self.wait("document.readyState === 'complete'")

    async def evaluate(self, expression: str) -> Any:
        """The value, as JSON allows, of a JavaScript expression or of the promise that it gives."""
        answer = await self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    async def wait(self, expression: str, timeout: float | None = None) -> Any:
        """Wait until a JavaScript expression is true, and return its value."""
        deadline = time.monotonic() + (self._timeout if timeout is None else timeout)
        while not (value := await self.evaluate(expression)):
            if time.monotonic() > deadline:
                raise BrowserError(f"not true in time: {expression}")
            await asyncio.sleep(0.1)
        return value

    async def click(self, text: str | None, within: str = "body *") -> None:
        """Click the innermost visible element with this text or ``aria-label`` among those of a CSS selector."""
        x, y = await self.wait(f"{_FIND}({json.dumps(text)}, {json.dumps(within)})")
        for kind, button in (("mouseMoved", "none"), ("mousePressed", "left"), ("mouseReleased", "left")):
            await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    async def type(self, text: str) -> None:
        """Type text into the element that has the focus."""
        await self.send("Input.insertText", text=text)

    async def screenshot(self, file: Path, *, full_page: bool = False) -> None:
        """Write the window, or the whole page, to a PNG file."""
        options: dict[str, Any] = {"format": "png"}
        if full_page:
            size = (await self.send("Page.getLayoutMetrics"))["cssContentSize"]
            options |= {"captureBeyondViewport": True, "clip": {**size, "scale": 1}}
        file.write_bytes(base64.b64decode((await self.send("Page.captureScreenshot", **options))["data"]))

    async def pdf(self, file: Path) -> None:
        """Print the page, with its backgrounds, to a PDF file."""
        answer = await self.send("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        file.write_bytes(base64.b64decode(answer["data"]))
