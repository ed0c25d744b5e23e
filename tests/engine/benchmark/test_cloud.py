"""The metadata services of three clouds, simulated by a local server."""

from __future__ import annotations

import threading

import pytest

from engine.benchmark import cloud
from tests.engine.runtime.metadata_server import NOTHING, TOKEN, Answer, serving, token

PATIENT = 20.0  # never reached when a service responds


def aws(request) -> Answer:
    """As in the EC2 user guide, "Access instance metadata": no token, no answer."""
    if (request.command, request.path) == ("PUT", "/latest/api/token"):
        return token(request)
    if (request.command, request.path) == ("GET", "/latest/meta-data/instance-type"):
        right = request.headers.get("X-aws-ec2-metadata-token") == TOKEN
        return (200, "g6.xlarge", {}) if right else (401, "Unauthorized", {})
    return NOTHING


def google(request) -> Answer:
    if request.headers.get("Metadata-Flavor") != "Google":
        return 403, "Missing Metadata-Flavor:Google header.", {}
    if request.path == "/computeMetadata/v1/instance/machine-type":
        return 200, "projects/123456/machineTypes/n1-standard-4", {"Metadata-Flavor": "Google"}
    return NOTHING


def azure(request) -> Answer:
    if request.headers.get("Metadata") != "true":
        return 400, '{"error": "Bad request. Required metadata header not specified"}', {}
    path = "/metadata/instance/compute/vmSize?api-version=2021-02-01&format=text"
    return (200, "Standard_NC6s_v3", {}) if request.path == path else NOTHING


@pytest.mark.parametrize(
    ("service", "expected"),
    [(aws, "g6.xlarge"), (google, "n1-standard-4"), (azure, "Standard_NC6s_v3")],
)
def test_instance_type_of_each_cloud(service, expected):
    with serving(service) as (address, _):
        assert cloud.instance_type(PATIENT, address) == expected


def test_instance_type_queries_all_clouds():
    with serving(lambda request: NOTHING) as (address, requested):
        assert cloud.instance_type(PATIENT, address) is None
    assert sorted(path.split("?")[0] for path in requested) == [
        "/computeMetadata/v1/instance/machine-type",
        "/latest/api/token",
        "/metadata/instance/compute/vmSize",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "<html><body>Welcome to the hotel's network</body></html>",
        "g6.xlarge\nX-Injected: yes",
        "g6 xlarge",
        "g6.xlarge\x1b[31m",
        "größe",
        "-rf",
    ],
)
def test_instance_type_refuses_invalid_names(name):
    with serving(lambda request: (200, name, {})) as (address, _):
        assert cloud.instance_type(PATIENT, address) is None


def test_instance_type_gives_up_hanging_service():
    released = threading.Event()

    def hang(request) -> Answer:
        released.wait(PATIENT)
        return 200, "g6.xlarge", {}

    with serving(hang) as (address, _):
        try:
            assert cloud.instance_type(0.05, address) is None
        finally:
            released.set()
