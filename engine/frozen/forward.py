"""What comes before the tail: the augmentation and the frozen trunk, compiled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from engine.core.dataset import Batch
from engine.core.recipe import Recipe
from engine.frozen.array_store import width
from engine.frozen.cache_policy import Output
from engine.runtime import stateless_random


@dataclasses.dataclass(frozen=True)
class FrozenForward:
    """The frozen part with what comes before it, compiled.

    augment(images, numbers): uint8 [B, H, W, 3], draws [B, n] -> float32 [B, H, W, 3].
    plain(images): uint8 [B, H, W, 3] -> the trunk's outputs, a list.
    augmented(images, numbers): the same after the augmentation with these draws.
    drawn(batch): the same with the draws that belong to the batch's examples and views.
    outputs: shape without the batch and type of each output.
    """

    augment: Callable[[Any, Any], tf.Tensor]
    plain: Callable[[Any], list]
    augmented: Callable[[Any, Any], list]
    drawn: Callable[[Batch], list]
    outputs: list[Output]

    @property
    def row_bytes(self) -> int:
        """Of the outputs for one image."""
        return sum(math.prod(shape) * width(dtype) for shape, dtype in self.outputs)


def make_frozen_forward(recipe: Recipe, augment: Any, trunk: Any) -> FrozenForward:
    """trunk: see `trunk.specialise`. augment: anything with `draws` and `apply`."""
    apply = tf.function(augment.apply, autograph=False)

    # The trunk is called as it is: within another function it would be compiled once more.
    def plain(images: tf.Tensor) -> list:
        return trunk(tf.cast(images, tf.float32))

    def augmented(images: tf.Tensor, numbers: tf.Tensor) -> list:
        return trunk(apply(images, numbers))

    def drawn(batch: Batch) -> list:
        numbers = stateless_random.uniform(
            recipe.seed, stateless_random.AUGMENT, batch.views, batch.examples, augment.draws
        )
        return augmented(batch.inputs, numbers)

    tensors = trunk.get_concrete_function().structured_outputs
    outputs = [(tuple(tensor.shape[1:]), tensor.dtype.name) for tensor in tensors]
    return FrozenForward(apply, plain, augmented, drawn, outputs)
