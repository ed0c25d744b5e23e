"""Reads the files of a request in chunks, within the limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from engine.core.errors import UserError
from engine.serving.limits import MB, Limits, RefusalError

CHUNK_BYTES = 2**16
MAX_NAME_LENGTH = 255
LINES_PER_FILE = 40  # boundaries and headers of a form, per file
# Besides image/*; the second is the default of `curl --data-binary`.
RAW_CONTENT_TYPES = ("application/octet-stream", "application/x-www-form-urlencoded")
CONTENT_TYPES = "multipart/form-data, image/* or application/octet-stream"

Upload = tuple[str, bytes | UserError]  # a file's name as sent; its bytes, or why it is refused


class UploadReader:
    """Reads the files of a request's body, in order.

    Args:
      reserve: called with the number of bytes before they are stored.
    """

    def __init__(
        self, request: web.Request, limits: Limits, reserve: Callable[[int], None]
    ) -> None:
        self._request, self._limits, self._reserve = request, limits, reserve

    async def read(self) -> list[Upload]:
        """Returns the files.

        Raises:
          RefusalError: no file, too many or too large, of an unknown content type, or incomplete.
          ConnectionError: the client disconnected.
        """
        if self._request.headers.get("Content-Encoding", "identity") != "identity":
            raise RefusalError(415, "the body is compressed; send it uncompressed")
        self._require_size(self._request.content_length or 0)
        content_type = self._request.content_type
        try:
            if content_type == "multipart/form-data":
                return await self._read_form()
            if content_type.startswith("image/") or content_type in RAW_CONTENT_TYPES:
                return [await self._read_body()]
        except web.RequestPayloadError:
            raise RefusalError(400, "the body does not match its headers; send it again") from None
        raise RefusalError(415, f"Content-Type {content_type[:100]!r}; allowed: {CONTENT_TYPES}")

    async def _read_body(self) -> Upload:
        contents = await self._read_file(self._request.content.read)
        if contents == b"":
            raise RefusalError(400, "the body is empty; send an image")
        return "body", contents

    async def _read_form(self) -> list[Upload]:
        uploads: list[Upload] = []
        files = self._limits.files
        lines = _LineLimitedStream(self._request.content, LINES_PER_FILE * (files + 1))
        try:
            async for part in MultipartReader(self._request.headers, cast(StreamReader, lines)):
                if len(uploads) == files:
                    raise RefusalError(
                        413, f"more than {files} files; send them in several requests"
                    )
                uploads.append(await self._read_part(part))
        # What aiohttp raises for a body that does not match its headers, AssertionError among them.
        except (ValueError, RuntimeError, AssertionError, HttpProcessingError):
            raise RefusalError(
                400, "the multipart body is broken or cut short; resend it"
            ) from None
        if not uploads:
            raise RefusalError(400, "no file in the form; send one or more images")
        return uploads

    async def _read_part(self, part: BodyPartReader | MultipartReader | None) -> Upload:
        if not isinstance(part, BodyPartReader):
            raise RefusalError(
                400, "a multipart body within the form; send each file as its own part"
            )
        name = (part.filename or part.name or "file")[:MAX_NAME_LENGTH]
        # aiohttp decodes invalid UTF-8 to lone surrogates, which JSON parsers refuse.
        name = name.encode(errors="surrogateescape").decode(errors="replace")
        return name, await self._read_file(part.read_chunk)

    async def _read_file(self, read_chunk: Callable) -> bytes | UserError:
        """Returns the bytes of a file, or an error if it is larger than allowed."""
        contents, size, limit = bytearray(), 0, self._limits.file_bytes
        while chunk := await read_chunk(CHUNK_BYTES):
            self._require_size(self._request.content.total_bytes)
            size += len(chunk)
            if size <= limit:
                self._reserve(len(chunk))
                contents += chunk
        return bytes(contents) if size <= limit else UserError(f"larger than {limit / MB:g} MB")

    def _require_size(self, size: int) -> None:
        limits = self._limits
        if size > limits.request_bytes:
            raise RefusalError(
                413,
                f"the request is larger than {limits.request_bytes / MB:g} MB; "
                f"allowed: {limits.file_bytes / MB:g} MB a file, {limits.files} files",
            )


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
