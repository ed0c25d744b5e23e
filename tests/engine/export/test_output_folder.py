"""The output folder of an export: what is refused, and that failures leave nothing."""

import errno
import json
import os
import subprocess
import sys

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


def test_output_folder_empty_is_used(tmp_path):
    (tmp_path / "out").mkdir()
    export(tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").read_text() == "new"


@pytest.mark.parametrize("failure", [RuntimeError(), KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize("earlier", [False, True])
def test_output_folder_after_failure_is_unchanged(tmp_path, failure, earlier):
    out = tmp_path / "a" / "b"
    if earlier:
        export(out, text="old")
    before = contents(tmp_path)

    def fail():
        with output_folder.create(out, True) as folder:
            (folder / "half").write_text("x")
            raise failure

    with pytest.raises(type(failure)):
        fail()
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

    def meanwhile():
        with output_folder.create(out, False):
            out.mkdir()
            (out / "thesis.txt").write_text("")

    with pytest.raises(UserError, match="not an export"):
        meanwhile()
    assert contents(tmp_path) == ["out", "out/thesis.txt"]


def test_output_folder_link_is_followed(tmp_path):
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
    with (
        pytest.raises(UserError, match="No space left on device"),
        output_folder.create(out, False),
    ):
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
        if str(source).endswith(".part"):
            raise OSError(errno.EIO, "broken", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(UserError, match="broken"):
        export(out, overwrite=True)
    assert (out / "model.onnx").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED = """
import os, signal, sys
from pathlib import Path
from engine.export import output_folder
with output_folder.create(Path(sys.argv[1]), True) as folder:
    (folder / "1").mkdir()
    (folder / "1" / "half").write_text("x")
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


def start_export(out):
    """Starts a process that is amid an export; returns it and the folder that it builds."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out)], **pipes)
    process_id = process.stdout.readline().strip()
    return process, out.with_name(f".{out.name}.{process_id}.part")


def test_stale_folder_of_killed_export_is_removed(tmp_path):
    out = tmp_path / "o[u]t"
    (killed, stale), (running, built) = start_export(out), start_export(out)
    try:
        killed.kill()
        killed.wait()
        assert (stale / "1" / "half").exists()
        export(out)
        assert sorted(path.name for path in tmp_path.iterdir()) == [built.name, out.name]
        assert (built / "1" / "half").exists()
    finally:
        for process in (killed, running):
            process.kill()
            process.communicate()


def test_stale_folder_locked_elsewhere_stays(tmp_path):
    """Of a process in another container, or on another machine with the same disk."""
    process, built = start_export(tmp_path / "out")
    try:
        foreign = built.with_name(f".out.{2**30}.part")
        built.rename(foreign)
        export(tmp_path / "out")
        assert (foreign / "1" / "half").exists()
    finally:
        process.kill()
        process.communicate()
    export(tmp_path / "out", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_stale_folder_with_replaced_export_is_restored(tmp_path):
    out, process_id = tmp_path / "out", 2**30  # larger than any process id
    export(out, text="old")
    out.rename(tmp_path / f".out.{process_id}.old")
    (tmp_path / f".out.{process_id}.part").mkdir()
    with pytest.raises(UserError, match="earlier export"):
        export(out)
    assert (out / "model.onnx").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_stale_folder_lookalikes_stay(tmp_path):
    process_id = 2**30
    (tmp_path / f".other.{process_id}.part").mkdir()
    (tmp_path / ".out.mine.part").mkdir()
    (tmp_path / f".out.{process_id}.part").write_text("a file")
    (tmp_path / "theirs").mkdir()
    (tmp_path / f".out.{process_id + 1}.part").symlink_to("theirs")
    before = contents(tmp_path)
    export(tmp_path / "out")
    assert [name for name in contents(tmp_path) if not name.startswith("out")] == before
