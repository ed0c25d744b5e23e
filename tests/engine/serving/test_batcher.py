"""Every image gets its own answer, whatever else is asked at the same time."""

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
from engine.serving.batcher import Batcher, BatchingOptions, QueueFullError, size_for, sizes
from engine.serving.metrics import Metrics
from tests.engine import small
from tests.engine.serving.made import PACE, Held, decode, image, probabilities

IMAGES = [image(n, 255 - n, n * 7 % 256) for n in range(256)]


def expected(contents: bytes) -> np.ndarray:
    return probabilities(decode(contents)[None])[0]


@contextlib.asynccontextmanager
async def working(predict=probabilities, pace=PACE, read=decode):
    batcher = Batcher(read, predict, pace, Metrics())
    work = asyncio.ensure_future(batcher.work())
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
def test_sizes_reach_the_most(most, expected):
    assert sizes(most) == expected


@pytest.mark.parametrize("waiting", range(1, 40))
def test_on_a_processor_nothing_is_filled_up_and_on_a_gpu_nothing_is_left(waiting):
    processor = {size: 0.001 * size for size in sizes(32)}
    gpu = {size: 0.01 + 1e-5 * size for size in sizes(32)}
    assert size_for(waiting, processor) == max(s for s in processor if s <= waiting)
    assert size_for(waiting, gpu) == min((s for s in gpu if s >= waiting), default=32)


def test_every_image_gets_its_own_answer():
    """256 at a time, decoded out of their order, in requests of several sizes."""
    seen = []

    def slow(contents):
        threading.Event().wait(0.001 * (contents[1] % 3))
        return decode(contents)

    def predict(images):
        seen.append(len(images))
        return probabilities(images)

    async def main():
        pace = dataclasses.replace(PACE, queue=256, threads=4)
        async with working(predict, pace, slow) as batcher:
            starts = [0, *np.cumsum([1, 2, 3, 5, 8, 13] * 8)]
            groups = [IMAGES[a:b] for a, b in itertools.pairwise(starts)]
            answers = await asyncio.gather(*map(batcher.answers, groups))
            assert batcher.held == 0
        for group, rows in zip(groups, answers, strict=True):
            np.testing.assert_array_equal(rows, [expected(one) for one in group])

    within(main())
    assert set(seen) <= set(PACE.seconds)


def test_answers_are_those_of_the_network_itself():
    network = small.network().model
    images = np.random.default_rng(0).integers(0, 256, (40, small.SIDE, small.SIDE, 3), np.uint8)

    async def main():
        pace = dataclasses.replace(PACE, queue=40)
        async with working(
            lambda batch: np.asarray(network(batch.astype(np.float32), training=False)),
            pace,
            lambda contents: np.frombuffer(contents, np.uint8).reshape(small.SIDE, small.SIDE, 3),
        ) as batcher:
            return await asyncio.gather(*(batcher.answers([one.tobytes()]) for one in images))

    rows = np.concatenate(within(main()))
    direct = np.asarray(network(images.astype(np.float32), training=False))
    np.testing.assert_allclose(rows, direct, rtol=0, atol=1e-5)


def test_what_is_no_image_is_told_and_stops_nobody():
    async def main():
        async with working() as batcher:
            return await batcher.answers([IMAGES[1], b"no", IMAGES[2]])

    first, problem, last = within(main())
    assert isinstance(problem, UserError)
    np.testing.assert_array_equal([first, last], [expected(one) for one in IMAGES[1:3]])


def test_a_full_queue_refuses_and_takes_again_later():
    async def main():
        held = Held()
        async with working(held, dataclasses.replace(PACE, queue=3)) as batcher:
            first = asyncio.ensure_future(batcher.answers(IMAGES[:2]))
            await asyncio.sleep(0)
            with pytest.raises(QueueFullError):
                await batcher.answers(IMAGES[:2])
            second = asyncio.ensure_future(batcher.answers(IMAGES[2:3]))
            await asyncio.sleep(0)
            with pytest.raises(QueueFullError):
                await batcher.answers(IMAGES[3:4])
            held.open.set()
            rows = [*await first, *await second]
            rows += await batcher.answers(IMAGES[3:6])
        np.testing.assert_array_equal(rows, [expected(one) for one in IMAGES[:6]])

    within(main())


def test_a_batch_that_fails_fails_its_own_requests_only():
    def predict(images):
        if 13 in images[:, 0, 0, 0]:
            raise MemoryError("no room")
        return probabilities(images)

    async def main():
        async with working(predict) as batcher:
            assert len(await batcher.answers(IMAGES[:1])) == 1
            with pytest.raises(MemoryError, match="no room"):
                await batcher.answers(IMAGES[13:14])
            assert batcher.held == 0
            return await batcher.answers(IMAGES[2:4])

    np.testing.assert_array_equal(within(main()), [expected(one) for one in IMAGES[2:4]])


def test_images_of_one_who_went_away_are_not_computed():
    """Those that wait; what the device has begun it ends, and the others get their answers."""

    async def main():
        held = Held()
        async with working(held, dataclasses.replace(PACE, queue=40)) as batcher:
            first = asyncio.ensure_future(batcher.answers(IMAGES[:1]))
            while not held.begun.is_set():
                await asyncio.sleep(0.001)
            gone = asyncio.ensure_future(batcher.answers(IMAGES[1:17]))
            stays = asyncio.ensure_future(batcher.answers(IMAGES[17:19]))
            await asyncio.sleep(0.05)
            gone.cancel()
            first.cancel()
            await asyncio.sleep(0.01)
            assert batcher.held == 2
            held.open.set()
            rows = await stays
            assert batcher.held == 0
        assert sum(held.batches) == 3
        return rows

    np.testing.assert_array_equal(within(main()), [expected(one) for one in IMAGES[17:19]])


def test_one_who_goes_away_before_it_began_is_not_waited_for():
    """Else every later batch would be held back by images that never come."""

    async def main():
        pace = dataclasses.replace(PACE, wait_seconds=1000.0)
        async with working(pace=pace) as batcher:
            gone = asyncio.ensure_future(batcher.answers(IMAGES[:4]))
            await asyncio.sleep(0)  # it has asked for decoding, which has not begun
            gone.cancel()
            return await batcher.answers(IMAGES[4:5])

    np.testing.assert_array_equal(within(main()), [expected(IMAGES[4])])


def test_a_decoder_that_is_left_alone_keeps_its_place():
    """Images of those who went away can't pile up before the decoders."""
    running, most, let = [0], [0], threading.Event()
    lock = threading.Lock()

    def slow(contents):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        let.wait(20)
        with lock:
            running[0] -= 1
        return decode(contents)

    async def main():
        async with working(read=slow) as batcher:
            for number in range(8):
                gone = asyncio.ensure_future(batcher.answers(IMAGES[number : number + 2]))
                await asyncio.sleep(0.01)
                gone.cancel()
                await asyncio.sleep(0)
            assert batcher._decoders._work_queue.qsize() == 0
            let.set()
            return await batcher.answers(IMAGES[:2])

    np.testing.assert_array_equal(within(main()), [expected(one) for one in IMAGES[:2]])
    assert most[0] <= PACE.threads


def test_images_that_are_being_decoded_are_waited_for_and_others_are_not():
    """An image alone begins at once, however long it might wait; of four, all go together."""
    sizes_seen = []

    def predict(images):
        sizes_seen.append(len(images))
        return probabilities(images)

    async def main():
        pace = BatchingOptions({1: 1.0, 2: 1.0, 4: 1.0}, queue=16, wait_seconds=1000.0, threads=1)
        async with working(predict, pace) as batcher:
            await batcher.answers(IMAGES[:1])
            await batcher.answers(IMAGES[:4])
            await batcher.answers([IMAGES[0], b"broken", IMAGES[1]])

    within(main())
    assert sizes_seen == [1, 4, 2]


def test_one_that_takes_long_to_decode_is_not_waited_for_longer_than_is_said():
    let = threading.Event()

    def read(contents):
        if contents == IMAGES[9]:
            assert let.wait(20)
        return decode(contents)

    async def main():
        async with working(read=read) as batcher:
            slow = asyncio.ensure_future(batcher.answers(IMAGES[9:10]))
            quick = await batcher.answers(IMAGES[:1])
            let.set()
            return [*quick, *await slow]

    rows = within(main())
    np.testing.assert_array_equal(rows, [expected(IMAGES[0]), expected(IMAGES[9])])


def test_nothing_is_complained_of_when_a_image_that_nobody_waits_for_is_broken():
    said = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: said.append(context))
        let = threading.Event()

        def read(contents):
            assert let.wait(20)
            raise UserError("broken")

        async with working(read=read) as batcher:
            gone = asyncio.ensure_future(batcher.answers(IMAGES[:2]))
            await asyncio.sleep(0.01)
            gone.cancel()
            let.set()
            await asyncio.sleep(0.05)
        gc.collect()

    within(main())
    assert not said
