"""Images from the web, from a real server on this machine that behaves and misbehaves."""

from __future__ import annotations

import socket

import pytest

from engine.core.errors import UserError
from pipelines.predict import fetch
from tests.pipelines.web_server import IMAGE, MUCH, got, refused


def test_image_behind_a_redirect_is_fetched(server):
    assert got(server.address("moved")) == IMAGE
    assert server.paths == ["/moved", "/image"]
    assert server.agents == ["unfreeze"] * 2


def test_body_of_a_redirect_is_not_read(server):
    """It would be held in memory, and could go on for ever."""
    assert got(server.address("moved-at-length")) == IMAGE
    assert server.taken < MUCH


def test_url_is_escaped_once(server):
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
def test_answer_without_an_image_is_refused(server, path, words):
    assert words in refused(server.address(path))


def test_image_larger_than_the_limit_is_refused(server, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_BYTES", len(IMAGE))
    assert got(server.address("image")) == IMAGE
    monkeypatch.setattr(fetch, "MAX_BYTES", len(IMAGE) - 1)
    assert "more than 10.2 kB" in refused(server.address("image"))


@pytest.mark.parametrize("path", ["drip-body", "drip-headers"])
def test_server_that_sends_byte_by_byte_is_given_up(server, path, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_SECONDS", 0.3)
    assert "took longer than 0.3 s" in refused(server.address(path))


def test_refused_connection_is_the_reason():
    with socket.socket() as taken:  # bound and not listening: nothing else can answer there
        taken.bind(("127.0.0.1", 0))
        message = refused(f"http://127.0.0.1:{taken.getsockname()[1]}/image")
    assert "could not be fetched" in message
    assert "refused" in message


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://host/cat.jpg", "data://x", "http://", "http://[::1"]
)
def test_url_of_another_scheme_is_refused(url):
    assert refused(url).startswith(f"{url}: allowed: http://… and https://…")


@pytest.mark.parametrize(
    ("text", "yes"),
    [("https://a.org/b.jpg", True), ("ftp://a", True), ("a/b.jpg", False), ("C:cat.jpg", False)],
)
def test_urls_are_told_from_paths(text, yes):
    assert fetch.is_url(text) is yes


@pytest.mark.parametrize("path", ["a//b@2x.png", "a/@b.png", "?size=//c@2x", "#//d@e"])
def test_at_sign_behind_the_host_is_no_password(path):
    fetch.require_web_url(f"https://example.org/{path}")


@pytest.mark.parametrize("url", ["https://me:word@a.org/x", "https://me@a.org", "http://w@[::1"])
def test_password_is_refused_and_not_shown(url):
    with pytest.raises(UserError, match=r"^https?://\*\*\*@[^@]*: holds a user name or a password"):
        fetch.require_web_url(url)
