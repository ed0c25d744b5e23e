"""Load tests: what is sent, the latencies, and the compared predictions."""

from __future__ import annotations

import pytest

from engine.commands import load_test
from engine.commands.load_test import LoadTestRun
from engine.core.errors import UserError
from tests.engine.serving.running_service import image, in_event_loop, probabilities, with_service

IMAGES = [(f"{n}.jpg", image(n, 100, 255 - n)) for n in range(40)]


batch_sizes = []


@pytest.mark.parametrize("connections", [1, 8])
@with_service()
async def test_send_images_returns_predictions_in_order(service, connections):
    sent = await load_test.send_images(service.address, IMAGES, connections)
    best = [max(labels, key=labels.get) for labels in sent.predictions]
    assert best == ["cow"] * 40
    shares = [labels["ant"] for labels in sent.predictions]
    assert shares == sorted(shares)
    assert len(sent.latencies) == 40
    assert 0 < max(sent.latencies) <= sent.seconds
    assert sent.rate == pytest.approx(40 / sent.seconds)


@with_service(lambda images: batch_sizes.append(len(images)) or probabilities(images))
async def test_send_images_limits_concurrent_requests(service):
    await load_test.send_images(service.address, IMAGES, 2)
    assert max(batch_sizes) <= 2


@with_service(max_queue_size=1)
async def test_send_images_with_refused_image_is_an_error(service):
    with pytest.raises(UserError, match=r"^b\.jpg: status 422: body: not an image"):
        await load_test.send_images(service.address, [*IMAGES, ("b.jpg", b"nothing")], 1)
    with pytest.raises(UserError, match="status 503: the queue is full"):
        await load_test.send_images(service.address, IMAGES, 8)


@in_event_loop
async def test_send_images_without_service_is_an_error():
    with pytest.raises(UserError, match="no response"):
        await load_test.send_images("http://127.0.0.1:1/", IMAGES, 1)


def test_max_difference_compares_by_label():
    one = LoadTestRun(1.0, (0.5,), ({"a": 0.75, "b": 0.25},))
    assert load_test.max_difference(one, one) == 0
    assert load_test.max_difference(one, LoadTestRun(1.0, (0.5,), ({"b": 0.5, "a": 0.5},))) == 0.25
    assert load_test.max_difference(one, LoadTestRun(1.0, (0.5,), ({"a": 0.75},))) == 0.25
