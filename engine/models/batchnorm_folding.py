"""BatchNormalization with frozen statistics, folded into the convolution before it.

    norm(conv(x, kernel) + bias) = conv(x, kernel s) + beta + (bias - mean) s,
    s = gamma / sqrt(variance + epsilon)

The network and its variables stay the same: each step scales the small kernel instead of every
pixel of the output, so gamma and beta still learn, and a change of theirs takes effect at once. A
normalization that can't be folded exactly is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from engine.models.keras_internals import consumers, producer, run_graph

# The convolutions that take a scale of their output channels, and in which of their kernels.
KERNEL_ATTRIBUTES = {
    keras.layers.Conv2D: "kernel",
    keras.layers.DepthwiseConv2D: "kernel",
    keras.layers.SeparableConv2D: "pointwise_kernel",
}


def fold(model: keras.Model) -> Callable[[Any], Any]:
    """Returns the model in inference mode as a function of its inputs, with fewer operations.

    Its results differ from the model's by float32 rounding only.
    """
    pairs = [FoldedConvolution(conv, norm) for norm, conv in foldable_pairs(model)]
    replacements = folding_replacements(pairs)
    return lambda inputs: run_graph(model, keras.tree.flatten(inputs), replacements)


def folding_replacements(pairs: Sequence[FoldedConvolution]) -> dict[Any, Callable]:
    """Each pair replaces its convolution; its normalization becomes the identity."""
    convolutions = {pair.conv: pair for pair in pairs}
    return convolutions | {pair.norm: lambda inputs, **_: inputs for pair in pairs if pair.norm}


def foldable_pairs(model: keras.Model) -> list[tuple[Any, Any]]:
    """Returns each BatchNormalization with the convolution before it, where folding is exact.

    That is where the convolution is linear and nothing else reads its output.
    """
    operations = set(model.operations)
    pairs = []
    for norm in model.layers:
        if not isinstance(norm, keras.layers.BatchNormalization):
            continue
        conv = producer(norm.input)
        linear = getattr(conv, "activation", None) is keras.activations.linear
        last_axis = norm.axis in (-1, norm.input.ndim - 1)
        only_reader = conv in operations and len(consumers(model, conv)) == 1
        if type(conv) in KERNEL_ATTRIBUTES and linear and only_reader and last_axis:
            pairs.append((norm, conv))
    return pairs


class FoldedConvolution:
    """A convolution and the normalisation after it, as one convolution with a bias."""

    def __init__(self, conv: keras.layers.Layer, norm: keras.layers.BatchNormalization) -> None:
        self.conv, self.norm = conv, norm
        self.depthwise = isinstance(conv, keras.layers.DepthwiseConv2D)

    @property
    def variables(self) -> list[Any]:
        """The variables of the two layers that `folded_weights` depends on."""
        bias = [] if self.conv.bias is None else [self.conv.bias]
        return [self.kernel, *self.norm.weights, *bias]

    @property
    def kernel(self) -> Any:
        """The kernel that the scale goes into."""
        return getattr(self.conv, KERNEL_ATTRIBUTES[type(self.conv)])

    def folded_weights(self) -> tuple[Any, Any]:
        """Computes the scaled kernel and the bias, float32."""
        conv, norm = self.conv, self.norm
        scale = ops.rsqrt(norm.moving_variance + norm.epsilon)
        if norm.scale:
            scale = scale * norm.gamma
        bias = ((0 if conv.bias is None else conv.bias) - norm.moving_mean) * scale
        if norm.center:
            bias = bias + norm.beta
        kernel = self.kernel
        if self.depthwise:  # the kernel is [h, w, channels, multiplier]
            scale = ops.reshape(scale, kernel.shape[-2:])
        return kernel * scale, bias

    def __call__(self, inputs: Any) -> Any:
        kernel, bias = self.folded_weights()
        return self.convolve(inputs, kernel) + ops.cast(bias, self.conv.compute_dtype)

    def convolve(self, inputs: Any, kernel: Any) -> Any:
        """Convolves without the bias, in the dtype that the layer computes in."""
        conv, dtype = self.conv, self.conv.compute_dtype
        kernel, inputs = ops.cast(kernel, dtype), ops.cast(inputs, dtype)
        settings = {
            "strides": conv.strides,
            "padding": conv.padding,
            "dilation_rate": conv.dilation_rate,
            "data_format": conv.data_format,
        }
        if isinstance(conv, keras.layers.SeparableConv2D):
            depthwise = ops.cast(conv.depthwise_kernel, dtype)
            return ops.separable_conv(inputs, depthwise, kernel, **settings)
        convolve = ops.depthwise_conv if self.depthwise else ops.conv
        return convolve(inputs, kernel, **settings)
