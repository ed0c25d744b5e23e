"""A trained run and decoded images that the tests of commands share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A finished run of `coloured`, which tests only read. notes: what was logged."""

    path: Path
    notes: list[str]
    augmented: Path


@pytest.fixture(scope="session")
def pixel_cache(coloured, tmp_path_factory) -> Path:
    """The decoded images of `coloured`: with them an evaluation takes an eighth of the time."""
    from pipelines.loading import prepare
    from pipelines.pixel_cache.cache import CacheLocation
    from pipelines.sources import sources
    from tests.engine.small_runs import small_recipe

    folder = tmp_path_factory.mktemp("pixel_cache")
    recipe = small_recipe(coloured)
    prepare.prepare_training_data(
        sources.load_examples(recipe.data),
        recipe,
        folder / "bad.csv",
        2,
        print,
        CacheLocation(folder, 0),
    )
    return folder


@pytest.fixture(scope="session")
def trained_run(coloured, pixel_cache, tmp_path_factory) -> TrainedRun:
    from engine.commands.shared_options import CacheOptions
    from engine.commands.train import TrainOptions, train
    from tests.engine.small_runs import Watcher, small_recipe

    folder, watcher = tmp_path_factory.mktemp("trained"), Watcher()
    phases = (
        "transfer(epochs=2, learning_rate=0.1)",
        "fine_tune(trainable=middle, epochs=2, optimizer=sgd, learning_rate=1e-2)",
    )
    options = TrainOptions(
        small_recipe(coloured, phases),
        folder / "run",
        cache=CacheOptions(pixel_cache),
        price_per_hour=0.5,
        show_augmented=folder / "augmented.png",
        command="bin/train --backbone=tiny",
    )
    train(options, watcher)
    return TrainedRun(folder / "run", watcher.notes, folder / "augmented.png")
