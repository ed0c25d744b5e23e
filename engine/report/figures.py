"""A model's figures on one part of the data: of the likeliest class, whatever the rule answers."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from engine import rules
from engine.evaluation import Answers
from engine.report.intervals import Interval, bootstrap_f1, macro, wilson
from engine.rules import Rule

TOP = (3, 5)
MOST_PAIRS = 10


@dataclasses.dataclass(frozen=True)
class ClassFigures:
    """Of one class. The areas are None where no picture is of the class, or all are."""

    name: str
    precision: float
    recall: float
    f1: float
    f1_interval: Interval
    support: int
    roc_area: float | None
    average_precision: float | None


@dataclasses.dataclass(frozen=True)
class Pair:
    """So many pictures of the class `given` were taken for the class `predicted`."""

    given: str
    predicted: str
    count: int


@dataclasses.dataclass(frozen=True)
class Figures:
    """Intervals are at 95 %.

    loss: mean cross entropy in nats, of the network's logits as they are, as in `result.json`.
    macro_f1: see `intervals.macro`.
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
    per_class: tuple[ClassFigures, ...]
    confusion: np.ndarray
    top_k: dict[int, float]
    pairs: tuple[Pair, ...]


class Curve(NamedTuple):
    """x, y: float64 [points], 0 to 1. area: under it, or what stands for that."""

    x: np.ndarray
    y: np.ndarray
    area: float


def figures(answers: Answers, rule: Rule) -> Figures:
    """What the rule has to do with it is its temperature, by which pictures are ranked."""
    evaluation = answers.evaluation()
    confusion, count = evaluation.confusion, evaluation.count
    rows = evaluation.per_class()
    each, whole = bootstrap_f1(confusion)
    areas = _areas(answers, rule)
    occurring = (confusion.sum(0) + confusion.sum(1)) > 0
    return Figures(
        count=count,
        accuracy=evaluation.accuracy,
        accuracy_interval=wilson(int(np.trace(confusion)), count),
        loss=evaluation.loss,
        macro_f1=float(macro(np.array([row["f1"] for row in rows]), occurring)),
        macro_f1_interval=whole,
        per_class=tuple(
            ClassFigures(
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
                answers.classes, rows, each, areas, strict=True
            )
        ),
        confusion=confusion,
        top_k=_top_k(answers),
        pairs=_pairs(answers.classes, confusion),
    )


def roc(answers: Answers, rule: Rule, label: int) -> Curve:
    """x: false positive rate; y: true positive rate, of the class against all others.

    Raises:
      ValueError: no picture is of the class, or all are.
    """
    from sklearn.metrics import auc, roc_curve

    x, y, _ = roc_curve(*_against_others(answers, rule, label))
    return Curve(x, y, float(auc(x, y)))


def precision_recall(answers: Answers, rule: Rule, label: int) -> Curve:
    """x: recall; y: precision, of the class against all others. The area is average precision.

    Raises:
      ValueError: no picture is of the class, or all are.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve

    given, chances = _against_others(answers, rule, label)
    precision, recall, _ = precision_recall_curve(given, chances)
    return Curve(recall, precision, float(average_precision_score(given, chances)))


def _against_others(answers: Answers, rule: Rule, label: int) -> tuple[np.ndarray, np.ndarray]:
    given = answers.labels == label
    if given.all() or not given.any():
        raise ValueError(f"{given.sum()} of {len(given)} pictures are of class {label}")
    return given, rules.probabilities(rule, answers.logits)[:, label]


def _areas(answers: Answers, rule: Rule) -> list[tuple[float | None, float | None]]:
    """Under both curves of each class that has them."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    chances = rules.probabilities(rule, answers.logits)
    found: list[tuple[float | None, float | None]] = []
    for label, column in enumerate(chances.T):
        given = answers.labels == label
        if given.any() and not given.all():
            areas = roc_auc_score(given, column), average_precision_score(given, column)
            found.append((float(areas[0]), float(areas[1])))
        else:
            found.append((None, None))
    return found


def _top_k(answers: Answers) -> dict[int, float]:
    """Of equal logits those of the first classes count as the likelier ones, as `predict` does."""
    classes, labels, logits = len(answers.classes), answers.labels, answers.logits
    own = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(classes) < labels[:, None]
    place = ((logits > own) | ((logits == own) & earlier)).sum(-1)
    return {k: float((place < k).mean()) for k in TOP if classes > 2 * k}


def _pairs(classes: tuple[str, ...], confusion: np.ndarray) -> tuple[Pair, ...]:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    largest = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    places = zip(*np.unravel_index(largest, wrong.shape), strict=True)
    return tuple(
        Pair(classes[given], classes[predicted], int(wrong[given, predicted]))
        for given, predicted in places
        if wrong[given, predicted]
    )
