"""Works take turns, short ones are repeated, and ratios are those of the rounds."""

from __future__ import annotations

import pytest

from engine.benchmark import timing
from engine.benchmark.timing import Work, alternate, ratio


class Clock:
    """Time that passes only where a work says so."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, []

    def work(self, name: str, seconds: float, images: int) -> Work:
        def run() -> None:
            self.now += seconds
            self.order.append(name)

        return Work(run, images)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: made.now)
    return made


def test_rates_are_images_by_seconds(clock):
    works = {"slow": clock.work("slow", 2.0, 32), "fast": clock.work("fast", 0.5, 8)}
    samples = alternate(works, 3)
    assert samples == {"slow": [16.0] * 3, "fast": [16.0] * 3}


def test_works_take_turns_and_short_ones_are_repeated(clock):
    works = {"long": clock.work("long", 1.0, 1), "short": clock.work("short", 0.125, 1)}
    alternate(works, 2)
    once = ["long"] * 2 + ["short"] * 2  # one that compiles, one that tells how long it takes
    turn = ["long"] + ["short"] * 4  # 0.4 s or more
    assert clock.order == once + turn * 2


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    made = ratio([10.0, 30.0, 80.0], [10.0, 10.0, 20.0])
    assert (made.median, made.repeats) == (3.0, 3)
    assert (made.low, made.high) == (2.0, 3.5)
