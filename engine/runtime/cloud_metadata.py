"""The metadata service of a cloud, which answers at the same link-local address in all of them.

It is asked over plain connections: no proxy stands between, and no redirect is followed.
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
MAX_ANSWER_BYTES = 200  # bytes of an answer; what is longer is a web page and no name
TOKEN = re.compile(r"[A-Za-z0-9+/=_-]+")
UNAVAILABLE_ERRORS = (
    OSError,
    http.client.HTTPException,
    ValueError,
)  # there, or none that is understood


class NotFoundError(ValueError):
    """The service answers, and has nothing of that name."""


# Asks for (method, path, headers) and gives the answer's text; raises one of NOBODY.
Request = Callable[[str, str, dict[str, str]], str]


def requester(deadline: float, address: str = ADDRESS) -> Request:
    """What asks there until `time.monotonic()` comes to the deadline."""

    def ask(method: str, path: str, headers: dict[str, str]) -> str:
        return _answer(address, deadline, method, path, headers)

    return ask


def _answer(address: str, deadline: float, method: str, path: str, headers: dict[str, str]) -> str:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    connection = http.client.HTTPConnection(address, timeout=remaining)
    try:
        connection.connect()
        with _ending(connection.sock, deadline):
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            body = response.read(MAX_ANSWER_BYTES + 1)
    finally:
        connection.close()
    if response.status == http.client.NOT_FOUND:
        raise NotFoundError(path)
    if response.status != http.client.OK or len(body) > MAX_ANSWER_BYTES:
        raise ValueError("no answer to the question")
    return body.decode("latin-1").strip()


@contextmanager
def _ending(connection: socket.socket, deadline: float) -> Iterator[None]:
    """Ends the connection at the deadline: a byte now and then would never let it time out."""

    def end() -> None:
        with suppress(OSError):  # it has ended by itself
            connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def validated(text: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(text):
        raise ValueError("odd characters")
    return text


def aws_token(ask: Request) -> dict[str, str]:
    """The header that version 2 of Amazon's service, the one that every instance has, wants."""
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = validated(ask("PUT", "/latest/api/token", lifetime), TOKEN)
    return {"X-aws-ec2-metadata-token": token}


def google_value(ask: Request, path: str) -> str:
    return ask("GET", f"/computeMetadata/v1/instance/{path}", {"Metadata-Flavor": "Google"})
