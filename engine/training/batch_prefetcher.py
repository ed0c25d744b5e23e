"""The batches of a phase, made ready while the steps before them are made.

What makes them ready works on over the ends of epochs, so that no epoch begins by waiting: it is
opened anew only where the number of steps per call changes, where the kept outputs of the trunk
have to be filled first, and after very many steps.
"""

from __future__ import annotations

from collections.abc import Generator

from engine.core.dataset import Batch, DataLoader
from engine.training.state import PhaseState

MOST_STEPS = 100_000  # that are planned at a time, and the rest of their epoch: a plan takes memory


class BatchPrefetcher:
    """A phase's batches in the order of its steps, from any of them on."""

    def __init__(
        self, loader: DataLoader, stage: PhaseState, steps_per_epoch: int, last_step: int
    ) -> None:
        """last_step: where the phase ends, counted from the first step of the run."""
        self.loader, self.stage = loader, stage
        self.steps_per_epoch, self.last_step = steps_per_epoch, last_step
        self.batches: Generator[Batch, None, None] | None = None
        self.stop = self.per_call = 0

    def next(self, step: int) -> Batch:
        """The batches of the call that begins with this step, every column [steps, B, …].

        Raises:
          UserError: see `DataLoader.train_batches`.
        """
        per_call = self.stage.pace.steps
        if self.batches is None or step == self.stop or per_call != self.per_call:
            self.close()
            self.per_call, self.stop = per_call, self.reach(step)
            self.batches = self.stage.batches(self.loader, step, self.stop, per_call)
        return next(self.batches)

    def reach(self, step: int) -> int:
        """The step up to which all that is read is there already."""
        features, length = self.stage.features, self.steps_per_epoch
        most = min(self.last_step, -(-(step + MOST_STEPS) // length) * length)
        if features is None:
            return most
        epoch = step // length + 1
        while epoch * length < most and features.is_filled(epoch):
            epoch += 1
        return epoch * length

    def close(self) -> None:
        """Stops what makes batches ready."""
        if self.batches is not None:
            self.batches.close()
            self.batches = None
