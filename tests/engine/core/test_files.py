import errno
import os

import pytest

from engine.core import files


def test_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    files.write(path, b"old")

    def full(_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_file_system_without_folder_sync_is_no_failure(tmp_path, monkeypatch, number):
    real = os.fsync

    def fsync(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    files.write(tmp_path / "result.json", b"new")
    assert (tmp_path / "result.json").read_bytes() == b"new"


def test_written_csv_quotes_cells(tmp_path):
    files.write_csv(tmp_path / "a.csv", ("a", "b"), [{"a": 1, "b": 'x,"y'}, {"a": 0.5, "b": ""}])
    assert (tmp_path / "a.csv").read_text() == 'a,b\n1,"x,""y"\n0.5,\n'


def test_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    """As `--plot=/dev/null` must not replace the device by a file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write(pipe, b"an image")
    assert (os.read(reader, 100), pipe.is_fifo()) == (b"an image", True)
    os.close(reader)


@pytest.mark.parametrize("before", [b"old", None])
def test_link_stays_a_link_to_the_written_file(tmp_path, before):
    """As `--write_manifest=/dev/stdout`, a link to the file that the shell redirects to."""
    (tmp_path / "there").mkdir()
    if before:
        (tmp_path / "there" / "real").write_bytes(before)
    (tmp_path / "link").symlink_to("there/real")
    files.write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "real").read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["real"]


def test_concurrent_writers_with_unique_names_leave_one_whole_file(tmp_path):
    path = tmp_path / "index"
    with files.open_atomic(path, unique=True) as first, files.open_atomic(path, unique=True) as two:
        first.write(b"first")
        two.write(b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["index"]
