"""Who may ask the service, over real connections, and what it refuses."""

from __future__ import annotations

import asyncio
import re

import pytest

from engine.serving.limits import Limits
from tests.engine.serving.made import (
    ANT,
    HEAD,
    PART,
    over_http,
    raw,
    running,
)

OURS = {"Origin": "https://a.example", "Sec-Fetch-Site": "same-origin"}
FORM = "application/x-www-form-urlencoded"
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
    ("POST", "predict", {"Content-Type": "image/png"}, b"nothing", 422, "body: not an image"),
    ("POST", "predict", {"Content-Type": FORM}, b"a=b", 422, "body: not an image"),
    ("POST", "predict", {"Content-Type": FORM, "Origin": "null"}, ANT, 403, "other sites"),
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


FORM = HEAD + b"Content-Type: multipart/form-data; boundary=b\r\n"
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
