"""The service over real connections: responses, and states from loading to stopping."""

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
from engine.serving.service import Model, describe_prediction
from tests.engine.serving.running_service import (
    ANT,
    BATCHING,
    BEE,
    CLASSES,
    RULE,
    UNCERTAIN,
    BlockedModel,
    decode,
    image,
    probabilities,
    running_service,
    with_service,
)


def expected_probabilities(contents: bytes) -> np.ndarray:
    levels = np.frombuffer(contents[1:], np.uint8)
    return scipy.special.softmax(levels / 10 / RULE.temperature)


@with_service()
async def test_predict_several_files_in_order(service):
    status, values = await service.form(first=ANT, broken=b"nothing", second=BEE, third=UNCERTAIN)
    assert status == 200
    names = ["first.jpg", "broken.jpg", "second.jpg", "third.jpg"]
    assert [file["name"] for file in values["files"]] == names
    first, broken, second, third = values["files"]
    assert broken == {"name": "broken.jpg", "problem": "not an image (made up)"}
    assert (first["decision"], second["decision"], third["decision"]) == ("ant", "bee", None)
    assert [file["uncertain"] for file in (first, second, third)] == [False, False, True]
    for file, contents in ((first, ANT), (second, BEE), (third, UNCERTAIN)):
        probabilities = {row["label"]: row["probability"] for row in file["predictions"]}
        assert probabilities == pytest.approx(
            dict(zip(CLASSES, expected_probabilities(contents), strict=True)), abs=1e-6
        )
        listed = [row["probability"] for row in file["predictions"]]
        assert listed == sorted(listed, reverse=True)


@with_service()
async def test_predict_keeps_unusual_file_names(service):
    name = b"--b\r\nContent-Disposition: form-data; name=a; filename*=UTF-8''a%0A%1B%3Cb%3E\r\n\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    status, values = await service.post(name + ANT + b"\r\n--b--\r\n", headers=kind)
    assert (status, values["files"][0]["name"]) == (200, "a\n\x1b<b>")
    status, values = await service.post(name + b"broken" + b"\r\n--b--\r\n", headers=kind)
    assert (status, values["error"]) == (422, r"a\n\x1b<b>: not an image (made up)")


@with_service()
async def test_predict_replaces_invalid_utf8_in_file_names(service):
    """Most JSON parsers refuse lone surrogates."""
    name = b'--b\r\nContent-Disposition: form-data; name=a; filename="caf\xe9.jpg"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    status, values = await service.post(name + ANT + b"\r\n--b--\r\n", headers=kind)
    assert (status, values["files"][0]["name"]) == (200, "caf\ufffd.jpg")


@with_service()
async def test_predict_raw_body_as_one_image(service):
    by_curl = "application/x-www-form-urlencoded"
    for kind in ("image/jpeg", "application/octet-stream", "image/x-odd", by_curl):
        status, values = await service.post(ANT, headers={"Content-Type": kind})
        assert (status, values["files"][0]["decision"]) == (200, "ant")


@pytest.mark.parametrize(("top", "expected"), [("1", 1), ("2", 2), ("9", 3), ("999999999", 3)])
def test_top_k_limits_labels(top, expected):
    async def main():
        async with running_service() as service:
            _, values = await service.post(BEE, path=f"predict?top_k={top}")
            assert len(values["files"][0]["predictions"]) == expected
            assert values["files"][0]["predictions"][0]["label"] == "bee"

    asyncio.run(main())


def test_describe_prediction_applies_threshold():
    rule = decision_rule.DecisionRule(positive_class="cow", threshold=0.1)
    model = Model(decode, probabilities, CLASSES, rule)
    described = describe_prediction(model, "a", np.array([0.7, 0.1, 0.2]), 1)
    assert (described["decision"], described["predictions"][0]["label"]) == ("cow", "ant")


def test_predict_non_finite_probabilities_is_a_problem():
    """Large activations overflow in half precision, and JSON has no NaN."""

    def predict(images):
        return np.where(images[:, 0, 0, :1] == 200, np.nan, probabilities(images))

    async def main():
        async with running_service(predict) as service:
            status, values = await service.form(a=ANT, b=BEE)
            assert status == 200
            assert values["files"][0] == {"name": "a.jpg", "problem": prediction.NON_FINITE}
            assert values["files"][1]["decision"] == "bee"
            assert (await service.post(ANT))[0] == 422

    asyncio.run(main())


def test_predict_with_failing_model_hides_details(caplog):
    def predict(images):
        if images[0, 0, 0, 0] == 200:
            raise RuntimeError("/secret/path/model.py broke")
        return probabilities(images)

    async def main():
        async with running_service(predict) as service:
            status, values = await service.post(ANT)
            assert (status, values) == (500, {"error": "the service failed on this request"})
            assert (await service.post(BEE))[0] == 200

    asyncio.run(main())
    assert "/secret/path" in caplog.text, "logged for the operator"


@with_service()
async def test_predict_of_many_clients_returns_own_results(service):
    async def one(number):
        levels = (number, 255 - number, number * 7 % 256)
        status, values = await service.post(image(*levels), path="predict?top_k=3")
        while status == 503:
            status, values = await service.post(image(*levels), path="predict?top_k=3")
        return {row["label"]: row["probability"] for row in values["files"][0]["predictions"]}

    results = await asyncio.gather(*map(one, range(200)))
    for number, labels in enumerate(results):
        expected = expected_probabilities(image(number, 255 - number, number * 7 % 256))
        assert labels == pytest.approx(dict(zip(CLASSES, expected, strict=True)), abs=1e-6)


@with_service()
async def test_metrics_count_requests_and_images(service):
    await service.form(a=ANT, b=BEE, c=b"broken")
    await service.post(b"broken")
    await service.get("nothing")
    await service.get("secret-" + "x" * 50)
    _, text, response = await service.get("metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }

    def requests(route, status):
        return samples[("unfreeze_requests_total", ("route", route), ("status", status))]

    assert requests("/predict", "200") == requests("/predict", "422") == 1
    assert requests("other", "404") == 2, "unknown paths don't become metrics"
    assert samples[("unfreeze_images_total", ("outcome", "answered"))] == 2
    assert samples[("unfreeze_images_total", ("outcome", "unreadable"))] == 2
    assert samples[("unfreeze_batch_size_sum",)] == 2
    assert samples[("unfreeze_request_seconds_count",)] == 2
    assert samples[("unfreeze_queue_images",)] == 0
    for name in ("unfreeze_decode_seconds_total", "unfreeze_model_seconds_total"):
        assert samples[(name,)] > 0


def test_healthz_shows_loading_then_ready():
    async def main():
        released = threading.Event()
        model = Model(decode, probabilities, CLASSES, RULE, {"run": "made", "model": "none"})

        def load():
            assert released.wait(20)
            return model, BATCHING

        async with running_service(load=load) as service:
            status, text, _ = await service.get("healthz")
            assert (status, json.loads(text)) == (503, {"status": "loading"})
            status, values = await service.post(ANT)
            assert (status, values["error"]) == (503, "the service is loading")
            released.set()
            while (await service.get("healthz"))[0] != 200:
                await asyncio.sleep(0.01)
            assert json.loads((await service.get("healthz"))[1]) == {
                "status": "ready",
                "run": "made",
                "model": "none",
                "classes": list(CLASSES),
            }

    asyncio.run(main())


def test_stopping_finishes_pending_requests_only():
    async def main():
        blocked = BlockedModel()
        async with running_service(blocked) as service:
            connection = await asyncio.open_connection("127.0.0.1", service.port)
            first = [asyncio.ensure_future(service.post(BEE)) for _ in range(6)]
            while service.service._batcher.queued < 6:
                await asyncio.sleep(0.005)
            service.stopping.set()
            await asyncio.sleep(0.05)
            connection[1].write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            response = await connection[0].read(2**16)
            assert response.startswith(b"HTTP/1.1 503 ")
            assert b'{"status": "stopping"' in response + await connection[0].read()
            with pytest.raises(aiohttp.ClientConnectorError):
                await service.post(ANT)
            assert not service.ended.done()
            blocked.open.set()
            responses = await asyncio.gather(*first)
            assert [values["files"][0]["decision"] for _, values in responses] == ["bee"] * 6
            await asyncio.wait_for(service.ended, 20)

    asyncio.run(main())


def test_failed_loading_ends_service():
    def load():
        raise UserError("holds no model yet")

    async def main():
        async with running_service(load=load) as service:
            await asyncio.wait({service.ended}, timeout=20)
            assert service.ended.done()

    with pytest.raises(UserError, match="holds no model yet"):
        asyncio.run(main())


def test_stopping_while_loading_ends_service():
    stopped = threading.Event()

    def load():
        assert stopped.wait(20)
        raise ShutdownRequested("SIGTERM")

    async def main():
        async with running_service(load=load) as service:
            service.stopping.set()
            await asyncio.sleep(0.05)
            stopped.set()
            await asyncio.wait_for(service.ended, 20)

    asyncio.run(main())
