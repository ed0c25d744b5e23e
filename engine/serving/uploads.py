"""Reads the files of a request in chunks, within the limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, cast

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from engine.serving.limits import MB, Limits, RefusalError

CHUNK_BYTES = 2**16
MAX_NAME_LENGTH = 255
LINES_PER_FILE = 40  # boundaries and headers of a form, per file
# Besides image/*; the second is the default of `curl --data-binary`.
RAW_CONTENT_TYPES = ("application/octet-stream", "application/x-www-form-urlencoded")
CONTENT_TYPES = "multipart/form-data, image/* or application/octet-stream"


Reserve = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Upload:
    """A file's name as sent, and its bytes or the reason for refusing them."""

    name: str
    contents: bytes = b""
    problem: str | None = None


async def read(request: web.Request, limits: Limits, reserve: Reserve) -> list[Upload]:
    """Reads the files of a request's body, in order.

    Args:
      reserve: called with the number of bytes before they are stored.

    Raises:
      RefusalError: no file, too many or too large, of an unknown content type, or incomplete.
      ConnectionError: the client disconnected.
    """
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise RefusalError(415, "the body is compressed; send it uncompressed")
    if (request.content_length or 0) > limits.request_bytes:
        raise _too_large(limits)
    try:
        return await _read(request, limits, reserve)
    except web.RequestPayloadError:
        raise RefusalError(400, "the body does not match its headers; send it again") from None


async def _read(request: web.Request, limits: Limits, reserve: Reserve) -> list[Upload]:
    content_type = request.content_type
    if content_type == "multipart/form-data":
        return await _form(request, limits, reserve)
    if not content_type.startswith("image/") and content_type not in RAW_CONTENT_TYPES:
        raise RefusalError(415, f"Content-Type {content_type[:100]!r}; allowed: {CONTENT_TYPES}")
    contents = await _read_file(request.content.read, request, limits, reserve)
    if contents == b"":
        raise RefusalError(400, "the body is empty; send an image")
    return [_upload("body", contents, limits)]


class _LineLimitedStream:
    """A body with a limit on the lines that are read.

    aiohttp searches for the start of a form without a limit, and on buffered lines without
    yielding to the event loop.
    """

    def __init__(self, content: StreamReader, max_lines: int) -> None:
        self._content, self._remaining = content, max_lines

    def __getattr__(self, name: str) -> Any:
        return getattr(self._content, name)

    async def readline(self, **settings: Any) -> bytes:
        self._remaining -= 1
        if self._remaining < 0:
            raise ValueError("too many lines")
        return await self._content.readline(**settings)


async def _form(request: web.Request, limits: Limits, reserve: Reserve) -> list[Upload]:
    uploads: list[Upload] = []
    try:
        lines = _LineLimitedStream(request.content, LINES_PER_FILE * (limits.files + 1))
        async for part in MultipartReader(request.headers, cast(StreamReader, lines)):
            if len(uploads) == limits.files:
                raise RefusalError(
                    413, f"more than {limits.files} files; send them in several requests"
                )
            uploads.append(await _part(part, request, limits, reserve))
    # What aiohttp raises for a body that does not match its headers, AssertionError among them.
    except (ValueError, RuntimeError, AssertionError, HttpProcessingError):
        raise RefusalError(400, "the multipart body is broken or cut short; resend it") from None
    if not uploads:
        raise RefusalError(400, "no file in the form; send one or more images")
    return uploads


async def _part(
    part: BodyPartReader | MultipartReader | None,
    request: web.Request,
    limits: Limits,
    reserve: Reserve,
) -> Upload:
    if not isinstance(part, BodyPartReader):
        raise RefusalError(400, "a multipart body within the form; send each file as its own part")
    contents = await _read_file(part.read_chunk, request, limits, reserve)
    return _upload(part.filename or part.name or "file", contents, limits)


async def _read_file(
    read_chunk: Callable, request: web.Request, limits: Limits, reserve: Reserve
) -> bytes | None:
    """Reads the bytes of a file; returns None if it is larger than allowed."""
    contents, size = bytearray(), 0
    while chunk := await read_chunk(CHUNK_BYTES):
        if request.content.total_bytes > limits.request_bytes:
            raise _too_large(limits)
        size += len(chunk)
        if size <= limits.file_bytes:
            reserve(len(chunk))
            contents += chunk
    return bytes(contents) if size <= limits.file_bytes else None


def _upload(name: str, contents: bytes | None, limits: Limits) -> Upload:
    # aiohttp decodes invalid UTF-8 to lone surrogates, which JSON parsers refuse.
    name = name[:MAX_NAME_LENGTH].encode(errors="surrogateescape").decode(errors="replace")
    if contents is None:
        return Upload(name, problem=f"larger than {limits.file_bytes / MB:g} MB")
    return Upload(name, contents)


def _too_large(limits: Limits) -> RefusalError:
    return RefusalError(
        413,
        f"the request is larger than {limits.request_bytes / MB:g} MB; "
        f"allowed: {limits.file_bytes / MB:g} MB a file, {limits.files} files",
    )
