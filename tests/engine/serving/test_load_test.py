"""Load tests: what is sent, the latencies, and the compared predictions."""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import pytest

from engine.core.errors import UserError
from engine.serving import load_test
from engine.serving.load_test import LoadTestRun
from tests.engine.serving.running_service import BATCHING, image, probabilities, running_service

IMAGES = [(f"{n}.jpg", image(n, 100, 255 - n)) for n in range(40)]


@pytest.mark.parametrize("connections", [1, 8])
def test_send_images_returns_predictions_in_order(connections):
    async def main():
        async with running_service() as service:
            return await load_test.send_images(service.address, IMAGES, connections)

    sent = asyncio.run(main())
    best = [max(labels, key=labels.get) for labels in sent.predictions]
    assert best == ["cow"] * 40
    assert [labels["ant"] for labels in sent.predictions] == sorted(
        a["ant"] for a in sent.predictions
    )
    assert len(sent.latencies) == 40
    assert 0 < max(sent.latencies) <= sent.seconds
    assert sent.rate == pytest.approx(40 / sent.seconds)


def test_send_images_limits_concurrent_requests():
    batches = []

    async def main():
        async with running_service(
            lambda images: batches.append(len(images)) or probabilities(images)
        ) as service:
            await load_test.send_images(service.address, IMAGES, 2)

    asyncio.run(main())
    assert max(batches) <= 2


def test_send_images_with_refused_image_is_an_error():
    async def main(images, **settings):
        async with running_service(**settings) as service:
            await load_test.send_images(service.address, images, 8)

    with pytest.raises(UserError, match=r"^b\.jpg: status 422: body: not an image"):
        asyncio.run(main([*IMAGES, ("b.jpg", b"nothing")]))
    full = dataclasses.replace(BATCHING, max_queue_size=0)
    with pytest.raises(UserError, match="status 503: the queue is full"):
        asyncio.run(main(IMAGES, batching=full))
    with pytest.raises(UserError, match="no response"):
        asyncio.run(load_test.send_images("http://127.0.0.1:1/", IMAGES, 1))


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 2, 100, 101])
def test_quantile_equals_numpy(fraction, count):
    times = np.random.default_rng(count).uniform(0, 1, count)
    expected = np.quantile(times, fraction, method="inverted_cdf")
    assert load_test.quantile(times.tolist(), fraction) == expected


def test_max_difference_compares_by_label():
    one = LoadTestRun(1.0, (0.5,), ({"a": 0.75, "b": 0.25},))
    assert load_test.max_difference(one, one) == 0
    assert load_test.max_difference(one, LoadTestRun(1.0, (0.5,), ({"b": 0.5, "a": 0.5},))) == 0.25
    assert load_test.max_difference(one, LoadTestRun(1.0, (0.5,), ({"a": 0.75},))) == 0.25
