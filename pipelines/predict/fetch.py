"""An image from the web: http and https only, public hosts, with a limit on bytes and on time."""

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
MOST_BYTES = 64 * 2**20
MOST_SECONDS = 20.0
_MEANT = "%:/?#[]@!$&'()*+,;=~"  # what has a meaning in an address (RFC 3986) stays as it is


def is_url(text: str) -> bool:
    """Whether it looks like an address and not like a path: `scheme://…`."""
    return "://" in text


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, and to nothing else."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        check(newurl)
        fp.close()  # else urllib would read its body, however long that is
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check(url: str) -> None:
    """Nothing, where the address is one that may be fetched.

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
    most_bytes: int = MOST_BYTES,
    most_seconds: float = MOST_SECONDS,
    allow_private: bool = False,
) -> bytes:
    """The bytes behind an address.

    Args:
      allow_private: whether the host may be one that is not on the public internet.

    Raises:
      UserError: not http or https, no public host, no answer in time, an error status, too large,
        or a page.
    """
    check(url)
    outcomes: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            outcomes.put(_download(url, most_bytes, most_seconds, allow_private))
        except Exception as error:
            outcomes.put(error)

    # A socket's own limit is for each read, and none is for finding the host: a server that sends
    # a byte now and then could hold us for ever. So a thread waits, and we wait for the thread.
    threading.Thread(target=attempt, daemon=True).start()
    try:
        outcome = outcomes.get(timeout=most_seconds)
    except queue.Empty:
        raise UserError(f"{url}: took longer than {most_seconds:g} s; download it first") from None
    if isinstance(outcome, (OSError, ValueError, http.client.HTTPException)):
        reason = str(getattr(outcome, "reason", None) or outcome).split("\n")[0].strip()
        raise UserError(f"{url}: could not be fetched ({reason}); check the address")
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _download(url: str, most_bytes: int, most_seconds: float, allow_private: bool) -> bytes:
    # Spaces and letters beyond ASCII, as people paste them, travel as %-escapes.
    request = urllib.request.Request(urllib.parse.quote(url, safe=_MEANT))
    request.add_header("User-Agent", "unfreeze")
    guards = () if allow_private else (url_policy.PublicHTTP, url_policy.PublicHTTPS)
    opener = urllib.request.build_opener(_Redirects, *guards)
    with opener.open(request, timeout=most_seconds) as answer:
        kind = answer.headers.get_content_type()
        if kind.startswith("text/"):
            raise UserError(f"{url}: gives {kind}; allowed: the address of an image itself")
        contents = answer.read(most_bytes + 1)
    if len(contents) > most_bytes:
        raise UserError(f"{url}: more than {byte_size(most_bytes)}; download it and shrink it")
    if answer.length:  # of what was promised; a read of so many bytes does not complain itself
        raise http.client.IncompleteRead(contents, answer.length)
    return contents
