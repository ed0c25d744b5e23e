"""Claiming and overwriting a run's directory; other folders are never touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.core import digests, files
from engine.core.errors import UserError
from engine.core.recipe import to_json
from engine.runs import directory as rundir
from engine.runs.directory import RunDirectory, claim_directory
from engine.runs.lock import RunLock
from tests.engine.small import recipe

MINE, OTHER = recipe(seed=1), recipe(seed=2)
NEW = {"recipe.json", "digests.json", "checkpoints"}


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory(tmp_path / "runs" / "cats")


def content(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def finish(run: RunDirectory) -> None:
    """Writes the files of a finished run."""
    claim_directory(run, MINE, overwrite=False)
    files.write_json(run.result, {"status": "finished"}, digests.write)
    (run.checkpoints / "step_000000001_phase_000.npz").write_bytes(b"old")
    for folder in (*run.event_folders, run.profile):
        folder.mkdir()
    for folder in run.event_folders:
        (folder / "events.out.tfevents.1").write_bytes(b"old")
    run.report.mkdir()
    (run.report / "report.html").write_bytes(b"old")
    for path in (run.plan, run.history, run.plot, run.bad_images, run.best):
        path.write_bytes(b"old")


@pytest.mark.parametrize("overwrite", [False, True])
def test_claim_creates_directory(run, overwrite):
    claim_directory(run, MINE, overwrite)
    assert run.read_recipe() == MINE
    assert content(run.path).keys() == NEW
    assert not run.finished()


def test_claim_resumes_unfinished_run(run):
    claim_directory(run, MINE, overwrite=False, plan=b"decided")
    (run.checkpoints / "step_000000001_phase_000.npz").write_bytes(b"mine")
    files.write_json(run.result, {"status": "failed"}, digests.write)
    before = content(run.path)
    for path in (run.history, run.checkpoints / "step_000000002_phase_000.npz"):
        files.temporary_path(path).write_bytes(b"half, of a killed process")
    claim_directory(run, MINE, overwrite=False, plan=b"otherwise")
    assert content(run.path) == before
    assert run.plan.read_bytes() == b"decided"


def test_claim_replaces_run_without_steps(run):
    claim_directory(run, MINE, overwrite=False)
    files.write_json(run.result, {"status": "failed"}, digests.write)
    claim_directory(run, OTHER, overwrite=False)
    assert run.read_recipe() == OTHER


@pytest.mark.parametrize(
    ("wanted", "reason"), [(MINE, "this run, finished"), (OTHER, "another recipe, in seed;")]
)
def test_claim_refuses_finished_or_other_run(run, wanted, reason):
    finish(run)
    Path(f"{run.path}_2").mkdir()
    before = content(run.path)
    with pytest.raises(UserError) as caught:
        claim_directory(run, wanted, overwrite=False)
    assert reason in str(caught.value)
    assert f"such as {run.path}_3" in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert content(run.path) == before


def test_working_directory_may_be_a_run(run, monkeypatch):
    finish(run)
    monkeypatch.chdir(run.path)
    with pytest.raises(UserError, match="holds this run, finished"):
        claim_directory(RunDirectory(Path(".")), MINE, overwrite=False)


def test_overwrite_deletes_run_files_only(run):
    finish(run)
    (run.path / "notes.txt").write_text("mine")
    files.temporary_path(run.best).write_bytes(b"half")
    claim_directory(run, OTHER, overwrite=True, plan=b"new")
    assert run.read_recipe() == OTHER
    assert run.plan.read_bytes() == b"new"
    assert content(run.path).keys() == {*NEW, "plan.json", "notes.txt"}


def test_kill_during_overwrite_starts_over(run, monkeypatch):
    """A best model without checkpoints would count as one of the new run's."""
    finish(run)
    real = rundir.shutil.rmtree

    def killed(folder):
        real(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(rundir.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        claim_directory(run, MINE, overwrite=True)
    monkeypatch.undo()
    assert not run.started()
    claim_directory(run, MINE, overwrite=False)
    assert content(run.path).keys() == NEW


def test_overwrite_replaces_run_of_other_version(run):
    finish(run)
    digests.write(run.recipe, b'{"backbone": "x", "phases": [], "gone": 1}')
    with pytest.raises(UserError, match=r"recipe.json: no recipe of this version .*'gone'"):
        claim_directory(run, MINE, overwrite=False)
    claim_directory(run, MINE, overwrite=True)
    assert run.read_recipe() == MINE


@pytest.mark.parametrize("damaged", [b"{", to_json(MINE).replace("phases", "phasec").encode()])
def test_damaged_recipe_is_refused_by_name_and_can_be_overwritten(run, damaged):
    finish(run)
    run.recipe.write_bytes(damaged)
    with pytest.raises(UserError, match=r"recipe.json: doesn't match its SHA-256 .* --overwrite"):
        claim_directory(run, MINE, overwrite=False)
    claim_directory(run, MINE, overwrite=True)
    assert run.read_recipe() == MINE


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("file", ["thesis.txt", "history.csv", "lock.txt", "best.npz", None])
def test_other_folder_is_not_touched(run, file, overwrite):
    """Not even by a lock, and not even where its files are named as those of a run."""
    (run.path / "checkpoints").mkdir(parents=True)
    (run.path / "checkpoints" / "step_1.npz").write_bytes(b"theirs")
    (run.path / "lock").write_text("theirs")
    if file:
        (run.path / file).write_text("theirs")
    before = content(run.path)
    with pytest.raises(UserError, match="is not empty and holds no run; name another"):
        claim_directory(run, MINE, overwrite)
    with pytest.raises(UserError, match="is not empty and holds no run"), RunLock(run):
        pass
    assert content(run.path) == before


@pytest.mark.parametrize("text", ["[1]", "{", '{"ingredients": []}', "7", '"backbone phases"'])
def test_folder_with_other_recipe_json_is_refused(run, text):
    run.path.mkdir(parents=True)
    run.recipe.write_text(text)
    with pytest.raises(UserError, match="holds no run"):
        claim_directory(run, MINE, overwrite=True)
    assert run.recipe.read_text() == text


def test_run_killed_at_start_can_be_claimed(run):
    run.checkpoints.mkdir(parents=True)
    files.temporary_path(run.recipe).write_text("{")
    with RunLock(run):
        claim_directory(run, MINE, overwrite=False)
    assert run.read_recipe() == MINE


def test_overwrite_refuses_if_files_stay(run, tmp_path):
    """Checkpoints elsewhere, behind a link: left there, they would be resumed."""
    finish(run)
    elsewhere = tmp_path / "elsewhere"
    run.checkpoints.rename(elsewhere)
    run.checkpoints.symlink_to(elsewhere)
    with pytest.raises(UserError, match="can't be removed"):
        claim_directory(run, OTHER, overwrite=True)
    assert run.read_recipe() == MINE
    assert run.best.read_bytes() == b"old"


def test_read_recipe_without_run_is_refused(run):
    with pytest.raises(UserError, match="holds no run; name a directory that bin/train wrote"):
        run.read_recipe()
    assert run.read_result() == {}


@pytest.mark.parametrize("data", [b'{"status": "fini', b"[1]", b"[" * 10**5, b"\xff\xfe"])
def test_truncated_result_is_empty(run, data):
    run.path.mkdir(parents=True)
    run.result.write_bytes(data)
    assert run.read_result() == {}
    assert not run.finished()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"backbone": "resnet"}, "backbone 'resnet' does not exist"),
        ({"dropout": 10**400}, "allowed: a number"),
        ({"seed": "\x1b[2J\n"}, r"seed='\\x1b\[2J\\n'"),
    ],
)
def test_invalid_recipe_is_refused(run, change, reason):
    run.path.mkdir(parents=True)
    run.recipe.write_text(json.dumps(json.loads(to_json(MINE)) | change))
    with pytest.raises(UserError, match=reason):
        run.read_recipe()


@pytest.mark.parametrize("depth", [700, 850, 930, 960, 990])
def test_deeply_nested_recipe_is_refused(run, depth):
    """Python parses as many as it can, and may then fail to print them."""
    run.path.mkdir(parents=True)
    run.recipe.write_text(to_json(MINE).replace('"auto"', "[" * depth + "]" * depth))
    with pytest.raises(UserError, match="no recipe of this version"):
        run.read_recipe()
