"""What every export computes: pixels -> probabilities and decisions, in graph operations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from engine.evaluation import decision_rule
from engine.evaluation.decision_rule import DecisionRule
from engine.export.subject import ExportSource
from engine.frozen import trunk
from engine.frozen.precision import ComputeMode

PROBABILITIES, DECISION = "probabilities", "decision"
IMAGES = "images"
# The operations of `answer` behind the logits, by TensorFlow Lite's names. They stay float32 in
# every export: of an int8 softmax 256 levels would be left, and ties among the likeliest.
LAST_OPERATIONS = ("SOFTMAX", "TOPK_V2", "STRIDED_SLICE", "GREATER_EQUAL", "LESS")


def make(subject: ExportSource) -> Any:
    """The model as a `tf.function`: uint8 [B, H, W, 3] -> a dict.

    probabilities: float32 [B, classes]. decision: int32 [B], the index of the answer or -1.
    The weights are fixed, normalisations folded once, and scaling, temperature and rule are within.
    """
    model = subject.opened.model
    network = trunk.compile_frozen(model, ComputeMode(), _depthwise(model))
    spec = tf.TensorSpec([None, *subject.pixels], tf.uint8, name=IMAGES)

    @tf.function(autograph=False, input_signature=[spec])
    def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = network(tf.cast(images, tf.float32))[0]
        chances = tf.nn.softmax(logits / subject.rule.temperature)
        return {
            PROBABILITIES: chances,
            DECISION: decide(subject.rule, subject.classes, chances),
        }

    return answer


def _depthwise(model: keras.Model) -> dict[Any, Callable]:
    """Another convolution in the place of one in which every channel is a group of its own.

    Keras 3.15 has XLA compile that on a CPU, a call that no converter to ONNX knows. ConvNeXt has
    such convolutions.
    """
    inside = [layer for layer in model.layers if type(layer) is keras.layers.Conv2D]
    apart = [layer for layer in inside if 1 < layer.groups == layer.input.shape[-1]]
    return {layer: functools.partial(_by_channel, layer) for layer in apart}


def _by_channel(layer: keras.layers.Conv2D, inputs: tf.Tensor) -> tf.Tensor:
    # The outputs of a group lie beside each other, as those of a channel do.
    kernel = ops.reshape(layer.kernel, (*layer.kernel_size, layer.groups, -1))
    found = ops.depthwise_conv(
        inputs, kernel, layer.strides, layer.padding, layer.data_format, layer.dilation_rate
    )
    return layer.activation(found if layer.bias is None else found + layer.bias)


def decide(rule: DecisionRule, classes: Sequence[str], chances: tf.Tensor) -> tf.Tensor:
    """`decision_rule.decide` in graph operations: float32 [B, classes] -> int32 [B]."""
    # The two likeliest. To mask the positive class instead would bring int8 in among the
    # probabilities: TensorFlow Lite wants one scale on both sides of a choice.
    top = tf.math.top_k(chances, min(2, len(classes)))
    found, next_best = top.indices[:, 0], top.indices[:, -1]
    if rule.positive_class is not None:
        positive = list(classes).index(rule.positive_class)
        best_other = tf.where(found == positive, next_best, found)
        taken = chances[:, positive] >= rule.threshold
        found = tf.where(taken, positive, best_other)
    if rule.abstain is not None:
        found = tf.where(top.values[:, 0] < rule.abstain, decision_rule.UNCERTAIN, found)
    return found
