"""A model's figures on one part of the data: of the likeliest class, whatever the rule answers."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.evaluation.evaluate import Predictions
from engine.evaluation.intervals import Interval, f1_intervals, macro_f1, macro_f1_interval, wilson

TOP = (3, 5)
MOST_PAIRS = 10
LONE = 0.1  # see `Figures.lone`
_AT_ONCE = 64  # classes whose probabilities are laid out by class together


@dataclasses.dataclass(frozen=True)
class ClassMetrics:
    """Of one class. The areas are None where no image is of the class, or all are."""

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
    """So many images of the class `given` were taken for the class `predicted`."""

    given: str
    predicted: str
    count: int


@dataclasses.dataclass(frozen=True)
class ClassificationMetrics:
    """Intervals are at 95 %.

    loss: mean cross entropy in nats, of the network's logits as they are, as in `result.json`.
    macro_f1, macro_f1_interval: see `intervals`.
    confusion: int64 [classes, classes], rows the given labels, columns the predicted.
    top_k: k -> how often the given label is among the k likeliest.
    pairs: the most frequent confusions, most frequent first.
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
    pairs: tuple[ConfusedPair, ...]

    @property
    def lone(self) -> int:
        """Classes with a single image, where they are so many that `macro_f1_interval` can't be
        trusted; else 0.
        """
        support = np.array([row.support for row in self.per_class])
        lone, given = int((support == 1).sum()), int((support > 0).sum())
        return lone if lone > LONE * given else 0


class Curve(NamedTuple):
    """x, y: float64 [points], 0 to 1. area: under it, or what stands for that."""

    x: np.ndarray
    y: np.ndarray
    area: float


def classification_metrics(answers: Predictions, rule: DecisionRule) -> ClassificationMetrics:
    """What the rule has to do with it is its temperature, by which images are ranked."""
    evaluation = answers.evaluation()
    confusion, count = evaluation.confusion, evaluation.count
    rows = evaluation.per_class()
    areas = _areas(decision_rule.probabilities(rule, answers.logits), answers.labels)
    return ClassificationMetrics(
        count=count,
        accuracy=evaluation.accuracy,
        accuracy_interval=wilson(int(np.trace(confusion)), count),
        loss=evaluation.loss,
        macro_f1=macro_f1(confusion),
        macro_f1_interval=macro_f1_interval(confusion),
        per_class=tuple(
            ClassMetrics(
                name=name,
                precision=row["precision"],
                recall=row["recall"],
                f1=row["f1"],
                f1_interval=interval,
                support=int(row["support"]),
                roc_area=roc_area,
                average_precision=average,
            )
            for name, row, interval, (roc_area, average) in zip(
                answers.classes, rows, f1_intervals(confusion), areas, strict=True
            )
        ),
        confusion=confusion,
        top_k=_top_k(answers),
        pairs=_pairs(answers.classes, confusion),
    )


def roc(chances: np.ndarray, labels: np.ndarray, label: int) -> Curve:
    """x: false positive rate; y: true positive rate, of the class against all others.

    chances: probabilities [N, classes]. labels: int [N].

    Raises:
      ValueError: no image is of the class, or all are.
    """
    from sklearn.metrics import auc, roc_curve

    x, y, _ = roc_curve(*_against_others(chances, labels, label))
    return Curve(x, y, float(auc(x, y)))


def precision_recall(chances: np.ndarray, labels: np.ndarray, label: int) -> Curve:
    """x: recall; y: precision, of the class against all others. The area is average precision.

    chances: probabilities [N, classes]. labels: int [N].

    Raises:
      ValueError: no image is of the class, or all are.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve

    given, column = _against_others(chances, labels, label)
    precision, recall, _ = precision_recall_curve(given, column)
    return Curve(recall, precision, float(average_precision_score(given, column)))


def _against_others(
    chances: np.ndarray, labels: np.ndarray, label: int
) -> tuple[np.ndarray, np.ndarray]:
    given = labels == label
    if given.all() or not given.any():
        raise ValueError(f"{given.sum()} of {len(given)} images are of class {label}")
    return given, chances[:, label]


def _areas(chances: np.ndarray, labels: np.ndarray) -> list[tuple[float | None, float | None]]:
    """Under both curves of each class that has them."""
    found: list[tuple[float | None, float | None]] = []
    for start in range(0, chances.shape[1], _AT_ONCE):
        columns = np.ascontiguousarray(chances[:, start : start + _AT_ONCE].T)
        for label, column in enumerate(columns, start):
            own = np.sort(column[labels == label])
            within = 0 < len(own) < len(column)
            found.append(_both_areas(own, np.sort(column)) if within else (None, None))
    return found


def _both_areas(own: np.ndarray, every: np.ndarray) -> tuple[float, float]:
    """ROC area and average precision, from one class's probabilities for its own images and for
    all, both in rising order.

    A whole curve of each of a thousand classes would take half a minute. Source: Mann & Whitney
    1947, a tie counts half; the mean of the precisions at which the class's images are found.
    """
    below_own, below = np.searchsorted(own, own), np.searchsorted(every, own)
    upto_own, upto = np.searchsorted(own, own, "right"), np.searchsorted(every, own, "right")
    others = (below - below_own) + (upto - upto_own)  # twice those before each, ties once
    area = others.sum() / (2 * len(own) * (len(every) - len(own)))
    average = np.mean((len(own) - below_own) / (len(every) - below))
    return float(area), float(average)


def _top_k(answers: Predictions) -> dict[int, float]:
    """Of equal logits those of the first classes count as the likelier ones, as `predict` does."""
    classes, labels, logits = len(answers.classes), answers.labels, answers.logits
    own = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(classes) < labels[:, None]
    place = ((logits > own) | ((logits == own) & earlier)).sum(-1)
    return {k: float((place < k).mean()) for k in TOP if classes > 2 * k}


def _pairs(classes: tuple[str, ...], confusion: np.ndarray) -> tuple[ConfusedPair, ...]:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    places = zip(*np.unravel_index(largest, wrong.shape), strict=True)
    return tuple(
        ConfusedPair(classes[given], classes[predicted], int(wrong[given, predicted]))
        for given, predicted in places
        if wrong[given, predicted]
    )
