"""The train step: the only GradientTape of the project.

Each phase makes its own, since a `tf.function` that was traced before unfreezing would go on
training the old variables. Shapes are fixed, so each is compiled once; only how many steps one
call makes is left open.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from engine.core.dataset import Batch
from engine.core.recipe import Phase, Recipe
from engine.evaluation import eval_step
from engine.frozen.precision import ComputeMode, override_dtype_policy
from engine.models.batchnorm_folding import as_list, fold
from engine.models.freezing import ModelPartition
from engine.optim import losses
from engine.runtime import distribution, stateless_random
from engine.training.metrics import MetricAccumulator


@dataclasses.dataclass(frozen=True)
class StepContext:
    """What a train step is made of.

    frozen_forward: Batch -> the tensors that enter the tail, a list.
    program: how the tail is computed.
    """

    recipe: Recipe
    phase: Phase
    partition: ModelPartition
    program: ComputeMode
    frozen_forward: Callable[[Batch], list]
    optimizer: keras.optimizers.Optimizer
    class_weights: list[float]
    totals: MetricAccumulator


def make_tail(partition: ModelPartition, program: ComputeMode) -> Callable[..., tf.Tensor]:
    """`tail(tensors, training)` -> [B, features], what the head takes.

    Folded where the statistics of its normalisations are frozen, the model itself elsewhere.
    """
    if partition.tail is None:
        return lambda tensors, training=False: tf.cast(tensors[0], program.dtype)
    model, folded = partition.tail, fold(partition.tail)

    def tail(tensors: list, training: bool = False) -> tf.Tensor:
        tensors = [tf.cast(tensor, program.dtype) for tensor in tensors]
        with override_dtype_policy(model, program.policy):
            return model(tensors, training=True) if training else folded(tensors)

    return tail


def make_train_step(given: StepContext) -> Callable[[Batch, tf.Tensor], None]:
    """Updates of the phase's variables: `step(batches, learning_rates)`.

    batches: columns of N batches, [N, B, …]. learning_rates: float32 [N].

    Raises:
      RuntimeError: when traced, a variable of the phase that no gradient reaches.
    """
    update = _make_update(given)

    def step(batches: Batch, learning_rates: tf.Tensor) -> None:
        def body(place: tf.Tensor) -> tuple[tf.Tensor]:
            batch = tf.nest.map_structure(lambda column: column[place], batches)
            distribution.run_on_replicas(update, batch, learning_rates[place])
            return (place + 1,)

        count = tf.shape(learning_rates)[0]
        tf.while_loop(lambda place: place < count, body, [tf.constant(0)])

    return Stacked(step)


class Stacked:
    """A function of columns that is compiled at its first call, once for any number of rows."""

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function
        self.compiled: Any = None

    def __call__(self, *columns: Any) -> None:
        if self.compiled is None:
            specs = tf.nest.map_structure(
                lambda column: tf.TensorSpec([None, *column.shape[1:]], column.dtype), columns
            )
            self.compiled = tf.function(self.function, specs, autograph=False)
        self.compiled(*columns)


def _make_update(given: StepContext) -> Callable[[Batch, tf.Tensor], None]:
    """One update: `update(batch, learning_rate)`, on this replica's share of the batch."""
    recipe, optimizer, variables = given.recipe, given.optimizer, given.partition.variables
    of_class = tf.constant(given.class_weights)
    gradients_of = _make_gradients(given)

    def piece(batch: Batch, total: tf.Tensor) -> list:
        weights = batch.weights * tf.gather(of_class, batch.labels)
        kept = dropout_mask(recipe, batch, given.partition.head.kernel.shape[0])
        each, logits, gradients = gradients_of(
            given.frozen_forward(batch), batch.labels, weights / total, kept
        )
        correct = tf.cast(tf.argmax(logits, -1, tf.int32) == batch.labels, tf.float32)
        given.totals.add(each, weights, correct, batch.weights)
        return gradients

    def update(batch: Batch, learning_rate: tf.Tensor) -> None:
        total = tf.reduce_sum(batch.weights * tf.gather(of_class, batch.labels))
        total = distribution.all_reduce_sum([total])[0]
        gradients = _in_pieces(
            lambda part: piece(part, total), batch, recipe.gradient_accumulation_steps
        )
        optimizer.learning_rate = learning_rate
        optimizer.apply(distribution.all_reduce_sum(gradients), variables)
        given.totals.end_step()

    return update


def _make_gradients(given: StepContext) -> Callable[..., tuple]:
    """`(boundary, labels, shares, kept)` -> each example's loss, logits, and the gradients.

    The gradients are those of the sum of loss x share. kept: see `dropout_mask`.
    """
    recipe, phase, partition = given.recipe, given.phase, given.partition
    tail = make_tail(partition, given.program)
    watched = [variable.value for variable in partition.variables]

    @tf.function(autograph=False, jit_compile=given.program.xla)
    def gradients_of(boundary: list, labels: tf.Tensor, shares: tf.Tensor, kept: Any) -> tuple:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(watched)
            vector = tail(boundary, training=phase.batch_norm == "train")
            logits = partition.head(
                vector if kept is None else vector * tf.cast(kept, vector.dtype)
            )
            each = losses.cross_entropy(labels, logits, recipe.label_smoothing)
            scaled = given.optimizer.scale_loss(tf.reduce_sum(each * shares))
        gradients = tape.gradient(scaled, watched)
        _all_reached(phase, partition.variables, gradients)
        return each, logits, gradients

    return gradients_of


def make_trial(
    recipe: Recipe, phase: Phase, partition: ModelPartition, program: ComputeMode
) -> Callable[[list], list]:
    """The way forth and back through the tail: boundary tensors -> logits and a gradient.

    The gradient is that of the lowest variable, which takes all the others'.
    """
    nothing = StepContext(
        recipe=recipe,
        phase=dataclasses.replace(phase, batch_norm="frozen"),
        partition=partition,
        program=program,
        frozen_forward=list,
        optimizer=keras.optimizers.SGD(),
        class_weights=[],
        totals=MetricAccumulator(),
    )
    gradients_of = _make_gradients(nothing)

    @tf.function(autograph=False)
    def trial(boundary: list) -> list:
        size = tf.shape(boundary[0])[0]
        labels, shares = tf.zeros([size], tf.int32), tf.fill([size], 1 / tf.cast(size, tf.float32))
        _, logits, gradients = gradients_of(boundary, labels, shares, None)
        return [logits, gradients[0]]

    return trial


def _in_pieces(gradients_of: Callable[[Batch], list], batch: Batch, pieces: int) -> list:
    """The gradients of the whole batch, worked out in equal pieces one after the other."""
    if pieces == 1:
        return gradients_of(batch)
    parts = tf.nest.map_structure(lambda t: tf.reshape(t, [pieces, -1, *t.shape[1:]]), batch)

    def part(place: Any) -> Batch:
        return tf.nest.map_structure(lambda column: column[place], parts)

    def body(place: tf.Tensor, *sums: tf.Tensor) -> tuple:
        more = gradients_of(part(place))
        return (place + 1, *(one + other for one, other in zip(sums, more, strict=True)))

    first = gradients_of(part(0))
    return tf.while_loop(lambda place, *_: place < pieces, body, [tf.constant(1), *first])[1:]


def dropout_mask(recipe: Recipe, batch: Batch, width: int) -> tf.Tensor | None:
    """What dropout multiplies with: 0 or 1 / (1 - rate), float32 [B, width]; None without dropout.

    Each is drawn by (seed, epoch, example), outside of what XLA may compile.
    """
    if not recipe.dropout:
        return None
    numbers = stateless_random.uniform(
        recipe.seed, stateless_random.DROPOUT, batch.epochs, batch.examples, width
    )
    return tf.cast(numbers >= recipe.dropout, tf.float32) / (1 - recipe.dropout)


def make_upper_step(partition: ModelPartition, program: ComputeMode) -> Callable[[Any, Any], tuple]:
    """As `evaluation.eval_step.make_eval_step`, from the trunk's outputs instead of images."""
    tail = make_tail(partition, program)
    return eval_step.compile_eval_step(lambda boundary: partition.head(tail(as_list(boundary))))


def _all_reached(phase: Phase, variables: list, gradients: list) -> None:
    missed = [v.path for v, g in zip(variables, gradients, strict=True) if g is None]
    if missed:
        raise RuntimeError(
            f"phase {phase.name!r}: no gradient reaches {', '.join(missed)}; "
            "the loss does not depend on them"
        )
