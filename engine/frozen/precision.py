"""In which precision a program computes, chosen by measurement and not by belief.

The model itself is float32, and so are its variables: a precision is a property of a program that
is traced from it. The fastest is taken among those whose results stay near those of float32.
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
from engine.runtime import background, hardware

# Relative L2 distance of the features from those of float32. What pixels lose when they are rounded
# to whole grey levels moves the features of EfficientNet-Lite0 by 0.04 (cats and dogs) and 0.06
# (solar cells), to save an image once more as JPEG at quality 98 by 0.14 and 0.10; bfloat16 by
# 0.03 and 0.06.
TOLERANCE = 0.1
# A program has to be faster than the one before it by this factor, so that noise does not decide.
MARGIN = 1.1
REPEATS = 3

# What stays float32 in every program: scaled pixels need more than 8 bits, means of many as well.
PINNED = (keras.layers.Rescaling, keras.layers.Normalization, keras.layers.GlobalAveragePooling2D)


@dataclasses.dataclass(frozen=True)
class ComputeMode:
    """How a network is computed: a Keras dtype policy, and whether XLA compiles it."""

    policy: str = "float32"
    xla: bool = False

    @property
    def dtype(self) -> str:
        return self.policy.removeprefix("mixed_")

    def __str__(self) -> str:
        return f"{self.dtype}, XLA" if self.xla else self.dtype


FLOAT32 = ComputeMode()


@dataclasses.dataclass(frozen=True)
class PrecisionTrial:
    """What a program did on a real batch. distance: relative L2, of its results from float32's."""

    program: ComputeMode
    images_per_second: float
    distance: float

    @property
    def sound(self) -> bool:
        return self.distance <= TOLERANCE


@contextmanager
def running_in(model: keras.Model, policy: str) -> Iterator[None]:
    """Within the block the model's layers compute in this policy; their variables stay float32."""
    inside = model._flatten_layers(include_self=False)
    layers = [layer for layer in inside if not isinstance(layer, PINNED)]
    before = [layer.dtype_policy for layer in layers]
    try:
        for layer in layers:
            layer.dtype_policy = policy
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.dtype_policy = old


def candidates(recipe: Recipe) -> list[ComputeMode]:
    """The programs that the recipe allows on this machine; see `programs`."""
    return programs(recipe.precision, recipe.xla)


def programs(precision: str = "auto", xla: str = "auto") -> list[ComputeMode]:
    """Those that this machine has, float32 first where it is one of them.

    Half precision only where the hardware computes in it. XLA by itself only on a GPU: on a CPU it
    was slower for every network measured, for depthwise convolutions twenty times.
    """
    policies = [precision]
    if precision == "auto":
        policies = ["float32", *(f"mixed_{name}" for name in half_precisions())]
    compiled = {"on": [True], "off": [False], "auto": [False, True]}[xla]
    if xla == "auto" and not tf.config.list_physical_devices("GPU"):
        compiled = [False]
    return [ComputeMode(policy, xla) for xla in compiled for policy in policies]


def half_precisions() -> list[str]:
    """Those that the first GPU computes in, or the processor where there is none."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability")
        major = capability[0] if capability else 0
        return ["bfloat16", "float16"] if major >= 8 else ["float16"] if major == 7 else []
    features = hardware.describe_cpu(Path("/proc/cpuinfo").read_text("utf-8", "replace"))[1]
    return ["bfloat16"] if {"avx512_bf16", "amx_bf16", "bf16", "svebf16"} & set(features) else []


def for_training(programs: list[ComputeMode], tail: keras.Model | None) -> list[ComputeMode]:
    """Those of the programs that are worth a trial for a tail that trains.

    On a CPU, in bfloat16, a step of EfficientNet-Lite0 with its depthwise convolutions took twice
    as long as in float32; one of InceptionV3's or ResNet50's top took two thirds.
    """
    depthwise = (keras.layers.DepthwiseConv2D, keras.layers.SeparableConv2D)
    slow = tail is None or any(isinstance(layer, depthwise) for layer in tail.layers)
    if slow and not tf.config.list_physical_devices("GPU"):
        return programs[:1]
    return programs


def trials(
    programs: Sequence[ComputeMode], make: Callable[[ComputeMode], Callable], inputs: Any
) -> list[PrecisionTrial]:
    """Runs `make(program)(inputs)`, a list of tensors, for each; the first is what others match.

    It is the list's first tensor that has to match; its rows are images.

    They take turns, and the quickest turn of each counts: the first may have to compile, what else
    the machine does can only slow a turn down, and the choice is to be the same the next time.
    """
    functions = [make(program) for program in programs]
    with background.kept():
        turns = [[_timed(function, inputs) for function in functions] for _ in range(REPEATS)]
    outputs = [_floats(tensors[0]) for _, tensors in turns[0]]
    seconds = [min(turn[place][0] for turn in turns) for place in range(len(programs))]
    return [
        PrecisionTrial(program, len(mine) / quickest, distance(mine, outputs[0]))
        for program, mine, quickest in zip(programs, outputs, seconds, strict=True)
    ]


def _floats(tensor: tf.Tensor) -> np.ndarray:
    return np.asarray(tf.cast(tensor, tf.float32))


def _timed(function: Callable, inputs: Any) -> tuple[float, list]:
    started = time.perf_counter()
    tensors = function(inputs)
    for tensor in tensors:
        tensor.numpy()
    return time.perf_counter() - started, tensors


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Relative L2 distance of one from the other."""
    apart, size = (float(np.linalg.norm(a.astype(np.float64))) for a in (one - other, other))
    return apart / size if size else float(apart != 0)


def best(done: Sequence[PrecisionTrial]) -> PrecisionTrial:
    """The fastest of the sound ones; an earlier one unless a later is clearly faster."""
    chosen = done[0]
    for trial in done[1:]:
        if trial.sound and trial.images_per_second > MARGIN * chosen.images_per_second:
            chosen = trial
    return chosen


def table(done: Sequence[PrecisionTrial]) -> list[str]:
    """One line for each trial, in columns."""
    chosen, lines = best(done), []
    for trial in done:
        mark = "chosen" if trial is chosen else "" if trial.sound else "too far from float32"
        lines.append(
            f"  {trial.program!s:14} {trial.images_per_second:7.0f} images/s  "
            f"distance {trial.distance:.1e}  {mark}".rstrip()
        )
    return lines
