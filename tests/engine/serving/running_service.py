"""Runs a service with a trivial model: images are three bytes, which are the logits."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable

import aiohttp
import numpy as np
import scipy.special

from engine.core.errors import UserError
from engine.evaluation.decision_rule import DecisionRule
from engine.serving import server
from engine.serving.batcher import BatchingOptions, batch_sizes
from engine.serving.limits import Limits
from engine.serving.service import Model, Service

CLASSES = ("ant", "bee", "cow")
RULE = DecisionRule(temperature=2.0, abstain=0.5)
BATCHING = BatchingOptions(
    dict.fromkeys(batch_sizes(4), 1.0), max_queue_size=16, max_delay_seconds=0.005, threads=2
)


def decode(contents: bytes) -> np.ndarray:
    """Decodes b"pxyz" to an image of one pixel with the levels x, y and z."""
    if len(contents) != 4 or contents[:1] != b"p":
        raise UserError("not an image (made up)")
    return np.frombuffer(contents[1:], np.uint8).reshape(1, 1, 3)


def probabilities(images: np.ndarray) -> np.ndarray:
    return scipy.special.softmax(images[:, 0, 0] / np.float32(10 * RULE.temperature), axis=-1)


def image(*levels: int) -> bytes:
    return b"p" + bytes(levels)


ANT, BEE, UNCERTAIN = image(200, 20, 10), image(10, 180, 20), image(100, 100, 100)
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.jpg"\r\n\r\n'


class BlockedModel:
    """A model that predicts only after `open` is set."""

    def __init__(self) -> None:
        self.open, self.started, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.started.set()
        assert self.open.wait(20)
        self.batches.append(len(images))
        return probabilities(images)


@dataclasses.dataclass(frozen=True)
class RunningService:
    """A running service with its model and a client, and the event that stops it."""

    service: Service
    predict: Callable
    address: str
    port: int
    client: aiohttp.ClientSession
    stopping: asyncio.Event
    ended: asyncio.Task

    async def post(self, data=None, **settings) -> tuple[int, dict]:
        settings.setdefault("headers", {"Content-Type": "application/octet-stream"})
        address = self.address + settings.pop("path", "predict")
        async with self.client.post(address, data=data, **settings) as response:
            return response.status, await response.json()

    async def form(self, **files: bytes) -> tuple[int, dict]:
        form = aiohttp.FormData()
        for name, contents in files.items():
            form.add_field(name, contents, filename=f"{name}.jpg")
        return await self.post(form, headers={})

    async def queue_of(self, count: int) -> None:
        """Waits until so many images are queued."""
        while self.service._batcher.queued != count:
            await asyncio.sleep(0.005)

    async def get(self, path: str) -> tuple[int, str, aiohttp.ClientResponse]:
        async with self.client.get(self.address + path) as response:
            return response.status, await response.text(), response


async def send_raw(port: int, *pieces: bytes, pause: float = 0) -> bytes:
    """Sends raw bytes; returns the response until the connection closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def write() -> None:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause)

    writing = asyncio.ensure_future(write())
    response = b""
    with contextlib.suppress(ConnectionError):
        while more := await asyncio.wait_for(reader.read(2**16), 20):
            response += more
    writing.cancel()
    writer.close()
    return response


@contextlib.asynccontextmanager
async def running_service(
    predict=probabilities, limits=None, names=("localhost",), load=None, **batching
) -> AsyncIterator[RunningService]:
    """Runs a service; `batching` replaces options of BATCHING."""
    bound = server.bind("127.0.0.1", 0)
    address, port = server.address(bound), bound.getsockname()[1]
    service = Service(limits or Limits(), names)
    stopping, ready = asyncio.Event(), asyncio.Event()
    model = Model(decode, predict, CLASSES, RULE, {"run": "made", "model": "none"})
    loaded = model, dataclasses.replace(BATCHING, **batching)
    work = asyncio.ensure_future(
        server.run(
            service,
            bound,
            lambda: (load() if load else None) or loaded,
            stopping,
            lambda _: ready.set(),
        )
    )
    if not load:
        await asyncio.wait_for(ready.wait(), 20)
    await asyncio.sleep(0.05)  # it listens, ready or not
    client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
    try:
        yield RunningService(service, predict, address, port, client, stopping, work)
    finally:
        await client.close()
        stopping.set()
        await asyncio.wait_for(work, 20)


def in_event_loop(test):
    """Decorates an async test."""

    @functools.wraps(test)
    def whole(*arguments, **named):
        asyncio.run(asyncio.wait_for(test(*arguments, **named), 60))

    return whole


def with_service(predict=probabilities, **settings):
    """Decorates an async test whose first argument is a running service.

    Args:
      predict: the model, or its class.
    """

    def wrap(test):
        @in_event_loop
        async def whole(*arguments, **named):
            model = predict() if isinstance(predict, type) else predict
            async with running_service(model, **settings) as service:
                await test(service, *arguments, **named)

        _, *others = inspect.signature(test).parameters.values()
        whole.__signature__ = inspect.Signature(others)  # where pytest looks for fixtures
        whole.__name__, whole.__doc__ = test.__name__, test.__doc__
        return whole

    return wrap
