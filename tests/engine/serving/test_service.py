"""The service over real connections: responses, and states from loading to stopping."""

from __future__ import annotations

import asyncio
import json
import threading

import aiohttp
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.inference import predictions as prediction
from tests.engine.serving.running_service import (
    ANT,
    BEE,
    CLASSES,
    UNCERTAIN,
    BlockedModel,
    decode,
    in_event_loop,
    probabilities,
    running_service,
    with_service,
)

FORM = {"Content-Type": "multipart/form-data; boundary=b"}


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
        expected = dict(zip(CLASSES, probabilities(decode(contents)[None])[0], strict=True))
        assert {row["label"]: row["probability"] for row in file["predictions"]} == pytest.approx(
            expected, abs=1e-6
        )
        listed = [row["probability"] for row in file["predictions"]]
        assert listed == sorted(listed, reverse=True)


@with_service()
async def test_predict_keeps_unusual_file_names(service):
    name = b"--b\r\nContent-Disposition: form-data; name=a; filename*=UTF-8''a%0A%1B%3Cb%3E\r\n\r\n"
    status, values = await service.post(name + ANT + b"\r\n--b--\r\n", headers=FORM)
    assert (status, values["files"][0]["name"]) == (200, "a\n\x1b<b>")
    status, values = await service.post(name + b"broken" + b"\r\n--b--\r\n", headers=FORM)
    assert (status, values["error"]) == (422, r"a\n\x1b<b>: not an image (made up)")


@with_service()
async def test_predict_replaces_invalid_utf8_in_file_names(service):
    """Most JSON parsers refuse lone surrogates."""
    name = b'--b\r\nContent-Disposition: form-data; name=a; filename="caf\xe9.jpg"\r\n\r\n'
    status, values = await service.post(name + ANT + b"\r\n--b--\r\n", headers=FORM)
    assert (status, values["files"][0]["name"]) == (200, "caf\ufffd.jpg")


@with_service()
async def test_predict_raw_body_as_one_image(service):
    by_curl = "application/x-www-form-urlencoded"
    for kind in ("image/jpeg", "application/octet-stream", "image/x-odd", by_curl):
        status, values = await service.post(ANT, headers={"Content-Type": kind})
        assert (status, values["files"][0]["decision"]) == (200, "ant")


@pytest.mark.parametrize(("top", "expected"), [("1", 1), ("2", 2), ("9", 3), ("999999999", 3)])
@with_service()
async def test_top_k_limits_labels(service, top, expected):
    _, values = await service.post(BEE, path=f"predict?top_k={top}")
    assert len(values["files"][0]["predictions"]) == expected
    assert values["files"][0]["predictions"][0]["label"] == "bee"


def not_a_number_for_ants(images):
    return np.where(images[:, 0, 0, :1] == 200, np.nan, probabilities(images))


@with_service(not_a_number_for_ants)
async def test_predict_non_finite_probabilities_is_a_problem(service):
    """Large activations overflow in half precision, and JSON has no NaN."""
    status, values = await service.form(a=ANT, b=BEE)
    assert status == 200
    assert values["files"][0] == {"name": "a.jpg", "problem": prediction.NON_FINITE}
    assert values["files"][1]["decision"] == "bee"
    assert (await service.post(ANT))[0] == 422


def broken_for_ants(images):
    if images[0, 0, 0, 0] == 200:
        raise RuntimeError("/secret/path/model.py broke")
    return probabilities(images)


@with_service(broken_for_ants)
async def test_predict_with_failing_model_hides_details(service, caplog):
    status, values = await service.post(ANT)
    assert (status, values) == (500, {"error": "the service failed on this request"})
    assert (await service.post(BEE))[0] == 200, "only the batch has failed"
    assert "/secret/path" in caplog.text, "logged for the operator"


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
    for name in ("unfreeze_decode_seconds_sum", "unfreeze_model_seconds_sum"):
        assert samples[(name,)] > 0


@in_event_loop
async def test_healthz_shows_loading_then_ready():
    released = threading.Event()

    def load():
        assert released.wait(20)

    async with running_service(load=load) as service:
        status, text, _ = await service.get("healthz")
        assert (status, json.loads(text)) == (503, {"status": "loading"})
        status, values = await service.post(ANT)
        assert (status, values["error"]) == (503, "the service is loading")
        released.set()
        while (await service.get("healthz"))[0] != 200:
            await asyncio.sleep(0.01)
        about = {"status": "ready", "run": "made", "model": "none", "classes": list(CLASSES)}
        assert json.loads((await service.get("healthz"))[1]) == about


@with_service(BlockedModel)
async def test_stopping_finishes_pending_requests_only(service):
    connection = await asyncio.open_connection("127.0.0.1", service.port)
    first = [asyncio.ensure_future(service.post(BEE)) for _ in range(6)]
    await service.queue_of(6)
    service.stopping.set()
    await asyncio.sleep(0.05)
    connection[1].write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    response = await connection[0].read(2**16)
    assert response.startswith(b"HTTP/1.1 503 ")
    assert b'{"status": "stopping"' in response + await connection[0].read()
    with pytest.raises(aiohttp.ClientConnectorError):
        await service.post(ANT)
    assert not service.ended.done()
    service.predict.open.set()
    responses = await asyncio.gather(*first)
    assert [values["files"][0]["decision"] for _, values in responses] == ["bee"] * 6
    await asyncio.wait_for(service.ended, 20)
