"""A service from its first connection to its last answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import warnings
from collections.abc import Callable

from aiohttp import BadContentDispositionHeader, BadContentDispositionParam, web

from engine.core.errors import UserError
from engine.runtime.shutdown import ShutdownRequested
from engine.serving.batcher import BatchingOptions
from engine.serving.request_guard import Guard
from engine.serving.service import Model, Service

BACKLOG = 128
LINGER_SECONDS = 2.0  # how long a client that was refused may go on sending
_PATIENCE = 1.0  # for connections, when all requests have been answered

# What aiohttp has to say of clients that send nonsense is no news for whoever runs the service.
_silent = logging.getLogger("engine.serving.http")
_silent.disabled = True
for _kind in (BadContentDispositionHeader, BadContentDispositionParam):
    warnings.filterwarnings("ignore", category=_kind)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at the first address that the host's name has; port 0 is any free one.

    Two that are bound, and don't listen, may have the same port.

    Raises:
      UserError: there is no such host, or the port is not to be had.
    """
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(kind, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no name of a host"
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
    """Where a browser finds it."""
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
    """Serves until `stopping` is set; returns when every request that was there is answered.

    load: makes the model ready, on a thread; may raise Stopped. ready: called when it is.

    Raises:
      Exception: what `load` raises.
    """
    runner = web.AppRunner(
        service.application(),
        access_log=None,
        logger=_silent,
        handler_cancellation=True,  # images of a client that went away are left undone
        auto_decompress=False,
        lingering_time=LINGER_SECONDS,
        keepalive_timeout=2 * service.limits.idle_seconds,  # the guard is first
        shutdown_timeout=_PATIENCE,
    )
    await runner.setup()
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(
        lambda: Guard(runner.server(), service.keeper),  # type: ignore[misc]
        sock=bound,
        backlog=BACKLOG,
    )
    loading: asyncio.Future = loop.run_in_executor(None, load)
    asked: asyncio.Future = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({loading, asked}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done() and not stopping.is_set():
            model, pace = loading.result()
            service.begin(model, pace)
            ready(model)
            await asked
    finally:
        asked.cancel()
        listener.close()
        await service.end()
        with contextlib.suppress(ShutdownRequested):
            await loading
        await runner.cleanup()
