"""A run's directory with a model in it, without the time that training takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from engine import checkpoints, classifier
from engine.rules import PLAIN, Rule
from engine.rundir import RunDir, claim, write
from tests.engine.small import enliven
from tests.engine.small_runs import small_recipe

CLASSES = ("blue", "red", "other")


def save(place: Path, rule: Rule = PLAIN, classes: tuple[str, ...] = CLASSES, **changes) -> RunDir:
    """Its network has random weights that let pictures through; `changes` are of its recipe."""
    run, recipe = RunDir(place), small_recipe(place, **changes)
    claim(run, recipe, overwrite=False)
    made = classifier.build(recipe, len(classes))
    enliven(made.model)
    values = {"classes": list(classes), "rule": dataclasses.asdict(rule)}
    arrays = [variable.numpy() for variable in made.model.weights]
    write(run.best, checkpoints.pack({"model": arrays}, values))
    return run
