"""What a service takes from a client at most, and how it says no."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

from aiohttp import web

from engine.core.errors import UserError

MB = 10**6
REQUEST_FILES = 4  # a request may be so many times as large as a file
HELD_REQUESTS = 8  # and so many of the largest requests may lie in memory
RETRY_SECONDS = 1


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one client may send, and how long it may take.

    file_bytes: of a file; of a request `REQUEST_FILES` times as much, files and all.
    files: in a request.
    seconds: that a request may take, from its head to its answer.
    head_seconds: that its head may take. idle_seconds: between two requests of a connection.
    connections: that may be open.
    """

    file_bytes: int = 16 * MB
    files: int = 32
    seconds: float = 30
    head_seconds: float = 10
    idle_seconds: float = 60
    connections: int = 500

    @property
    def request_bytes(self) -> int:
        return self.file_bytes * REQUEST_FILES


class RefusalError(UserError):
    """What a client is told instead of an answer: one line, and a status of HTTP."""

    def __init__(self, status: int, message: str, **more: object) -> None:
        super().__init__(message)
        self.status, self.more = status, more

    def response(self) -> web.Response:
        response = web.json_response({"error": str(self), **self.more}, status=self.status)
        if self.status == 503:
            response.headers["Retry-After"] = str(RETRY_SECONDS)
        if self.status in (408, 413):
            response.force_close()  # the rest of the body is not worth waiting for
        return response


class Memory:
    """The bytes of all requests that lie in memory."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    @contextlib.contextmanager
    def held_by_one(self) -> Iterator[Callable[[int], None]]:
        """Gives what takes bytes for one request; they are given back at the end.

        Raises:
          RefusalError: when called, where there is no room.
        """
        mine = 0

        def take(count: int) -> None:
            nonlocal mine
            if self.held + count > self.most:
                raise RefusalError(503, "too many requests at a time; send it again in a moment")
            self.held += count
            mine += count

        try:
            yield take
        finally:
            self.held -= mine
