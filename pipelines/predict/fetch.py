"""Fetches images by http and https from public hosts, with limits on bytes and time."""

from __future__ import annotations

import contextlib
import http.client
import re
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
      UserError: another scheme than http and https, no host, or a password, which is not shown.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        allowed = parts.scheme in SCHEMES and bool(parts.hostname)
    except ValueError:  # brackets that don't close
        allowed = False
    shown = re.sub(r"(^[^/?#]*//)[^/?#]*@", r"\1***@", url)
    if shown != url:
        raise UserError(f"{shown}: holds a user name or a password; download it first")
    if not allowed:
        raise UserError(f"{url}: allowed: http://… and https://…; download it first")


def require_public_host(url: str) -> None:
    """Requires a URL that may be fetched from a public host, or from one that is not known here.

    Raises:
      UserError: see `require_web_url`; or its host is not public.
    """
    require_web_url(url)
    with contextlib.suppress(OSError):
        url_policy.require_public(urllib.parse.urlsplit(url).hostname or "", 0)


def fetch(url: str, allow_private: bool = False) -> bytes:
    """Fetches the bytes of a URL.

    Args:
      allow_private: whether the host may be outside of the public internet.

    Raises:
      UserError: not http or https, no public host, no answer in time, an error status, too large,
        or a page.
    """
    require_web_url(url)
    outcomes: list[bytes | Exception] = []

    def attempt() -> None:
        try:
            outcomes.append(_download(url, allow_private))
        except Exception as error:
            outcomes.append(error)

    # A socket's timeout is for each read, and none is for the name look-up: a server that sends a
    # byte now and then could block for ever. So a thread downloads, with a limit on the whole.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(MAX_SECONDS)
    if not outcomes:
        raise UserError(f"{url}: took longer than {MAX_SECONDS:g} s; download it first")
    outcome = outcomes[0]
    if isinstance(outcome, (OSError, ValueError, http.client.HTTPException)):
        reason = str(getattr(outcome, "reason", None) or outcome).split("\n")[0].strip()
        raise UserError(f"{url}: could not be fetched ({reason}); check the URL")
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _download(url: str, allow_private: bool) -> bytes:
    # Pasted spaces and non-ASCII letters are sent as %-escapes.
    request = urllib.request.Request(urllib.parse.quote(url, safe=_RESERVED))
    request.add_header("User-Agent", "unfreeze")
    guards = () if allow_private else (url_policy.PublicHTTP, url_policy.PublicHTTPS)
    opener = urllib.request.build_opener(_Redirects, *guards)
    with opener.open(request, timeout=MAX_SECONDS) as answer:
        kind = answer.headers.get_content_type()
        if kind.startswith("text/"):
            raise UserError(f"{url}: returns {kind}; allowed: the URL of an image itself")
        contents = answer.read(MAX_BYTES + 1)
    if len(contents) > MAX_BYTES:
        raise UserError(f"{url}: more than {byte_size(MAX_BYTES)}; download it and shrink it")
    if answer.length:  # bytes that are missing; a read with a limit doesn't raise
        raise http.client.IncompleteRead(contents, answer.length)
    return contents
