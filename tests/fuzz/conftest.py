"""How many cases each fuzz test tries, and how many it has tried."""

import pytest

from tests.fuzz.judging import Judge

SLOW = 160  # times as many cases with --slow


@pytest.fixture
def judge(request, tmp_path, record_property):
    """`tests.conftest` adds up what is recorded, whatever process the test runs in."""
    judge = Judge(tmp_path, SLOW if request.config.getoption("--slow") else 1)
    yield judge
    for name, count in judge.counts.items():
        record_property(f"fuzz {name}", count)
