"""How many steps one call of the compiled step runs.

Between calls there is Python: the next batches, the learning rates, the clock. Where a step takes a
fraction of a millisecond, as a head's does on cached features, that would be most of the time;
where it takes a tenth of a second it is nothing, and one step a call logs more.
"""

from __future__ import annotations

import statistics

MIN_CALL_SECONDS = 0.05  # a hundred times what lies between two calls
MEASURED_CALLS = 3  # of one step, after the first, which compiles
MAX_BYTES = 2**26  # of prepared inputs for one call


class StepsPerExecution:
    """Steps per call: as requested, or 1 until some steps were measured."""

    def __init__(self, requested: int | None, step_bytes: int) -> None:
        """step_bytes: size of one step's inputs."""
        self.steps = requested or 1
        self.settled = requested is not None
        self._limit = max(1, MAX_BYTES // step_bytes)
        self._seconds: list[float] = []

    def record(self, seconds: float) -> None:
        """Records a call's time; the first few determine the number of steps."""
        if self.settled:
            return
        self._seconds.append(seconds)
        if len(self._seconds) <= MEASURED_CALLS:
            return
        self.settled = True
        step_seconds = statistics.median(self._seconds[1:])
        self.steps = max(1, min(round(MIN_CALL_SECONDS / step_seconds), self._limit))
