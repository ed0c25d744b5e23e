"""plan.json: what a run measured on its machine and decided by it, phase by phase.

It is written down since it moves bits: a resumed run reads its plans instead of measuring again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.core import digests
from engine.core.conversion import convert, parse_json
from engine.core.errors import UserError, choose, require
from engine.core.files import write_json
from engine.core.recipe import PRECISIONS, Phase, Recipe, digest
from engine.frozen import precision
from engine.frozen.cache_policy import CacheDecision
from engine.frozen.precision import ComputeMode, PrecisionTrial
from engine.frozen.trial_memory import TrialMemory

PARTS = {"trunk": "frozen layers", "tail": "trained layers"}


@dataclasses.dataclass(frozen=True)
class PhasePlan:
    """What was measured and decided for one phase, as plan.json holds it."""

    trunk: tuple[PrecisionTrial, ...] = ()  # of the frozen layers; empty where none was needed
    tail: tuple[PrecisionTrial, ...] = ()  # of the trained layers
    cache: CacheDecision | None = None  # None until it is decided
    epochs: tuple[int, ...] = ()  # in all, as decided after 0, 1, 2 … of them; empty: the recipe's


def planned_epochs(plan: PhasePlan, phase: Phase, epoch: int) -> int:
    """Returns how many epochs the phase is to have, as decided when `epoch` of them were over."""
    return plan.epochs[min(epoch, len(plan.epochs) - 1)] if plan.epochs else phase.epochs


class PlanFile:
    """The plans of a run's phases, saved as they grow."""

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        log: Callable[[str], None],
        memory: TrialMemory | None = None,
    ) -> None:
        """Reads the plans; starts with none where the file can't be read or has another form.

        Args:
          path: of the run's `plan.json`.
          log: receives the trials as lines of text.
          memory: trials of earlier runs.

        Raises:
          UserError: the file is damaged.
        """
        self.path, self.recipe, self.log = path, recipe, log
        self.memory = memory or TrialMemory(None, recipe)
        self.plans: dict[str, PhasePlan] = {}
        try:
            data = digests.read(path)
        except OSError:
            return
        with suppress(UserError, RecursionError, KeyError, TypeError):
            plans = parse_json(data)["phases"]
            require(isinstance(plans, dict), "phases; allowed: an object")
            self.plans = {name: _read_plan(plan, name) for name, plan in plans.items()}

    def __getitem__(self, phase: Phase) -> PhasePlan:
        return self.plans.get(phase.name, PhasePlan())

    def trial(
        self,
        phase: Phase,
        part: str,
        modes: list[ComputeMode],
        compile_mode: Callable[[ComputeMode], Callable],
        inputs: Callable[[], Any],
    ) -> PrecisionTrial:
        """The best mode of a part, unless tried before by a phase cut at the same place, or a run.

        Args:
          part: `trunk` or `tail`.
          compile_mode, inputs: see `precision.run_trials`.
        """
        same = [other for other in self.recipe.phases if other.trainable == phase.trainable]
        known = next(filter(None, (getattr(self[other], part) for other in same)), ())
        what = f"{PARTS[part]} of phase {phase.name}"
        remembered = known or self.memory.read(phase, part, modes)
        trials = remembered or tuple(
            precision.run_trials(modes, compile_mode, inputs(), gradients=part == "tail")
        )
        if not remembered:
            self.memory.write(phase, part, trials)
        if trials != getattr(self[phase], part):
            self._update(phase, **{part: trials})
        best = precision.choose_trial(trials)
        if len(trials) > 1:
            tried = [f"{what}, tried on a batch of your images:", *precision.format_trials(trials)]
            source = f"{self.path} has it" if known else "an earlier run on this machine tried"
            for line in [f"{what}: {best.mode}, as {source}"] if remembered else tried:
                self.log(line)
        return best

    def cache(self, phase: Phase, decide: Callable[[], CacheDecision]) -> CacheDecision:
        """The phase's cache decision, made unless it was before."""
        decision = self[phase].cache
        if decision is None:
            decision = decide()
            self._update(phase, cache=decision)
            if decision.slots:
                self.log(f"phase {phase.name}: caches {decision.reason}")
        return decision

    def record_epochs(self, phase: Phase, epochs: tuple[int, ...]) -> None:
        self._update(phase, epochs=epochs)

    def _update(self, phase: Phase, **changes: Any) -> None:
        self.plans[phase.name] = dataclasses.replace(self[phase], **changes)
        with suppress(OSError):  # it is saved again with each checkpoint
            self.save()

    def save(self) -> None:
        """Writes `plan.json`.

        Raises:
          OSError: it can't be written.
        """
        write_json(
            self.path,
            {
                "recipe": digest(self.recipe),
                "tolerance": precision.TOLERANCE,
                "gradient_tolerance": precision.GRADIENT_TOLERANCE,
                "chosen": {name: _chosen_modes(plan) for name, plan in self.plans.items()},
                "phases": {name: dataclasses.asdict(plan) for name, plan in self.plans.items()},
            },
            digests.write,
        )


def _chosen_modes(plan: PhasePlan) -> dict[str, str]:
    trials = {part: getattr(plan, part) for part in PARTS}
    return {part: str(precision.choose_trial(t).mode) for part, t in trials.items() if t}


def _read_plan(value: Any, name: str) -> PhasePlan:
    """Converts one phase of plan.json.

    Raises:
      UserError: it is no plan of this version.
    """
    plan = convert(value, PhasePlan, name)
    for trial in (*plan.trunk, *plan.tail):
        choose(trial.mode.policy, dict.fromkeys(PRECISIONS), "policy")
        speed = trial.images_per_second
        require(speed > 0, f"images_per_second={speed}; allowed: a number above 0")
    require(all(count >= 0 for count in plan.epochs), f"epochs={plan.epochs}; allowed: 0 or more")
    if plan.cache:
        slots, views = plan.cache.slots, plan.cache.views
        valid = slots >= 0 and (views is None or views > 0)
        require(valid, f"slots={slots}, views={views}; allowed: 0 or more, 1 or more")
    return plan
