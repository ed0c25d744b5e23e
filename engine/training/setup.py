"""Prepares a run: from a recipe and data to a classifier and a job."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from engine.core.dataset import Augmentation, Batch, DataLoader
from engine.core.files import write_image
from engine.core.recipe import Recipe
from engine.loggers import plots, tensorboard
from engine.loggers.base import Logger, LoggerGroup
from engine.models import classifier, freezing
from engine.models.classifier import Classifier
from engine.runs import checkpoints
from engine.runs.best_model import load_best_model
from engine.runs.directory import RunDirectory
from engine.runtime import stateless_random
from engine.training import summary
from engine.training.state import TrainJob

MAX_LOGGED_IMAGES = 16  # augmented images in TensorBoard


def build(
    recipe: Recipe,
    classes: tuple[str, ...],
    run: RunDirectory,
    logger: Logger,
    devices: tf.distribute.Strategy | None = None,
) -> Classifier:
    """Builds the classifier with the weights that the run starts with, on these devices.

    Raises:
      UserError: weights that can't be loaded or don't fit.
    """
    # A run that resumes has its weights in the checkpoint: nothing is downloaded for it.
    if any(run.checkpoints.glob("step_*.npz")):
        recipe = dataclasses.replace(recipe, weights="none", init_from=None)
    network = classifier.build(recipe, len(classes), devices)
    if recipe.init_from:
        logger.note(start_from(RunDirectory(Path(recipe.init_from)), network, classes))
    return network


def prepare(
    recipe: Recipe,
    network: Classifier,
    loader: DataLoader,
    augment: Augmentation,
    run: RunDirectory,
    logger: Logger,
    **settings: Any,
) -> TrainJob:
    """Logs what the run will do, and adds a TensorBoard logger.

    Args:
      settings: further fields of `TrainJob`.

    Raises:
      UserError: a phase's `trainable` does not exist.
    """
    partitions = [freezing.partition_model(network, phase.trainable) for phase in recipe.phases]
    for line in summary.describe(recipe, loader, network, partitions):
        logger.note(line)
    board = tensorboard.TensorBoardLogger(run, loader.classes, network.model)
    board.begin(recipe, augment_first_batch(recipe, loader, augment)[1][:MAX_LOGGED_IMAGES])
    return TrainJob(recipe, network, loader, augment, run, LoggerGroup((logger, board)), **settings)


def start_from(run: RunDirectory, network: Classifier, classes: tuple[str, ...]) -> str:
    """Loads a run's best weights into the model; a head of other classes stays new.

    Returns:
      a sentence for the log.

    Raises:
      UserError: there is no such run, or it has another network.
    """
    arrays, values = load_best_model(run)
    variables, source = network.model.weights, f"--init_from={run.path}"
    if values["classes"] == list(classes):
        checkpoints.restore(variables, arrays, source)
        return f"starting from {run.path}, head included"
    head = len(network.head.weights)
    checkpoints.restore(variables[:-head], arrays[:-head], source)
    return f"starting from {run.path}, with a new head for {len(classes)} other classes"


def augment_first_batch(
    recipe: Recipe, loader: DataLoader, augment: Augmentation
) -> tuple[Batch, np.ndarray]:
    """Returns the first batch, and its images as the network sees them, uint8 [B, H, W, 3]."""
    stacked = next(iter(loader.train_batches(0, 1)))
    batch = tf.nest.map_structure(lambda column: column[0], stacked)
    numbers = stateless_random.uniform(
        recipe.seed, stateless_random.AUGMENT, batch.views, batch.examples, augment.draws
    )
    images = augment.apply(batch.inputs, numbers)
    return batch, tf.cast(tf.round(images), tf.uint8).numpy()


def show_augmented(job: TrainJob, path: Path) -> None:
    """Writes the run's first batch as the network sees it, a grid of images as PNG.

    Raises:
      UserError: the file can't be written.
    """
    batch, images = augment_first_batch(job.recipe, job.loader, job.augment)
    titles = [job.loader.classes[label] for label in np.asarray(batch.labels)]
    write_image(path, plots.image_grid(images, titles), "show_augmented")
