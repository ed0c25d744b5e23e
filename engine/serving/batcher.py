"""Decodes the images of many requests in parallel and predicts them in batches.

A batch starts as soon as the device is free. It waits for more images only while some are being
decoded, and at most a few milliseconds: a single image never waits for others that may not come.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from engine.core.errors import UserError
from engine.serving.limits import RefusalError
from engine.serving.metrics import Metrics

Decode = Callable[[bytes], np.ndarray]
Predict = Callable[[np.ndarray], np.ndarray]
STALL_SECONDS = 1.0


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
        self._pending: list[_PendingImage] = []
        self._decoding = 0  # requests
        self._changed = asyncio.Event()
        self._free_decoders = asyncio.Semaphore(options.threads)
        self._decoded_at = time.monotonic()  # when a decoder was free last
        self._decoders = ThreadPoolExecutor(options.threads, "decode")
        self._device = ThreadPoolExecutor(1, "model")

    @property
    def stalled(self) -> bool:
        """Whether no decoder has been free for STALL_SECONDS."""
        busy = self._free_decoders.locked()
        return busy and time.monotonic() - self._decoded_at > STALL_SECONDS

    async def predict(self, images: Sequence[bytes]) -> list[np.ndarray | UserError]:
        """Returns the prediction of each image, or the error of an unreadable one.

        Raises:
          RefusalError: the queue has no space for all images; none is decoded.
          Exception: what the model raised for a batch with one of the images.
        """
        if self.queued + len(images) > self._options.max_queue_size:
            raise RefusalError(503, "the queue is full; retry in a moment")
        self.queued += len(images)
        try:
            decoded = await self._decode_all(images)
            pending = [
                _PendingImage(image, asyncio.get_running_loop().create_future(), time.monotonic())
                for image in decoded
                if not isinstance(image, UserError)
            ]
            self._pending += pending
            self._changed.set()
            rows = iter(await asyncio.gather(*(item.result for item in pending)))
            return [image if isinstance(image, UserError) else next(rows) for image in decoded]
        finally:
            self.queued -= len(images)

    async def _decode_all(self, images: Sequence[bytes]) -> list[np.ndarray | UserError]:
        self._decoding += 1
        try:
            return await asyncio.gather(*map(self._decode_one, images))
        finally:
            self._decoding -= 1
            self._changed.set()

    async def _decode_one(self, contents: bytes) -> np.ndarray | UserError:
        """Decodes an image; its thread counts as busy until it ends, also after a cancellation."""
        await self._free_decoders.acquire()
        self._decoded_at = time.monotonic()
        work = asyncio.get_running_loop().run_in_executor(
            self._decoders, self._timed_decode, contents
        )
        work.add_done_callback(lambda _: self._free_decoders.release())
        return await asyncio.shield(work)

    def _timed_decode(self, contents: bytes) -> np.ndarray | UserError:
        """Returns an error, since asyncio would log what is raised for a cancelled request."""
        with self._metrics.decode_seconds.time():
            try:
                return self._decode(contents)
            except UserError as error:
                return error

    async def run(self) -> None:
        """Predicts batches until cancelled."""
        while True:
            await self._wait_for_batch()
            size = choose_batch_size(len(self._pending), self._options.batch_seconds)
            batch, self._pending = self._pending[:size], self._pending[size:]
            await self._run_batch(batch, size)

    async def _wait_for_batch(self) -> None:
        """Waits until a batch should start."""
        while True:
            self._pending = [item for item in self._pending if not item.result.done()]  # cancelled
            delay = self._remaining_delay()
            if delay is not None and delay <= 0:
                return
            self._changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), delay)

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
        self._metrics.batch_size.observe(len(batch))
        try:
            rows = await asyncio.get_running_loop().run_in_executor(
                self._device, self._timed_predict, np.stack(arrays)
            )
        except Exception as error:  # fails this batch only
            for item in batch:
                if not item.result.done():
                    item.result.set_exception(error)
            return
        for item, row in zip(batch, rows, strict=False):  # without the rows of the padding
            if not item.result.done():
                item.result.set_result(row)

    def _timed_predict(self, images: np.ndarray) -> np.ndarray:
        with self._metrics.model_seconds.time():
            return self._predict(images)

    def close(self) -> None:
        """Stops the threads; drops tasks that have not started."""
        for pool in (self._decoders, self._device):
            pool.shutdown(wait=False, cancel_futures=True)
