"""Workloads take turns, short ones are repeated, and ratios are those of the rounds."""

from __future__ import annotations

import pytest

from engine.benchmark import timing
from engine.benchmark.timing import Workload, measure_in_turn, speed_ratio


class Clock:
    """Time that passes only while a workload runs."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, []

    def workload(self, name: str, seconds: float, images: int) -> Workload:
        def run() -> None:
            self.now += seconds
            self.order.append(name)

        return Workload(run, images)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    return clock


def test_measure_in_turn_returns_images_per_second(clock):
    workloads = {"slow": clock.workload("slow", 2.0, 32), "fast": clock.workload("fast", 0.5, 8)}
    samples = measure_in_turn(workloads, 3)
    assert samples == {"slow": [16.0] * 3, "fast": [16.0] * 3}


def test_measure_in_turn_alternates_and_repeats_short_workloads(clock):
    workloads = {"long": clock.workload("long", 1.0, 1), "short": clock.workload("short", 0.125, 1)}
    measure_in_turn(workloads, 2)
    once = ["long"] * 2 + ["short"] * 2  # one compiles, one measures the duration
    turn = ["long"] + ["short"] * 4  # 0.4 s or more
    assert clock.order == once + turn * 2


def test_speed_ratio_is_median_of_round_ratios():
    result = speed_ratio([10.0, 30.0, 80.0], [10.0, 10.0, 20.0])
    assert (result.median, result.repeats) == (3.0, 3)
    assert (result.low, result.high) == (2.0, 3.5)
