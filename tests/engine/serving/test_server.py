"""The address that a service listens at."""

from __future__ import annotations

import contextlib

import pytest

from engine.core.errors import UserError
from engine.serving import server


def test_bind_reserves_port():
    """Otherwise, of two services started together, one would fail later, with a traceback."""
    with contextlib.closing(server.bind("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(UserError, match=f"--port={port}: Address already in use; name another"):
            server.bind("127.0.0.1", port)
    server.bind("127.0.0.1", port).close()


@pytest.mark.parametrize(
    ("host", "start"),
    [
        ("127.0.0.1", "http://127.0.0.1:"),
        ("0.0.0.0", "http://127.0.0.1:"),
        ("::1", "http://[::1]:"),
    ],
)
def test_address_is_a_browser_url(host, start):
    try:
        bound = server.bind(host, 0)
    except UserError:
        pytest.skip(f"this machine has no {host}")
    with contextlib.closing(bound):
        assert server.address(bound) == f"{start}{bound.getsockname()[1]}/"
