"""A run's best model as a program that answers in batches of known sizes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from engine import freezing, precision, runs, steps, trunk
from engine.folding import as_list
from engine.precision import Program
from engine.rules import Rule
from engine.rundir import RunDir
from engine.runs import Reopened

TRIED = 32  # pictures of the batch that precisions are tried on
REPEATS = 3


@dataclasses.dataclass(frozen=True)
class Model:
    """uint8 [B, H, W, 3] -> logits, float32 [B, classes], and how they are read.

    seconds: what a batch of each size takes; each has been compiled. program: its precision.
    """

    logits: Callable[[np.ndarray], np.ndarray]
    classes: tuple[str, ...]
    rule: Rule
    network: str
    program: str
    image_size: tuple[int, int]
    resize: str
    seconds: dict[int, float] = dataclasses.field(default_factory=dict)


def load(run: RunDir, chosen: str, say: Callable[[str], None]) -> Model:
    """The model of a run, folded and with fixed weights.

    Args:
      chosen: `float32`, or `auto`: the fastest precision here among the sound ones.
      say: takes the lines that tell what was tried.

    Raises:
      UserError: there is no run, or it has no model yet.
    """
    opened = runs.reopen(run)
    split = freezing.split(opened.classifier, "head")
    program = Program() if chosen == "float32" else _fastest(opened, split.trunk, say)
    features = trunk.specialise(split.trunk, program)
    tail = steps.make_tail(split, Program())

    # One trace for all sizes; XLA and cuDNN prepare themselves for each when it first comes.
    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec([None, *opened.recipe.image_size, 3], tf.uint8)],
    )
    def logits(images: tf.Tensor) -> tf.Tensor:
        return split.head(tail(features(tf.cast(images, tf.float32))))

    return Model(
        lambda images: logits(tf.convert_to_tensor(images)).numpy(),
        opened.classes,
        opened.rule,
        opened.recipe.backbone,
        str(program),
        opened.recipe.image_size,
        opened.recipe.resize,
    )


def _fastest(opened: Reopened, frozen: tf.keras.Model, say: Callable[[str], None]) -> Program:
    """Tried on drawn pictures, since a run holds none: colours that run into each other."""
    images = tf.cast(drawn(TRIED, opened.recipe.image_size), tf.float32)
    found = precision.trials(
        precision.programs(),
        lambda program: _features(frozen, program),
        images,
    )
    for line in precision.table(found) if len(found) > 1 else ():
        say(line)
    return precision.best(found).program


def _features(frozen: tf.keras.Model, program: Program) -> Callable[[tf.Tensor], list]:
    made = trunk.specialise(frozen, program)
    return lambda images: as_list(made(images))


def drawn(count: int, size: tuple[int, int]) -> np.ndarray:
    """Pictures with two colours and some noise, each with its own; uint8 [count, H, W, 3]."""
    random = np.random.default_rng(0)
    height, width = size
    ends = random.uniform(0, 255, (2, count, 1, 1, 3))
    down, across = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[:, None]
    noise = random.uniform(-20, 20, (count, height, width, 3))
    return np.clip(ends[0] + (ends[1] - ends[0]) * down * across + noise, 0, 255).astype(np.uint8)


def warmed(model: Model, sizes: Iterable[int]) -> Model:
    """With every size compiled and timed, so that no request waits for that."""
    seconds = {size: _seconds(model, size) for size in sizes}
    return dataclasses.replace(model, seconds=seconds)


def _seconds(model: Model, size: int) -> float:
    """The quickest of some batches; the first one compiles."""
    images = drawn(size, model.image_size)
    model.logits(images)
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        model.logits(images)
        times.append(time.perf_counter() - started)
    return min(times)
