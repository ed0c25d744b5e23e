"""Two models on the same images: which is right where, and whether that may be chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from engine.core.errors import UserError
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import PLAIN, DecisionRule
from engine.evaluation.evaluate import Predictions


@dataclasses.dataclass(frozen=True)
class ModelComparison:
    """On the images that both have.

    right_a, right_b: how many each has right. only_a, only_b: those that the other has wrong.
    p_value: how often two equally good models would differ so much, by McNemar's exact test.
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
    rule_a: DecisionRule = PLAIN,
    rule_b: DecisionRule = PLAIN,
    called: tuple[str, str] = ("one model", "the other"),
) -> ModelComparison:
    """By the likeliest classes, or by what the rules make of them; uncertain is not right.

    An image is the same where `name` is: the caller sees to it that an image has one name, and
    no two have the same. What stands twice among the answers counts once. called: the models.

    Raises:
      UserError: the models know other classes, no image is in both, or one is labelled otherwise.
    """
    require_same_classes([a.classes, b.classes])
    places_a, places_b = _places(a), _places(b)
    common = [name for name in places_a if name in places_b]
    if not common:
        raise UserError(
            f"{called[0]} and {called[1]} have no image in common (of {len(a)} and {len(b)}); "
            "name the same images for both, as with --data_dir"
        )
    rows_a, rows_b = ([places[name] for name in common] for places in (places_a, places_b))
    for name, one, other in zip(common, _given(a, rows_a), _given(b, rows_b), strict=True):
        if one != other:
            raise UserError(
                f"{name} is labelled {one!r} for {called[0]} and {other!r} for {called[1]}; "
                "name the same labels for both, as with --manifest"
            )
    right_a, right_b = _right(a, rule_a)[rows_a], _right(b, rule_b)[rows_b]
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return ModelComparison(
        common=len(common),
        right_a=int(right_a.sum()),
        right_b=int(right_b.sum()),
        only_a=only_a,
        only_b=only_b,
        p_value=mcnemar(only_a, only_b),
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact test's two-sided p-value: of as many throws of a coin.

    Source: McNemar 1947, Note on the Sampling Error of the Difference between Correlated
    Proportions; the exact form is the sign test of those that differ.
    """
    from scipy.stats import binomtest

    both = only_a + only_b
    return float(binomtest(only_a, both).pvalue) if both else 1.0


def require_same_classes(several: Iterable[Iterable[str]]) -> None:
    """Their order may differ.

    Raises:
      UserError: two of them are not of the same names.
    """
    first, *others = (sorted(classes) for classes in several)
    for classes in others:
        if classes != first:
            raise UserError(
                f"the models know other classes: {_listed(first)} and {_listed(classes)}; "
                "compare runs of the same classes"
            )


def _listed(classes: list[str]) -> str:
    return ", ".join(classes[:10]) + (" …" if len(classes) > 10 else "")


def _places(answers: Predictions) -> dict[str, int]:
    """Name -> where it stands first."""
    return {answers.name(n): n for n in reversed(range(len(answers)))}


def _given(answers: Predictions, rows: list[int]) -> list[str]:
    return [answers.classes[label] for label in answers.labels[rows]]


def _right(answers: Predictions, rule: DecisionRule) -> np.ndarray:
    """bool [N]."""
    chances = decision_rule.probabilities(rule, answers.logits)
    return decision_rule.decide(rule, answers.classes, chances) == answers.labels
