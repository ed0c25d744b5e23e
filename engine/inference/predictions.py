"""Predictions of single images: the most likely labels and the rule's decision."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.core.dataset import ImageGroup
from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule

if TYPE_CHECKING:
    from engine.inference.predictor import Predictor

NON_FINITE = "the network's output is NaN or infinite"  # in place of a prediction


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The prediction of one image, or the reason why it has none.

    labels: (label, probability), most likely first.
    decision: the label by the model's rule; None where it is uncertain.
    problem: why there is no prediction; None if there is one.
    image: uint8 [H, W, 3], if requested.
    """

    path: str
    labels: tuple[tuple[str, float], ...] = ()
    decision: str | None = None
    problem: str | None = None
    image: np.ndarray | None = None


def predict(
    model: Predictor,
    groups: Iterable[ImageGroup],
    batch_size: int,
    top_k: int,
    with_images: bool = True,
) -> Iterator[Prediction]:
    """Yields predictions in the order of the images, with or without the images."""
    for group in groups:
        images = iter(np.asarray(group.images) if with_images else ())
        predictions = predict_group(model, group, batch_size, top_k)
        for prediction, problem in zip(predictions, group.problems, strict=True):
            image = None if problem else next(images, None)
            yield dataclasses.replace(prediction, image=None if prediction.problem else image)


def predict_group(
    model: Predictor, group: ImageGroup, batch_size: int, top_k: int
) -> list[Prediction]:
    """Returns the predictions of a group, without images."""
    pairs = list(zip(group.places, group.problems, strict=True))
    readable = [path for path, problem in pairs if not problem]
    probabilities = _probabilities(model, group.images, batch_size)
    predictions = iter(interpret(model.classes, model.rule, readable, probabilities, top_k))
    return [
        Prediction(path, problem=problem) if problem else next(predictions)
        for path, problem in pairs
    ]


def interpret(
    classes: Sequence[str],
    rule: DecisionRule,
    paths: Sequence[str],
    probabilities: np.ndarray,
    top_k: int,
) -> list[Prediction]:
    """Returns the predictions that follow from probabilities, float [n, classes]."""
    ranking = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
    shares = np.take_along_axis(probabilities, ranking, axis=-1).tolist()
    decisions = decision_rule.decide(rule, classes, probabilities).tolist()
    rows = zip(paths, ranking.tolist(), shares, decisions, strict=True)
    return [_prediction(classes, *row) for row in rows]


def _probabilities(model: Predictor, images: Any, batch_size: int) -> np.ndarray:
    """float32 [n, classes], in batches of one shape.

    The last batch is padded, so that bits do not depend on where a group ends.
    """
    rows = [np.zeros([0, len(model.classes)], np.float32)]
    for start in range(0, len(images), batch_size):
        batch = images if len(images) == batch_size else images[start : start + batch_size]
        count = len(batch)
        if count < batch_size:
            padding = np.repeat(np.asarray(batch[:1]), batch_size - count, axis=0)
            batch = np.concatenate([np.asarray(batch), padding])
        rows.append(np.asarray(model.probabilities(batch))[:count])
    return np.concatenate(rows)


def _prediction(
    classes: Sequence[str], path: str, ranking: list[int], shares: list[float], decision: int
) -> Prediction:
    # If one is NaN, all are: float16 ends at 65,504.
    if math.isnan(shares[0]):
        return Prediction(path, problem=NON_FINITE)
    labels = tuple((classes[k], share) for k, share in zip(ranking, shares, strict=True))
    label = None if decision == decision_rule.UNCERTAIN else classes[decision]
    return Prediction(path, labels, label)
