"""Whether the cloud is about to take this machine away: its metadata service says so beforehand.

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
_PATIENCE = 1.0  # seconds for an answer


def _aws(ask: Request) -> bool:
    header = aws_token(ask)
    try:
        return bool(ask("GET", "/latest/meta-data/spot/instance-action", header))
    except NotFoundError:  # as long as there is no notice
        return False


def _google(ask: Request) -> bool:
    return google_value(ask, "preempted") == "TRUE"


CLOUDS: dict[str, Callable[[Request], bool]] = {"AWS": _aws, "Google": _google}


def watch(
    notify: Callable[[str], None], address: str = ADDRESS, every: float = POLL_SECONDS
) -> list[str]:
    """Calls `notify` with a reason as soon as a cloud gives notice, on a thread that asks for ever.

    Returns:
      The names of the clouds that answer now; without one there is nobody to give notice.
    """
    answers = _ask_all(address)
    threading.Thread(
        target=_poll, args=(notify, answers, address, every), daemon=True, name="preemption"
    ).start()
    return list(answers)


def _poll(
    notify: Callable[[str], None], answers: dict[str, bool], address: str, every: float
) -> None:
    while not any(answers.values()):
        time.sleep(every)
        answers = _ask_all(address)
    cloud = next(name for name, taken in answers.items() if taken)
    notify(f"{cloud}'s notice that it takes the machine away")


def _ask_all(address: str) -> dict[str, bool]:
    """What the clouds say that answer."""
    answers = {}
    for name, given in CLOUDS.items():
        try:
            answers[name] = given(requester(time.monotonic() + _PATIENCE, address))
        except UNAVAILABLE_ERRORS:
            continue
    return answers
