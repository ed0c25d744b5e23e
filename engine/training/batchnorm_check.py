"""After a phase: does the network give, when it is used, what it gave while it was trained?

A normalisation that was trained on each batch's own statistics is used with running ones. Where
those have not caught up, figures of training are good and answers are not; nobody would see why.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator

import tensorflow as tf

from engine.core.dataset import Batch
from engine.core.recipe import Phase
from engine.optim import losses
from engine.runtime import distribution
from engine.training import steps
from engine.training.metrics import MetricAccumulator, TrainMetrics

BATCHES = 4
LEAST_GAP = 0.1  # of the loss, and
LEAST_SHARE = 0.25  # of the loss in training mode: less is what noise makes


@dataclasses.dataclass(frozen=True)
class BatchNormCheck:
    """The same training batches, without dropout, in training mode and in inference mode.

    The losses are plain cross-entropy: no label smoothing, no class weights.
    """

    training: TrainMetrics
    inference: TrainMetrics

    @property
    def gap(self) -> bool:
        """Whether inference is that much worse. Not the other way: nobody suffers from that."""
        most = self.training.loss + max(LEAST_GAP, LEAST_SHARE * self.training.loss)
        return not self.inference.loss <= most  # what is no number is a gap too

    def complaint(self, phase: Phase, trained_steps: int) -> str:
        return (
            f"phase {phase.name!r}: loss {self.training.loss:.3f} in training mode and "
            f"{self.inference.loss:.3f} in inference mode, on the same {self.training.examples} "
            f"images: after {trained_steps} steps with batch_norm=train the running statistics "
            "are not those of the batches; use batch_norm=frozen, or train longer or on larger "
            "batches"
        )


def check_batchnorm(given: steps.StepContext, batches: Iterable[Batch]) -> BatchNormCheck:
    """Measures both on the first few batches, in pieces as in training; the network stays as it is.

    Where statistics are frozen, or there are none, both are the same program.

    Args:
      batches: columns [1, B, …], as the phase was trained on.
    """
    moving = given.partition.statistics(given.phase)
    before = [variable.numpy() for variable in moving]
    own = given.phase.batch_norm == "train"
    measure = {mode: _measure(given, mode and own) for mode in (True, False)}
    found = {mode: MetricAccumulator() for mode in measure}
    for batch in itertools.islice(batches, BATCHES):
        for piece in _pieces(batch, given.recipe.gradient_accumulation_steps):
            # In inference mode first: the other one moves the running statistics.
            for mode in (False, True):
                measure[mode](piece, found[mode])
                for variable, value in zip(moving, before, strict=True):
                    variable.assign(value)
    return BatchNormCheck(found[True].read(), found[False].read())


def _pieces(batch: Batch, count: int) -> Iterator[Batch]:
    """What passes at a time: of columns [1, B, …] so many pieces of each device's share."""
    shares = tf.distribute.get_strategy().num_replicas_in_sync
    for place in range(count):

        def part(column: tf.Tensor, place: int = place) -> tf.Tensor:
            rest = column.shape[2:]
            divided = tf.reshape(column, [shares, count, -1, *rest])[:, place]
            return tf.reshape(divided, [-1, *rest])

        yield tf.nest.map_structure(part, batch)


def _measure(
    given: steps.StepContext, training: bool
) -> Callable[[Batch, MetricAccumulator], None]:
    tail = steps.make_tail(given.partition, given.program)

    @tf.function(autograph=False)
    def measure(batch: Batch, totals: MetricAccumulator) -> None:
        def work(share: Batch, _: tf.Tensor) -> None:
            logits = given.partition.head(tail(given.frozen_forward(share), training=training))
            each = losses.cross_entropy(share.labels, logits)
            right = tf.cast(tf.argmax(logits, -1, tf.int32) == share.labels, tf.float32)
            totals.add(each, share.weights, right, share.weights)

        distribution.run_on_replicas(work, batch, tf.zeros([]))

    return measure
