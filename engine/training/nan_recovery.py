"""Recovers from a non-finite loss: rolls back to the last checkpoint and halves the learning rate.

The examples of the first batch with such a loss are listed in `nan_batch.csv`.
"""

from __future__ import annotations

import contextlib

import numpy as np

from engine.core import text
from engine.core.dataset import Batch
from engine.core.errors import UserError
from engine.core.files import write_csv
from engine.core.recipe import Phase
from engine.runs import checkpoints
from engine.runs.checkpoints import TrainState
from engine.runs.nan_events import NanEvent, read_nan_events, write_nan_events
from engine.runs.retrying_writer import RetryingWriter
from engine.training.job import TrainJob
from engine.training.metrics import TrainMetrics
from engine.training.phase import PhaseTrainer

MAX_EVENTS = 3
Arrays = dict[str, list[np.ndarray]]  # groups of arrays, as `checkpoints.load` returns them
COLUMNS = ("path", "label", "example", "epoch", "view")


class NonFiniteLossError(Exception):
    """The loss of a step, or a variable after it, is NaN or infinite.

    Attributes:
      step: of the run, from 0.
    """

    def __init__(self, phase: Phase, step: int, message: str) -> None:
        super().__init__(message)
        self.phase, self.step = phase, step


class NanRecovery:
    """Detects non-finite losses and decides how the run continues.

    Attributes:
      events: those of the run so far.
      initial_weights: what a roll-back returns to until there is a checkpoint; empty afterwards.
    """

    def __init__(self, job: TrainJob, writer: RetryingWriter, initial_weights: Arrays) -> None:
        self.job, self.writer, self.initial_weights = job, writer, initial_weights
        self.events = read_nan_events(job.run)

    def read_metrics(self, trainer: PhaseTrainer, state: TrainState) -> TrainMetrics:
        """Fetches the epoch's metrics so far from the device.

        Raises:
          NonFiniteLossError: a step's loss was non-finite.
        """
        metrics = trainer.metrics.read()
        if metrics.bad_step is not None:
            first = state.phase_start + state.epoch * self.job.steps_per_epoch
            what = f"the loss is {metrics.loss}"
            raise self._list_batch(trainer, first + metrics.bad_step, what)
        return metrics

    def require_finite(self, trainer: PhaseTrainer, state: TrainState) -> None:
        """Keeps a state that is no good from becoming a checkpoint.

        Raises:
          NonFiniteLossError: a loss, or a variable after the last update, is non-finite.
        """
        self.read_metrics(trainer, state)
        partition = trainer.partition
        moved = [*partition.variables, *partition.statistics(trainer.phase)]
        if not all(np.isfinite(variable.numpy()).all() for variable in moved):
            what = "its update left non-finite variables"
            raise self._list_batch(trainer, state.step - 1, what)

    def roll_back(self, error: NonFiniteLossError) -> tuple[TrainState, Arrays]:
        """Records the event and reads the last checkpoint.

        Returns:
          the state and the arrays to continue from; the initial weights without a checkpoint.

        Raises:
          UserError: the run does not continue.
        """
        job = self.job
        if job.on_nan == "stop" or len(self.events) == MAX_EVENTS:
            halved = f", after the rate was halved {MAX_EVENTS} times" * (job.on_nan != "stop")
            raise UserError(
                f"{error}{halved}; lower the phase's learning_rate "
                f"({error.phase.learning_rate:g}) or give it clip_global_norm=1, with --overwrite"
            )
        state, arrays = checkpoints.load(job.run, job.logger.note)
        if not arrays and not self.initial_weights:
            raise UserError(
                f"{error}; {job.run.checkpoints} was deleted, so there is nothing to roll back "
                "to; start over with --overwrite"
            )
        self.events.append(NanEvent(error.phase.name, error.step, state.step))
        self.writer.attempt(self.save)  # else with the next checkpoint
        job.logger.note(f"{error}; rolling back to step {state.step} with half the learning rate")
        return state, arrays or dict(self.initial_weights)

    def save(self) -> None:
        """Writes `nan_events.json` if there are any.

        Raises:
          OSError: it can't be written.
        """
        if self.events:
            write_nan_events(self.job.run, self.events)

    def _list_batch(self, trainer: PhaseTrainer, step: int, what: str) -> NonFiniteLossError:
        """Returns the error of a step, which says where its images are listed if they could be."""
        message = f"phase {trainer.phase.name!r}, step {step + 1}: {what}"
        loader, run = self.job.loader, self.job.run
        with contextlib.suppress(UserError):  # an image that can't be read any more hides nothing
            stacked = next(trainer.train_batches(step, step + 1, 1))
            batch = Batch(None, *(np.asarray(column)[0] for column in stacked[1:]))
            rows = [
                {
                    "path": loader.example_name(int(batch.examples[index])),
                    "label": text.csv_cell(loader.classes[batch.labels[index]]),
                    "example": batch.examples[index],
                    "epoch": batch.epochs[index],
                    "view": batch.views[index],
                }
                for index in np.flatnonzero(batch.weights)
            ]
            if self.writer.attempt(lambda: write_csv(run.nan_batch, COLUMNS, rows)):
                message += f"; its images are listed in {run.nan_batch}"
        return NonFiniteLossError(trainer.phase, step, message)
