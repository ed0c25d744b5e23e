"""Refused requests over real connections: hosts, other sites, malformed HTTP."""

from __future__ import annotations

import re

import pytest

from engine.serving.limits import Limits
from tests.engine.serving.running_service import ANT, HEAD, PART, send_raw, with_service

OWN_PAGE = {"Origin": "https://a.example", "Sec-Fetch-Site": "same-origin"}
FORM = "application/x-www-form-urlencoded"
REFUSED = [
    ("GET", "predict", {}, b"", 405, "Method Not Allowed"),
    ("POST", "healthz", {}, b"", 405, "Method Not Allowed"),
    ("GET", "nothing/here", {}, b"", 404, "Not Found"),
    ("GET", "../../etc/passwd", {}, b"", 404, "Not Found"),
    ("POST", "predict", {"Content-Type": "text/plain"}, ANT, 415, "multipart/form-data, image/*"),
    ("POST", "predict", {"Content-Type": "multipart/mixed"}, ANT, 415, "multipart/form-data"),
    ("POST", "predict", {"Content-Type": "multipart/form-data"}, ANT, 400, "broken or cut short"),
    ("POST", "predict", {"Content-Type": "image/png"}, b"", 400, "empty"),
    ("POST", "predict", {"Content-Type": "image/png"}, b"nothing", 422, "body: not an image"),
    ("POST", "predict", {"Content-Type": FORM}, b"a=b", 422, "body: not an image"),
    ("POST", "predict", {"Content-Type": FORM, "Origin": "null"}, ANT, 403, "other sites"),
    ("POST", "predict", {"Content-Encoding": "gzip"}, ANT, 415, "compressed"),
    ("POST", "predict?top_k=0", {}, ANT, 400, "top_k='0'; allowed: a whole number"),
    ("POST", "predict?top_k=1.5", {}, ANT, 400, "allowed: a whole number"),
    ("POST", "predict?top_k=" + "9" * 5000, {}, ANT, 400, "allowed: a whole number"),
    ("POST", "predict?top_kk=1", {}, ANT, 400, "unknown parameter 'top_kk'; allowed: top_k"),
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
    ("POST", "predict", {"Host": "evil.example", **OWN_PAGE}, ANT, 421, "--allow_host"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: f"{case[0]} {case[1][:20]} {case[4]}")
@with_service()
async def test_refused_request_gets_one_line_error(service, case):
    method, path, headers, body, expected, message = case
    settings = {"data": body or None, "headers": headers}
    async with service.client.request(method, service.address + path, **settings) as response:
        values = await response.json()
    assert response.status == expected, values
    assert message in values["error"]
    assert "\n" not in values["error"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    if expected == 405:
        assert response.headers["Allow"]
    assert (await service.form(one=ANT))[0] == 200, "the next request succeeds"


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
@with_service(names=("localhost", "known.example"))
async def test_host_must_be_address_or_known_name(service, host, expected):
    async with service.client.get(service.address, headers={"Host": host}) as response:
        assert response.status == expected


@with_service()
async def test_link_of_other_page_is_followed(service):
    async with service.client.get(service.address, headers={"Origin": "http://other"}) as response:
        assert response.status == 200


@with_service()
async def test_own_page_may_post(service):
    """Also behind a proxy, as nginx by default: only the browser knows the page's site then."""
    address, kind = f"127.0.0.1:{service.port}", {"Content-Type": "image/png"}
    for host in (address, "localhost"):
        own = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        assert (await service.post(ANT, headers=own | kind))[0] == 200
        del own["Sec-Fetch-Site"]
        assert (await service.post(ANT, headers=own | kind))[0] == 200
    assert (await service.post(ANT, headers={"Host": address, **OWN_PAGE, **kind}))[0] == 200


@with_service()
async def test_missing_or_duplicate_host_is_refused(service):
    for head in (b"", b"Host: localhost\r\nHost: 127.0.0.1\r\n"):
        response = await send_raw(
            service.port, b"GET /healthz HTTP/1.1\r\n" + head + b"Connection: close\r\n\r\n"
        )
        assert re.match(rb"HTTP/1\.[01] 400 ", response)


@with_service()
async def test_http_1_0_needs_no_host(service):
    """Some proxies check the health of a service so."""
    response = await send_raw(service.port, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert response.startswith(b"HTTP/1.0 200 ")
    head = b"POST /predict HTTP/1.0\r\nOrigin: http://evil.example\r\n"
    response = await send_raw(
        service.port, head + b"Content-Type: image/png\r\nContent-Length: 4\r\n\r\n" + ANT
    )
    assert response.startswith(b"HTTP/1.0 403 ")


FORM_HEAD = HEAD + b"Content-Type: multipart/form-data; boundary=b\r\n"
HOSTILE = {
    "a form without its end": (
        FORM_HEAD + b"Content-Length: 90\r\n\r\n",
        PART + b"p123" + b"x" * 17,
    ),
    "a form that ends early": (FORM_HEAD + b"Content-Length: 9999\r\n\r\n", PART + b"p123"),
    "no boundary in it": (FORM_HEAD + b"Content-Length: 9\r\n\r\n", b"p12345678"),
    "one boundary, then nothing": (FORM_HEAD + b"Content-Length: 5\r\n\r\n", b"--b\r\n"),
    "the end alone": (FORM_HEAD + b"Content-Length: 7\r\n\r\n", b"--b--\r\n"),
    "headers of a part without end": (
        FORM_HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        b"5\r\n--b\r\n\r\n" + b"0a\r\nX-Y: 123\r\n\r\n" * 500 + b"0\r\n\r\n",
    ),
    "forms within forms": (
        FORM_HEAD + b"Content-Length: 66\r\n\r\n",
        b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c-",
    ),
    "a boundary of a thousand letters": (
        HEAD + b"Content-Type: multipart/form-data; boundary=" + b"b" * 1000 + b"\r\n",
        b"Content-Length: 4\r\n\r\np123",
    ),
    "a part of an unknown charset": (
        FORM_HEAD + b"Content-Length: 71\r\n\r\n",
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
@with_service(limits=Limits(file_bytes=10**6, seconds=1, idle_seconds=0.5))
async def test_malformed_request_is_refused_without_traceback(service, name, capfd):
    response = await send_raw(service.port, *HOSTILE[name])
    assert re.match(rb"HTTP/1\.[01] 4\d\d ", response)
    for detail in (b"Traceback", b".py", b"/home", b"site-packages"):
        assert detail not in response
    assert (await service.post(ANT))[0] == 200
    assert service.service._memory.used == service.service._batcher.queued == 0
    assert capfd.readouterr() == ("", "")
