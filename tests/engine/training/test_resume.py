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
from tests.engine.small_runs import LONGER, Watcher, make_job, same_end, small_recipe

OTHER_RUNS = {
    "views drawn anew in part, in bfloat16": (
        {"precision": "auto", "phases": [text.format(", views=2, refresh=0.3") for text in LONGER]},
        {"cache_budget": CacheBudget(10**9)},
        2,
    ),
    "mirror images, steps in one call": (
        {"augment": "flip", "phases": [text.format("") for text in LONGER]},
        {"cache_budget": CacheBudget(10**9), "steps_per_execution": 4},
        2,
    ),
    "in microbatches, steps in one call": (
        {"gradient_accumulation_steps": 2},
        {"steps_per_execution": 4},
        0,
    ),
}


@pytest.mark.parametrize("step", [3, 10])
def test_resume_after_kill_ends_with_same_bits(coloured, undisturbed, tmp_path, step):
    recipe = small_recipe(coloured)
    with pytest.raises(InterruptedError):
        loop.train(make_job(recipe, tmp_path / "run", Watcher(stop_at=step), checkpoint_minutes=0))
    again = make_job(recipe, tmp_path / "run", Watcher())
    resumed = loop.train(again).result
    assert same_end(again.run, undisturbed[0].run)
    assert resumed["best"] == undisturbed[2]["best"]


FAULTS = (
    OSError("Input/output error"),
    tf.errors.DataLossError(None, None, "a record's checksum is wrong"),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_resume_after_input_error_ends_with_same_bits(coloured, undisturbed, tmp_path, fault):
    job = make_job(small_recipe(coloured), tmp_path / "run", Watcher(), checkpoint_minutes=0)
    real = job.loader.train_batches

    def train(first, stop, *rest):
        for step, batch in zip(range(first, stop), real(first, stop, *rest), strict=True):
            if step == 13:
                raise fault
            yield batch

    loader = small.replaced(job.loader, train_batches=train)
    with pytest.raises(type(fault)):
        loop.train(dataclasses.replace(job, loader=loader))
    assert checkpoints.load(job.run)[0].step == 13
    loop.train(make_job(small_recipe(coloured), tmp_path / "run", Watcher()))
    assert same_end(job.run, undisturbed[0].run)


@pytest.mark.parametrize("step", [5, pytest.param(7, marks=pytest.mark.slow), 14])
def test_resume_after_shutdown_request_ends_with_same_bits(coloured, undisturbed, tmp_path, step):
    """Within an epoch and at its end; there are 5 steps in each, 10 in a phase."""
    recipe, shutdown = small_recipe(coloured), Shutdown()
    watcher = Watcher(actions={step: lambda: shutdown.request("the test")})
    with pytest.raises(ShutdownRequested, match="the test"):
        loop.train(make_job(recipe, tmp_path / "run", watcher, shutdown=shutdown))
    assert checkpoints.load(RunDirectory(tmp_path / "run"))[0].step == step
    again = make_job(recipe, tmp_path / "run", Watcher())
    loop.train(again)
    assert same_end(again.run, undisturbed[0].run)


def test_shutdown_while_filling_cache_is_saved(coloured, tmp_path):
    recipe = small_recipe(coloured, [text.format(", views=2") for text in LONGER])
    settings = {"cache_budget": CacheBudget(10**9)}
    steady = make_job(recipe, tmp_path / "steady", Watcher(), **settings)
    loop.train(steady)
    stop = Shutdown()
    stop.request("the test")
    with pytest.raises(ShutdownRequested):
        loop.train(make_job(recipe, tmp_path / "run", Watcher(), shutdown=stop, **settings))
    assert checkpoints.load(RunDirectory(tmp_path / "run"))[0].step == 0
    loop.train(make_job(recipe, tmp_path / "run", Watcher(), **settings))
    assert same_end(RunDirectory(tmp_path / "run"), steady.run)


@pytest.fixture
def half_is_faster(monkeypatch):
    """As if bfloat16 had been measured to be the fastest."""

    def trials(programs, make, inputs):
        return [
            precision.PrecisionTrial(program, 1.0 + place, 0)
            for place, program in enumerate(programs)
        ]

    monkeypatch.setattr(precision, "run_trials", trials)
    monkeypatch.setattr(precision, "half_precision_dtypes", lambda: ["bfloat16"])


@pytest.mark.parametrize(
    "what",
    [pytest.param(what, marks=pytest.mark.slow if "mirror" in what else ()) for what in OTHER_RUNS],
)
def test_resume_ends_with_same_bits(coloured, tmp_path, half_is_faster, what):
    """Killed twice, within an epoch and at the end of one, in either phase."""
    changes, settings, kept = OTHER_RUNS[what]
    recipe = small_recipe(coloured, **changes)
    steady = make_job(recipe, tmp_path / "steady", Watcher(), **settings)
    loop.train(steady)
    place = tmp_path / "stopped"
    last = 5 * sum(phase.epochs for phase in recipe.phases)
    for stop in (last // 2 - 1, last - 5):
        with pytest.raises(InterruptedError):
            loop.train(make_job(recipe, place, Watcher(stop), checkpoint_minutes=0, **settings))
    loop.train(make_job(recipe, place, Watcher(), **settings))
    assert same_end(RunDirectory(place), steady.run)
    plans = json.loads(steady.run.plan.read_text())["phases"].values()
    assert [plan["cache"]["slots"] for plan in plans] == [kept, kept]


def test_measured_steps_per_execution_keeps_bits(coloured, undisturbed, tmp_path, monkeypatch):
    """In the first epoch it changes from one step per call to all that are left."""
    monkeypatch.setattr(steps_per_execution, "MIN_CALL_SECONDS", 1e9)
    watcher = Watcher()
    job = make_job(small_recipe(coloured), tmp_path / "run", watcher, steps_per_execution=None)
    loop.train(job)
    assert [moment.step for moment in watcher.moments[:6]] == [1, 2, 3, 4, 5, 10]
    assert same_end(job.run, undisturbed[0].run)


def test_resume_reads_plan_instead_of_measuring(coloured, tmp_path, monkeypatch):
    recipe = small_recipe(coloured, [text.format(", views=2") for text in LONGER], precision="auto")
    settings = {"cache_budget": CacheBudget(10**9), "checkpoint_minutes": 0}
    monkeypatch.setattr(precision, "half_precision_dtypes", lambda: ["bfloat16"])
    with pytest.raises(InterruptedError):
        loop.train(make_job(recipe, tmp_path / "run", Watcher(stop_at=17), **settings))
    plan = RunDirectory(tmp_path / "run").plan.read_text()
    values = json.loads(plan)
    assert set(values["phases"]) == {"transfer", "fine_tune"}
    assert {len(plan["trunk"]) for plan in values["phases"].values()} == {2}, "two precisions"

    def again(*_):
        raise AssertionError("decided anew")

    monkeypatch.setattr(precision, "run_trials", again)
    monkeypatch.setattr(cache_policy, "decide", again)
    loop.train(make_job(recipe, tmp_path / "run", Watcher(), **settings))
    assert RunDirectory(tmp_path / "run").plan.read_text() == plan


class Saves(Watcher):
    """Records after each epoch the steps of the checkpoints written by then."""

    def __init__(self, run: RunDirectory) -> None:
        super().__init__()
        self.run, self.seen = run, []

    def epoch(self, row, evaluation, best):
        files = sorted(self.run.checkpoints.glob("step_*.npz"))
        steps = [int(path.name.split("_")[1]) for path in files]
        self.seen.append((row["step"], steps, self.run.best.exists()))


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
    loop.train(
        make_job(small_recipe(coloured), tmp_path / "run", watcher, checkpoint_minutes=minutes)
    )
    assert watcher.seen[: len(expected)] == expected
    assert len(watcher.seen) == 4
    assert checkpoints.load(watcher.run)[0].step == 20


def test_resume_skips_damaged_checkpoint(coloured, undisturbed, tmp_path):
    recipe = small_recipe(coloured)
    with pytest.raises(InterruptedError):
        loop.train(make_job(recipe, tmp_path / "run", Watcher(stop_at=12), checkpoint_minutes=0))
    run = RunDirectory(tmp_path / "run")
    newest = max(run.checkpoints.glob("step_*.npz"))
    newest.write_bytes(newest.read_bytes()[:-1000])
    loop.train(make_job(recipe, tmp_path / "run", Watcher()))
    assert same_end(run, undisturbed[0].run)


def test_resume_with_best_model_ahead_of_checkpoint_keeps_bits(
    coloured, undisturbed, tmp_path, monkeypatch
):
    """The same epoch is trained again, and is no better than itself."""
    recipe, real = small_recipe(coloured), checkpoints.save

    def save(run, progress, variables):
        if progress.step == 10:
            raise KeyError("killed")
        return real(run, progress, variables)

    monkeypatch.setattr(checkpoint_writer, "MIN_SECONDS", 0)
    monkeypatch.setattr(checkpoint_writer, "MAX_SHARE", 1e9)
    monkeypatch.setattr(checkpoints, "save", save)
    with pytest.raises(KeyError, match="killed"):
        loop.train(make_job(recipe, tmp_path / "run", Watcher()))
    monkeypatch.setattr(checkpoints, "save", real)
    again = make_job(recipe, tmp_path / "run", Watcher())
    resumed = loop.train(again).result
    assert same_end(again.run, undisturbed[0].run)
    assert resumed["best"] == undisturbed[2]["best"]


def test_resume_after_last_step_only_evaluates(coloured, undisturbed, tmp_path):
    """Killed between its last checkpoint and its result, it makes no step after it resumes."""
    recipe = small_recipe(coloured)
    job = make_job(recipe, tmp_path / "run", Watcher())
    loop.train(job)
    job.run.result.unlink()
    watcher = Watcher()
    again = loop.train(make_job(recipe, tmp_path / "run", watcher)).result
    assert again["best"] == undisturbed[2]["best"]
    assert not any("did not move" in note for note in watcher.notes)
    assert watcher.rows == []


def test_resume_with_changed_dataset_is_refused(coloured, tmp_path):
    """As while a drive is missing: every step would read other examples."""
    job = make_job(
        small_recipe(coloured), tmp_path / "run", Watcher(stop_at=8), checkpoint_minutes=0
    )
    with pytest.raises(InterruptedError):
        loop.train(job)
    examples = sources.load_examples(job.recipe.data)
    labels, keys = examples.labels.copy(), examples.keys.copy()
    labels[0] = 1 - labels[0]
    keys[0] = "another.jpg"
    others = {
        "one is missing": examples.without([0]),
        "one is new": examples.replace(keys=keys),
        "one has another label": examples.replace(labels=labels),
    }
    before = job.run.history.read_bytes()
    for change, data in others.items():
        loader = batches.ImageDataLoader(data, job.recipe, 2)
        with pytest.raises(
            UserError, match=r"the dataset changed since this run started: .*; now .*; restore it"
        ):
            loop.train(dataclasses.replace(job, loader=loader))
        assert job.run.history.read_bytes() == before, change
    loop.train(make_job(small_recipe(coloured), tmp_path / "run", Watcher()))
