"""Sends images to a service and takes the time: one at a time, and many at a time."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Sequence

import aiohttp

from engine.core.errors import UserError

MOST_SECONDS = 600.0  # for all images together


@dataclasses.dataclass(frozen=True)
class Sent:
    """What came of some images, in their order.

    seconds: for all. latencies: of each, in seconds. answers: label -> probability, of each.
    """

    seconds: float
    latencies: tuple[float, ...]
    answers: tuple[dict[str, float], ...]

    @property
    def rate(self) -> float:
        """Images a second."""
        return len(self.latencies) / self.seconds


async def send(address: str, images: Sequence[tuple[str, bytes]], connections: int) -> Sent:
    """Posts each image once, on so many connections, each waiting for its answer.

    images: names, by which one is called that has no answer, and contents.

    Raises:
      UserError: one is not answered with 200, or all take longer than MOST_SECONDS.
    """
    numbers = iter(range(len(images)))
    found: list[tuple[float, dict[str, float]]] = [(0.0, {})] * len(images)
    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def one_after_the_other() -> None:
            for number in numbers:
                found[number] = await _post(session, address, *images[number])

        started = time.perf_counter()
        try:
            clients = (one_after_the_other() for _ in range(connections))
            await asyncio.wait_for(asyncio.gather(*clients), MOST_SECONDS)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise UserError(f"{address}: no answer ({type(error).__name__})") from None
        seconds = time.perf_counter() - started
    latencies, answers = zip(*found, strict=True)
    return Sent(seconds, latencies, answers)


async def _post(
    session: aiohttp.ClientSession, address: str, name: str, contents: bytes
) -> tuple[float, dict[str, float]]:
    started = time.perf_counter()
    headers = {"Content-Type": "application/octet-stream"}
    async with session.post(f"{address}predict", data=contents, headers=headers) as response:
        values = await response.json()
    latency = time.perf_counter() - started
    if response.status != 200:
        raise UserError(f"{name}: answered {response.status}: {values['error']}")
    labels = values["files"][0]["predictions"]
    return latency, {row["label"]: row["probability"] for row in labels}


def quantile(latencies: Sequence[float], share: float) -> float:
    """The smallest latency that `share` of all are not above."""
    ranked = sorted(latencies)
    return ranked[max(0, -int(-share * len(ranked) // 1) - 1)]


def apart(one: Sent, other: Sent) -> float:
    """How far two answers for the same image differ at most, as a probability."""
    pairs = zip(one.answers, other.answers, strict=True)
    return max(
        abs(mine.get(label, 0) - theirs.get(label, 0))
        for mine, theirs in pairs
        for label in itertools.chain(mine, theirs)
    )
