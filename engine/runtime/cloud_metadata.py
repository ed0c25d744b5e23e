"""The metadata service of a cloud: requests, and a watch for the notice of a preemption.

The service has the same link-local address in all clouds. Requests go over plain connections, past
any proxy, and follow no redirect. Amazon gives a notice two minutes before (EC2 user guide, "Spot
Instance interruption notices"), Google half a minute (Compute Engine, "Preemptible VM instances":
metadata value `preempted`).
"""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

ADDRESS = "169.254.169.254"
POLL_SECONDS = 5.0
POLL_TIMEOUT_SECONDS = 1.0
MAX_ANSWER_BYTES = 200  # a longer answer is a web page and no name
TOKEN = re.compile(r"[A-Za-z0-9+/=_-]+")
# No service, or none whose answer is understood.
UNAVAILABLE_ERRORS = (OSError, http.client.HTTPException, ValueError)


class NotFoundError(ValueError):
    """The service answers, and has nothing of that name."""


# (method, path, headers) -> the answer's text; raises one of UNAVAILABLE_ERRORS.
Request = Callable[[str, str, dict[str, str]], str]


def requester(deadline: float, address: str = ADDRESS) -> Request:
    """Returns a function that sends requests until `time.monotonic()` reaches the deadline."""

    def request(method: str, path: str, headers: dict[str, str]) -> str:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        connection = http.client.HTTPConnection(address, timeout=remaining)
        try:
            connection.connect()
            with _shut_down_at(connection.sock, deadline):
                connection.request(method, path, headers=headers)
                response = connection.getresponse()
                body = response.read(MAX_ANSWER_BYTES + 1)
        finally:
            connection.close()
        if response.status == http.client.NOT_FOUND:
            raise NotFoundError(path)
        if response.status != http.client.OK or len(body) > MAX_ANSWER_BYTES:
            raise ValueError("not an answer to the request")
        return body.decode("latin-1").strip()

    return request


@contextmanager
def _shut_down_at(connection: socket.socket, deadline: float) -> Iterator[None]:
    """Ends the connection at the deadline; with a byte now and then it would never time out."""

    def shut_down() -> None:
        with suppress(OSError):  # it has ended by itself
            connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def validated(text: str, pattern: re.Pattern[str]) -> str:
    """Returns the text if it matches the whole pattern; raises ValueError else."""
    if not pattern.fullmatch(text):
        raise ValueError("unexpected characters")
    return text


def aws_token(request: Request) -> dict[str, str]:
    """Returns the header that version 2 of Amazon's service requires; every instance has it."""
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = validated(request("PUT", "/latest/api/token", lifetime), TOKEN)
    return {"X-aws-ec2-metadata-token": token}


def google_value(request: Request, path: str) -> str:
    """Returns one value of the instance from Google's service."""
    return request("GET", f"/computeMetadata/v1/instance/{path}", {"Metadata-Flavor": "Google"})


def _aws_notice(request: Request) -> bool:
    header = aws_token(request)
    try:
        return bool(request("GET", "/latest/meta-data/spot/instance-action", header))
    except NotFoundError:  # as long as there is no notice
        return False


def _google_notice(request: Request) -> bool:
    return google_value(request, "preempted") == "TRUE"


CLOUDS_WITH_NOTICE: dict[str, Callable[[Request], bool]] = {
    "AWS": _aws_notice,
    "Google": _google_notice,
}


def watch_preemption(
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
    for name, is_preempted in CLOUDS_WITH_NOTICE.items():
        try:
            notices[name] = is_preempted(
                requester(time.monotonic() + POLL_TIMEOUT_SECONDS, address)
            )
        except UNAVAILABLE_ERRORS:
            continue
    return notices
