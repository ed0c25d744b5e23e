"""Who may come in: hosts that are meant, pages of our own, and clients that don't dawdle."""

from __future__ import annotations

import asyncio
import ipaddress
import urllib.parse
from collections.abc import Collection
from typing import Any

from aiohttp import HttpVersion11
from aiohttp.web import BaseRequest

from engine.serving.limits import Limits, RefusalError


def check(request: BaseRequest, names: Collection[str]) -> None:
    """Nothing, where a request is meant for this service and comes from no foreign page.

    A page of another site that has its own name lead to this machine (DNS rebinding) still sends
    that name in `Host`; so hosts are addresses, or of the names that are known. And where it posts
    across sites, the browser says so in `Sec-Fetch-Site`. Older ones, and any that came by plain
    HTTP, say only in `Origin` where the page is from. Programs send neither.

    Raises:
      RefusalError: it is not.
    """
    host = _host(request)
    name = _hostname(f"//{host}")
    if host is not None and not (_is_address(name) or name in names):
        raise RefusalError(
            421,
            f"Host {host[:100]!r} is not known here; allowed: {', '.join(sorted(names))}, any "
            "address, and what --allow_host names",
        )
    if request.method not in ("GET", "HEAD") and _is_foreign(request, host):
        raise RefusalError(403, "pages of other sites may not send images here")


def _host(request: BaseRequest) -> str | None:
    """None in HTTP/1.0, which has no such thing, and which no browser speaks."""
    hosts = request.headers.getall("Host", [])
    if not hosts and request.version < HttpVersion11:
        return None
    if len(hosts) != 1:
        raise RefusalError(400, "allowed: one Host in the head of a request")
    return hosts[0]


def _is_foreign(request: BaseRequest, host: str | None) -> bool:
    """A proxy may have put another `Host` in the place of the page's, so that comes second."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("none", "same-origin")
    ours = [f"{scheme}://{host}".lower() for scheme in ("http", "https")]
    return origin is not None and origin.lower() not in ours


def _hostname(address: str) -> str:
    try:
        return urllib.parse.urlsplit(address).hostname or ""
    except ValueError:  # brackets that don't close
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class RequestGuard:
    """Keeps count of the connections, and of what each is doing."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._open: dict[Any, Guard] = {}

    def enter(self, guard: Guard) -> bool:
        """Whether there is room for one more."""
        if len(self._open) >= self.limits.connections:
            return False
        self._open[guard.inner] = guard
        return True

    def leave(self, guard: Guard) -> None:
        self._open.pop(guard.inner, None)

    def begins(self, inner: Any) -> None:
        """The head of a request has come whole; what follows has its own limits."""
        if inner in self._open:
            self._open[inner].wait(None)

    def ends(self, inner: Any) -> None:
        """A request was answered; the connection may bring another one."""
        if inner in self._open:
            self._open[inner].wait(self.limits.idle_seconds, idle=True)


class Guard(asyncio.Protocol):
    """A connection of aiohttp's, cut off where it takes too long over the head of a request.

    aiohttp itself waits without end for the first one, and for the rest of any.
    """

    def __init__(self, inner: asyncio.Protocol, keeper: RequestGuard) -> None:
        self.inner, self._keeper = inner, keeper
        self._transport: asyncio.BaseTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._idle = self._inside = False

    def wait(self, seconds: float | None, idle: bool = False) -> None:
        """From now on so long at most; None for as long as it takes."""
        self._idle = idle
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if seconds is not None and self._transport:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(seconds, self._transport.abort)  # type: ignore[attr-defined]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._inside = self._keeper.enter(self)
        if not self._inside:
            transport.abort()  # type: ignore[attr-defined]
            return
        self.wait(self._keeper.limits.head_seconds)
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._idle:
            self.wait(self._keeper.limits.head_seconds)
        if self._inside:
            self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received() if self._inside else None

    def connection_lost(self, exc: Exception | None) -> None:
        self.wait(None)
        self._keeper.leave(self)
        if self._inside:
            self.inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()
