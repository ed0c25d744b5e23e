"""Compiles the frozen layers of the first phases while the images are scanned."""

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
    """Compiled trunks by phase. Each serves once, as it holds the weights of its compilation."""

    def __init__(self) -> None:
        self._compiled: dict[str, dict[ComputeMode, Callable]] = {}

    def compile(self, classifier: Classifier, recipe: Recipe, phase: Phase) -> None:
        """Compiles the phase's trunk in every mode, each run once on a batch of zeros."""
        partition = freezing.partition_model(classifier, phase.trainable)
        compiled = self._compiled.setdefault(phase.name, {})
        pixels = tf.zeros((recipe.batch_size, *recipe.image_size, 3))
        for mode in precision.recipe_modes(recipe) if partition.frozen else ():
            function = trunk.compile_frozen(partition.trunk, mode)
            function(pixels)
            compiled[mode] = function

    def take_compiler(
        self, phase: Phase, partition: freezing.ModelPartition
    ) -> Callable[[ComputeMode], Callable]:
        """Returns `trunk.compile_frozen` for the phase's trunk, with what is compiled already.

        That is given away: the next call for the phase compiles again, with the weights by then.
        """
        compiled = self._compiled.pop(phase.name, {})
        return functools.cache(
            lambda mode: compiled.get(mode) or trunk.compile_frozen(partition.trunk, mode)
        )


@contextlib.contextmanager
def compile_in_background(
    classifier: Classifier,
    recipe: Recipe,
    phases: Sequence[Phase],
    devices: tf.distribute.Strategy | None = None,
) -> Iterator[Warmup]:
    """Compiles on a thread within the block; nothing else may touch the model there.

    Args:
      phases: those of the recipe that start with the present weights.
      devices: as `classifier.build` takes them.
    """
    warmup, scope = Warmup(), (devices or tf.distribute.get_strategy()).scope()

    def work() -> None:
        # What fails here is compiled again by the phase, and fails there.
        with contextlib.suppress(Exception), scope:
            for phase in phases:
                warmup.compile(classifier, recipe, phase)

    thread = threading.Thread(target=work, name="warm-up")
    thread.start()
    try:
        yield warmup
    finally:
        thread.join()
