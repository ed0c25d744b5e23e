"""Which hosts may be asked: those of the public internet, and no others unless told.

A page on the web can name any address. One inside this network would be asked with our rights:
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
# What not every version of Python knows to be none of the public internet.
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in (
        *("168.63.129.16/32", "64:ff9b:1::/48"),  # Azure's platform; RFC 8215, local NAT64
        *("::/96", "::ffff:0:0:0/96"),  # IPv4 in other clothes: RFC 4291, RFC 7915
        *("fec0::/10", "3fff::/20", "5f00::/16", "100:0:0:1::/64"),  # RFC 3879, 9637, 9602, 9780
    )
]


def is_public(address: Address) -> bool:
    """Whether it is reachable from everywhere by the IANA registries of special addresses.

    An IPv6 address that stands for an IPv4 one is as public as that one.
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
    """The host's addresses, as they may be connected to.

    Raises:
      UserError: one of them is not public.
      OSError: there is no such host.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    names = [str(entry[4][0]) for entry in found]
    for name in names:
        if not is_public(ipaddress.ip_address(name.partition("%")[0])):
            raise UserError(
                f"{host} is {name}, which is no address of the public internet; "
                "--allow_private_urls fetches it all the same"
            )
    return names


def _connect(target: tuple[str, int], *how: Any) -> socket.socket:
    """As `socket.create_connection`, to the very addresses that were looked at.

    A name that is looked up twice can be another address the second time.
    """
    host, port = target
    error: OSError | None = None
    for name in require_public(host, port):
        try:
            return socket.create_connection((name, port), *how)
        except OSError as failed:
            error = failed
    raise error or OSError(f"{host} has no address")


class _Connection(http.client.HTTPConnection):
    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._create_connection = _connect


class _SafeConnection(http.client.HTTPSConnection):
    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._create_connection = _connect


class PublicHTTP(urllib.request.HTTPHandler):
    """Opens http addresses on public hosts."""

    def http_open(self, request: urllib.request.Request) -> Any:
        if request.has_proxy():
            _require_public_behind_proxy(request)
            return super().http_open(request)
        return self.do_open(_Connection, request)


class PublicHTTPS(urllib.request.HTTPSHandler):
    """Opens https addresses on public hosts."""

    def https_open(self, request: urllib.request.Request) -> Any:
        # An http address comes here too where its proxy is to be spoken to in https.
        if request.has_proxy() or request._tunnel_host:  # type: ignore[attr-defined]
            _require_public_behind_proxy(request)
            return super().https_open(request)
        return self.do_open(_SafeConnection, request)


def _require_public_behind_proxy(request: urllib.request.Request) -> None:
    """The user's own proxy may be anywhere; what it is asked for may not."""
    host = urllib.parse.urlsplit(request.full_url).hostname or ""
    with contextlib.suppress(OSError):  # a name that only the proxy knows is the proxy's to judge
        require_public(urllib.parse.unquote(host), 0)
