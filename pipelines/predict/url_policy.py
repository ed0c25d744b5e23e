"""Restricts requests to hosts of the public internet.

A URL from elsewhere may name any host. One inside this network would be requested with our rights:
the router, a cloud's metadata service, a program that listens on this machine.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import urllib.parse
import urllib.request
from typing import Any

from engine.core.errors import UserError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last four bytes are an IPv4 address
# Not public, which not every version of Python knows.
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in (
        *("168.63.129.16/32", "64:ff9b:1::/48"),  # Azure's platform; RFC 8215, local NAT64
        *("::/96", "::ffff:0:0:0/96"),  # embedded IPv4: RFC 4291, RFC 7915
        *("fec0::/10", "3fff::/20", "5f00::/16", "100:0:0:1::/64"),  # RFC 3879, 9637, 9602, 9780
    )
]


def is_public(address: Address) -> bool:
    """Whether an address is globally reachable by the IANA registries of special addresses.

    An IPv6 address with an embedded IPv4 address is as public as that.
    """
    if isinstance(address, ipaddress.IPv6Address):
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        if address in _NAT64:
            inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if not all(is_public(one) for one in inner if one is not None):
            return False
    listed = any(address in network for network in _NOT_PUBLIC)
    return address.is_global and not address.is_multicast and not listed


def require_public(host: str, port: int) -> list[str]:
    """Returns the host's addresses to connect to.

    Raises:
      UserError: one of them is not public.
      OSError: there is no such host.
    """
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    names = [str(entry[4][0]) for entry in entries]
    for name in names:
        if not is_public(ipaddress.ip_address(name.partition("%")[0])):
            raise UserError(
                f"{host} is {name}, which is not on the public internet; "
                "--allow_private_urls allows it"
            )
    return names


def _connect(target: tuple[str, int], *how: Any) -> socket.socket:
    """Connects like `socket.create_connection`, to the addresses that were checked.

    A second look-up of the name could return another address.
    """
    host, port = target
    error: OSError | None = None
    for name in require_public(host, port):
        try:
            return socket.create_connection((name, port), *how)
        except OSError as failed:
            error = failed
    raise error or OSError(f"{host} has no address")


class _CheckedConnection(http.client.HTTPConnection):
    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._create_connection = _connect


class _CheckedTLSConnection(_CheckedConnection, http.client.HTTPSConnection):
    pass


class PublicHTTP(urllib.request.HTTPHandler):
    """Opens http URLs on public hosts."""

    def http_open(self, request: urllib.request.Request) -> Any:
        if _is_proxied(request):
            return super().http_open(request)
        return self.do_open(_CheckedConnection, request)


class PublicHTTPS(urllib.request.HTTPSHandler):
    """Opens https URLs on public hosts, and http URLs whose proxy uses https."""

    def https_open(self, request: urllib.request.Request) -> Any:
        if _is_proxied(request):
            return super().https_open(request)
        return self.do_open(_CheckedTLSConnection, request)


def _is_proxied(request: urllib.request.Request) -> bool:
    """Whether a proxy, wherever it is, gets the request; the host must be public then too."""
    if not (request.has_proxy() or request._tunnel_host):  # type: ignore[attr-defined]
        return False
    host = urllib.parse.urlsplit(request.full_url).hostname or ""
    with contextlib.suppress(OSError):  # only the proxy may know the name
        require_public(urllib.parse.unquote(host), 0)
    return True
