"""The files of a request, taken in piece by piece and no further than the limits go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from engine.serving.limits import MB, Limits, RefusalError

CHUNK = 2**16
LONGEST_NAME = 255
PART_LINES = 40  # of a form, for each of its files: boundaries and heads
# Beside image/*; the second is what `curl --data-binary` says of whatever it sends.
RAW = ("application/octet-stream", "application/x-www-form-urlencoded")
KINDS = "multipart/form-data, image/* or application/octet-stream"


@dataclasses.dataclass(frozen=True)
class Upload:
    """A file's name as the client gave it, and its bytes; or why they were not taken."""

    name: str
    contents: bytes = b""
    problem: str | None = None


async def read(request: web.Request, limits: Limits, take: Callable[[int], None]) -> list[Upload]:
    """The files of a request's body, in their order.

    take: is told of bytes before they are kept.

    Raises:
      RefusalError: no files, too many, too large in all, of an unknown kind, or cut short.
      ConnectionError: the client went away.
    """
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise RefusalError(415, "the body is compressed; send it as it is")
    if (request.content_length or 0) > limits.request_bytes:
        raise _too_large(limits)
    try:
        return await _read(request, limits, take)
    except web.RequestPayloadError:
        raise RefusalError(400, "the body is not what its head says; send it anew") from None


async def _read(request: web.Request, limits: Limits, take: Callable[[int], None]) -> list[Upload]:
    kind = request.content_type
    if kind == "multipart/form-data":
        return await _form(request, limits, take)
    if not kind.startswith("image/") and kind not in RAW:
        raise RefusalError(415, f"Content-Type {kind[:100]!r}; allowed: {KINDS}")
    whole = await _kept(request.content.read, request, limits, take)
    if whole == b"":
        raise RefusalError(400, "the body is empty; send an image")
    return [_upload("body", whole, limits)]


class _Lines:
    """A body of which not more than so many lines are read as lines.

    aiohttp looks for the beginning of a form without end, and while the lines are there already,
    without letting anybody else have a turn.
    """

    def __init__(self, content: StreamReader, most: int) -> None:
        self._content, self._left = content, most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def readline(self, **settings: Any) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many lines")
        return await self._content.readline(**settings)


async def _form(request: web.Request, limits: Limits, take: Callable[[int], None]) -> list[Upload]:
    found: list[Upload] = []
    try:
        lines = _Lines(request.content, PART_LINES * (limits.files + 1))
        async for part in MultipartReader(request.headers, cast(StreamReader, lines)):
            if len(found) == limits.files:
                raise RefusalError(
                    413, f"more than {limits.files} files; send them in several requests"
                )
            found.append(await _part(part, request, limits, take))
    # What aiohttp raises over a body that is not what its head says; AssertionError is one of them.
    except (ValueError, RuntimeError, AssertionError, HttpProcessingError):
        raise RefusalError(400, "the multipart body is broken or cut short; send it anew") from None
    if not found:
        raise RefusalError(400, "no file in the form; send one or more images")
    return found


async def _part(
    part: BodyPartReader | MultipartReader | None,
    request: web.Request,
    limits: Limits,
    take: Callable[[int], None],
) -> Upload:
    if not isinstance(part, BodyPartReader):
        raise RefusalError(
            400, "a multipart body within the form; send each file as a part of its own"
        )
    whole = await _kept(part.read_chunk, request, limits, take)
    return _upload(part.filename or part.name or "file", whole, limits)


async def _kept(
    more: Callable, request: web.Request, limits: Limits, take: Callable[[int], None]
) -> bytes | None:
    """A file's bytes; None where they are more than a file may have, and were let go."""
    kept, size = bytearray(), 0
    while chunk := await more(CHUNK):
        if request.content.total_bytes > limits.request_bytes:
            raise _too_large(limits)
        size += len(chunk)
        if size <= limits.file_bytes:
            take(len(chunk))
            kept += chunk
    return bytes(kept) if size <= limits.file_bytes else None


def _upload(name: str, whole: bytes | None, limits: Limits) -> Upload:
    # Bytes that are no UTF-8 have come as lone surrogates, which JSON could not be read with.
    name = name[:LONGEST_NAME].encode(errors="surrogateescape").decode(errors="replace")
    if whole is None:
        return Upload(name, problem=f"larger than {limits.file_bytes / MB:g} MB")
    return Upload(name, whole)


def _too_large(limits: Limits) -> RefusalError:
    return RefusalError(
        413,
        f"the request is larger than {limits.request_bytes / MB:g} MB; "
        f"allowed: {limits.file_bytes / MB:g} MB a file, {limits.files} files",
    )
