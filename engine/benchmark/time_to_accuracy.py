"""Times whole training programs, each in its own process, by the lines they print."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence

from engine.benchmark import baselines

# The lines of bin/train and of the baselines at the first read and after an epoch.
READING = re.compile(rf"decoding |looking at |{baselines.READING}")
ACCURACY = re.compile(rf"^\S+ +\d+ +\S+ +[\d.]+% +\S+ +([\d.]+)%|{baselines.EPOCH}([\d.]+)")


@dataclasses.dataclass(frozen=True)
class TimedRun:
    """The progress of a training process, in seconds from its start.

    first_read: when it began to read images.
    epochs: when each epoch was evaluated, and its validation accuracy, 0 to 1.
    """

    first_read: float
    epochs: tuple[tuple[float, float], ...]

    def seconds_to(self, target: float) -> float | None:
        """Returns when an evaluation first reached the target; None if none did."""
        return next((seconds for seconds, accuracy in self.epochs if accuracy >= target), None)


def run(command: Sequence[str], target: float, environment: Mapping[str, str]) -> TimedRun:
    """Runs a program until an evaluation reaches the target, or to its end.

    Raises:
      RuntimeError: it ended without an evaluation; the message holds its last lines.
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
    first_read, epochs, lines = None, [], []
    assert process.stdout is not None
    for line in process.stdout:
        now = time.perf_counter() - started
        lines.append(line)
        if first_read is None and READING.match(line):
            first_read = now
        if match := ACCURACY.search(line):
            epochs.append((now, float(match[1]) / 100 if match[1] else float(match[2])))
            if epochs[-1][1] >= target:
                break
    _end(process)
    if first_read is None or not epochs:
        raise RuntimeError(f"{' '.join(command)} failed:\n{''.join(lines[-20:])}")
    return TimedRun(first_read, tuple(epochs))


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
