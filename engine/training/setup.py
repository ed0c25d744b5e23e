"""A run put together: from a recipe and data to a job, and from a run directory to its model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from engine.core.dataset import Batch, DataLoader
from engine.core.files import write_image
from engine.core.recipe import Recipe
from engine.loggers import plots, tensorboard
from engine.loggers.base import Logger, LoggerGroup
from engine.models import classifier, freezing
from engine.models.classifier import Classifier
from engine.runs import best_model, checkpoints
from engine.runs.directory import RunDirectory
from engine.runtime import stateless_random
from engine.training import summary
from engine.training.state import TrainJob

SHOWN = 16  # augmented images on the board


def build(
    recipe: Recipe,
    classes: tuple[str, ...],
    run: RunDirectory,
    terminal: Logger,
    devices: tf.distribute.Strategy | None = None,
) -> Classifier:
    """The classifier with the weights that the run begins with, on these devices.

    Raises:
      UserError: weights that can't be had or don't fit.
    """
    taken_up = any(run.checkpoints.glob("step_*.npz"))
    # A run that is taken up has its weights in the checkpoint: nothing is fetched for it.
    source = dataclasses.replace(recipe, weights="none", init_from=None) if taken_up else recipe
    made = classifier.build(source, len(classes), devices)
    if source.init_from:
        terminal.note(start_from(RunDirectory(Path(source.init_from)), made, classes))
    return made


def prepare(
    recipe: Recipe,
    made: Classifier,
    loader: DataLoader,
    augment: Any,
    run: RunDirectory,
    terminal: Logger,
    **settings: Any,
) -> TrainJob:
    """Says what the run will do, and opens TensorBoard's files.

    augment is a `pipelines.augment.augment.Augmentation`; settings are further fields of `Job`.

    Raises:
      UserError: a `trainable` that does not exist.
    """
    splits = [freezing.partition_model(made, phase.trainable) for phase in recipe.phases]
    for line in summary.describe(recipe, loader, made, splits):
        terminal.note(line)
    board = tensorboard.TensorBoardLogger(run, loader.classes, made.model)
    board.begin(recipe, augmented(recipe, loader, augment)[1][:SHOWN])
    return TrainJob(recipe, made, loader, augment, run, LoggerGroup((terminal, board)), **settings)


def start_from(run: RunDirectory, made: Classifier, classes: tuple[str, ...]) -> str:
    """Puts a finished run's best weights into the model; a head of other classes stays new.

    Returns:
      a sentence that says what was taken.

    Raises:
      UserError: there is no such run, or its network is another.
    """
    arrays, values = best_model.load_best_model(run)
    variables = made.model.weights
    if values["classes"] == list(classes):
        checkpoints.restore(variables, arrays, f"--init_from={run.path}")
        return f"starting from {run.path}, head included"
    head = len(made.head.weights)
    checkpoints.restore(variables[:-head], arrays[:-head], f"--init_from={run.path}")
    return f"starting from {run.path}, with a new head for {len(classes)} other classes"


def first_batch(loader: DataLoader) -> Batch:
    """The batch of the run's first step."""
    stacked = next(iter(loader.train_batches(0, 1)))
    return tf.nest.map_structure(lambda column: column[0], stacked)


def augmented(recipe: Recipe, loader: DataLoader, augment: Any) -> tuple[Batch, np.ndarray]:
    """The run's first batch, and its images as the network sees them, uint8 [B, H, W, 3]."""
    batch = first_batch(loader)
    numbers = stateless_random.uniform(
        recipe.seed, stateless_random.AUGMENT, batch.views, batch.examples, augment.draws
    )
    images = augment.apply(batch.inputs, numbers)
    return batch, tf.cast(tf.round(images), tf.uint8).numpy()


def show_augmented(job: TrainJob, path: Path) -> None:
    """Writes the run's first batch as the network sees it, a PNG sheet.

    Raises:
      UserError: the file can't be written.
    """
    batch, images = augmented(job.recipe, job.loader, job.augment)
    titles = [job.loader.classes[label] for label in np.asarray(batch.labels)]
    write_image(path, plots.image_grid(images, titles), "show_augmented")
