"""Pictures from the web, from a real server on this machine that behaves and misbehaves."""

import http.server
import ipaddress
import socket
import threading

import pytest

from engine.specs import UserError
from pipelines import addresses, fetch

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
        name = self.path.rpartition("/")[2].split("?")[0].replace("-", "_")
        getattr(self, name, self.picture)()

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

    def inside(self):
        self.redirect(f"http://127.0.0.2:{self.server.server_port}/picture")

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


def got(url: str, **limits) -> bytes:
    return fetch.fetch(url, **limits, allow_private=True)


def refused(url: str, allow_private: bool = True, **limits) -> str:
    with pytest.raises(UserError) as caught:
        fetch.fetch(url, **limits, allow_private=allow_private)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_picture_comes_as_it_is(server):
    assert got(server.address("picture")) == PICTURE
    assert server.agents == ["unfreeze"]


def test_a_redirect_to_the_web_is_followed(server):
    assert got(server.address("moved")) == PICTURE
    assert server.paths == ["/moved", "/picture"]


def test_spaces_and_letters_beyond_ascii_are_escaped_and_escapes_are_kept(server):
    assert got(server.address("große Katze%20.jpg?size=1&x=é")) == PICTURE
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
    assert got(server.address("picture"), most_bytes=len(PICTURE)) == PICTURE
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


PRIVATE = (
    *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "%31%32%37.0.0.1", "localhost", "0.0.0.0"),
    *("[::1]", "[::ffff:127.0.0.1]", "[::]"),
)


@pytest.mark.parametrize("host", PRIVATE)
def test_a_host_that_is_not_public_is_not_asked(server, host):
    url = f"http://{host}:{server.server_port}/picture"
    assert "is no address of the public internet; --allow_private_urls" in refused(url, False)
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
def test_neither_is_one_whose_name_leads_there(monkeypatch, address, scheme):
    monkeypatch.setenv("no_proxy", "*")
    resolving(monkeypatch, address)
    message = refused(f"{scheme}://cats.example/cat.jpg", False)
    assert message.startswith(f"cats.example is {address}, which is no address of the public")


def test_a_name_that_changes_is_not_looked_up_again(server, monkeypatch):
    """What was looked at is what is connected to; here the public address answers for us."""
    resolving(monkeypatch, "93.184.216.34", "127.0.0.1")
    asked = []

    def connect(target, *how):
        asked.append(target)
        raise ConnectionRefusedError("nobody there")

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(socket, "create_connection", connect)
    assert "nobody there" in refused(f"http://cats.example:{server.server_port}/picture", False)
    assert asked == [("93.184.216.34", server.server_port)]


def test_a_redirect_into_this_network_is_not_followed(server, monkeypatch):
    """The first host passes for a public one."""
    real = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda a: str(a) == "127.0.0.1" or real(a))
    message = refused(server.address("inside"), False)
    assert "127.0.0.2 is 127.0.0.2, which is no address of the public internet" in message
    assert server.paths == ["/inside"]


def test_behind_a_proxy_too(server, monkeypatch):
    """The proxy itself may be anywhere; it gives what it is asked for."""
    monkeypatch.setenv("http_proxy", server.address(""))
    monkeypatch.setenv("no_proxy", "")
    assert "no address of the public internet" in refused("http://192.168.0.1/picture", False)
    assert server.paths == []
    assert fetch.fetch("http://93.184.216.34/picture") == PICTURE
    assert server.paths == ["http://93.184.216.34/picture"]


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
def test_which_addresses_are_public(text, public):
    assert addresses.is_public(ipaddress.ip_address(text)) is public


@pytest.mark.parametrize(
    ("text", "yes"),
    [("https://a.org/b.jpg", True), ("ftp://a", True), ("a/b.jpg", False), ("C:cat.jpg", False)],
)
def test_addresses_are_told_from_paths(text, yes):
    assert fetch.is_url(text) is yes
