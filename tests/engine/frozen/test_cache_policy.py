"""What is cached of a phase: every reason for and against, and what it saves."""

from __future__ import annotations

import re

import numpy as np
import pytest

from engine.core.errors import UserError
from engine.core.recipe import Phase
from engine.frozen import cache_policy
from engine.frozen.array_store import CacheBudget
from engine.frozen.cache_policy import HEAD_VIEWS, MAX_OUTCOMES, CacheDecision
from engine.frozen.view_schedule import ViewSchedule
from tests.engine import small

TRAIN, VALIDATION = 1000, 200
ROW = 7 * 7 * 10 * 2 + 5 * 4
PLENTY = CacheBudget(10**9)


def decide(budget=PLENTY, outcomes=None, frozen=True, cache="auto", **phase) -> CacheDecision:
    """By default for a head that trains 10 epochs with a continuous augmentation."""
    counts = {"class_counts": (TRAIN,), "validation_examples": VALIDATION, "test_examples": 0}
    return cache_policy.decide(
        small.recipe(cache=cache),
        Phase("tune", **{"epochs": 10, **phase}),
        small.replaced(small.InMemoryDataLoader(), **counts),
        frozen=frozen,
        outcomes=outcomes,
        row_bytes=ROW,
        images_per_second=50.0,
        budget=budget,
    )


DEEP = {"trainable": "all"}
UNFROZEN = DEEP | {"frozen": False, "views": 3}


@pytest.mark.parametrize(
    ("options", "views", "slots", "validation"),
    [
        # A head sees a few draws of a continuous augmentation; deeper phases only on request.
        ({}, HEAD_VIEWS, HEAD_VIEWS, True),
        (DEEP, None, 0, True),
        (DEEP | {"views": 3}, 3, 3, True),
        (DEEP | {"cache": "features"}, 4, 4, True),
        # Few outcomes are cached whole at any depth, unless views are requested.
        *[({"outcomes": count}, None, count, True) for count in (1, 2, 8)],
        *[(DEEP | {"outcomes": count}, None, count, True) for count in (1, 2, 8)],
        ({"outcomes": 2, "views": 5}, 5, 5, True),
        # Many outcomes are sampled.
        ({"outcomes": MAX_OUTCOMES, "epochs": 99}, None, MAX_OUTCOMES, True),
        ({"outcomes": MAX_OUTCOMES + 1, "epochs": 99}, 4, 4, True),
        (DEEP | {"outcomes": MAX_OUTCOMES + 1, "epochs": 99}, None, 0, True),
        # Without a cache the views stay.
        *[({"cache": cache, "views": 3}, 3, 0, False) for cache in ("none", "pixels")],
        ({"cache": "none"}, None, 0, False),
        *[(UNFROZEN | {"cache": cache}, 3, 0, False) for cache in ("auto", "features")],
        ({"epochs": 1}, None, 0, False),  # the validation images are seen once
    ],
)  # fmt: skip
def test_decision_follows_phase_augmentation_and_cache_option(options, views, slots, validation):
    decision = decide(**options)
    assert (decision.views, decision.slots, decision.validation) == (views, slots, validation)


@pytest.mark.parametrize(
    ("options", "cached"),
    [
        ({"epochs": 4}, False),  # each epoch's view is new to it
        ({"epochs": 5}, True),
        ({"epochs": 8, "outcomes": 8}, False),
        ({"epochs": 9, "outcomes": 8}, True),
        ({"epochs": 3, "views": 4}, False),
        ({"epochs": 20, "views": 4, "refresh": 0.25}, False),  # every view is new
        ({"epochs": 20, "views": 4, "refresh": 0.2}, True),
        ({"epochs": 1, "outcomes": 1}, False),
        ({"epochs": 2, "outcomes": 1}, True),
        ({"epochs": 20, "outcomes": 2}, True),
    ],
)
def test_cache_has_to_save_trunk_passes(options, cached):
    decision = decide(**options)
    assert bool(decision.slots) == cached
    if not cached:
        assert decision == CacheDecision(
            options.get("views"), 0, options["epochs"] > 1, "each epoch has views of its own"
        )
    forced = decide(**options, cache="features")
    assert forced.slots == (options.get("views") or options.get("outcomes") or 4)


def rows(count: int) -> int:
    return count * ROW


@pytest.mark.parametrize(
    ("memory", "slots", "validation"),
    [
        (rows(4 * TRAIN + VALIDATION), 4, True),
        (rows(4 * TRAIN + VALIDATION) - 1, 0, True),
        (rows(VALIDATION), 0, True),
        (rows(VALIDATION) - 1, 0, False),
        (0, 0, False),
    ],
)
def test_cache_has_to_fit_with_the_validation_split(tmp_path, memory, slots, validation):
    decision = decide(CacheBudget(memory))
    assert (decision.slots, decision.validation) == (slots, validation)
    assert slots or decision.reason == "no room for the trunk's outputs"
    assert decision.views == HEAD_VIEWS, "room must not move bits"
    on_disk = decide(CacheBudget(memory, tmp_path))
    assert (on_disk.slots, on_disk.validation) == (4, validation), "validation is held in memory"
    assert f"4 MB {'in memory' if slots else 'on disk'}" in on_disk.reason


def test_forced_cache_without_room_is_refused():
    with pytest.raises(UserError, match=r"phase 'tune' needs 4 MB.*--cache_memory.*--cache_dir"):
        decide(CacheBudget(rows(4 * TRAIN)), cache="features")
    with pytest.raises(UserError, match="needs 2 MB"):
        decide(CacheBudget(0), cache="features", views=2)


@pytest.mark.parametrize(
    ("count", "refresh", "epochs"),
    [(4, 0.0, 20), (4, 0.1, 30), (1, 0.0, 2), (2, 0.3, 11), (8, 0.05, 9), (3, 0.2, 40)],
)
def test_reason_has_trunk_passes_and_seconds_saved(count, refresh, epochs):
    """Against the views themselves: each that an epoch sees for the first time is a pass."""
    reason = decide(views=count, refresh=refresh, epochs=epochs).reason
    schedule = ViewSchedule(0, count, refresh)
    views = np.stack([schedule(np.arange(TRAIN), epoch) for epoch in range(epochs)])
    passes = sum(len(set(column)) for column in views.T) / TRAIN
    numbers = re.search(r"runs ([\d.]+) times? instead of (\d+), which saves about (\d+) s", reason)
    assert float(numbers[1]) == pytest.approx(passes, rel=0.01)
    assert int(numbers[2]) == epochs
    saved = (epochs - passes) * TRAIN / 50
    assert int(numbers[3]) == pytest.approx(saved, abs=1 + 0.2 * epochs)
    assert f"for {count} view{'s' * (count > 1)} of each image" in reason
    assert f"{count * TRAIN * ROW / 1e6:.0f} MB in memory" in reason


def test_reason_says_when_all_outcomes_are_cached_and_nothing_is_saved():
    reason = decide(epochs=4, cache="features").reason
    assert "for 4 views of each image" in reason
    assert "instead of" not in reason
    assert "for all 2 views of" in decide(outcomes=2).reason
    assert "for all 1 view of" in decide(outcomes=1).reason
    assert "for 2 views of" in decide(outcomes=2, views=2).reason
