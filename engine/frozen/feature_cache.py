"""What a frozen trunk makes of the images, worked out once for each view and kept.

The table has a row for each example and view. Rows are filled batch by batch, in the order of the
examples and in the run's batch shape, just before the epoch that first wants them: what is in a
row depends on the seed and the view alone, so a run that is taken up reads the same bits.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from engine.core.dataset import Batch, DataLoader
from engine.frozen import array_store
from engine.frozen.array_store import CacheBudget
from engine.frozen.view_schedule import ViewSchedule
from engine.runtime import stateless_random

NOTHING = -1  # the view that an empty row holds


@dataclasses.dataclass(frozen=True)
class FeatureSource:
    """How rows are computed: `frozen_forward(images, numbers)` -> the trunk's outputs, a list.

    seed: the recipe's. augment: a `pipelines.augment.augment.Augmentation`, whose draws the
    numbers are.
    """

    loader: DataLoader
    frozen_forward: Callable[[Any, Any], list]
    augment: Any
    seed: int


class FeatureCache:
    """The kept outputs of a phase's trunk for the training images.

    Where the augmentation has few outcomes, each has its own rows, and every epoch draws among them
    as it would without a cache: nothing is approximate. Else the rows are those of `views.count`
    draws.
    """

    def __init__(
        self,
        source: FeatureSource,
        views: ViewSchedule,
        slots: int,
        outputs: list,
        cache_budget: CacheBudget,
    ) -> None:
        """outputs: of the trunk: shape without the batch, and type, of each."""
        self.source, self.views, self.slots = source, views, slots
        self.group = views.group
        self.count = source.loader.train_examples
        self.types = [dtype for _, dtype in outputs]
        self.tables = [
            array_store.table((slots, self.count, *shape), array_store.plain(dtype), cache_budget)
            for shape, dtype in outputs
        ]
        self._drawn = tf.function(
            functools.partial(
                stateless_random.uniform,
                source.seed,
                stateless_random.AUGMENT,
                count=source.augment.draws,
            ),
            autograph=False,
            input_signature=[tf.TensorSpec([None], tf.int32)] * 2,
        )
        self.held = np.full((slots, -(-self.count // self.group)), NOTHING, np.int64)

    @property
    def enumerated(self) -> bool:
        """Whether the slots are the outcomes of the augmentation, not draws of it."""
        return self.views.count is None

    def prepare(self, epoch: int, between: Callable[[], None] = lambda: None) -> int:
        """Fills the rows that the epoch reads and that are not there; gives how many it filled.

        between: called before each batch; what it raises ends the filling.
        """
        wanted = self._wanted(epoch)
        filled = 0
        for slot, lacking in enumerate(self._lacking(wanted)):
            missing = np.flatnonzero(lacking)
            batches = self.source.loader.once("train", missing.tolist())
            for group, batch in zip(missing, batches, strict=True):
                between()
                filled += self._fill(slot, int(group), int(wanted[slot, group]), batch)
                self.held[slot, group] = wanted[slot, group]
        return filled

    def ready(self, epoch: int) -> bool:
        """Whether all rows that the epoch reads are there."""
        return not self._lacking(self._wanted(epoch)).any()

    def _lacking(self, wanted: np.ndarray) -> np.ndarray:
        return (wanted != NOTHING) & (wanted != self.held)

    def _wanted(self, epoch: int) -> np.ndarray:
        """The view that each group of rows has to hold, or NOTHING where none is read."""
        if self.enumerated:
            return np.repeat(np.arange(self.slots)[:, None], self.held.shape[1], axis=1)
        wanted = np.full_like(self.held, NOTHING)
        views = self.views(np.arange(self.held.shape[1]) * self.group, epoch)
        wanted[self.views.slot(views[:1])[0]] = views
        return wanted

    def _fill(self, slot: int, group: int, view: int, batch: Batch) -> int:
        """One group of rows, from the images of its examples."""
        numbers = self._numbers(slot, view, batch)
        real = int(np.asarray(batch.weights).sum())
        place = group * self.group
        for table, output in zip(
            self.tables, self.source.frozen_forward(batch.inputs, numbers), strict=True
        ):
            table.put(slot, place, np.asarray(output)[:real])
        return real

    def _numbers(self, slot: int, view: int, batch: Batch) -> tf.Tensor:
        """The augmentation's draws for the whole group, float32 [B, draws]."""
        if self.enumerated:
            return tf.tile(self.source.augment.typical(slot)[None], [len(batch.examples), 1])
        views = tf.fill(batch.examples.shape, tf.constant(view, tf.int32))
        return self._drawn(views, batch.examples)

    def lookup(self, examples: np.ndarray, views: np.ndarray) -> tuple[np.ndarray, ...]:
        """The kept outputs, one array [n, …] for each tensor that crosses the cut."""
        slots = self.views.slot(views)
        if self.enumerated:
            slots = self.source.augment.outcome(np.asarray(self._drawn(views, examples)))
        return tuple(table.take(slots, examples) for table in self.tables)

    def restore(self, batch: Batch) -> list:
        """What `lookup` gave, as tensors of the types that the trunk made."""
        return [tf.bitcast(t, dtype) for t, dtype in zip(batch.inputs, self.types, strict=True)]
