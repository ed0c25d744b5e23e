"""Comparison of two models on the same images, by McNemar's test."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from engine.core.errors import UserError
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DEFAULT_RULE, DecisionRule
from engine.evaluation.evaluate import Predictions


@dataclasses.dataclass(frozen=True)
class ModelComparison:
    """Two models on the images that both have predictions for.

    common: number of these images.
    right_a, right_b: how many each model has right.
    only_a, only_b: how many only that model has right.
    p_value: of McNemar's exact test: how often two equally good models would differ this much.
    """

    common: int
    right_a: int
    right_b: int
    only_a: int
    only_b: int
    p_value: float


def compare_models(
    a: Predictions,
    b: Predictions,
    rule_a: DecisionRule = DEFAULT_RULE,
    rule_b: DecisionRule = DEFAULT_RULE,
    names: tuple[str, str] = ("one model", "the other"),
) -> ModelComparison:
    """Compares two models by their rules' decisions; "uncertain" counts as wrong.

    Images are matched by `Predictions.name`, which must be unique for an image; duplicates in the
    predictions count once.

    Args:
      a, b: the predictions.
      rule_a, rule_b: the decision rules; the default is the most likely class.
      names: the models, as error messages name them.

    Raises:
      UserError: the models have different classes, no common image, or different labels for one.
    """
    require_same_classes([a.classes, b.classes])
    rows_by_name_a, rows_by_name_b = _rows_by_name(a), _rows_by_name(b)
    common = [name for name in rows_by_name_a if name in rows_by_name_b]
    if not common:
        raise UserError(
            f"{names[0]} and {names[1]} have no image in common (of {len(a)} and {len(b)}); "
            "name the same images for both, for example with --data_dir"
        )
    rows_a, rows_b = ([rows[name] for name in common] for rows in (rows_by_name_a, rows_by_name_b))
    for name, row_a, row_b in zip(common, rows_a, rows_b, strict=True):
        one, other = a.classes[a.labels[row_a]], b.classes[b.labels[row_b]]
        if one != other:
            raise UserError(
                f"{name} is labelled {one!r} for {names[0]} and {other!r} for {names[1]}; "
                "name the same labels for both, for example with --manifest"
            )
    correct_a, correct_b = _is_correct(a, rule_a)[rows_a], _is_correct(b, rule_b)[rows_b]
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    return ModelComparison(
        common=len(common),
        right_a=int(correct_a.sum()),
        right_b=int(correct_b.sum()),
        only_a=only_a,
        only_b=only_b,
        p_value=mcnemar(only_a, only_b),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """Returns the two-sided p-value of the exact test.

    Source: McNemar 1947, Note on the Sampling Error of the Difference between Correlated
    Proportions; the exact form is the sign test of the pairs that differ.
    """
    pairs = only_a + only_b
    tail = sum(math.comb(pairs, count) for count in range(min(only_a, only_b) + 1))
    return min(2 * tail / 2**pairs, 1.0)


def require_same_classes(class_lists: Iterable[Iterable[str]]) -> None:
    """Checks that all have the same class names, in any order.

    Raises:
      UserError: two of them differ.
    """
    first, *others = (sorted(classes) for classes in class_lists)
    for classes in others:
        if classes != first:
            raise UserError(
                f"the models have different classes: {_shortened(first)} and "
                f"{_shortened(classes)}; compare runs with the same classes"
            )


def _shortened(classes: list[str]) -> str:
    return ", ".join(classes[:10]) + (" …" if len(classes) > 10 else "")


def _rows_by_name(predictions: Predictions) -> dict[str, int]:
    """Returns the first row of each image."""
    return {predictions.name(n): n for n in reversed(range(len(predictions)))}


def _is_correct(predictions: Predictions, rule: DecisionRule) -> np.ndarray:
    """bool [N]."""
    probabilities = decision_rule.probabilities(rule, predictions.logits)
    decisions = decision_rule.decide(rule, predictions.classes, probabilities)
    return decisions == predictions.labels
