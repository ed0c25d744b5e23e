"""Test-time augmentation: probabilities averaged over several augmentation views of an image.

The views are the image and its mirror image, or the image and draws of the recipe's own
augmentation, each a function of (seed, example, view).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from engine.core.dataset import Augmentation, Batch
from engine.core.errors import UserError
from engine.evaluation.eval_step import compile_eval_step
from engine.evaluation.evaluate import EvalStep
from engine.inference.predictor import Predictor
from engine.models.batchnorm_folding import fold
from engine.runtime import stateless_random

FLIP = "flip"
MIN_PROBABILITY = 1e-37  # before taking a logarithm; above 0 in float32


class Views:
    """The augmentation views of an image: itself, and its mirror image or draws.

    Attributes:
      count: how many there are; the first is the image itself.
      augmentation: what is drawn from; None for the mirror image.
    """

    def __init__(self, count: int, augmentation: Augmentation | None = None, seed: int = 0) -> None:
        self.count, self.augmentation, self.seed = count, augmentation, seed

    def apply(self, images: tf.Tensor, examples: tf.Tensor, view: tf.Tensor) -> tf.Tensor:
        """Returns a view, float32 [B, H, W, 3], 0 to 255.

        Args:
          images: uint8 [B, H, W, 3].
          examples: int32 [B], their numbers.
          view: int32 scalar, from 1.
        """
        if self.augmentation is None:
            return tf.cast(tf.reverse(images, [2]), tf.float32)
        views, draws = tf.fill(tf.shape(examples), view), self.augmentation.draws
        numbers = stateless_random.uniform(self.seed, stateless_random.VIEW, views, examples, draws)
        return self.augmentation.apply(images, numbers)


def make_views(kind: str | int, augmentation: Augmentation, seed: int) -> Views:
    """Returns the views that `--tta` names: `flip`, or their number.

    Args:
      kind: the flag's value.
      augmentation: the recipe's.
      seed: the recipe's.

    Raises:
      UserError: a number of views of a recipe without augmentation.
    """
    if kind == FLIP:
        return Views(2)
    if not augmentation.draws:
        raise UserError(
            f"--tta={kind} draws from the run's own augmentation, but it has none; allowed: {FLIP}"
        )
    return Views(int(kind), augmentation, seed)


def average_over_views(
    probabilities: Callable[[tf.Tensor], tf.Tensor], classes: int, views: Views
) -> Callable[[Any, Any], tf.Tensor]:
    """Returns `mean(images, examples)`: uint8 [B, H, W, 3], int32 [B] -> float32 [B, classes].

    Args:
      probabilities: float32 [B, H, W, 3] -> float32 [B, classes]; traced once, not for each view.
      classes: number of classes.
      views: what to average over.
    """

    def mean(images: tf.Tensor, examples: tf.Tensor) -> tf.Tensor:
        plain = tf.cast(images, tf.float32)

        def add_view(view: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            pixels = tf.where(view == 0, plain, views.apply(images, examples, view))
            return view + 1, total + probabilities(pixels)

        first = (tf.constant(0), tf.zeros([tf.shape(images)[0], classes]))
        # One after the other: views in parallel would need the memory of all.
        _, total = tf.while_loop(
            lambda view, _: view < views.count, add_view, first, parallel_iterations=1
        )
        return total / views.count

    return mean


def average_predictor(model: Predictor, views: Views) -> Predictor:
    """Returns the model with the mean of its probabilities over augmentation views.

    Every image gets the draws of example 0, so its prediction does not depend on the others.
    """
    mean = average_over_views(model.forward, len(model.classes), views)
    return model.computed_by(lambda images: mean(images, tf.zeros([tf.shape(images)[0]], tf.int32)))


def make_eval_step(model: keras.Model, temperature: float, views: Views) -> EvalStep:
    """Returns an evaluation step for batches `with_examples`.

    At this temperature its logits have the mean of the views' probabilities; with a single view
    they would be the model's, apart from a constant.
    """
    forward = fold(model)
    mean = average_over_views(
        lambda pixels: tf.nn.softmax(forward(pixels) / temperature),
        model.outputs[0].shape[-1],
        views,
    )

    def logits(inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return temperature * tf.math.log(tf.maximum(mean(*inputs), MIN_PROBABILITY))

    return compile_eval_step(logits)


def with_examples(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yields the batches with (images, example numbers) as inputs; views are drawn from these."""
    for batch in batches:
        yield batch._replace(inputs=(batch.inputs, batch.examples))
