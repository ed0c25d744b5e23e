"""TensorBoard: scalars by step and epoch, images, the graph, hyperparameters."""

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
from engine.loggers.base import StepMetrics
from engine.runs import history
from engine.runs.directory import RunDirectory

TRAIN, VALIDATION = "train", "validation"


def _if_it_can(method: Callable[..., None]) -> Callable[..., None]:
    """A full disk costs what would have been shown, and not the run."""

    @functools.wraps(method)
    def attempt(*arguments: Any, **settings: Any) -> None:
        with contextlib.suppress(OSError, tf.errors.OpError):
            method(*arguments, **settings)

    return attempt


def _writer(folder: Path) -> Any:
    """One that writes nothing, where there is no room to begin."""
    try:
        return tf.summary.create_file_writer(str(folder))
    except tf.errors.OpError:
        return tf.summary.create_noop_writer()


class TensorBoardLogger:
    """A watch that writes event files."""

    def __init__(self, run: RunDirectory, classes: tuple[str, ...], model: keras.Model) -> None:
        self.classes, self.model = classes, model
        self.writers = {part: _writer(run.events / part) for part in (TRAIN, VALIDATION)}

    @_if_it_can
    def begin(self, recipe: Recipe, augmented: np.ndarray) -> None:
        """What is known before the first step: augmented images, uint8 [N, H, W, 3]."""
        with self.writers[TRAIN].as_default():
            tf.summary.image("augmented", augmented, step=0, max_outputs=len(augmented))
            hparams.hparams(_flat(recipe))

    @_if_it_can
    def end(self) -> None:
        """The graph, which takes seconds for a deep network, when nobody waits for it."""

        @tf.function(autograph=False)
        def forward(pixels):
            return self.model(pixels, training=False)

        pixels = tf.TensorSpec(self.model.inputs[0].shape, tf.float32)
        with self.writers[TRAIN].as_default():
            tf.summary.graph(forward.get_concrete_function(pixels).graph)
        self.writers[TRAIN].flush()

    def note(self, line: str) -> None:
        """TensorBoard shows no sentences."""

    @_if_it_can
    def step(self, moment: StepMetrics) -> None:
        scalars = {
            "step/loss": moment.loss,
            "step/accuracy": moment.accuracy,
            "step/learning_rate": moment.learning_rate,
            "step/images_per_second": moment.images_per_second,
            "step/data_wait_fraction": moment.wait_fraction,
        }
        self._write(TRAIN, scalars, moment.step)

    @_if_it_can
    def epoch(self, row: dict[str, Any], evaluation: Evaluation, best: bool) -> None:
        step = row["step"]
        for part, prefix in ((TRAIN, "train"), (VALIDATION, "val")):
            names = ("loss", "accuracy")
            self._write(part, {f"epoch/{n}": row[f"{prefix}_{n}"] for n in names}, step)
        extra = history.COLUMNS[history.COLUMNS.index("learning_rate") :]
        self._write(TRAIN, {f"epoch/{name}": row[name] for name in extra}, step)
        image = tf.io.decode_png(plots.confusion(evaluation.confusion, self.classes), channels=3)
        with self.writers[VALIDATION].as_default():
            tf.summary.image("confusion", image[None], step=step)
        for writer in self.writers.values():
            writer.flush()

    def _write(self, part: str, scalars: dict[str, float], step: int) -> None:
        with self.writers[part].as_default():
            for name, value in scalars.items():
                tf.summary.scalar(name, value, step=step)


def _flat(recipe: Recipe) -> dict[str, Any]:
    """The recipe as one level of numbers and texts, as the hyperparameter page wants it."""
    values: dict[str, Any] = {}
    for key, value in dataclasses.asdict(recipe).items():
        if isinstance(value, (bool, int, float, str)):
            values[key] = value
    values["augment"] = "|".join(str(call) for call in recipe.augment)
    values["image_size"] = "x".join(str(side) for side in recipe.image_size)
    for phase in recipe.phases:
        for key in ("trainable", "epochs", "optimizer", "learning_rate", "schedule", "batch_norm"):
            values[f"{phase.name}.{key}"] = getattr(phase, key)
    return values
