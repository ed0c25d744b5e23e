"""The recipe is complete: settings besides it change no bits."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import pytest

from engine.core.recipe import Recipe
from engine.frozen.array_store import CacheBudget
from engine.runs.directory import RunDirectory
from pipelines.loading import batches, prepare
from pipelines.pixel_cache.cache import CacheLocation
from pipelines.sources import sources
from tests.engine.small_runs import same_end, small_recipe, train

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
    budget = CacheBudget(PLENTY)
    return trained(recipe, tmp_path_factory.mktemp("first"), cache, PLENTY, cache_budget=budget)


def trained(recipe: Recipe, place: Path, cache: Path, memory: int, **settings) -> RunDirectory:
    """A run whose images come through the pixel cache, from memory or from the disk."""
    listed, location = sources.load_examples(recipe.data), CacheLocation(cache, memory)
    bad = place / "bad.csv"
    examples, pixels = prepare.prepare_training_data(listed, recipe, bad, 2, print, location)
    pixels.wait()
    assert pixels.in_memory == bool(memory)
    loader = batches.ImageDataLoader(examples, recipe, 2, pixels)
    change = functools.partial(dataclasses.replace, loader=loader)
    return train(recipe, place / "run", change=change, from_files=True, **settings)[0]


@pytest.mark.parametrize(
    ("memory", "steps_per_execution"), [(PLENTY, 3), (0, None)],
    ids=["several steps per execution", "no room for anything, measured steps per execution"],
)  # fmt: skip
def test_same_recipe_gives_same_bits(first, cache, tmp_path, memory, steps_per_execution):
    """With the cache filled, and a new plan, since float32 leaves no choice."""
    settings = {"cache_budget": CacheBudget(memory), "steps_per_execution": steps_per_execution}
    again = trained(first.read_recipe(), tmp_path, cache, memory, **settings)
    assert same_end(again, first)
    assert planned(first) == [(4, 4), (2, 2)]
    assert planned(again) == ([(4, 4), (2, 2)] if memory else [(4, 0), (2, 0)])


def planned(run: RunDirectory) -> list[tuple[int, int]]:
    """Views and slots of each phase."""
    plans = json.loads(run.plan.read_text())["phases"].values()
    return [(plan["cache"]["views"], plan["cache"]["slots"]) for plan in plans]
