"""Training metrics that are accumulated on the device until they are read."""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

from engine.runtime import distribution


@dataclasses.dataclass(frozen=True)
class TrainMetrics:
    """Means since the last reset; NaN where nothing was added.

    bad_step: the first step since then after which the loss was non-finite, from 0; None without.
    The other metrics are meaningless then.
    """

    loss: float
    accuracy: float
    examples: int
    bad_step: int | None = None


class MetricAccumulator:
    """Sums of loss x weight, weight, correct predictions and examples, and the first bad step."""

    def __init__(self) -> None:
        # Each device has its own sums; reading returns the sum over all.
        self.sums = tf.Variable(
            tf.zeros([4]),
            trainable=False,
            name="metrics",
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
        )
        # The number of steps, and the first with a non-finite loss, counted from 1.
        self.steps = tf.Variable(
            tf.zeros([2], tf.int64),
            trainable=False,
            name="steps",
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    @property
    def state(self) -> list:
        """The values that a checkpoint holds."""
        return [self.sums.read_value(), self.steps.read_value()]

    @property
    def variables(self) -> list[tf.Variable]:
        """The variables that `state` is restored to."""
        return [self.sums, self.steps]

    def add(
        self, losses: tf.Tensor, weights: tf.Tensor, correct: tf.Tensor, real: tf.Tensor
    ) -> None:
        """Adds a batch, all float32 [B]; `real` is 1 for an example and 0 for padding."""
        columns = [losses * weights, weights, correct * real, real]
        self.sums.assign_add(tf.stack([tf.reduce_sum(column) for column in columns]))

    def end_step(self) -> None:
        """Counts a step and checks on the device whether the sums are finite."""
        loss = distribution.all_reduce_sum([self.sums.read_value()[0]])[0]
        count, bad = tf.unstack(self.steps.read_value())
        first_bad = (bad == 0) & ~tf.math.is_finite(loss)
        self.steps.assign(tf.stack([count + 1, tf.where(first_bad, count + 1, bad)]))

    def read(self) -> TrainMetrics:
        """Waits for the device and returns the means."""
        loss, weight, correct, count = (float(value) for value in self.sums.read_value().numpy())
        if not count:
            return TrainMetrics(math.nan, math.nan, 0)
        if bad := int(self.steps.read_value()[1]):
            return TrainMetrics(loss / weight, math.nan, 0, bad - 1)
        return TrainMetrics(loss / weight, correct / count, round(count))

    def set(self, metrics: TrainMetrics) -> None:
        """Takes metrics that were computed elsewhere; `read` returns them."""
        means = tf.constant([metrics.loss, 1, metrics.accuracy, 1], tf.float32)
        self.sums.assign(means * metrics.examples)

    def reset(self) -> None:
        self.sums.assign(tf.zeros([4]))
        self.steps.assign(tf.zeros([2], tf.int64))
