"""What is sent to a service, and what is said of how long it took."""

from __future__ import annotations

import asyncio
import dataclasses

import numpy as np
import pytest

from engine.core.errors import UserError
from engine.serving import load_test
from engine.serving.load_test import Sent
from tests.engine.serving.made import PACE, image, probabilities, running

IMAGES = [(f"{n}.jpg", image(n, 100, 255 - n)) for n in range(40)]


@pytest.mark.parametrize("connections", [1, 8])
def test_answers_come_in_the_order_of_the_images(connections):
    async def main():
        async with running() as it:
            return await load_test.send(it.address, IMAGES, connections)

    sent = asyncio.run(main())
    likeliest = [max(answer, key=answer.get) for answer in sent.answers]
    assert likeliest == ["cow"] * 40
    assert [answer["ant"] for answer in sent.answers] == sorted(a["ant"] for a in sent.answers)
    assert len(sent.latencies) == 40
    assert 0 < max(sent.latencies) <= sent.seconds
    assert sent.rate == pytest.approx(40 / sent.seconds)


def test_at_most_so_many_are_sent_at_a_time():
    most = []

    async def main():
        async with running(lambda seen: most.append(len(seen)) or probabilities(seen)) as it:
            await load_test.send(it.address, IMAGES, 2)

    asyncio.run(main())
    assert max(most) <= 2


def test_a_image_that_is_not_answered_ends_it():
    async def main(images, **settings):
        async with running(**settings) as it:
            await load_test.send(it.address, images, 8)

    with pytest.raises(UserError, match=r"^b\.jpg: answered 422: body: not an image"):
        asyncio.run(main([*IMAGES, ("b.jpg", b"nothing")]))
    full = dataclasses.replace(PACE, queue=0)
    with pytest.raises(UserError, match="answered 503: the queue is full"):
        asyncio.run(main(IMAGES, pace=full))
    with pytest.raises(UserError, match="no answer"):
        asyncio.run(load_test.send("http://127.0.0.1:1/", IMAGES, 1))


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 2, 100, 101])
def test_quantiles_are_those_of_numpy(share, count):
    times = np.random.default_rng(count).uniform(0, 1, count)
    wanted = np.quantile(times, share, method="inverted_cdf")
    assert load_test.quantile(times.tolist(), share) == wanted


def test_answers_are_compared_by_label():
    one = Sent(1.0, (0.5,), ({"a": 0.75, "b": 0.25},))
    assert load_test.apart(one, one) == 0
    assert load_test.apart(one, Sent(1.0, (0.5,), ({"b": 0.5, "a": 0.5},))) == 0.25
    assert load_test.apart(one, Sent(1.0, (0.5,), ({"a": 0.75},))) == 0.25
