"""What runs below the tail: the augmentation and the frozen trunk, each compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from engine.core.dataset import Augmentation, Batch
from engine.runtime import stateless_random


class FrozenForward:
    """The frozen trunk with the augmentation before it.

    Attributes:
      augment: (uint8 [B, H, W, 3], float32 [B, draws]) -> float32 [B, H, W, 3], compiled.
      outputs: shape without the batch, and dtype, of each of the trunk's outputs.
    """

    def __init__(self, seed: int, augmentation: Augmentation, trunk: Any) -> None:
        """
        Args:
          seed: the recipe's.
          trunk: float32 [B, H, W, 3] -> a list of tensors; see `trunk.compile_frozen`.
        """
        self.seed, self.augmentation, self.trunk = seed, augmentation, trunk
        self.augment: Callable = tf.function(augmentation.apply, autograph=False)
        tensors = trunk.get_concrete_function().structured_outputs
        self.outputs = [(tuple(tensor.shape[1:]), tensor.dtype.name) for tensor in tensors]

    @property
    def row_bytes(self) -> int:
        """Size of the outputs for one image."""
        return sum(math.prod(shape) * tf.as_dtype(dtype).size for shape, dtype in self.outputs)

    # The trunk is called as it is: within another function it would be compiled once more.
    def plain(self, images: tf.Tensor) -> list:
        """The trunk's outputs for uint8 [B, H, W, 3], without augmentation."""
        return self.trunk(tf.cast(images, tf.float32))

    def augmented(self, images: tf.Tensor, numbers: tf.Tensor) -> list:
        """The trunk's outputs for images augmented with these draws, float32 [B, draws]."""
        return self.trunk(self.augment(images, numbers))

    def training(self, batch: Batch) -> list:
        """The trunk's outputs for images augmented with the draws of their examples and views."""
        return self.augmented(batch.inputs, self.draw(batch.views, batch.examples))

    def draw(self, views: tf.Tensor, examples: tf.Tensor) -> tf.Tensor:
        """The augmentation's random numbers, int32 [B] each -> float32 [B, draws]."""
        return stateless_random.uniform(
            self.seed, stateless_random.AUGMENT, views, examples, self.augmentation.draws
        )
