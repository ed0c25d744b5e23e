"""Limits of a service, and the responses to refused requests."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
from collections.abc import Callable, Iterator

from aiohttp import web

from engine.core.errors import UserError, require

MB = 10**6
FILE_SIZES_PER_REQUEST = 4  # the size limit of a request, in sizes of the largest file
MAX_REQUESTS_IN_MEMORY = 8  # of the largest size
RETRY_SECONDS = 1
SPARE_FILES = 32  # to load the model, and for connections until they are refused


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of one client.

    file_bytes: of a file; a request may have FILE_SIZES_PER_REQUEST times as many.
    files: in a request.
    seconds: of a request, from its head to its response.
    idle_seconds: of a connection, until the head of its first request is complete; then from each
      response, which must be read in that time, to the complete head of the next request.
    connections: open at a time.
    """

    file_bytes: int = 16 * MB
    files: int = 32
    seconds: float = 30
    idle_seconds: float = 60
    connections: int = 500

    @property
    def request_bytes(self) -> int:
        return self.file_bytes * FILE_SIZES_PER_REQUEST

    def connections_allowed(self) -> int:
        """Returns the number of connections for which this process may open sockets.

        Raises:
          UserError: it is zero.
        """
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if files == resource.RLIM_INFINITY:
            return self.connections
        free = files - len(os.listdir("/proc/self/fd")) - SPARE_FILES
        require(
            free > 0,
            f"at most {files} files may be open, too few for connections; "
            "allow more: ulimit -n 1024",
        )
        return min(self.connections, free)


class RefusalError(UserError):
    """A refused request: a message of one line and an HTTP status."""

    def __init__(self, status: int, message: str, **details: object) -> None:
        super().__init__(message)
        self.status, self.details = status, details

    def response(self) -> web.Response:
        """Returns the JSON response."""
        response = web.json_response({"error": str(self), **self.details}, status=self.status)
        if self.status == 503:
            response.headers["Retry-After"] = str(RETRY_SECONDS)
        if self.status in (408, 413):
            response.force_close()  # instead of reading the rest of the body
        return response


class MemoryBudget:
    """The bytes of all requests in memory, and their limit."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.used = max_bytes, 0

    @contextlib.contextmanager
    def reservation(self) -> Iterator[Callable[[int], None]]:
        """Yields a function that reserves bytes for one request, released at the end.

        Raises:
          RefusalError: from that function, if the limit is reached.
        """
        reserved = 0

        def reserve(count: int) -> None:
            nonlocal reserved
            if self.used + count > self.max_bytes:
                raise RefusalError(503, "too many requests at a time; retry in a moment")
            self.used += count
            reserved += count

        try:
            yield reserve
        finally:
            self.used -= reserved
