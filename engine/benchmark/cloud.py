"""Queries the instance type from the metadata services of all supported clouds at once."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable

from engine.runtime.cloud_metadata import (
    ADDRESS,
    UNAVAILABLE_ERRORS,
    Request,
    aws_token,
    google_value,
    requester,
    validated,
)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def instance_type(timeout_seconds: float = 0.5, address: str = ADDRESS) -> str | None:
    """Returns the instance type, such as `g6.xlarge`; None if no cloud responds in time."""
    deadline = time.monotonic() + timeout_seconds
    results: dict[str, str] = {}
    threads = [
        # Daemons, so that a hanging service can't delay the end of the process.
        threading.Thread(target=_query, args=(results, cloud, address, deadline), daemon=True)
        for cloud in CLOUDS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    names = dict(results)  # late threads may still write
    return next((names[cloud] for cloud in CLOUDS if cloud in names), None)


def _query(results: dict[str, str], cloud: str, address: str, deadline: float) -> None:
    with contextlib.suppress(*UNAVAILABLE_ERRORS):
        results[cloud] = validated(CLOUDS[cloud](requester(deadline, address)), NAME)


def _aws(request: Request) -> str:
    return request("GET", "/latest/meta-data/instance-type", aws_token(request))


def _google(request: Request) -> str:
    """Returns the last part of `projects/NUMBER/machineTypes/TYPE`."""
    return google_value(request, "machine-type").rpartition("/")[2]


def _azure(request: Request) -> str:
    path = "/metadata/instance/compute/vmSize?api-version=2021-02-01&format=text"
    return request("GET", path, {"Metadata": "true"})


CLOUDS: dict[str, Callable[[Request], str]] = {"aws": _aws, "google": _google, "azure": _azure}
