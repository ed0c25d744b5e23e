"""Clients that attack bin/serve, all at once: another client gets the same answers as before."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from tests.engine.commands.serving import served
from tests.fuzz.mutations import cases
from tests.pipelines.encoded_images import COLOUR, saved

pytestmark = pytest.mark.slow

IMAGE = saved(COLOUR, "PNG")
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(IMAGE) + IMAGE
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
TOKENS = [b"\r\n", b"\0", b": ", b"Host", b"Content-Length", b"chunked", b"HTTP/1.1", b"%00"]
ANSWER = rb"(HTTP/\d\.\d ([24]\d\d|503))?"  # no failure of the service
KIND = {"Content-Type": "image/png"}
TOGETHER = 60  # clients that don't pause: with those that do, fewer than the service lets in
MEMORY = 1_500_000_000  # bytes of the service: TensorFlow takes a third
# Each is sent by so many clients, piece by piece, with seconds between; None is half-closing.
ATTACKS: dict[str, tuple[int, float, list[bytes | None]]] = {
    "silent": (300, 1, [b""] * 8),
    "slow head": (40, 0.2, [bytes([byte]) for byte in HEAD]),
    "slow body": (40, 0.2, [WHOLE[:-60], *(bytes([byte]) for byte in WHOLE[-60:])]),
    "body that never ends": (20, 0.01, [CHUNKED, *[b"10000\r\n" + bytes(65536) + b"\r\n"] * 2000]),
    "chunk of bad size": (20, 0, [CHUNKED, b"ffffffffffffffffff\r\n", bytes(9999)]),
    "large header": (20, 0, [HEAD[:-2] + b"x" * 2**20, b"\r\n\r\n"]),
    "many headers": (20, 0, [HEAD, b"X-A: b\r\n" * 10**5, b"\r\n"]),
    "long target": (20, 0, [b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\n\r\n"]),
    "half-closed in the head": (40, 0, [HEAD, None]),
    "half-closed in the body": (40, 0, [WHOLE[:-60], None]),
    "half-closed behind it": (40, 0, [WHOLE, None]),
    "garbage behind a request": (40, 0, [HEALTH + random.Random(0).randbytes(4096), None]),
    "pipelined": (20, 0, [HEALTH * 2000, None]),
    "two lengths": (20, 0, [HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + IMAGE]),
    "length and chunks": (20, 0, [CHUNKED[:-2] + b"Content-Length: 5\r\n\r\n0\r\n\r\n" + HEALTH]),
    "no HTTP": (20, 0, [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), None]),
}


async def send(
    port: int, pieces: list[bytes | None], pause: float, few: asyncio.Semaphore | None
) -> bytes:
    """Sends the pieces; returns the first bytes of the answer, none where the service hung up."""
    async with few or contextlib.nullcontext():
        return await send_now(port, pieces, pause)


async def send_now(port: int, pieces: list[bytes | None], pause: float) -> bytes:
    with contextlib.suppress(ConnectionError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for piece in pieces:
                if piece is None:
                    with contextlib.suppress(OSError):  # closed by the other side already
                        writer.write_eof()
                else:
                    writer.write(piece)
                await asyncio.wait_for(writer.drain(), 30)
                if pause:
                    await asyncio.sleep(pause)
            return await asyncio.wait_for(reader.read(12), 90)
        finally:
            writer.transport.abort()
    return b""


async def predict_beside(address: str, attackers: list[asyncio.Future]) -> Counter:
    """A good client of another address: how often it got each answer until the attacks ended."""
    answers: Counter = Counter()
    connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
    async with aiohttp.ClientSession(connector=connector) as session:
        while not all(attacker.done() for attacker in attackers):
            with contextlib.suppress(aiohttp.ServerDisconnectedError):  # made way for another
                async with session.post(f"{address}predict", data=IMAGE, headers=KIND) as response:
                    assert response.status in (200, 503), await response.text()
                    if response.status == 200:
                        answers[json.dumps(await response.json())] += 1
            await asyncio.sleep(0.05)
    return answers


def test_attacked_service_answers_others_and_stops(made_run):
    noise = [[case, None] for case in cases([WHOLE, HEALTH], TOKENS, 400)]
    planned = [
        (name, pause, pieces)
        for name, (clients, pause, pieces) in ATTACKS.items()
        for _ in range(clients)
    ]
    with served(f"--run_dir={made_run}", "--timeout_seconds=10") as it:

        async def attack() -> tuple[dict[str, set[bytes]], Counter]:
            few, names, attackers = asyncio.Semaphore(TOGETHER), [], []
            for name, pause, pieces in [*planned, *(("noise", 0, pieces) for pieces in noise)]:
                sending = send(it.port, pieces, pause, few if not pause else None)
                names.append(name)
                attackers.append(asyncio.ensure_future(sending))
            answers = await predict_beside(it.address, attackers)
            received: dict[str, set[bytes]] = {name: set() for name in names}
            for name, attacker in zip(names, attackers, strict=True):
                received[name].add(attacker.result())
            return received, answers

        received, answers = asyncio.run(attack())
        print({name: sorted(starts) for name, starts in received.items()})
        for name, starts in received.items():
            assert all(re.fullmatch(ANSWER, start) for start in starts), name
        assert len(answers) == 1, "every answer is the same"
        print(f"{len(planned) + len(noise)} attacks, {answers.total()} predictions beside them")
        text = Path(f"/proc/{it.process.pid}/status").read_text()
        most = int(text.partition("VmHWM:")[2].split()[0]) * 1024
        print(f"at most {most / 1e9:.2f} GB")
        assert most < MEMORY
        assert it.health()["status"] == "ready"
        assert it.end() == (0, "", "")
