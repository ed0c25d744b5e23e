"""Chooses the precision that a network computes in, by measurement.

The model itself is float32, and so are its variables: a precision is a property of a function that
is traced from it. The fastest one is chosen among those whose results stay near those of float32.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from engine.core.recipe import Recipe
from engine.models.keras_internals import nested_layers
from engine.runtime import background, hardware

# Relative L2 distance of the features from those of float32. Rounding pixels to whole grey levels
# moves the features of EfficientNet-Lite0 by 0.04 (cats and dogs) and 0.06 (solar cells), saving an
# image once more as JPEG at quality 98 by 0.14 and 0.10; bfloat16 by 0.03 and 0.06.
TOLERANCE = 0.1
# The same of all gradients of a tail together. Another batch of 32 images moves those of
# EfficientNet-Lite0 by 0.5 (cats and dogs) and 1.2 (groceries); bfloat16 by 0.04 to 0.07 above
# block4 and by 0.10 and 0.15 with all variables, which adds a tenth to the variance at most.
GRADIENT_TOLERANCE = 0.2
# A mode has to be faster than the one before it by this factor, so that noise does not decide.
MIN_SPEEDUP = 1.1
REPEATS = 3

# Layers that stay float32 in every mode: scaled pixels and means of many need more than 8 bits.
FLOAT32_LAYERS = (
    keras.layers.Rescaling,
    keras.layers.Normalization,
    keras.layers.GlobalAveragePooling2D,
)


@dataclasses.dataclass(frozen=True)
class ComputeMode:
    """How a network is computed."""

    policy: str = "float32"  # a Keras dtype policy
    xla: bool = False  # whether XLA compiles it

    @property
    def dtype(self) -> str:
        return self.policy.removeprefix("mixed_")

    def __str__(self) -> str:
        return f"{self.dtype}, XLA" if self.xla else self.dtype


FLOAT32 = ComputeMode()


@dataclasses.dataclass(frozen=True)
class PrecisionTrial:
    """Speed and accuracy of one mode on a real batch."""

    mode: ComputeMode
    images_per_second: float
    distance: float  # relative L2, of its outputs from float32's
    gradient_distance: float = 0.0  # of all its gradients together; 0 where none are computed

    @property
    def within_tolerance(self) -> bool:
        return self.distance <= TOLERANCE and self.gradient_distance <= GRADIENT_TOLERANCE


@contextmanager
def override_dtype_policy(model: keras.Model, policy: str) -> Iterator[None]:
    """Within the block the model's layers compute in this policy; their variables stay float32."""
    layers = [layer for layer in nested_layers(model) if not isinstance(layer, FLOAT32_LAYERS)]
    before = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = policy
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.dtype_policy = old


def recipe_modes(recipe: Recipe) -> list[ComputeMode]:
    """Returns the modes that the recipe allows on this machine; see `available_modes`."""
    return available_modes(recipe.precision, recipe.xla)


def available_modes(precision: str = "auto", xla: str = "auto") -> list[ComputeMode]:
    """Returns the modes that this machine supports, float32 first where it is one of them.

    Half precision only where the hardware computes in it. XLA by default only on a GPU: on a CPU it
    was slower for every network measured, for depthwise convolutions twenty times.
    """
    policies = [precision]
    if precision == "auto":
        policies = ["float32", *(f"mixed_{dtype}" for dtype in half_precision_dtypes())]
    compiled = {"on": [True], "off": [False], "auto": [False, True]}[xla]
    if xla == "auto" and not tf.config.list_physical_devices("GPU"):
        compiled = [False]
    return [ComputeMode(policy, xla) for xla in compiled for policy in policies]


def half_precision_dtypes() -> list[str]:
    """Returns those that the first GPU computes in, or the CPU where there is none."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability")
        major = capability[0] if capability else 0
        return ["bfloat16", "float16"] if major >= 8 else ["float16"] if major == 7 else []
    features = hardware.describe_cpu(Path("/proc/cpuinfo").read_text("utf-8", "replace"))[1]
    return ["bfloat16"] if {"avx512_bf16", "amx_bf16", "bf16", "svebf16"} & set(features) else []


def training_modes(modes: list[ComputeMode], tail: keras.Model | None) -> list[ComputeMode]:
    """Returns the modes that are worth a trial for a tail that trains: one for a head alone."""
    alone = tail is None and not tf.config.list_physical_devices("GPU")
    return modes[:1] if alone else modes


def run_trials(
    modes: Sequence[ComputeMode],
    compile_mode: Callable[[ComputeMode], Callable],
    inputs: Any,
    gradients: bool = False,
) -> list[PrecisionTrial]:
    """Runs `compile_mode(mode)(inputs)`, which returns a list of tensors, for each mode.

    The first tensor of each list is compared with that of the first mode; its rows are images. The
    modes take turns, and the quickest turn of each counts: the first may have to compile, other
    load on the machine can only slow a turn down, and the choice should be the same the next time.

    Args:
      gradients: whether the other tensors are gradients, which are compared as well.
    """
    functions = [compile_mode(mode) for mode in modes]
    with background.paused():
        results = [_timed(function, inputs) for function in functions]
        quickest = [seconds for seconds, _ in results]
        for _ in range(REPEATS - 1):
            turn = [_timed(function, inputs)[0] for function in functions]
            quickest = list(map(min, quickest, turn))
    trials, expected = [], results[0][1]
    for mode, seconds, (_, tensors) in zip(modes, quickest, results, strict=True):
        trials.append(
            PrecisionTrial(
                mode,
                len(tensors[0]) / seconds,
                relative_distance(tensors[:1], expected[:1]),
                relative_distance(tensors[1:], expected[1:]) if gradients else 0.0,
            )
        )
    return trials


def _timed(function: Callable, inputs: Any) -> tuple[float, list]:
    started = time.perf_counter()
    tensors = [tensor.numpy() for tensor in function(inputs)]
    return time.perf_counter() - started, tensors


def relative_distance(one: Any, other: Any) -> float:
    """Returns the L2 distance of one from the other, relative to the other's norm.

    Both are arrays, or lists of arrays whose numbers count together.
    """
    squares = [0.0, 0.0]
    for pair in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        x, y = (array.astype(np.float64) for array in pair)
        squares = [squares[0] + np.sum((x - y) ** 2), squares[1] + np.sum(y**2)]
    error, norm = np.sqrt(squares)
    return float(error / norm) if norm else float(error != 0)


def choose_trial(trials: Sequence[PrecisionTrial]) -> PrecisionTrial:
    """Returns the fastest within tolerance; an earlier one unless a later is clearly faster."""
    chosen = trials[0]
    for trial in trials[1:]:
        faster = trial.images_per_second > MIN_SPEEDUP * chosen.images_per_second
        if trial.within_tolerance and faster:
            chosen = trial
    return chosen


def format_trials(trials: Sequence[PrecisionTrial]) -> list[str]:
    """Returns a line for each trial, in columns."""
    chosen, lines = choose_trial(trials), []
    tail = any(trial.gradient_distance for trial in trials)
    for trial in trials:
        gradients = f", of gradients {trial.gradient_distance:.1e}" if tail else ""
        verdict = "" if trial.within_tolerance else "too far from float32"
        lines.append(
            f"  {trial.mode!s:14} {trial.images_per_second:7.0f} images/s  "
            f"distance {trial.distance:.1e}{gradients}  "
            f"{'chosen' if trial is chosen else verdict}".rstrip()
        )
    return lines
