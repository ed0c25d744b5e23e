"""A run with a model that nobody trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from engine.core.files import write
from engine.core.recipe import Recipe
from engine.evaluation.decision_rule import DecisionRule
from engine.models import classifier
from engine.runs import checkpoints
from engine.runs.directory import RunDirectory, claim_directory
from tests.engine import small


def make(
    place: Path, recipe: Recipe, classes: tuple[str, ...], rule: DecisionRule, lively: bool = False
) -> RunDirectory:
    """lively: whether its normalisations get statistics; see `small.enliven`."""
    model = classifier.build(recipe, len(classes)).model
    if lively:
        small.enliven(model)
    run = RunDirectory(place)
    claim_directory(run, recipe, overwrite=False)
    values = {"classes": list(classes), "rule": dataclasses.asdict(rule)}
    write(run.best, checkpoints.pack({"model": small.values(model.weights)}, values))
    return run
