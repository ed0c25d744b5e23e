"""Prepares a run: builds the classifier, and says what the run will do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from engine.core.recipe import Recipe
from engine.loggers import tensorboard
from engine.loggers.base import Logger, LoggerGroup
from engine.models import classifier, freezing
from engine.models.classifier import Classifier
from engine.optim.optimizers import SOLVER
from engine.runs import checkpoints
from engine.runs.best_model import load_best_model
from engine.runs.directory import RunDirectory
from engine.runtime import stateless_random
from engine.training.job import TrainJob

MAX_LOGGED_IMAGES = 16  # augmented images in TensorBoard
MAX_NAMED_CLASSES = 8


def build(
    recipe: Recipe,
    classes: tuple[str, ...],
    run: RunDirectory,
    logger: Logger,
    devices: tf.distribute.Strategy | None = None,
) -> Classifier:
    """Builds the classifier with the weights that the run starts with, on these devices.

    Raises:
      UserError: weights that can't be loaded or don't fit, or a phase's `trainable` does not exist.
    """
    # A run that resumes has its weights in the checkpoint: nothing is downloaded for it.
    if any(run.checkpoints.glob("step_*.npz")):
        recipe = dataclasses.replace(recipe, weights="none", init_from=None)
    network = classifier.build(recipe, len(classes), devices)
    for phase in recipe.phases:
        freezing.require_trainable(network, phase.trainable)
    if recipe.init_from:
        logger.note(start_from(RunDirectory(Path(recipe.init_from)), network, classes))
    return network


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


def start_logging(job: TrainJob) -> TrainJob:
    """Logs what the run will do; returns the job with a TensorBoard logger beside its own."""
    for line in list(describe(job)):
        job.logger.note(line)
    board = tensorboard.TensorBoardLogger(job.run, job.loader.classes, job.classifier.model)
    board.begin(job.recipe, augment_first_batch(job)[:MAX_LOGGED_IMAGES])
    return dataclasses.replace(job, logger=LoggerGroup((job.logger, board)))


def describe(job: TrainJob) -> Iterator[str]:
    """Yields lines on images, classes, the network, and what each phase trains."""
    recipe, loader = job.recipe, job.loader
    yield (
        f"{loader.train_examples:,} training images, {loader.validation_examples:,} validation "
        f"images; {len(loader.classes)} classes: {_shorten(loader.classes)}"
    )
    count = recipe.gradient_accumulation_steps
    microbatches = f", each in {count} microbatches" if count > 1 else ""
    measured = "the fastest precision within tolerance, measured for each phase"
    yield (
        f"{recipe.backbone} at {recipe.image_size[0]}x{recipe.image_size[1]}, "
        f"{job.classifier.model.count_params():,} parameters; batches of "
        f"{recipe.batch_size}{microbatches}; "
        f"{measured if recipe.precision == 'auto' else recipe.precision}"
    )
    for phase in recipe.phases:
        opened = freezing.opened_stage(job.classifier, phase.trainable)
        variables = freezing.partition_model(job.classifier, opened).variables
        above = "" if opened in freezing.WHOLE else " and above"
        steps = f"{phase.epochs} x {job.steps_per_epoch} steps"
        yield (
            f"phase {phase.name}: trains {opened}{above}, "
            f"{sum(math.prod(variable.shape) for variable in variables):,} parameters "
            f"in {len(variables)} variables; "
            f"{'solved' if phase.optimizer == SOLVER else steps}, {phase.optimizer}"
        )


def _shorten(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED_CLASSES
    return ", ".join(names[:MAX_NAMED_CLASSES]) + (f", … ({more} more)" if more > 0 else "")


def augment_first_batch(job: TrainJob) -> np.ndarray:
    """Returns the images of the first batch as the network sees them, uint8 [B, H, W, 3]."""
    stacked = next(iter(job.loader.train_batches(0, 1)))
    batch = tf.nest.map_structure(lambda column: column[0], stacked)
    numbers = stateless_random.uniform(
        job.recipe.seed, stateless_random.AUGMENT, batch.views, batch.examples, job.augment.draws
    )
    images = job.augment.apply(batch.inputs, numbers)
    return tf.cast(tf.round(images), tf.uint8).numpy()
