"""Programs are timed by the lines they print, and ended at the target."""

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
    time.sleep(0.02)
    print(f"transfer      1   0.2000   99.00%    0.1000   {accuracy:.2f}%     300", flush=True)
time.sleep(600)
"""

THEIRS = """
from engine.benchmark import baselines
print(baselines.READING, flush=True)
for accuracy in (0.5, 0.75):
    print(f"{baselines.EPOCH}{accuracy:.6f}", flush=True)
"""


def run(program: str, target: float) -> time_to_accuracy.TimedRun:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    return time_to_accuracy.run([sys.executable, "-c", program], target, {"PYTHONPATH": root})


def test_run_ends_at_target():
    timed_run = run(OURS, 0.985)  # and does not wait ten minutes
    assert [accuracy for _, accuracy in timed_run.epochs] == pytest.approx([0.9, 0.985])
    assert 0 < timed_run.first_read < timed_run.epochs[0][0] < timed_run.epochs[1][0]
    assert timed_run.seconds_to(0.985) == timed_run.epochs[1][0]
    assert timed_run.seconds_to(0.99) is None


def test_run_without_target_reached_ends_with_program():
    timed_run = run(THEIRS, 0.9)
    assert [accuracy for _, accuracy in timed_run.epochs] == [0.5, 0.75]
    assert timed_run.seconds_to(0.9) is None


def test_run_of_failing_program_shows_output():
    with pytest.raises(RuntimeError, match=r"failed:\n[^$]*no such luck"):
        run("raise SystemExit('no such luck')", 0.5)
