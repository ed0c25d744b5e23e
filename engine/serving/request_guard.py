"""Guards a service: known hosts, and no posts from the pages of other sites."""

from __future__ import annotations

import ipaddress
import urllib.parse
from collections.abc import Collection

from aiohttp.web import BaseRequest

from engine.serving.limits import RefusalError


def check_origin(request: BaseRequest, names: Collection[str]) -> None:
    """Requires that a request is addressed to this service and is not from another site's page.

    A page of another site whose name resolves to this machine (DNS rebinding) still sends that name
    in `Host`, so only addresses and known names are allowed. Browsers mark posts across sites in
    `Sec-Fetch-Site`; old ones, and pages over plain HTTP, only name the page's site in `Origin`.
    Programs send neither.

    Raises:
      RefusalError: the host is unknown, or the request comes from another site.
    """
    host = request.headers.get("Host")  # None in HTTP/1.0, which no browser uses
    if host is not None and not _is_known(host, names):
        raise RefusalError(
            421,
            f"Host {host[:100]!r} is not known; allowed: {', '.join(sorted(names))}, any "
            "address, and the names of --allow_host",
        )
    if request.method not in ("GET", "HEAD") and _is_foreign(request, host):
        raise RefusalError(403, "pages of other sites may not send images")


def _is_known(host: str, names: Collection[str]) -> bool:
    try:
        name = urllib.parse.urlsplit(f"//{host}").hostname or ""
        return name in names or bool(ipaddress.ip_address(name))
    except ValueError:  # unbalanced brackets, or no address
        return False


def _is_foreign(request: BaseRequest, host: str | None) -> bool:
    """Checks `Sec-Fetch-Site` first, since a proxy may have replaced the page's `Host`."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("none", "same-origin")
    own_origins = [f"{scheme}://{host}".lower() for scheme in ("http", "https")]
    return origin is not None and origin.lower() not in own_origins
