"""Batches of a phase: the right ones, prepared over the ends of epochs."""

import types

import numpy as np
import pytest

from engine.training import batch_prefetcher
from engine.training.batch_prefetcher import BatchPrefetcher
from tests.engine import small

LENGTH = 3  # steps of an epoch: ten examples in fours


class StubTrainer:
    """What a prefetcher needs. opened: first step and end of each request for batches."""

    def __init__(self, loader, per_call: int, filled: set | None = None) -> None:
        self.loader = loader
        self.steps_per_execution = types.SimpleNamespace(steps=per_call)
        is_filled = None if filled is None else filled.__contains__
        self.features = is_filled and types.SimpleNamespace(is_filled=is_filled)
        self.opened: list[tuple[int, int]] = []
        self.closed = 0

    def train_batches(self, first, stop, per_call):
        self.opened.append((first, stop))
        try:
            yield from self.loader.train_batches(first, stop, per_call)
        finally:
            self.closed += 1


def take(prefetcher: BatchPrefetcher, first: int, stop: int) -> list[list[int]]:
    """Returns the examples of each step."""
    examples: list[list[int]] = []
    while first + len(examples) < stop:
        examples += np.asarray(prefetcher.next(first + len(examples)).examples).tolist()
    return examples


def examples_of(loader, first: int, stop: int) -> list[list[int]]:
    return [np.asarray(one.examples)[0].tolist() for one in loader.train_batches(first, stop)]


@pytest.fixture(scope="module")
def loader():
    return small.InMemoryDataLoader()


@pytest.mark.parametrize("per_call", [1, 2, 7])
@pytest.mark.parametrize("first", [0, 4])
def test_prefetcher_yields_batches_of_loader_over_ends_of_epochs(loader, per_call, first):
    trainer = StubTrainer(loader, per_call)
    examples = take(BatchPrefetcher(trainer, LENGTH, 9), first, 9)
    assert examples == examples_of(loader, first, 9)
    assert trainer.opened == [(first, 9)]


@pytest.mark.parametrize("filled", [None, set(range(10))], ids=["images", "cached"])
def test_prefetcher_plans_few_epochs_of_many_steps(loader, monkeypatch, filled):
    monkeypatch.setattr(batch_prefetcher, "MAX_STEPS", 4)
    trainer = StubTrainer(loader, 2, filled)
    examples = take(BatchPrefetcher(trainer, LENGTH, 12), 1, 12)
    assert examples == examples_of(loader, 1, 12)
    assert trainer.opened == [(1, 6), (6, 12)]


def test_prefetcher_stops_before_unfilled_cache(loader):
    filled = {0, 1}
    trainer = StubTrainer(loader, 2, filled)
    prefetcher = BatchPrefetcher(trainer, LENGTH, 12)
    take(prefetcher, 0, 6)
    assert trainer.opened == [(0, 6)]
    filled |= {2, 3, 4}
    take(prefetcher, 6, 12)
    assert trainer.opened == [(0, 6), (6, 12)]
    assert trainer.closed == 1


def test_prefetcher_follows_steps_per_execution(loader):
    trainer = StubTrainer(loader, 1)
    prefetcher = BatchPrefetcher(trainer, LENGTH, 9)
    assert len(prefetcher.next(0).labels) == 1
    trainer.steps_per_execution.steps = 2
    assert len(prefetcher.next(1).labels) == 2
    assert trainer.opened == [(0, 9), (1, 9)]
    assert trainer.closed == 1
    prefetcher.close()
    assert trainer.closed == 2
    prefetcher.close()
