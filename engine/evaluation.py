"""Evaluation: every example exactly once, exact counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from engine.specs import Batch


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
    """Runs an evaluation step over the batches; examples at weight 0 are left out."""
    confusion = np.zeros([classes, classes], np.int64)
    loss = 0.0
    for batch in batches:
        each, probabilities = step(batch.inputs, batch.labels)
        real = np.asarray(batch.weights) > 0
        labels = np.asarray(batch.labels)[real]
        predicted = np.asarray(probabilities).argmax(-1)[real]
        np.add.at(confusion, (labels, predicted), 1)
        loss += float(np.asarray(each, np.float64)[real].sum())
    return Evaluation(loss / int(confusion.sum()), confusion)
