"""Which hosts are requested: those of the public internet, by whatever name or way."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from pipelines.predict import fetch, url_policy
from tests.pipelines.web_server import IMAGE, refused

PRIVATE = (
    *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "%31%32%37.0.0.1", "localhost", "0.0.0.0"),
    *("[::1]", "[::ffff:127.0.0.1]", "[::]"),
)


@pytest.mark.parametrize("host", PRIVATE)
def test_private_host_is_not_requested(server, host):
    url = f"http://{host}:{server.server_port}/image"
    assert "is not on the public internet; --allow_private_urls" in refused(url, False)
    assert server.paths == []


def resolving(monkeypatch, *answers: str) -> None:
    """From now on every name has these addresses, one after the other."""
    real, left = socket.getaddrinfo, list(answers)

    def look_up(host, port, *how, **settings):
        if host.replace(".", "").isdigit():
            return real(host, port, *how, **settings)
        return real(left.pop(0) if len(left) > 1 else left[0], port, *how, **settings)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize("address", ["10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_name_of_a_private_host_is_refused(monkeypatch, address, scheme):
    monkeypatch.setenv("no_proxy", "*")
    resolving(monkeypatch, address)
    message = refused(f"{scheme}://cats.example/cat.jpg", False)
    assert message.startswith(f"cats.example is {address}, which is not on the public")


def test_name_is_resolved_once(server, monkeypatch):
    """What was looked at is what is connected to; here the public address answers for us."""
    resolving(monkeypatch, "93.184.216.34", "127.0.0.1")
    connected = []

    def connect(target, *how):
        connected.append(target)
        raise ConnectionRefusedError("no listener")

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(socket, "create_connection", connect)
    assert "no listener" in refused(f"http://cats.example:{server.server_port}/image", False)
    assert connected == [("93.184.216.34", server.server_port)]


def test_redirect_to_a_private_host_is_not_followed(server, monkeypatch):
    """The first host passes for a public one."""
    real = url_policy.is_public
    monkeypatch.setattr(url_policy, "is_public", lambda a: str(a) == "127.0.0.1" or real(a))
    message = refused(server.address("inside"), False)
    assert "127.0.0.2 is 127.0.0.2, which is not on the public internet" in message
    assert server.paths == ["/inside"]


def test_private_host_behind_a_proxy_is_not_requested(server, monkeypatch):
    """The proxy itself may be anywhere; it returns what is requested."""
    monkeypatch.setenv("http_proxy", server.address(""))
    monkeypatch.setenv("no_proxy", "")
    assert "not on the public internet" in refused("http://192.168.0.1/image", False)
    assert server.paths == []
    assert fetch.fetch("http://93.184.216.34/image") == IMAGE
    assert server.paths == ["http://93.184.216.34/image"]


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("93.184.216.34", True),
        ("100.64.0.1", False),  # shared by a provider's customers
        ("198.18.0.1", False),
        ("224.0.0.251", False),
        ("255.255.255.255", False),
        ("2606:2800:220:1::1", True),
        ("fe80::1", False),
        ("fd00::1", False),
        ("ff0e::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),  # 10.0.0.1 by NAT64
        ("64:ff9b::5db8:d822", True),
        ("64:ff9b:1::7f00:1", False),
        ("::127.0.0.1", False),
        ("::ffff:0:127.0.0.1", False),
        ("fec0::1", False),
        ("168.63.129.16", False),  # Azure's platform
        ("2002:a00:1::1", False),  # 10.0.0.1 by 6to4
        ("2001:0:a00:1::1", False),  # and by Teredo
    ],
)
def test_address_is_public_by_the_registries(text, public):
    assert url_policy.is_public(ipaddress.ip_address(text)) is public
