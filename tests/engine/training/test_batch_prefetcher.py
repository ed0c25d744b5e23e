"""Batches of a phase: the right ones, prepared over the ends of epochs."""

import types

import numpy as np
import pytest

from engine.training import batch_prefetcher
from engine.training.batch_prefetcher import BatchPrefetcher
from tests.engine import small

LENGTH = 3  # steps of an epoch: ten examples in fours


class Stage:
    """What a prefetcher needs. opened: first step and end of each request for batches."""

    def __init__(self, loader, per_call: int, filled: set | None = None) -> None:
        self.loader = loader
        self.steps_per_execution = types.SimpleNamespace(steps=per_call)
        ready = filled.__contains__ if filled is not None else None
        self.features = types.SimpleNamespace(is_filled=ready) if ready else None
        self.opened: list[tuple[int, int]] = []
        self.closed = 0

    def train_batches(self, first, stop, per_call):
        self.opened.append((first, stop))
        try:
            yield from self.loader.train_batches(first, stop, per_call)
        finally:
            self.closed += 1


def taken(supply: BatchPrefetcher, first: int, stop: int) -> list[list[int]]:
    """Returns the examples of each step."""
    found: list[list[int]] = []
    while first + len(found) < stop:
        found += np.asarray(supply.next(first + len(found)).examples).tolist()
    return found


@pytest.fixture(scope="module")
def loader():
    return small.InMemoryDataLoader()


@pytest.mark.parametrize("per_call", [1, 2, 7])
@pytest.mark.parametrize("first", [0, 4])
def test_prefetcher_yields_batches_of_loader(loader, per_call, first):
    supply = BatchPrefetcher(Stage(loader, per_call), LENGTH, 9)
    expected = [np.asarray(one.examples)[0].tolist() for one in loader.train_batches(first, 9)]
    assert taken(supply, first, 9) == expected


def test_prefetcher_continues_over_end_of_epoch(loader):
    stage = Stage(loader, 2)
    taken(BatchPrefetcher(stage, LENGTH, 9), 1, 9)
    assert stage.opened == [(1, 9)]


@pytest.mark.parametrize("filled", [None, set(range(10))], ids=["images", "kept"])
def test_prefetcher_plans_few_epochs_of_many_steps(loader, monkeypatch, filled):
    monkeypatch.setattr(batch_prefetcher, "MAX_STEPS", 4)
    stage = Stage(loader, 2, filled)
    expected = [np.asarray(one.examples)[0].tolist() for one in loader.train_batches(1, 12)]
    assert taken(BatchPrefetcher(stage, LENGTH, 12), 1, 12) == expected
    assert stage.opened == [(1, 6), (6, 12)]


def test_prefetcher_stops_before_unfilled_cache(loader):
    filled = {0, 1}
    stage = Stage(loader, 2, filled)
    supply = BatchPrefetcher(stage, LENGTH, 12)
    taken(supply, 0, 6)
    assert stage.opened == [(0, 6)]
    filled |= {2, 3, 4}
    taken(supply, 6, 12)
    assert stage.opened == [(0, 6), (6, 12)]
    assert stage.closed == 1


def test_prefetcher_follows_steps_per_execution(loader):
    stage = Stage(loader, 1)
    supply = BatchPrefetcher(stage, LENGTH, 9)
    assert len(supply.next(0).labels) == 1
    stage.steps_per_execution.steps = 2
    assert len(supply.next(1).labels) == 2
    assert stage.opened == [(0, 9), (1, 9)]
    assert stage.closed == 1


def test_closed_prefetcher_stops_preparation(loader):
    stage = Stage(loader, 1)
    supply = BatchPrefetcher(stage, LENGTH, 9)
    supply.close()
    supply.next(0)
    supply.close()
    assert stage.closed == 1
