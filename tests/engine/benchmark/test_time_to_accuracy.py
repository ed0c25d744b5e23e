"""Programs are timed by what they print, and ended when they have reached the target."""

from __future__ import annotations

import os
import sys

import pytest

from engine.benchmark import time_to_accuracy

OURS = """
import time
print("something else", flush=True)
print("decoding 3,000 images at 224x224 into memory", flush=True)
for accuracy in (90, 98.5, 99):
    time.sleep(0.2)
    print(f"transfer epoch 1: loss 0.2, accuracy 99.00%; validation loss 0.1, "
          f"accuracy {accuracy:.2f}%; 300 images/s", flush=True)
time.sleep(600)
"""

THEIRS = """
from engine.benchmark import baselines
print(baselines.READING, flush=True)
for accuracy in (0.5, 0.75):
    print(f"{baselines.EPOCH}{accuracy:.6f}", flush=True)
"""


def run(program: str, target: float) -> time_to_accuracy.Course:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    return time_to_accuracy.run([sys.executable, "-c", program], target, {"PYTHONPATH": root})


def test_it_ends_when_the_target_is_reached():
    course = run(OURS, 0.985)  # and does not wait ten minutes
    assert [accuracy for _, accuracy in course.epochs] == pytest.approx([0.9, 0.985])
    assert 0 < course.reading < course.epochs[0][0] < course.epochs[1][0]
    assert course.reached(0.985) == course.epochs[1][0]
    assert course.reached(0.99) is None


def test_a_program_that_does_not_reach_it_runs_to_its_end():
    course = run(THEIRS, 0.9)
    assert [accuracy for _, accuracy in course.epochs] == [0.5, 0.75]
    assert course.reached(0.9) is None
    assert course.lengths == [course.epochs[1][0] - course.epochs[0][0]]


def test_a_program_that_fails_is_shown():
    with pytest.raises(RuntimeError, match=r"failed:\n[^$]*no such luck"):
        run("raise SystemExit('no such luck')", 0.5)
