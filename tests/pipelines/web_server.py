"""A real server on this machine that behaves and misbehaves, and what is fetched from it."""

from __future__ import annotations

import contextlib
import http.server
import threading

import pytest

from engine.core.errors import UserError
from pipelines.predict import fetch
from tests.pipelines import bad_images

IMAGE = bytes(range(256)) * 40
MUCH = 100 * 2**20
REDIRECTS = {
    "moved": "/image",
    "circle": "/circle",
    "to_file": "file:///etc/hostname",
    "to_ftp": "ftp://127.0.0.1/image",
}


class Server(http.server.ThreadingHTTPServer):
    """Serves until the test is over; slow answers stop when `over` is set."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.over = threading.Event()
        self.agents, self.paths, self.taken = [], [], 0

    def address(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.agents.append(self.headers["User-Agent"])
        self.server.paths.append(self.path)
        name = self.path.rpartition("/")[2].split("?")[0].replace("-", "_")
        if name in REDIRECTS:
            self.redirect(REDIRECTS[name])
        else:
            getattr(self, name, self.image)()

    def log_message(self, *_):
        pass

    def answer(self, kind, body, status=200, length=None):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def redirect(self, target):
        self.send_response(302)
        self.send_header("Location", target)
        self.end_headers()

    def image(self):
        self.answer("image/jpeg", IMAGE)

    def bomb(self):
        self.answer("image/png", bad_images.png_bomb(None))

    def broken_off(self):
        self.answer("image/jpeg", IMAGE[:-7], length=len(IMAGE))

    def page(self):
        self.answer("text/html; charset=utf-8", b"<html>")

    def missing(self):
        self.answer("image/png", b"", status=404)

    def moved_at_length(self):
        """A redirect with a body that does not end; notes how much of it was taken."""
        self.redirect("/image")
        with contextlib.suppress(OSError):
            while self.server.taken < MUCH:
                self.server.taken += self.wfile.write(bytes(1 << 20))

    def inside(self):
        self.redirect(f"http://127.0.0.2:{self.server.server_port}/image")

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


def got(url: str) -> bytes:
    return fetch.fetch(url, allow_private=True)


def refused(url: str, allow_private: bool = True) -> str:
    with pytest.raises(UserError) as caught:
        fetch.fetch(url, allow_private)
    assert "\n" not in str(caught.value)
    return str(caught.value)
