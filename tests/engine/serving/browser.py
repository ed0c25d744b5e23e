"""Drives a headless Chromium through its DevTools protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

PROGRAM = shutil.which("chromium")
PATIENCE_SECONDS = 60
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--remote-debugging-port=0", "--disable-background-networking"),
)


class Tab:
    """An open page, and the errors that it logged."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number, self.complaints = socket, 0, []

    async def call(self, method: str, **params) -> dict:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": params})
        while True:
            message = json.loads((await self._socket.receive(PATIENCE_SECONDS)).data)
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.complaints.append(message["params"])

    async def run(self, script: str):
        """Returns the value of a JavaScript expression; awaits promises."""
        result = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, script: str) -> None:
        """Waits until an expression is true."""
        for _ in range(PATIENCE_SECONDS * 10):
            if await self.run(script):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"never: {script}; {await self.run('document.body.innerText')}")

    async def open(self, address: str, width: int = 1000, height: int = 900) -> None:
        for domain in ("Page", "DOM", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.size(width, height)
        await self.call("Page.navigate", url=address)
        await self.until("document.readyState == 'complete' && location.href != 'about:blank'")

    async def size(self, width: int, height: int) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        await self.call("Emulation.setDeviceMetricsOverride", **metrics)

    async def choose(self, selector: str, *files: Path) -> None:
        """Chooses files in an input, as a user does."""
        root = (await self.call("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.call("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])


@contextlib.asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Tab]:
    """Yields a tab of a browser with its profile in this folder."""
    process = subprocess.Popen(
        [PROGRAM, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        port = await _port(folder / "DevToolsActivePort")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                tabs = [tab for tab in await response.json() if tab["type"] == "page"]
            address = tabs[0]["webSocketDebuggerUrl"]
            async with session.ws_connect(address, max_msg_size=2**28) as socket:
                tab = Tab(socket)
                yield tab
                with contextlib.suppress(AssertionError, TypeError):
                    await tab.call("Browser.close")
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


async def _port(file: Path) -> int:
    for _ in range(PATIENCE_SECONDS * 10):
        with contextlib.suppress(OSError, IndexError, ValueError):
            return int(file.read_text().split("\n")[0])
        await asyncio.sleep(0.1)
    raise AssertionError("the browser did not start")
