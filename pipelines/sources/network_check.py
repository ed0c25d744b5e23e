"""Tests within seconds whether the hosts of URLs can be reached."""

from __future__ import annotations

import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable

CONNECT_SECONDS = 5
_ALL_SECONDS = 8  # name look-ups have no timeout of their own


def connection_problem(urls: Iterable[str]) -> str | None:
    """Returns why a host of these URLs can't be reached, or None; within 8 seconds.

    A connection is opened to each host, or to the proxy that the environment names, and closed.
    """
    hosts: dict[tuple[str, int], str] = {}
    for url in urls:
        if "://" in url:
            hosts.setdefault(_endpoint(url), url)
    problems = dict.fromkeys(hosts, f"no answer in {_ALL_SECONDS} s")

    def attempt(host: tuple[str, int]) -> None:
        problems[host] = _error(host)

    # Daemons: the program may end while one still waits for the name server.
    threads = [threading.Thread(target=attempt, args=(host,), daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _ALL_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    for host, url in hosts.items():
        if problems[host]:
            return f"no connection to {host[0]} ({problems[host]}) for {url}"
    return None


def _endpoint(url: str) -> tuple[str, int]:
    """Returns (host, port) to connect to for a URL: its own, or the proxy's if there is one."""
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and parts.hostname and not urllib.request.proxy_bypass(parts.hostname):
        parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    ports = {"https": 443, "ftp": 21}
    return parts.hostname or "", parts.port or ports.get(parts.scheme, 80)


def _error(host: tuple[str, int]) -> str:
    """Returns why a connection fails, empty where it succeeds."""
    try:
        socket.create_connection(host, timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
