"""How a metadata service is asked: directly, in time, and its answers are looked at."""

from __future__ import annotations

import ipaddress
import socket
import threading
import time

import pytest

from engine.runtime import cloud_metadata
from tests.engine.runtime.metadata_server import TOKEN, serving, token

PATIENT = 20.0  # never waited for where somebody answers


def asking(address: str) -> cloud_metadata.Request:
    return cloud_metadata.requester(time.monotonic() + PATIENT, address)


def name(address: str) -> str:
    return asking(address)("GET", "/name", {})


def test_the_text_of_an_answer_comes_without_the_spaces_around_it():
    with serving(lambda request: (200, " g6.xlarge\n", {})) as (address, asked):
        assert name(address) == "g6.xlarge"
    assert asked == ["/name"]


@pytest.mark.parametrize("status", [201, 204, 304, 400, 401, 404, 500])
def test_only_an_answer_that_succeeded_counts(status):
    with serving(lambda request: (status, "g6.xlarge", {})) as (address, _):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the kind of error is what counts)
            name(address)
        assert isinstance(caught.value, cloud_metadata.NotFoundError) == (status == 404)


def test_an_answer_may_be_as_long_as_the_limit_and_no_longer():
    longest = "x" * cloud_metadata.MAX_ANSWER_BYTES
    with serving(lambda request: (200, longest, {})) as (address, _):
        assert name(address) == longest
    with (
        serving(lambda request: (200, longest + "x", {})) as (address, _),
        pytest.raises(ValueError, match="no answer"),
    ):
        name(address)


def test_amazons_token_is_sent_on():
    with serving(token) as (address, _):
        assert cloud_metadata.aws_token(asking(address)) == {"X-aws-ec2-metadata-token": TOKEN}


@pytest.mark.parametrize("text", ["token\r\nHost: elsewhere", "<html>", "two words", ""])
def test_an_odd_one_is_not(text):
    with (
        serving(lambda request: (200, text, {})) as (address, _),
        pytest.raises(ValueError, match="odd characters"),
    ):
        cloud_metadata.aws_token(asking(address))


def test_google_is_asked_in_its_own_way():
    def service(request):
        return 200, request.headers.get("Metadata-Flavor"), {}

    with serving(service) as (address, asked):
        assert cloud_metadata.google_value(asking(address), "preempted") == "Google"
    assert asked == ["/computeMetadata/v1/instance/preempted"]


def test_redirects_are_not_followed():
    with serving(lambda request: (200, "elsewhere", {})) as (elsewhere, asked):
        moved = {"Location": f"http://{elsewhere}/name"}
        with (
            serving(lambda request: (302, "", moved)) as (address, _),
            pytest.raises(ValueError, match="no answer"),
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


def test_what_speaks_no_http_is_no_cloud():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENT)

        def greet() -> None:
            connection, _ = server.accept()
            connection.sendall(b"220 mail.example.org ESMTP\r\n")
            connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(cloud_metadata.UNAVAILABLE_ERRORS):
            name(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        name(f"127.0.0.1:{port}")


def test_after_the_deadline_nobody_is_asked():
    with (
        serving(lambda request: (200, "late", {})) as (address, asked),
        pytest.raises(TimeoutError),
    ):
        cloud_metadata.requester(time.monotonic() - 1, address)("GET", "/name", {})
    assert not asked


def test_the_address_of_the_clouds_is_link_local():
    assert ipaddress.ip_address(cloud_metadata.ADDRESS).is_link_local
