"""The outputs of a frozen trunk, computed once for each augmentation view and cached.

The cache has a row for each example and view. Rows are filled batch by batch, in the order of the
examples and in the run's batch shape, just before the first epoch that reads them: the content of
a row depends on the seed and the view alone, so a resumed run reads the same bits.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from engine.core.dataset import Batch, DataLoader
from engine.frozen import array_store
from engine.frozen.array_store import CacheBudget
from engine.frozen.forward import FrozenForward
from engine.frozen.view_schedule import ViewSchedule

EMPTY = -1  # in the place of a view


class FeatureCache:
    """The cached outputs of a phase's trunk for the training images.

    Where the augmentation has few outcomes, each has its own slot, and every epoch draws among them
    as it would without a cache: nothing is approximate. Else a slot holds one of `views.count`
    draws.
    """

    def __init__(
        self,
        loader: DataLoader,
        forward: FrozenForward,
        views: ViewSchedule,
        slots: int,
        budget: CacheBudget,
    ) -> None:
        """
        Args:
          views: of the phase; its groups are the loader's batches.
          slots: rows for each example.

        Raises:
          OSError: the rows fit neither in memory nor on the disk.
        """
        self.loader, self.forward, self.views, self.slots = loader, forward, views, slots
        self.stores = array_store.allocate(
            [
                ((slots, loader.train_examples, *shape), array_store.storage_dtype(dtype))
                for shape, dtype in forward.outputs
            ],
            budget,
        )
        self._draw = tf.function(
            forward.draw, autograph=False, input_signature=[tf.TensorSpec([None], tf.int32)] * 2
        )
        groups = -(-loader.train_examples // views.group)
        self._cached_views = np.full((slots, groups), EMPTY, np.int64)

    @property
    def enumerated(self) -> bool:
        """Whether the slots are the outcomes of the augmentation, not draws of it."""
        return self.views.count is None

    def fill(self, epoch: int, before_batch: Callable[[], None] = lambda: None) -> None:
        """Computes the missing rows that the epoch reads.

        before_batch: what it raises ends the filling.
        """
        views = self._views_of(epoch)
        for slot, stale in enumerate(self._stale(views)):
            groups = np.flatnonzero(stale)
            batches = self.loader.split_batches("train", groups.tolist())
            for group, batch in zip(groups, batches, strict=True):
                before_batch()
                self._fill_group(slot, int(group), int(views[slot, group]), batch)
                self._cached_views[slot, group] = views[slot, group]

    def is_filled(self, epoch: int) -> bool:
        """Whether all rows that the epoch reads are there."""
        return not self._stale(self._views_of(epoch)).any()

    def _stale(self, views: np.ndarray) -> np.ndarray:
        return (views != EMPTY) & (views != self._cached_views)

    def _views_of(self, epoch: int) -> np.ndarray:
        """The view that each slot and group has to hold, or EMPTY where none is read."""
        slots, groups = self._cached_views.shape
        if self.enumerated:
            return np.repeat(np.arange(slots)[:, None], groups, axis=1)
        views = np.full((slots, groups), EMPTY, np.int64)
        of_groups = self.views(np.arange(groups) * self.views.group, epoch)
        views[self.views.slot(of_groups[:1])[0]] = of_groups
        return views

    def _fill_group(self, slot: int, group: int, view: int, batch: Batch) -> None:
        """Computes one group of rows from the images of its examples."""
        outputs = self.forward.augmented(batch.inputs, self._numbers(slot, view, batch))
        examples = int(np.asarray(batch.weights).sum())
        for store, output in zip(self.stores, outputs, strict=True):
            store.put(slot, group * self.views.group, np.asarray(output)[:examples])

    def _numbers(self, slot: int, view: int, batch: Batch) -> tf.Tensor:
        """The augmentation's draws for the whole group, float32 [B, draws]."""
        if self.enumerated:
            numbers = self.forward.augmentation.typical(slot)
            return tf.tile(numbers[None], [len(batch.examples), 1])
        views = tf.fill(batch.examples.shape, tf.constant(view, tf.int32))
        return self._draw(views, batch.examples)

    def lookup(self, examples: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, ...]:
        """The cached rows, one array [n, …] for each of the trunk's outputs."""
        slots = self.views.slot(views)
        if self.enumerated:
            slots = self.forward.augmentation.outcome(np.asarray(self._draw(views, examples)))
        return tuple(store.take(slots, examples) for store in self.stores)

    def restore(self, batch: Batch) -> list:
        """The rows that `lookup` returned, as tensors of the trunk's own types."""
        types = [dtype for _, dtype in self.forward.outputs]
        return [tf.bitcast(rows, dtype) for rows, dtype in zip(batch.inputs, types, strict=True)]
