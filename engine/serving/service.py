"""The HTTP service: its routes, responses and states."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web

from engine.core.errors import UserError
from engine.evaluation.decision_rule import DecisionRule
from engine.inference import predict
from engine.serving import request_guard, uploads
from engine.serving.batcher import Batcher, BatchingOptions, Decode, Predict, QueueFullError
from engine.serving.limits import MAX_REQUESTS_IN_MEMORY, Limits, MemoryBudget, RefusalError
from engine.serving.metrics import CONTENT_TYPE, Metrics
from engine.serving.request_guard import ConnectionTracker
from engine.serving.uploads import Upload

DEFAULT_TOP_K = 5
LOADING, READY, STOPPING = "loading", "ready", "stopping"
_PAGE_FILES = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css")}
_PAGE_FILES["/page.js"] = ("page.js", "text/javascript")
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
        """Prepares the routes; `names` are allowed in `Host`, besides addresses."""
        self.limits, self.state = limits, LOADING
        self.connections = ConnectionTracker(limits)
        self.metrics = Metrics()
        self._names = frozenset(names)
        self._memory = MemoryBudget(MAX_REQUESTS_IN_MEMORY * limits.request_bytes)
        self._model: Model | None = None
        self._batcher: Batcher | None = None
        self._work: asyncio.Task | None = None
        self._active = 0
        folder = Path(__file__).parent
        self._page = {
            path: (kind, (folder / name).read_bytes()) for path, (name, kind) in _PAGE_FILES.items()
        }

    def application(self) -> web.Application:
        """Returns the aiohttp application."""
        app = web.Application(middlewares=[self._handle])
        app.router.add_post("/predict", self._predict)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/metrics", self._metrics)
        for path in self._page:
            app.router.add_get(path, self._show_page)
        return app

    def start(self, model: Model, batching: BatchingOptions) -> None:
        """Starts to predict images, within the event loop."""
        batcher = Batcher(model.decode, model.predict, batching, self.metrics)
        self.metrics.watch_queue(lambda: batcher.queued)
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
        with self._tracked(request):
            try:
                response = await self._respond(request, handler)
                status = response.status
            finally:
                known = request.match_info.http_exception is None
                route = request.path if known else "other"
                self.metrics.request(route, status, time.monotonic() - started)
        response.headers.update(HEADERS)
        if self.state == STOPPING:
            response.force_close()
        return response

    @contextlib.contextmanager
    def _tracked(self, request: web.Request) -> Iterator[None]:
        self._active += 1
        self.connections.request_started(request.protocol)
        try:
            yield
        finally:
            self._active -= 1
            self.connections.request_finished(request.protocol)

    async def _respond(self, request: web.Request, handler: Callable) -> web.StreamResponse:
        try:
            request_guard.check_origin(request, self._names)
            return await handler(request)
        except RefusalError as refusal:
            return refusal.response()
        except web.HTTPException as error:
            response = RefusalError(
                error.status, f"{request.method[:20]}: {error.reason}"
            ).response()
            if isinstance(error, web.HTTPMethodNotAllowed):
                response.headers["Allow"] = error.headers["Allow"]
            return response
        except ConnectionError:  # the client disconnected
            raise
        except Exception:  # an error of the service, logged for its operator
            log.exception("a request failed")
            return RefusalError(500, "the service failed on this request").response()

    async def _show_page(self, request: web.Request) -> web.Response:
        kind, body = self._page[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def _healthz(self, _: web.Request) -> web.Response:
        about: dict[str, Any] = {"status": self.state}
        if self._model:
            about |= {**self._model.about, "classes": list(self._model.classes)}
        return web.json_response(about, status=200 if self.state == READY else 503)

    async def _predict(self, request: web.Request) -> web.Response:
        if self.state != READY or not (self._model and self._batcher):
            raise RefusalError(503, f"the service is {self.state}")
        top_k = _parse_top_k(request, len(self._model.classes))
        deadline = time.monotonic() + self.limits.seconds
        with self._memory.reservation() as reserve:
            files = await _await_until(
                deadline,
                uploads.read(request, self.limits, reserve),
                RefusalError(
                    408, f"the request took longer than {self.limits.seconds:g} s to arrive"
                ),
            )
            images = [file.contents for file in files if not file.problem]
            try:
                rows = await _await_until(
                    deadline,
                    self._batcher.predict(images),
                    RefusalError(503, f"no result within {self.limits.seconds:g} s; retry"),
                )
            except QueueFullError:
                raise RefusalError(503, "the queue is full; retry in a moment") from None
        return self._response(_match_results(files, rows), top_k)

    def _response(self, results: list[tuple[str, Any]], top_k: int) -> web.Response:
        assert self._model
        files = [describe_prediction(self._model, name, result, top_k) for name, result in results]
        predicted = sum("problem" not in file for file in files)
        self.metrics.image(True, predicted)
        self.metrics.image(False, len(files) - predicted)
        if predicted:
            return web.json_response({"files": files})
        first = f"{files[0]['name']}: {files[0]['problem']}"
        message = first if len(files) == 1 else "no image could be read"
        raise RefusalError(422, message, files=files)


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


def _match_results(files: Sequence[Upload], rows: Sequence[Any]) -> list[tuple[str, Any]]:
    """Pairs each file's name with its row of probabilities or its problem."""
    remaining = iter(rows)
    return [(file.name, file.problem or next(remaining)) for file in files]


def describe_prediction(
    model: Model, name: str, result: np.ndarray | UserError | str, top_k: int
) -> dict:
    """Returns the JSON result of an image: its most likely labels, or its problem.

    Args:
      result: its probabilities [classes], or the problem.
    """
    if isinstance(result, UserError | str):
        return {"name": name, "problem": str(result)}
    [prediction] = predict.interpret(model.classes, model.rule, [name], result[None], top_k)
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
