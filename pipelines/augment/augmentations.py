"""Augmentation: all geometry in one matrix and one resampling, all colour changes in another.

What is no matrix is a filter after both. `pipelines.augment.changes` has the table.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from engine.core.call_syntax import Call
from pipelines.augment.changes import ImageChange, parse_changes


class Augmentation(NamedTuple):
    """Implements `engine.core.dataset.Augmentation`.

    Attributes:
      edges: those of each change; None where one has many outcomes.
    """

    draws: int
    apply: Callable[[Any, Any], Any]
    edges: tuple[tuple[float, ...], ...] | None = None

    @property
    def outcomes(self) -> int | None:
        """Number of different images of one; None where they can't be counted."""
        return None if self.edges is None else math.prod(len(edges) + 1 for edges in self.edges)

    def warm(self, count: int, height: int, width: int) -> threading.Thread:
        """Compiles the programs for batches of this shape on a thread."""
        import tensorflow as tf

        def work() -> None:
            with contextlib.suppress(Exception):  # training raises it again
                images = tf.zeros((count, height, width, 3), tf.uint8)
                self.apply(images, tf.zeros((count, self.draws)))

        thread = threading.Thread(target=work, name="warm")
        thread.start()
        return thread

    def outcome(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the outcome, int [B], of numbers float32 [B, draws]."""
        place = np.zeros(len(numbers), int)
        for column, edges in enumerate(self.edges or ()):
            index = np.searchsorted(np.array(edges, np.float32), numbers[:, column], side="right")
            place = place * (len(edges) + 1) + index
        return place

    def typical(self, outcome: int) -> np.ndarray:
        """Returns numbers with that outcome, float32 [draws]: the middle between its edges."""
        numbers: list[float] = []
        for edges in reversed(self.edges or ()):
            outcome, index = divmod(outcome, len(edges) + 1)
            ends = (0.0, *edges, 1.0)
            numbers.insert(0, (ends[index] + ends[index + 1]) / 2)
        return np.array(numbers, np.float32)


def compose(calls: Iterable[Call]) -> Augmentation:
    """Composes all changes into one function.

    Geometry, colour changes and filters act one kind after the other, in the order of the calls
    each: the first call's matrix is leftmost, as in Keras' ImageDataGenerator (rotate, shift,
    shear, zoom). The matrices are compiled separately: the resampling would compute them again for
    every pixel.
    """
    import tensorflow as tf

    from pipelines.augment import filters as f
    from pipelines.augment import transforms as m

    steps = parse_changes(calls)
    draws = sum(step.draws for step in steps)
    with_matrix = any(step.geometry or step.colour for step in steps)
    with_filter = any(step.filter for step in steps)

    @tf.function(autograph=False, jit_compile=True)
    def matrices(images, numbers):
        return _matrices(m, steps, images, tf.unstack(numbers, draws, axis=1))

    @tf.function(autograph=False, jit_compile=True)
    def filtered(pixels, numbers):
        for step, own in _with_numbers(steps, tf.unstack(numbers, draws, axis=1)):
            pixels = step.filter(m, f, own, pixels) if step.filter else pixels
        return pixels

    def apply(images, numbers):
        geometry, colour = matrices(images, numbers) if with_matrix else (None, None)
        pixels = tf.cast(images, tf.float32) if geometry is None else m.resample(images, geometry)
        pixels = pixels if colour is None else m.recolour(pixels, colour)
        return filtered(pixels, numbers) if with_filter else pixels

    edges = tuple(step.edges for step in steps if step.edges is not None)
    return Augmentation(draws, apply, edges if len(edges) == len(steps) else None)


def _with_numbers(steps: list[ImageChange], numbers: list) -> Iterator[tuple[ImageChange, list]]:
    """Yields each change with the random numbers that are its own."""
    for step in steps:
        yield step, numbers[: step.draws]
        numbers = numbers[step.draws :]


def _matrices(m: Any, steps: list[ImageChange], images: Any, numbers: list) -> tuple[Any, Any]:
    """Returns the products of all geometry and of all colour matrices, None for none."""
    geometry = colour = None
    for step, own in _with_numbers(steps, numbers):
        if step.geometry:
            matrix = step.geometry(m, own, images.shape[1:3])
            geometry = matrix if geometry is None else geometry @ matrix
        if step.colour:
            matrix = step.colour(m, own, m.mean_colour(images, colour))
            colour = matrix if colour is None else matrix @ colour
    return geometry, colour
