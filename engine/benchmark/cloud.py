"""The instance type, where the cloud's metadata service tells it.

Each cloud answers in its own way. All are asked at once.
"""

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
    """`g6.xlarge`, `n1-standard-4`, `Standard_NC6s_v3`, or None where no cloud answers in time."""
    deadline = time.monotonic() + timeout_seconds
    found: dict[str, str] = {}
    threads = [
        # Daemons, so that a service that never comes to an end can't hold the process up.
        threading.Thread(target=_note, args=(found, cloud, address, deadline), daemon=True)
        for cloud in CLOUDS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    names = dict(found)  # a thread that is late may still write
    return next((names[cloud] for cloud in CLOUDS if cloud in names), None)


def _note(found: dict[str, str], cloud: str, address: str, deadline: float) -> None:
    with contextlib.suppress(*UNAVAILABLE_ERRORS):
        found[cloud] = validated(CLOUDS[cloud](requester(deadline, address)), NAME)


def _aws(ask: Request) -> str:
    return ask("GET", "/latest/meta-data/instance-type", aws_token(ask))


def _google(ask: Request) -> str:
    """`projects/NUMBER/machineTypes/TYPE`, of which the last part is the name."""
    return google_value(ask, "machine-type").rpartition("/")[2]


def _azure(ask: Request) -> str:
    path = "/metadata/instance/compute/vmSize?api-version=2021-02-01&format=text"
    return ask("GET", path, {"Metadata": "true"})


CLOUDS: dict[str, Callable[[Request], str]] = {"aws": _aws, "google": _google, "azure": _azure}
