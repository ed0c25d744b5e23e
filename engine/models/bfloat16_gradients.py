"""A tail whose gradients are fast in bfloat16 on CPUs: the same sums, made of other operations.

TensorFlow 2.21 computes a depthwise convolution's gradients in bfloat16 several times as slowly as
in float32, since oneDNN has fast kernels for filters of up to three columns and, with strides, for
none. Instead:

    d filter[:, j : j + 3] = the filter gradient of a convolution with three columns, over the
                             input shifted by j columns
    d inputs               = dy, with stride - 1 zeros between its entries, convolved with the
                             flipped filter

A grouped convolution with a channel in each group, which Keras compiles with XLA, becomes a
depthwise one. The gradients of SiLU and hard SiLU are fused into one pass over their inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from engine.models.batchnorm_folding import (
    KERNEL_ATTRIBUTES,
    FoldedConvolution,
    foldable_pairs,
    folding_replacements,
)
from engine.models.keras_internals import run_graph

FAST_COLUMNS = 3  # the widest filter that oneDNN has a fast filter gradient for


def make_function(model: keras.Model, training: bool = False) -> Callable[[list], Any]:
    """Returns the model as a function of its inputs, a list.

    Args:
      training: whether BatchNormalization takes its statistics from the batch and updates its
        running ones. Otherwise they are frozen, and folded into the convolutions.
    """
    norms = [
        layer
        for layer in model.layers
        if isinstance(layer, (keras.layers.BatchNormalization, keras.Model))
    ]
    folded = {} if training else {conv: norm for norm, conv in foldable_pairs(model)}
    convolutions = [layer for layer in model.layers if type(layer) in KERNEL_ATTRIBUTES]
    replacements: dict[Any, Callable[[Any], Any]] = {
        norm: functools.partial(norm, training=training) for norm in norms
    }
    replacements |= folding_replacements(
        [TrainedConvolution(conv, folded.get(conv)) for conv in convolutions]
    )
    for layer in model.layers:
        if isinstance(layer, keras.layers.Activation) and layer.activation in FUSED:
            replacements[layer] = FUSED[layer.activation]
        elif type(layer) is keras.layers.Dense:
            replacements[layer] = functools.partial(_dense, layer)
    return lambda inputs: run_graph(model, inputs, replacements)


class TrainedConvolution(FoldedConvolution):
    """A convolution with the normalization after it folded in where there is one."""

    def __call__(self, inputs: Any) -> Any:
        kernel, bias = self.folded_weights() if self.norm else (self.kernel, self.conv.bias)
        outputs = self.convolve(inputs, kernel)
        return self.conv.activation(_add_bias(outputs, bias))

    def convolve(self, inputs: Any, kernel: Any) -> Any:
        conv, dtype = self.conv, self.conv.compute_dtype
        kernel, inputs = ops.cast(kernel, dtype), ops.cast(inputs, dtype)
        settings = (conv.strides, conv.padding, conv.data_format, conv.dilation_rate)
        if self.depthwise:
            return depthwise_conv(inputs, kernel, *settings)
        if isinstance(conv, keras.layers.SeparableConv2D):
            depthwise = ops.cast(conv.depthwise_kernel, dtype)
            inputs = depthwise_conv(inputs, depthwise, *settings)
            return ops.conv(inputs, kernel, data_format=conv.data_format)
        if conv.groups == conv.filters and kernel.shape[2] == 1:
            return depthwise_conv(inputs, ops.swapaxes(kernel, 2, 3), *settings)
        return super().convolve(inputs, kernel)


def _dense(layer: keras.layers.Dense, inputs: Any) -> Any:
    kernel, inputs = (ops.cast(each, layer.compute_dtype) for each in (layer.kernel, inputs))
    return layer.activation(_add_bias(ops.matmul(inputs, kernel), layer.bias))


def _add_bias(outputs: Any, bias: Any) -> Any:
    """Adds a bias, or None.

    Not as Keras does by BiasAdd, whose gradient TensorFlow 2.21 sums in bfloat16: 60 % off over
    100,000 pixels, where that of a plain sum is 0.2 % off.
    """
    return outputs if bias is None else outputs + ops.cast(bias, outputs.dtype)


def depthwise_conv(
    inputs: Any, kernel: Any, strides: tuple, padding: str, data_format: str, dilation_rate: tuple
) -> Any:
    """As `keras.ops.depthwise_conv`, with other gradients where they are implemented.

    That is for inputs [B, H, W, C] of known size with one filter a channel and no dilation.
    """
    plain = max(dilation_rate) == kernel.shape[-1] == 1 and data_format == "channels_last"
    if not plain or None in inputs.shape[1:]:
        return ops.depthwise_conv(inputs, kernel, strides, padding, data_format, dilation_rate)

    @tf.custom_gradient
    def convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        outputs = tf.nn.depthwise_conv2d(inputs, kernel, [1, *strides, 1], padding.upper())

        def gradients(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            sizes = zip(inputs.shape[1:3], dy.shape[1:3], kernel.shape[:2], strides, strict=True)
            paddings = [_padding(*size, same=padding == "same") for size in sizes]
            input_gradient = _input_gradient(dy, inputs.shape, kernel, strides[0], paddings)
            if kernel.shape[1] > FAST_COLUMNS:
                return input_gradient, _filter_gradient(
                    inputs, dy, kernel.shape, strides[0], paddings
                )
            return input_gradient, tf.nn.depthwise_conv2d_backprop_filter(
                inputs, kernel.shape, dy, [1, *strides, 1], padding.upper()
            )

        return outputs, gradients

    return convolve(inputs, kernel)


def _padding(size: int, outputs: int, kernel: int, stride: int, same: bool) -> tuple[int, int]:
    """Returns the zeros before and after the inputs; below 0 where the last ones aren't read."""
    total = (outputs - 1) * stride + kernel - size
    before = max(total, 0) // 2 if same else 0
    return before, total - before


def _input_gradient(
    dy: tf.Tensor, shape: tf.TensorShape, kernel: tf.Tensor, stride: int, paddings: list
) -> tf.Tensor:
    height, width, channels = dy.shape[1:]
    if stride > 1:
        dy = tf.reshape(dy, [-1, height, 1, width, 1, channels])
        dy = tf.pad(dy, [[0, 0], [0, 0], [0, stride - 1], [0, 0], [0, stride - 1], [0, 0]])
        dy = tf.reshape(dy, [-1, height * stride, width * stride, channels])
    sizes = zip(paddings, shape[1:3], dy.shape[1:3], kernel.shape[:2], strict=True)
    around = [(taps - 1 - top, size + top - rows) for (top, _), size, rows, taps in sizes]
    dy, remaining = _crop(dy, around)
    return tf.nn.depthwise_conv2d(dy, kernel[::-1, ::-1], [1, 1, 1, 1], remaining)


def _filter_gradient(
    inputs: tf.Tensor, dy: tf.Tensor, shape: tf.TensorShape, stride: int, paddings: list
) -> tf.Tensor:
    height, width, channels, _ = shape
    rows, (left, right) = paddings
    parts, done = [], 0
    for start in [*range(0, width - FAST_COLUMNS, FAST_COLUMNS), width - FAST_COLUMNS]:
        stop = start + FAST_COLUMNS
        window = tf.pad(*_crop(inputs, [rows, (left - start, right - width + stop)]))
        part = tf.nn.depthwise_conv2d_backprop_filter(
            window, [height, FAST_COLUMNS, channels, 1], dy, [1, stride, stride, 1], "VALID"
        )
        parts.append(part[:, done - start :])
        done = stop
    return tf.concat(parts, 1)


def _crop(maps: tf.Tensor, paddings: list) -> tuple[tf.Tensor, list]:
    """Crops rows and columns where a padding is below 0; returns the paddings that remain."""
    ends = zip(paddings, maps.shape[1:3], strict=True)
    rows, columns = (slice(max(-low, 0), size + min(high, 0)) for (low, high), size in ends)
    remaining = [[max(side, 0) for side in axis] for axis in paddings]
    return maps[:, rows, columns], [[0, 0], *remaining, [0, 0]]


def fuse_gradient(activation: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns an elementwise activation whose gradient is one pass, computed in float32."""

    @tf.function(autograph=False, jit_compile=True)
    def gradient(inputs: tf.Tensor, dy: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = activation(tf.cast(inputs, tf.float32))
        return tape.gradient(outputs, inputs, tf.cast(dy, tf.float32))

    return tf.custom_gradient(
        lambda inputs: (activation(inputs), functools.partial(gradient, inputs))
    )


FUSED = {
    activation: fuse_gradient(activation)
    for activation in (keras.activations.silu, keras.activations.hard_silu)
}
