"""Pairs of workloads: the stages of a run, and the same on plain Keras layers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from engine.benchmark.phase_benchmark import (
    MIN_CALLS,
    PhaseBenchmark,
    augment_stage,
    fetch,
    run_call,
    tail_step,
    trunk_stage,
    workloads,
)
from engine.benchmark.timing import Workload
from engine.core.call_syntax import Call
from engine.core.dataset import Batch
from engine.optim import losses


def forward(benchmark: PhaseBenchmark, batch: Batch) -> tuple[Workload, Workload]:
    """Returns the frozen layers of the phase as compiled here, and as run by Keras."""
    model, size = benchmark.trainer.partition.trunk, batch.labels.shape[0]

    @tf.function
    def plain(images: tf.Tensor) -> Any:
        return model(tf.cast(images, tf.float32), training=False)

    return trunk_stage(benchmark, batch), Workload(lambda: fetch(plain(batch.inputs)), size)


def augmentation(benchmark: PhaseBenchmark, batch: Batch) -> tuple[Workload, Workload] | None:
    """Returns the recipe's augmentation, and its Keras layers in sequence; None without any."""
    layers = keras_layers(benchmark.job.recipe.augment)
    if not layers:
        return None
    size = batch.labels.shape[0]
    augment = keras.Sequential(layers)

    @tf.function
    def plain(images: tf.Tensor) -> tf.Tensor:
        return augment(tf.cast(images, tf.float32), training=True)

    return augment_stage(benchmark, batch), Workload(lambda: fetch(plain(batch.inputs)), size)


def keras_layers(calls: Iterable[Call]) -> list[Any]:
    """Returns Keras' layers for the augmentations that it supports."""
    return [
        KERAS_LAYERS[call.name](*call.args, **call.kwargs)
        for call in calls
        if call.name in KERAS_LAYERS
    ]


KERAS_LAYERS: dict[str, Callable[..., Any]] = {
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


def update(benchmark: PhaseBenchmark, batch: Batch) -> tuple[Workload, Workload]:
    """Returns the training step above the frozen layers: ours, and a plain one on Keras layers.

    Both train the same variables with frozen statistics, on a prepared batch. A call of ours runs
    as many steps as in a run; a call of the plain one runs one.
    """
    boundary = tuple(benchmark.trainer.frozen_forward.plain(batch.inputs))
    theirs = _plain_step(benchmark, [tf.cast(tensor, tf.float32) for tensor in boundary], batch)
    ours = tail_step(benchmark, batch._replace(inputs=boundary))
    return ours, Workload(theirs, batch.labels.shape[0])


def _plain_step(benchmark: PhaseBenchmark, boundary: list, batch: Batch) -> Callable[[], None]:
    partition, optimizer = benchmark.trainer.partition, benchmark.trainer.optimizer
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

    def run() -> None:
        step(boundary, batch.labels)
        tf.test.experimental.sync_devices()

    return run


def loop(benchmark: PhaseBenchmark) -> tuple[Workload, Workload]:
    """Returns the training loop fed from caches, and its compiled step on prepared batches."""
    batches = list(itertools.islice(benchmark.batches(), MIN_CALLS))
    steps = sum(batch.labels.shape[0] for batch in batches)

    def bare_steps() -> None:
        for batch in batches:
            run_call(benchmark, batch)

    bare = Workload(bare_steps, steps * benchmark.job.recipe.batch_size)
    return workloads(benchmark)["whole"], bare
