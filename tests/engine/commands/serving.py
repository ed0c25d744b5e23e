"""A service in a process of its own, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import urllib.request
from pathlib import Path

import aiohttp

from tests.bin.programs import start

CLASSES = ("<b>bold</b> & “quoted”", "blue", "red")
SMALL = ("--batch_size=4", "--threads=2")


def start_service(*flags, **settings) -> subprocess.Popen:
    return start("serve", *SMALL, "--port=0", *flags, **settings)


class Served:
    """A service in a process of its own. lines: what it printed until it was ready."""

    def __init__(self, *flags, **settings) -> None:
        self.process = start_service(*flags, **settings)
        self.lines = [self.process.stdout.readline()]
        while self.lines[-1] and not self.lines[-1].startswith("ready"):
            self.lines.append(self.process.stdout.readline())
        assert self.lines[-1], self.process.communicate()
        self.address = self.lines[0].split(" ")[0]
        self.port = int(self.address.rstrip("/").rpartition(":")[2])

    def post(self, *files: Path) -> list[dict]:
        async def send():
            form = aiohttp.FormData()
            for file in files:
                form.add_field("any", file.read_bytes(), filename=file.name)
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"{self.address}predict?top_k=9", data=form) as response,
            ):
                assert response.status == 200, await response.text()
                return (await response.json())["files"]

        return asyncio.run(send())

    def health(self) -> dict:
        with urllib.request.urlopen(f"{self.address}healthz", timeout=60) as response:
            return json.load(response)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@contextlib.contextmanager
def served(*flags, **settings):
    it = Served(*flags, **settings)
    try:
        yield it
    finally:
        it.process.kill()
        it.process.communicate()
