"""Tests of the pixel cache decode with a small graph, unless they use `real_decode`."""

import pytest

from pipelines.decode import decode
from tests.pipelines.cached import quick_decode


@pytest.fixture
def real_decode():
    return None


@pytest.fixture(autouse=True)
def _quick_decode(request, monkeypatch):
    if "real_decode" not in request.fixturenames:
        monkeypatch.setattr(decode, "decode", quick_decode)
