"""Requests to a metadata service: direct, in time, validated; and the notices of two clouds."""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
import time

import pytest

from engine.runtime import cloud_metadata
from tests.engine.runtime.metadata_server import NOTHING, TOKEN, Answer, serving, token

TIMEOUT_SECONDS = 20.0  # never reached where somebody answers


def request_to(address: str) -> cloud_metadata.Request:
    return cloud_metadata.requester(time.monotonic() + TIMEOUT_SECONDS, address)


def name(address: str) -> str:
    return request_to(address)("GET", "/name", {})


@pytest.mark.parametrize("status", [201, 304, 404, 500])
def test_answer_with_another_status_than_200_is_refused(status):
    with serving(lambda request: (status, "g6.xlarge", {})) as (address, _):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the kind of error is what counts)
            name(address)
        assert isinstance(caught.value, cloud_metadata.NotFoundError) == (status == 404)


def test_answer_longer_than_the_limit_is_refused():
    longest = "x" * (cloud_metadata.MAX_ANSWER_BYTES - 1)
    with serving(lambda request: (200, f"{longest}\n", {})) as (address, _):
        assert name(address) == longest
    with (
        serving(lambda request: (200, f"{longest}xx", {})) as (address, _),
        pytest.raises(ValueError, match="not an answer"),
    ):
        name(address)


@pytest.mark.parametrize("text", ["token\r\nHost: elsewhere", "<html>", "two words", ""])
def test_aws_token_with_unexpected_characters_is_refused(text):
    with (
        serving(lambda request: (200, text, {})) as (address, _),
        pytest.raises(ValueError, match="unexpected characters"),
    ):
        cloud_metadata.aws_token(request_to(address))


def test_redirects_are_not_followed():
    with serving(lambda request: (200, "elsewhere", {})) as (elsewhere, requests):
        moved = {"Location": f"http://{elsewhere}/name"}
        with (
            serving(lambda request: (302, "", moved)) as (address, _),
            pytest.raises(ValueError, match="not an answer"),
        ):
            name(address)
    assert not requests


def test_proxies_are_ignored(monkeypatch):
    with (
        serving(lambda request: (200, "proxy", {})) as (proxy, requests),
        serving(lambda request: (200, "g6.xlarge", {})) as (address, _),
    ):
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(variable, f"http://{proxy}")
        monkeypatch.delenv("no_proxy", raising=False)
        assert name(address) == "g6.xlarge"
    assert not requests


def test_server_without_http_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TIMEOUT_SECONDS)

        def greet() -> None:
            connection, _ = server.accept()
            connection.sendall(b"220 mail.example.org ESMTP\r\n")
            connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(cloud_metadata.UNAVAILABLE_ERRORS):
            name(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def test_closed_port_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        name(f"127.0.0.1:{port}")


def test_no_request_is_sent_after_the_deadline():
    with (
        serving(lambda request: (200, "late", {})) as (address, requests),
        pytest.raises(TimeoutError),
    ):
        cloud_metadata.requester(time.monotonic() - 1, address)("GET", "/name", {})
    assert not requests


def test_address_is_link_local():
    assert ipaddress.ip_address(cloud_metadata.ADDRESS).is_link_local


INTERRUPTION = '{"action": "terminate", "time": "2026-09-18T08:22:00Z"}'
Notices = queue.Queue


class Aws:
    """As in the EC2 user guide: 404 as long as there is no notice."""

    preempted = False

    def __call__(self, request) -> Answer:
        if (request.command, request.path) == ("PUT", "/latest/api/token"):
            return token(request)
        if request.headers.get("X-aws-ec2-metadata-token") != TOKEN:
            return 401, "Unauthorized", {}
        if request.path == "/latest/meta-data/spot/instance-action" and self.preempted:
            return 200, INTERRUPTION, {}
        return NOTHING


class Google:
    """As in the Compute Engine documentation: TRUE or FALSE."""

    preempted = False

    def __call__(self, request) -> Answer:
        if request.headers.get("Metadata-Flavor") != "Google":
            return 403, "Missing Metadata-Flavor:Google header.", {}
        if request.path == "/computeMetadata/v1/instance/preempted":
            return 200, str(self.preempted).upper(), {"Metadata-Flavor": "Google"}
        return NOTHING


CLOUDS = pytest.mark.parametrize(("service", "name"), [(Aws(), "AWS"), (Google(), "Google")])


@CLOUDS
def test_notice_is_passed_on_when_it_comes(service, name):
    notices: Notices = queue.Queue()
    service.preempted = False
    with serving(service) as (address, requests):
        assert cloud_metadata.watch_preemption(notices.put, address, poll_seconds=0.01) == [name]
        while len(requests) < 6:
            assert notices.empty()
        service.preempted = True
        assert notices.get(timeout=60) == f"{name}'s preemption notice"


@CLOUDS
def test_notice_present_at_the_start_is_passed_on(service, name):
    notices: Notices = queue.Queue()
    service.preempted = True
    with serving(service) as (address, _):
        cloud_metadata.watch_preemption(notices.put, address, poll_seconds=60)
        assert name in notices.get(timeout=60)


@pytest.mark.parametrize("status", [400, 401, 404, 503])
def test_service_that_is_unavailable_at_first_is_polled_again(status):
    notices: Notices = queue.Queue()
    aws, here = Aws(), threading.Event()
    aws.preempted = True

    def service(request) -> Answer:
        return aws(request) if here.is_set() else (status, "", {})

    with serving(service) as (address, requests):
        assert cloud_metadata.watch_preemption(notices.put, address, poll_seconds=0.01) == []
        while len(requests) < 10:
            assert notices.empty()
        here.set()
        assert "AWS" in notices.get(timeout=60)


@pytest.mark.parametrize("drop", [b"a", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_endless_answer_ends_at_the_deadline(drop, monkeypatch):
    """Each of its bytes is in time."""
    monkeypatch.setattr(cloud_metadata, "POLL_TIMEOUT_SECONDS", 0.2)
    left: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        drip = threading.Thread(target=_drip, args=(server, drop, left), daemon=True)
        drip.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert cloud_metadata._poll_clouds(address) == {}
        drip.join()
    assert left == ["before the end", "before the end"]


def _drip(server: socket.socket, drop: bytes, left: list[str]) -> None:
    """Answers two questions for a long time; notes who goes away before that is over."""
    for _ in range(2):
        with server.accept()[0] as connection:
            try:
                for _ in range(1000):
                    connection.sendall(drop)
                    time.sleep(0.01)
            except OSError:
                left.append("before the end")
