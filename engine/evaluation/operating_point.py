"""Answers that are not the likeliest class: a class found at a threshold, and images left open.

chances: probabilities [N, classes], by the rule's temperature. labels: int [N]. Shares are 0 where
there is nothing to count, as in `Evaluation.per_class`, and their intervals then (0, 1).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from engine.core.errors import UserError, require
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions
from engine.evaluation.intervals import Interval, wilson

# By as much a probability may differ where the same image comes in another batch.
ROUNDING = 1e-5


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """What a threshold finds of the positive class, and what it costs.

    found, missed: images of the positive class. false_alarms: those among the `negatives`, the
    images of all other classes, that are taken for it.
    """

    threshold: float
    recall: float
    recall_interval: Interval
    precision: float
    found: int
    missed: int
    false_alarms: int
    negatives: int
    false_alarm_rate: float


@dataclasses.dataclass(frozen=True)
class AbstentionMetrics:
    """uncertain, sure: images. accuracy: of the sure ones."""

    level: float
    uncertain: int
    sure: int
    share_uncertain: float
    accuracy: float
    accuracy_interval: Interval


def fit_threshold(
    chances: np.ndarray, labels: np.ndarray, positive: int, min_recall: float
) -> float:
    """The largest threshold, so that with the fewest false alarms, that finds so much of a class.

    That is the probability of the last image that has to be found; less `ROUNDING`, but not so
    much that it takes in one image more, so that rounding does not lose that one.

    Raises:
      UserError: no image is of the class, or min_recall is not above 0 and at most 1.
    """
    require(0 < min_recall <= 1, f"min_recall={min_recall}; allowed: above 0, up to 1")
    own = np.sort(chances[labels == positive, positive])[::-1]
    if not len(own):
        raise UserError(
            f"none of the {len(labels)} images that the threshold is to be fitted on is of the "
            "positive class; name another class, or give it images"
        )
    recalls = np.arange(1, len(own) + 1) / len(own)
    last = float(own[np.argmax(recalls >= min_recall)])
    below = chances[chances[:, positive] < last, positive]
    following = float(below.max()) if len(below) else 0.0
    frozen_forward = last - min(ROUNDING, (last - following) / 2)
    return frozen_forward if frozen_forward > following else last


def operate(
    chances: np.ndarray, labels: np.ndarray, positive: int, threshold: float
) -> OperatingPoint:
    names = _names(chances)
    rule = DecisionRule(positive_class=names[positive], threshold=threshold)
    taken, given = decision_rule.decide(rule, names, chances) == positive, labels == positive
    found, false_alarms = int((taken & given).sum()), int((taken & ~given).sum())
    positives, negatives = int(given.sum()), int((~given).sum())
    return OperatingPoint(
        threshold=threshold,
        recall=_share(found, positives),
        recall_interval=wilson(found, positives),
        precision=_share(found, found + false_alarms),
        found=found,
        missed=positives - found,
        false_alarms=false_alarms,
        negatives=negatives,
        false_alarm_rate=_share(false_alarms, negatives),
    )


def abstain(
    chances: np.ndarray, labels: np.ndarray, level: float, decisions: np.ndarray | None = None
) -> AbstentionMetrics:
    """How many images have no class that is as likely as `level`, and how good the rest is.

    decisions: int [N], the answers to the rest, as `rules.decide` gives them; the likeliest classes
      if not given.
    """
    names = _names(chances)
    decided = decision_rule.decide(DecisionRule(abstain=level), names, chances)
    sure = decided != decision_rule.UNCERTAIN
    right = int(((decided if decisions is None else decisions) == labels)[sure].sum())
    count = int(sure.sum())
    return AbstentionMetrics(
        level=level,
        uncertain=len(labels) - count,
        sure=count,
        share_uncertain=_share(len(labels) - count, len(labels)),
        accuracy=_share(right, count),
        accuracy_interval=wilson(right, count),
    )


def at_threshold(answers: Predictions, rule: DecisionRule) -> OperatingPoint | None:
    """What the rule's threshold does to these images; None where it has none."""
    if rule.positive_class is None or rule.threshold is None:
        return None
    positive = answers.classes.index(rule.positive_class)
    chances = decision_rule.probabilities(rule, answers.logits)
    return operate(chances, answers.labels, positive, rule.threshold)


def decided(answers: Predictions, rule: DecisionRule) -> AbstentionMetrics | None:
    """How right the rule's answers are, less those that it leaves uncertain.

    None where they are always the likeliest classes.
    """
    if not rule.decides:
        return None
    chances = decision_rule.probabilities(rule, answers.logits)
    decisions = decision_rule.decide(rule, answers.classes, chances)
    return abstain(chances, answers.labels, rule.abstain or 0.0, decisions)


def _names(chances: np.ndarray) -> list[str]:
    """Of the classes, which a rule calls by name."""
    return [str(label) for label in range(chances.shape[-1])]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
