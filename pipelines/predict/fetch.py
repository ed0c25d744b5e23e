"""Fetches images by http and https from public hosts, with limits on bytes and time."""

from __future__ import annotations

import http.client
import queue
import threading
import urllib.parse
import urllib.request

from engine.core.errors import UserError
from engine.core.text import byte_size
from pipelines.predict import url_policy

SCHEMES = ("http", "https")
MAX_BYTES = 64 * 2**20
MAX_SECONDS = 20.0
_RESERVED = "%:/?#[]@!$&'()*+,;=~"  # stay unquoted in a URL (RFC 3986)


def is_url(text: str) -> bool:
    """Whether the text is a URL and not a path: `scheme://…`."""
    return "://" in text


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        require_web_url(newurl)
        fp.close()  # else urllib would read its body of any length
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def require_web_url(url: str) -> None:
    """Requires a URL that may be fetched.

    Raises:
      UserError: another scheme than http and https, or no host.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        allowed = parts.scheme in SCHEMES and bool(parts.hostname)
    except ValueError:  # brackets that don't close
        allowed = False
    if not allowed:
        raise UserError(f"{url}: allowed: http://… and https://…; download it first")


def fetch(
    url: str,
    max_bytes: int = MAX_BYTES,
    max_seconds: float = MAX_SECONDS,
    allow_private: bool = False,
) -> bytes:
    """Fetches the bytes of a URL.

    Args:
      allow_private: whether the host may be outside of the public internet.

    Raises:
      UserError: not http or https, no public host, no answer in time, an error status, too large,
        or a page.
    """
    require_web_url(url)
    outcomes: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            outcomes.put(_download(url, max_bytes, max_seconds, allow_private))
        except Exception as error:
            outcomes.put(error)

    # A socket's timeout is for each read, and none is for the name look-up: a server that sends a
    # byte now and then could block for ever. So a thread downloads, with a limit on the whole.
    threading.Thread(target=attempt, daemon=True).start()
    try:
        outcome = outcomes.get(timeout=max_seconds)
    except queue.Empty:
        raise UserError(f"{url}: took longer than {max_seconds:g} s; download it first") from None
    if isinstance(outcome, (OSError, ValueError, http.client.HTTPException)):
        reason = str(getattr(outcome, "reason", None) or outcome).split("\n")[0].strip()
        raise UserError(f"{url}: could not be fetched ({reason}); check the URL")
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _download(url: str, max_bytes: int, max_seconds: float, allow_private: bool) -> bytes:
    # Pasted spaces and non-ASCII letters are sent as %-escapes.
    request = urllib.request.Request(urllib.parse.quote(url, safe=_RESERVED))
    request.add_header("User-Agent", "unfreeze")
    guards = () if allow_private else (url_policy.PublicHTTP, url_policy.PublicHTTPS)
    opener = urllib.request.build_opener(_Redirects, *guards)
    with opener.open(request, timeout=max_seconds) as answer:
        kind = answer.headers.get_content_type()
        if kind.startswith("text/"):
            raise UserError(f"{url}: returns {kind}; allowed: the URL of an image itself")
        contents = answer.read(max_bytes + 1)
    if len(contents) > max_bytes:
        raise UserError(f"{url}: more than {byte_size(max_bytes)}; download it and shrink it")
    if answer.length:  # bytes that are missing; a read with a limit doesn't raise
        raise http.client.IncompleteRead(contents, answer.length)
    return contents
