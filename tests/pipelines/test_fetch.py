"""Pictures from the web, from a real server on this machine that behaves and misbehaves."""

import http.server
import socket
import threading

import pytest

from engine.specs import UserError
from pipelines import fetch

PICTURE = bytes(range(256)) * 40


class Server(http.server.ThreadingHTTPServer):
    """Serves until the test is over; slow answers stop when `over` is set."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.over = threading.Event()
        self.agents, self.paths = [], []

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.agents.append(self.headers["User-Agent"])
        self.server.paths.append(self.path)
        getattr(self, self.path.strip("/").split("?")[0].replace("-", "_"), self.picture)()

    def log_message(self, *_):
        pass

    def answer(self, kind, body, status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def redirect(self, target):
        self.send_response(302)
        self.send_header("Location", target)
        self.end_headers()

    def picture(self):
        self.answer("image/jpeg", PICTURE)

    def page(self):
        self.answer("text/html; charset=utf-8", b"<html>")

    def missing(self):
        self.answer("image/png", b"", status=404)

    def moved(self):
        self.redirect("/picture")

    def circle(self):
        self.redirect("/circle")

    def to_file(self):
        self.redirect("file:///etc/hostname")

    def to_ftp(self):
        self.redirect("ftp://127.0.0.1/picture")

    def drip_body(self):
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        self.drip()

    def drip_headers(self):
        self.send_response(200)
        self.flush_headers()
        self.wfile.write(b"X-Long: ")
        self.drip()

    def drip(self):
        """A byte now and then, so that no single read takes long."""
        while not self.server.over.wait(0.02):
            try:
                self.wfile.write(b"x")
            except OSError:
                return

    def nonsense(self):
        self.wfile.write(b"this is no HTTP\r\n\r\n")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()


def refused(url: str, **limits) -> str:
    with pytest.raises(UserError) as caught:
        fetch.fetch(url, **limits)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_picture_comes_as_it_is(server):
    assert fetch.fetch(server.address("picture")) == PICTURE
    assert server.agents == ["unfreeze"]


def test_a_redirect_to_the_web_is_followed(server):
    assert fetch.fetch(server.address("moved")) == PICTURE
    assert server.paths == ["/moved", "/picture"]


def test_spaces_and_letters_beyond_ascii_are_escaped_and_escapes_are_kept(server):
    assert fetch.fetch(server.address("große Katze%20.jpg?size=1&x=é")) == PICTURE
    assert server.paths == ["/gro%C3%9Fe%20Katze%20.jpg?size=1&x=%C3%A9"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("page", "gives text/html"),
        ("missing", "could not be fetched (Not Found)"),
        ("circle", "could not be fetched (The HTTP server returned a redirect error"),
        ("nonsense", "could not be fetched (this is no HTTP)"),
        ("to-file", "to url 'file:///etc/hostname' is not allowed"),
        ("to-ftp", "ftp://127.0.0.1/picture: allowed: http://… and https://…"),
    ],
)
def test_what_is_no_picture_is_refused(server, path, words):
    assert words in refused(server.address(path))


def test_a_picture_may_be_as_large_as_the_limit_and_no_larger(server):
    assert fetch.fetch(server.address("picture"), most_bytes=len(PICTURE)) == PICTURE
    message = refused(server.address("picture"), most_bytes=len(PICTURE) - 1)
    assert f"more than {len(PICTURE) - 1} bytes" in message


@pytest.mark.parametrize("path", ["drip-body", "drip-headers"])
def test_a_server_that_drips_does_not_hold_us(server, path):
    assert "took longer than 0.3 s" in refused(server.address(path), most_seconds=0.3)


def test_where_nobody_listens_the_reason_is_told():
    with socket.socket() as taken:  # bound and not listening: nobody else can answer there
        taken.bind(("127.0.0.1", 0))
        message = refused(f"http://127.0.0.1:{taken.getsockname()[1]}/picture")
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
