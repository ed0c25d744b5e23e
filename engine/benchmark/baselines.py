"""Trains the Keras baselines: `Model.fit` on tf.data, and on the ImageDataGenerator.

Runs as a program, so that its process shares only the network and its weights with this project:

    python -m engine.benchmark.baselines fit TRAIN_DIR VALIDATION_DIR RECIPE_JSON

Prints a line before the first read and after each epoch, which `time_to_accuracy` parses.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

READING = "reading images"
EPOCH = "epoch: validation accuracy "
Read = Callable[[str, bool], Any]  # a folder of class folders, and whether it is trained on


def main(baseline: str, train_dir: str, validation_dir: str, recipe_json: str) -> None:
    """Trains a key of BASELINES on folders of class folders."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    from engine.core.recipe import Recipe, from_json
    from engine.models import classifier, freezing

    recipe = from_json(Recipe, recipe_json)
    keras.utils.set_random_seed(recipe.seed)
    classes = len([entry for entry in os.scandir(train_dir) if entry.is_dir()])
    network = classifier.build(recipe, classes)
    read, model = BASELINES[baseline](recipe, network)
    training, validation = read(train_dir, True), read(validation_dir, False)
    report = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda _, logs: print(f"{EPOCH}{logs['val_accuracy']:.6f}", flush=True)
    )
    print(READING, flush=True)
    for phase in recipe.phases:
        opened = freezing.partition_model(network, phase.trainable).open_layers
        for layer in network.model.layers:
            layer.trainable = layer.name in opened
        _compile(model, phase)
        model.fit(
            training,
            validation_data=validation,
            epochs=phase.epochs,
            verbose=0,
            callbacks=[report],
        )


def _compile(model: Any, phase: Any) -> None:
    import keras

    from engine.optim import optimizers, phase_options

    common = {"learning_rate": phase.learning_rate, "weight_decay": phase.weight_decay}
    optimizer = optimizers.OPTIMIZERS[phase.optimizer](
        common, **phase_options.phase_options(phase).optimizer
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])


def keras_fit(recipe: Any, network: Any) -> tuple[Read, Any]:
    """Prepares `image_dataset_from_directory`, with augmentation layers in the model."""
    import keras
    import tensorflow as tf

    from engine.benchmark.keras_comparison import keras_layers

    def read(folder: str, training: bool) -> Any:
        data = keras.utils.image_dataset_from_directory(
            folder,
            image_size=recipe.image_size,
            batch_size=recipe.batch_size,
            shuffle=training,
            seed=recipe.seed,
            verbose=False,
        )
        return data.prefetch(tf.data.AUTOTUNE)

    pixels = keras.Input((*recipe.image_size, 3))
    augmented = pixels
    for layer in keras_layers(recipe.augment):
        augmented = layer(augmented)
    model = keras.Model(pixels, network.model(augmented, training=False))
    return read, model


def image_data_generator(recipe: Any, network: Any) -> tuple[Read, Any]:
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

    def read(folder: str, training: bool) -> Any:
        return generator(**(settings if training else {})).flow_from_directory(
            folder,
            target_size=recipe.image_size,
            batch_size=recipe.batch_size,
            class_mode="sparse",
            shuffle=training,
            seed=recipe.seed,
        )

    pixels = keras.Input((*recipe.image_size, 3))
    return read, keras.Model(pixels, network.model(pixels, training=False))


BASELINES = {"fit": keras_fit, "image_data_generator": image_data_generator}

if __name__ == "__main__":
    main(*sys.argv[1:])
