"""A run directory read back: its recipe and its best model."""

from __future__ import annotations

import dataclasses
from typing import Any

from engine.core.recipe import Recipe
from engine.evaluation.decision_rule import DecisionRule
from engine.models import classifier
from engine.models.classifier import Classifier
from engine.runs import checkpoints
from engine.runs.best_model import decision_rule_of, load_best_model
from engine.runs.directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A run's recipe, its best model and how its logits become decisions.

    classes: names of the labels. data: `DataLoader.identity` of what it was trained on; empty where
    unknown.
    """

    recipe: Recipe
    classifier: Classifier
    classes: tuple[str, ...]
    rule: DecisionRule
    data: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def model(self) -> Any:
        return self.classifier.model


def load_run(run: RunDirectory) -> LoadedRun:
    """Loads the best model of a run, finished or not.

    Raises:
      UserError: there is no run, it has no model yet, or its files don't fit together.
    """
    recipe = run.read_recipe()
    arrays, values = load_best_model(run)
    bare = dataclasses.replace(recipe, weights="none")
    network = classifier.build(bare, len(values["classes"]))
    checkpoints.restore(network.model.weights, arrays, str(run.best))
    classes, rule, data = (
        tuple(values["classes"]),
        decision_rule_of(run, values),
        values.get("data"),
    )
    return LoadedRun(recipe, network, classes, rule, data if isinstance(data, dict) else {})
