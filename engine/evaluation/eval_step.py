"""The evaluation step: images and labels in, losses and logits out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from engine.evaluation.evaluate import EvalStep
from engine.models.batchnorm_folding import fold
from engine.optim import losses


def make_eval_step(model: keras.Model) -> EvalStep:
    """Returns `step(images, labels)`, which computes each example's loss and logits.

    The whole model runs in float32 and in inference mode, with BatchNormalization folded.

    Args:
      model: takes images as float32 [B, H, W, 3], 0 to 255. The step takes uint8 [B, H, W, 3] and
        int32 [B], and returns float32 [B] and float32 [B, classes].
    """
    forward = fold(model)
    return compile_eval_step(lambda images: forward(tf.cast(images, tf.float32)))


def compile_eval_step(forward: Callable[[Any], tf.Tensor]) -> EvalStep:
    """Returns the evaluation step of any function from inputs to logits, compiled."""

    @tf.function(autograph=False)
    def step(inputs: Any, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = forward(inputs)
        return losses.cross_entropy(labels, logits), logits

    return step
