"""Frozen parts that are compiled while the images are looked at."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from engine.core.recipe import Phase, Recipe
from engine.frozen import precision, trunk
from engine.frozen.precision import ComputeMode
from engine.models import freezing
from engine.models.classifier import Classifier


class Warmup:
    """Programs by phase, ready to run; for most phases there are none."""

    def __init__(self) -> None:
        self._ready: dict[str, dict[ComputeMode, Callable]] = {}

    def make(
        self, phase: Phase, partition: freezing.ModelPartition
    ) -> Callable[[ComputeMode], Callable]:
        """Gives the phase's trunk as a program, as `trunk.specialise` does; once for each."""
        ready = self._ready.pop(phase.name, {})
        return functools.cache(
            lambda program: ready.get(program) or trunk.specialise(partition.trunk, program)
        )

    def prepare(self, made: Classifier, recipe: Recipe, phase: Phase) -> None:
        """The phase's programs, each run once on a batch without images in it."""
        partition = freezing.partition_model(made, phase.trainable)
        ready = self._ready.setdefault(phase.name, {})
        pixels = tf.zeros((recipe.batch_size, *recipe.image_size, 3))
        for program in precision.candidates(recipe) if partition.frozen else ():
            function = trunk.specialise(partition.trunk, program)
            function(pixels)
            ready[program] = function


@contextlib.contextmanager
def compile_meanwhile(
    made: Classifier,
    recipe: Recipe,
    phases: Sequence[Phase],
    devices: tf.distribute.Strategy | None = None,
) -> Iterator[Warmup]:
    """Compiles on a thread within the block; nobody else may touch the model there.

    Args:
      phases: those of the recipe that begin with the weights of now.
      devices: as `classifier.build` takes them.
    """
    warmup, scope = Warmup(), (devices or tf.distribute.get_strategy()).scope()

    def work() -> None:
        # What fails here is made anew by the phase, and fails there.
        with contextlib.suppress(Exception), scope:
            for phase in phases:
                warmup.prepare(made, recipe, phase)

    thread = threading.Thread(target=work, name="early")
    thread.start()
    try:
        yield warmup
    finally:
        thread.join()
