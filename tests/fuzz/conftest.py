"""Fuzz: how many cases each test tries, and the line at the end that says how many ran."""

import pytest

from tests.fuzz.judging import Judge

COUNTS = pytest.StashKey[dict[str, int]]()
SLOW = 20  # times as many cases with --slow


def pytest_configure(config):
    config.stash[COUNTS] = {}


@pytest.fixture
def judge(request, tmp_path) -> Judge:
    times = SLOW if request.config.getoption("--slow") else 1
    return Judge(request.config.stash[COUNTS], tmp_path, times)


def pytest_terminal_summary(terminalreporter, config):
    counts = config.stash.get(COUNTS, {})
    failed = [f for f in terminalreporter.stats.get("failed", []) if "fuzz" in f.nodeid]
    if counts:
        total = f"{sum(counts.values()):,} cases in {len(counts)} readers"
        terminalreporter.write_line(f"fuzz: {total}, {'not all' if failed else 'all'} answered")
