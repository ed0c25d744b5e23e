"""A model's metrics on one split, by its most likely classes, whatever the rule decides."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions
from engine.evaluation.intervals import (
    Interval,
    f1_intervals,
    f1_scores,
    macro_f1,
    macro_f1_interval,
)

TOP_K = (3, 5)
MAX_CONFUSED_PAIRS = 10
MAX_SINGLETON_SHARE = 0.1  # see `ClassificationMetrics.singleton_classes`


@dataclasses.dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class.

    precision, recall, f1: 0 where the denominator is.
    roc_area, average_precision: None where no image has the class, or all have.
    """

    name: str
    precision: float
    recall: float
    f1: float
    f1_interval: Interval
    support: int
    roc_area: float | None
    average_precision: float | None


@dataclasses.dataclass(frozen=True)
class ConfusedPair:
    """How many images with the label `given` are predicted as `predicted`."""

    given: str
    predicted: str
    count: int


@dataclasses.dataclass(frozen=True)
class ClassificationMetrics:
    """Metrics with 95 % intervals.

    loss: mean cross entropy in nats, without the temperature, as in `result.json`.
    macro_f1, macro_f1_interval: see `intervals`.
    confusion: int64 [classes, classes]; rows are labels, columns predictions.
    top_k: k -> share of images whose label is among the k most likely classes.
    confused_pairs: the most frequent confusions, most frequent first.
    """

    count: int
    accuracy: float
    accuracy_interval: Interval
    loss: float
    macro_f1: float
    macro_f1_interval: Interval
    per_class: tuple[ClassMetrics, ...]
    confusion: np.ndarray
    top_k: dict[int, float]
    confused_pairs: tuple[ConfusedPair, ...]

    @property
    def singleton_classes(self) -> int:
        """How many classes have a single image; 0 where too few to spoil `macro_f1_interval`."""
        support = np.array([row.support for row in self.per_class])
        singletons, nonempty = int((support == 1).sum()), int((support > 0).sum())
        return singletons if singletons > MAX_SINGLETON_SHARE * nonempty else 0


class Curve(NamedTuple):
    """x, y: float64 [points], 0 to 1. area: under the curve, or the average precision."""

    x: np.ndarray
    y: np.ndarray
    area: float


def classification_metrics(predictions: Predictions, rule: DecisionRule) -> ClassificationMetrics:
    """Computes all metrics; the rule's temperature matters to the ranking of images alone."""
    evaluation = predictions.evaluation()
    confusion = evaluation.confusion
    return ClassificationMetrics(
        count=evaluation.count,
        accuracy=evaluation.accuracy,
        accuracy_interval=evaluation.accuracy_interval,
        loss=evaluation.loss,
        macro_f1=macro_f1(confusion),
        macro_f1_interval=macro_f1_interval(confusion),
        per_class=_per_class(predictions, confusion, rule),
        confusion=confusion,
        top_k=_top_k(predictions),
        confused_pairs=_confused_pairs(predictions.classes, confusion),
    )


def _per_class(
    predictions: Predictions, confusion: np.ndarray, rule: DecisionRule
) -> tuple[ClassMetrics, ...]:
    correct, support, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    columns = (
        (correct / np.maximum(predicted, 1)).tolist(),
        (correct / np.maximum(support, 1)).tolist(),
        f1_scores(confusion).tolist(),
        f1_intervals(confusion),
        support.tolist(),
    )
    probabilities = decision_rule.probabilities(rule, predictions.logits)
    areas = (
        _rank_areas(np.sort(column[predictions.labels == label]), np.sort(column))
        for label, column in enumerate(probabilities.T)
    )
    rows = zip(predictions.classes, *columns, areas, strict=True)
    return tuple(ClassMetrics(*row, *areas_of_class) for *row, areas_of_class in rows)


def roc_curve(probabilities: np.ndarray, labels: np.ndarray, label: int) -> Curve:
    """Returns the true positive rate (y) over the false positive rate (x), one class against all.

    Args:
      probabilities: [N, classes].
      labels: int [N].
      label: the class; some images have it, and some don't.
    """
    from sklearn import metrics

    x, y, _ = metrics.roc_curve(labels == label, probabilities[:, label])
    return Curve(x, y, float(metrics.auc(x, y)))


def precision_recall_curve(probabilities: np.ndarray, labels: np.ndarray, label: int) -> Curve:
    """Returns precision (y) over recall (x), one class against all; see `roc_curve`.

    The area is the average precision.
    """
    from sklearn import metrics

    is_labelled, column = labels == label, probabilities[:, label]
    precision, recall, _ = metrics.precision_recall_curve(is_labelled, column)
    return Curve(recall, precision, float(metrics.average_precision_score(is_labelled, column)))


def _rank_areas(own: np.ndarray, every: np.ndarray) -> tuple[float | None, float | None]:
    """Returns ROC area and average precision of one class, without its curves; None if undefined.

    Of a thousand classes and 50,000 images, scikit-learn's take 43 seconds, these take 4. Source:
    Mann & Whitney 1947, a tie counts half; the mean of the precisions at each of the class's
    images.

    Args:
      own: the class's probabilities for its own images, in ascending order.
      every: the same for all images.
    """
    if not 0 < len(own) < len(every):
        return None, None
    below_own, below = np.searchsorted(own, own), np.searchsorted(every, own)
    upto_own, upto = np.searchsorted(own, own, "right"), np.searchsorted(every, own, "right")
    others = (below - below_own) + (upto - upto_own)  # twice those below, ties once
    area = others.sum() / (2 * len(own) * (len(every) - len(own)))
    average = np.mean((len(own) - below_own) / (len(every) - below))
    return float(area), float(average)


def _top_k(predictions: Predictions) -> dict[int, float]:
    """Ranks equal logits by class index, as `inference.predictions` does."""
    labels, logits = predictions.labels, predictions.logits
    classes = len(predictions.classes)
    own = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(classes) < labels[:, None]
    rank = ((logits > own) | ((logits == own) & earlier)).sum(-1)
    return {k: float((rank < k).mean()) for k in TOP_K if classes > 2 * k}


def _confused_pairs(classes: tuple[str, ...], confusion: np.ndarray) -> tuple[ConfusedPair, ...]:
    errors = confusion.copy()
    np.fill_diagonal(errors, 0)
    largest = np.argsort(-errors, axis=None, kind="stable")[:MAX_CONFUSED_PAIRS]
    cells = zip(*np.unravel_index(largest, errors.shape), strict=True)
    return tuple(
        ConfusedPair(classes[label], classes[predicted], int(errors[label, predicted]))
        for label, predicted in cells
        if errors[label, predicted]
    )
