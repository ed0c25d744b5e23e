"""Sends images to a service on one or several connections, and measures latencies."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence

import aiohttp

from engine.core.errors import UserError

MAX_SECONDS = 600.0  # for all images


@dataclasses.dataclass(frozen=True)
class LoadTestRun:
    """The results of the sent images, in order.

    seconds: for all images.
    latencies: seconds of each image.
    predictions: label -> probability, of each image.
    """

    seconds: float
    latencies: tuple[float, ...]
    predictions: tuple[dict[str, float], ...]

    @property
    def rate(self) -> float:
        """Images/s."""
        return len(self.latencies) / self.seconds


async def send_images(
    address: str, images: Sequence[tuple[str, bytes]], connections: int
) -> LoadTestRun:
    """Posts each image once, on several connections that each wait for the response.

    Args:
      images: name, for messages, and contents.

    Raises:
      UserError: a response is not 200, or all take longer than MAX_SECONDS.
    """
    indices = iter(range(len(images)))
    results: list[tuple[float, dict[str, float]]] = [(0.0, {})] * len(images)
    connector = aiohttp.TCPConnector(limit=connections)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def send_sequentially() -> None:
            for index in indices:
                results[index] = await _post(session, address, *images[index])

        started = time.perf_counter()
        try:
            clients = (send_sequentially() for _ in range(connections))
            await asyncio.wait_for(asyncio.gather(*clients), MAX_SECONDS)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise UserError(f"{address}: no response ({type(error).__name__})") from None
        seconds = time.perf_counter() - started
    latencies, predictions = zip(*results, strict=True)
    return LoadTestRun(seconds, latencies, predictions)


async def _post(
    session: aiohttp.ClientSession, address: str, name: str, contents: bytes
) -> tuple[float, dict[str, float]]:
    started = time.perf_counter()
    headers = {"Content-Type": "application/octet-stream"}
    async with session.post(f"{address}predict", data=contents, headers=headers) as response:
        values = await response.json()
    latency = time.perf_counter() - started
    if response.status != 200:
        raise UserError(f"{name}: status {response.status}: {values['error']}")
    predictions = values["files"][0]["predictions"]
    return latency, {entry["label"]: entry["probability"] for entry in predictions}


def max_difference(one: LoadTestRun, other: LoadTestRun) -> float:
    """Returns the largest difference of a probability between two runs of the same images."""
    pairs = zip(one.predictions, other.predictions, strict=True)
    return max(
        abs(first.get(label, 0) - second.get(label, 0))
        for first, second in pairs
        for label in first | second
    )
