"""Guards a service: known hosts, its own page only, and timeouts of connections."""

from __future__ import annotations

import asyncio
import ipaddress
import urllib.parse
from collections.abc import Collection
from typing import Any

from aiohttp import HttpVersion11
from aiohttp.web import BaseRequest

from engine.serving.limits import Limits, RefusalError


def check_origin(request: BaseRequest, names: Collection[str]) -> None:
    """Requires that a request is addressed to this service and is not from another site's page.

    A page of another site whose name resolves to this machine (DNS rebinding) still sends that name
    in `Host`, so only addresses and known names are allowed. Browsers mark posts across sites in
    `Sec-Fetch-Site`; old ones, and pages over plain HTTP, only name the page's site in `Origin`.
    Programs send neither.

    Raises:
      RefusalError: the host is unknown, or the request comes from another site.
    """
    host = _host(request)
    name = _hostname(f"//{host}")
    if host is not None and not (_is_address(name) or name in names):
        raise RefusalError(
            421,
            f"Host {host[:100]!r} is not known; allowed: {', '.join(sorted(names))}, any "
            "address, and the names of --allow_host",
        )
    if request.method not in ("GET", "HEAD") and _is_foreign(request, host):
        raise RefusalError(403, "pages of other sites may not send images")


def _host(request: BaseRequest) -> str | None:
    """Returns the host; None in HTTP/1.0, which has none and which no browser uses."""
    hosts = request.headers.getall("Host", [])
    if not hosts and request.version < HttpVersion11:
        return None
    if len(hosts) != 1:
        raise RefusalError(400, "allowed: one Host header")
    return hosts[0]


def _is_foreign(request: BaseRequest, host: str | None) -> bool:
    """Checks `Sec-Fetch-Site` first, since a proxy may have replaced the page's `Host`."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("none", "same-origin")
    own_origins = [f"{scheme}://{host}".lower() for scheme in ("http", "https")]
    return origin is not None and origin.lower() not in own_origins


def _hostname(address: str) -> str:
    try:
        return urllib.parse.urlsplit(address).hostname or ""
    except ValueError:  # unbalanced brackets
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class ConnectionTracker:
    """Limits the open connections, and sets the timeout of each."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._open: dict[Any, GuardedConnection] = {}

    def add(self, connection: GuardedConnection) -> bool:
        """Adds a connection; returns False at the limit."""
        if len(self._open) >= self.limits.connections:
            return False
        self._open[connection.inner] = connection
        return True

    def remove(self, connection: GuardedConnection) -> None:
        self._open.pop(connection.inner, None)

    def request_started(self, inner: Any) -> None:
        """Ends the timeout when the head of a request is complete; the body has its own."""
        if inner in self._open:
            self._open[inner].set_timeout(None)

    def request_finished(self, inner: Any) -> None:
        """Starts the timeout until the next request of the connection."""
        if inner in self._open:
            self._open[inner].set_timeout(self.limits.idle_seconds, idle=True)


class GuardedConnection(asyncio.Protocol):
    """A connection of aiohttp's, closed if the head of a request takes too long.

    aiohttp itself has no timeout for the first request, nor for the rest of a head.
    """

    def __init__(self, inner: asyncio.Protocol, tracker: ConnectionTracker) -> None:
        self.inner, self._tracker = inner, tracker
        self._transport: asyncio.BaseTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle = self._accepted = False

    def set_timeout(self, seconds: float | None, idle: bool = False) -> None:
        """Sets the timeout from now on; None for no timeout."""
        self._idle = idle
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if seconds is not None and self._transport:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self._transport.abort)  # type: ignore[attr-defined]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._accepted = self._tracker.add(self)
        if not self._accepted:
            transport.abort()  # type: ignore[attr-defined]
            return
        self.set_timeout(self._tracker.limits.head_seconds)
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._idle:
            self.set_timeout(self._tracker.limits.head_seconds)
        if self._accepted:
            self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received() if self._accepted else None

    def connection_lost(self, exc: Exception | None) -> None:
        self.set_timeout(None)
        self._tracker.remove(self)
        if self._accepted:
            self.inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()
