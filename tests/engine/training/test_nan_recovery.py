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

from engine.core.errors import UserError
from engine.core.recipe import Phase
from engine.frozen.array_store import CacheBudget
from engine.runs import checkpoints, directory
from engine.runs.directory import RunDirectory, claim_directory
from engine.runs.nan_events import NanEvent, read_nan_events, reduce_rate, write_nan_events
from engine.runtime.shutdown import Shutdown
from engine.training import loop
from engine.training.state import TrainJob
from tests.engine import small
from tests.engine.small_runs import Watcher, make_job, same_end, small_recipe

BAD = 13  # in the first epoch of the second phase; there are 5 steps in an epoch, 10 in a phase
HALF = (
    "transfer(epochs=2, learning_rate=1e-2)",
    "fine_tune(trainable=middle, epochs=2, optimizer=sgd, momentum=0.9, learning_rate=5e-3)",
)
WAYS = {
    "logged after each step": {},
    "read once an epoch": {"log_every_steps": 1000, "steps_per_execution": 4},
    "from cached features": {"cache_budget": CacheBudget(10**9)},
}


def spoiled(job: TrainJob, step: int = BAD, times: int = 1, known=None) -> TrainJob:
    """A weight of that step's batch is NaN, until so many events are known."""
    real, known = (
        job.loader.train_batches,
        known or (lambda: len(read_nan_events(job.run))),
    )

    def train(first, stop, *rest):
        done = first
        for batch in real(first, stop, *rest):
            weights = np.array(batch.weights)
            place, done = step - done, done + len(weights)
            if 0 <= place < len(weights) and known() < times:
                weights[place, 2] = np.nan
            yield batch._replace(weights=tf.constant(weights))

    return dataclasses.replace(job, loader=small.replaced(job.loader, train_batches=train))


@pytest.fixture(scope="module")
def half(coloured, tmp_path_factory) -> RunDirectory:
    """A run that has half the rate in its second phase from the start."""
    job = make_job(small_recipe(coloured, HALF), tmp_path_factory.mktemp("half") / "run", Watcher())
    loop.train(job)
    return job.run


@pytest.mark.parametrize("settings", WAYS.values(), ids=WAYS)
def test_nan_loss_rolls_back_with_half_the_rate(coloured, half, tmp_path, settings):
    watcher = Watcher()
    job = spoiled(make_job(small_recipe(coloured), tmp_path / "run", watcher, **settings))
    loop.train(job)
    assert read_nan_events(job.run) == [NanEvent("fine_tune", BAD, 10)]
    (line,) = [line for line in watcher.notes if "the loss is" in line]
    assert line == (
        f"phase 'fine_tune', step 14: the loss is nan; its images are listed in "
        f"{job.run.nan_batch}; rolling back to step 10 with half the learning rate"
    )
    if "cache_budget" not in settings:  # a mirrored image in the cache is rounded differently
        assert same_end(job.run, half)
    require_batch_listed(job)


def test_roll_back_reads_checkpoint_once_and_frees_it(coloured, tmp_path, monkeypatch):
    read, held, load, train = [], [], checkpoints.load, loop.Trainer.train

    def noting(trainer):
        held.extend([trainer.arrays, trainer.nan_recovery.initial_weights])
        return train(trainer)

    monkeypatch.setattr(checkpoints, "load", lambda run: read.append(run) or load(run))
    monkeypatch.setattr(loop.Trainer, "train", noting)
    loop.train(spoiled(make_job(small_recipe(coloured), tmp_path / "run", Watcher())))
    assert len(read) == 2, "at the start, and at the roll-back"
    assert held == [{}, {}, {}, {}]


def require_batch_listed(job: TrainJob) -> None:
    batch = next(iter(job.loader.train_batches(BAD, BAD + 1)))
    rows = list(csv.DictReader(job.run.nan_batch.open()))
    real = np.array(batch.weights)[0] > 0
    examples = np.array(batch.examples)[0][real]
    assert [int(row["example"]) for row in rows] == examples.tolist()
    for row in rows:
        assert row["path"] == job.loader.example_name(int(row["example"]))
        assert f"/{row['label']}/" in row["path"]
        assert (row["epoch"], row["view"]) == ("2", "2")


def test_nan_loss_in_first_epoch_restarts_with_half_the_rate(coloured, tmp_path):
    phases = ("transfer(epochs=1, learning_rate={})",)
    slow = make_job(
        small_recipe(coloured, [phases[0].format("5e-3")]), tmp_path / "slow", Watcher()
    )
    loop.train(slow)
    recipe = small_recipe(coloured, [phases[0].format("1e-2")])
    job = spoiled(make_job(recipe, tmp_path / "run", Watcher()), step=3)
    loop.train(job)
    assert same_end(job.run, slow.run)


def test_resume_after_nan_recovery_keeps_half_the_rate(coloured, half, tmp_path):
    recipe, place = small_recipe(coloured), tmp_path / "run"
    with pytest.raises(InterruptedError):
        loop.train(spoiled(make_job(recipe, place, Watcher(16), checkpoint_minutes=1e9)))
    loop.train(spoiled(make_job(recipe, place, Watcher())))
    assert same_end(RunDirectory(place), half)


def rolled_back(watcher: Watcher) -> bool:
    return any("half the learning rate" in note for note in watcher.notes)


def test_nan_loss_is_detected_before_checkpoint(coloured, tmp_path):
    """Here a checkpoint is due after each step, and logging is not."""
    settings = {"log_every_steps": 1000, "checkpoint_minutes": 0}
    job = spoiled(make_job(small_recipe(coloured), tmp_path / "run", Watcher(), **settings))
    loop.train(job)
    assert read_nan_events(job.run) == [NanEvent("fine_tune", BAD, BAD)]


TRAINED = (HALF[0], HALF[1].replace("epochs=2", "epochs=2, batch_norm=train"))


@pytest.mark.parametrize(
    ("phases", "find"),
    [
        (HALF, lambda job: job.head.kernel),
        (TRAINED, lambda job: job.model.get_layer("middle_norm").moving_variance),
    ],
    ids=["a kernel", "a running statistic"],
)
def test_non_finite_variables_are_detected_before_checkpoint(coloured, tmp_path, phases, find):
    def spoil() -> None:
        """As a last update may, without a loss that shows it."""
        variable = find(job.classifier)
        variable.assign(variable * np.inf + np.inf)

    watcher = Watcher(actions={BAD: spoil})
    recipe = small_recipe(coloured, phases)
    job = make_job(recipe, tmp_path / "run", watcher, checkpoint_minutes=0)
    loop.train(job)
    assert read_nan_events(job.run) == [NanEvent("fine_tune", BAD - 1, BAD - 1)]
    assert any("step 13: its update left non-finite variables" in n for n in watcher.notes)
    assert all(np.isfinite(array).all() for array in checkpoints.load(job.run)[1]["model"])


def test_fourth_nan_event_ends_run(coloured, tmp_path):
    watcher = Watcher()
    job = spoiled(make_job(small_recipe(coloured), tmp_path / "run", watcher), times=4)
    with pytest.raises(
        UserError, match=r"the loss is nan; .*, after the rate was halved 3 times; lower"
    ):
        loop.train(job)
    assert len(read_nan_events(job.run)) == 3
    assert checkpoints.load(job.run)[0].step == 10


def test_on_nan_stop_ends_run(coloured, tmp_path):
    job = spoiled(make_job(small_recipe(coloured), tmp_path / "run", Watcher(), on_nan="stop"))
    with pytest.raises(UserError, match=r"step 14: the loss is nan; .*lower the phase's learning"):
        loop.train(job)
    assert job.run.nan_batch.exists()
    assert not job.run.nan_events.exists()


def test_reduce_rate_affects_later_steps_of_phase(tmp_path):
    run, phase = RunDirectory(tmp_path), Phase("b")
    write_nan_events(run, [NanEvent("b", 13, 10), NanEvent("b", 17, 15)])
    known = read_nan_events(run)
    rate = reduce_rate(lambda step: 8.0, known, phase, start=5)
    assert [rate(step) for step in (0, 4, 5, 9, 10, 30)] == [8, 8, 4, 4, 2, 2]
    assert reduce_rate(lambda step: 8.0, known, Phase("a"), start=0)(20) == 8


def test_new_recipe_after_early_nan_events_starts_without_them(coloured, tmp_path):
    """The user lowers the rate and starts again: that is another run."""
    recipe, place = small_recipe(coloured), tmp_path / "run"
    job = spoiled(make_job(recipe, place, Watcher()), step=2, times=4)
    with pytest.raises(UserError, match="halved 3 times"):
        loop.train(job)
    claim_directory(job.run, small_recipe(coloured, HALF), overwrite=False)
    assert read_nan_events(job.run) == []


class Impatient(Shutdown):
    def wait(self, seconds):
        raise AssertionError("the run waits")


def test_nan_recovery_with_full_disk_keeps_event_in_memory(coloured, half, tmp_path, monkeypatch):
    """The event is in memory, and written with the next checkpoint."""
    watcher, place, real = Watcher(), tmp_path / "run", directory.os.fsync
    parts = [place / f"{name}.part" for name in ("nan_batch.csv", "nan_events.json")]

    def fsync(handle):
        if any(part.exists() for part in parts) and not rolled_back(watcher):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(directory.os, "fsync", fsync)
    job = make_job(small_recipe(coloured), place, watcher, shutdown=Impatient())
    loop.train(spoiled(job, known=lambda: rolled_back(watcher)))
    assert read_nan_events(job.run) == [NanEvent("fine_tune", BAD, 10)]
    assert same_end(job.run, half)
    (line,) = [line for line in watcher.notes if "the loss is" in line]
    assert line.endswith(
        "step 14: the loss is nan; rolling back to step 10 with half the learning rate"
    )


def test_unreadable_image_does_not_hide_nan_loss(coloured, tmp_path):
    """It is found where the batch is read again, to be listed."""
    job = spoiled(make_job(small_recipe(coloured), tmp_path / "run", Watcher(), on_nan="stop"))
    real = job.loader.train_batches

    def train(first, stop, *rest):
        if (first, stop) == (BAD, BAD + 1):
            raise UserError("broken.jpg: not an image")
        return real(first, stop, *rest)

    job = dataclasses.replace(job, loader=small.replaced(job.loader, train_batches=train))
    with pytest.raises(
        UserError, match="step 14: the loss is nan; lower the phase's learning_rate"
    ):
        loop.train(job)


def test_nan_loss_with_deleted_checkpoints_ends_run(coloured, tmp_path):
    """The initial weights of a resumed run are unknown."""

    recipe, place = small_recipe(coloured), tmp_path / "run"
    delete = functools.partial(shutil.rmtree, place)
    with pytest.raises(InterruptedError):
        loop.train(make_job(recipe, place, Watcher(stop_at=12), checkpoint_minutes=0))
    message = (
        r"step 14: the loss is nan; .*checkpoints was deleted, so there is nothing to roll back"
    )
    with pytest.raises(UserError, match=message):
        loop.train(spoiled(make_job(recipe, place, Watcher(actions={BAD - 1: delete}))))


def test_deleted_directory_keeps_nan_events(coloured, half, tmp_path):
    delete = functools.partial(shutil.rmtree, tmp_path / "run")
    job = spoiled(make_job(small_recipe(coloured), tmp_path / "run", Watcher(actions={16: delete})))
    loop.train(job)
    assert read_nan_events(job.run) == [NanEvent("fine_tune", BAD, 10)]
    assert same_end(job.run, half)


WORDS = '[{"phase": "a", "step": "x", "since": null}]'  # would end the run much later


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"phase": "a"}]', '"x"', "[" * 10**5, WORDS])
def test_damaged_nan_events_are_refused(tmp_path, text):
    run = RunDirectory(tmp_path)
    run.nan_events.write_text(text)
    with pytest.raises(UserError, match=r"nan_events.json: can't be read .*--overwrite"):
        read_nan_events(run)


def test_overwrite_removes_nan_events(tmp_path):
    run, recipe = RunDirectory(tmp_path / "run"), small_recipe(tmp_path)
    claim_directory(run, recipe, overwrite=False)
    write_nan_events(run, [NanEvent("b", 13, 10)])
    run.nan_batch.write_text("path\n")
    claim_directory(run, recipe, overwrite=True)
    assert not run.nan_batch.exists()
    assert read_nan_events(run) == []
