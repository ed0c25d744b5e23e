"""The service: what each address answers. It knows no files and no formats."""

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
from engine.inference import predict as prediction
from engine.serving import request_guard, uploads
from engine.serving.batcher import Batcher, BatchingOptions, Decode, Predict, QueueFullError
from engine.serving.limits import HELD_REQUESTS, Limits, Memory, RefusalError
from engine.serving.metrics import CONTENT_TYPE, Metrics
from engine.serving.request_guard import RequestGuard
from engine.serving.uploads import Upload

TOP = 5
LOADING, READY, STOPPING = "loading", "ready", "stopping"
_PAGE = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css")}
_PAGE["/page.js"] = ("page.js", "text/javascript")
# Of every answer, but for what aiohttp says of requests that it can't read. The page loads nothing
# but its own two files, and shows images that it was given (`blob:`); no other page may frame it.
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
    """What answers: `decode` and `predict` as `Batcher` takes them, `predict` giving probabilities.

    about: what `/healthz` says of it.
    """

    decode: Decode
    predict: Predict
    classes: tuple[str, ...]
    rule: DecisionRule
    about: dict[str, Any] = dataclasses.field(default_factory=dict)


class Service:
    """An application that is loading until `begin`, and stopping from `end` on."""

    def __init__(self, limits: Limits, names: Collection[str]) -> None:
        """names: those that a request's `Host` may have, beside addresses."""
        self.limits, self.state = limits, LOADING
        self.keeper = RequestGuard(limits)
        self.metrics = Metrics()
        self._names = frozenset(names)
        self._memory = Memory(HELD_REQUESTS * limits.request_bytes)
        self._model: Model | None = None
        self._batcher: Batcher | None = None
        self._work: asyncio.Task | None = None
        self._active = 0
        folder = Path(__file__).parent
        self._page = {
            place: (kind, (folder / name).read_bytes()) for place, (name, kind) in _PAGE.items()
        }

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._around])
        app.router.add_post("/predict", self._predict)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/metrics", self._metrics)
        for place in self._page:
            app.router.add_get(place, self._show)
        return app

    def begin(self, model: Model, pace: BatchingOptions) -> None:
        """From now on images are answered; within the event loop."""
        batcher = Batcher(model.decode, model.predict, pace, self.metrics)
        self.metrics.watch_queue(lambda: batcher.held)
        self._model, self._batcher, self.state = model, batcher, READY
        self._work = asyncio.ensure_future(batcher.work())

    async def end(self) -> None:
        """Refuses new requests, and returns when those that are there have their answers."""
        self.state = STOPPING
        while self._active:
            await asyncio.sleep(0.01)
        if self._work and self._batcher:
            self._work.cancel()
            self._batcher.close()

    @web.middleware
    async def _around(self, request: web.Request, handler: Callable) -> web.StreamResponse:
        """Counts, checks, and makes a line of JSON of everything that goes wrong."""
        started, status = time.monotonic(), 499  # as nginx counts those who went away
        with self._counted(request):
            try:
                response = await self._answered(request, handler)
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
    def _counted(self, request: web.Request) -> Iterator[None]:
        self._active += 1
        self.keeper.begins(request.protocol)
        try:
            yield
        finally:
            self._active -= 1
            self.keeper.ends(request.protocol)

    async def _answered(self, request: web.Request, handler: Callable) -> web.StreamResponse:
        try:
            request_guard.check(request, self._names)
            return await handler(request)
        except RefusalError as refused:
            return refused.response()
        except web.HTTPException as error:
            response = RefusalError(
                error.status, f"{request.method[:20]}: {error.reason}"
            ).response()
            if isinstance(error, web.HTTPMethodNotAllowed):
                response.headers["Allow"] = error.headers["Allow"]
            return response
        except ConnectionError:  # nobody is there any more
            raise
        except Exception:  # ours, not the client's; whoever runs the service is to see it
            log.exception("a request failed")
            return RefusalError(500, "the service failed over this request").response()

    async def _show(self, request: web.Request) -> web.Response:
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
        top = _top(request, len(self._model.classes))
        ends = time.monotonic() + self.limits.seconds
        with self._memory.held_by_one() as take:
            files = await _until(
                ends,
                uploads.read(request, self.limits, take),
                RefusalError(
                    408, f"the request took longer than {self.limits.seconds:g} s to arrive"
                ),
            )
            taken = [file.contents for file in files if not file.problem]
            try:
                rows = await _until(
                    ends,
                    self._batcher.answers(taken),
                    RefusalError(503, f"no answer within {self.limits.seconds:g} s; send it again"),
                )
            except QueueFullError:
                raise RefusalError(503, "the queue is full; send it again in a moment") from None
        return self._as_response(_matched(files, rows), top)

    def _as_response(self, found: list[tuple[str, Any]], top: int) -> web.Response:
        assert self._model
        answers = [describe(self._model, name, one, top) for name, one in found]
        read = sum("problem" not in answer for answer in answers)
        self.metrics.image(True, read)
        self.metrics.image(False, len(answers) - read)
        if read:
            return web.json_response({"files": answers})
        first = f"{answers[0]['name']}: {answers[0]['problem']}"
        one = len(answers) == 1
        raise RefusalError(422, first if one else "no image could be read", files=answers)


def _top(request: web.Request, classes: int) -> int:
    unknown = [name for name in request.query if name != "top"]
    if unknown:
        raise RefusalError(400, f"unknown parameter {unknown[0][:100]!r}; allowed: top")
    text = request.query.get("top", str(TOP))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text)):
        raise RefusalError(400, f"top={text[:100]!r}; allowed: a whole number, 1 or more")
    return min(int(text), classes)


async def _until(ends: float, work: Awaitable, late: RefusalError) -> Any:
    try:
        return await asyncio.wait_for(work, max(0.0, ends - time.monotonic()))
    except asyncio.TimeoutError:
        raise late from None


def _matched(files: Sequence[Upload], rows: Sequence[Any]) -> list[tuple[str, Any]]:
    """Each file's name, and its row of probabilities or its problem."""
    rest = iter(rows)
    return [(file.name, file.problem if file.problem else next(rest)) for file in files]


def describe(model: Model, name: str, found: np.ndarray | UserError | str, top: int) -> dict:
    """What is said of one image, as JSON has it: its labels, likeliest first, or its problem.

    found: its probabilities [classes], or the problem.
    """
    if isinstance(found, UserError | str):
        return {"name": name, "problem": str(found)}
    [answer] = prediction.interpret(model.classes, model.rule, [name], found[None], top)
    if answer.problem:
        return {"name": name, "problem": answer.problem}
    return {
        "name": name,
        "decision": answer.decision,
        "uncertain": answer.decision is None,
        "predictions": [
            {"label": label, "probability": probability} for label, probability in answer.labels
        ],
    }
