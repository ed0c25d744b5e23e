"""A run's directory with a model in it, without the time that training takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from engine.core.files import write
from engine.evaluation.decision_rule import DEFAULT_RULE, DecisionRule
from engine.models import classifier
from engine.runs import checkpoints
from engine.runs.directory import RunDirectory, claim_directory
from tests.engine.small import enliven
from tests.engine.small_runs import small_recipe

CLASSES = ("blue", "red", "other")


def save(
    place: Path, rule: DecisionRule = DEFAULT_RULE, classes: tuple[str, ...] = CLASSES, **changes
) -> RunDirectory:
    """Its network has random weights that let images through; `changes` are of its recipe."""
    run, recipe = RunDirectory(place), small_recipe(place, **changes)
    claim_directory(run, recipe, overwrite=False)
    made = classifier.build(recipe, len(classes))
    enliven(made.model)
    values = {"classes": list(classes), "rule": dataclasses.asdict(rule)}
    arrays = [variable.numpy() for variable in made.model.weights]
    write(run.best, checkpoints.pack({"model": arrays}, values))
    return run
