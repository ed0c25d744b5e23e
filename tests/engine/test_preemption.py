"""The notices of two clouds, played by a small server on this machine."""

from __future__ import annotations

import queue
import threading

import pytest

from engine import preemption
from tests.engine.metadata_server import NOTHING, TOKEN, Answer, serving, token

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
