"""The service over real connections: clients that ask too much, dawdle, or go away."""

from __future__ import annotations

import asyncio
import dataclasses
import functools

import pytest

from engine.serving.limits import HELD_REQUESTS, Limits, Memory, RefusalError
from tests.engine.serving.made import (
    ANT,
    BEE,
    HEAD,
    PACE,
    PART,
    Held,
    over_http,
    raw,
    running,
)


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
            assert "unfreeze_queue_images 4.0" in (await it.get("metrics"))[1]
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
