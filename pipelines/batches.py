"""From an index of examples to batches on the device; the only place that batches and prefetches.

Step N of a run is worked out from N alone: which examples it reads (`order`), their bytes, their
pixels (`decode`). So a run that is taken up at step N reads what it would have read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from engine.specs import Batch, Feed, Recipe, UserError
from pipelines import decode, order
from pipelines.examples import WHOLE_FILE, Examples, read

PREFETCH = 4  # batches that wait ready: enough to ride out a slow file, little memory


def make_feed(examples: Examples, recipe: Recipe, threads: int) -> Feed:
    """The three parts of the data as the engine takes them."""
    train, validation, test = (examples.part(part) for part in ("train", "validation", "test"))

    def shuffled(step: int) -> tuple[np.ndarray, np.ndarray, int]:
        return order.batch(step, len(train), recipe.batch_size, recipe.seed)

    return Feed(
        classes=examples.classes,
        class_counts=train.class_counts(),
        validation_examples=len(validation),
        train=lambda first, stop: batches(train, recipe, shuffled, first, stop, threads),
        validation=lambda: once(validation, recipe, threads),
        test=(lambda: once(test, recipe, threads)) if len(test) else None,
    )


def once(examples: Examples, recipe: Recipe, threads: int) -> Iterator[Batch]:
    """Every example once, in their order."""
    steps = order.steps_per_epoch(len(examples), recipe.batch_size)
    return batches(examples, recipe, _in_order(len(examples), recipe.batch_size), 0, steps, threads)


def _in_order(count: int, batch_size: int) -> Callable[[int], tuple[np.ndarray, np.ndarray, int]]:
    """A plan that reads 0 to count - 1 once; the last batch is filled up at weight 0."""

    def plan(step: int) -> tuple[np.ndarray, np.ndarray, int]:
        places = np.arange(step * batch_size, (step + 1) * batch_size)
        return (places % count).astype(np.int32), (places < count).astype(np.float32), 0

    return plan


def batches(
    examples: Examples, recipe: Recipe, plan: Callable, first: int, stop: int, threads: int
) -> Iterator[Batch]:
    """The batches of steps first to stop - 1 of a plan, decoded in parallel, prefetched.

    Raises:
      UserError: a file can no longer be read or decoded; it is named.
    """
    dataset = iter(_dataset(examples, recipe, plan, first, stop, threads))
    for step in range(first, stop):
        try:
            yield next(dataset)
        except tf.errors.OpError as error:
            raise UserError(_blame(examples, recipe, plan(step)[0], error)) from None


def _dataset(
    examples: Examples, recipe: Recipe, plan: Callable, first: int, stop: int, threads: int
) -> tf.data.Dataset:
    fetch = fetcher(examples)
    labels = tf.constant(examples.labels)

    def planned(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        numbers, weights, epochs = tf.numpy_function(
            lambda step: _columns(*plan(int(step))),
            [step],
            [tf.int32, tf.float32, tf.int32],
            stateful=False,
        )
        shape = [recipe.batch_size]
        return tuple(tf.ensure_shape(column, shape) for column in (numbers, weights, epochs))

    def example(number: tf.Tensor, weight: tf.Tensor, epoch: tf.Tensor) -> Batch:
        image = decode.decode(fetch(number), *recipe.image_size, recipe.resize)
        return Batch(image, tf.gather(labels, number), weight, number, epoch)

    dataset = tf.data.Dataset.range(first, stop).map(planned).unbatch()
    dataset = dataset.map(example, num_parallel_calls=threads, deterministic=True)
    dataset = dataset.batch(recipe.batch_size, drop_remainder=True)
    dataset = dataset.with_options(options(threads))
    if tf.config.list_physical_devices("GPU"):
        return dataset.apply(tf.data.experimental.prefetch_to_device("/gpu:0", PREFETCH))
    return dataset.prefetch(PREFETCH)


def options(threads: int) -> tf.data.Options:
    """Threads of the pipeline's own, since the model's pool may be a single one."""
    chosen = tf.data.Options()
    chosen.threading.private_threadpool_size = threads
    chosen.autotune.enabled = False
    return chosen


def _columns(numbers: np.ndarray, weights: np.ndarray, epoch: int) -> tuple:
    return numbers, weights, np.full(len(numbers), epoch, np.int32)


def fetcher(examples: Examples) -> Callable[[tf.Tensor], tf.Tensor]:
    """A graph function from an example's number, int32 scalar, to its encoded bytes."""
    if (examples.lengths == WHOLE_FILE).all():
        paths = tf.constant(examples.encoded_paths())
        return lambda number: tf.io.read_file(tf.gather(paths, number))

    def fetch(number: tf.Tensor) -> tf.Tensor:
        contents = tf.numpy_function(
            lambda n: read(examples, int(n)), [number], tf.string, stateful=False
        )
        return tf.ensure_shape(contents, [])

    return fetch


def _blame(examples: Examples, recipe: Recipe, numbers: np.ndarray, error: Exception) -> str:
    """Which of a step's files failed, found by reading them once more, one by one."""
    for number in numbers:
        try:
            decode.decode(read(examples, int(number)), *recipe.image_size, recipe.resize)
        except (OSError, tf.errors.OpError) as fault:
            wrong_file = isinstance(fault, OSError)
            reason = (fault.strerror or fault) if wrong_file else decode.reason(fault)
            return (
                f"{examples.name(int(number))}: {reason}, though it was sound when the run began; "
                "put it back, then start the same command again"
            )
    return f"reading failed: {str(error).splitlines()[0]}; start the same command again"
