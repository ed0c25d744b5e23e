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


@pytest.mark.parametrize("kind", ["file", "missing", "folder", "pipe"])
def test_planted_link_is_replaced_and_what_it_leads_to_stays(tmp_path, kind):
    victim, path = tmp_path / "victim", tmp_path / "plot.png"
    plant = {"file": lambda: victim.write_bytes(b"theirs"), "folder": victim.mkdir}
    plant.get(kind, lambda: kind == "pipe" and os.mkfifo(victim))()
    path.symlink_to(victim)
    files.write(path, b"new")
    assert not path.is_symlink()
    assert path.read_bytes() == b"new"
    assert kind != "file" or victim.read_bytes() == b"theirs"
    assert victim.exists() == (kind != "missing")


def test_standard_output_is_written_to(tmp_path, monkeypatch):
    """`--write_manifest=/dev/stdout`: what the shell redirects to is appended to."""
    output = tmp_path / "output"
    with open(output, "w") as file:
        file.write("before,")
        file.flush()
        (tmp_path / "stdout").symlink_to(f"/proc/self/fd/{file.fileno()}")
        monkeypatch.setattr(files.os.path, "realpath", lambda _: "/dev")
        files.write(tmp_path / "stdout", b"new")
    assert output.read_text() == "before,new"


def test_temporary_name_taken_by_a_link_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "urandom", bytes)
    (tmp_path / "victim").write_bytes(b"theirs")
    files.temporary_path(tmp_path / "index").symlink_to("victim")
    with pytest.raises(FileExistsError):
        files.write(tmp_path / "index", b"new")
    assert (tmp_path / "victim").read_bytes() == b"theirs"


def test_concurrent_writers_leave_one_whole_file(tmp_path):
    path = tmp_path / "index"
    with files.open_atomic(path) as first, files.open_atomic(path) as two:
        first.write(b"first")
        two.write(b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["index"]
