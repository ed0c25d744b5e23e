"""What a run found out about its machine and decided by it; written down, since it moves bits.

A run that is taken up reads its decisions from `plan.json` instead of measuring again.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import tensorflow as tf

from engine import precision, trunk
from engine.freezing import Split
from engine.planning import Keep
from engine.precision import Program, Trial
from engine.rundir import RunDir, write_json
from engine.specs import Feed, Phase, Recipe
from engine.watching import Watch


class Decisions:
    """For each cut the trials of its trunk, and for each phase what it keeps."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.trials: dict[str, list[Trial]] = {}
        self.keeps: dict[str, Keep] = {}
        try:
            values = json.loads(run.plan.read_text("utf-8"))
            self.trials = {cut: [_trial(t) for t in each] for cut, each in values["trunks"].items()}
            self.keeps = {name: Keep(**value) for name, value in values["phases"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass  # none were made so far, or none that can be read: they are made anew

    def trunk(self, recipe: Recipe, phase: Phase, split: Split, feed: Feed, watch: Watch) -> Trial:
        """How the phase's trunk is computed best: tried on the first batch, if not done before."""
        cut = phase.trainable
        if cut not in self.trials:
            pixels = tf.cast(next(iter(feed.once("train", [0]))).inputs, tf.float32)
            programs = precision.candidates(recipe)
            make = functools.partial(trunk.specialise, split.trunk)
            self.trials[cut] = precision.trials(programs, make, pixels)
            self._save()
            if len(programs) > 1:
                watch.note(f"phase {phase.name}: the frozen part, on a batch of your pictures:")
                for line in precision.table(self.trials[cut]):
                    watch.note(line)
        return precision.best(self.trials[cut])

    def keep(self, phase: str, keep: Keep) -> None:
        self.keeps[phase] = keep
        self._save()

    def _save(self) -> None:
        trunks = {cut: [dataclasses.asdict(t) for t in each] for cut, each in self.trials.items()}
        values: dict[str, Any] = {
            "chosen": {cut: str(precision.best(each).program) for cut, each in self.trials.items()},
            "tolerance": precision.TOLERANCE,
            "trunks": trunks,
            "phases": {name: dataclasses.asdict(keep) for name, keep in self.keeps.items()},
        }
        write_json(self.run.plan, values)


def _trial(value: dict[str, Any]) -> Trial:
    return Trial(**{**value, "program": Program(**value["program"])})
