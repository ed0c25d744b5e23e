"""What is kept of a phase: every reason for and against, and what it saves."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from engine.core.errors import UserError
from engine.core.recipe import Phase
from engine.frozen import cache_policy
from engine.frozen.array_store import CacheBudget
from engine.frozen.cache_policy import CacheDecision
from engine.frozen.view_schedule import ViewSchedule
from tests.engine import small

TRAIN, VALIDATION = 1000, 200
ROW = 7 * 7 * 10 * 2 + 5 * 4
PLENTY = CacheBudget(10**9)


def decide(
    budget=PLENTY, outcomes=None, head_only=True, frozen=True, cache="auto", **phase
) -> CacheDecision:
    """By default for a head that trains 10 epochs with a continuous augmentation."""
    counts = {"class_counts": (TRAIN,), "validation_examples": VALIDATION, "test_examples": 0}
    return cache_policy.decide(
        small.recipe(cache=cache),
        Phase("tune", **{"epochs": 10, "trainable": "head" if head_only else "all", **phase}),
        small.replaced(small.InMemoryDataLoader(), **counts),
        frozen=frozen,
        outcomes=outcomes,
        row_bytes=ROW,
        images_per_second=50.0,
        budget=budget,
    )


def decided(budget=PLENTY, **changes) -> tuple:
    decision = decide(budget, **changes)
    return decision.views, decision.slots, decision.validation


def test_head_caches_some_views_of_a_continuous_augmentation():
    assert decided() == (cache_policy.HEAD_VIEWS, cache_policy.HEAD_VIEWS, True)


@pytest.mark.parametrize("head_only", [True, False])
@pytest.mark.parametrize("outcomes", [1, 2, 8])
def test_few_outcomes_are_cached_whole_at_any_depth(outcomes, head_only):
    assert decided(outcomes=outcomes, head_only=head_only) == (None, outcomes, True)


def test_many_outcomes_are_sampled():
    most = cache_policy.MAX_OUTCOMES
    assert decided(outcomes=most, epochs=99) == (None, most, True)
    assert decided(outcomes=most + 1, epochs=99) == (4, 4, True)
    assert decided(outcomes=most + 1, epochs=99, head_only=False) == (None, 0, True)


def test_deeper_phase_caches_sampled_views_only_on_request():
    assert decided(head_only=False) == (None, 0, True)
    assert decided(head_only=False, views=3) == (3, 3, True)
    assert decided(head_only=False, cache="features") == (4, 4, True)


def test_requested_views_are_used_in_turn_even_with_few_outcomes():
    assert decided(outcomes=2, views=5) == (5, 5, True)


@pytest.mark.parametrize("cache", ["none", "pixels"])
def test_cache_setting_without_features_keeps_the_views(cache):
    assert decided(cache=cache, views=3) == (3, 0, False)
    assert decided(cache=cache) == (None, 0, False)


@pytest.mark.parametrize("cache", ["auto", "features"])
def test_nothing_is_cached_where_nothing_is_frozen(cache):
    assert decided(cache=cache, frozen=False, head_only=False, views=3) == (3, 0, False)


@pytest.mark.parametrize(
    ("changes", "kept"),
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
def test_cache_has_to_save_trunk_passes(changes, kept):
    keep = decide(**changes)
    assert bool(keep.slots) == kept
    if not kept:
        assert keep == CacheDecision(
            changes.get("views"), 0, changes["epochs"] > 1, "each epoch has views of its own"
        )
    forced = decide(**changes, cache="features")
    assert forced.slots == (changes.get("views") or changes.get("outcomes") or 4)


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
def test_cache_has_to_fit_with_the_validation_split(memory, slots, validation):
    keep = decide(CacheBudget(memory))
    assert (keep.slots, keep.validation) == (slots, validation)
    if not slots:
        assert keep.reason == "no room for the trunk's outputs"
    assert keep.views == cache_policy.HEAD_VIEWS, "room must not move bits"


def test_only_training_outputs_are_cached_on_disk(tmp_path):
    """The validation part is held in memory."""
    assert decided(CacheBudget(0, tmp_path)) == (4, 4, False)
    keep = decide(CacheBudget(rows(VALIDATION), tmp_path))
    assert (keep.slots, keep.validation) == (4, True)
    assert "4 MB on disk" in keep.reason


def test_validation_is_not_cached_for_one_epoch():
    assert decided(epochs=1) == (None, 0, False)


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
    seen: list[set] = [set() for _ in range(TRAIN)]
    views = ViewSchedule(0, count, refresh)
    for epoch in range(epochs):
        for mine, view in zip(seen, views(np.arange(TRAIN), epoch), strict=True):
            mine.add(int(view))
    passes = sum(map(len, seen)) / TRAIN
    found = re.search(r"runs ([\d.]+) times? instead of (\d+), which saves about (\d+) s", reason)
    assert float(found[1]) == pytest.approx(passes, rel=0.01)
    assert int(found[2]) == epochs
    assert int(found[3]) == pytest.approx(
        (epochs - passes) * TRAIN / 50, abs=1 + 0.01 * epochs * 20
    )
    assert f"for {count} view{'s' * (count > 1)} of each image" in reason
    assert f"{count * TRAIN * ROW / 1e6:.0f} MB in memory" in reason


def test_reason_without_savings_has_none():
    reason = decide(epochs=4, cache="features").reason
    assert "for 4 views of each image" in reason
    assert "instead of" not in reason


def test_reason_says_when_all_outcomes_are_cached():
    assert "for all 2 views of" in decide(outcomes=2).reason
    assert "for all 1 view of" in decide(outcomes=1).reason
    assert "for 2 views of" in decide(outcomes=2, views=2).reason


def test_decision_survives_its_dictionary():
    keep = decide()
    assert CacheDecision(**dataclasses.asdict(keep)) == keep
