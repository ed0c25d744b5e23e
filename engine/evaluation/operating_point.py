"""Decisions other than the most likely class: a threshold for one class, and abstention.

Shares with a denominator of 0 are 0, and their intervals (0, 1).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from engine.core.errors import UserError
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions
from engine.evaluation.intervals import Interval, wilson

# A probability can differ by this much when the same image is in another batch.
ROUNDING = 1e-5


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """What a threshold does for the positive class.

    hits, misses: images of the positive class by whether they are predicted as such.
    false_alarms: images of other classes that are taken for it.
    negatives: all images of other classes.
    """

    threshold: float
    recall: float
    recall_interval: Interval
    precision: float
    hits: int
    misses: int
    false_alarms: int
    negatives: int
    false_alarm_rate: float


@dataclasses.dataclass(frozen=True)
class AbstentionMetrics:
    """How many decisions are left uncertain, and how good the others are.

    level: the probability that the most likely class needs.
    uncertain, sure: number of images.
    accuracy: of the sure decisions.
    """

    level: float
    uncertain: int
    sure: int
    share_uncertain: float
    accuracy: float
    accuracy_interval: Interval


def fit_threshold(
    probabilities: np.ndarray, labels: np.ndarray, positive: int, min_recall: float
) -> float:
    """Returns the largest threshold, which has the fewest false alarms, with that recall.

    This is the probability of the last image that has to be found. It is lowered by ROUNDING, so
    that rounding does not lose this image, but not so far that it includes another image.

    Args:
      probabilities: [N, classes], by the rule's temperature.
      labels: int [N].
      positive: index of the positive class.
      min_recall: above 0, at most 1.

    Raises:
      UserError: no image has this class.
    """
    own = np.sort(probabilities[labels == positive, positive])[::-1]
    if not len(own):
        raise UserError(
            f"none of the {len(labels)} images for fitting the threshold has the positive class; "
            "name another class, or add images of it"
        )
    recalls = np.arange(1, len(own) + 1) / len(own)
    last = float(own[np.argmax(recalls >= min_recall)])
    below = probabilities[probabilities[:, positive] < last, positive]
    following = float(below.max()) if len(below) else 0.0
    lowered = last - min(ROUNDING, (last - following) / 2)
    return lowered if lowered > following else last


def operating_point_of_rule(predictions: Predictions, rule: DecisionRule) -> OperatingPoint | None:
    """Measures the rule's threshold; returns None if the rule has none."""
    if rule.positive_class is None or rule.threshold is None:
        return None
    positive = predictions.classes.index(rule.positive_class)
    column = decision_rule.probabilities(rule, predictions.logits)[:, positive]
    is_predicted, is_labelled = column >= rule.threshold, predictions.labels == positive
    hits = int((is_predicted & is_labelled).sum())
    false_alarms = int((is_predicted & ~is_labelled).sum())
    positives, negatives = int(is_labelled.sum()), int((~is_labelled).sum())
    return OperatingPoint(
        threshold=rule.threshold,
        recall=_share(hits, positives),
        recall_interval=wilson(hits, positives),
        precision=_share(hits, hits + false_alarms),
        hits=hits,
        misses=positives - hits,
        false_alarms=false_alarms,
        negatives=negatives,
        false_alarm_rate=_share(false_alarms, negatives),
    )


def decisions_of_rule(predictions: Predictions, rule: DecisionRule) -> AbstentionMetrics | None:
    """Measures the rule's decisions; returns None if they always are the most likely class."""
    if not rule.overrides_argmax:
        return None
    probabilities = decision_rule.probabilities(rule, predictions.logits)
    decisions = decision_rule.decide(rule, predictions.classes, probabilities)
    count, uncertain = len(predictions), int((decisions == decision_rule.UNCERTAIN).sum())
    correct, sure = int((decisions == predictions.labels).sum()), count - uncertain
    return AbstentionMetrics(
        level=rule.abstain or 0.0,
        uncertain=uncertain,
        sure=sure,
        share_uncertain=_share(uncertain, count),
        accuracy=_share(correct, sure),
        accuracy_interval=wilson(correct, sure),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
