"""The train step: the only GradientTape of the project.

Each phase has its own, since a `tf.function` traced before unfreezing would continue to train the
old variables. Shapes are fixed, so each is compiled once; only the number of steps in one call is
left open.
"""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from engine.core.dataset import Batch
from engine.core.recipe import Phase, Recipe
from engine.evaluation import eval_step
from engine.frozen.precision import ComputeMode, override_dtype_policy
from engine.models import bfloat16_gradients
from engine.models.batchnorm_folding import fold
from engine.models.freezing import ModelPartition
from engine.optim import losses
from engine.runtime import distribution, stateless_random
from engine.training.metrics import MetricAccumulator


def make_tail(partition: ModelPartition, mode: ComputeMode) -> Callable[..., tf.Tensor]:
    """Returns `tail(tensors, training)` -> [B, features], the inputs of the head.

    It is folded where its BatchNormalization statistics are frozen, the model itself elsewhere. In
    bfloat16 on a CPU its gradients are computed as in `engine.models.bfloat16_gradients`.
    """
    if partition.tail is None:
        return lambda tensors, training=False: tf.cast(tensors[0], mode.dtype)
    model = partition.tail
    if mode.dtype == "bfloat16" and not tf.config.list_physical_devices("GPU"):
        frozen, trained = (
            bfloat16_gradients.make_function(model, train) for train in (False, True)
        )
    else:
        frozen, trained = fold(model), functools.partial(model, training=True)

    def tail(tensors: list, training: bool = False) -> tf.Tensor:
        tensors = [tf.cast(tensor, mode.dtype) for tensor in tensors]
        with override_dtype_policy(model, mode.policy):
            return (trained if training else frozen)(tensors)

    return tail


@dataclasses.dataclass(eq=False)
class TrainStep:
    """The train step of a phase, compiled at its first call for any number of steps.

    boundary: Batch -> the tensors that enter the tail, a list.
    mode: how the tail is computed.
    metrics: accumulates the metrics of all steps.
    """

    recipe: Recipe
    phase: Phase
    partition: ModelPartition
    mode: ComputeMode
    boundary: Callable[[Batch], list]
    optimizer: Any
    class_weights: list[float]
    metrics: MetricAccumulator
    compiled: Any = dataclasses.field(default=None, init=False)

    def __post_init__(self) -> None:
        self._class_weights = tf.constant(self.class_weights, tf.float32)
        self._tail = make_tail(self.partition, self.mode)
        self._watched = [variable.value for variable in self.partition.variables]
        # By proxy: in a reference cycle the feature cache would outlive its phase.
        step = weakref.proxy(self)
        self.gradients: Callable[..., tuple] = tf.function(
            lambda *tensors: step._gradients(*tensors), autograph=False, jit_compile=self.mode.xla
        )

    def __call__(self, batches: Batch, learning_rates: tf.Tensor) -> None:
        """Runs N updates of the phase's variables.

        Args:
          batches: the batches of N steps, stacked: columns [N, B, …].
          learning_rates: float32 [N].

        Raises:
          RuntimeError: when traced, no gradient reaches a variable of the phase.
        """
        if self.compiled is None:
            specs = tf.nest.map_structure(
                lambda column: tf.TensorSpec([None, *column.shape[1:]], column.dtype),
                (batches, learning_rates),
            )
            step = weakref.proxy(self)
            self.compiled = tf.function(
                lambda *columns: step._run_steps(*columns), specs, autograph=False
            )
        self.compiled(batches, learning_rates)

    def _run_steps(self, batches: Batch, learning_rates: tf.Tensor) -> None:
        def body(step: tf.Tensor) -> tuple[tf.Tensor]:
            batch = tf.nest.map_structure(lambda column: column[step], batches)
            distribution.run_on_replicas(self._update, batch, learning_rates[step])
            return (step + 1,)

        count = tf.shape(learning_rates)[0]
        tf.while_loop(lambda step: step < count, body, [tf.constant(0)])

    def _update(self, batch: Batch, learning_rate: tf.Tensor) -> None:
        """One update, on this replica's share of the batch."""
        total = tf.reduce_sum(batch.weights * tf.gather(self._class_weights, batch.labels))
        total = distribution.all_reduce_sum([total])[0]
        gradients = sum_over_microbatches(
            lambda microbatch: self._add_microbatch(microbatch, total),
            batch,
            self.recipe.gradient_accumulation_steps,
        )
        self.optimizer.learning_rate = learning_rate
        self.optimizer.apply(distribution.all_reduce_sum(gradients), self.partition.variables)
        self.metrics.end_step()

    def _add_microbatch(self, batch: Batch, total: tf.Tensor) -> list:
        """Returns the gradients of a microbatch's share of the loss; adds to the metrics."""
        weights = batch.weights * tf.gather(self._class_weights, batch.labels)
        mask = dropout_mask(self.recipe, batch, self.partition.head.kernel.shape[0])
        each, logits, gradients = self.gradients(
            self.boundary(batch), batch.labels, weights / total, mask
        )
        correct = tf.cast(tf.argmax(logits, -1, tf.int32) == batch.labels, tf.float32)
        self.metrics.add(each, weights, correct, batch.weights)
        return gradients

    def _gradients(
        self, boundary: list, labels: tf.Tensor, shares: tf.Tensor, mask: tf.Tensor | None
    ) -> tuple:
        """Returns each example's loss, the logits, and the gradients of the sum of loss x share."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._watched)
            vector = self._tail(boundary, training=self.phase.batch_norm == "train")
            logits = self.partition.head(
                vector if mask is None else vector * tf.cast(mask, vector.dtype)
            )
            each = losses.cross_entropy(labels, logits, self.recipe.label_smoothing)
            scaled = self.optimizer.scale_loss(tf.reduce_sum(each * shares))
        gradients = tape.gradient(scaled, self._watched)
        pairs = zip(self.partition.variables, gradients, strict=True)
        if missing := [variable.path for variable, gradient in pairs if gradient is None]:
            raise RuntimeError(
                f"phase {self.phase.name!r}: no gradient reaches {', '.join(missing)}; "
                "the loss does not depend on them"
            )
        return each, logits, gradients


def sum_over_microbatches(
    compute: Callable[[Batch], list], batch: Batch, microbatches: int
) -> list:
    """Sums the tensors of equal microbatches, computed one after the other."""
    if microbatches == 1:
        return compute(batch)
    columns = tf.nest.map_structure(
        lambda column: tf.reshape(column, [microbatches, -1, *column.shape[1:]]), batch
    )

    def microbatch(index: Any) -> Batch:
        return tf.nest.map_structure(lambda column: column[index], columns)

    def body(index: tf.Tensor, *sums: tf.Tensor) -> tuple:
        tensors = compute(microbatch(index))
        return (index + 1, *(one + other for one, other in zip(sums, tensors, strict=True)))

    first = compute(microbatch(0))
    loop = tf.while_loop(lambda index, *_: index < microbatches, body, [tf.constant(1), *first])
    return loop[1:]


def make_trial(
    recipe: Recipe, phase: Phase, partition: ModelPartition, mode: ComputeMode
) -> Callable[[list], list]:
    """Returns a forward and backward pass of the tail: boundary tensors -> [logits, *gradients].

    All gradients are returned: TensorFlow would remove the operations of the others from the graph,
    half of the backward pass, and their time wouldn't count. The classes of the images are 0, 1, …
    in turn.
    """
    classes = partition.head.units
    step = TrainStep(
        recipe=recipe,
        phase=dataclasses.replace(phase, batch_norm="frozen"),
        partition=partition,
        mode=mode,
        boundary=list,
        optimizer=keras.optimizers.SGD(),
        class_weights=[],
        metrics=MetricAccumulator(),
    )

    @tf.function(autograph=False)
    def trial(boundary: list) -> list:
        size = tf.shape(boundary[0])[0]
        labels, shares = tf.range(size) % classes, tf.fill([size], 1 / tf.cast(size, tf.float32))
        _, logits, gradients = step.gradients(boundary, labels, shares, None)
        return [logits, *gradients]

    return trial


def dropout_mask(recipe: Recipe, batch: Batch, width: int) -> tf.Tensor | None:
    """Draws the factors of dropout: 0 or 1 / (1 - rate), float32 [B, width]; None without dropout.

    They depend on seed, epoch and example alone, and are drawn outside of what XLA may compile.
    """
    if not recipe.dropout:
        return None
    numbers = stateless_random.uniform(
        recipe.seed, stateless_random.DROPOUT, batch.epochs, batch.examples, width
    )
    return tf.cast(numbers >= recipe.dropout, tf.float32) / (1 - recipe.dropout)


def make_tail_eval_step(
    partition: ModelPartition, mode: ComputeMode
) -> Callable[[Any, Any], tuple]:
    """As `evaluation.eval_step.make_eval_step`, from the trunk's outputs instead of images."""
    tail = make_tail(partition, mode)
    return eval_step.compile_eval_step(
        lambda boundary: partition.head(tail(keras.tree.flatten(boundary)))
    )
