"""Running totals that stay on the device until somebody asks."""

from __future__ import annotations

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Figures:
    """Means over what was added since the last reset; NaN where nothing was."""

    loss: float
    accuracy: float
    examples: int


class Totals:
    """Sums of loss x weight, weight, correct answers and examples, in one variable."""

    def __init__(self) -> None:
        # On several devices each adds up its own; whoever reads gets the sum over all.
        self.sums = tf.Variable(
            tf.zeros([4]),
            trainable=False,
            name="totals",
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
        )

    def add(
        self, losses: tf.Tensor, weights: tf.Tensor, correct: tf.Tensor, real: tf.Tensor
    ) -> None:
        """Adds one batch, all float32 [B]; `real` is 1 for an example and 0 for filling."""
        parts = [losses * weights, weights, correct * real, real]
        self.sums.assign_add(tf.stack([tf.reduce_sum(part) for part in parts]))

    def read(self) -> Figures:
        """Waits for the device."""
        loss, weight, correct, count = (float(value) for value in self.sums.read_value().numpy())
        if not count:
            return Figures(float("nan"), float("nan"), 0)
        return Figures(loss / weight, correct / count, round(count))

    def reset(self) -> None:
        self.sums.assign(tf.zeros([4]))
