"""Queries the instance type from the metadata services of all supported clouds at once."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

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
    request = requester(time.monotonic() + timeout_seconds, address)
    with ThreadPoolExecutor(len(CLOUDS)) as threads:
        names = list(threads.map(lambda query: _name(query, request), CLOUDS.values()))
    return next(filter(None, names), None)


def _name(query: Callable[[Request], str], request: Request) -> str | None:
    with contextlib.suppress(*UNAVAILABLE_ERRORS):
        return validated(query(request), NAME)
    return None


def _aws(request: Request) -> str:
    return request("GET", "/latest/meta-data/instance-type", aws_token(request))


def _google(request: Request) -> str:
    """Returns the last part of `projects/NUMBER/machineTypes/TYPE`."""
    return google_value(request, "machine-type").rpartition("/")[2]


def _azure(request: Request) -> str:
    path = "/metadata/instance/compute/vmSize?api-version=2021-02-01&format=text"
    return request("GET", path, {"Metadata": "true"})


CLOUDS: dict[str, Callable[[Request], str]] = {"aws": _aws, "google": _google, "azure": _azure}
