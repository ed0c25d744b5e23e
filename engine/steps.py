"""The train step and the evaluation step: the only GradientTape of the project.

Both are compiled once: shapes are fixed, and each phase makes its own train step, since a
`tf.function` that was traced before unfreezing would go on training the old variables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from engine import draws, losses
from engine.folding import fold
from engine.freezing import Split
from engine.metrics import Totals
from engine.specs import Batch, Phase, Recipe


def make_train_step(
    recipe: Recipe,
    phase: Phase,
    split: Split,
    optimizer: keras.optimizers.Optimizer,
    augment: Any,
    class_weights: list[float],
    totals: Totals,
) -> Callable[[Batch, float], None]:
    """One update of the phase's variables: `step(batch, learning_rate)`.

    augment is a `pipelines.augment.Augmentation`, anything with `draws` and `apply`.

    Raises:
      RuntimeError: when traced, a variable of the phase that no gradient reaches.
    """
    variables = split.variables
    of_class = tf.constant(class_weights)

    @tf.function
    def step(batch: Batch, learning_rate: tf.Tensor) -> None:
        numbers = draws.uniform(
            recipe.seed, draws.AUGMENT, batch.epochs, batch.examples, augment.draws
        )
        boundary = split.trunk(augment.apply(batch.images, numbers))
        weights = batch.weights * tf.gather(of_class, batch.labels)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in variables])
            vector = split.tail(boundary, training=phase.batch_norm == "train")
            logits = split.head(dropout(vector, recipe, batch))
            each = losses.cross_entropy(batch.labels, logits, recipe.label_smoothing)
            loss = tf.reduce_sum(each * weights) / tf.reduce_sum(weights)
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        _all_reached(phase, variables, gradients)
        optimizer.learning_rate = learning_rate
        optimizer.apply(gradients, variables)
        correct = tf.cast(tf.argmax(logits, -1, tf.int32) == batch.labels, tf.float32)
        totals.add(each, weights, correct, batch.weights)

    return step


def dropout(vector: tf.Tensor, recipe: Recipe, batch: Batch) -> tf.Tensor:
    """Each number dropped with the recipe's probability, by (seed, epoch, example); kept ones grow.

    vector: [B, features], and so is the result.
    """
    if not recipe.dropout:
        return vector
    numbers = draws.uniform(
        recipe.seed, draws.DROPOUT, batch.epochs, batch.examples, vector.shape[-1]
    )
    keep = tf.cast(numbers >= recipe.dropout, vector.dtype)
    return vector * keep / (1 - recipe.dropout)


def make_eval_step(model: keras.Model) -> Callable[[Any, Any], tuple[tf.Tensor, tf.Tensor]]:
    """`step(images, labels)` -> each example's loss and its probabilities, in inference mode.

    images: uint8 [B, H, W, 3]. labels: int32 [B]. Returns float32 [B] and float32 [B, classes].
    """

    forward = fold(model)

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = forward(tf.cast(images, tf.float32))
        return losses.cross_entropy(labels, logits), tf.nn.softmax(logits)

    return step


def _all_reached(phase: Phase, variables: list, gradients: list) -> None:
    missed = [v.path for v, g in zip(variables, gradients, strict=True) if g is None]
    if missed:
        raise RuntimeError(
            f"phase {phase.name!r}: no gradient reaches {', '.join(missed)}; "
            "the loss does not depend on them"
        )
