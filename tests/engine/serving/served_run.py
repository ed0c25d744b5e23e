"""A run with a model that nobody trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from engine.core.files import write
from engine.core.recipe import Recipe
from engine.evaluation.decision_rule import Rule
from engine.models import classifier
from engine.runs import checkpoints
from engine.runs.directory import RunDir, claim
from tests.engine import small


def make(
    place: Path, recipe: Recipe, classes: tuple[str, ...], rule: Rule, lively: bool = False
) -> RunDir:
    """lively: whether its normalisations get statistics; see `small.enliven`."""
    model = classifier.build(recipe, len(classes)).model
    if lively:
        small.enliven(model)
    run = RunDir(place)
    claim(run, recipe, overwrite=False)
    values = {"classes": list(classes), "rule": dataclasses.asdict(rule)}
    write(run.best, checkpoints.pack({"model": small.values(model.weights)}, values))
    return run
