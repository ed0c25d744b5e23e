"""Whole programs against each other, each a process of its own, timed by the lines they print."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from engine.benchmark import baselines

# What bin/train prints when it begins to read images, and what both print after an epoch.
READING = re.compile(rf"decoding |looking at |{baselines.READING}")
ACCURACY = re.compile(rf"validation loss [\d.]+, accuracy ([\d.]+)%|{baselines.EPOCH}([\d.]+)")


@dataclasses.dataclass(frozen=True)
class Course:
    """What a process did. Seconds are counted from its start.

    reading: when it began to read images. epochs: when each was evaluated, and the accuracy.
    """

    reading: float
    epochs: tuple[tuple[float, float], ...]

    def reached(self, target: float) -> float | None:
        """When the first evaluation was at or above the target."""
        return next((seconds for seconds, accuracy in self.epochs if accuracy >= target), None)

    @property
    def lengths(self) -> list[float]:
        """Seconds from each evaluation to the next."""
        times = [seconds for seconds, _ in self.epochs]
        return [later - earlier for earlier, later in itertools.pairwise(times)]


def run(command: Sequence[str], target: float, environment: Mapping[str, str]) -> Course:
    """Runs a program until an evaluation reaches the target, or to its end.

    Raises:
      RuntimeError: it failed before; the message has the end of what it printed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    reading, epochs, lines = None, [], []
    assert process.stdout is not None
    for line in process.stdout:
        now = time.perf_counter() - started
        lines.append(line)
        if reading is None and READING.match(line):
            reading = now
        if match := ACCURACY.search(line):
            epochs.append((now, float(match[1]) / 100 if match[1] else float(match[2])))
            if epochs[-1][1] >= target:
                break
    _end(process)
    if reading is None or not epochs:
        raise RuntimeError(f"{' '.join(command)} failed:\n{''.join(lines[-20:])}")
    return Course(reading, tuple(epochs))


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
