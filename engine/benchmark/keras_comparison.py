"""The parts of a run against the same on plain Keras layers, taking turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from engine.benchmark.measure import Bench
from engine.benchmark.timing import Work
from engine.core.call_syntax import Call
from engine.core.dataset import Batch
from engine.core.recipe import Recipe
from engine.optim import losses
from engine.runtime import stateless_random


def forward(bench: Bench, batch: Batch) -> tuple[Work, Work]:
    """The frozen layers of the phase: compiled, and as Keras runs the same layers."""
    model, size = bench.stage.partition.trunk, batch.labels.shape[0]

    @tf.function
    def plain(images: tf.Tensor) -> Any:
        return model(tf.cast(images, tf.float32), training=False)

    ours = Work(lambda: _wait(bench.stage.frozen_forward.plain(batch.inputs)), size)
    return ours, Work(lambda: _wait(plain(batch.inputs)), size)


def augmentation(bench: Bench, batch: Batch) -> tuple[Work, Work] | None:
    """The recipe's augmentation, and Keras' layers for it in a row; None where it has none."""
    layers = keras_layers(bench.job.recipe.augment)
    if not layers:
        return None
    size = batch.labels.shape[0]
    row = keras.Sequential(layers)

    @tf.function
    def plain(images: tf.Tensor) -> tf.Tensor:
        return row(tf.cast(images, tf.float32), training=True)

    numbers = stateless_random.uniform(
        0, stateless_random.AUGMENT, batch.views, batch.examples, bench.job.augment.draws
    )
    ours = Work(lambda: _wait(bench.stage.frozen_forward.augment(batch.inputs, numbers)), size)
    return ours, Work(lambda: _wait(plain(batch.inputs)), size)


def keras_layers(calls: Iterable[Call]) -> list[Any]:
    """Keras' layers for the augmentations that it has."""
    return [KERAS[call.name](*call.args, **call.kwargs) for call in calls if call.name in KERAS]


KERAS: dict[str, Callable[..., Any]] = {
    "rotate": lambda degrees=30: keras.layers.RandomRotation(degrees / 360, "nearest"),
    "shift": lambda share=0.2: keras.layers.RandomTranslation(share, share, "nearest"),
    "shear": lambda radians=0.2: keras.layers.RandomShear(radians, fill_mode="nearest"),
    "zoom": lambda reach=0.2: keras.layers.RandomZoom(
        (-reach, reach), (-reach, reach), fill_mode="nearest"
    ),
    "flip": lambda probability=0.5: keras.layers.RandomFlip("horizontal"),
    "vertical_flip": lambda probability=0.5: keras.layers.RandomFlip("vertical"),
    "brightness": lambda share=0.2: keras.layers.RandomBrightness(share),
    "contrast": lambda reach=0.2: keras.layers.RandomContrast(reach),
}


def update(bench: Bench, batch: Batch) -> tuple[Work, Work]:
    """The step of the phase from what crosses the cut: ours, and a plain one on Keras layers.

    Both train the same variables with frozen statistics, on a batch that lies ready. Ours makes as
    many steps in a call as it does in a run; a plain one makes one.
    """
    boundary = tuple(bench.stage.frozen_forward.plain(batch.inputs))
    step = dataclasses.replace(bench.stage.step, boundary=lambda batch: list(batch.inputs))
    kept = batch._replace(inputs=boundary)
    stacked = tf.nest.map_structure(lambda column: tf.stack([column] * bench.steps), kept)
    theirs = _plain_step(bench, [tf.cast(t, tf.float32) for t in boundary], batch)
    size = batch.labels.shape[0]

    def ours() -> None:
        step(stacked, bench.rates(bench.steps))
        _done(None)

    return Work(ours, bench.steps * size), Work(theirs, size)


def _plain_step(bench: Bench, boundary: list, batch: Batch) -> Callable[[], None]:
    partition, optimizer = bench.stage.partition, bench.stage.optimizer
    variables = partition.variables
    watched = [variable.value for variable in variables]
    tail, head = partition.tail, partition.head

    @tf.function
    def step(tensors: list, labels: tf.Tensor) -> None:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(watched)
            vector = tail(tensors, training=False) if tail else tensors[0]
            loss = tf.reduce_mean(losses.cross_entropy(labels, head(vector)))
        optimizer.apply(tape.gradient(loss, watched), variables)

    return lambda: _done(step(boundary, batch.labels))


def loop(bench: Bench) -> tuple[Work, Work]:
    """The loop as a run has it, fed from what is kept, and its compiled step on ready batches."""
    from engine.benchmark import measure

    return measure.works(bench)["whole"], measure.bare_step(bench)


def _done(_: Any) -> None:
    tf.test.experimental.sync_devices()


def _wait(result: Any) -> None:
    for tensor in tf.nest.flatten(result):
        tf.reshape(tensor, [-1])[:1].numpy()


def same_job(recipe: Recipe) -> str:
    """What the duels are about, in a line."""
    height, width = recipe.image_size
    return f"{recipe.backbone} at {height}x{width}, batch {recipe.batch_size}"
