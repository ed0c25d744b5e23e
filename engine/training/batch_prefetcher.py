"""The batches of a phase, prepared while the steps before them run.

Preparation continues over the ends of epochs, so that no epoch begins with a wait. It is restarted
only where the number of steps per execution changes, where the feature cache has to be filled
first, and after very many steps.
"""

from __future__ import annotations

from collections.abc import Generator

from engine.core.dataset import Batch
from engine.training.phase import PhaseTrainer

MAX_STEPS = 100_000  # planned at a time, plus the rest of their epoch: a plan takes memory


class BatchPrefetcher:
    """A phase's batches in the order of its steps, from any step on."""

    def __init__(self, trainer: PhaseTrainer, steps_per_epoch: int, last_step: int) -> None:
        """last_step: where the phase ends, counted from the first step of the run."""
        self.trainer, self.steps_per_epoch, self.last_step = trainer, steps_per_epoch, last_step
        self._batches: Generator[Batch, None, None] | None = None
        self._stop = self._steps_per_execution = 0

    def next(self, step: int) -> Batch:
        """Returns the batches of the execution that begins with this step, columns [steps, B, …].

        Raises:
          UserError: see `DataLoader.train_batches`.
        """
        count = self.trainer.steps_per_execution.steps
        if self._batches is None or step == self._stop or count != self._steps_per_execution:
            self.close()
            self._steps_per_execution, self._stop = count, self.available_until(step)
            self._batches = self.trainer.train_batches(step, self._stop, count)
        return next(self._batches)

    def available_until(self, step: int) -> int:
        """Returns the step up to which all that is read is in the cache already."""
        features, length = self.trainer.features, self.steps_per_epoch
        limit = min(self.last_step, -(-(step + MAX_STEPS) // length) * length)
        if features is None:
            return limit
        epoch = step // length + 1
        while epoch * length < limit and features.is_filled(epoch):
            epoch += 1
        return epoch * length

    def close(self) -> None:
        """Stops the preparation."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None
