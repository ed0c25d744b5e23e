"""Where exports are put: what is refused, and that nothing is left where one fails."""

import errno
import json
import os
import subprocess
import sys

import pytest
import tensorflow as tf

from engine.core.errors import UserError
from engine.export import place


def export(out, overwrite=False, text="new"):
    with place.beside(out, overwrite) as folder:
        (folder / "model.onnx").write_text(text)
        (folder / place.CARD).write_text("card")
        (folder / place.PARITY).write_text(json.dumps({"model": "model.onnx"}))


def below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_it_is_there_at_the_end_and_not_before(tmp_path):
    out = tmp_path / "some" / "place"
    with place.beside(out, False) as folder:
        (folder / "1").mkdir()
        (folder / "1" / "model").write_text("whole")
        assert not out.exists()
    assert below(tmp_path) == ["some", "some/place", "some/place/1", "some/place/1/model"]
    umask = os.umask(0)
    os.umask(umask)
    assert out.stat().st_mode & 0o777 == 0o777 & ~umask, "others may serve it"


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    export(tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").read_text() == "new"


@pytest.mark.parametrize("failure", [RuntimeError(), KeyboardInterrupt(), SystemExit(1)])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_failure_leaves_nothing(tmp_path, failure, earlier):
    out = tmp_path / "a" / "b"
    if earlier:
        export(out, text="old")
    before = below(tmp_path)

    def fail():
        with place.beside(out, True) as folder:
            (folder / "half").write_text("x")
            raise failure

    with pytest.raises(type(failure)):
        fail()
    assert below(tmp_path) == before


def test_an_earlier_export_is_replaced_where_that_is_asked_for(tmp_path):
    out = tmp_path / "out"
    export(out, text="old")
    with pytest.raises(UserError, match=r"earlier export; name another --out= or add --overwrite"):
        export(out)
    assert (out / "model.onnx").read_text() == "old"
    export(out, overwrite=True)
    assert (out / "model.onnx").read_text() == "new"
    names = ("MODEL_CARD.md", "model.onnx", "parity.json")
    assert below(tmp_path) == ["out", *(f"out/{name}" for name in names)]


@pytest.mark.parametrize(
    ("parity", "other", "message"),
    [
        (None, "thesis.txt", "is not empty and holds no export"),
        ("no JSON", "thesis.txt", "is not empty and holds no export"),
        ("[1]", "thesis.txt", "is not empty and holds no export"),
        ('{"model": "model.onnx"}', "thesis.txt", r"holds 'thesis\.txt', which is no part of"),
    ],
)
def test_what_somebody_else_keeps_there_stays(tmp_path, parity, other, message):
    out = tmp_path / "out"
    out.mkdir()
    (out / other).write_text("years of work")
    if parity:
        (out / place.PARITY).write_text(parity)
    before = below(tmp_path)
    with pytest.raises(UserError, match=message):
        export(out, overwrite=True)
    assert below(tmp_path) == before


def test_a_file_is_no_place(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="is no folder"):
        export(tmp_path / "out", overwrite=True)
    with pytest.raises(UserError, match=r"can't be written \(Not a directory\)"):
        export(tmp_path / "out" / "below")


def test_what_comes_there_meanwhile_stays(tmp_path):
    out = tmp_path / "out"

    def meanwhile():
        with place.beside(out, False):
            out.mkdir()
            (out / "thesis.txt").write_text("")

    with pytest.raises(UserError, match="holds no export"):
        meanwhile()
    assert below(tmp_path) == ["out", "out/thesis.txt"]


def test_a_link_leads_to_the_place(tmp_path):
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
def test_a_full_disk_is_told_in_one_line(full, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match="No space left on device"), place.beside(out, False):
        raise full
    assert below(tmp_path) == []


def test_errors_of_other_places_are_not_taken_for_this_one(tmp_path):
    with pytest.raises(FileNotFoundError), place.beside(tmp_path / "out", False):
        os.stat("/nowhere/at/all")


def test_the_old_one_comes_back_where_the_new_one_can_not_be_put(tmp_path, monkeypatch):
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
from engine.export import place
with place.beside(Path(sys.argv[1]), True) as folder:
    (folder / "1").mkdir()
    (folder / "1" / "half").write_text("x")
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


def begun(out):
    """A process within its export, and the folder that it builds."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(out)], **pipes)
    number = process.stdout.readline().strip()
    return process, out.with_name(f".{out.name}.{number}.part")


def test_what_a_killed_export_left_goes_with_the_next_and_a_living_one_stays(tmp_path):
    out = tmp_path / "o[u]t"
    (dead, left), (living, built) = begun(out), begun(out)
    try:
        dead.kill()
        dead.wait()
        assert (left / "1" / "half").exists()
        export(out)
        assert sorted(path.name for path in tmp_path.iterdir()) == [built.name, out.name]
        assert (built / "1" / "half").exists()
    finally:
        for process in (dead, living):
            process.kill()
            process.communicate()


def test_a_living_export_stays_whose_number_means_nothing_here(tmp_path):
    """In another container, or on another machine with the same disk."""
    process, built = begun(tmp_path / "out")
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


def test_an_earlier_export_that_was_moved_aside_by_a_killed_one_comes_back(tmp_path):
    out, number = tmp_path / "out", 2**30  # beyond the numbers of processes
    export(out, text="old")
    out.rename(tmp_path / f".out.{number}.old")
    (tmp_path / f".out.{number}.part").mkdir()
    with pytest.raises(UserError, match="earlier export"):
        export(out)
    assert (out / "model.onnx").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_names_that_only_look_like_leftovers_stay(tmp_path):
    number = 2**30
    (tmp_path / f".other.{number}.part").mkdir()
    (tmp_path / ".out.mine.part").mkdir()
    (tmp_path / f".out.{number}.part").write_text("a file")
    (tmp_path / "theirs").mkdir()
    (tmp_path / f".out.{number + 1}.part").symlink_to("theirs")
    before = below(tmp_path)
    export(tmp_path / "out")
    assert [name for name in below(tmp_path) if not name.startswith("out")] == before
