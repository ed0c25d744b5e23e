"""The notices of two clouds, played by a small server on this machine."""

from __future__ import annotations

import queue
import socket
import threading
import time

import pytest

from engine.runtime import preemption
from tests.engine.runtime.metadata_server import NOTHING, TOKEN, Answer, serving, token

INTERRUPTION = '{"action": "terminate", "time": "2026-09-18T08:22:00Z"}'
Notices = queue.Queue


class Aws:
    """As in the EC2 user guide: 404 as long as there is no notice. taken: whether there is one."""

    taken = False

    def __call__(self, request) -> Answer:
        if (request.command, request.path) == ("PUT", "/latest/api/token"):
            return token(request)
        if request.headers.get("X-aws-ec2-metadata-token") != TOKEN:
            return 401, "Unauthorized", {}
        if request.path == "/latest/meta-data/spot/instance-action" and self.taken:
            return 200, INTERRUPTION, {}
        return NOTHING


class Google:
    """As in the Compute Engine documentation: TRUE or FALSE."""

    taken = False

    def __call__(self, request) -> Answer:
        if request.headers.get("Metadata-Flavor") != "Google":
            return 403, "Missing Metadata-Flavor:Google header.", {}
        if request.path == "/computeMetadata/v1/instance/preempted":
            return 200, str(self.taken).upper(), {"Metadata-Flavor": "Google"}
        return NOTHING


CLOUDS = pytest.mark.parametrize(("service", "name"), [(Aws(), "AWS"), (Google(), "Google")])


@CLOUDS
def test_notice_is_passed_on_when_it_comes(service, name):
    notices: Notices = queue.Queue()
    service.taken = False
    with serving(service) as (address, asked):
        assert preemption.watch(notices.put, address, poll_seconds=0.01) == [name]
        while len(asked) < 6:
            assert notices.empty()
        service.taken = True
        assert notices.get(timeout=60) == f"{name}'s preemption notice"


@CLOUDS
def test_notice_present_at_the_start_is_passed_on(service, name):
    notices: Notices = queue.Queue()
    service.taken = True
    with serving(service) as (address, _):
        preemption.watch(notices.put, address, poll_seconds=60)
        assert name in notices.get(timeout=60)


def test_polling_goes_on_where_no_cloud_answers():
    notices: Notices = queue.Queue()
    aws = Aws()
    aws.taken = True
    here = threading.Event()
    with serving(lambda request: aws(request) if here.is_set() else NOTHING) as (address, asked):
        assert preemption.watch(notices.put, address, poll_seconds=0.01) == []
        while len(asked) < 10:  # it goes on asking
            assert notices.empty()
        here.set()  # so that it ends with this test
        notices.get(timeout=60)


@pytest.mark.parametrize("status", [400, 401, 403, 500, 503])
def test_service_with_an_error_has_not_answered(status):
    aws = Aws()

    def service(request) -> Answer:
        if request.command == "GET" and not aws.taken:
            return status, "", {}
        return aws(request)

    notices: Notices = queue.Queue()
    with serving(service) as (address, _):
        assert preemption.watch(notices.put, address, poll_seconds=0.01) == []
        aws.taken = True
        assert "AWS" in notices.get(timeout=60)


@pytest.mark.parametrize("drop", [b"a", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_endless_answer_ends_at_the_deadline(drop, monkeypatch):
    """Each of its bytes is in time."""
    monkeypatch.setattr(preemption, "_TIMEOUT_SECONDS", 0.2)
    left: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        drip = threading.Thread(target=_drip, args=(server, drop, left), daemon=True)
        drip.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert preemption._poll_clouds(address) == {}
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


def test_service_that_is_unavailable_at_first_is_polled_again():
    notices: Notices = queue.Queue()
    aws = Aws()
    aws.taken = True
    calls = iter(range(10**6))

    def away_at_first(request) -> Answer:
        return (503, "", {}) if next(calls) < 4 else aws(request)

    with serving(away_at_first) as (address, _):
        assert preemption.watch(notices.put, address, poll_seconds=0.01) == []
        assert "AWS" in notices.get(timeout=60)
