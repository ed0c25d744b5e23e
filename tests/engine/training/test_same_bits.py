"""The recipe is complete: settings besides it change no bits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from engine.core.recipe import Recipe
from engine.frozen.array_store import CacheBudget
from engine.runs.directory import RunDirectory
from engine.training import loop
from pipelines.loading import batches, prepare
from pipelines.pixel_cache.cache import CacheLocation
from pipelines.sources import sources
from tests.engine.small_runs import Watcher, make_job, same_end, small_recipe

# The first phase leaves it to the plan through how many views its images are seen.
PHASES = (
    "transfer(epochs=5, learning_rate=1e-2, schedule=cosine, warmup_steps=4, clip_global_norm=1)",
    "fine_tune(trainable=middle, epochs=4, optimizer=adamw, learning_rate=1e-3, views=2, "
    "refresh=0.2, weight_decay=1e-3, schedule=one_cycle)",
)
PLENTY = 10**9


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def first(coloured, cache, tmp_path_factory) -> RunDirectory:
    """A run with an empty cache and space for everything."""
    recipe = small_recipe(
        coloured,
        PHASES,
        class_weights="balanced",
        label_smoothing=0.1,
        gradient_accumulation_steps=2,
        hidden_units=8,
    )
    place = tmp_path_factory.mktemp("first")
    return trained(recipe, place, cache, memory=PLENTY, cache_budget=CacheBudget(PLENTY))


def trained(recipe: Recipe, place: Path, cache: Path, memory: int, **settings) -> RunDirectory:
    """A run whose images come through the pixel cache, from memory or from the disk."""
    listed, at = sources.load_examples(recipe.data), CacheLocation(cache, memory)
    data, pixels = prepare.prepare_training_data(listed, recipe, place / "bad.csv", 2, print, at)
    pixels.wait()
    assert pixels.in_memory == bool(memory)
    job = make_job(recipe, place / "run", Watcher(), from_files=True, **settings)
    loader = batches.ImageDataLoader(data, recipe, 2, pixels)
    loop.train(dataclasses.replace(job, loader=loader))
    return job.run


@pytest.mark.parametrize(
    ("memory", "cache_budget", "steps_per_execution"), [(PLENTY, PLENTY, 3), (0, 0, None)],
    ids=["several steps a call", "no room for anything, measured pace"],
)  # fmt: skip
def test_same_recipe_gives_same_bits(
    first, cache, tmp_path, memory, cache_budget, steps_per_execution
):
    """With the cache filled, and a new plan, since float32 leaves no choice."""
    settings = {
        "cache_budget": CacheBudget(cache_budget),
        "steps_per_execution": steps_per_execution,
    }
    again = trained(first.read_recipe(), tmp_path, cache, memory, **settings)
    assert same_end(again, first)
    assert views(again) == views(first) == [4, 2]
    assert [slots(first), slots(again)] == [[4, 2], [4, 2] if cache_budget else [0, 0]]


def views(run: RunDirectory) -> list[int]:
    plans = json.loads(run.plan.read_text())["phases"].values()
    return [plan["cache"]["views"] for plan in plans]


def slots(run: RunDirectory) -> list[int]:
    plans = json.loads(run.plan.read_text())["phases"].values()
    return [plan["cache"]["slots"] for plan in plans]
