"""A small server on this machine that plays a cloud's metadata service."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Answer = tuple[int, str, dict[str, str]]
Service = Callable[[http.server.BaseHTTPRequestHandler], Answer]

NOTHING: Answer = (404, "not here", {})
TOKEN = "AQAEAKdF_x3pGsK7-A=="


def token(request) -> Answer:
    """As in the EC2 user guide, "Access instance metadata": no token, no answer."""
    lifetime = request.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "0")
    return (200, TOKEN, {}) if 1 <= int(lifetime) <= 21600 else (400, "", {})


@contextmanager
def serving(service: Service) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that answers as the service does, and the paths of its requests."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            requests.append(self.path)
            status, text, headers = service(self)
            body = text.encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = answer  # noqa: N815 (http.server looks for these names)

        def log_message(self, *arguments) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
