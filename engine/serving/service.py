"""The HTTP service: its routes, responses and states."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
import weakref
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler

from engine.core.errors import UserError
from engine.evaluation.decision_rule import DecisionRule
from engine.inference import predictions
from engine.serving import request_guard
from engine.serving.batcher import Batcher, BatchingOptions, Decode, Predict
from engine.serving.limits import MAX_REQUESTS_IN_MEMORY, Limits, MemoryBudget, RefusalError
from engine.serving.metrics import ANSWERED, UNREADABLE, Metrics
from engine.serving.uploads import UploadReader

DEFAULT_TOP_K = 5
LOADING, READY, STOPPING = "loading", "ready", "stopping"
BUSY = "busy"  # the health of a ready service none of whose decoders has been free for a while
_PAGE_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
# Of every response but aiohttp's to malformed requests. The page loads only its own two files, and
# shows images that the user chose (`blob:`); no other page may frame it.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "unfreeze",
}
log = logging.getLogger("serve")


@dataclasses.dataclass(frozen=True)
class Model:
    """The served model.

    decode, predict: as for `Batcher`; `predict` returns probabilities.
    about: the description in `/healthz`.
    """

    decode: Decode
    predict: Predict
    classes: tuple[str, ...]
    rule: DecisionRule
    about: dict[str, Any] = dataclasses.field(default_factory=dict)


class Service:
    """An application in the state `loading` until `start`, and `stopping` from `stop` on."""

    def __init__(self, limits: Limits, names: Collection[str]) -> None:
        """Prepares the service; `names` are allowed in `Host`, besides addresses."""
        self.limits, self.state = limits, LOADING
        self.metrics = Metrics()
        self._names = frozenset(names)
        self._memory = MemoryBudget(MAX_REQUESTS_IN_MEMORY * limits.request_bytes)
        self._model: Model | None = None
        self._batcher: Batcher | None = None
        self._work: asyncio.Task | None = None
        self._active = 0
        self._reading: weakref.WeakKeyDictionary[asyncio.Transport, asyncio.TimerHandle] = (
            weakref.WeakKeyDictionary()  # of connections: aborts those that don't read a response
        )

    def application(self) -> web.Application:
        """Returns the aiohttp application."""
        app = web.Application(middlewares=[self._handle])
        app.router.add_post("/predict", self._predict)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/metrics", make_aiohttp_handler(self.metrics.registry))
        for path in _PAGE_FILES:
            app.router.add_get(path, _show_page)
        return app

    def start(self, model: Model, batching: BatchingOptions) -> None:
        """Starts to predict images, within the event loop."""
        batcher = Batcher(model.decode, model.predict, batching, self.metrics)
        self.metrics.queue.set_function(lambda: batcher.queued)
        self._model, self._batcher, self.state = model, batcher, READY
        self._work = asyncio.ensure_future(batcher.run())

    async def stop(self) -> None:
        """Refuses new requests, and returns after the responses to the pending ones."""
        self.state = STOPPING
        while self._active:
            await asyncio.sleep(0.01)
        if self._work and self._batcher:
            self._work.cancel()
            self._batcher.close()

    @web.middleware
    async def _handle(self, request: web.Request, handler: Callable) -> web.StreamResponse:
        """Counts and checks a request; every error becomes a line of JSON."""
        started, status = time.monotonic(), 499  # nginx's status of disconnected clients
        self._active += 1
        connection = request.transport
        if connection and (timer := self._reading.pop(connection, None)):
            timer.cancel()
        try:
            response = await self._respond(request, handler)
            status = response.status
        finally:
            self._active -= 1
            known = request.match_info.http_exception is None
            self.metrics.requests.labels(request.path if known else "other", str(status)).inc()
            if request.path == "/predict":
                self.metrics.request_seconds.observe(time.monotonic() - started)
        response.headers.update(HEADERS)
        if self.state == STOPPING:
            response.force_close()
        if connection:
            self._reading[connection] = asyncio.get_running_loop().call_later(
                self.limits.idle_seconds, _abort, weakref.ref(connection)
            )
        return response

    async def _respond(self, request: web.Request, handler: Callable) -> web.StreamResponse:
        try:
            request_guard.check_origin(request, self._names)
            return await handler(request)
        except RefusalError as refusal:
            return refusal.response()
        except web.HTTPException as error:
            message = f"{request.method[:20]}: {error.reason}"
            response = RefusalError(error.status, message).response()
            if isinstance(error, web.HTTPMethodNotAllowed):
                response.headers["Allow"] = error.headers["Allow"]
            return response
        except ConnectionError:  # the client disconnected
            raise
        except Exception:  # an error of the service, logged for its operator
            log.exception("a request failed")
            return RefusalError(500, "the service failed on this request").response()

    async def _healthz(self, _: web.Request) -> web.Response:
        stalled = self.state == READY and self._batcher and self._batcher.stalled
        status = BUSY if stalled else self.state
        about: dict[str, Any] = {"status": status}
        if self._model:
            about |= {**self._model.about, "classes": list(self._model.classes)}
        return web.json_response(about, status=200 if status == READY else 503)

    async def _predict(self, request: web.Request) -> web.Response:
        if self.state != READY or not (self._model and self._batcher):
            raise RefusalError(503, f"the service is {self.state}")
        model, seconds = self._model, self.limits.seconds
        top_k = _parse_top_k(request, len(model.classes))
        deadline = time.monotonic() + seconds
        with self._memory.reservation() as reserve:
            files = await _await_until(
                deadline,
                UploadReader(request, self.limits, reserve).read(),
                RefusalError(408, f"the request took longer than {seconds:g} s to arrive"),
            )
            images = [contents for _, contents in files if isinstance(contents, bytes)]
            predictions = await _await_until(
                deadline,
                self._batcher.predict(images),
                RefusalError(503, f"no result within {seconds:g} s; retry"),
            )
        rows = iter(predictions)
        return self._response(
            [
                describe_prediction(
                    model, name, next(rows) if isinstance(contents, bytes) else contents, top_k
                )
                for name, contents in files
            ]
        )

    def _response(self, files: list[dict[str, Any]]) -> web.Response:
        predicted = sum("problem" not in file for file in files)
        self.metrics.images.labels(ANSWERED).inc(predicted)
        self.metrics.images.labels(UNREADABLE).inc(len(files) - predicted)
        if predicted:
            return web.json_response({"files": files})
        first = f"{files[0]['name']}: {files[0]['problem']}"
        message = first if len(files) == 1 else "no image could be read"
        raise RefusalError(422, message, files=files)


def _abort(connection: weakref.ref[asyncio.Transport]) -> None:
    if open_connection := connection():
        open_connection.abort()


async def _show_page(request: web.Request) -> web.Response:
    # No FileResponse: asyncio can't abort a connection within `sendfile`.
    name, kind = _PAGE_FILES[request.path]
    text = Path(__file__).with_name(name).read_text("utf-8")
    return web.Response(text=text, content_type=kind)


def _parse_top_k(request: web.Request, classes: int) -> int:
    unknown = [name for name in request.query if name != "top_k"]
    if unknown:
        raise RefusalError(400, f"unknown parameter {unknown[0][:100]!r}; allowed: top_k")
    text = request.query.get("top_k", str(DEFAULT_TOP_K))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):
        raise RefusalError(400, f"top_k={text[:100]!r}; allowed: a whole number, 1 or more")
    return min(int(text), classes)


async def _await_until(deadline: float, work: Awaitable, timeout_error: RefusalError) -> Any:
    try:
        return await asyncio.wait_for(work, max(0.0, deadline - time.monotonic()))
    except asyncio.TimeoutError:
        raise timeout_error from None


def describe_prediction(
    model: Model, name: str, result: np.ndarray | UserError, top_k: int
) -> dict[str, Any]:
    """Returns the JSON result of an image: its most likely labels, or its problem.

    Args:
      result: its probabilities [classes], or the problem.
    """
    if isinstance(result, UserError):
        return {"name": name, "problem": str(result)}
    [prediction] = predictions.interpret(model.classes, model.rule, [name], result[None], top_k)
    if prediction.problem:
        return {"name": name, "problem": prediction.problem}
    return {
        "name": name,
        "decision": prediction.decision,
        "uncertain": prediction.decision is None,
        "predictions": [
            {"label": label, "probability": probability} for label, probability in prediction.labels
        ],
    }
