"""What a run tells those who watch it: the terminal, TensorBoard, a test."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from engine.core.recipe import Phase
from engine.evaluation.evaluate import Evaluation


@dataclasses.dataclass(frozen=True)
class StepMetrics:
    """Where a run stands within an epoch; epochs and steps are counted from 1.

    steps_left: of the phase. loss, accuracy, images_per_second, wait_fraction: of the epoch so far.
    """

    phase: Phase
    epoch: int
    step: int
    step_of_epoch: int
    steps_per_epoch: int
    steps_left: int
    batch_size: int
    loss: float
    accuracy: float
    learning_rate: float
    images_per_second: float
    wait_fraction: float


class Logger(Protocol):
    """Anybody who watches; every method returns soon and raises nothing."""

    def note(self, line: str) -> None:
        """A sentence for the user."""

    def step(self, moment: StepMetrics) -> None:
        """Every few steps."""

    def epoch(self, row: dict[str, Any], evaluation: Evaluation, best: bool) -> None:
        """A row of history, when the epoch has been evaluated."""

    def end(self) -> None:
        """When all phases are over."""


@dataclasses.dataclass(frozen=True)
class LoggerGroup:
    """Several who watch, as one."""

    members: tuple[Logger, ...]

    def note(self, line: str) -> None:
        for member in self.members:
            member.note(line)

    def step(self, moment: StepMetrics) -> None:
        for member in self.members:
            member.step(moment)

    def epoch(self, row: dict[str, Any], evaluation: Evaluation, best: bool) -> None:
        for member in self.members:
            member.epoch(row, evaluation, best)

    def end(self) -> None:
        for member in self.members:
            member.end()
