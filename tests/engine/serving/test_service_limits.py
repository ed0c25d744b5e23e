"""Limits of the service over real connections: large, slow and disconnected clients."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import resource
import socket
import threading

import aiohttp
import pytest

from engine.core.errors import UserError
from engine.serving import batcher
from engine.serving.limits import MAX_REQUESTS_IN_MEMORY, SPARE_FILES, Limits
from tests.engine.serving.running_service import (
    ANT,
    BEE,
    HEAD,
    PART,
    BlockedModel,
    send_raw,
    with_service,
)


@with_service(limits=Limits(file_bytes=1000, files=3))
async def test_file_size_and_number_of_files_are_limited(service):
    status, values = await service.form(large=b"x" * 1001, good=ANT)
    assert status == 200
    assert values["files"][0] == {"name": "large.jpg", "problem": "larger than 0.001 MB"}
    status, values = await service.form(large=b"x" * 1001)
    assert (status, values["error"]) == (422, "large.jpg: larger than 0.001 MB")
    status, values = await service.post(b"x" * 1001)
    assert (status, values["error"]) == (422, "body: larger than 0.001 MB")
    status, values = await service.form(a=ANT, b=ANT, c=ANT, d=ANT)
    assert (status, values["error"]) == (413, "more than 3 files; send them in several requests")
    status, values = await service.post(b"x" * 5000)
    assert status == 413
    assert "the request is larger than 0.004 MB" in values["error"]


@with_service(limits=Limits(file_bytes=1000))
async def test_endless_body_is_cut_off(service):
    """In chunks, without a Content-Length."""
    chunk = b"400\r\n" + b"x" * 1024 + b"\r\n"
    head = HEAD + b"Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = await send_raw(service.port, head, *[chunk] * 200)
    assert response.startswith(b"HTTP/1.1 413 ")
    assert service.service._memory.used == 0


@with_service(limits=Limits(files=3))
async def test_lines_before_form_are_limited(service):
    """Reading them would block the event loop."""
    head = HEAD + b"Connection: close\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    whole = b"\n" * 1000 + PART + ANT + b"\r\n--b--\r\n"
    response = await send_raw(
        service.port, head + b"Content-Length: %d\r\n\r\n" % len(whole) + whole
    )
    assert response.startswith(b"HTTP/1.1 400 ")
    assert b"broken or cut short" in response


@with_service(limits=Limits(files=3))
async def test_form_with_preamble_and_many_headers_is_accepted(service):
    part = b"--b\r\nContent-Disposition: form-data; name=a\r\n" + b"X-Y: z\r\n" * 9 + b"\r\n"
    body = b"\r\n" + (part + ANT + b"\r\n") * 3 + b"--b--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    status, values = await service.post(body, headers=kind)
    assert (status, len(values["files"])) == (200, 3)


@with_service(limits=Limits(seconds=0.5, idle_seconds=0.5))
async def test_slow_clients_are_disconnected(service):
    slowly = functools.partial(send_raw, service.port, pause=0.2)
    silent, head, body = await asyncio.gather(
        slowly(b""),
        slowly(*[b"POST", b" /pre", b"dict ", b"HTTP", b"/1.1", b"\r\nHo", b"st:", b"l"]),
        slowly(HEAD + b"Content-Type: image/png\r\nContent-Length: 99\r\n\r\n", *[b"x"] * 8),
    )
    assert silent == head == b""
    assert body.startswith(b"HTTP/1.1 408 ")
    assert b"took longer than 0.5 s to arrive" in body
    assert (await service.post(ANT))[0] == 200


@with_service(limits=Limits(idle_seconds=0.3))
async def test_idle_connection_is_closed(service):
    request = HEAD.replace(b"POST /predict", b"GET /healthz") + b"\r\n"
    response = await send_raw(service.port, request)
    assert response.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", [b"/healthz", b"/page.js"])
@with_service(limits=Limits(idle_seconds=0.3, connections=3))
async def test_clients_that_do_not_read_are_disconnected(service, path):
    request = b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    clients = [socket.socket() for _ in range(3)]
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", service.port))
        client.setblocking(False)
        client.send(request * 1000)
    await asyncio.sleep(0.1)
    assert await send_raw(service.port, HEAD) == b"", "the limit of connections is not reached"
    status = None
    while status != 200:
        await asyncio.sleep(0.05)
        with contextlib.suppress(aiohttp.ClientError):
            status, _ = await service.post(ANT)
    for client in clients:
        client.close()


@with_service(limits=Limits(connections=3))
async def test_connections_of_a_burst_are_limited(service):
    clients = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(50)]
    await asyncio.sleep(0.1)
    request = HEAD.replace(b"POST /predict", b"GET /healthz") + b"Connection: close\r\n\r\n"
    for client in clients:
        client.setblocking(False)
        with contextlib.suppress(ConnectionError):
            client.send(request)
    await asyncio.sleep(0.3)
    responses = 0
    for client in clients:
        with client, contextlib.suppress(ConnectionError):
            responses += client.recv(12) == b"HTTP/1.1 200"
    assert responses == 3


@with_service(limits=Limits(connections=3))
async def test_connections_are_limited_and_released(service):
    clients = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(3)]
    await asyncio.sleep(0.1)
    assert await send_raw(service.port, HEAD) == b""
    for _, writer in clients:
        writer.close()
    await asyncio.sleep(0.1)
    assert (await service.post(ANT))[0] == 200


@with_service(limits=Limits(connections=3))
async def test_client_with_all_connections_makes_way_for_another(service):
    holders = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(3)]
    await asyncio.sleep(0.1)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", service.port, local_addr=("127.0.0.2", 0)
    )
    writer.write(HEAD.replace(b"POST /predict", b"GET /healthz") + b"\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    with contextlib.suppress(ConnectionError):
        assert await holders[0][0].read() == b"", "the oldest is not closed"
    for _, other in (*holders, (reader, writer)):
        other.close()


def test_connections_are_no_more_than_files_that_may_be_open(monkeypatch):
    def limit(files: int) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))

    opened = len(os.listdir("/proc/self/fd"))
    limit(opened + SPARE_FILES + 10)
    assert 5 <= Limits().connections_allowed() <= 15
    limit(resource.RLIM_INFINITY)
    assert Limits(connections=7).connections_allowed() == 7
    limit(20)
    with pytest.raises(UserError, match=r"at most 20 files.*ulimit -n 1024"):
        Limits().connections_allowed()


@with_service()
async def test_health_is_busy_while_no_decoder_becomes_free(service, monkeypatch):
    monkeypatch.setattr(batcher, "STALL_SECONDS", 0.05)
    free, decode = threading.Event(), service.service._batcher._decode
    service.service._batcher._decode = lambda contents: free.wait(20) and decode(contents)
    requests = [asyncio.ensure_future(service.post(ANT)) for _ in range(3)]
    while (await service.get("healthz"))[0] == 200:
        await asyncio.sleep(0.01)
    status, text, _ = await service.get("healthz")
    assert (status, json.loads(text)["status"]) == (503, "busy")
    free.set()
    assert [status for status, _ in await asyncio.gather(*requests)] == [200] * 3
    assert (await service.get("healthz"))[0] == 200


@with_service(BlockedModel, max_queue_size=4)
async def test_full_queue_returns_503_with_retry_after(service):
    first = [asyncio.ensure_future(service.post(ANT)) for _ in range(4)]
    await service.queue_of(4)
    async with service.client.post(
        service.address + "predict", data=BEE, headers={"Content-Type": "image/png"}
    ) as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) >= 1
        assert "the queue is full" in (await response.json())["error"]
    assert "unfreeze_queue_images 4.0" in (await service.get("metrics"))[1]
    service.predict.open.set()
    assert [status for status, _ in await asyncio.gather(*first)] == [200] * 4
    assert (await service.post(BEE))[0] == 200


@with_service(BlockedModel, limits=Limits(seconds=0.3))
async def test_slow_prediction_returns_503(service):
    status, values = await service.post(ANT)
    assert (status, values["error"]) == (503, "no result within 0.3 s; retry")
    service.predict.open.set()
    assert (await service.post(BEE))[1]["files"][0]["decision"] == "bee"


@with_service(BlockedModel, max_queue_size=40)
async def test_disconnected_clients_free_the_queue(service):
    """A batch on the device is finished, and other clients get their predictions."""
    first = asyncio.ensure_future(service.post(BEE))
    await asyncio.to_thread(service.predict.started.wait, 20)
    cancelled = [asyncio.ensure_future(service.post(ANT)) for _ in range(20)]
    await service.queue_of(21)
    others = [asyncio.ensure_future(service.form(a=BEE, b=BEE)) for _ in range(2)]
    await service.queue_of(25)
    for one in cancelled:
        one.cancel()
    await service.queue_of(5)
    service.predict.open.set()
    for one in (first, *others):
        assert (await one)[1]["files"][-1]["decision"] == "bee"
    assert sum(service.predict.batches) == 5
    assert 'status="499"} 20.0' in (await service.get("metrics"))[1]


@pytest.mark.parametrize("kind", [b"image/png", b"multipart/form-data; boundary=b"])
@with_service()
async def test_client_disconnected_within_body_logs_nothing(service, kind, caplog):
    head = HEAD + b"Content-Type: " + kind + b"\r\nContent-Length: 9999\r\n\r\n" + PART + b"p12"
    for _ in range(5):
        _, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(head)
        await asyncio.sleep(0.05)
        writer.transport.abort()
    while 'status="499"} 5.0' not in (await service.get("metrics"))[1]:
        await asyncio.sleep(0.01)
    assert service.service._memory.used == 0
    assert not caplog.records


@with_service(limits=Limits(file_bytes=1000))
async def test_memory_of_all_bodies_is_limited(service):
    """Each is within its own limit and incomplete; all memory is released at the end."""
    many = MAX_REQUESTS_IN_MEMORY * 4 + 3
    head = HEAD + b"Content-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
    slow = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(many)]
    for _, writer in slow:
        writer.write(head + b"x" * 990)
    while service.service._memory.used < 0.9 * service.service._memory.max_bytes:
        await asyncio.sleep(0.01)
    assert service.service._memory.used <= service.service._memory.max_bytes
    refused = await asyncio.wait_for(slow[-1][0].read(12), 20)
    assert refused == b"HTTP/1.1 503"
    for _, writer in slow:
        writer.close()
    while service.service._memory.used:
        await asyncio.sleep(0.01)
    assert (await service.post(ANT))[0] == 200
