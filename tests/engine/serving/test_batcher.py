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
from engine.serving.batcher import (
    Batcher,
    BatchingOptions,
    QueueFullError,
    batch_sizes,
    choose_batch_size,
)
from engine.serving.metrics import Metrics
from tests.engine import small
from tests.engine.serving.running_service import (
    BATCHING,
    BlockedModel,
    decode,
    image,
    probabilities,
)

IMAGES = [image(n, 255 - n, n * 7 % 256) for n in range(256)]


def expected(contents: bytes) -> np.ndarray:
    return probabilities(decode(contents)[None])[0]


@contextlib.asynccontextmanager
async def working(predict=probabilities, batching=BATCHING, read=decode):
    batcher = Batcher(read, predict, batching, Metrics())
    work = asyncio.ensure_future(batcher.run())
    try:
        yield batcher
    finally:
        work.cancel()
        batcher.close()


def within(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


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


def test_batcher_returns_each_image_its_own_row():
    """256 images at a time, decoded out of order, in requests of several sizes."""
    sizes = []

    def slow(contents):
        threading.Event().wait(0.001 * (contents[1] % 3))
        return decode(contents)

    def predict(images):
        sizes.append(len(images))
        return probabilities(images)

    async def main():
        batching = dataclasses.replace(BATCHING, max_queue_size=256, threads=4)
        async with working(predict, batching, slow) as batcher:
            starts = [0, *np.cumsum([1, 2, 3, 5, 8, 13] * 8)]
            groups = [IMAGES[a:b] for a, b in itertools.pairwise(starts)]
            predictions = await asyncio.gather(*map(batcher.predict, groups))
            assert batcher.queued == 0
        for group, rows in zip(groups, predictions, strict=True):
            np.testing.assert_array_equal(rows, [expected(one) for one in group])

    within(main())
    assert set(sizes) <= set(BATCHING.batch_seconds)


def test_batcher_predictions_equal_network():
    network = small.network().model
    images = np.random.default_rng(0).integers(0, 256, (40, small.SIDE, small.SIDE, 3), np.uint8)

    async def main():
        batching = dataclasses.replace(BATCHING, max_queue_size=40)
        async with working(
            lambda batch: np.asarray(network(batch.astype(np.float32), training=False)),
            batching,
            lambda contents: np.frombuffer(contents, np.uint8).reshape(small.SIDE, small.SIDE, 3),
        ) as batcher:
            return await asyncio.gather(*(batcher.predict([one.tobytes()]) for one in images))

    rows = np.concatenate(within(main()))
    direct = np.asarray(network(images.astype(np.float32), training=False))
    np.testing.assert_allclose(rows, direct, rtol=0, atol=1e-5)


def test_batcher_returns_error_of_unreadable_image():
    async def main():
        async with working() as batcher:
            return await batcher.predict([IMAGES[1], b"no", IMAGES[2]])

    first, problem, last = within(main())
    assert isinstance(problem, UserError)
    np.testing.assert_array_equal([first, last], [expected(one) for one in IMAGES[1:3]])


def test_batcher_with_full_queue_refuses_until_free():
    async def main():
        blocked = BlockedModel()
        async with working(blocked, dataclasses.replace(BATCHING, max_queue_size=3)) as batcher:
            first = asyncio.ensure_future(batcher.predict(IMAGES[:2]))
            await asyncio.sleep(0)
            with pytest.raises(QueueFullError):
                await batcher.predict(IMAGES[:2])
            second = asyncio.ensure_future(batcher.predict(IMAGES[2:3]))
            await asyncio.sleep(0)
            with pytest.raises(QueueFullError):
                await batcher.predict(IMAGES[3:4])
            blocked.open.set()
            rows = [*await first, *await second]
            rows += await batcher.predict(IMAGES[3:6])
        np.testing.assert_array_equal(rows, [expected(one) for one in IMAGES[:6]])

    within(main())


def test_batcher_fails_only_requests_of_failed_batch():
    def predict(images):
        if 13 in images[:, 0, 0, 0]:
            raise MemoryError("no room")
        return probabilities(images)

    async def main():
        async with working(predict) as batcher:
            assert len(await batcher.predict(IMAGES[:1])) == 1
            with pytest.raises(MemoryError, match="no room"):
                await batcher.predict(IMAGES[13:14])
            assert batcher.queued == 0
            return await batcher.predict(IMAGES[2:4])

    np.testing.assert_array_equal(within(main()), [expected(one) for one in IMAGES[2:4]])


def test_batcher_drops_images_of_cancelled_request():
    """A batch on the device is finished, and other requests get their predictions."""

    async def main():
        blocked = BlockedModel()
        async with working(blocked, dataclasses.replace(BATCHING, max_queue_size=40)) as batcher:
            first = asyncio.ensure_future(batcher.predict(IMAGES[:1]))
            while not blocked.started.is_set():
                await asyncio.sleep(0.001)
            cancelled = asyncio.ensure_future(batcher.predict(IMAGES[1:17]))
            stays = asyncio.ensure_future(batcher.predict(IMAGES[17:19]))
            await asyncio.sleep(0.05)
            cancelled.cancel()
            first.cancel()
            await asyncio.sleep(0.01)
            assert batcher.queued == 2
            blocked.open.set()
            rows = await stays
            assert batcher.queued == 0
        assert sum(blocked.batches) == 3
        return rows

    np.testing.assert_array_equal(within(main()), [expected(one) for one in IMAGES[17:19]])


def test_batcher_does_not_wait_for_request_cancelled_at_start():
    """Otherwise every later batch would wait for images that never come."""

    async def main():
        batching = dataclasses.replace(BATCHING, max_delay_seconds=1000.0)
        async with working(batching=batching) as batcher:
            cancelled = asyncio.ensure_future(batcher.predict(IMAGES[:4]))
            await asyncio.sleep(0)  # queued for decoding, which has not started
            cancelled.cancel()
            return await batcher.predict(IMAGES[4:5])

    np.testing.assert_array_equal(within(main()), [expected(IMAGES[4])])


def test_batcher_counts_decoder_of_cancelled_request_as_busy():
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

    async def main():
        async with working(read=slow) as batcher:
            for number in range(8):
                cancelled = asyncio.ensure_future(batcher.predict(IMAGES[number : number + 2]))
                await asyncio.sleep(0.01)
                cancelled.cancel()
                await asyncio.sleep(0)
            assert batcher._decoders._work_queue.qsize() == 0
            released.set()
            return await batcher.predict(IMAGES[:2])

    np.testing.assert_array_equal(within(main()), [expected(one) for one in IMAGES[:2]])
    assert most[0] <= BATCHING.threads


def test_batcher_waits_only_for_images_being_decoded():
    """A single image starts at once, whatever the delay; four images form one batch."""
    seen_sizes = []

    def predict(images):
        seen_sizes.append(len(images))
        return probabilities(images)

    async def main():
        batching = BatchingOptions(
            {1: 1.0, 2: 1.0, 4: 1.0}, max_queue_size=16, max_delay_seconds=1000.0, threads=1
        )
        async with working(predict, batching) as batcher:
            await batcher.predict(IMAGES[:1])
            await batcher.predict(IMAGES[:4])
            await batcher.predict([IMAGES[0], b"broken", IMAGES[1]])

    within(main())
    assert seen_sizes == [1, 4, 2]


def test_batcher_waits_for_slow_decoding_up_to_max_delay():
    released = threading.Event()

    def read(contents):
        if contents == IMAGES[9]:
            assert released.wait(20)
        return decode(contents)

    async def main():
        async with working(read=read) as batcher:
            slow = asyncio.ensure_future(batcher.predict(IMAGES[9:10]))
            quick = await batcher.predict(IMAGES[:1])
            released.set()
            return [*quick, *await slow]

    rows = within(main())
    np.testing.assert_array_equal(rows, [expected(IMAGES[0]), expected(IMAGES[9])])


def test_batcher_logs_nothing_for_broken_image_of_cancelled_request():
    messages = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: messages.append(context))
        released = threading.Event()

        def read(contents):
            assert released.wait(20)
            raise UserError("broken")

        async with working(read=read) as batcher:
            cancelled = asyncio.ensure_future(batcher.predict(IMAGES[:2]))
            await asyncio.sleep(0.01)
            cancelled.cancel()
            released.set()
            await asyncio.sleep(0.05)
        gc.collect()

    within(main())
    assert not messages
