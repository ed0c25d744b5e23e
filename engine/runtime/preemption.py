"""Watches for a cloud's preemption notice, which its metadata service gives beforehand.

Amazon gives two minutes (EC2 user guide, "Spot Instance interruption notices"), Google half a
minute (Compute Engine, "Preemptible VM instances": metadata value `preempted`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from engine.runtime.cloud_metadata import (
    ADDRESS,
    UNAVAILABLE_ERRORS,
    NotFoundError,
    Request,
    aws_token,
    google_value,
    requester,
)

POLL_SECONDS = 5.0
_TIMEOUT_SECONDS = 1.0


def _aws(request: Request) -> bool:
    header = aws_token(request)
    try:
        return bool(request("GET", "/latest/meta-data/spot/instance-action", header))
    except NotFoundError:  # as long as there is no notice
        return False


def _google(request: Request) -> bool:
    return google_value(request, "preempted") == "TRUE"


CLOUDS: dict[str, Callable[[Request], bool]] = {"AWS": _aws, "Google": _google}


def watch(
    notify: Callable[[str], None], address: str = ADDRESS, poll_seconds: float = POLL_SECONDS
) -> list[str]:
    """Starts a thread that polls forever and calls `notify` with a reason when there is a notice.

    Returns:
      The names of the clouds that answer now.
    """
    notices = _poll_clouds(address)
    threading.Thread(
        target=_poll, args=(notify, notices, address, poll_seconds), daemon=True, name="preemption"
    ).start()
    return list(notices)


def _poll(
    notify: Callable[[str], None], notices: dict[str, bool], address: str, poll_seconds: float
) -> None:
    while not any(notices.values()):
        time.sleep(poll_seconds)
        notices = _poll_clouds(address)
    cloud = next(name for name, preempted in notices.items() if preempted)
    notify(f"{cloud}'s preemption notice")


def _poll_clouds(address: str) -> dict[str, bool]:
    """Returns whether there is a notice, for each cloud that answers."""
    notices = {}
    for name, is_preempted in CLOUDS.items():
        try:
            notices[name] = is_preempted(requester(time.monotonic() + _TIMEOUT_SECONDS, address))
        except UNAVAILABLE_ERRORS:
            continue
    return notices
