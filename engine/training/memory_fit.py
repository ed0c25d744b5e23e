"""Tries out whether training fits in the memory of the devices."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from engine.core.dataset import Augmentation, Batch, DataLoader
from engine.core.recipe import Phase, Recipe
from engine.loggers.base import LoggerGroup
from engine.models import classifier
from engine.runs.checkpoints import TrainState
from engine.runs.directory import RunDirectory
from engine.training.batchnorm_check import check_batchnorm
from engine.training.job import TrainJob
from engine.training.phase import PhaseTrainer

# TensorFlow raises the same error where these are exhausted.
_FILE_ERRORS = ("No space left on device", "Too many open files", "Disk quota exceeded")


def out_of_memory(error: BaseException) -> bool:
    """Whether a device ran out of memory; XLA and cuDNN report it in errors of other kinds."""
    text = str(error)
    if not isinstance(error, tf.errors.OpError) or any(part in text for part in _FILE_ERRORS):
        return False
    exhausted = isinstance(error, tf.errors.ResourceExhaustedError)
    return exhausted or any(part in text for part in ("RESOURCE_EXHAUSTED", "OUT_OF_MEMORY"))


def try_out(
    recipe: Recipe, classes: Sequence[str], augment: Augmentation, devices: tf.distribute.Strategy
) -> None:
    """Runs a step and an evaluation of every phase, on black images with random weights.

    Nothing is cached between steps, and what a run would measure is set to what needs most memory:
    float32, not compiled by XLA.

    Raises:
      tf.errors.OpError: out of memory where `out_of_memory` says so.
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
        model = classifier.build(recipe, len(classes), devices)
        loader = _BlackImages(recipe, tuple(classes))
        job = TrainJob(recipe, model, loader, augment, RunDirectory(Path(folder)), LoggerGroup(()))
        for phase in recipe.phases:
            if phase.epochs:
                _run_once(job, phase)


def _run_once(job: TrainJob, phase: Phase) -> None:
    trainer = PhaseTrainer(job, phase, TrainState(), {})
    for batch in trainer.train_batches(0, 1, 1):
        trainer.step(batch, tf.zeros([1]))
    for batch in trainer.validation_batches():
        trainer.eval_step(batch.inputs, batch.labels)
    if trainer.partition.statistics(phase):
        check_batchnorm(trainer.step, trainer.train_batches(0, 1, 1))
    tf.test.experimental.sync_devices()


class _BlackImages(DataLoader):
    """One batch of black images for each split."""

    def __init__(self, recipe: Recipe, classes: tuple[str, ...]) -> None:
        size = recipe.batch_size
        self.classes, self.class_counts = classes, (size,) * len(classes)
        self.validation_examples, self.test_examples = size, 0
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
