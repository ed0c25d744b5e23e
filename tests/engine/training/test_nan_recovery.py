"""A non-finite loss: its batch is listed, and the run rolls back with half the rate."""

from __future__ import annotations

import csv
import dataclasses
import errno
import functools
import shutil

import numpy as np
import pytest
import tensorflow as tf

from engine.core import files
from engine.core.errors import UserError
from engine.core.recipe import Phase
from engine.frozen.array_store import CacheBudget
from engine.runs import checkpoints, directory
from engine.runs.directory import RunDirectory, claim_directory
from engine.runs.nan_events import NanEvent, read_nan_events, reduce_rate, write_nan_events
from engine.runtime.shutdown import Shutdown
from engine.training import loop
from engine.training.job import TrainJob
from tests.engine import small
from tests.engine.small_runs import Watcher, interrupt, same_end, small_recipe, train

BAD = 13  # in the first epoch of the second phase; there are 5 steps in an epoch, 10 in a phase
EVENT = NanEvent("fine_tune", BAD, 10)
HALF = (
    "transfer(epochs=2, learning_rate=1e-2)",
    "fine_tune(trainable=middle, epochs=2, optimizer=sgd, momentum=0.9, learning_rate=5e-3)",
)
WAYS = {
    "logged after each step": {},
    "read once an epoch": {"log_every_steps": 1000, "steps_per_execution": 4},
    "from cached features": {"cache_budget": CacheBudget(10**9)},
}


def spoil(job: TrainJob, step: int = BAD, times: int = 1, known=None) -> TrainJob:
    """A weight of that step's batch is NaN, until so many events are known."""
    original, known = job.loader.train_batches, known or (lambda: len(read_nan_events(job.run)))

    def train_batches(first, stop, *rest):
        done = first
        for batch in original(first, stop, *rest):
            weights = np.array(batch.weights)
            index, done = step - done, done + len(weights)
            if 0 <= index < len(weights) and known() < times:
                weights[index, 2] = np.nan
            yield batch._replace(weights=tf.constant(weights))

    loader = small.replaced(job.loader, train_batches=train_batches)
    return dataclasses.replace(job, loader=loader)


@pytest.fixture(scope="module")
def half(coloured, tmp_path_factory) -> RunDirectory:
    """A run that has half the rate in its second phase from the start."""
    return train(small_recipe(coloured, HALF), tmp_path_factory.mktemp("half") / "run")[0]


def loss_line(watcher: Watcher) -> str:
    (line,) = [line for line in watcher.notes if "the loss is" in line]
    return line


@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
def test_nan_loss_rolls_back_with_half_the_rate(coloured, half, tmp_path, settings):
    watcher, jobs = Watcher(), []

    def change(job):
        jobs.append(job)
        return spoil(job)

    run, _ = train(small_recipe(coloured), tmp_path / "run", watcher, change, **settings)
    assert read_nan_events(run) == [EVENT]
    assert loss_line(watcher) == (
        f"phase 'fine_tune', step 14: the loss is nan; its images are listed in "
        f"{run.nan_batch}; rolling back to step 10 with half the learning rate"
    )
    if "cache_budget" not in settings:  # a mirrored image in the cache is rounded differently
        assert same_end(run, half)
    batch = next(iter(jobs[0].loader.train_batches(BAD, BAD + 1)))
    examples = np.array(batch.examples)[0][np.array(batch.weights)[0] > 0]
    rows = list(csv.DictReader(run.nan_batch.open()))
    assert [int(row["example"]) for row in rows] == examples.tolist()
    for row in rows:
        assert row["path"] == jobs[0].loader.example_name(int(row["example"]))
        assert f"/{row['label']}/" in row["path"]
        assert (row["epoch"], row["view"]) == ("2", "2")


def test_roll_back_reads_checkpoint_once_and_frees_it(coloured, tmp_path, monkeypatch):
    read, held, load, train_phases = [], [], checkpoints.load, loop.Trainer.train

    def recorded(trainer):
        held.extend([trainer.arrays, trainer.nan_recovery.initial_weights])
        return train_phases(trainer)

    monkeypatch.setattr(checkpoints, "load", lambda run, log: read.append(run) or load(run))
    monkeypatch.setattr(loop.Trainer, "train", recorded)
    train(small_recipe(coloured), tmp_path / "run", change=spoil)
    assert len(read) == 2, "at the start, and at the roll-back"
    assert held == [{}, {}, {}, {}]


def test_nan_loss_in_first_epoch_restarts_with_half_the_rate(coloured, tmp_path):
    slow, fast = (
        small_recipe(coloured, [f"transfer(epochs=1, learning_rate={rate})"])
        for rate in ("5e-3", "1e-2")
    )
    run, _ = train(fast, tmp_path / "run", change=functools.partial(spoil, step=3))
    assert same_end(run, train(slow, tmp_path / "slow")[0])


def test_resume_after_nan_recovery_keeps_half_the_rate(coloured, half, tmp_path):
    recipe = small_recipe(coloured)
    interrupt(recipe, tmp_path / "run", 16, spoil, checkpoint_minutes=1e9)
    assert same_end(train(recipe, tmp_path / "run", change=spoil)[0], half)


def test_nan_loss_is_detected_before_checkpoint(coloured, tmp_path):
    """Here a checkpoint is due after each step, and logging is not."""
    settings = {"log_every_steps": 1000, "checkpoint_minutes": 0}
    run, _ = train(small_recipe(coloured), tmp_path / "run", change=spoil, **settings)
    assert read_nan_events(run) == [NanEvent("fine_tune", BAD, BAD)]


TRAINED = (HALF[0], HALF[1].replace("epochs=2", "epochs=2, batch_norm=train"))


@pytest.mark.parametrize(
    ("phases", "variable_of"),
    [
        (HALF, lambda classifier: classifier.head.kernel),
        (TRAINED, lambda classifier: classifier.model.get_layer("middle_norm").moving_variance),
    ],
    ids=["a kernel", "a running statistic"],
)
def test_non_finite_variables_are_detected_before_checkpoint(
    coloured, tmp_path, phases, variable_of
):
    """As a last update may leave them, without a loss that shows it."""
    watcher = Watcher()

    def change(job):
        variable = variable_of(job.classifier)
        watcher.actions[BAD] = lambda: variable.assign(variable * np.inf + np.inf)

    recipe = small_recipe(coloured, phases)
    run, _ = train(recipe, tmp_path / "run", watcher, change, checkpoint_minutes=0)
    assert read_nan_events(run) == [NanEvent("fine_tune", BAD - 1, BAD - 1)]
    assert any("step 13: its update left non-finite variables" in n for n in watcher.notes)
    assert all(np.isfinite(array).all() for array in checkpoints.load(run)[1]["model"])


@pytest.mark.parametrize(
    ("settings", "events", "halved"),
    [({}, 3, ", after the rate was halved 3 times"), ({"on_nan": "stop"}, 0, "")],
)
def test_nan_loss_ends_run_after_three_events_or_on_request(
    coloured, tmp_path, settings, events, halved
):
    place = tmp_path / "run"
    message = rf"step 14: the loss is nan; its images.*csv{halved}; lower the phase's learning_rate"
    with pytest.raises(UserError, match=message):
        train(
            *(small_recipe(coloured), place), change=functools.partial(spoil, times=4), **settings
        )
    assert len(read_nan_events(RunDirectory(place))) == events
    assert RunDirectory(place).nan_batch.exists()
    assert checkpoints.load(RunDirectory(place))[0].step == 10


def test_reduce_rate_affects_later_steps_of_phase(tmp_path):
    run, phase = RunDirectory(tmp_path), Phase("b")
    write_nan_events(run, [NanEvent("b", 13, 10), NanEvent("b", 17, 15)])
    events = read_nan_events(run)
    rate = reduce_rate(lambda step: 8.0, events, phase, start=5)
    assert [rate(step) for step in (0, 4, 5, 9, 10, 30)] == [8, 8, 4, 4, 2, 2]
    assert reduce_rate(lambda step: 8.0, events, Phase("a"), start=0)(20) == 8


class Impatient(Shutdown):
    def wait(self, seconds):
        raise AssertionError("the run waits")


def test_nan_recovery_with_full_disk_keeps_event_in_memory(coloured, half, tmp_path, monkeypatch):
    """It is written with the next checkpoint."""
    watcher, place, fsync = Watcher(), tmp_path / "run", directory.os.fsync

    def rolled_back() -> bool:
        return any("half the learning rate" in note for note in watcher.notes)

    def full(handle):
        if any(files.leftovers(place, "nan_*")) and not rolled_back():
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(directory.os, "fsync", full)
    change = functools.partial(spoil, known=rolled_back)
    run, _ = train(small_recipe(coloured), place, watcher, change, shutdown=Impatient())
    assert read_nan_events(run) == [EVENT]
    assert same_end(run, half)
    assert loss_line(watcher).endswith(
        "step 14: the loss is nan; rolling back to step 10 with half the learning rate"
    )


def test_unreadable_image_does_not_hide_nan_loss(coloured, tmp_path):
    """It is found where the batch is read again, to be listed."""

    def change(job):
        job = spoil(job)
        original = job.loader.train_batches

        def train_batches(first, stop, *rest):
            if (first, stop) == (BAD, BAD + 1):
                raise UserError("broken.jpg: not an image")
            return original(first, stop, *rest)

        loader = small.replaced(job.loader, train_batches=train_batches)
        return dataclasses.replace(job, loader=loader)

    with pytest.raises(UserError, match="step 14: the loss is nan; lower the phase's learning_r"):
        train(small_recipe(coloured), tmp_path / "run", change=change, on_nan="stop")


def test_nan_loss_with_deleted_checkpoints_ends_run(coloured, tmp_path):
    """The initial weights of a resumed run are unknown."""
    recipe, place = small_recipe(coloured), tmp_path / "run"
    interrupt(recipe, place, 12)
    watcher = Watcher(actions={BAD - 1: functools.partial(shutil.rmtree, place)})
    message = r"step 14: the loss is nan; .*checkpoints was deleted, so there is nothing to roll"
    with pytest.raises(UserError, match=message):
        train(recipe, place, watcher, spoil)


def test_deleted_directory_keeps_nan_events(coloured, half, tmp_path):
    watcher = Watcher(actions={16: functools.partial(shutil.rmtree, tmp_path / "run")})
    run, _ = train(small_recipe(coloured), tmp_path / "run", watcher, spoil)
    assert read_nan_events(run) == [EVENT]
    assert same_end(run, half)


WORDS = '[{"phase": "a", "step": "x", "since": null}]'  # would end the run much later


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"phase": "a"}]', '"x"', "[" * 10**5, WORDS])
def test_damaged_nan_events_are_refused(tmp_path, text):
    run = RunDirectory(tmp_path)
    run.nan_events.write_text(text)
    with pytest.raises(UserError, match=r"nan_events.json: can't be read .*--overwrite"):
        read_nan_events(run)


@pytest.mark.parametrize(("started", "overwrite"), [(True, True), (False, False)])
def test_new_run_starts_without_nan_events(tmp_path, started, overwrite):
    """The user lowers the rate and starts again, which needs --overwrite after a checkpoint."""
    run, recipe = RunDirectory(tmp_path / "run"), small_recipe(tmp_path)
    claim_directory(run, recipe, overwrite=False)
    write_nan_events(run, [NanEvent("b", 13, 10)])
    run.nan_batch.write_text("path\n")
    if started:
        run.best.touch()
    claim_directory(run, small_recipe(tmp_path, HALF), overwrite)
    assert not run.nan_batch.exists()
    assert read_nan_events(run) == []
