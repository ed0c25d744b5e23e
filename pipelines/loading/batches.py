"""From an index of examples to batches on the device; the only place that batches and prefetches.

Step N of a run is worked out from N alone: which examples it reads (`order`), their bytes, their
pixels (`decode`). So a run that is taken up at step N reads what it would have read.

Batches come by one of two ways. Files are read and decoded in parallel by tf.data. What is kept,
decoded images or the outputs of a frozen trunk, is copied together on a thread that works ahead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from engine.core.dataset import Batch, DataLoader
from engine.core.errors import UserError
from engine.core.recipe import Recipe
from pipelines.decode import decode
from pipelines.loading import shuffle
from pipelines.loading.prefetch import ahead
from pipelines.pixel_cache.store import ALIGNMENT, Pixels
from pipelines.sources.examples import Examples, identity, read
from pipelines.sources.reader import IMAGES_PER_THREAD, dataset_options, make_reader

PREFETCH = 4  # batches that wait ready: enough to ride out a slow file, little memory
KEPT_AHEAD = 2  # of what is only copied

# Steps -> example numbers int32, weights float32, epochs int32, [n] each: see `order.batches`
Plan = Callable[[range], tuple[np.ndarray, np.ndarray, np.ndarray]]
Views = Callable[[np.ndarray, int], np.ndarray]
Lookup = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, ...]]


@dataclasses.dataclass(frozen=True)
class SplitSource:
    """One part of the data, and how its images are had.

    pixels: the decoded images, or None where they are decoded from their files each time.
    device: where the batches are to lie, or None for the host's memory.
    """

    examples: Examples
    recipe: Recipe
    threads: int
    pixels: Pixels | None = None
    device: str | None = None


def make_data_loader(
    examples: Examples,
    recipe: Recipe,
    threads: int,
    pixels: Pixels | None = None,
    device: str | None = None,
) -> DataLoader:
    """The three parts of the data as the engine takes them."""
    parts = {
        name: SplitSource(examples.part(name), recipe, threads, pixels, device)
        for name in ("train", "validation", "test")
    }
    training = parts["train"]
    count = len(training.examples)

    def shuffled(steps: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return shuffle.batches(steps, count, recipe.batch_size, recipe.seed)

    def train(
        first: int,
        stop: int,
        per_call: int = 1,
        views: Views = each_epoch_anew,
        lookup: Lookup | None = None,
    ) -> Iterator[Batch]:
        calls = shuffle.calls(range(first, stop), per_call, count, recipe.batch_size)
        return batches(training, shuffled, calls, views, lookup)

    return DataLoader(
        classes=examples.classes,
        class_counts=training.examples.class_counts(),
        validation_examples=len(parts["validation"].examples),
        test_examples=len(parts["test"].examples),
        train=train,
        once=lambda part, which=None: once(parts[part], which),
        name=lambda example, part="train": parts[part].examples.name(example),
        groups=tuple(training.examples.groups),
        identity={name: identity(part.examples) for name, part in parts.items()},
    )


def each_epoch_anew(examples: np.ndarray, epoch: int) -> np.ndarray:
    """Views where every epoch draws anew: the epoch's own number."""
    return np.full(len(examples), epoch, np.int32)


def once(part: SplitSource, which: Sequence[int] | None = None) -> Iterator[Batch]:
    """Every example once, in their order; or of these batches only those with the given numbers."""
    size = part.recipe.batch_size
    plan = _in_order(len(part.examples), size)
    numbers = range(shuffle.steps_per_epoch(len(part.examples), size)) if which is None else which
    calls = [range(number, number + 1) for number in numbers]
    for batch in batches(part, plan, calls, each_epoch_anew) if calls else ():
        # As `column[0]`, but without a copy of the images.
        yield tf.nest.map_structure(lambda column: tf.reshape(column, column.shape[1:]), batch)


def _in_order(count: int, batch_size: int) -> Plan:
    """A plan that reads 0 to count - 1 once; the last batch is filled up at weight 0."""

    def plan(steps: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        places = np.arange(steps.start * batch_size, steps.stop * batch_size)
        numbers, weights = (places % count).astype(np.int32), (places < count).astype(np.float32)
        return numbers, weights, np.zeros_like(numbers)

    return plan


def batches(
    part: SplitSource,
    plan: Plan,
    calls: Sequence[range],
    views: Views,
    lookup: Lookup | None = None,
) -> Iterator[Batch]:
    """The batches of each call's steps, every column [steps, B, …], prefetched.

    Raises:
      UserError: a file can no longer be read or decoded; it is named.
    """
    take = lookup or _images(part)
    if take:
        kept = (_kept(part, _columns(plan, views, call), take) for call in calls)
        return ahead(kept, KEPT_AHEAD)
    return _decoded(part, plan, calls, views)


def _columns(plan: Plan, views: Views, steps: range) -> tuple[np.ndarray, ...]:
    """weights, examples, epochs, views of some steps, [n] each."""
    numbers, weights, epochs = plan(steps)
    seen = np.empty_like(numbers)
    for epoch in np.unique(epochs):
        seen[epochs == epoch] = views(numbers[epochs == epoch], int(epoch))
    return weights, numbers, epochs, seen


def _images(part: SplitSource) -> Lookup | None:
    if part.pixels is None:
        return None
    pixels, rows = part.pixels, part.examples.rows
    return lambda numbers, _: (pixels.take(rows[numbers]),)


def _kept(part: SplitSource, columns: tuple[np.ndarray, ...], take: Lookup) -> Batch:
    weights, numbers, epochs, views = columns
    taken = take(numbers, views)
    images = len(taken) == 1 and taken[0].dtype == np.uint8
    labels = part.examples.labels[numbers]
    batch = Batch(taken[0] if images else taken, labels, weights, numbers, epochs, views)
    size = part.recipe.batch_size
    tensors = [
        _tensor(column.reshape(-1, size, *column.shape[1:])) for column in tf.nest.flatten(batch)
    ]
    if part.device:
        with tf.device(part.device):
            tensors = [tf.identity(tensor) for tensor in tensors]
    return tf.nest.pack_sequence_as(batch, tensors)


def _tensor(array: np.ndarray) -> tf.Tensor:
    """The array's own memory as a tensor where it is aligned, which alone spares a copy."""
    if array.ctypes.data % ALIGNMENT:
        return tf.convert_to_tensor(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _decoded(
    part: SplitSource, plan: Plan, calls: Sequence[range], views: Views
) -> Iterator[Batch]:
    for alike in _alike(calls):
        dataset = iter(_dataset(part, plan, alike, views))
        for call in alike:
            try:
                yield next(dataset)
            except tf.errors.OpError as error:
                raise UserError(_blame(part, plan(call)[0], error)) from None


def _alike(calls: Sequence[range]) -> Iterator[list[range]]:
    """The calls in groups, of which all but the last are of one length."""
    group: list[range] = []
    for call in calls:
        if group and (len(group[-1]) < len(group[0]) or len(call) > len(group[0])):
            yield group
            group = []
        group.append(call)
    if group:
        yield group


def _dataset(
    part: SplitSource, plan: Plan, calls: Sequence[range], views: Views
) -> tf.data.Dataset:
    """All calls but the last are of one length."""
    recipe, fetch, labels = (
        part.recipe,
        make_reader(part.examples),
        tf.constant(part.examples.labels),
    )
    types = (tf.float32, tf.int32, tf.int32, tf.int32)

    def planned(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
        columns = tf.numpy_function(
            lambda step: _columns(plan, views, range(step, step + 1)),
            [step],
            types,
            stateful=False,
        )
        return tuple(tf.ensure_shape(column, [recipe.batch_size]) for column in columns)

    def example(weight: tf.Tensor, number: tf.Tensor, *rest: tf.Tensor) -> Batch:
        image = decode.decode(fetch(number), *recipe.image_size, recipe.resize)
        return Batch(image, tf.gather(labels, number), weight, number, *rest)

    def stacked(batch: Batch) -> Batch:
        return tf.nest.map_structure(
            lambda column: tf.reshape(column, [-1, recipe.batch_size, *column.shape[1:]]), batch
        )

    steps = tf.constant([step for call in calls for step in call], tf.int64)
    dataset = tf.data.Dataset.from_tensor_slices(steps).map(planned).unbatch()
    dataset = dataset.map(example, IMAGES_PER_THREAD * part.threads, deterministic=True)
    # As one batch first: to stack batches would copy every image once more.
    dataset = dataset.batch(recipe.batch_size * len(calls[0])).map(stacked)
    dataset = dataset.with_options(dataset_options(part.threads))
    if part.device:
        return dataset.apply(tf.data.experimental.prefetch_to_device(part.device, PREFETCH))
    return dataset.prefetch(PREFETCH)


def _blame(part: SplitSource, numbers: np.ndarray, error: Exception) -> str:
    """Which of a step's files failed, found by reading them once more, one by one."""
    examples, recipe = part.examples, part.recipe
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
