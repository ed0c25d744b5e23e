"""A frozen trunk as a program of its own.

No gradient enters it, so its variables are constants: normalisations are folded into kernels once,
kernels stand in the program in the precision that it computes in, and the graph optimiser works
out beforehand all that does not depend on the pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend.common.stateless_scope import StatelessScope

from engine.folding import Folded, as_list, foldable, run
from engine.precision import Program, running_in
from engine.rounding import rounded

# While a program is compiled, its constants take some 25 times their own size: 223 MB of weights
# went through 6.7 GB.
MOST_BYTES = 2**27


def specialise(model: keras.Model, program: Program) -> Callable[[Any], list]:
    """float32 [B, H, W, 3] -> the model's outputs in inference mode, a list.

    Changes of the variables are not seen any more. Larger models than `MOST_BYTES` go on reading
    their variables, but are folded and computed in the program's precision as well.
    """
    pairs: list[Folded] = [Folded(conv, norm) for norm, conv in foldable(model)]
    constants: list[tuple[Any, Any]] = []
    if 4 * sum(math.prod(variable.shape) for variable in model.weights) < MOST_BYTES:
        pairs = [_Constant(pair, program.dtype) for pair in pairs]
        constants = [(variable, variable.numpy()) for variable in model.weights]
    forward = run(model, pairs)
    signature = [tf.TensorSpec([None, *tensor.shape[1:]], tf.float32) for tensor in model.inputs]

    @tf.function(autograph=False, jit_compile=program.xla, input_signature=signature)
    def trunk(pixels: tf.Tensor) -> list:
        known = [(variable, tf.constant(value)) for variable, value in constants]
        with running_in(model, program.policy), StatelessScope(state_mapping=known):
            return as_list(forward(pixels))

    return trunk


class _Constant(Folded):
    """Folded once and for all, with the kernel and the bias in the precision of the program."""

    def __init__(self, pair: Folded, dtype: str) -> None:
        super().__init__(pair.conv, pair.norm)
        kernel, bias = pair.values()
        self.kernel = rounded(np.asarray(kernel), dtype)
        self.bias = tf.cast(bias, dtype).numpy()

    def __call__(self, inputs: Any) -> Any:
        # Not a plain sum: this one the graph optimiser makes part of the convolution.
        return tf.nn.bias_add(self.convolve(inputs, tf.constant(self.kernel)), self.bias)
