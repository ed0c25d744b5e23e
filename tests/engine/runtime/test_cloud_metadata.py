"""Requests to a metadata service: direct, in time, and with validated answers."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time

import pytest

from engine.runtime import cloud_metadata
from tests.engine.runtime.metadata_server import TOKEN, serving, token

TIMEOUT_SECONDS = 20.0  # never reached where somebody answers


def request_to(address: str) -> cloud_metadata.Request:
    return cloud_metadata.requester(time.monotonic() + TIMEOUT_SECONDS, address)


def name(address: str) -> str:
    return request_to(address)("GET", "/name", {})


def test_answer_is_stripped():
    with serving(lambda request: (200, " g6.xlarge\n", {})) as (address, asked):
        assert name(address) == "g6.xlarge"
    assert asked == ["/name"]


@pytest.mark.parametrize("status", [201, 204, 304, 400, 401, 404, 500])
def test_answer_with_another_status_than_200_is_refused(status):
    with serving(lambda request: (status, "g6.xlarge", {})) as (address, _):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the kind of error is what counts)
            name(address)
        assert isinstance(caught.value, cloud_metadata.NotFoundError) == (status == 404)


def test_answer_longer_than_the_limit_is_refused():
    longest = "x" * cloud_metadata.MAX_ANSWER_BYTES
    with serving(lambda request: (200, longest, {})) as (address, _):
        assert name(address) == longest
    with (
        serving(lambda request: (200, longest + "x", {})) as (address, _),
        pytest.raises(ValueError, match="not an answer"),
    ):
        name(address)


def test_aws_token_is_returned_as_a_header():
    with serving(token) as (address, _):
        assert cloud_metadata.aws_token(request_to(address)) == {"X-aws-ec2-metadata-token": TOKEN}


@pytest.mark.parametrize("text", ["token\r\nHost: elsewhere", "<html>", "two words", ""])
def test_aws_token_with_unexpected_characters_is_refused(text):
    with (
        serving(lambda request: (200, text, {})) as (address, _),
        pytest.raises(ValueError, match="unexpected characters"),
    ):
        cloud_metadata.aws_token(request_to(address))


def test_google_value_is_requested_with_its_header():
    def service(request):
        return 200, request.headers.get("Metadata-Flavor"), {}

    with serving(service) as (address, asked):
        assert cloud_metadata.google_value(request_to(address), "preempted") == "Google"
    assert asked == ["/computeMetadata/v1/instance/preempted"]


def test_redirects_are_not_followed():
    with serving(lambda request: (200, "elsewhere", {})) as (elsewhere, asked):
        moved = {"Location": f"http://{elsewhere}/name"}
        with (
            serving(lambda request: (302, "", moved)) as (address, _),
            pytest.raises(ValueError, match="not an answer"),
        ):
            name(address)
    assert not asked


def test_proxies_are_ignored(monkeypatch):
    with (
        serving(lambda request: (200, "proxy", {})) as (proxy, asked),
        serving(lambda request: (200, "g6.xlarge", {})) as (address, _),
    ):
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(variable, f"http://{proxy}")
        monkeypatch.delenv("no_proxy", raising=False)
        assert name(address) == "g6.xlarge"
    assert not asked


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
        serving(lambda request: (200, "late", {})) as (address, asked),
        pytest.raises(TimeoutError),
    ):
        cloud_metadata.requester(time.monotonic() - 1, address)("GET", "/name", {})
    assert not asked


def test_address_is_link_local():
    assert ipaddress.ip_address(cloud_metadata.ADDRESS).is_link_local
