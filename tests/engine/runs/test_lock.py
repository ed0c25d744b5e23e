"""Which process may write to a run's directory, also after it was deleted and recreated."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.core.errors import UserError
from engine.runs.directory import RunDirectory, claim_directory
from engine.runs.lock import RunLock
from tests.engine.small import recipe

ROOT = Path(__file__).resolve().parents[3]
MINE, OTHER = recipe(seed=1), recipe(seed=2)


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return RunDirectory(tmp_path / "runs" / "cats")


HOLD = """
import sys
from pathlib import Path
from engine.runs.lock import RunLock
from engine.runs.directory import RunDirectory
with RunLock(RunDirectory(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(run):
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_process_is_refused(run, holder):
    who = f"{holder.pid} on {platform.node()}"
    expected = f"locked by process {who}; wait for it or name another --run_dir="
    with pytest.raises(UserError, match=expected), RunLock(run):
        pass
    assert run.lock.read_text() == who


def test_lock_of_killed_process_is_free(run, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with RunLock(run):
        assert run.lock.read_text() == f"{os.getpid()} on {platform.node()}"


def test_lock_ends_with_its_block(run):
    with RunLock(run), pytest.raises(UserError, match=f"process {os.getpid()}"), RunLock(run):
        pass
    with RunLock(run):
        pass


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (UserError("--data_dir: no images"), set()),
        (UserError("all are listed in {run}/bad_images.csv"), {"runs", "cats", "lock"}),
        (KeyboardInterrupt(), {"runs", "cats", "lock"}),
    ],
    ids=["refused", "refused with a list", "interrupted"],
)
def test_refused_run_leaves_no_directory(run, tmp_path, error, left):
    if isinstance(error, UserError):
        error = UserError(str(error).format(run=run.path))
    with pytest.raises(type(error)), RunLock(run):
        raise error
    assert {path.name for path in tmp_path.rglob("*")} == left


def test_refusal_leaves_a_run_that_was_there_and_its_neighbours(run):
    claim_directory(run, MINE, overwrite=False)
    other = RunDirectory(run.path.with_name("dogs"))
    for place in (run, other):
        with pytest.raises(UserError), RunLock(place):
            raise UserError("refused")
    assert run.read_recipe() == MINE
    assert not other.path.exists()


def test_unwritable_directory_is_refused(tmp_path):
    """Below a file, since tests may run as root, who can write to every folder."""
    (tmp_path / "file").write_text("")
    below = RunDirectory(tmp_path / "file" / "run")
    message = r"can't be written \(Not a directory\); name another"
    with pytest.raises(UserError, match=message), RunLock(below):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_read_only_directory_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    message = r"can't be written \(Permission denied\)"
    with pytest.raises(UserError, match=message), RunLock(RunDirectory(tmp_path / "run")):
        pass


def gone(run: RunDirectory) -> None:
    """Claimed by this process, and deleted by another."""
    claim_directory(run, MINE, overwrite=False)
    shutil.rmtree(run.path)


def test_recreated_directory_is_locked(run):
    with RunLock(run) as lock:
        gone(run)
        assert not lock.owns_directory()
        assert lock.recreate_directory(MINE)
        assert lock.owns_directory()
        with (
            pytest.raises(UserError, match=f"process {os.getpid()}"),
            RunLock(RunDirectory(run.path)),
        ):
            pass
        assert not lock.recreate_directory(MINE), "once"
    with RunLock(RunDirectory(run.path)):
        pass


def theirs(run: RunDirectory) -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for path in sorted(run.path.rglob("*")) if path.is_file())


def test_directory_taken_by_other_process_is_not_touched(run, request):
    with RunLock(run) as lock:
        gone(run)
        holder = request.getfixturevalue("holder")
        claim_directory(RunDirectory(run.path), MINE, overwrite=False)
        before = theirs(run)
        message = f"locked by process {holder.pid} on .*; wait"
        with pytest.raises(UserError, match=message), lock.record_failure():
            lock.recreate_directory(MINE)
        assert theirs(run) == before


def test_directory_of_other_run_is_not_touched(run):
    with RunLock(run) as lock:
        gone(run)
        with RunLock(RunDirectory(run.path)):
            claim_directory(RunDirectory(run.path), OTHER, overwrite=False)
            (run.checkpoints / "step_000000001_phase_000.npz").write_bytes(b"theirs")
        with pytest.raises(UserError, match="holds a run with another recipe"):
            lock.recreate_directory(MINE)
        assert run.read_recipe() == OTHER


def test_parent_directory_is_not_recreated(run):
    """It may be where a drive is mounted, and the drive may come back."""
    with RunLock(run) as lock:
        gone(run)
        run.path.parent.rmdir()
        with pytest.raises(FileNotFoundError):
            lock.recreate_directory(MINE)
        assert not run.path.parent.exists()


def test_recreate_without_lock_takes_none(run):
    gone(run)
    lock = RunLock(run)
    assert lock.owns_directory()
    assert lock.recreate_directory(MINE)
    assert not run.lock.exists()


def test_planted_lock_is_refused_and_its_target_stays(run, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("theirs")
    run.path.mkdir(parents=True)
    run.lock.symlink_to(victim)
    message = r"can't be written \(lock is a link\); name another --run_dir="
    with pytest.raises(UserError, match=message), RunLock(run):
        pass
    assert victim.read_text() == "theirs"
