import os
import threading

import pytest

from engine.core.locks import FileLock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


def test_second_lock_is_refused_until_the_first_is_closed(path):
    with FileLock(path) as second:
        with FileLock(path) as first:
            assert first.acquire()
            assert not second.acquire()
            assert not second.acquire(shared=True)
        assert second.acquire()


def test_shared_locks_exclude_only_an_exclusive_one(path):
    with FileLock(path) as first, FileLock(path) as second:
        assert first.acquire(shared=True)
        assert second.acquire(shared=True)
        assert not second.acquire()


def test_waiting_lock_is_acquired_once_the_holder_closes(path):
    acquired = threading.Event()

    def wait():
        with FileLock(path) as lock:
            lock.acquire(wait=True)
            acquired.set()

    with FileLock(path) as holder:
        holder.acquire()
        thread = threading.Thread(target=wait)
        thread.start()
        assert not acquired.wait(0.05)
    assert acquired.wait(10)
    thread.join()


def test_lock_of_a_removed_or_replaced_file_is_not_current(path):
    with FileLock(path) as lock:
        assert lock.is_current()
        path.unlink()
        assert not lock.is_current()
        path.touch()
        assert not lock.is_current()


@pytest.mark.parametrize(
    ("plant", "problem"),
    [
        (os.symlink, "lock is a link"),
        (os.link, "lock is a link"),
        (lambda _, path: os.mkfifo(path), "lock is not a regular file"),
    ],
)
def test_planted_lock_is_refused_and_what_it_leads_to_stays(path, tmp_path, plant, problem):
    victim = tmp_path / "victim"
    victim.write_text("theirs")
    plant(victim, path)
    with pytest.raises(OSError, match=problem):
        FileLock(path)
    assert victim.read_text() == "theirs"
