"""The interface through which a run logs: to the terminal, to TensorBoard, to a test."""

from __future__ import annotations

import dataclasses
from typing import Any

from engine.core.recipe import Phase
from engine.evaluation.evaluate import Evaluation


@dataclasses.dataclass(frozen=True)
class StepMetrics:
    """The state of a run within an epoch; epochs and steps are counted from 1.

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


class Logger:
    """Receives what a run logs, and ignores it; every method returns soon and raises nothing."""

    def note(self, line: str) -> None:
        """Logs a sentence for the user."""

    def step(self, metrics: StepMetrics) -> None:
        """Logs metrics every few steps."""

    def epoch(self, row: dict[str, Any], evaluation: Evaluation, best: bool) -> None:
        """Logs a row of history, once the epoch is evaluated."""

    def end(self, result: dict[str, Any]) -> None:
        """Logs the values of `result.json`, once the run is finished."""


@dataclasses.dataclass(frozen=True)
class LoggerGroup(Logger):
    """Several loggers as one."""

    members: tuple[Logger, ...]

    def note(self, line: str) -> None:
        for member in self.members:
            member.note(line)

    def step(self, metrics: StepMetrics) -> None:
        for member in self.members:
            member.step(metrics)

    def epoch(self, row: dict[str, Any], evaluation: Evaluation, best: bool) -> None:
        for member in self.members:
            member.epoch(row, evaluation, best)

    def end(self, result: dict[str, Any]) -> None:
        for member in self.members:
            member.end(result)
