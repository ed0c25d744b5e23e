"""Test-time augmentation: an answer is the mean of the probabilities over several views.

The views are the image and its mirror image, or the image and draws of the recipe's own
augmentation, each a function of (seed, example, view).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf

from engine.core.dataset import Batch
from engine.core.errors import UserError
from engine.evaluation import eval_step
from engine.models.batchnorm_folding import fold
from engine.runtime import stateless_random

FLIP = "flip"
LEAST = 1e-37  # of a probability whose logarithm is taken: above 0 in float32


@dataclasses.dataclass(frozen=True)
class TestTimeViews:
    """What an image is looked at through.

    count: how many there are; the first is the image as it is.
    change(images, examples, number): uint8 [B, H, W, 3], int32 [B], and which view, an int32
      scalar from 1 -> float32 [B, H, W, 3], 0 to 255.
    """

    count: int
    change: Callable[[Any, Any, Any], tf.Tensor]


def views(kind: str | int, augment: Any, seed: int) -> TestTimeViews:
    """The views that `--tta` names: `flip`, or how many.

    augment: the recipe's, a `pipelines.augment.augment.Augmentation`. seed: the recipe's.

    Raises:
      UserError: several are wanted of a recipe that augments nothing.
    """
    if kind == FLIP:
        return TestTimeViews(2, lambda images, *_: tf.cast(tf.reverse(images, [2]), tf.float32))
    if not augment.draws:
        raise UserError(
            f"--tta={kind} looks through the run's own augmentation, and it has none; allowed: "
            f"{FLIP}, the image and its mirror image"
        )

    def change(images: tf.Tensor, examples: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        epochs = tf.fill(tf.shape(examples), number)
        return augment.apply(
            images,
            stateless_random.uniform(seed, stateless_random.VIEW, epochs, examples, augment.draws),
        )

    return TestTimeViews(int(kind), change)


def averaged(
    probabilities: Callable[[tf.Tensor], tf.Tensor], classes: int, seen: TestTimeViews
) -> Callable[[Any, Any], tf.Tensor]:
    """`mean(images, examples)`: uint8 [B, H, W, 3], int32 [B] -> float32 [B, classes].

    probabilities: float32 [B, H, W, 3] -> float32 [B, classes]; traced once, not for each view.
    """

    def mean(images: tf.Tensor, examples: tf.Tensor) -> tf.Tensor:
        plain = tf.cast(images, tf.float32)

        def body(number: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            pixels = tf.where(number == 0, plain, seen.change(images, examples, number))
            return number + 1, total + probabilities(pixels)

        first = (tf.constant(0), tf.zeros([tf.shape(images)[0], classes]))
        # One after the other: views side by side would want the memory of all.
        _, total = tf.while_loop(
            lambda number, _: number < seen.count, body, first, parallel_iterations=1
        )
        return total / seen.count

    return mean


def make_eval_step(model: keras.Model, temperature: float, seen: TestTimeViews) -> Callable:
    """As `evaluation.eval_step.make_eval_step`, for `numbered` batches.

    The logits are such that, read with that temperature, they give the mean of the probabilities
    that each view's own give; with a single view they would be the model's, but for a constant.
    """
    forward = fold(model)

    def probabilities(pixels: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(forward(pixels) / temperature)

    mean = averaged(probabilities, model.outputs[0].shape[-1], seen)

    def logits(inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        return temperature * tf.math.log(tf.maximum(mean(*inputs), LEAST))

    return eval_step.compile_eval_step(logits)


def numbered(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches with (images, examples) for inputs: what a draw is made from."""
    for batch in batches:
        yield batch._replace(inputs=(batch.inputs, batch.examples))
