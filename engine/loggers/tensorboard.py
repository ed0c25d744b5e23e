"""TensorBoard: scalars by step and epoch, images, the graph, hyperparameters.

A run `a` has three names there: `a/final` with its hyperparameters and final metrics, which are a
row of the HParams page, and `a/train` and `a/validation` with its curves. The row's name must be a
folder's: of a run called `.`, as that of `--logdir` is, the page finds no metrics.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from engine.core.recipe import Recipe
from engine.evaluation.evaluate import Evaluation
from engine.loggers import plots
from engine.loggers.base import Logger, StepMetrics
from engine.runs import history
from engine.runs.directory import RunDirectory

FINAL, TRAIN, VALIDATION = "final", "train", "validation"


def _ignore_full_disk(method: Callable[..., None]) -> Callable[..., None]:
    """Ignores a full disk: it must not end the run."""

    @functools.wraps(method)
    def attempt(*arguments: Any, **settings: Any) -> None:
        with contextlib.suppress(OSError, tf.errors.OpError):
            method(*arguments, **settings)

    return attempt


def _make_writer(folder: Path) -> Any:
    """Returns a writer; one that does nothing if the disk is full."""
    try:
        return tf.summary.create_file_writer(str(folder))
    except tf.errors.OpError:
        return tf.summary.create_noop_writer()


class TensorBoardLogger(Logger):
    """Writes event files."""

    def __init__(self, run: RunDirectory, classes: tuple[str, ...], model: keras.Model) -> None:
        self.classes, self.model, self.trial = classes, model, str(run.path)
        folders = dict(zip((TRAIN, VALIDATION, FINAL), run.event_folders, strict=True))
        self.writers = {name: _make_writer(folder) for name, folder in folders.items()}

    @_ignore_full_disk
    def begin(self, recipe: Recipe, augmented: np.ndarray) -> None:
        """Writes augmented images, uint8 [N, H, W, 3], and hyperparameters before training."""
        with self.writers[TRAIN].as_default():
            tf.summary.image("augmented", augmented, step=0, max_outputs=len(augmented))
        with self.writers[FINAL].as_default():
            # By default runs of equal hyperparameters would share a row.
            hparams.hparams(_flatten(recipe), trial_id=self.trial)
        self.writers[FINAL].flush()

    @_ignore_full_disk
    def end(self, result: dict[str, Any]) -> None:
        """Writes the saved model's metrics and its graph, which takes seconds for a deep one."""
        for split in (VALIDATION, "test"):
            if split in result:
                scalars = {f"{split}/{name}": result[split][name] for name in ("accuracy", "loss")}
                self._write(FINAL, scalars, step=0)

        @tf.function(autograph=False)
        def forward(pixels):
            return self.model(pixels, training=False)

        pixels = tf.TensorSpec(self.model.inputs[0].shape, tf.float32)
        with self.writers[FINAL].as_default():
            tf.summary.graph(forward.get_concrete_function(pixels).graph)
        self.writers[FINAL].flush()

    @_ignore_full_disk
    def step(self, metrics: StepMetrics) -> None:
        scalars = {
            "step/loss": metrics.loss,
            "step/accuracy": metrics.accuracy,
            "step/learning_rate": metrics.learning_rate,
            "step/images_per_second": metrics.images_per_second,
            "step/data_wait_fraction": metrics.wait_fraction,
        }
        self._write(TRAIN, scalars, metrics.step)

    @_ignore_full_disk
    def epoch(self, row: dict[str, Any], evaluation: Evaluation, best: bool) -> None:
        step = row["step"]
        for split, prefix in ((TRAIN, "train"), (VALIDATION, "val")):
            names = ("loss", "accuracy")
            self._write(split, {f"epoch/{n}": row[f"{prefix}_{n}"] for n in names}, step)
        extra = history.COLUMNS[history.COLUMNS.index("learning_rate") :]
        self._write(TRAIN, {f"epoch/{name}": row[name] for name in extra}, step)
        image = tf.io.decode_png(plots.confusion(evaluation.confusion, self.classes), channels=3)
        with self.writers[VALIDATION].as_default():
            tf.summary.image("confusion", image[None], step=step)
        for writer in self.writers.values():
            writer.flush()

    def _write(self, writer: str, scalars: dict[str, float], step: int) -> None:
        with self.writers[writer].as_default():
            for name, value in scalars.items():
                tf.summary.scalar(name, value, step=step)


def _flatten(recipe: Recipe) -> dict[str, Any]:
    """Returns the recipe as one level of numbers and texts, for the hyperparameter page."""
    plain = (bool, int, float, str)
    values = {k: v for k, v in dataclasses.asdict(recipe).items() if isinstance(v, plain)}
    values["data"] = recipe.data.location
    values["augment"] = "|".join(str(call) for call in recipe.augment)
    values["image_size"] = "x".join(str(side) for side in recipe.image_size)
    for phase in recipe.phases:
        for key in ("trainable", "epochs", "optimizer", "learning_rate", "schedule", "batch_norm"):
            values[f"{phase.name}.{key}"] = getattr(phase, key)
    return values
