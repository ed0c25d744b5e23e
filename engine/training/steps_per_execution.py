"""How many steps one call of the compiled step makes.

Between calls there is Python: the next batches, the learning rates, the clock. Where a step takes
a fraction of a millisecond, as a head's does on features that are kept, that would be most of the
time; where it takes a tenth of a second, it is nothing, and one step a call tells more.
"""

from __future__ import annotations

import statistics

CALL_SECONDS = 0.05  # what a call should take at least: a hundred times what lies between two
MEASURED = 3  # calls of one step, after the first, which compiles
MOST_BYTES = 2**26  # of inputs that lie ready for one call


class StepsPerExecution:
    """Steps per call: as given, or 1 until some steps were measured."""

    def __init__(self, given: int | None, step_bytes: int) -> None:
        """step_bytes: of one step's inputs."""
        self.steps = given or 1
        self.most = max(1, MOST_BYTES // step_bytes)
        self.settled = given is not None
        self.seconds: list[float] = []

    def took(self, seconds: float) -> None:
        """Notes a call; the first few set the number of steps."""
        if self.settled:
            return
        self.seconds.append(seconds)
        if len(self.seconds) <= MEASURED:
            return
        self.settled = True
        each = statistics.median(self.seconds[1:])
        self.steps = max(1, min(round(CALL_SECONDS / each), self.most))
