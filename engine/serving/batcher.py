"""Decodes the images of many requests in parallel and predicts them in batches.

A batch starts as soon as the device is free. It waits for more images only while some are being
decoded, and at most a few milliseconds: a single image never waits for others that may not come.
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
    """The queue has no space for all images of a request."""


@dataclasses.dataclass(frozen=True)
class BatchingOptions:
    """How images are queued and batched.

    batch_seconds: measured seconds of each batch size; no other sizes are used.
    max_queue_size: images at a time, from decoding to prediction.
    max_delay_seconds: that an image waits, on a free device, for others being decoded.
    threads: images decoded at a time.
    """

    batch_seconds: Mapping[int, float]
    max_queue_size: int
    max_delay_seconds: float
    threads: int


def batch_sizes(max_size: int) -> list[int]:
    """Returns 1, 2, 4, … and `max_size`: the batch sizes that are compiled in advance."""
    return sorted({max_size, *(2**power for power in range(max_size.bit_length()))})


def choose_batch_size(pending: int, batch_seconds: Mapping[int, float]) -> int:
    """Chooses the next smaller size, full, or the next larger one, padded: whichever is faster.

    That is usually the smaller one on a CPU, and the larger one on a GPU, where a batch takes as
    long half empty as full.

    Args:
      pending: number of images, 1 or more.
      batch_seconds: seconds of each batch size, among them 1.
    """
    below = max(size for size in batch_seconds if size <= pending)
    above = min((size for size in batch_seconds if size >= pending), default=below)
    return max((below, above), key=lambda size: min(size, pending) / batch_seconds[size])


@dataclasses.dataclass(frozen=True)
class _PendingImage:
    image: np.ndarray
    result: asyncio.Future
    queued_at: float


class Batcher:
    """Predicts encoded images in batches.

    Belongs to one event loop; `decode` and `predict` run on their own threads.

    Args:
      decode: bytes -> uint8 [H, W, 3]; raises a UserError for an unreadable image.
      predict: uint8 [B, H, W, 3] -> an array [B, …]; B is one of the sizes of `options`.
    """

    def __init__(
        self, decode: Decode, predict: Predict, options: BatchingOptions, metrics: Metrics
    ) -> None:
        self.queued = 0  # images, from decoding to prediction
        self._decode, self._predict, self._options = decode, predict, options
        self._metrics = metrics
        self._pending: collections.deque[_PendingImage] = collections.deque()
        self._decoding: set[object] = set()  # tokens of images before the end of decoding
        self._changed = asyncio.Event()
        self._free_decoders = asyncio.Semaphore(options.threads)
        self._decoders = ThreadPoolExecutor(options.threads, "decode")
        self._device = ThreadPoolExecutor(1, "model")

    async def predict(self, images: Sequence[bytes]) -> list[np.ndarray | UserError]:
        """Returns the prediction of each image, or the error of an unreadable one.

        Raises:
          QueueFullError: the queue has no space for all images; none is decoded.
          Exception: what the model raised for a batch with one of the images.
        """
        if self.queued + len(images) > self._options.max_queue_size:
            raise QueueFullError
        self.queued += len(images)
        tokens = [object() for _ in images]
        self._decoding.update(tokens)
        try:
            results = await asyncio.gather(
                *map(self._predict_one, images, tokens), return_exceptions=True
            )
        finally:
            self.queued -= len(images)
            self._end_decoding(tokens)  # also of tasks cancelled before they started
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, UserError):
                raise result
        return results  # type: ignore[return-value]  # rows and UserErrors only

    async def _predict_one(self, contents: bytes, token: object) -> np.ndarray:
        try:
            image = await self._decode_one(contents)
        finally:
            self._end_decoding([token])
        result = asyncio.get_running_loop().create_future()
        self._pending.append(_PendingImage(image, result, time.monotonic()))
        return await result

    def _end_decoding(self, tokens: list[object]) -> None:
        self._decoding.difference_update(tokens)
        self._changed.set()

    async def _decode_one(self, contents: bytes) -> np.ndarray:
        """Decodes an image; its thread counts as busy until it ends, also after a cancellation."""
        await self._free_decoders.acquire()
        work = asyncio.get_running_loop().run_in_executor(
            self._decoders, _timed, self._decode, contents
        )
        work.add_done_callback(self._release_decoder)
        image, seconds = await asyncio.shield(work)
        self._metrics.decoded(seconds)
        return image

    def _release_decoder(self, work: asyncio.Future) -> None:
        self._free_decoders.release()
        if not work.cancelled():
            work.exception()  # retrieved, so that asyncio logs nothing for a cancelled request

    async def run(self) -> None:
        """Predicts batches until cancelled."""
        while True:
            await self._wait_for_batch()
            size = choose_batch_size(len(self._pending), self._options.batch_seconds)
            count = min(size, len(self._pending))
            await self._run_batch([self._pending.popleft() for _ in range(count)], size)

    async def _wait_for_batch(self) -> None:
        """Waits until a batch should start."""
        while True:
            self._drop_cancelled()
            delay = self._remaining_delay()
            if delay is not None and delay <= 0:
                return
            self._changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), delay)

    def _drop_cancelled(self) -> None:
        self._pending = collections.deque(item for item in self._pending if not item.result.done())

    def _remaining_delay(self) -> float | None:
        """Returns the seconds that the next batch still waits; None without a pending image."""
        if not self._pending:
            return None
        if not self._decoding or len(self._pending) >= max(self._options.batch_seconds):
            return 0.0
        return self._pending[0].queued_at + self._options.max_delay_seconds - time.monotonic()

    async def _run_batch(self, batch: list[_PendingImage], size: int) -> None:
        arrays = [item.image for item in batch]
        arrays += arrays[:1] * (size - len(batch))
        self._metrics.batch_started(len(batch))
        try:
            rows, seconds = await asyncio.get_running_loop().run_in_executor(
                self._device, _timed, self._predict, np.stack(arrays)
            )
        except Exception as error:  # fails this batch only
            for item in batch:
                if not item.result.done():
                    item.result.set_exception(error)
            return
        self._metrics.batch_finished(seconds)
        for item, row in zip(batch, rows, strict=False):  # without the rows of the padding
            if not item.result.done():
                item.result.set_result(row)

    def close(self) -> None:
        """Stops the threads; drops tasks that have not started."""
        for pool in (self._decoders, self._device):
            pool.shutdown(wait=False, cancel_futures=True)


def _timed(function: Callable, argument: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    return function(argument), time.perf_counter() - started
