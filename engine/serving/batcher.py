"""Images of many requests, decoded in parallel and answered together.

A batch begins as soon as the device is free. Only where more images are being decoded at that
moment does it wait for them, and not longer than a few milliseconds: an image that comes alone is
never kept waiting for others that may not come.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from engine.core.errors import UserError
from engine.serving.metrics import Metrics

Decode = Callable[[bytes], np.ndarray]
Predict = Callable[[np.ndarray], np.ndarray]


class QueueFullError(Exception):
    """More images are there than may wait."""


@dataclasses.dataclass(frozen=True)
class BatchingOptions:
    """How many images are taken in, and how they are put together.

    seconds: what a batch of each size takes; no other sizes are used.
    queue: images that may be there at a time, from decoding to the answer.
    wait_seconds: how long an image waits at most, on a free device, for others being decoded.
    threads: images decoded at a time.
    """

    seconds: Mapping[int, float]
    queue: int
    wait_seconds: float
    threads: int


def sizes(most: int) -> list[int]:
    """1, 2, 4 and so on, and `most`: the sizes of batches that are compiled beforehand."""
    return sorted({most, *(2**power for power in range(most.bit_length()))})


def size_for(waiting: int, seconds: Mapping[int, float]) -> int:
    """The size of the next batch: the next one below, full, or the next one above, filled up.

    Whichever answers more images a second. On a processor that is the one below, on a GPU, where
    a batch takes as long half empty as full, the one above.

    waiting: 1 or more. seconds: what a batch of each size takes; 1 is among the sizes.
    """
    below = max(size for size in seconds if size <= waiting)
    above = min((size for size in seconds if size >= waiting), default=below)
    return max((below, above), key=lambda size: min(size, waiting) / seconds[size])


@dataclasses.dataclass(frozen=True)
class _Waiting:
    image: np.ndarray
    answer: asyncio.Future
    since: float


class Batcher:
    """Takes encoded images and gives each the model's row for it.

    Belongs to one event loop; `decode` and `predict` run on threads of their own.

    decode: bytes -> uint8 [H, W, 3]; a UserError says why there is no image in them.
    predict: uint8 [B, H, W, 3] -> an array [B, …]; B is one of the pace's sizes.
    """

    def __init__(
        self, decode: Decode, predict: Predict, pace: BatchingOptions, metrics: Metrics
    ) -> None:
        self.held = 0  # images, from decoding to their answers
        self._decode, self._predict, self._pace, self._metrics = decode, predict, pace, metrics
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._coming: set[object] = set()  # of images that are being decoded, or wait for it
        self._changed = asyncio.Event()
        self._free = asyncio.Semaphore(pace.threads)
        self._decoders = ThreadPoolExecutor(pace.threads, "decode")
        self._device = ThreadPoolExecutor(1, "model")

    async def answers(self, images: Sequence[bytes]) -> list[np.ndarray | UserError]:
        """For each image its row, or why it can't be read.

        Raises:
          QueueFullError: they don't all find room; none is looked at.
          Exception: what `predict` raised for a batch with one of them.
        """
        if self.held + len(images) > self._pace.queue:
            raise QueueFullError
        self.held += len(images)
        marks = [object() for _ in images]
        self._coming.update(marks)
        try:
            found = await asyncio.gather(*map(self._answer, images, marks), return_exceptions=True)
        finally:
            self.held -= len(images)
            self._come(marks)  # those whose task was cancelled before it began
        for one in found:
            if isinstance(one, BaseException) and not isinstance(one, UserError):
                raise one
        return found  # type: ignore[return-value]  # nothing else is left

    async def _answer(self, contents: bytes, mark: object) -> np.ndarray:
        try:
            image = await self._decoded(contents)
        finally:
            self._come([mark])
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(image, answer, time.monotonic()))
        return await answer

    def _come(self, marks: list[object]) -> None:
        self._coming.difference_update(marks)
        self._changed.set()

    async def _decoded(self, contents: bytes) -> np.ndarray:
        """A place among the decoders is free when its thread is, even if nobody waits any more."""
        await self._free.acquire()
        work = asyncio.get_running_loop().run_in_executor(
            self._decoders, _timed, self._decode, contents
        )
        work.add_done_callback(self._decoder_is_free)
        image, seconds = await asyncio.shield(work)
        self._metrics.decoded(seconds)
        return image

    def _decoder_is_free(self, work: asyncio.Future) -> None:
        self._free.release()
        if not work.cancelled():
            work.exception()  # else asyncio would complain where nobody waits for it any more

    async def work(self) -> None:
        """Answers until it is cancelled."""
        while True:
            await self._worth_starting()
            size = size_for(len(self._waiting), self._pace.seconds)
            count = min(size, len(self._waiting))
            await self._run([self._waiting.popleft() for _ in range(count)], size)

    async def _worth_starting(self) -> None:
        """Returns when something waits and there is no reason to wait on."""
        while True:
            self._drop_the_gone()
            patience = self._patience()
            if patience is not None and patience <= 0:
                return
            self._changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), patience)

    def _drop_the_gone(self) -> None:
        self._waiting = collections.deque(one for one in self._waiting if not one.answer.done())

    def _patience(self) -> float | None:
        """Seconds that the next batch waits for more images; None where there is nothing yet."""
        if not self._waiting:
            return None
        if not self._coming or len(self._waiting) >= max(self._pace.seconds):
            return 0.0
        return self._waiting[0].since + self._pace.wait_seconds - time.monotonic()

    async def _run(self, batch: list[_Waiting], size: int) -> None:
        arrays = [one.image for one in batch]
        arrays += arrays[:1] * (size - len(batch))
        self._metrics.batch_begins(len(batch))
        try:
            rows, seconds = await asyncio.get_running_loop().run_in_executor(
                self._device, _timed, self._predict, np.stack(arrays)
            )
        except Exception as error:  # theirs alone; the next batch may be better
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        self._metrics.batch_ends(seconds)
        for one, row in zip(batch, rows, strict=False):  # without the rows that filled it up
            if not one.answer.done():
                one.answer.set_result(row)

    def close(self) -> None:
        """What has not begun on the threads is left undone."""
        for pool in (self._decoders, self._device):
            pool.shutdown(wait=False, cancel_futures=True)


def _timed(function: Callable, argument: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    return function(argument), time.perf_counter() - started
