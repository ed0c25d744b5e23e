"""What tests of whole programs share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """Pictures are kept here, and not in the cache of whoever runs the tests."""
    place = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place))
        yield place


@pytest.fixture
def write(tmp_path):
    """Writes a flag file and gives the flag that names it."""

    def make(content: str | bytes, name: str = "my.flags") -> str:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(data)
        return f"--flagfile={tmp_path / name}"

    return make
