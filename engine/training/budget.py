"""A limit of wall time for the whole command: after each epoch, how many epochs the phase gets.

Each decision is recorded in plan.json, since the schedule depends on it: a resumed run follows what
is recorded. The schedule runs over the epochs that were decided last, so that it has come down by
the end, also where epochs prove slower than they were.
"""

from __future__ import annotations

import math
import time

from engine.core.recipe import Phase
from engine.core.text import duration
from engine.frozen.phase_plan import PhasePlan, PlanFile
from engine.runs.checkpoints import TrainState
from engine.training.job import TrainJob

REPORT_SHARE, MIN_REPORT_SECONDS = 0.1, 5.0  # of the budget, left for the report
FIRST_PHASES_SHARE = 0.5  # of the budget: when phases before the last end at the latest
FLOAT32_SLOWDOWN = 2.0  # of the saved model's evaluation, against that after an epoch


class TimeBudget:
    """How many epochs each phase gets; all that it has without a budget."""

    def __init__(self, job: TrainJob, state: TrainState) -> None:
        self.job, self.seconds = job, job.recipe.budget
        self._earlier = state.total_seconds  # of the processes before this one

    def start_phase(self, phase: Phase, state: TrainState) -> bool:
        """Decides whether there is time for the phase: not where the budget is spent already."""
        if self.seconds is None or not state.history:
            return True
        plans = PlanFile(self.job.run.plan, self.job.recipe, self.job.logger.note)
        if not plans[phase].epochs:
            started = self._elapsed() < (1 - REPORT_SHARE) * self.seconds
            self._record(plans, phase, phase.epochs if started else 0)
        return plans[phase].epochs[0] > 0

    def end_epoch(self, plans: PlanFile, phase: Phase, state: TrainState) -> None:
        """Decides, once for each epoch, how many epochs the phase gets in all.

        Args:
          state: with the epoch counted, and in its history.
        """
        if self.seconds is None:
            return
        decided = plans[phase].epochs or (phase.epochs,)
        if len(decided) > state.epoch:
            return
        left = self._limit(plans[phase], phase, state) - self._elapsed()
        fit = state.epoch + max(0, math.floor(left / state.history[-1]["seconds"]))
        before, fit = decided[-1], min(fit, phase.epochs)
        # One epoch more or less is noise; one that does not fit is not.
        self._record(plans, phase, *decided, before if before <= fit <= before + 1 else fit)

    def _record(self, plans: PlanFile, phase: Phase, *epochs: int) -> None:
        plans.record_epochs(phase, epochs)
        if epochs[-1] != ([phase.epochs, *epochs])[-2]:
            assert self.seconds
            self.job.logger.note(
                f"phase {phase.name}: {epochs[-1]} of {phase.epochs} epochs fit in the budget of "
                f"{duration(self.seconds)}"
            )

    def _elapsed(self) -> float:
        return time.perf_counter() - self.job.started + self._earlier

    def _limit(self, plan: PhasePlan, phase: Phase, state: TrainState) -> float:
        """Seconds after which the phase is to have ended."""
        assert self.seconds
        if phase is not [other for other in self.job.recipe.phases if other.epochs][-1]:
            return FIRST_PHASES_SHARE * self.seconds
        loader, trunk = self.job.loader, plan.trunk
        evaluated = FLOAT32_SLOWDOWN * state.last_eval_seconds / loader.validation_examples
        image = evaluated + (1 / trunk[0].images_per_second if trunk else 0)
        final = image * (loader.validation_examples + loader.test_examples)
        return self.seconds - max(MIN_REPORT_SECONDS, REPORT_SHARE * self.seconds) - final
