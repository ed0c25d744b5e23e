"""Trains the Keras baselines: `Model.fit` on tf.data, and on the ImageDataGenerator.

Runs as a program, so that its process shares only the network and its weights with this project:

    python -m engine.benchmark.baselines '{"baseline": "fit", "train_dir": …}'

Prints a line before the first read and after each epoch, which `time_to_accuracy` parses.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import Any

READING = "reading images"
EPOCH = "epoch: validation accuracy "


@dataclasses.dataclass(frozen=True)
class Task:
    """A training job: a key of BASELINES, folders of class folders, and a recipe as JSON."""

    baseline: str
    train_dir: str
    validation_dir: str
    recipe: str


def main(text: str) -> None:
    task = Task(**json.loads(text))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    from engine.core.recipe import Recipe, from_json
    from engine.models import classifier, freezing

    recipe = from_json(Recipe, task.recipe)
    keras.utils.set_random_seed(recipe.seed)
    classes = len([entry for entry in os.scandir(task.train_dir) if entry.is_dir()])
    network = classifier.build(recipe, classes)
    training, validation, model = BASELINES[task.baseline](task, recipe, network)
    print(READING, flush=True)
    for phase in recipe.phases:
        opened = freezing.partition_model(network, phase.trainable).open_layers
        for layer in network.model.layers:
            layer.trainable = layer.name in opened
        _compile(model, phase)
        _fit(model, training, validation, phase.epochs)


def _compile(model: Any, phase: Any) -> None:
    import keras

    from engine.optim import optimizers, phase_options

    common = {"learning_rate": phase.learning_rate, "weight_decay": phase.weight_decay}
    optimizer = optimizers.OPTIMIZERS[phase.optimizer](
        common, **phase_options.phase_options(phase).optimizer
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])


def _fit(model: Any, training: Any, validation: Any, epochs: int) -> None:
    import keras

    class Report(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            print(f"{EPOCH}{(logs or {})['val_accuracy']:.6f}", flush=True)

    model.fit(training, validation_data=validation, epochs=epochs, verbose=0, callbacks=[Report()])


def keras_fit(task: Task, recipe: Any, network: Any) -> tuple[Any, Any, Any]:
    """Prepares `image_dataset_from_directory`, with augmentation layers in the model."""
    import keras
    import tensorflow as tf

    from engine.benchmark.keras_comparison import keras_layers

    def read(folder: str, shuffle: bool) -> Any:
        data = keras.utils.image_dataset_from_directory(
            folder,
            image_size=recipe.image_size,
            batch_size=recipe.batch_size,
            shuffle=shuffle,
            seed=recipe.seed,
            verbose=False,
        )
        return data.prefetch(tf.data.AUTOTUNE)

    pixels = keras.Input((*recipe.image_size, 3))
    augmented = pixels
    for layer in keras_layers(recipe.augment):
        augmented = layer(augmented)
    model = keras.Model(pixels, network.model(augmented, training=False))
    return read(task.train_dir, True), read(task.validation_dir, False), model


def image_data_generator(task: Task, recipe: Any, network: Any) -> tuple[Any, Any, Any]:
    """Prepares `ImageDataGenerator`, which augments image by image in NumPy and SciPy."""
    import keras

    from engine.models import keras_internals

    generator = keras_internals.image_data_generator()
    arguments = {
        "rotate": lambda degrees=30: {"rotation_range": degrees},
        "shift": lambda fraction=0.2: {
            "width_shift_range": fraction,
            "height_shift_range": fraction,
        },
        "shear": lambda radians=0.2: {"shear_range": radians * 57.29578},  # in degrees
        "zoom": lambda reach=0.2: {"zoom_range": reach},
        "flip": lambda probability=0.5: {"horizontal_flip": True},
        "vertical_flip": lambda probability=0.5: {"vertical_flip": True},
    }
    settings: dict[str, Any] = {}
    for call in recipe.augment:
        if call.name in arguments:
            settings |= arguments[call.name](*call.args, **call.kwargs)

    def read(folder: str, generator: Any, shuffle: bool) -> Any:
        return generator.flow_from_directory(
            folder,
            target_size=recipe.image_size,
            batch_size=recipe.batch_size,
            class_mode="sparse",
            shuffle=shuffle,
            seed=recipe.seed,
        )

    pixels = keras.Input((*recipe.image_size, 3))
    model = keras.Model(pixels, network.model(pixels, training=False))
    training = read(task.train_dir, generator(**settings), True)
    return training, read(task.validation_dir, generator(), False), model


BASELINES = {"fit": keras_fit, "image_data_generator": image_data_generator}

if __name__ == "__main__":
    main(sys.argv[1])
