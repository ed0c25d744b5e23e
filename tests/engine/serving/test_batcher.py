"""The batcher returns each image its own prediction, whatever other requests do."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import itertools
import threading

import numpy as np
import pytest

from engine.core.errors import UserError
from engine.serving.batcher import Batcher, batch_sizes, choose_batch_size
from engine.serving.limits import RefusalError
from engine.serving.metrics import Metrics
from tests.engine.serving.running_service import (
    BATCHING,
    BlockedModel,
    decode,
    image,
    in_event_loop,
    probabilities,
)

IMAGES = [image(n, 255 - n, n * 7 % 256) for n in range(256)]


class CountingModel:
    """A model that remembers the sizes of its batches."""

    def __init__(self) -> None:
        self.sizes = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.sizes.append(len(images))
        return probabilities(images)


@contextlib.asynccontextmanager
async def working(predict=probabilities, read=decode, **batching):
    """Runs a batcher; `batching` replaces options of BATCHING."""
    batcher = Batcher(read, predict, dataclasses.replace(BATCHING, **batching), Metrics())
    work = asyncio.ensure_future(batcher.run())
    try:
        yield batcher
    finally:
        work.cancel()
        batcher.close()


def assert_predicted(rows, images) -> None:
    np.testing.assert_array_equal(rows, [probabilities(decode(one)[None])[0] for one in images])


@pytest.mark.parametrize(
    ("most", "expected"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (32, [1, 2, 4, 8, 16, 32])]
)
def test_batch_sizes_are_powers_of_two_up_to_max(most, expected):
    assert batch_sizes(most) == expected


@pytest.mark.parametrize("waiting", range(1, 40))
def test_choose_batch_size_pads_on_gpu_only(waiting):
    processor = {size: 0.001 * size for size in batch_sizes(32)}
    gpu = {size: 0.01 + 1e-5 * size for size in batch_sizes(32)}
    assert choose_batch_size(waiting, processor) == max(s for s in processor if s <= waiting)
    assert choose_batch_size(waiting, gpu) == min((s for s in gpu if s >= waiting), default=32)


@in_event_loop
async def test_batcher_returns_each_image_its_own_row():
    """256 images at a time, decoded out of order, in requests of several sizes."""
    model = CountingModel()

    def slow(contents):
        threading.Event().wait(0.001 * (contents[1] % 3))
        return decode(contents)

    starts = [0, *np.cumsum([1, 2, 3, 5, 8, 13] * 8)]
    groups = [IMAGES[a:b] for a, b in itertools.pairwise(starts)]
    async with working(model, slow, max_queue_size=256, threads=4) as batcher:
        predictions = await asyncio.gather(*map(batcher.predict, groups))
        assert batcher.queued == 0
    for group, rows in zip(groups, predictions, strict=True):
        assert_predicted(rows, group)
    assert set(model.sizes) <= set(BATCHING.batch_seconds)


@in_event_loop
async def test_batcher_with_full_queue_refuses_until_free():
    blocked = BlockedModel()
    async with working(blocked, max_queue_size=3) as batcher:
        first = asyncio.ensure_future(batcher.predict(IMAGES[:2]))
        await asyncio.sleep(0)
        with pytest.raises(RefusalError, match="queue is full"):
            await batcher.predict(IMAGES[:2])
        second = asyncio.ensure_future(batcher.predict(IMAGES[2:3]))
        await asyncio.sleep(0)
        with pytest.raises(RefusalError, match="queue is full"):
            await batcher.predict(IMAGES[3:4])
        blocked.open.set()
        assert_predicted([*await first, *await second], IMAGES[:3])
        assert_predicted(await batcher.predict(IMAGES[3:6]), IMAGES[3:6])


@in_event_loop
async def test_batcher_does_not_wait_for_request_cancelled_at_start():
    """Otherwise every later batch would wait for images that never come."""
    async with working(max_delay_seconds=1000.0) as batcher:
        cancelled = asyncio.ensure_future(batcher.predict(IMAGES[:4]))
        await asyncio.sleep(0)  # queued for decoding, which has not started
        cancelled.cancel()
        assert_predicted(await batcher.predict(IMAGES[4:5]), IMAGES[4:5])


@in_event_loop
async def test_batcher_counts_decoder_of_cancelled_request_as_busy():
    """Images of cancelled requests can't pile up before the decoders."""
    running, most, released = [0], [0], threading.Event()
    lock = threading.Lock()

    def slow(contents):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        released.wait(20)
        with lock:
            running[0] -= 1
        return decode(contents)

    async with working(read=slow) as batcher:
        for number in range(8):
            cancelled = asyncio.ensure_future(batcher.predict(IMAGES[number : number + 2]))
            await asyncio.sleep(0.01)
            cancelled.cancel()
            await asyncio.sleep(0)
        assert batcher._decoders._work_queue.qsize() == 0
        released.set()
        assert_predicted(await batcher.predict(IMAGES[:2]), IMAGES[:2])
    assert most[0] <= BATCHING.threads


@in_event_loop
async def test_batcher_waits_only_for_images_being_decoded():
    """A single image starts at once, whatever the delay; four images form one batch."""
    model, slow, released = CountingModel(), IMAGES[9], threading.Event()

    def read(contents):
        assert contents != slow or released.wait(20)
        return decode(contents)

    async with working(model, read, max_delay_seconds=1000.0) as batcher:
        await batcher.predict(IMAGES[:1])
        await batcher.predict(IMAGES[:4])
        await batcher.predict([IMAGES[0], b"broken", IMAGES[1]])
        requests = [asyncio.ensure_future(batcher.predict([one])) for one in (slow, IMAGES[0])]
        await asyncio.sleep(0.05)
        assert model.sizes == [1, 4, 2]
        released.set()
        await asyncio.gather(*requests)
    assert model.sizes == [1, 4, 2, 2]


@in_event_loop
async def test_batcher_waits_for_slow_decoding_up_to_max_delay():
    released = threading.Event()

    def read(contents):
        assert contents != IMAGES[9] or released.wait(20)
        return decode(contents)

    async with working(read=read) as batcher:
        slow = asyncio.ensure_future(batcher.predict(IMAGES[9:10]))
        assert_predicted(await batcher.predict(IMAGES[:1]), IMAGES[:1])
        released.set()
        assert_predicted(await slow, IMAGES[9:10])


@in_event_loop
async def test_batcher_logs_nothing_for_broken_image_of_cancelled_request():
    messages, released = [], threading.Event()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: messages.append(context))

    def read(contents):
        assert released.wait(20)
        raise UserError("broken")

    async with working(read=read) as batcher:
        cancelled = asyncio.ensure_future(batcher.predict(IMAGES[:2]))
        await asyncio.sleep(0.01)
        cancelled.cancel()
        released.set()
        await asyncio.sleep(0.05)
    del cancelled
    gc.collect()
    assert not messages
