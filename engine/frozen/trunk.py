"""A frozen trunk as a program of its own.

No gradient enters it, so what it is made of is fixed: normalisations are folded into kernels once,
and kernels are held in the precision that the program computes in. Small ones are constants of the
graph, which oneDNN packs once and for all; large ones are variables of the program's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common.stateless_scope import StatelessScope

from engine.frozen.kernel_rounding import round_kernels
from engine.frozen.precision import ComputeMode, running_in
from engine.models.batchnorm_folding import (
    Folded,
    as_list,
    before,
    foldable,
    readers,
    run,
    together,
)

# Elements. While a graph is compiled its constants are copied some 25 times: those of InceptionV3
# took 5 s on one core and as variables 1 s, those of ResNet152 almost 7 GB of memory.
MOST_CONSTANT = 2**16


def specialise(
    model: keras.Model, program: ComputeMode, instead: dict[Any, Callable] | None = None
) -> Callable[[Any], list]:
    """float32 [B, H, W, 3] -> the model's outputs in inference mode, a list.

    instead: functions in the place of some layers; none of a convolution that is folded.
    Later changes of the model's variables are not seen. What the program holds lies on each of the
    devices of the strategy in whose scope it is made.
    """
    pairs = [_Fixed(conv, norm, program.dtype) for norm, conv in foldable(model)]
    gone = {id(variable) for pair in pairs for variable in pair.variables}
    rest = [variable for variable in model.weights if id(variable) not in gone]
    values = [(variable, _fixed(variable.numpy())) for variable in rest]
    forward = run(model, _shared_sums(model) | (instead or {}) | together(pairs))
    signature = [tf.TensorSpec([None, *tensor.shape[1:]], tf.float32) for tensor in model.inputs]

    @tf.function(autograph=False, jit_compile=program.xla, input_signature=signature)
    def trunk(pixels: tf.Tensor) -> list:
        known = [(variable, value()) for variable, value in values]
        with running_in(model, program.policy), StatelessScope(state_mapping=known):
            return as_list(forward(pixels))

    return trunk


def _fixed(value: np.ndarray) -> Callable[[], tf.Tensor]:
    """What gives the value within a graph."""
    if value.size > MOST_CONSTANT:
        return _held(value)
    return lambda: tf.constant(value)


def _held(value: np.ndarray) -> Callable[[], tf.Tensor]:
    return tf.Variable(value, trainable=False).read_value


class _Fixed(Folded):
    """Folded once and for all, with the kernel and the bias in the precision of the program."""

    def __init__(self, conv: keras.layers.Layer, norm: Any, dtype: str) -> None:
        super().__init__(conv, norm)
        kernel, bias = self.values()
        self.kernel = _fixed(round_kernels(np.asarray(kernel), dtype))
        # Never a constant: TensorFlow 2.21 then does not make it part of a bfloat16 convolution,
        # which halved the speed of MobileNetV3.
        self.bias = _held(tf.cast(bias, dtype).numpy())

    def __call__(self, inputs: Any) -> Any:
        # Not a plain sum: this one the graph optimiser makes part of the convolution.
        return tf.nn.bias_add(self.convolve(inputs, self.kernel()), self.bias())


def _shared_sums(model: keras.Model) -> dict[Any, Callable]:
    """Another ReLU in the place of one behind a sum that others read too.

    TensorFlow 2.21 makes sum and ReLU part of the convolution before them, finds that the others
    lack the sum, prints an error, and fuses nothing at all.
    """
    relus = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Activation)
        and layer.activation is keras.activations.relu
        and isinstance(before(layer), keras.layers.Add)
        and len(readers(model, before(layer))) > 1
    ]
    return dict.fromkeys(relus, lambda inputs: tf.maximum(inputs, tf.zeros([], inputs.dtype)))
