"""The directory of a finished run with a model in it, without the time that training takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from engine.core.digests import write
from engine.core.recipe import Recipe
from engine.evaluation.decision_rule import DEFAULT_RULE, DecisionRule
from engine.models import classifier
from engine.runs import checkpoints
from engine.runs.directory import RunDirectory, claim_directory
from tests.engine.small_runs import small_recipe

CLASSES = ("blue", "red", "other")


def save(
    place: Path,
    rule: DecisionRule = DEFAULT_RULE,
    classes: tuple[str, ...] = CLASSES,
    recipe: Recipe | None = None,
    **changes,
) -> RunDirectory:
    """Saves a run of a network with random weights.

    Args:
      recipe: None for `small_recipe`, with `changes` where there are any.
    """
    run, recipe = RunDirectory(place), recipe or small_recipe(place, **changes)
    claim_directory(run, recipe, overwrite=False)
    model = classifier.build(recipe, len(classes)).model
    values = {"classes": list(classes), "rule": dataclasses.asdict(rule)}
    arrays = [variable.numpy() for variable in model.weights]
    write(run.best, checkpoints.pack({"model": arrays}, values))
    write(run.result, b'{"status": "finished"}')
    return run
