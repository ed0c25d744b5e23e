"""Where a service listens."""

from __future__ import annotations

import contextlib

import pytest

from engine.core.errors import UserError
from engine.serving import server


def test_a_port_is_taken_from_the_moment_on_that_it_is_bound():
    """Else of two services that are started together one would fail later, and with a traceback."""
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
def test_an_address_is_what_a_browser_takes(host, start):
    try:
        bound = server.bind(host, 0)
    except UserError:
        pytest.skip(f"this machine has no {host}")
    with contextlib.closing(bound):
        assert server.address(bound) == f"{start}{bound.getsockname()[1]}/"
