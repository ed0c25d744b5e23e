"""The service over real connections: answers, refusals, limits, and clients that mean no good."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import re
import threading

import aiohttp
import numpy as np
import pytest
import scipy.special
from prometheus_client.parser import text_string_to_metric_families

from engine import rules
from engine.serving.limits import HELD_REQUESTS, Limits, Memory, RefusalError
from engine.serving.service import Predictor, describe
from engine.specs import UserError
from engine.stopping import Stopped
from tests.engine.serving.made import (
    CLASSES,
    PACE,
    RULE,
    Held,
    decode,
    logits,
    picture,
    raw,
    running,
)

ANT, BEE, UNSURE = picture(200, 20, 10), picture(10, 180, 20), picture(100, 100, 100)
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"


def over_http(**settings):
    """A test that gets a running service."""

    def wrap(test):
        @functools.wraps(test)
        def whole(*arguments, **named):
            async def main():
                async with running(**settings) as it:
                    await asyncio.wait_for(test(*arguments, it=it, **named), 60)

            asyncio.run(main())

        del whole.__wrapped__  # else pytest would look for a fixture `it`
        return whole

    return wrap


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
    assert broken == {"name": "broken.jpg", "problem": "not a picture (made up)"}
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
    assert (status, values["error"]) == (422, r"a\n\x1b<b>: not a picture (made up)")


@over_http()
async def test_names_that_are_no_unicode_can_be_written_as_json(it):
    """Of lone surrogates most readers of JSON make an error."""
    name = b'--b\r\nContent-Disposition: form-data; name=a; filename="caf\xe9.jpg"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    status, values = await it.post(name + ANT + b"\r\n--b--\r\n", headers=kind)
    assert (status, values["files"][0]["name"]) == (200, "caf\ufffd.jpg")


@over_http()
async def test_a_raw_body_is_one_picture(it):
    for kind in ("image/jpeg", "application/octet-stream", "image/x-odd"):
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
    rule = rules.Rule(positive_class="cow", threshold=0.1)
    predictor = Predictor(decode, logits, CLASSES, rule)
    said = describe(predictor, np.log([0.7, 0.1, 0.2]), 1)
    assert (said["decision"], said["predictions"][0]["label"]) == ("cow", "ant")


OURS = {"Origin": "https://a.example", "Sec-Fetch-Site": "same-origin"}
REFUSED = [
    ("GET", "predict", {}, b"", 405, "Method Not Allowed"),
    ("DELETE", "", {}, b"", 405, "Method Not Allowed"),
    ("POST", "healthz", {}, b"", 405, "Method Not Allowed"),
    ("GET", "nothing/here", {}, b"", 404, "Not Found"),
    ("GET", "../../etc/passwd", {}, b"", 404, "Not Found"),
    ("GET", "page.html", {}, b"", 404, "Not Found"),
    ("POST", "predict", {"Content-Type": "text/plain"}, ANT, 415, "multipart/form-data, image/*"),
    ("POST", "predict", {"Content-Type": "application/json"}, b"{}", 415, "application/json"),
    ("POST", "predict", {"Content-Type": "multipart/mixed"}, ANT, 415, "multipart/form-data"),
    ("POST", "predict", {"Content-Type": "multipart/form-data"}, ANT, 400, "broken or cut short"),
    ("POST", "predict", {"Content-Type": "image/png"}, b"", 400, "empty"),
    ("POST", "predict", {"Content-Type": "image/png"}, b"nothing", 422, "body: not a picture"),
    ("POST", "predict", {"Content-Encoding": "gzip"}, ANT, 415, "compressed"),
    ("POST", "predict?top=0", {}, ANT, 400, "top='0'; allowed: a whole number"),
    ("POST", "predict?top=-1", {}, ANT, 400, "allowed: a whole number"),
    ("POST", "predict?top=1.5", {}, ANT, 400, "allowed: a whole number"),
    ("POST", "predict?top=" + "9" * 5000, {}, ANT, 400, "allowed: a whole number"),
    ("POST", "predict?topp=1", {}, ANT, 400, "unknown parameter 'topp'; allowed: top"),
    ("POST", "predict", {"Host": "evil.example"}, ANT, 421, "Host 'evil.example' is not known"),
    ("GET", "", {"Host": "evil.example:80"}, b"", 421, "allowed: localhost"),
    ("GET", "healthz", {"Host": "localhost.evil.example"}, b"", 421, "is not known"),
    ("GET", "healthz", {"Host": "[::1"}, b"", 421, "is not known"),
    ("GET", "healthz", {"Host": "a@localhost@b"}, b"", 421, "is not known"),
    ("POST", "predict", {"Origin": "http://evil.example"}, ANT, 403, "other sites"),
    ("POST", "predict", {"Origin": "null"}, ANT, 403, "other sites"),
    ("POST", "predict", {"Origin": "http://[::1"}, ANT, 403, "other sites"),
    ("POST", "predict", {"Origin": "http://127.0.0.1:1"}, ANT, 403, "other sites"),
    ("POST", "predict", {"Sec-Fetch-Site": "cross-site"}, ANT, 403, "other sites"),
    ("POST", "predict", {"Sec-Fetch-Site": "same-site"}, ANT, 403, "other sites"),
    ("POST", "predict", {"Host": "evil.example", **OURS}, ANT, 421, "--allow_host"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]} {case[1][:20]} {case[4]}")
def test_what_is_refused_says_why_in_a_line(case):
    method, path, headers, body, expected, message = case

    async def main():
        async with running() as it:
            settings = {"data": body or None, "headers": headers}
            async with it.client.request(method, it.address + path, **settings) as response:
                values = await response.json()
            assert response.status == expected, values
            assert message in values["error"]
            assert "\n" not in values["error"]
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            if expected == 405:
                assert response.headers["Allow"]
            assert (await it.form(one=ANT))[0] == 200, "the next one is answered all the same"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost:1", 200),
        ("LocalHost", 200),
        ("127.0.0.1", 200),
        ("[::1]:8501", 200),
        ("192.168.7.7", 200),
        ("known.example", 200),
        ("unknown.example", 421),
        ("", 421),
    ],
)
def test_hosts_are_addresses_and_names_that_are_known(host, expected):
    async def main():
        async with running(names=("localhost", "known.example")) as it:
            async with it.client.get(it.address, headers={"Host": host}) as response:
                assert response.status == expected
            async with it.client.get(it.address, headers={"Origin": "http://other"}) as response:
                assert response.status == 200, "a link from another page is no harm"

    asyncio.run(main())


@over_http()
async def test_the_page_itself_may_post(it):
    for host in (f"127.0.0.1:{it.port}", "localhost"):
        headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        status, _ = await it.post(ANT, headers={**headers, "Content-Type": "image/png"})
        assert status == 200


@over_http()
async def test_the_page_behind_a_proxy_that_gives_another_host_may_post(it):
    """As nginx does by itself; the browser knows where the page came from."""
    headers = {"Host": f"127.0.0.1:{it.port}", **OURS, "Content-Type": "image/png"}
    assert (await it.post(ANT, headers=headers))[0] == 200


@over_http()
async def test_a_request_without_a_host_or_with_two_is_refused(it):
    for head in (b"", b"Host: localhost\r\nHost: 127.0.0.1\r\n"):
        found = await raw(
            it.port, b"GET /healthz HTTP/1.1\r\n" + head + b"Connection: close\r\n\r\n"
        )
        assert re.match(rb"HTTP/1\.[01] 400 ", found)


@over_http()
async def test_http_1_0_knows_no_host(it):
    """Some proxies ask so whether a service is well."""
    found = await raw(it.port, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert found.startswith(b"HTTP/1.0 200 ")
    head = b"POST /predict HTTP/1.0\r\nOrigin: http://evil.example\r\n"
    found = await raw(it.port, head + b"Content-Type: image/png\r\nContent-Length: 4\r\n\r\n" + ANT)
    assert found.startswith(b"HTTP/1.0 403 ")


@over_http(limits=Limits(file_bytes=1000, files=3))
async def test_sizes_and_numbers_are_limited(it):
    status, values = await it.form(large=b"x" * 1001, good=ANT)
    assert status == 200
    assert values["files"][0] == {"name": "large.jpg", "problem": "larger than 0.001 MB"}
    status, values = await it.form(large=b"x" * 1001)
    assert (status, values["error"]) == (422, "large.jpg: larger than 0.001 MB")
    status, values = await it.post(b"x" * 1001)
    assert (status, values["error"]) == (422, "body: larger than 0.001 MB")
    status, values = await it.form(a=ANT, b=ANT, c=ANT, d=ANT)
    assert (status, values["error"]) == (413, "more than 3 files; send them in several requests")
    status, values = await it.post(b"x" * 5000)
    assert status == 413
    assert "the request is larger than 0.004 MB" in values["error"]


@over_http(limits=Limits(file_bytes=1000))
async def test_a_body_without_an_end_is_cut_off(it):
    """In chunks, so that no length says beforehand how much there is."""
    chunk = b"400\r\n" + b"x" * 1024 + b"\r\n"
    head = HEAD + b"Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    found = await raw(it.port, head, *[chunk] * 200)
    assert found.startswith(b"HTTP/1.1 413 ")
    assert it.service._memory.held == 0


@over_http(limits=Limits(files=3))
async def test_lines_before_a_form_are_not_read_without_end(it):
    """They are read one by one, and nobody else would be answered meanwhile."""
    head = HEAD + b"Connection: close\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    whole = b"\n" * 1000 + PART + ANT + b"\r\n--b--\r\n"
    found = await raw(it.port, head + b"Content-Length: %d\r\n\r\n" % len(whole) + whole)
    assert found.startswith(b"HTTP/1.1 400 ")
    assert b"broken or cut short" in found


@over_http(limits=Limits(files=3))
async def test_forms_may_have_a_line_before_them_and_many_heads(it):
    part = b"--b\r\nContent-Disposition: form-data; name=a\r\n" + b"X-Y: z\r\n" * 9 + b"\r\n"
    body = b"\r\n" + (part + ANT + b"\r\n") * 3 + b"--b--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    status, values = await it.post(body, headers=kind)
    assert (status, len(values["files"])) == (200, 3)


@over_http(limits=Limits(seconds=0.5, head_seconds=0.5))
async def test_clients_that_dawdle_are_cut_off(it):
    slowly = functools.partial(raw, it.port, pause=0.2)
    silent, head, body = await asyncio.gather(
        slowly(b""),
        slowly(*[b"POST", b" /pre", b"dict ", b"HTTP", b"/1.1", b"\r\nHo", b"st:", b"l"]),
        slowly(HEAD + b"Content-Type: image/png\r\nContent-Length: 99\r\n\r\n", *[b"x"] * 8),
    )
    assert silent == head == b""
    assert body.startswith(b"HTTP/1.1 408 ")
    assert b"took longer than 0.5 s to arrive" in body
    assert (await it.post(ANT))[0] == 200


@over_http(limits=Limits(idle_seconds=0.3))
async def test_an_idle_connection_is_closed(it):
    request = HEAD.replace(b"POST /predict", b"GET /healthz") + b"\r\n"
    found = await raw(it.port, request)
    assert found.startswith(b"HTTP/1.1 200 ")


@over_http(limits=Limits(connections=3))
async def test_connections_are_limited_and_given_back(it):
    mine = [await asyncio.open_connection("127.0.0.1", it.port) for _ in range(3)]
    await asyncio.sleep(0.1)
    assert await raw(it.port, HEAD) == b""
    for _, writer in mine:
        writer.close()
    await asyncio.sleep(0.1)
    assert (await it.post(ANT))[0] == 200


FORM = HEAD + b"Content-Type: multipart/form-data; boundary=b\r\n"
PART = b'--b\r\nContent-Disposition: form-data; name="a"; filename="a.jpg"\r\n\r\n'
HOSTILE = {
    "a form without its end": (FORM + b"Content-Length: 90\r\n\r\n", PART + b"p123" + b"x" * 17),
    "a form that ends early": (FORM + b"Content-Length: 9999\r\n\r\n", PART + b"p123"),
    "no boundary in it": (FORM + b"Content-Length: 9\r\n\r\n", b"p12345678"),
    "one boundary, then nothing": (FORM + b"Content-Length: 5\r\n\r\n", b"--b\r\n"),
    "the end alone": (FORM + b"Content-Length: 7\r\n\r\n", b"--b--\r\n"),
    "headers of a part without end": (
        FORM + b"Transfer-Encoding: chunked\r\n\r\n",
        b"5\r\n--b\r\n\r\n" + b"0a\r\nX-Y: 123\r\n\r\n" * 500 + b"0\r\n\r\n",
    ),
    "forms within forms": (
        FORM + b"Content-Length: 66\r\n\r\n",
        b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c-",
    ),
    "a boundary of a thousand letters": (
        HEAD + b"Content-Type: multipart/form-data; boundary=" + b"b" * 1000 + b"\r\n",
        b"Content-Length: 4\r\n\r\np123",
    ),
    "a part of an unknown charset": (
        FORM + b"Content-Length: 71\r\n\r\n",
        b'--b\r\nContent-Disposition: form-data; name="_charset_"\r\n\r\n\xff\xff' + b"x" * 60,
    ),
    "a length that is no number": (HEAD + b"Content-Length: many\r\n\r\n", b""),
    "a length below zero": (HEAD + b"Content-Length: -1\r\n\r\n", b""),
    "two lengths": (HEAD + b"Content-Length: 4\r\nContent-Length: 9\r\n\r\n", b"p123"),
    "a length and chunks": (
        HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"0\r\n\r\n",
    ),
    "a chunk of no length": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\nxx\r\n"),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01", b"\xfc\x03\x03" * 100 + b"\r\n\r\n"),
    "a head without end": (HEAD, b"X-A: " + b"y" * 100_000),
    "a thousand heads": (HEAD, b"X-A: y\r\n" * 1000 + b"\r\n"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nonsense_ends_with_a_refusal_and_no_trace(name, capfd):
    async def main():
        limits = Limits(file_bytes=10**6, seconds=1, head_seconds=1, idle_seconds=0.2)
        async with running(limits=limits) as it:
            found = await raw(it.port, *HOSTILE[name])
            assert re.match(rb"HTTP/1\.[01] 4\d\d ", found)
            for trace in (b"Traceback", b".py", b"/home", b"site-packages"):
                assert trace not in found
            assert (await it.post(ANT))[0] == 200
            assert it.service._memory.held == it.service._batcher.held == 0

    asyncio.run(main())
    assert capfd.readouterr() == ("", "")


def test_a_full_queue_is_a_503_that_says_when_to_come_again():
    async def main():
        held = Held()
        async with running(held, pace=dataclasses.replace(PACE, queue=4)) as it:
            first = [asyncio.ensure_future(it.post(ANT)) for _ in range(4)]
            while it.service._batcher.held < 4:
                await asyncio.sleep(0.005)
            async with it.client.post(
                it.address + "predict", data=BEE, headers={"Content-Type": "image/png"}
            ) as response:
                assert response.status == 503
                assert int(response.headers["Retry-After"]) >= 1
                assert "the queue is full" in (await response.json())["error"]
            assert "unfreeze_queue_pictures 4.0" in (await it.get("metrics"))[1]
            held.open.set()
            answers = await asyncio.gather(*first)
            assert [status for status, _ in answers] == [200] * 4
            assert (await it.post(BEE))[0] == 200

    asyncio.run(main())


def test_an_answer_that_takes_too_long_is_given_up():
    async def main():
        held = Held()
        async with running(held, limits=Limits(seconds=0.3)) as it:
            status, values = await it.post(ANT)
            assert (status, values["error"]) == (503, "no answer within 0.3 s; send it again")
            held.open.set()
            assert (await it.post(BEE))[1]["files"][0]["decision"] == "bee"

    asyncio.run(main())


def test_what_fails_in_the_model_stays_here(caplog):
    def predict(images):
        if images[0, 0, 0, 0] == 200:
            raise RuntimeError("/secret/path/model.py broke")
        return logits(images)

    async def main():
        async with running(predict) as it:
            status, values = await it.post(ANT)
            assert (status, values) == (500, {"error": "the service failed over this request"})
            assert (await it.post(BEE))[0] == 200

    asyncio.run(main())
    assert "/secret/path" in caplog.text, "whoever runs the service is told"


def test_a_client_that_goes_away_makes_room():
    async def main():
        held = Held()
        async with running(held, pace=dataclasses.replace(PACE, queue=40)) as it:
            first = asyncio.ensure_future(it.post(BEE))
            await asyncio.to_thread(held.begun.wait, 20)
            gone = [asyncio.ensure_future(it.post(ANT)) for _ in range(20)]
            while it.service._batcher.held < 21:
                await asyncio.sleep(0.005)
            for one in gone:
                one.cancel()
            while it.service._batcher.held > 1:
                await asyncio.sleep(0.005)
            held.open.set()
            assert (await first)[1]["files"][0]["decision"] == "bee"
            assert 'status="499"} 20.0' in (await it.get("metrics"))[1]

    asyncio.run(main())


@pytest.mark.parametrize("kind", [b"image/png", b"multipart/form-data; boundary=b"])
def test_a_client_that_goes_away_amid_its_body_is_no_news(kind, caplog):
    head = HEAD + b"Content-Type: " + kind + b"\r\nContent-Length: 9999\r\n\r\n" + PART + b"p12"

    async def main():
        async with running() as it:
            for _ in range(5):
                _, writer = await asyncio.open_connection("127.0.0.1", it.port)
                writer.write(head)
                await asyncio.sleep(0.05)
                writer.transport.abort()
            while 'status="499"} 5.0' not in (await it.get("metrics"))[1]:
                await asyncio.sleep(0.01)
            assert it.service._memory.held == 0

    asyncio.run(asyncio.wait_for(main(), 60))
    assert not caplog.records


@over_http()
async def test_each_of_many_clients_gets_its_own_answer(it):
    async def one(number):
        levels = (number, 255 - number, number * 7 % 256)
        status, values = await it.post(picture(*levels), path="predict?top=3")
        while status == 503:
            status, values = await it.post(picture(*levels), path="predict?top=3")
        return {row["label"]: row["probability"] for row in values["files"][0]["predictions"]}

    found = await asyncio.gather(*map(one, range(200)))
    for number, answer in enumerate(found):
        wanted = chances(picture(number, 255 - number, number * 7 % 256))
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
    assert samples[("unfreeze_pictures_total", ("outcome", "answered"))] == 2
    assert samples[("unfreeze_pictures_total", ("outcome", "unreadable"))] == 2
    assert samples[("unfreeze_batch_size_sum",)] == 2
    assert samples[("unfreeze_request_seconds_count",)] == 2
    assert samples[("unfreeze_queue_pictures",)] == 0
    for name in ("unfreeze_decode_seconds_total", "unfreeze_model_seconds_total"):
        assert samples[(name,)] > 0


def test_health_says_loading_ready_and_stopping():
    async def main():
        let = threading.Event()
        predictor = Predictor(decode, logits, CLASSES, RULE, {"run": "made", "model": "none"})

        def load():
            assert let.wait(20)
            return predictor, PACE

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
        raise Stopped("SIGTERM")

    async def main():
        async with running(load=load) as it:
            it.stopping.set()
            await asyncio.sleep(0.05)
            stopped.set()
            await asyncio.wait_for(it.ended, 20)

    asyncio.run(main())


def test_memory_is_shared_and_given_back():
    memory = Memory(100)
    with memory.held_by_one() as mine, memory.held_by_one() as theirs:
        mine(60)
        with pytest.raises(RefusalError, match="too many requests"):
            theirs(50)
        theirs(40)
        assert memory.held == 100
    assert memory.held == 0


@over_http(limits=Limits(file_bytes=1000))
async def test_bodies_that_lie_in_memory_are_limited_in_all(it):
    """Each within its own limit, and none of them ends; nothing of them is kept afterwards."""
    many = HELD_REQUESTS * 4 + 3
    head = HEAD + b"Content-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
    slow = [await asyncio.open_connection("127.0.0.1", it.port) for _ in range(many)]
    for _, writer in slow:
        writer.write(head + b"x" * 990)
    while it.service._memory.held < 0.9 * it.service._memory.most:
        await asyncio.sleep(0.01)
    assert it.service._memory.held <= it.service._memory.most
    refused = await asyncio.wait_for(slow[-1][0].read(12), 20)
    assert refused == b"HTTP/1.1 503"
    for _, writer in slow:
        writer.close()
    while it.service._memory.held:
        await asyncio.sleep(0.01)
    assert (await it.post(ANT))[0] == 200
