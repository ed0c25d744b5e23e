"""Runs a service from its first connection to its last response."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket
import warnings
from collections import Counter
from collections.abc import Callable
from typing import cast

from aiohttp import BadContentDispositionHeader, BadContentDispositionParam, web

from engine.core.errors import UserError
from engine.runtime.shutdown import ShutdownRequested
from engine.serving.batcher import BatchingOptions
from engine.serving.service import Model, Service

BACKLOG = 128
ACCEPTED_AT_ONCE = 4  # for a refused one is closed some turns of the loop later
LINGER_SECONDS = 2.0  # that a refused client may continue to send
SHUTDOWN_SECONDS = 1.0  # for open connections after the last response

# aiohttp's messages about invalid requests are of no use to the operator.
_disabled_logger = logging.getLogger("engine.serving.http")
_disabled_logger.disabled = True
for _category in (BadContentDispositionHeader, BadContentDispositionParam):
    warnings.filterwarnings("ignore", category=_category)


def bind(host: str, port: int) -> socket.socket:
    """Binds a socket to the first address of the host, and listens: unlike bind, that is exclusive.

    Args:
      port: 0 for any free one.

    Raises:
      UserError: the host is unknown, or the port is not available.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        raise UserError(
            f"--host={host}: {reason}; allowed: an address or name of this machine"
        ) from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise UserError(
            f"--host={host} --port={port}: {error.strerror}; name another, or --port=0 for any"
        ) from None
    return bound


def address(bound: socket.socket) -> str:
    """Returns the URL of the service for a browser on this machine."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


async def run(
    service: Service,
    bound: socket.socket,
    load: Callable[[], tuple[Model, BatchingOptions]],
    stopping: asyncio.Event,
    ready: Callable[[Model], None],
) -> None:
    """Serves until `stopping` is set; returns after the responses to all pending requests.

    Args:
      load: loads the model, on a thread; may raise ShutdownRequested.
      ready: called with the loaded model.

    Raises:
      Exception: what `load` raises.
    """
    runner = web.AppRunner(
        service.application(),
        access_log=None,
        logger=_disabled_logger,
        handler_cancellation=True,  # drops the images of disconnected clients
        auto_decompress=False,
        lingering_time=LINGER_SECONDS,
        keepalive_timeout=service.limits.idle_seconds,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    await runner.setup()
    most = service.limits.connections_allowed()
    connect = functools.partial(_NewConnection, cast(web.Server, runner.server), most)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(connect, sock=bound, backlog=ACCEPTED_AT_ONCE)
    bound.listen(BACKLOG)
    loading: asyncio.Future = loop.run_in_executor(None, load)
    stop_requested: asyncio.Future = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({loading, stop_requested}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done() and not stopping.is_set():
            model, batching = loading.result()
            service.start(model, batching)
            ready(model)
            await stop_requested
    finally:
        stop_requested.cancel()
        listener.close()
        await service.stop()
        with contextlib.suppress(ShutdownRequested):
            await loading
        await runner.cleanup()


class _NewConnection(asyncio.Protocol):
    """Becomes a connection of aiohttp's, which has no limit on their number.

    Counted when it is made: of a burst, asyncio creates all protocols before the first is made. At
    the limit the oldest connection of the client with most of them makes way for one of another
    client, so that none can hold them all.
    """

    def __init__(self, server: web.Server, most: int) -> None:
        self._server, self._most = server, most

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        if len(self._server.connections) >= self._most and not self._make_way(_client(transport)):
            transport.abort()
            return
        handler = self._server()
        transport.set_protocol(handler)
        handler.connection_made(transport)

    def _make_way(self, client: str) -> bool:
        """Closes a connection of another client, if one has at least two more."""
        transports = [one.transport for one in self._server.connections if one.transport]
        counts = Counter(map(_client, transports))
        largest, count = max(counts.items(), key=lambda item: item[1], default=(client, 0))
        if count < counts[client] + 2:
            return False
        next(one for one in transports if _client(one) == largest).abort()
        return True


def _client(transport: asyncio.Transport) -> str:
    """Returns the address of the other side, without its port."""
    return str((transport.get_extra_info("peername") or [""])[0])
