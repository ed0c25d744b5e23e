"""Builds the graph function of every export: pixels -> probabilities and decisions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.export.export_source import ExportSource
from engine.frozen import trunk
from engine.frozen.precision import ComputeMode


def build(source: ExportSource) -> Any:
    """Builds the model as a `tf.function` with constant weights and folded normalization.

    Scaling, temperature and decision rule are part of it.

    Returns:
      uint8 [B, H, W, 3] -> a dict of probabilities, float32 [B, classes], and decision, int32 [B],
      the class index or -1 for uncertain.
    """
    model = source.loaded_run.model
    network = trunk.compile_frozen(model, ComputeMode(), _depthwise_replacements(model))
    spec = tf.TensorSpec([None, *source.input_shape], tf.uint8, name="images")

    @tf.function(autograph=False, input_signature=[spec])
    def predict(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = network(tf.cast(images, tf.float32))[0]
        probabilities = tf.nn.softmax(logits / source.rule.temperature)
        decision = decide(source.rule, source.classes, probabilities)
        return {"probabilities": probabilities, "decision": decision}

    return predict


def _depthwise_replacements(model: keras.Model) -> dict[Any, Callable]:
    """Returns replacements for grouped convolutions with one channel per group, as in ConvNeXt.

    Keras 3.15 compiles these by XLA on a CPU, in a call that no converter to ONNX supports.
    """
    convolutions = [layer for layer in model.layers if type(layer) is keras.layers.Conv2D]
    return {
        layer: functools.partial(_depthwise_conv, layer)
        for layer in convolutions
        if 1 < layer.groups == layer.input.shape[-1]
    }


def _depthwise_conv(layer: keras.layers.Conv2D, inputs: tf.Tensor) -> tf.Tensor:
    # The outputs of a group are adjacent, as those of a channel are in a depthwise kernel.
    kernel = ops.reshape(layer.kernel, (*layer.kernel_size, layer.groups, -1))
    outputs = ops.depthwise_conv(
        inputs, kernel, layer.strides, layer.padding, layer.data_format, layer.dilation_rate
    )
    return layer.activation(outputs if layer.bias is None else outputs + layer.bias)


def decide(rule: DecisionRule, classes: Sequence[str], probabilities: tf.Tensor) -> tf.Tensor:
    """Applies `decision_rule.decide` in graph operations: float32 [B, classes] -> int32 [B]."""
    # The top two. Masking the positive class instead would make probabilities int8: TensorFlow
    # Lite requires one scale for both branches of a `where`.
    top = tf.math.top_k(probabilities, min(2, len(classes)))
    decision, runner_up = top.indices[:, 0], top.indices[:, -1]
    if rule.positive_class is not None:
        positive = list(classes).index(rule.positive_class)
        best_other = tf.where(decision == positive, runner_up, decision)
        is_positive = probabilities[:, positive] >= rule.threshold
        decision = tf.where(is_positive, positive, best_other)
    if rule.abstain is not None:
        decision = tf.where(top.values[:, 0] < rule.abstain, decision_rule.UNCERTAIN, decision)
    return decision
