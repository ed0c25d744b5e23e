"""Small runs for tests of the loop: what they are made of, who watches them, how they ended."""

from __future__ import annotations

import dataclasses
import functools
import gc
import resource
from collections.abc import Callable

import numpy as np
import pytest

from engine.core.call_syntax import parse_calls
from engine.core.recipe import DataSpec, Recipe, parse_phase
from engine.models import classifier
from engine.runs import checkpoints, history
from engine.runs.directory import RunDirectory, claim_directory
from engine.training import loop
from engine.training.job import TrainJob
from pipelines.augment import augmentations
from pipelines.loading import batches
from pipelines.sources import examples, sources
from tests.engine import tiny

PHASES = (
    "transfer(epochs=2, learning_rate=1e-2)",
    "fine_tune(trainable=middle, epochs=2, optimizer=sgd, momentum=0.9, learning_rate=1e-2)",
)
LONGER = (
    "transfer(epochs=3, learning_rate=1e-2{})",
    "fine_tune(trainable=middle, epochs=3, optimizer=adam, learning_rate=1e-3{})",
)


class Watcher:
    """Records what is logged; may interrupt at a step, act once after steps, and measure memory."""

    measures = False

    def __init__(self, stop_at: int | None = None, actions: dict[int, Callable] | None = None):
        self.stop_at, self.actions = stop_at, dict(actions or {})
        self.notes, self.moments, self.rows, self.memory = [], [], [], []

    def note(self, line):
        self.notes.append(line)

    def step(self, moment):
        self.moments.append(moment)
        self.actions.pop(moment.step, lambda: None)()
        if moment.step == self.stop_at:
            raise InterruptedError

    def end(self, result):
        pass

    def epoch(self, row, evaluation, best):
        self.rows.append(row)
        if self.measures and row["epoch"] % 4 == 0:
            gc.collect()
            self.memory.append(resident_bytes())


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def small_recipe(
    place, phases=PHASES, augment="rotate(10)|flip|brightness(0.1)", **changes
) -> Recipe:
    tiny.register()
    recipe = Recipe(
        data=DataSpec("folders", str(place), validation_fraction=0.25),
        phases=tuple(parse_phase(text) for text in phases),
        backbone=tiny.NAME,
        image_size=(32, 32),
        weights="none",
        augment=parse_calls(augment),
        dropout=0.2,
        batch_size=8,
        precision="float32",  # what is measured to be fastest may differ from run to run
    )
    return dataclasses.replace(recipe, **changes)


class Decoded:
    """All images of a data set, as `pipelines.pixel_cache.cache.PixelCache` gives them."""

    def __init__(self, recipe: Recipe) -> None:
        data = sources.load_examples(recipe.data)
        data = data.replace(splits=np.full(len(data), examples.TRAIN, np.int8))
        read = batches.ImageDataLoader(data, recipe, 2).split_batches("train")
        self.images = np.concatenate([np.array(batch.inputs) for batch in read])

    def take(self, rows) -> np.ndarray:
        return self.images[rows]


@functools.cache
def decoded(location: str) -> Decoded:
    return Decoded(small_recipe(location))


def make_job(recipe, place, watcher, from_files=False, devices=None, **settings) -> TrainJob:
    """Images are taken from memory where not said otherwise: it saves a second each epoch."""
    run = RunDirectory(place)
    claim_directory(run, recipe, overwrite=False)
    pixels = None if from_files else decoded(recipe.data.location)
    loader = batches.ImageDataLoader(sources.load_examples(recipe.data), recipe, 2, pixels)
    network = classifier.build(recipe, len(loader.classes), devices)
    changes = augmentations.compose(recipe.augment)
    settings = {"log_every_steps": 1, "steps_per_execution": 1, **settings}
    return TrainJob(recipe, network, loader, changes, run, watcher, **settings)


def train(recipe, place, watcher=None, change=lambda job: None, **settings):
    """Trains a job of `make_job`, changed first; returns its run directory and result."""
    job = make_job(recipe, place, watcher or Watcher(), **settings)
    job = change(job) or job
    return job.run, loop.train(job).result


def interrupt(recipe, place, step: int, change=lambda job: None, **settings) -> None:
    """Trains up to a step as if killed there; a checkpoint is written after each by default."""
    with pytest.raises(InterruptedError):
        train(recipe, place, Watcher(step), change, **{"checkpoint_minutes": 0, **settings})


def final(run: RunDirectory) -> dict[str, list[np.ndarray]]:
    """Variables of the model and the optimizer at the end, and those of the best model."""
    arrays = checkpoints.load(run)[1]
    return {**arrays, "best": checkpoints.unpack(run.best)[0]["model"]}


def timeless(run: RunDirectory) -> list[list]:
    """History, less the columns that tell times."""
    return [[row[c] for c in history.COLUMNS[:8]] for row in checkpoints.load(run)[0].history]


def same_end(one: RunDirectory, other: RunDirectory) -> bool:
    """Bit for bit."""
    assert timeless(one) == timeless(other)
    mine, others = final(one), final(other)
    assert {"model", "optimizer", "best"} <= mine.keys() == others.keys()
    return all(
        a.tobytes() == b.tobytes()
        for group, arrays in mine.items()
        for a, b in zip(arrays, others[group], strict=True)
    )
