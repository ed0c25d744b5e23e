"""Small things to test with: a recipe, a network of a few hundred numbers, a batch."""

from __future__ import annotations

import copy

import keras
import numpy as np
import tensorflow as tf

from engine.core.dataset import Batch, DataLoader
from engine.core.recipe import DataSpec, Phase, Recipe
from engine.models.classifier import Classifier
from pipelines.augment import augmentations
from pipelines.loading import shuffle

SIDE, CLASSES = 8, 3
PLAIN = augmentations.compose(())


def recipe(**changes) -> Recipe:
    values = {
        "data": DataSpec("folders", "images"),
        "phases": (Phase("transfer"),),
        "backbone": "mobilenet_v2",
        "image_size": (32, 32),
        "weights": "none",
    }
    return Recipe(**{**values, **changes})


def network(hidden_units: int = 0, seed: int = 0) -> Classifier:
    """Two stages, `low` and `top`, each of a convolution, a normalisation and a ReLU."""
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((SIDE, SIDE, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, -1, name="scale")(pixels)
    stages = {}
    for place, name in enumerate(("low", "top"), 1):
        x = keras.layers.Conv2D(4 * place, 3, name=f"{name}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"{name}_norm")(x)
        stages[name] = x = keras.layers.ReLU(name=name)(x)
    features = vector = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    if hidden_units:
        vector = keras.layers.Dense(hidden_units, "relu", name="hidden")(features)
    head = keras.layers.Dense(CLASSES, name="logits")
    return Classifier(keras.Model(pixels, head(vector)), features, vector, head, stages)


def batch(count: int = 6, seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    return Batch(
        tf.constant(random.integers(0, 256, (count, SIDE, SIDE, 3)), tf.uint8),
        tf.constant(random.integers(0, CLASSES, count), tf.int32),
        tf.ones([count]),
        tf.constant(random.permutation(100)[:count], tf.int32),
        tf.zeros([count], tf.int32),
        tf.zeros([count], tf.int32),
    )


def stacked(*batches: Batch) -> Batch:
    """Batches as the columns [N, B, …] that a step takes."""
    return tf.nest.map_structure(lambda *columns: tf.stack(columns), *batches)


class InMemoryDataLoader(DataLoader):
    """`count` random images in memory, in batches of `size`; the first four are for validation.

    Every epoch has an order of its own.
    """

    def __init__(self, count: int = 10, size: int = 4, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.count, self.size, self.seed = count, size, seed
        self.images = random.integers(0, 256, (count, SIDE, SIDE, 3)).astype(np.uint8)
        self.labels = (random.permutation(count) % CLASSES).astype(np.int32)
        self.classes = tuple("abc")
        self.class_counts = tuple(np.bincount(self.labels, minlength=CLASSES).tolist())
        self.validation_examples, self.test_examples = 4, 0
        self.groups, self.identity = (), {}

    def train_batches(self, first, stop, steps_per_execution=1, views=None, lookup=None):
        count, size = self.count, self.size
        for steps in shuffle.executions(range(first, stop), steps_per_execution, count, size):
            batches = []
            for step in steps:
                epoch, place = divmod(step, -(-count // size))
                where, weights = self._positions(place, count)
                order = np.random.default_rng([self.seed, epoch]).permutation(count)
                numbers = order[where].astype(np.int32)
                drawn = views(numbers, epoch) if views else [epoch] * size
                batches.append(self._batch(numbers, weights, epoch, drawn, lookup))
            yield stacked(*batches)

    def split_batches(self, split, which=None):
        count = {"train": self.count, "validation": 4, "test": 0}[split]
        for step in range(-(-count // self.size)) if which is None else which:
            yield self._batch(*self._positions(step, count), 0, [0] * self.size)

    def _positions(self, step: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        positions = np.arange(step * self.size, (step + 1) * self.size)
        return (positions % count).astype(np.int32), (positions < count).astype(np.float32)

    def _batch(self, numbers, weights, epoch, views, lookup=None) -> Batch:
        views = np.asarray(views, np.int32)
        inputs = lookup(numbers, views) if lookup else self.images[numbers]
        epochs = np.full(self.size, epoch, np.int32)
        columns = Batch(inputs, self.labels[numbers], weights, numbers, epochs, views)
        return tf.nest.map_structure(tf.constant, columns)


def replaced(loader: DataLoader, **attributes) -> DataLoader:
    """The same loader with other attributes or methods, by their names."""
    changed = copy.copy(loader)
    vars(changed).update(attributes)
    return changed


def taken(whole: Batch, which: list[int], **changes) -> Batch:
    """Some examples of a batch, in the order named; `changes` are columns to put in."""
    return Batch(*(tf.gather(column, which) for column in whole))._replace(**changes)


def smooth_images(side: int) -> np.ndarray:
    """Eight that differ: two colours that run into each other; float32 [8, side, side, 3]."""
    random = np.random.default_rng(0)
    ends = random.uniform(0, 255, (2, 8, 1, 1, 3))
    slope = np.linspace(0, 1, side)[None, :, None, None] * np.linspace(0, 1, side)[:, None, None]
    noise = random.uniform(-20, 20, (8, side, side, 3))
    return np.clip(ends[0] + (ends[1] - ends[0]) * slope + noise, 0, 255).astype(np.float32)


def enliven(model: keras.Model) -> None:
    """Normalisations get statistics of `images`, and a scale and an offset that do something.

    Without that the activations of a network with random weights die away, layer by layer. No
    channel's variance is below its layer's mean: so few pixels vary little by chance, and to divide
    by that would blow rounding up. ConvNeXt's blocks begin at a scale of a millionth; they get one
    that counts.
    """
    random = np.random.default_rng(1)
    for layer in model.layers:
        if type(layer).__name__ == "LayerScale":
            layer.gamma.assign(random.uniform(0.2, 0.4, layer.gamma.shape))
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
        for variable in layer.trainable_variables:
            variable.assign(variable.numpy() + random.uniform(-0.2, 0.2, variable.shape))
    model(smooth_images(model.inputs[0].shape[1]), training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        variance = layer.moving_variance.numpy()
        layer.moving_variance.assign(np.maximum(variance, variance.mean()))


def values(variables) -> list[np.ndarray]:
    return [variable.numpy() for variable in variables]
