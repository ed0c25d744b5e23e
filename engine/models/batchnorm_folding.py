"""BatchNormalization with frozen statistics, folded into the convolution before it.

    norm(conv(x, kernel) + bias) = conv(x, kernel s) + beta + (bias - mean) s,
    s = gamma / sqrt(variance + epsilon)

The network is the same and the variables are the same: the small kernel is scaled at each step,
instead of every pixel of the output, so gamma and beta still learn, and a change of theirs is seen
at once. Where a normalisation can't be folded exactly, it is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops


def fold(model: keras.Model) -> Callable[[Any], Any]:
    """The model in inference mode as a function of its inputs, with fewer operations.

    Relative to the model itself its results differ by float32 rounding only.
    """
    return run(model, together([Folded(conv, norm) for norm, conv in foldable(model)]))


def run(model: keras.Model, instead: dict[Any, Callable]) -> Callable[[Any], Any]:
    """The model's graph as a function, with something else in the place of some layers."""
    return lambda inputs: model._run_through_graph(
        as_list(inputs), operation_fn=lambda op: instead.get(op, op)
    )


def together(pairs: Sequence[Folded]) -> dict[Any, Callable]:
    """Each pair in the place of its convolution, and nothing in that of the normalisation."""
    convolutions = {pair.conv: pair for pair in pairs}
    return convolutions | {pair.norm: lambda inputs, **_: inputs for pair in pairs}


def as_list(inputs: Any) -> list:
    return list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]


def foldable(model: keras.Model) -> list[tuple[Any, Any]]:
    """Each BatchNormalization with the convolution before it, where folding is exact.

    That is where the convolution is linear and nobody else reads its output.
    """
    inside = set(model.operations)
    found = []
    for norm in model.layers:
        if not isinstance(norm, keras.layers.BatchNormalization):
            continue
        conv = before(norm)
        linear = getattr(conv, "activation", None) is keras.activations.linear
        last_axis = norm.axis in (-1, norm.input.ndim - 1)
        alone = conv in inside and len(readers(model, conv)) == 1
        if type(conv) in KERNELS and linear and alone and last_axis:
            found.append((norm, conv))
    return found


def before(layer: keras.layers.Layer) -> Any:
    """The operation whose output the layer reads first."""
    return layer._inbound_nodes[0].input_tensors[0]._keras_history.operation


def readers(model: keras.Model, operation: Any) -> set:
    """The model's operations that read an operation's output."""
    return {node.operation for node in operation._outbound_nodes} & set(model.operations)


class Folded:
    """A convolution and the normalisation after it, as one convolution with a bias."""

    def __init__(self, conv: keras.layers.Layer, norm: keras.layers.BatchNormalization) -> None:
        self.conv, self.norm = conv, norm
        self.depthwise = isinstance(conv, keras.layers.DepthwiseConv2D)

    @property
    def variables(self) -> list[Any]:
        """Those of the two layers that `values` is computed from."""
        conv = self.conv
        kernel = getattr(conv, KERNELS[type(conv)])
        return [kernel, *self.norm.weights, *([] if conv.bias is None else [conv.bias])]

    def values(self) -> tuple[Any, Any]:
        """The kernel that takes the normalisation's scale, and the bias; float32."""
        conv, norm = self.conv, self.norm
        scale = ops.rsqrt(norm.moving_variance + norm.epsilon)
        if norm.scale:
            scale = scale * norm.gamma
        bias = ((0 if conv.bias is None else conv.bias) - norm.moving_mean) * scale
        if norm.center:
            bias = bias + norm.beta
        kernel = getattr(conv, KERNELS[type(conv)])
        if self.depthwise:  # the kernel is [h, w, channels, multiplier]
            scale = ops.reshape(scale, kernel.shape[-2:])
        return kernel * scale, bias

    def __call__(self, inputs: Any) -> Any:
        kernel, bias = self.values()
        return self.convolve(inputs, kernel) + ops.cast(bias, self.conv.compute_dtype)

    def convolve(self, inputs: Any, kernel: Any) -> Any:
        """Without the bias; in the convolution's own precision, whatever that of the kernel."""
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


# The convolutions that take a scale of their output channels, and in which of their kernels.
KERNELS = {
    keras.layers.Conv2D: "kernel",
    keras.layers.DepthwiseConv2D: "kernel",
    keras.layers.SeparableConv2D: "pointwise_kernel",
}
