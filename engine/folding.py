"""BatchNormalization with frozen statistics, folded into the convolution before it.

    norm(conv(x, kernel) + bias) = conv(x, kernel s) + beta + (bias - mean) s,
    s = gamma / sqrt(variance + epsilon)

The network is the same and the variables are the same: the small kernel is scaled at each step,
instead of every pixel of the output, so gamma and beta still learn, and a change of theirs is seen
at once. Where a normalisation can't be folded exactly, it is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

FOLDABLE = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)


def fold(model: keras.Model) -> Callable[[Any], Any]:
    """The model in inference mode as a function of its inputs, with fewer operations.

    Relative to the model itself its results differ by float32 rounding only.
    """
    instead: dict[int, Callable] = {}
    for norm, conv in foldable(model):
        instead[id(conv)] = Folded(conv, norm)
        instead[id(norm)] = lambda inputs, **_: inputs
    return lambda inputs: model._run_through_graph(
        as_list(inputs), operation_fn=lambda op: instead.get(id(op), op)
    )


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
        conv = norm._inbound_nodes[0].input_tensors[0]._keras_history.operation
        readers = {node.operation for node in conv._outbound_nodes} & inside
        linear = getattr(conv, "activation", None) is keras.activations.linear
        last_axis = norm.axis in (-1, norm.input.ndim - 1)
        if type(conv) in FOLDABLE and conv in inside and linear and len(readers) == 1 and last_axis:
            found.append((norm, conv))
    return found


class Folded:
    """A convolution and the normalisation after it, as one convolution with a bias."""

    def __init__(self, conv: keras.layers.Layer, norm: keras.layers.BatchNormalization) -> None:
        self.conv, self.norm = conv, norm

    def __call__(self, inputs: Any) -> Any:
        conv, norm, dtype = self.conv, self.norm, self.conv.compute_dtype
        scale = ops.rsqrt(norm.moving_variance + norm.epsilon)
        if norm.scale:
            scale = scale * norm.gamma
        bias = ((0 if conv.bias is None else conv.bias) - norm.moving_mean) * scale
        if norm.center:
            bias = bias + norm.beta
        # The kernel is scaled in float32, whatever the convolution's own precision.
        outputs = self._convolve(ops.cast(inputs, dtype), scale, dtype)
        return outputs + ops.cast(bias, dtype)

    def _convolve(self, inputs: Any, scale: Any, dtype: str) -> Any:
        conv = self.conv
        depthwise = isinstance(conv, keras.layers.DepthwiseConv2D)
        if depthwise:  # the kernel is [h, w, channels, multiplier]
            scale = ops.reshape(scale, conv.kernel.shape[-2:])
        convolve = ops.depthwise_conv if depthwise else ops.conv
        return convolve(
            inputs,
            ops.cast(conv.kernel * scale, dtype),
            strides=conv.strides,
            padding=conv.padding,
            dilation_rate=conv.dilation_rate,
            data_format=conv.data_format,
        )
