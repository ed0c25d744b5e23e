"""Evaluation: every example exactly once, exact counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from engine.core.dataset import Batch
from engine.core.errors import UserError
from engine.evaluation.decision_rule import log_probabilities


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model does on one part of the data.

    loss: mean cross entropy, without label smoothing or class weights, in nats.
    confusion: int64 [classes, classes], rows the given labels, columns the predicted.
    """

    loss: float
    confusion: np.ndarray

    @property
    def count(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.confusion)) / self.count

    def per_class(self) -> list[dict[str, float]]:
        """Precision, recall, f1 and support of each class; 0 where a figure has no denominator."""
        right = np.diag(self.confusion).astype(float)
        given, predicted = self.confusion.sum(1), self.confusion.sum(0)
        precision = np.divide(right, predicted, out=np.zeros_like(right), where=predicted > 0)
        recall = np.divide(right, given, out=np.zeros_like(right), where=given > 0)
        both = precision + recall
        f1 = np.divide(2 * precision * recall, both, out=np.zeros_like(right), where=both > 0)
        rows = zip(precision, recall, f1, given, strict=True)
        names = ("precision", "recall", "f1", "support")
        return [
            dict(zip(names, (float(p), float(r), float(f), int(n)), strict=True))
            for p, r, f, n in rows
        ]


def evaluate(
    step: Callable[[Any, Any], tuple], batches: Iterable[Batch], classes: int
) -> Evaluation:
    """Runs an evaluation step over the batches, and keeps no more than the counts."""
    confusion = np.zeros([classes, classes], np.int64)
    loss = 0.0
    for labels, logits, each in answered(step, batches):
        _count(confusion, labels, logits)
        loss += float(each.astype(np.float64).sum())
    return Evaluation(loss / int(confusion.sum()), confusion)


def answered(
    step: Callable[[Any, Any], tuple], batches: Iterable[Batch]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Labels, logits and losses of each batch; examples at weight 0 are left out."""
    for batch in batches:
        each, logits = step(batch.inputs, batch.labels)
        real = np.asarray(batch.weights) > 0
        yield np.asarray(batch.labels)[real], np.asarray(logits)[real], np.asarray(each)[real]


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model says of N images whose labels are known, in their order.

    labels: int32 [N]. logits: float32 [N, classes]. name(n): where image n lies.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    logits: np.ndarray
    name: Callable[[int], str] = str

    def __len__(self) -> int:
        return len(self.labels)

    def evaluation(self) -> Evaluation:
        """Of the likeliest classes, whatever the rule."""
        confusion = np.zeros([len(self.classes)] * 2, np.int64)
        _count(confusion, self.labels, self.logits)
        given = log_probabilities(self.logits)[np.arange(len(self)), self.labels]
        return Evaluation(-float(given.mean()), confusion)


def collect_predictions(
    step: Callable[[Any, Any], tuple],
    batches: Iterable[Batch],
    classes: Sequence[str],
    name: Callable[[int], str] = str,
) -> Predictions:
    """As `evaluate`, and keeps all.

    Raises:
      UserError: an answer is no number.
    """
    columns = [(labels, logits) for labels, logits, _ in answered(step, batches)]
    labels, logits = (np.concatenate(column) for column in zip(*columns, strict=True))
    broken = int((~np.isfinite(logits)).any(-1).sum())
    if broken:
        raise UserError(
            f"the model's answers to {broken} of {len(labels)} images are no numbers; "
            "train anew, with a lower learning_rate or --precision=float32"
        )
    return Predictions(tuple(classes), labels, logits, name)


def _count(confusion: np.ndarray, labels: np.ndarray, logits: np.ndarray) -> None:
    np.add.at(confusion, (labels, logits.argmax(-1)), 1)
