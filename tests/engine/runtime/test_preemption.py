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
Notified = queue.Queue


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
def test_a_notice_is_passed_on_once_it_is_given(service, name):
    told: Notified = queue.Queue()
    service.taken = False
    with serving(service) as (address, asked):
        assert preemption.watch(told.put, address, every=0.01) == [name]
        while len(asked) < 6:
            assert told.empty()
        service.taken = True
        assert told.get(timeout=60) == f"{name}'s notice that it takes the machine away"


@CLOUDS
def test_one_that_stands_there_from_the_start_is_too(service, name):
    told: Notified = queue.Queue()
    service.taken = True
    with serving(service) as (address, _):
        preemption.watch(told.put, address, every=60)
        assert name in told.get(timeout=60)


def test_where_no_cloud_answers_nobody_gives_notice():
    told: Notified = queue.Queue()
    aws = Aws()
    aws.taken = True
    here = threading.Event()
    with serving(lambda request: aws(request) if here.is_set() else NOTHING) as (address, asked):
        assert preemption.watch(told.put, address, every=0.01) == []
        while len(asked) < 10:  # it goes on asking
            assert told.empty()
        here.set()  # so that it ends with this test
        told.get(timeout=60)


@pytest.mark.parametrize("status", [400, 401, 403, 500, 503])
def test_only_a_service_that_knows_of_no_notice_has_answered(status):
    aws = Aws()

    def service(request) -> Answer:
        if request.command == "GET" and not aws.taken:
            return status, "", {}
        return aws(request)

    told: Notified = queue.Queue()
    with serving(service) as (address, _):
        assert preemption.watch(told.put, address, every=0.01) == []
        aws.taken = True
        assert "AWS" in told.get(timeout=60)


@pytest.mark.parametrize("drop", [b"a", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_service_that_never_comes_to_an_end_does_not_hold_the_run_up(drop, monkeypatch):
    """Each of its bytes is in time."""
    monkeypatch.setattr(preemption, "_PATIENCE", 0.2)
    left: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        drip = threading.Thread(target=_drip, args=(server, drop, left), daemon=True)
        drip.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert preemption._ask_all(address) == {}
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


def test_a_service_that_is_away_for_a_while_is_asked_again():
    told: Notified = queue.Queue()
    aws = Aws()
    aws.taken = True
    calls = iter(range(10**6))

    def away_at_first(request) -> Answer:
        return (503, "", {}) if next(calls) < 4 else aws(request)

    with serving(away_at_first) as (address, _):
        assert preemption.watch(told.put, address, every=0.01) == []
        assert "AWS" in told.get(timeout=60)
