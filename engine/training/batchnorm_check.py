"""Checks after a phase whether the network predicts in use as it did in training.

BatchNormalization trained on each batch's own statistics is used with running ones. Where those lag
behind, training metrics are good and predictions are not, for no visible reason.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator

import tensorflow as tf

from engine.core.dataset import Batch
from engine.core.recipe import Phase
from engine.optim import losses
from engine.runtime import distribution
from engine.training.metrics import MetricAccumulator, TrainMetrics
from engine.training.train_step import TrainStep, make_tail

BATCHES = 4
MIN_GAP = 0.1  # of the loss, and
MIN_SHARE = 0.25  # of the loss in training mode: less is noise


@dataclasses.dataclass(frozen=True)
class BatchNormCheck:
    """The metrics of the same training batches, without dropout, in both modes.

    The losses are plain cross-entropy: no label smoothing, no class weights.
    """

    training: TrainMetrics
    inference: TrainMetrics

    @property
    def gap(self) -> bool:
        """Whether inference is much worse; a non-finite loss is a gap too."""
        limit = self.training.loss + max(MIN_GAP, MIN_SHARE * self.training.loss)
        return not self.inference.loss <= limit

    def complaint(self, phase: Phase, trained_steps: int) -> str:
        return (
            f"phase {phase.name!r}: loss {self.training.loss:.3f} in training mode and "
            f"{self.inference.loss:.3f} in inference mode on the same {self.training.examples} "
            f"images: after {trained_steps} steps with batch_norm=train the running statistics "
            "lag behind those of the batches; use batch_norm=frozen, or train longer or on larger "
            "batches"
        )


def check_batchnorm(step: TrainStep, batches: Iterable[Batch]) -> BatchNormCheck:
    """Measures both modes on the first few batches, in microbatches; the network is unchanged.

    Where statistics are frozen, or there are none, both are the same program.

    Args:
      batches: columns [1, B, …], as the phase was trained on.
    """
    statistics = step.partition.statistics(step.phase)
    before = [variable.numpy() for variable in statistics]
    trains = step.phase.batch_norm == "train"
    # In inference mode first: the other one moves the running statistics.
    measure = {mode: _make_measure(step, mode and trains) for mode in (False, True)}
    metrics = {mode: MetricAccumulator() for mode in measure}
    for batch in itertools.islice(batches, BATCHES):
        for microbatch in _microbatches(batch, step.recipe.gradient_accumulation_steps):
            for mode in measure:
                measure[mode](microbatch, metrics[mode])
                for variable, value in zip(statistics, before, strict=True):
                    variable.assign(value)
    return BatchNormCheck(metrics[True].read(), metrics[False].read())


def _microbatches(batch: Batch, count: int) -> Iterator[Batch]:
    """Splits columns [1, B, …] into that many microbatches of each device's share."""
    devices = tf.distribute.get_strategy().num_replicas_in_sync

    def take(column: tf.Tensor, index: int) -> tf.Tensor:
        rest = column.shape[2:]
        microbatches = tf.reshape(column, [devices, count, -1, *rest])
        return tf.reshape(microbatches[:, index], [-1, *rest])

    for index in range(count):
        yield tf.nest.map_structure(functools.partial(take, index=index), batch)


def _make_measure(step: TrainStep, training: bool) -> Callable[[Batch, MetricAccumulator], None]:
    tail = make_tail(step.partition, step.mode)

    @tf.function(autograph=False)
    def measure(batch: Batch, metrics: MetricAccumulator) -> None:
        def measure_share(share: Batch, _: tf.Tensor) -> None:
            logits = step.partition.head(tail(step.boundary(share), training=training))
            each = losses.cross_entropy(share.labels, logits)
            correct = tf.cast(tf.argmax(logits, -1, tf.int32) == share.labels, tf.float32)
            metrics.add(each, share.weights, correct, share.weights)

        distribution.run_on_replicas(measure_share, batch, tf.zeros([]))

    return measure
