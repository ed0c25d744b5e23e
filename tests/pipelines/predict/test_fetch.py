"""Images from the web, from a real server on this machine that behaves and misbehaves."""

from __future__ import annotations

import socket

import pytest

from pipelines.predict import fetch
from tests.pipelines.web_server import IMAGE, MUCH, got, refused


def test_a_image_comes_as_it_is(server):
    assert got(server.address("image")) == IMAGE
    assert server.agents == ["unfreeze"]


def test_a_redirect_to_the_web_is_followed(server):
    assert got(server.address("moved")) == IMAGE
    assert server.paths == ["/moved", "/image"]


def test_what_a_redirect_says_beside_is_not_read(server):
    """It would be held in memory, and could go on for ever."""
    assert got(server.address("moved-at-length")) == IMAGE
    assert server.taken < MUCH


def test_spaces_and_letters_beyond_ascii_are_escaped_and_escapes_are_kept(server):
    assert got(server.address("große Katze%20.jpg?size=1&x=é")) == IMAGE
    assert server.paths == ["/gro%C3%9Fe%20Katze%20.jpg?size=1&x=%C3%A9"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("page", "returns text/html"),
        ("broken-off", "could not be fetched (IncompleteRead(10233 bytes read, 7 more expected))"),
        ("missing", "could not be fetched (Not Found)"),
        ("circle", "could not be fetched (The HTTP server returned a redirect error"),
        ("nonsense", "could not be fetched (this is no HTTP)"),
        ("to-file", "to url 'file:///etc/hostname' is not allowed"),
        ("to-ftp", "ftp://127.0.0.1/image: allowed: http://… and https://…"),
    ],
)
def test_what_is_no_image_is_refused(server, path, words):
    assert words in refused(server.address(path))


def test_a_image_may_be_as_large_as_the_limit_and_no_larger(server):
    assert got(server.address("image"), max_bytes=len(IMAGE)) == IMAGE
    message = refused(server.address("image"), max_bytes=len(IMAGE) - 1)
    assert "more than 10.2 kB" in message


@pytest.mark.parametrize("path", ["drip-body", "drip-headers"])
def test_a_server_that_drips_does_not_hold_us(server, path):
    assert "took longer than 0.3 s" in refused(server.address(path), max_seconds=0.3)


def test_where_nobody_listens_the_reason_is_told():
    with socket.socket() as taken:  # bound and not listening: nobody else can answer there
        taken.bind(("127.0.0.1", 0))
        message = refused(f"http://127.0.0.1:{taken.getsockname()[1]}/image")
    assert "could not be fetched" in message
    assert "refused" in message


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/hostname",
        "ftp://host/cat.jpg",
        "data://x",
        "http://",
        "http://[::1",
        "s3://b/c",
    ],
)
def test_only_web_addresses_are_fetched(url):
    assert refused(url).startswith(f"{url}: allowed: http://… and https://…")


@pytest.mark.parametrize(
    ("text", "yes"),
    [("https://a.org/b.jpg", True), ("ftp://a", True), ("a/b.jpg", False), ("C:cat.jpg", False)],
)
def test_addresses_are_told_from_paths(text, yes):
    assert fetch.is_url(text) is yes
