"""Loads batches of examples: from image files, the pixel cache, or cached trunk outputs.

What step N of a run reads is a function of N: which examples (`shuffle`), their bytes, their pixels
(`decode`). A run that resumes at step N therefore reads what it would have read.

Files are read and decoded in parallel by tf.data. Cached pixels and trunk outputs are gathered on a
thread that works ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from engine.core.dataset import Batch, DataLoader, Lookup, ViewsOf
from engine.core.errors import UserError
from engine.core.recipe import Recipe
from pipelines.decode import decode
from pipelines.loading import shuffle
from pipelines.loading.prefetch import prefetch
from pipelines.pixel_cache.cache import ALIGNMENT, PixelCache
from pipelines.sources.examples import SPLITS, Examples, identity, read
from pipelines.sources.reader import IMAGES_PER_THREAD, dataset_options, make_reader

PREFETCHED_BATCHES = 4  # enough to ride out a slow file, little memory
PREFETCHED_CACHED_BATCHES = 2  # these are only copied

# Steps -> weights float32 [n], examples, epochs and views int32 [n], as in `Batch`.
Columns = Callable[[range], tuple[np.ndarray, ...]]


class SplitLoader:
    """Loads batches of one split."""

    def __init__(
        self,
        examples: Examples,
        recipe: Recipe,
        threads: int,
        pixels: PixelCache | None = None,
        device: str | None = None,
    ) -> None:
        """Loads nothing yet.

        Args:
          threads: how many read and decode.
          pixels: the decoded images; None decodes the files each time.
          device: where to put the batches; None for the host's memory.
        """
        self.examples, self.recipe, self.threads = examples, recipe, threads
        self.pixels, self.device = pixels, device

    def batches(self, which: Sequence[int] | None = None) -> Iterator[Batch]:
        """Yields every example once, as `DataLoader.split_batches` does."""
        count, size = len(self.examples), self.recipe.batch_size
        numbers = range(shuffle.steps_per_epoch(count, size)) if which is None else which
        executions = [range(number, number + 1) for number in numbers]
        for batch in self.load(executions, self._in_order) if executions else ():
            # The same as `column[0]`, without a copy of the images.
            yield tf.nest.map_structure(lambda column: tf.reshape(column, column.shape[1:]), batch)

    def load(
        self, executions: Sequence[range], columns: Columns, lookup: Lookup | None = None
    ) -> Iterator[Batch]:
        """Yields the batches of each execution's steps, every column [steps, B, ...], prefetched.

        Raises:
          UserError: a file can no longer be read or decoded; the message names it.
        """
        lookup = lookup or self._cached_pixels()
        if lookup:
            ready = (self._cached_batch(columns(steps), lookup) for steps in executions)
            return prefetch(ready, PREFETCHED_CACHED_BATCHES)
        return self._decoded_batches(executions, columns)

    def _in_order(self, steps: range) -> tuple[np.ndarray, ...]:
        """The `Columns` of every example once; the last batch is padded at weight 0."""
        count, size = len(self.examples), self.recipe.batch_size
        positions = np.arange(steps.start * size, steps.stop * size)
        examples = (positions % count).astype(np.int32)
        epochs = np.zeros_like(examples)
        return (positions < count).astype(np.float32), examples, epochs, epochs.copy()

    def _cached_pixels(self) -> Lookup | None:
        if self.pixels is None:
            return None
        pixels, rows = self.pixels, self.examples.rows
        return lambda examples, _: (pixels.take(rows[examples]),)

    def _cached_batch(self, columns: tuple[np.ndarray, ...], lookup: Lookup) -> Batch:
        weights, examples, epochs, views = columns
        inputs = lookup(examples, views)
        images = len(inputs) == 1 and inputs[0].dtype == np.uint8
        labels = self.examples.labels[examples]
        batch = Batch(inputs[0] if images else inputs, labels, weights, examples, epochs, views)
        size = self.recipe.batch_size
        tensors = [
            _tensor(column.reshape(-1, size, *column.shape[1:]))
            for column in tf.nest.flatten(batch)
        ]
        if self.device:
            with tf.device(self.device):
                tensors = [tf.identity(tensor) for tensor in tensors]
        return tf.nest.pack_sequence_as(batch, tensors)

    def _decoded_batches(self, executions: Sequence[range], columns: Columns) -> Iterator[Batch]:
        for group in _of_equal_length(executions):
            dataset = iter(self._dataset(group, columns))
            for steps in group:
                try:
                    yield next(dataset)
                except tf.errors.OpError as error:
                    raise UserError(self._failure(columns(steps)[1], error)) from None

    def _dataset(self, executions: Sequence[range], columns: Columns) -> tf.data.Dataset:
        """All executions but the last have the same number of steps."""
        recipe, size = self.recipe, self.recipe.batch_size
        read_bytes, labels = make_reader(self.examples), tf.constant(self.examples.labels)
        types = (tf.float32, tf.int32, tf.int32, tf.int32)

        def columns_of(step: tf.Tensor) -> tuple[tf.Tensor, ...]:
            tensors = tf.numpy_function(
                lambda step: columns(range(step, step + 1)), [step], types, stateful=False
            )
            return tuple(tf.ensure_shape(tensor, [size]) for tensor in tensors)

        def load_example(weight: tf.Tensor, number: tf.Tensor, *rest: tf.Tensor) -> Batch:
            image = decode.decode(read_bytes(number), *recipe.image_size, recipe.resize)
            return Batch(image, tf.gather(labels, number), weight, number, *rest)

        def split_into_steps(batch: Batch) -> Batch:
            return tf.nest.map_structure(
                lambda column: tf.reshape(column, [-1, size, *column.shape[1:]]), batch
            )

        steps = tf.constant([step for steps in executions for step in steps], tf.int64)
        dataset = tf.data.Dataset.from_tensor_slices(steps).map(columns_of).unbatch()
        dataset = dataset.map(load_example, IMAGES_PER_THREAD * self.threads, deterministic=True)
        # Batched only once: to stack batches would copy every image again.
        dataset = dataset.batch(size * len(executions[0])).map(split_into_steps)
        dataset = dataset.with_options(dataset_options(self.threads))
        if self.device:
            copy = tf.data.experimental.prefetch_to_device(self.device, PREFETCHED_BATCHES)
            return dataset.apply(copy)
        return dataset.prefetch(PREFETCHED_BATCHES)

    def _failure(self, numbers: np.ndarray, error: Exception) -> str:
        """Names the file that failed, found by reading the step's files again one by one."""
        recipe = self.recipe
        for number in numbers.tolist():
            try:
                decode.decode(read(self.examples, number), *recipe.image_size, recipe.resize)
            except (OSError, tf.errors.OpError) as fault:
                from_system = isinstance(fault, OSError)
                reason = (fault.strerror or fault) if from_system else decode.reason(fault)
                return (
                    f"{self.examples.name(number)}: {reason}, though it was readable when the run "
                    "began; restore it, then start the same command again"
                )
        return f"reading failed: {str(error).splitlines()[0]}; start the same command again"


class ImageDataLoader(DataLoader):
    """Loads the three splits of a dataset of images."""

    def __init__(
        self,
        examples: Examples,
        recipe: Recipe,
        threads: int,
        pixels: PixelCache | None = None,
        device: str | None = None,
    ) -> None:
        """Args as of `SplitLoader`; the examples are those of all splits."""
        self._recipe = recipe
        self._splits = {
            name: SplitLoader(examples.subset(name), recipe, threads, pixels, device)
            for name in SPLITS
        }
        training = self._splits["train"].examples
        self.classes = examples.classes
        self.class_counts = training.class_counts()
        self.validation_examples = len(self._splits["validation"].examples)
        self.test_examples = len(self._splits["test"].examples)
        self.groups = tuple(training.groups)
        self.identity = {name: identity(split.examples) for name, split in self._splits.items()}

    def train_batches(
        self,
        first: int,
        stop: int,
        steps_per_execution: int = 1,
        views: ViewsOf | None = None,
        lookup: Lookup | None = None,
    ) -> Iterator[Batch]:
        """See `DataLoader`."""
        count, size, seed = self.train_examples, self._recipe.batch_size, self._recipe.seed

        def columns(steps: range) -> tuple[np.ndarray, ...]:
            examples, weights, epochs = shuffle.batches(steps, count, size, seed)
            numbers = epochs.copy()
            if views:
                for epoch in np.unique(epochs):
                    numbers[epochs == epoch] = views(examples[epochs == epoch], int(epoch))
            return weights, examples, epochs, numbers

        executions = shuffle.executions(range(first, stop), steps_per_execution, count, size)
        return self._splits["train"].load(executions, columns, lookup)

    def split_batches(self, split: str, which: Sequence[int] | None = None) -> Iterator[Batch]:
        """See `DataLoader`."""
        return self._splits[split].batches(which)

    def example_name(self, example: int, split: str = "train") -> str:
        """See `DataLoader`."""
        return self._splits[split].examples.name(example)


def _tensor(array: np.ndarray) -> tf.Tensor:
    """Returns a tensor that shares the array's memory where its alignment allows that."""
    if array.ctypes.data % ALIGNMENT:
        return tf.convert_to_tensor(array)
    return tf.experimental.dlpack.from_dlpack(array.__dlpack__())


def _of_equal_length(executions: Sequence[range]) -> Iterator[list[range]]:
    """Yields the executions in groups, in each of which only the last may have fewer steps."""
    group: list[range] = []
    for steps in executions:
        if group and (len(group[-1]) < len(group[0]) or len(steps) > len(group[0])):
            yield group
            group = []
        group.append(steps)
    if group:
        yield group
