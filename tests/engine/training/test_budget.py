"""Phases under a limit of wall time, by a clock that the test sets; and phases that are skipped."""

from __future__ import annotations

import math

import pytest

from engine.core.conversion import parse_json
from engine.frozen.array_store import CacheBudget
from engine.training import loop
from engine.training.budget import TimeBudget
from tests.engine.small_runs import Watcher, interrupt, same_end, small_recipe, train

PHASES = (
    "transfer(epochs=2, learning_rate=1e-2)",
    "fine_tune(trainable=middle, epochs=10, optimizer=sgd, learning_rate=1e-2, schedule=cosine)",
)


@pytest.fixture
def clock(monkeypatch):
    """Sets the seconds of each epoch in turn; nothing else takes time, and evaluation none."""
    seconds, passed = [], []

    def epoch_row(*arguments):
        passed.append(seconds[len(passed)])
        return {**whole(*arguments), "seconds": passed[-1]}

    def start(*values):
        seconds[:], passed[:] = values, []

    whole = loop.epoch_row
    monkeypatch.setattr(loop, "epoch_row", epoch_row)
    monkeypatch.setattr(TimeBudget, "_elapsed", lambda budget: sum(passed))
    monkeypatch.setattr("engine.training.budget.FLOAT32_SLOWDOWN", 0)
    return start


def planned(run) -> tuple[int, ...]:
    return tuple(parse_json(run.plan.read_text())["phases"]["fine_tune"]["epochs"])


@pytest.mark.parametrize(
    ("seconds", "plan"),
    [
        # 70 of 100 s are left, less 10 for the report and a moment for the evaluation: 5 more.
        ([10] * 8, (10, 6, 6, 6, 6, 6, 6)),
        # An epoch that takes longer costs those after it.
        ([10, 10, 10, 10, 30, 10], (10, 6, 6, 3)),
        ([5] * 12, (10,) * 11),  # enough for all
    ],
)
def test_epochs_that_fit_are_trained_and_the_schedule_comes_down(
    coloured, tmp_path, clock, seconds, plan
):
    clock(*seconds)
    run, result = train(small_recipe(coloured, PHASES, budget=100.0), tmp_path)
    assert planned(run) == plan
    rates = [float(line.split(",")[7]) for line in run.history.read_text().splitlines()[3:]]
    assert len(rates) == result["phases"][1]["epochs"] == len(plan) - 1
    for epoch, rate in enumerate(rates):
        last = 5 * (epoch + 1) - 1  # step of five an epoch
        progress = min(1, last / (5 * plan[epoch] - 1))
        assert rate == pytest.approx(1e-2 * (1 + math.cos(math.pi * progress)) / 2, abs=1e-9)
    assert rates[-1] <= 1e-9 or plan[-1] < plan[-2]


@pytest.mark.parametrize(
    ("seconds", "epochs"),
    [([50, 50], [1, 1]), ([100], [1])],
    ids=["half of it for the first phase", "nothing left"],
)
def test_run_that_is_too_slow_still_ends_with_a_model(coloured, tmp_path, clock, seconds, epochs):
    clock(*seconds)
    run, result = train(small_recipe(coloured, PHASES, budget=100.0), tmp_path)
    assert [phase["epochs"] for phase in result["phases"]] == epochs
    assert result["status"] == "finished"
    assert run.best.is_file()


def test_resumed_run_follows_what_was_decided(coloured, tmp_path, clock):
    recipe, times = small_recipe(coloured, PHASES, budget=100.0), [10, 10, 10, 10, 20, 10]
    clock(*times)
    whole, _ = train(recipe, tmp_path / "whole")
    clock(*times)
    interrupt(recipe, tmp_path / "run", step=23)  # in the third epoch of the second phase
    run, _ = train(recipe, tmp_path / "run")
    assert planned(run) == planned(whole)
    assert same_end(run, whole)


@pytest.mark.parametrize(("share", "phases"), [(0.97, ["head"]), (None, ["head", "more"])])
def test_phase_is_skipped_where_the_head_solves_the_task(coloured, tmp_path, share, phases):
    """The colours are told apart without an error."""
    more = "more(trainable=top, epochs=1" + (f", skip_if_solved={share})" if share else ")")
    watcher, recipe = Watcher(), small_recipe(coloured, ["head(optimizer=lbfgs)", more])
    _, result = train(recipe, tmp_path, watcher, cache_budget=CacheBudget(10**6))
    assert [phase["name"] for phase in result["phases"]] == phases
    said = "phase more: skipped, since 100.00% on validation"
    assert sum(note.startswith(said) for note in watcher.notes) == (share is not None)


def test_phase_is_not_skipped_where_naming_one_class_is_as_good(coloured, tmp_path):
    phases = ["head(epochs=1, learning_rate=1e-9)", "more(epochs=1, skip_if_solved=0.1)"]
    _, result = train(small_recipe(coloured, phases), tmp_path)
    assert result["validation"]["accuracy"] < 0.55 + 0.45 * 0.1
    assert len(result["phases"]) == 2
