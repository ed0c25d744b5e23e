"""The service over real connections: what it answers, and from its beginning to its end."""

from __future__ import annotations

import asyncio
import json
import threading

import aiohttp
import numpy as np
import pytest
import scipy.special
from prometheus_client.parser import text_string_to_metric_families

from engine.core.errors import UserError
from engine.evaluation import decision_rule
from engine.inference import predict as prediction
from engine.runtime.shutdown import ShutdownRequested
from engine.serving.service import Model, describe
from tests.engine.serving.made import (
    ANT,
    BEE,
    CLASSES,
    PACE,
    RULE,
    UNSURE,
    Held,
    decode,
    image,
    over_http,
    probabilities,
    running,
)


def chances(contents: bytes) -> np.ndarray:
    levels = np.frombuffer(contents[1:], np.uint8)
    return scipy.special.softmax(levels / 10 / RULE.temperature)


@over_http()
async def test_several_files_are_answered_in_their_order(it):
    status, values = await it.form(first=ANT, broken=b"nothing", second=BEE, third=UNSURE)
    assert status == 200
    names = ["first.jpg", "broken.jpg", "second.jpg", "third.jpg"]
    assert [file["name"] for file in values["files"]] == names
    first, broken, second, third = values["files"]
    assert broken == {"name": "broken.jpg", "problem": "not an image (made up)"}
    assert (first["decision"], second["decision"], third["decision"]) == ("ant", "bee", None)
    assert [file["uncertain"] for file in (first, second, third)] == [False, False, True]
    for file, contents in ((first, ANT), (second, BEE), (third, UNSURE)):
        found = {row["label"]: row["probability"] for row in file["predictions"]}
        assert found == pytest.approx(dict(zip(CLASSES, chances(contents), strict=True)), abs=1e-6)
        listed = [row["probability"] for row in file["predictions"]]
        assert listed == sorted(listed, reverse=True)


@over_http()
async def test_names_of_files_may_be_anything_and_stay_what_they_are(it):
    name = b"--b\r\nContent-Disposition: form-data; name=a; filename*=UTF-8''a%0A%1B%3Cb%3E\r\n\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    status, values = await it.post(name + ANT + b"\r\n--b--\r\n", headers=kind)
    assert (status, values["files"][0]["name"]) == (200, "a\n\x1b<b>")
    status, values = await it.post(name + b"broken" + b"\r\n--b--\r\n", headers=kind)
    assert (status, values["error"]) == (422, r"a\n\x1b<b>: not an image (made up)")


@over_http()
async def test_names_that_are_no_unicode_can_be_written_as_json(it):
    """Of lone surrogates most readers of JSON make an error."""
    name = b'--b\r\nContent-Disposition: form-data; name=a; filename="caf\xe9.jpg"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    status, values = await it.post(name + ANT + b"\r\n--b--\r\n", headers=kind)
    assert (status, values["files"][0]["name"]) == (200, "caf\ufffd.jpg")


@over_http()
async def test_a_raw_body_is_one_image(it):
    by_curl = "application/x-www-form-urlencoded"
    for kind in ("image/jpeg", "application/octet-stream", "image/x-odd", by_curl):
        status, values = await it.post(ANT, headers={"Content-Type": kind})
        assert (status, values["files"][0]["decision"]) == (200, "ant")


@pytest.mark.parametrize(("top", "expected"), [("1", 1), ("2", 2), ("9", 3), ("999999999", 3)])
def test_top_says_how_many_labels(top, expected):
    async def main():
        async with running() as it:
            _, values = await it.post(BEE, path=f"predict?top={top}")
            assert len(values["files"][0]["predictions"]) == expected
            assert values["files"][0]["predictions"][0]["label"] == "bee"

    asyncio.run(main())


def test_a_rule_with_a_threshold_decides_against_the_likeliest():
    rule = decision_rule.DecisionRule(positive_class="cow", threshold=0.1)
    model = Model(decode, probabilities, CLASSES, rule)
    said = describe(model, "a", np.array([0.7, 0.1, 0.2]), 1)
    assert (said["decision"], said["predictions"][0]["label"]) == ("cow", "ant")


def test_what_the_network_gives_no_number_for_is_a_problem_and_readable_json():
    """In half precision a large activation is infinite; NaN is no word of JSON's."""

    def predict(images):
        return np.where(images[:, 0, 0, :1] == 200, np.nan, probabilities(images))

    async def main():
        async with running(predict) as it:
            status, values = await it.form(a=ANT, b=BEE)
            assert status == 200
            assert values["files"][0] == {"name": "a.jpg", "problem": prediction.NON_FINITE}
            assert values["files"][1]["decision"] == "bee"
            assert (await it.post(ANT))[0] == 422

    asyncio.run(main())


def test_what_fails_in_the_model_stays_here(caplog):
    def predict(images):
        if images[0, 0, 0, 0] == 200:
            raise RuntimeError("/secret/path/model.py broke")
        return probabilities(images)

    async def main():
        async with running(predict) as it:
            status, values = await it.post(ANT)
            assert (status, values) == (500, {"error": "the service failed over this request"})
            assert (await it.post(BEE))[0] == 200

    asyncio.run(main())
    assert "/secret/path" in caplog.text, "whoever runs the service is told"


@over_http()
async def test_each_of_many_clients_gets_its_own_answer(it):
    async def one(number):
        levels = (number, 255 - number, number * 7 % 256)
        status, values = await it.post(image(*levels), path="predict?top=3")
        while status == 503:
            status, values = await it.post(image(*levels), path="predict?top=3")
        return {row["label"]: row["probability"] for row in values["files"][0]["predictions"]}

    found = await asyncio.gather(*map(one, range(200)))
    for number, answer in enumerate(found):
        wanted = chances(image(number, 255 - number, number * 7 % 256))
        assert answer == pytest.approx(dict(zip(CLASSES, wanted, strict=True)), abs=1e-6)


@over_http()
async def test_metrics_are_what_happened(it):
    await it.form(a=ANT, b=BEE, c=b"broken")
    await it.post(b"broken")
    await it.get("nothing")
    await it.get("secret-" + "x" * 50)
    _, text, response = await it.get("metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }

    def requests(route, status):
        return samples[("unfreeze_requests_total", ("route", route), ("status", status))]

    assert requests("/predict", "200") == requests("/predict", "422") == 1
    assert requests("other", "404") == 2, "addresses that are no route don't become metrics"
    assert samples[("unfreeze_images_total", ("outcome", "answered"))] == 2
    assert samples[("unfreeze_images_total", ("outcome", "unreadable"))] == 2
    assert samples[("unfreeze_batch_size_sum",)] == 2
    assert samples[("unfreeze_request_seconds_count",)] == 2
    assert samples[("unfreeze_queue_images",)] == 0
    for name in ("unfreeze_decode_seconds_total", "unfreeze_model_seconds_total"):
        assert samples[(name,)] > 0


def test_health_says_loading_ready_and_stopping():
    async def main():
        let = threading.Event()
        model = Model(decode, probabilities, CLASSES, RULE, {"run": "made", "model": "none"})

        def load():
            assert let.wait(20)
            return model, PACE

        async with running(load=load) as it:
            status, text, _ = await it.get("healthz")
            assert (status, json.loads(text)) == (503, {"status": "loading"})
            status, values = await it.post(ANT)
            assert (status, values["error"]) == (503, "the service is loading")
            let.set()
            while (await it.get("healthz"))[0] != 200:
                await asyncio.sleep(0.01)
            assert json.loads((await it.get("healthz"))[1]) == {
                "status": "ready",
                "run": "made",
                "model": "none",
                "classes": list(CLASSES),
            }

    asyncio.run(main())


def test_stopping_answers_what_is_there_and_takes_nothing_new():
    async def main():
        held = Held()
        async with running(held) as it:
            kept = await asyncio.open_connection("127.0.0.1", it.port)
            first = [asyncio.ensure_future(it.post(BEE)) for _ in range(6)]
            while it.service._batcher.held < 6:
                await asyncio.sleep(0.005)
            it.stopping.set()
            await asyncio.sleep(0.05)
            kept[1].write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            said = await kept[0].read(2**16)
            assert said.startswith(b"HTTP/1.1 503 ")
            assert b'{"status": "stopping"' in said + await kept[0].read()
            with pytest.raises(aiohttp.ClientConnectorError):
                await it.post(ANT)
            assert not it.ended.done()
            held.open.set()
            answers = await asyncio.gather(*first)
            assert [values["files"][0]["decision"] for _, values in answers] == ["bee"] * 6
            await asyncio.wait_for(it.ended, 20)

    asyncio.run(main())


def test_a_model_that_can_not_be_had_ends_the_service():
    def load():
        raise UserError("holds no model yet")

    async def main():
        async with running(load=load) as it:
            await asyncio.wait({it.ended}, timeout=20)
            assert it.ended.done()

    with pytest.raises(UserError, match="holds no model yet"):
        asyncio.run(main())


def test_one_that_is_stopped_while_it_loads_ends_well():
    stopped = threading.Event()

    def load():
        assert stopped.wait(20)
        raise ShutdownRequested("SIGTERM")

    async def main():
        async with running(load=load) as it:
            it.stopping.set()
            await asyncio.sleep(0.05)
            stopped.set()
            await asyncio.wait_for(it.ended, 20)

    asyncio.run(main())
