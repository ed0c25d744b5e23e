"""The output folder of an export: what is refused, and that failures leave nothing."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import tensorflow as tf

from engine.core.errors import UserError
from engine.export import output_folder


def export(out, overwrite=False, text="new"):
    with output_folder.create(out, overwrite) as folder:
        (folder / "model.onnx").write_text(text)
        (folder / output_folder.CARD).write_text("card")
        (folder / output_folder.PARITY).write_text(json.dumps({"model": "model.onnx"}))


def contents(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_output_folder_appears_at_the_end(tmp_path):
    out = tmp_path / "a" / "b"
    with output_folder.create(out, False) as folder:
        (folder / "1").mkdir()
        (folder / "1" / "model").write_text("whole")
        assert not out.exists()
    assert contents(tmp_path) == ["a", "a/b", "a/b/1", "a/b/1/model"]
    umask = os.umask(0)
    os.umask(umask)
    assert out.stat().st_mode & 0o777 == 0o777 & ~umask, "readable for other users by the umask"


@pytest.mark.parametrize("failure", [RuntimeError(), KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize("earlier", [False, True])
def test_output_folder_after_failure_is_unchanged(tmp_path, failure, earlier):
    out = tmp_path / "a" / "b"
    if earlier:
        export(out, text="old")
    before = contents(tmp_path)
    with pytest.raises(type(failure)), output_folder.create(out, True):
        raise failure
    assert contents(tmp_path) == before


def test_output_folder_with_export_needs_overwrite(tmp_path):
    out = tmp_path / "out"
    export(out, text="old")
    with pytest.raises(UserError, match=r"earlier export; name another --out= or add --overwrite"):
        export(out)
    assert (out / "model.onnx").read_text() == "old"
    export(out, overwrite=True)
    assert (out / "model.onnx").read_text() == "new"
    names = ("MODEL_CARD.md", "model.onnx", "parity.json")
    assert contents(tmp_path) == ["out", *(f"out/{name}" for name in names)]


@pytest.mark.parametrize(
    ("parity", "other", "message"),
    [
        (None, "thesis.txt", "is not empty and not an export"),
        ("no JSON", "thesis.txt", "is not empty and not an export"),
        ("[1]", "thesis.txt", "is not empty and not an export"),
        ('{"model": "model.onnx"}', "thesis.txt", r"holds 'thesis\.txt', which is not part of"),
    ],
)
def test_output_folder_with_foreign_files_is_refused(tmp_path, parity, other, message):
    out = tmp_path / "out"
    out.mkdir()
    (out / other).write_text("years of work")
    if parity:
        (out / output_folder.PARITY).write_text(parity)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=message):
        export(out, overwrite=True)
    assert contents(tmp_path) == before


def test_output_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        export(tmp_path / "out", overwrite=True)
    with pytest.raises(UserError, match=r"can't be written \(Not a directory\)"):
        export(tmp_path / "out" / "below")


def test_output_folder_filled_meanwhile_is_refused(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="not an export"), output_folder.create(out, False):
        (out / "thesis").mkdir(parents=True)
    assert contents(tmp_path) == ["out", "out/thesis"]


def test_output_folder_may_be_empty_or_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    export(tmp_path / "link")
    assert (tmp_path / "real" / "model.onnx").exists()
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize(
    "full",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        tf.errors.ResourceExhaustedError(None, None, "out/1/saved_model; No space left on device"),
    ],
)
def test_output_folder_on_full_disk_is_an_error(full, tmp_path):
    out = tmp_path / "out"
    message = "No space left on device"
    with pytest.raises(UserError, match=message), output_folder.create(out, False):
        raise full
    assert contents(tmp_path) == []


def test_output_folder_passes_on_errors_of_other_paths(tmp_path):
    with pytest.raises(FileNotFoundError), output_folder.create(tmp_path / "out", False):
        os.stat("/nowhere/at/all")


def test_output_folder_after_failed_rename_is_restored(tmp_path, monkeypatch):
    out = tmp_path / "out"
    export(out, text="old")
    rename = os.rename

    def fail(source, target):
        if str(source).endswith("-part"):
            raise OSError(errno.EIO, "broken", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(UserError, match="broken"):
        export(out, overwrite=True)
    assert (out / "model.onnx").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED = """
import sys
from pathlib import Path
from engine.export import output_folder
with output_folder.create(Path(sys.argv[1]), True) as folder:
    (folder / "1").mkdir()
    (folder / "1" / "half").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""


def start_export(out):
    """Starts a process that is amid an export; returns it and the folder that it builds."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out)], **pipes)
    return process, Path(process.stdout.readline().strip())


def test_killed_export_is_cleaned_up_and_a_running_one_left_alone(tmp_path):
    out = tmp_path / "out"
    process, partial = start_export(out)
    try:
        with pytest.raises(UserError, match="another export to it is running; wait for it or name"):
            export(out)
        assert (partial / "1" / "half").exists()
        process.kill()
        process.wait()
        assert (partial / "1" / "half").exists()
        export(out)
    finally:
        process.kill()
        process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_export_moved_aside_by_a_killed_one_is_restored(tmp_path):
    out = tmp_path / "out"
    export(out, text="old")
    out.rename(tmp_path / ".out.export-old")
    with pytest.raises(UserError, match="earlier export"):
        export(out)
    assert (out / "model.onnx").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["lock", "part", "old"])
def test_planted_links_are_not_followed(tmp_path, kind):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("years of work")
    (tmp_path / f".out.export-{kind}").symlink_to("theirs" if kind != "lock" else "new")
    with suppress(UserError):
        export(tmp_path / "out")
    assert contents(tmp_path / "theirs") == ["thesis.txt"]
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "out").is_symlink()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("earlier", [False, True])
def test_folders_of_the_work_names_that_are_no_exports_are_left(tmp_path, overwrite, earlier):
    if earlier:
        export(tmp_path / "out")
    (tmp_path / ".out.export-old").mkdir()
    (tmp_path / ".out.export-old" / "thesis.txt").write_text("years of work")
    with suppress(UserError):
        export(tmp_path / "out", overwrite)
    assert contents(tmp_path / ".out.export-old") == ["thesis.txt"]
    assert (tmp_path / "out" / "model.onnx").exists()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("kind", ["part", "old"])
def test_work_folders_of_other_users_are_left(tmp_path, monkeypatch, kind):
    export(tmp_path / f".out.export-{kind}", text="theirs")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with suppress(UserError):
        export(tmp_path / "out")
    assert (tmp_path / f".out.export-{kind}" / "model.onnx").read_text() == "theirs"
    assert (tmp_path / "out").exists() == (kind == "old")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_export_to_file_system_without_locks(tmp_path, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    export(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
