"""Steps per call: settled after a few calls, whatever the first one takes."""

import pytest

from engine.training import steps_per_execution
from engine.training.steps_per_execution import StepsPerExecution

SLOW_START = 60.0  # the first call compiles


def record_calls(adaptive: StepsPerExecution, *seconds: float) -> list[int]:
    """Returns the steps per call after each of the calls."""
    counts = []
    for value in seconds:
        adaptive.record(value)
        counts.append(adaptive.steps)
    return counts


@pytest.mark.parametrize(
    ("seconds", "steps"), [(0.001, 50), (0.0123, 4), (0.05, 1), (0.2, 1), (0.00004, 1250)]
)
def test_call_takes_a_twentieth_of_a_second_or_one_step(seconds, steps):
    adaptive = StepsPerExecution(None, step_bytes=1000)
    assert adaptive.steps == 1
    assert record_calls(adaptive, SLOW_START, seconds, seconds, seconds) == [1, 1, 1, steps]


def test_outlier_does_not_change_steps():
    adaptive = StepsPerExecution(None, 1000)
    record_calls(adaptive, SLOW_START, 0.005, 3.0, 0.005)
    assert adaptive.steps == 10


def test_settled_steps_stay():
    adaptive = StepsPerExecution(None, 1000)
    record_calls(adaptive, SLOW_START, 0.005, 0.005, 0.005)
    assert record_calls(adaptive, 7.0, 0.0001, 0.0001, 0.0001) == [10] * 4


@pytest.mark.parametrize(("share", "steps"), [(1, 1), (2, 2), (7, 7), (0.5, 1), (1e6, 50)])
def test_steps_are_limited_by_input_bytes(share, steps):
    """share: how many steps' inputs fit."""
    adaptive = StepsPerExecution(None, int(steps_per_execution.MAX_BYTES // share))
    record_calls(adaptive, SLOW_START, 0.001, 0.001, 0.001)
    assert adaptive.steps == steps


def test_requested_steps_stay():
    adaptive = StepsPerExecution(4, step_bytes=10**12)
    assert record_calls(adaptive, *[0.001] * 6) == [4] * 6
