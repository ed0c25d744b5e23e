"""What tests of the pixel cache, of batches, and of what comes from the web, begin with."""

import threading
from pathlib import Path

import pytest

from pipelines.decode import decode
from tests.pipelines.cached import MEMORY, quick_decode, write
from tests.pipelines.feeds import COUNT, encoded_image, index
from tests.pipelines.web_server import Server


@pytest.fixture
def real_decode() -> None:
    """Makes `quick_decoding` do nothing."""


@pytest.fixture
def quick_decoding(request, monkeypatch) -> None:
    """Decodes with a small graph, which is built in no time."""
    if "real_decode" not in request.fixturenames:
        monkeypatch.setattr(decode, "decode_oriented", quick_decode)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Ten images."""
    return write(tmp_path / "images", 10)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(params=MEMORY.values(), ids=MEMORY)
def memory(request) -> int:
    """Bytes in which pixels may be cached: enough for all, or none."""
    return request.param


@pytest.fixture
def folder(tmp_path):
    """Ten files; every other one is a JPEG."""
    paths = []
    for number in range(COUNT):
        kind = ("PNG", "JPEG")[number % 2]
        paths.append(tmp_path / f"{number}.{kind.lower()}")
        paths[-1].write_bytes(encoded_image(number, kind))
    return index([str(path) for path in paths])


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
