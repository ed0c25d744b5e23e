"""A picture from the web: http and https only, with a limit on bytes and on time."""

from __future__ import annotations

import time
import urllib.error
import urllib.parse
import urllib.request

from engine.specs import UserError

SCHEMES = ("http", "https")
MOST_BYTES = 64 * 2**20
MOST_SECONDS = 20.0
PIECE = 2**16


def is_url(text: str) -> bool:
    """Whether it looks like an address and not like a path: `scheme://…`."""
    return "://" in text


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, and to nothing else."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        check(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check(url: str) -> None:
    """Nothing, where the address is one that may be fetched.

    Raises:
      UserError: another scheme than http and https, or no host.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise UserError(f"{url}: allowed: http://… and https://…; download it first")


def fetch(url: str, most_bytes: int = MOST_BYTES, most_seconds: float = MOST_SECONDS) -> bytes:
    """The bytes behind an address.

    Raises:
      UserError: not http or https, no answer in time, an error status, too large, or a page.
    """
    check(url)
    opener = urllib.request.build_opener(_Redirects)
    request = urllib.request.Request(url, headers={"User-Agent": "unfreeze"})
    deadline = time.monotonic() + most_seconds
    try:
        with opener.open(request, timeout=most_seconds) as answer:
            kind = answer.headers.get_content_type()
            if kind.startswith("text/"):
                raise UserError(f"{url}: gives {kind}; allowed: the address of a picture itself")
            return _read(answer, url, most_bytes, deadline, most_seconds)
    except (OSError, ValueError) as error:  # URLError and HTTPError are OSErrors
        reason = getattr(error, "reason", None) or error
        raise UserError(f"{url}: could not be fetched ({reason}); check the address") from None


def _read(answer, url: str, most_bytes: int, deadline: float, most_seconds: float) -> bytes:
    pieces: list[bytes] = []
    size = 0
    # read1 gives what has come, so that a slow sender can't stretch the deadline
    while piece := answer.read1(PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > most_bytes:
            raise UserError(f"{url}: more than {most_bytes >> 20} MiB; download it and shrink it")
        if time.monotonic() > deadline:
            raise UserError(f"{url}: took longer than {most_seconds:g} s; download it first")
    return b"".join(pieces)
