"""Runs that are killed and resumed: the same bits, and nothing measured twice."""

from __future__ import annotations

import dataclasses
import json

import pytest
import tensorflow as tf

from engine.core.errors import UserError
from engine.frozen import cache_policy, precision
from engine.frozen.array_store import CacheBudget
from engine.runs import checkpoints
from engine.runs.directory import RunDirectory
from engine.runtime.shutdown import Shutdown, ShutdownRequested
from engine.training import checkpoint_writer, loop, steps_per_execution
from pipelines.loading import batches
from pipelines.sources import sources
from tests.engine import small
from tests.engine.small_runs import (
    LONGER,
    Watcher,
    interrupt,
    make_job,
    same_end,
    small_recipe,
    train,
)

NORMS = "norms(trainable=norms, epochs=3, learning_rate=1e-2, average=ema(0.9))"
SOUP = LONGER[1].format(", average=soup(2), layer_decay=0.5")
OTHER_RUNS = {
    "views refreshed in part, in bfloat16": (
        {"precision": "auto", "phases": [text.format(", views=2, refresh=0.3") for text in LONGER]},
        {"cache_budget": CacheBudget(10**9)},
        2,
    ),
    "mirror images, several steps per execution": (
        {"augment": "flip", "phases": [text.format("") for text in LONGER]},
        {"cache_budget": CacheBudget(10**9), "steps_per_execution": 4},
        2,
    ),
    "norms, averages and a rate for each stage": (
        {"phases": [NORMS, SOUP]},
        {},
        0,
    ),
    "microbatches, several steps per execution": (
        {"gradient_accumulation_steps": 2},
        {"steps_per_execution": 4},
        0,
    ),
}


@pytest.mark.parametrize("step", [3, 10])
def test_resume_after_kill_ends_with_same_bits(coloured, undisturbed, tmp_path, step):
    recipe = small_recipe(coloured)
    interrupt(recipe, tmp_path / "run", step)
    run, resumed = train(recipe, tmp_path / "run")
    assert same_end(run, undisturbed[0].run)
    assert resumed["best"] == undisturbed[2]["best"]


FAULTS = (
    OSError("Input/output error"),
    tf.errors.DataLossError(None, None, "a record's checksum is wrong"),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_resume_after_input_error_ends_with_same_bits(coloured, undisturbed, tmp_path, fault):
    def spoil(job):
        original = job.loader.train_batches

        def train_batches(first, stop, *rest):
            batches = original(first, stop, *rest)
            for step, batch in zip(range(first, stop), batches, strict=True):
                if step == 13:
                    raise fault
                yield batch

        loader = small.replaced(job.loader, train_batches=train_batches)
        return dataclasses.replace(job, loader=loader)

    recipe, place = small_recipe(coloured), tmp_path / "run"
    with pytest.raises(type(fault)):
        train(recipe, place, change=spoil, checkpoint_minutes=0)
    assert checkpoints.load(RunDirectory(place))[0].step == 13
    assert same_end(train(recipe, place)[0], undisturbed[0].run)


@pytest.mark.parametrize("step", [5, pytest.param(7, marks=pytest.mark.slow), 14])
def test_resume_after_shutdown_request_ends_with_same_bits(coloured, undisturbed, tmp_path, step):
    """Within an epoch and at its end; there are 5 steps in each, 10 in a phase."""
    recipe, place, shutdown = small_recipe(coloured), tmp_path / "run", Shutdown()
    watcher = Watcher(actions={step: lambda: shutdown.request("the test")})
    with pytest.raises(ShutdownRequested, match="the test"):
        train(recipe, place, watcher, shutdown=shutdown)
    assert checkpoints.load(RunDirectory(place))[0].step == step
    assert same_end(train(recipe, place)[0], undisturbed[0].run)


def test_shutdown_while_filling_cache_is_saved(coloured, tmp_path):
    recipe = small_recipe(coloured, [text.format(", views=2") for text in LONGER])
    settings = {"cache_budget": CacheBudget(10**9)}
    steady, _ = train(recipe, tmp_path / "steady", **settings)
    shutdown = Shutdown()
    shutdown.request("the test")
    with pytest.raises(ShutdownRequested):
        train(recipe, tmp_path / "run", shutdown=shutdown, **settings)
    assert checkpoints.load(RunDirectory(tmp_path / "run"))[0].step == 0
    assert same_end(train(recipe, tmp_path / "run", **settings)[0], steady)


@pytest.fixture
def half_is_faster(monkeypatch):
    """As if bfloat16 had been measured to be the fastest."""

    def run_trials(modes, compile_mode, inputs, **_):
        return [precision.PrecisionTrial(mode, 1.0 + n, 0) for n, mode in enumerate(modes)]

    monkeypatch.setattr(precision, "run_trials", run_trials)
    monkeypatch.setattr(precision, "half_precision_dtypes", lambda: ["bfloat16"])


@pytest.mark.parametrize(
    "what",
    [pytest.param(what, marks=pytest.mark.slow if "mirror" in what else ()) for what in OTHER_RUNS],
)
def test_resume_of_other_recipes_ends_with_same_bits(coloured, tmp_path, half_is_faster, what):
    """Killed twice, within an epoch and at the end of one, in either phase."""
    changes, settings, slots = OTHER_RUNS[what]
    recipe = small_recipe(coloured, **changes)
    steady, _ = train(recipe, tmp_path / "steady", **settings)
    last = 5 * sum(phase.epochs for phase in recipe.phases)
    for step in (last // 2 - 1, last - 5):
        interrupt(recipe, tmp_path / "stopped", step, **settings)
    assert same_end(train(recipe, tmp_path / "stopped", **settings)[0], steady)
    plans = json.loads(steady.plan.read_text())["phases"].values()
    assert [plan["cache"]["slots"] for plan in plans] == [slots, slots]


def test_measured_steps_per_execution_keeps_bits(coloured, undisturbed, tmp_path, monkeypatch):
    """In the first epoch it changes from one step per call to all that are left."""
    monkeypatch.setattr(steps_per_execution, "MIN_CALL_SECONDS", 1e9)
    watcher = Watcher()
    run, _ = train(small_recipe(coloured), tmp_path / "run", watcher, steps_per_execution=None)
    assert [moment.step for moment in watcher.moments[:6]] == [1, 2, 3, 4, 5, 10]
    assert same_end(run, undisturbed[0].run)


def test_resume_reads_plan_instead_of_measuring(coloured, tmp_path, monkeypatch):
    recipe = small_recipe(coloured, [text.format(", views=2") for text in LONGER], precision="auto")
    settings = {"cache_budget": CacheBudget(10**9)}
    monkeypatch.setattr(precision, "half_precision_dtypes", lambda: ["bfloat16"])
    interrupt(recipe, tmp_path / "run", 17, **settings)
    plan = RunDirectory(tmp_path / "run").plan.read_text()
    phases = json.loads(plan)["phases"]
    assert set(phases) == {"transfer", "fine_tune"}
    assert {len(of_phase["trunk"]) for of_phase in phases.values()} == {2}, "two precisions"

    def unexpected(*_):
        raise AssertionError("decided again")

    monkeypatch.setattr(precision, "run_trials", unexpected)
    monkeypatch.setattr(cache_policy, "decide", unexpected)
    run, _ = train(recipe, tmp_path / "run", **settings)
    assert run.plan.read_text() == plan


class Saves(Watcher):
    """Records after each epoch the steps of the checkpoints written by then."""

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self.run, self.saved = run, []

    def epoch(self, row, evaluation, best):
        files = sorted(self.run.checkpoints.glob("step_*.npz"))
        steps = [int(path.name.split("_")[1]) for path in files]
        self.saved.append((row["step"], steps, self.run.best.exists()))


@pytest.mark.parametrize(
    ("seconds", "share", "minutes", "expected"),
    [
        (1e9, 1e9, 10, [(5, [], False), (10, [], False), (15, [10], True), (20, [10], True)]),
        (0, 1e9, 10, [(5, [], False), (10, [5], True), (15, [5, 10], True), (20, [10, 15], True)]),
        (1e9, 1e9, 0, [(5, [4, 5], False), (10, [9, 10], True), (15, [14, 15], True)]),
        # The first takes no time that is known, the one at the end of a phase is due in any case.
        (0, 1e-9, 10, [(5, [], False), (10, [5], True), (15, [5, 10], True), (20, [5, 10], True)]),
    ],
)
def test_short_epochs_share_a_checkpoint(
    coloured, tmp_path, monkeypatch, seconds, share, minutes, expected
):
    """The best model is written with it; with checkpoint_minutes=0 each step writes one."""
    monkeypatch.setattr(checkpoint_writer, "MIN_SECONDS", seconds)
    monkeypatch.setattr(checkpoint_writer, "MAX_SHARE", share)
    watcher = Saves(RunDirectory(tmp_path / "run"))
    train(small_recipe(coloured), tmp_path / "run", watcher, checkpoint_minutes=minutes)
    assert watcher.saved[: len(expected)] == expected
    assert len(watcher.saved) == 4
    assert checkpoints.load(watcher.run)[0].step == 20


def test_resume_skips_damaged_checkpoint(coloured, undisturbed, tmp_path):
    recipe, run = small_recipe(coloured), RunDirectory(tmp_path / "run")
    interrupt(recipe, run.path, 12)
    newest = max(run.checkpoints.glob("step_*.npz"))
    newest.write_bytes(newest.read_bytes()[:-1000])
    train(recipe, run.path)
    assert same_end(run, undisturbed[0].run)


def test_resume_with_best_model_ahead_of_checkpoint_keeps_bits(
    coloured, undisturbed, tmp_path, monkeypatch
):
    """The same epoch is trained again, and is no better than itself."""
    recipe, original = small_recipe(coloured), checkpoints.save

    def save(run, state, variables):
        if state.step == 10:
            raise KeyError("killed")
        return original(run, state, variables)

    monkeypatch.setattr(checkpoint_writer, "MIN_SECONDS", 0)
    monkeypatch.setattr(checkpoint_writer, "MAX_SHARE", 1e9)
    monkeypatch.setattr(checkpoints, "save", save)
    with pytest.raises(KeyError, match="killed"):
        train(recipe, tmp_path / "run")
    monkeypatch.setattr(checkpoints, "save", original)
    run, resumed = train(recipe, tmp_path / "run")
    assert same_end(run, undisturbed[0].run)
    assert resumed["best"] == undisturbed[2]["best"]


def test_resume_after_last_step_only_evaluates(coloured, undisturbed, tmp_path):
    """Killed between its last checkpoint and its result, it makes no step after it resumes."""
    run, first = train(small_recipe(coloured), tmp_path / "run")
    run.result.unlink()
    watcher = Watcher()
    _, again = train(small_recipe(coloured), tmp_path / "run", watcher)
    assert again["best"] == first["best"] == undisturbed[2]["best"]
    assert not any("did not move" in note for note in watcher.notes)
    assert watcher.rows == []


def test_resume_with_changed_dataset_is_refused(coloured, tmp_path):
    """As while a drive is missing: every step would read other examples."""
    recipe, run = small_recipe(coloured), RunDirectory(tmp_path / "run")
    interrupt(recipe, run.path, 8)
    examples = sources.load_examples(recipe.data)
    labels, keys = examples.labels.copy(), examples.keys.copy()
    labels[0] = 1 - labels[0]
    keys[0] = "another.jpg"
    others = {
        "one is missing": examples.without([0]),
        "one is new": examples.replace(keys=keys),
        "one has another label": examples.replace(labels=labels),
    }
    before = run.history.read_bytes()
    message = r"the dataset changed since this run started: .*; now .*; restore it"
    for change, data in others.items():
        job = make_job(recipe, run.path, Watcher())
        loader = batches.ImageDataLoader(data, recipe, 2)
        with pytest.raises(UserError, match=message):
            loop.train(dataclasses.replace(job, loader=loader))
        assert run.history.read_bytes() == before, change
    train(recipe, run.path)
