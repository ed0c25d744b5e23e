"""Checks after a phase whether the network predicts in use as it did in training.

BatchNormalization trained on each batch's own statistics is used with running ones. Where those lag
behind, training metrics are good and predictions are not, for no visible reason.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable

import tensorflow as tf

from engine.core.dataset import Batch
from engine.core.recipe import Phase
from engine.optim import losses
from engine.runtime import distribution
from engine.training.metrics import MetricAccumulator, TrainMetrics
from engine.training.train_step import TrainStep, make_tail, sum_over_microbatches

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

    Args:
      step: of a phase that trains running statistics.
      batches: columns [1, B, …], as the phase was trained on.
    """
    statistics = step.partition.statistics(step.phase)
    before = [variable.numpy() for variable in statistics]
    first = list(itertools.islice(batches, BATCHES))
    # In this order: training mode moves the running statistics, and does not read them.
    inference, training = (_measure(step, first, mode) for mode in (False, True))
    for variable, value in zip(statistics, before, strict=True):
        variable.assign(value)
    return BatchNormCheck(training, inference)


def _measure(step: TrainStep, batches: Iterable[Batch], training: bool) -> TrainMetrics:
    tail, metrics = make_tail(step.partition, step.mode), MetricAccumulator()

    def add(microbatch: Batch) -> list:
        logits = step.partition.head(tail(step.boundary(microbatch), training=training))
        each = losses.cross_entropy(microbatch.labels, logits)
        correct = tf.cast(tf.argmax(logits, -1, tf.int32) == microbatch.labels, tf.float32)
        metrics.add(each, microbatch.weights, correct, microbatch.weights)
        return []

    def add_share(share: Batch, _: tf.Tensor) -> None:
        sum_over_microbatches(add, share, step.recipe.gradient_accumulation_steps)

    @tf.function(autograph=False)
    def measure(stacked: Batch) -> None:
        batch = tf.nest.map_structure(lambda column: column[0], stacked)
        distribution.run_on_replicas(add_share, batch, tf.zeros([]))

    for batch in batches:
        measure(batch)
    return metrics.read()
