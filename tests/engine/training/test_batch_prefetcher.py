"""Batches of a phase: the right ones, and made ready over the ends of epochs."""

import types

import numpy as np
import pytest

from engine.training import batch_prefetcher
from engine.training.batch_prefetcher import BatchPrefetcher
from tests.engine import small

LENGTH = 3  # steps of an epoch: ten examples in fours


class Stage:
    """What a supply asks of a stage. opened: the first step and the end of what was begun."""

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
    """The examples of each step."""
    found: list[list[int]] = []
    while first + len(found) < stop:
        found += np.asarray(supply.next(first + len(found)).examples).tolist()
    return found


@pytest.fixture(scope="module")
def loader():
    return small.InMemoryDataLoader()


@pytest.mark.parametrize("per_call", [1, 2, 7])
@pytest.mark.parametrize("first", [0, 4])
def test_it_gives_what_the_feed_gives(loader, per_call, first):
    supply = BatchPrefetcher(Stage(loader, per_call), LENGTH, 9)
    expected = [np.asarray(one.examples)[0].tolist() for one in loader.train_batches(first, 9)]
    assert taken(supply, first, 9) == expected


def test_the_end_of_an_epoch_is_no_reason_to_begin_anew(loader):
    stage = Stage(loader, 2)
    taken(BatchPrefetcher(stage, LENGTH, 9), 1, 9)
    assert stage.opened == [(1, 9)]


@pytest.mark.parametrize("filled", [None, set(range(10))], ids=["images", "kept"])
def test_of_very_many_steps_some_epochs_are_planned_at_a_time(loader, monkeypatch, filled):
    monkeypatch.setattr(batch_prefetcher, "MAX_STEPS", 4)
    stage = Stage(loader, 2, filled)
    expected = [np.asarray(one.examples)[0].tolist() for one in loader.train_batches(1, 12)]
    assert taken(BatchPrefetcher(stage, LENGTH, 12), 1, 12) == expected
    assert stage.opened == [(1, 6), (6, 12)]


def test_what_is_not_filled_yet_is_not_read(loader):
    filled = {0, 1}
    stage = Stage(loader, 2, filled)
    supply = BatchPrefetcher(stage, LENGTH, 12)
    taken(supply, 0, 6)
    assert stage.opened == [(0, 6)]
    filled |= {2, 3, 4}
    taken(supply, 6, 12)
    assert stage.opened == [(0, 6), (6, 12)]
    assert stage.closed == 1


def test_another_number_of_steps_per_call_holds_from_the_next_call_on(loader):
    stage = Stage(loader, 1)
    supply = BatchPrefetcher(stage, LENGTH, 9)
    assert len(supply.next(0).labels) == 1
    stage.steps_per_execution.steps = 2
    assert len(supply.next(1).labels) == 2
    assert stage.opened == [(0, 9), (1, 9)]
    assert stage.closed == 1


def test_closed_it_stops_what_works_ahead(loader):
    stage = Stage(loader, 1)
    supply = BatchPrefetcher(stage, LENGTH, 9)
    supply.close()
    supply.next(0)
    supply.close()
    assert stage.closed == 1
