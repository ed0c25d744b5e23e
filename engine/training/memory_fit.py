"""Whether training fits in the memory of the devices, found out by doing a little of it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from engine.core.dataset import Batch, DataLoader
from engine.core.recipe import Recipe
from engine.loggers.base import LoggerGroup
from engine.models import classifier
from engine.runs.checkpoints import TrainState
from engine.runs.directory import RunDirectory
from engine.training.batchnorm_check import check_batchnorm
from engine.training.phase import start_phase
from engine.training.state import TrainJob

# Of these there can be too few as well, and TensorFlow has the same error for it.
_OF_FILES = ("No space left on device", "Too many open files", "Disk quota exceeded")


def out_of_memory(error: BaseException) -> bool:
    """Whether a device had no memory left; XLA and cuDNN say so in errors of other kinds."""
    text = str(error)
    if not isinstance(error, tf.errors.OpError) or any(words in text for words in _OF_FILES):
        return False
    exhausted = isinstance(error, tf.errors.ResourceExhaustedError)
    return exhausted or any(words in text for words in ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY"))


def try_out(
    recipe: Recipe, classes: Sequence[str], augment: Any, devices: tf.distribute.Strategy
) -> None:
    """A step and an evaluation of every phase, on black images with weights drawn at random.

    Nothing is kept between steps, and what a run would measure is taken as it needs most memory: in
    float32, not compiled by XLA.

    Args:
      augment: a `pipelines.augment.augment.Augmentation`.

    Raises:
      tf.errors.OpError: for want of memory where `out_of_memory` says so.
    """
    recipe = dataclasses.replace(
        recipe,
        weights="none",
        init_from=None,
        cache="none",
        precision="float32" if recipe.precision == "auto" else recipe.precision,
        xla="off" if recipe.xla == "auto" else recipe.xla,
    )
    with tempfile.TemporaryDirectory() as folder, devices.scope():
        made = classifier.build(recipe, len(classes), devices)
        loader = _BlackImages(recipe, tuple(classes))
        job = TrainJob(recipe, made, loader, augment, RunDirectory(Path(folder)), LoggerGroup(()))
        for phase in recipe.phases:
            if phase.epochs:
                _once(job, phase)


def _once(job: TrainJob, phase: Any) -> None:
    stage = start_phase(job, phase, TrainState(), {})
    for batch in stage.batches(job.loader, 0, 1, 1):
        stage.step(batch, tf.zeros([1]))
    for batch in stage.validation():
        stage.eval_step(batch.inputs, batch.labels)
    check_batchnorm(stage.training, stage.batches(job.loader, 0, 1, 1))
    tf.test.experimental.sync_devices()


class _BlackImages(DataLoader):
    """One batch of black images for each split."""

    def __init__(self, recipe: Recipe, classes: tuple[str, ...]) -> None:
        size = recipe.batch_size
        self.classes, self.class_counts = classes, (size,) * len(classes)
        self.validation_examples, self.test_examples = size, 0
        self.groups, self.identity = (), {}
        self.groups, self.identity = (), {}
        numbers = np.arange(size, dtype=np.int32)
        batch = Batch(
            inputs=np.zeros((size, *recipe.image_size, 3), np.uint8),
            labels=numbers % len(classes),
            weights=np.ones(size, np.float32),
            examples=numbers,
            epochs=np.zeros_like(numbers),
            views=np.zeros_like(numbers),
        )
        self._batch = tf.nest.map_structure(tf.constant, batch)

    def train_batches(self, *_: Any) -> Iterator[Batch]:
        yield tf.nest.map_structure(lambda column: column[None], self._batch)

    def split_batches(self, *_: Any) -> Iterator[Batch]:
        yield self._batch
