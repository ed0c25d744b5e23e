"""When and how a run at work is saved."""

from __future__ import annotations

import math
import time
from typing import Any

from engine.core import digests
from engine.core.errors import UserError
from engine.core.files import write, write_json
from engine.loggers import plots
from engine.runs import checkpoints
from engine.runs.best_model import BestModel
from engine.runs.checkpoints import TrainState
from engine.runs.history import write_history
from engine.runs.retrying_writer import RetryingWriter
from engine.runtime.shutdown import ShutdownRequested
from engine.training.job import TrainJob
from engine.training.nan_recovery import NanRecovery
from engine.training.phase import PhaseTrainer

MIN_SECONDS = 10.0  # between checkpoints at the ends of epochs,
MAX_SHARE = 0.01  # and the share of the time that they may take


class CheckpointWriter:
    """Writes checkpoints with all that belongs to them: history, best model, plans, NaN events."""

    def __init__(
        self, job: TrainJob, writer: RetryingWriter, best: BestModel, nan_recovery: NanRecovery
    ) -> None:
        self.job, self.writer, self.best, self.nan_recovery = job, writer, best, nan_recovery
        self._last_save = time.perf_counter()
        self._recorded = job.started
        self._last_seconds = 0.0  # of the last checkpoint
        self._plotted: list[dict[str, Any]] = []  # rows in `history.png`

    def due(self, after: float = math.inf) -> bool:
        """Whether a checkpoint is due: `after` that many seconds at the latest."""
        period = min(after, 60 * self.job.checkpoint_minutes)
        return self.writer.due(time.perf_counter() - self._last_save, period)

    def due_after_epoch(self, *, last: bool) -> bool:
        """Whether one is due at the end of an epoch, which may be the last of its phase."""
        return self.due(0 if last else max(MIN_SECONDS, self._last_seconds / MAX_SHARE))

    def save(self, trainer: PhaseTrainer, state: TrainState) -> bool:
        """Writes a checkpoint; returns whether it could be written.

        Raises:
          NonFiniteLossError: the state is no good.
        """
        self.nan_recovery.require_finite(trainer, state)
        started = time.perf_counter()
        self.record_seconds(state)
        self._last_save = started
        written = self.writer.attempt(lambda: self._write(trainer, state))
        self._last_seconds = time.perf_counter() - started
        state.spend("save_seconds", self._last_seconds)
        return written

    def record_seconds(self, state: TrainState) -> None:
        """Adds the time since the last call to the run's total."""
        now = time.perf_counter()
        state.total_seconds += now - self._recorded
        self._recorded = now

    def save_on_shutdown(
        self, trainer: PhaseTrainer, state: TrainState, error: ShutdownRequested
    ) -> None:
        """Raises:
        UserError: the checkpoint can't be written.
        """
        if not self.save(trainer, state):
            raise UserError(self.writer.lost(f"stopped by {error}")) from None

    def retry(self, trainer: PhaseTrainer, state: TrainState) -> None:
        """Waits until a checkpoint that could not be written before can be.

        Raises:
          UserError: it can't be written for long.
        """
        if self.writer.trouble:
            self.writer.insist(lambda: self._write(trainer, state))

    def save_history(self, state: TrainState) -> None:
        """Writes `history.csv`, or leaves it to the next checkpoint where writing just failed."""
        if not self.writer.trouble:
            self.writer.attempt(lambda: write_history(self.job.run, state.history))

    def finish(self, state: TrainState, result: dict[str, Any]) -> None:
        """Writes the best model and `result.json`, and waits until it can.

        Raises:
          UserError: they can't be written for long.
        """

        def write_all() -> None:
            self.best.save(state)
            write_json(self.job.run.result, result, digests.write)

        self.writer.insist(write_all)

    def _write(self, trainer: PhaseTrainer, state: TrainState) -> None:
        run = self.job.run
        trainer.plans.save()
        self.nan_recovery.save()
        self.best.save(state)
        write_history(run, state.history)
        self._plot_history(state)
        variables = {
            "model": self.job.classifier.model.weights,
            "optimizer": trainer.optimizer.variables,
            "metrics": trainer.metrics.state,
            "average": trainer.average.arrays,
        }
        checkpoints.save(run, state, variables)
        self.nan_recovery.initial_weights.clear()

    def _plot_history(self, state: TrainState) -> None:
        """Draws `history.png` where rows changed: it takes longer than a small checkpoint."""
        if state.history == self._plotted:
            return
        phases = [phase.name for phase in self.job.recipe.phases]
        write(self.job.run.plot, plots.history(state.history, phases))
        self._plotted = list(state.history)
