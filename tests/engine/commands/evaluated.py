"""Runs to evaluate: their rules, and their predictions image by image."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import scipy.special

from engine.core.digests import write
from engine.core.recipe import Recipe
from engine.evaluation.decision_rule import DecisionRule
from engine.runs import best_model, checkpoints
from engine.runs.directory import RunDirectory
from engine.runs.load_run import load_run
from pipelines.decode.decode import decode
from pipelines.sources import sources

CLASSES = ("blue", "red")
RULE = DecisionRule(2.5, "blue", 0.4, 0.9)


def with_data(recipe: Recipe, **changes) -> Recipe:
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **changes))


def rule_of(run: RunDirectory) -> DecisionRule:
    return best_model.decision_rule_of(run, best_model.load_best_model(run)[1])


def predict_both_classes(run: RunDirectory) -> None:
    """Shifts the bias of the head so that the run predicts each class for some images."""
    log_odds = scipy.special.logit(expected_predictions(run, "validation")[1][:, 0])
    arrays, values = best_model.load_best_model(run)
    arrays[-1][0] -= np.quantile(log_odds, 0.55) * rule_of(run).temperature
    write(run.best, checkpoints.pack({"model": arrays}, values))


def expected_predictions(run: RunDirectory, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of a split of the run's data, image by image."""
    opened = load_run(run)
    examples = sources.load_examples(opened.recipe.data)
    examples = examples if split == "all" else examples.subset(split)
    images = [decode(Path(p).read_bytes(), *opened.recipe.image_size) for p in examples.paths]
    logits = opened.model(np.stack(images).astype(np.float32), training=False)
    scaled = np.asarray(logits, float) / opened.rule.temperature
    return examples.labels, scipy.special.softmax(scaled, -1)
