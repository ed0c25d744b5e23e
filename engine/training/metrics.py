"""Running totals that stay on the device until somebody asks."""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

from engine.runtime import distribution


@dataclasses.dataclass(frozen=True)
class TrainMetrics:
    """Means over what was added since the last reset; NaN where nothing was.

    bad_step: the first step since then after which the loss was no number, from 0; None without.
    The other figures say nothing then.
    """

    loss: float
    accuracy: float
    examples: int
    bad_step: int | None = None


class MetricAccumulator:
    """Sums of loss x weight, weight, correct answers and examples, and which step spoiled them."""

    def __init__(self) -> None:
        # On several devices each adds up its own; whoever reads gets the sum over all.
        self.sums = tf.Variable(
            tf.zeros([4]),
            trainable=False,
            name="totals",
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
        )
        # How many steps there were, and the first whose loss was no number, counted from 1.
        self.steps = tf.Variable(
            tf.zeros([2], tf.int64),
            trainable=False,
            name="steps",
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    @property
    def state(self) -> list:
        """What a checkpoint holds of it."""
        return [self.sums.read_value(), self.steps.read_value()]

    @property
    def variables(self) -> list[tf.Variable]:
        """What takes it back."""
        return [self.sums, self.steps]

    def add(
        self, losses: tf.Tensor, weights: tf.Tensor, correct: tf.Tensor, real: tf.Tensor
    ) -> None:
        """Adds one batch, all float32 [B]; `real` is 1 for an example and 0 for filling."""
        parts = [losses * weights, weights, correct * real, real]
        self.sums.assign_add(tf.stack([tf.reduce_sum(part) for part in parts]))

    def end_step(self) -> None:
        """After the batch of a step: one more, and the sums are looked at, on the device."""
        loss = distribution.all_reduce_sum([self.sums.read_value()[0]])[0]
        count, bad = tf.unstack(self.steps.read_value())
        spoiled = (bad == 0) & ~tf.math.is_finite(loss)
        self.steps.assign(tf.stack([count + 1, tf.where(spoiled, count + 1, bad)]))

    def read(self) -> TrainMetrics:
        """Waits for the device."""
        loss, weight, correct, count = (float(value) for value in self.sums.read_value().numpy())
        if not count:
            return TrainMetrics(math.nan, math.nan, 0)
        if bad := int(self.steps.read_value()[1]):
            return TrainMetrics(loss / weight, math.nan, 0, bad - 1)
        return TrainMetrics(loss / weight, correct / count, round(count))

    def reset(self) -> None:
        self.sums.assign(tf.zeros([4]))
        self.steps.assign(tf.zeros([2], tf.int64))
