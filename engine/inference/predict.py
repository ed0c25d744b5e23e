"""Answers for single images: the likeliest labels, and what the model's rule decides."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule

if TYPE_CHECKING:
    from engine.inference.predictor import Predictor

# Names of some images, the problem of each or None, and uint8 [n, H, W, 3], the images of those
# that have none, in their order: see `pipelines.predict.image_stream.ImageGroup`.
Group = tuple[Sequence[str], Sequence[str | None], Any]
NO_NUMBER = "the network gives no number for it"  # said of an image in the place of an answer


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The labels of one image, likeliest first, or why it has none. image: uint8 [H, W, 3].

    decision: the label by the model's rule; None where that leaves it uncertain.
    """

    path: str
    labels: tuple[tuple[str, float], ...] = ()
    decision: str | None = None
    problem: str | None = None
    image: np.ndarray | None = None


def predict(
    model: Predictor, groups: Iterable[Group], batch_size: int, top: int, images: bool = True
) -> Iterator[Prediction]:
    """Answers in the order of the images, one by one.

    images: whether each has its image with it.
    """
    for group in groups:
        seen = iter(np.asarray(group[2]) if images else ())
        found = answers(model, group, batch_size, top)
        for answer, problem in zip(found, group[1], strict=True):
            image = None if problem else next(seen, None)
            yield dataclasses.replace(answer, image=None if answer.problem else image)


def answers(model: Predictor, group: Group, batch_size: int, top: int) -> list[Prediction]:
    """The answers of a group, without their images."""
    places, problems, images = group
    sound = [path for path, problem in zip(places, problems, strict=True) if not problem]
    chances = _chances(model, images, batch_size)
    found = iter(interpret(model.classes, model.rule, sound, chances, top))
    return [
        Prediction(path, problem=problem) if problem else next(found)
        for path, problem in zip(places, problems, strict=True)
    ]


def interpret(
    classes: Sequence[str], rule: DecisionRule, paths: Sequence[str], chances: np.ndarray, top: int
) -> list[Prediction]:
    """What probabilities say of these images. chances: float [n, classes]."""
    best = np.argsort(-chances, axis=-1, kind="stable")[:, :top]
    shares = np.take_along_axis(chances, best, axis=-1).tolist()
    decided = decision_rule.decide(rule, classes, chances).tolist()
    rows = zip(paths, best.tolist(), shares, decided, strict=True)
    return [_answer(classes, *row) for row in rows]


def _chances(model: Predictor, images: Any, batch_size: int) -> np.ndarray:
    """float32 [n, classes], so many at a time."""
    found = [np.zeros([0, len(model.classes)], np.float32)]
    for start in range(0, len(images), batch_size):
        part = images if len(images) == batch_size else images[start : start + batch_size]
        count = len(part)
        if count < batch_size:  # one shape, so the same bits wherever the end of a group falls
            filling = np.repeat(np.asarray(part[:1]), batch_size - count, axis=0)
            part = np.concatenate([np.asarray(part), filling])
        found.append(np.asarray(model.probabilities(part))[:count])
    return np.concatenate(found)


def _answer(
    classes: Sequence[str], path: str, best: list[int], shares: list[float], decided: int
) -> Prediction:
    # Then all are: half precision ends at 65,504, and what lies above is no number.
    if math.isnan(shares[0]):
        return Prediction(path, problem=NO_NUMBER)
    labels = tuple((classes[k], share) for k, share in zip(best, shares, strict=True))
    return Prediction(
        path, labels, None if decided == decision_rule.UNCERTAIN else classes[decided]
    )
