"""Compiles a frozen trunk.

No gradient enters a trunk, so its values are fixed: normalizations are folded into kernels once,
and kernels are stored in the precision of the compute mode. Small values are constants of the
graph, which oneDNN packs once; large ones are variables of the compiled trunk's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from engine.core.recipe import Phase, Recipe
from engine.frozen.kernel_rounding import round_kernels
from engine.frozen.precision import ComputeMode, choose_trial, override_dtype_policy, recipe_modes
from engine.frozen.trial_memory import TrialMemory
from engine.models.batchnorm_folding import (
    FoldedConvolution,
    foldable_pairs,
    folding_replacements,
)
from engine.models.classifier import Classifier
from engine.models.freezing import partition_model
from engine.models.keras_internals import consumers, producer, run_graph, substituted_values

# Elements. TensorFlow copies a graph's constants some 25 times while it compiles: with constants,
# InceptionV3 took 5 s on one core instead of 1 s, and ResNet152 almost 7 GB of memory.
MAX_CONSTANT = 2**16

CompiledTrunks = dict[tuple[str, ComputeMode], Callable[[Any], list]]  # by phase and mode


def compile_frozen(
    model: keras.Model, mode: ComputeMode, replacements: dict[Any, Callable] | None = None
) -> Callable[[Any], list]:
    """Compiles a model in inference mode, with the values that its variables have now.

    What it holds is placed on each device of the strategy in whose scope this is called.

    Args:
      replacements: functions in the place of some layers; none of a convolution that is folded.

    Returns:
      float32 [B, H, W, 3] -> the model's outputs, a list.
    """
    pairs = [_FixedConvolution(conv, norm, mode.dtype) for norm, conv in foldable_pairs(model)]
    folded = {id(variable) for pair in pairs for variable in pair.variables}
    unfolded = [variable for variable in model.weights if id(variable) not in folded]
    values = [(variable, _fix(variable.numpy())) for variable in unfolded]
    replacements = _unfused_relus(model) | (replacements or {}) | folding_replacements(pairs)
    signature = [tf.TensorSpec([None, *tensor.shape[1:]], tf.float32) for tensor in model.inputs]

    @tf.function(autograph=False, jit_compile=mode.xla, input_signature=signature)
    def trunk(pixels: tf.Tensor) -> list:
        fixed = [(variable, value()) for variable, value in values]
        with override_dtype_policy(model, mode.policy), substituted_values(fixed):
            outputs = run_graph(model, [pixels], replacements)
            return keras.tree.flatten(outputs)

    return trunk


def _fix(value: np.ndarray) -> Callable[[], tf.Tensor]:
    """Returns a function that returns the value within a graph."""
    return _in_variable(value) if value.size > MAX_CONSTANT else lambda: tf.constant(value)


def _in_variable(value: np.ndarray) -> Callable[[], tf.Tensor]:
    return tf.Variable(value, trainable=False).read_value


class _FixedConvolution(FoldedConvolution):
    """Folded once, with kernel and bias in the precision of the compute mode."""

    def __init__(self, conv: keras.layers.Layer, norm: Any, dtype: str) -> None:
        super().__init__(conv, norm)
        kernel, bias = self.folded_weights()
        self._fixed_kernel = _fix(round_kernels(np.asarray(kernel), dtype))
        # Never a constant: TensorFlow 2.21 then does not fuse it into a bfloat16 convolution, which
        # halved the speed of MobileNetV3.
        self._fixed_bias = _in_variable(tf.cast(bias, dtype).numpy())

    def __call__(self, inputs: Any) -> Any:
        # Not a plain sum: the graph optimizer fuses bias_add into the convolution.
        return tf.nn.bias_add(self.convolve(inputs, self._fixed_kernel()), self._fixed_bias())


def _unfused_relus(model: keras.Model) -> dict[Any, Callable]:
    """Replaces each ReLU that follows a sum which others read too.

    TensorFlow 2.21 would fuse sum and ReLU into the convolution before them, find that the other
    readers lack the sum, print an error, and fuse nothing at all.
    """
    relus = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.Activation)
        and layer.activation is keras.activations.relu
        and isinstance(producer(layer.input), keras.layers.Add)
        and len(consumers(model, producer(layer.input))) > 1
    ]
    return dict.fromkeys(relus, lambda inputs: tf.maximum(inputs, tf.zeros([], inputs.dtype)))


def compile_ahead(
    classifier: Classifier,
    recipe: Recipe,
    phases: Sequence[Phase],
    devices: tf.distribute.Strategy | None = None,
    memory: TrialMemory | None = None,
) -> CompiledTrunks:
    """Compiles trunks while others read images, and runs each once on a batch of zeros.

    Each is compiled in the mode that an earlier run found the fastest, or else in every mode that
    the recipe allows. What fails is left to the phase, which
    compiles it again, and fails there.

    Args:
      phases: those of the recipe that start with the present weights.
      devices: as `classifier.build` takes them.
      memory: trials of earlier runs.
    """
    compiled: CompiledTrunks = {}
    pixels = tf.zeros((recipe.batch_size, *recipe.image_size, 3))
    scope = (devices or tf.distribute.get_strategy()).scope()
    with contextlib.suppress(Exception), scope:
        for phase in phases:
            partition = partition_model(classifier, phase.trainable)
            modes = recipe_modes(recipe)
            if trials := memory.read(phase, "trunk", modes) if memory else ():
                modes = [choose_trial(trials).mode]
            for mode in modes if partition.frozen else ():
                trunk = compile_frozen(partition.trunk, mode)
                trunk(pixels)
                compiled[phase.name, mode] = trunk
    return compiled
