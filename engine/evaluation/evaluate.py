"""Evaluation: every example exactly once, exact counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from engine.core.dataset import Batch
from engine.core.errors import UserError
from engine.evaluation.decision_rule import log_probabilities
from engine.evaluation.intervals import Interval, wilson

# Inputs and labels of a batch -> losses, float32 [B], and logits, float32 [B, classes].
EvalStep = Callable[[Any, Any], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Loss and confusion matrix of a model on one split.

    loss: mean cross entropy in nats, without label smoothing or class weights.
    confusion: int64 [classes, classes]; rows are labels, columns predictions.
    right: bool [N], which images have their label as the most likely class, in their order.
    """

    loss: float
    confusion: np.ndarray
    right: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, bool))

    @property
    def count(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.confusion)) / self.count

    @property
    def accuracy_interval(self) -> Interval:
        return wilson(int(np.trace(self.confusion)), self.count)


def evaluate(step: EvalStep, batches: Iterable[Batch], classes: int) -> Evaluation:
    """Runs an evaluation step over the batches and stores no logits."""
    confusion, right = np.zeros([classes, classes], np.int64), [np.zeros(0, bool)]
    loss = 0.0
    for labels, logits, losses in _run_eval_step(step, batches):
        right.append(_add_counts(confusion, labels, logits))
        loss += float(losses.astype(np.float64).sum())
    return Evaluation(loss / int(confusion.sum()), confusion, np.concatenate(right))


def _run_eval_step(
    step: EvalStep, batches: Iterable[Batch]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields labels, logits and losses of each batch, without its padding (weight 0)."""
    for batch in batches:
        losses, logits = step(batch.inputs, batch.labels)
        real = np.asarray(batch.weights) > 0
        yield np.asarray(batch.labels)[real], np.asarray(logits)[real], np.asarray(losses)[real]


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A model's logits for N labelled images.

    labels: int32 [N].
    logits: float32 [N, classes].
    name: returns the path of the n-th image.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    logits: np.ndarray
    name: Callable[[int], str] = str

    def __len__(self) -> int:
        return len(self.labels)

    def evaluation(self) -> Evaluation:
        """Evaluates the most likely classes; no decision rule applies."""
        confusion = np.zeros([len(self.classes)] * 2, np.int64)
        right = _add_counts(confusion, self.labels, self.logits)
        of_labels = log_probabilities(self.logits)[np.arange(len(self)), self.labels]
        return Evaluation(-float(of_labels.mean()), confusion, right)


def collect_predictions(
    step: EvalStep,
    batches: Iterable[Batch],
    classes: Sequence[str],
    name: Callable[[int], str] = str,
) -> Predictions:
    """Runs an evaluation step over the batches and stores all logits.

    Raises:
      UserError: logits are NaN or infinite.
    """
    columns = [(labels, logits) for labels, logits, _ in _run_eval_step(step, batches)]
    labels, logits = (np.concatenate(column) for column in zip(*columns, strict=True))
    non_finite = int((~np.isfinite(logits)).any(-1).sum())
    if non_finite:
        raise UserError(
            f"the model's logits are NaN or infinite for {non_finite} of {len(labels)} images; "
            "train again with a lower learning_rate or --precision=float32"
        )
    return Predictions(tuple(classes), labels, logits, name)


def _add_counts(confusion: np.ndarray, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Counts predictions, and returns which are right, bool [N]."""
    predicted = logits.argmax(-1)
    np.add.at(confusion, (labels, predicted), 1)
    return predicted == labels
