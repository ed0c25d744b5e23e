"""A full disk and a deleted directory: the run continues in memory and loses nothing."""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from engine.core.errors import UserError
from engine.runs import checkpoints, directory, retrying_writer
from engine.runs.directory import RunDirectory
from engine.runtime.shutdown import Shutdown
from engine.training import checkpoint_writer, loop
from tests.engine.small_runs import Watcher, make_job, same_end, small_recipe

SETTINGS = {"checkpoint_minutes": 0}  # one after each step


class Disk:
    """Full between two steps of a run, or from one on; counts the failed checkpoints."""

    full = False
    failures = 0

    def fails(self) -> None:
        if self.full:
            self.failures += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def watcher(self, full: int, free: int | None = None) -> Watcher:
        def change(value: bool) -> None:
            self.full = value

        actions = {full: lambda: change(True), free: lambda: change(False)}
        return Watcher(actions=actions)


@pytest.fixture
def disk(monkeypatch) -> Disk:
    """Full for all files."""
    disk, real = Disk(), os.fsync
    monkeypatch.setattr(directory.os, "fsync", lambda handle: disk.fails() or real(handle))
    return disk


@pytest.fixture
def nearly(monkeypatch) -> Disk:
    """Full for checkpoints, though not for a row of history."""
    disk, real = Disk(), checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda *values: disk.fails() or real(*values))
    return disk


def of_disk(notes: list[str]) -> list[str]:
    return [note.partition(": ")[2] for note in notes if "written" in note]


TROUBLE = (
    "can't be written (No space left on device); the run continues in memory and retries; "
    "free some space or mount the drive"
)


@pytest.mark.parametrize(("full", "free"), [(2, 18), (9, 11)])
def test_full_disk_does_not_end_run(coloured, undisturbed, tmp_path, disk, monkeypatch, full, free):
    monkeypatch.setattr(retrying_writer, "RETRY_SECONDS", 0)
    watcher = disk.watcher(full, free)
    job = make_job(small_recipe(coloured), tmp_path / "run", watcher, **SETTINGS)
    loop.train(job)
    assert same_end(job.run, undisturbed[0].run)
    assert of_disk(watcher.notes) == [TROUBLE, "can be written again"]
    assert not list(job.run.path.rglob("*.part"))
    assert job.run.plan.exists()


def test_nearly_full_disk_is_logged_once(coloured, tmp_path, nearly, monkeypatch):
    monkeypatch.setattr(retrying_writer, "RETRY_SECONDS", 0)
    watcher = nearly.watcher(2, 18)
    loop.train(make_job(small_recipe(coloured), tmp_path / "run", watcher, **SETTINGS))
    assert of_disk(watcher.notes) == [TROUBLE, "can be written again"]
    assert nearly.failures > 3


def test_failed_write_is_retried_after_delay(coloured, tmp_path, nearly, monkeypatch):
    """Neither after a step nor at the end of an epoch or a phase, but at the end of the run."""
    monkeypatch.setattr(checkpoint_writer, "MIN_SECONDS", 0)
    monkeypatch.setattr(checkpoint_writer, "MAX_SHARE", 1e9)
    watcher = nearly.watcher(2, 20)
    job = make_job(small_recipe(coloured), tmp_path / "run", watcher, checkpoint_minutes=0)
    loop.train(job)
    assert nearly.failures == 1
    assert job.run.finished()


def test_full_disk_at_end_keeps_checkpoint(coloured, tmp_path, disk, monkeypatch):
    monkeypatch.setattr(retrying_writer, "MAX_WAIT_SECONDS", 0)
    recipe = small_recipe(coloured)
    job = make_job(recipe, tmp_path / "run", disk.watcher(7), **SETTINGS)
    with pytest.raises(UserError, match=r"training is finished, and .*No space left.*run the same"):
        loop.train(job)
    assert checkpoints.load(job.run)[0].step == 6
    assert checkpoints.unpack(job.run.best)[1]["epoch"] == 1


def test_run_waits_for_space_at_end(coloured, undisturbed, tmp_path, disk):
    class Patient(Shutdown):
        waited = 0

        def wait(self, seconds):
            self.waited += 1
            disk.full = self.waited < 3

    stop = Patient()
    job = make_job(
        small_recipe(coloured), tmp_path / "run", disk.watcher(16), shutdown=stop, **SETTINGS
    )
    loop.train(job)
    assert stop.waited == 3
    assert same_end(job.run, undisturbed[0].run)
    assert job.run.finished()


def test_shutdown_with_full_disk_says_what_is_lost(coloured, tmp_path, disk):
    shutdown, watcher = Shutdown(), disk.watcher(7)
    watcher.actions[9] = lambda: shutdown.request("SIGTERM")
    settings = {"shutdown": shutdown, **SETTINGS}
    job = make_job(small_recipe(coloured), tmp_path / "run", watcher, **settings)
    with pytest.raises(UserError, match=r"stopped by SIGTERM, and .*No space left.* is lost"):
        loop.train(job)
    assert checkpoints.load(job.run)[0].step == 6


def deleting(run: RunDirectory, step: int) -> Watcher:
    """Deletes the run's directory after a step."""
    return Watcher(actions={step: lambda: shutil.rmtree(run.path)})


@pytest.mark.parametrize("at", [3, 20])
def test_deleted_directory_is_recreated_whole(coloured, undisturbed, tmp_path, at):
    run = RunDirectory(tmp_path / "run")
    watcher = deleting(run, at)
    loop.train(make_job(small_recipe(coloured), run.path, watcher))
    assert same_end(run, undisturbed[0].run)
    assert run.finished()
    assert run.read_recipe() == small_recipe(coloured)
    assert run.plan.exists()
    assert [note for note in watcher.notes if "deleted" in note] == [
        f"{run.path} was deleted; recreating it"
    ]


def test_deleted_directory_of_resumed_run_is_recreated(coloured, undisturbed, tmp_path):
    """Its best model comes from an earlier process."""
    recipe, run = small_recipe(coloured), RunDirectory(tmp_path / "run")
    with pytest.raises(InterruptedError):
        loop.train(make_job(recipe, run.path, Watcher(stop_at=18), **SETTINGS))
    loop.train(make_job(recipe, run.path, deleting(run, 19), **SETTINGS))
    assert same_end(run, undisturbed[0].run)
