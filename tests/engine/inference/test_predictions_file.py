"""The file of predictions: interrupted anywhere, it resumes to the same bytes; others stay."""

import dataclasses
import errno
import json
import os
from pathlib import Path

import pytest

from engine.core.errors import UserError
from engine.inference import predictions_file
from engine.inference.predictions import Prediction
from engine.inference.predictions_file import (
    PredictionsFile,
    PredictionsRequest,
    find_interrupted,
)
from engine.inference.predictions_format import FORMATS

PATHS = tuple(f'{n}\n,".jpg' for n in range(11))
REQUEST = PredictionsRequest(
    {"best.npz": "abc"}, ("images",), {"top_k": 1, "precision": "auto"}, PATHS
)
MODE = {"policy": "float32", "xla": False}
UNREADABLE = {0, 4, 5, 10}


def predictions(first: int = 0) -> list[Prediction]:
    """Those from row `first` on."""
    return [
        Prediction(path, problem="empty\nfile")
        if number in UNREADABLE
        else Prediction(path, (("cat", 1 / (number + 1)),), "cat")
        for number, path in list(enumerate(PATHS))[first:]
    ]


def open_file(path: Path, request=REQUEST, resume=False) -> PredictionsFile:
    return PredictionsFile(path, request, resume)


def resume(path: Path) -> PredictionsFile:
    return open_file(path, find_interrupted(path, REQUEST, overwrite=False), resume=True)


def start_or_resume(path: Path, rows: int | None = None) -> PredictionsFile:
    """Writes so many more rows, or all and finishes."""
    interrupted = find_interrupted(path, REQUEST, overwrite=False)
    with open_file(path, interrupted or REQUEST, resume=bool(interrupted)) as file:
        if not interrupted:
            file.begin(MODE)
        missing = predictions(file.counts.rows)
        if rows is not None:
            file.add(missing[:rows])
            return file
        for prediction in missing:
            file.add([prediction])
        file.finish()
    return file


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture(params=FORMATS)
def path(request, tmp_path) -> Path:
    return tmp_path / f"answers{request.param}"


def beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def whole(path: Path) -> bytes:
    form = FORMATS[path.suffix]
    return form.header(1) + form.rows(predictions(), 1)


def test_finished_file_is_complete_with_its_info_beside_it(path):
    file = start_or_resume(path)
    assert set(path.parent.iterdir()) == {path, beside(path, ".json")}
    assert path.read_bytes() == whole(path)
    info = json.loads(beside(path, ".json").read_text())
    assert info["program"] == MODE
    assert (info["images"], info["unreadable"]) == (11, 4)
    expected = tuple((PATHS[n], "empty\nfile") for n in sorted(UNREADABLE))
    assert file.counts.first_unreadable == expected


@pytest.mark.parametrize("rows", [0, 1, 6, 11])
@pytest.mark.parametrize("garbage", [b"", b"\0" * 600, b'"', b'"gone.jpg","","","",""\n'])
def test_interrupted_file_resumes_to_the_same_bytes(path, rows, garbage):
    """Whatever a crash has left behind the rows that were saved."""
    start_or_resume(path, rows)
    with open(beside(path, ".part"), "ab") as part:
        part.write(garbage)
    with resume(path) as file:
        assert file.counts.rows == rows
    file = start_or_resume(path)
    assert path.read_bytes() == whole(path)
    assert (file.counts.rows, file.counts.unreadable) == (11, 4)
    assert len(file.counts.first_unreadable) == 4


@pytest.mark.parametrize("damaged", ["", ".progress"])
def test_damaged_part_or_progress_starts_over(path, damaged):
    start_or_resume(path, 6)
    file = beside(path, f".part{damaged}")
    file.write_bytes(file.read_bytes()[:-2])
    with resume(path) as reopened:
        assert reopened.counts.rows == 0
    start_or_resume(path)
    assert path.read_bytes() == whole(path)


def test_killed_process_resumes_at_the_last_progress(path, monkeypatch):
    """A process that is killed does not leave the context."""
    file = open_file(path)
    file.begin(MODE)
    for row in predictions()[:6]:
        file.add([row])
        monkeypatch.setattr(predictions_file, "SAVE_SECONDS", -1 if file.counts.rows < 4 else 99)
    os.close(file._file)
    with resume(path) as reopened:
        assert reopened.counts.rows == 4
    start_or_resume(path)
    assert path.read_bytes() == whole(path)


def test_resumed_request_has_the_images_of_the_start(path):
    start_or_resume(path, 4)
    later = dataclasses.replace(REQUEST, paths=(*PATHS, "new.jpg"))
    interrupted = find_interrupted(path, later, overwrite=False)
    assert interrupted.paths == PATHS
    assert interrupted.program == MODE


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"model": {"best.npz": "other"}}, "another model"),
        ({"inputs": ("others",)}, "other files, folders or addresses"),
        ({"options": {"top_k": 2, "precision": "auto"}}, "--top_k=1"),
        ({"options": {"top_k": 1, "precision": "float32"}}, "--precision=auto"),
        ({"options": {"top_k": 1, "precision": "auto", "tta": "flip"}}, "no --tta"),
        ({"folder": "/elsewhere"}, "relative names from another folder"),
        ({"version": 0}, "another version of Unfreeze"),
    ],
)
def test_part_of_another_request_is_refused_and_untouched(path, changes, difference):
    start_or_resume(path, 4)
    before = {entry: entry.read_bytes() for entry in path.parent.iterdir()}
    with pytest.raises(UserError, match=f"started with {difference}") as caught:
        find_interrupted(path, dataclasses.replace(REQUEST, **changes), overwrite=False)
    assert "--overwrite" in str(caught.value)
    assert {entry: entry.read_bytes() for entry in path.parent.iterdir()} == before
    request = dataclasses.replace(REQUEST, **changes)
    assert find_interrupted(path, request, overwrite=True) is None


@pytest.mark.parametrize("ending", ["", ".json"])
def test_existing_file_is_not_overwritten(path, ending):
    beside(path, ending).write_text("mine")
    with pytest.raises(UserError, match=r"exists; name another file, or add --overwrite"):
        find_interrupted(path, REQUEST, overwrite=False)
    assert beside(path, ending).read_text() == "mine"


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b"\xff", b"[" * 5000])
def test_part_without_a_request_is_refused(path, content):
    beside(path, ".part").write_bytes(b"rows")
    if content is not None:
        beside(path, ".part.json").write_bytes(content)
    with pytest.raises(UserError, match="has no request file"):
        find_interrupted(path, REQUEST, overwrite=False)


def test_request_without_its_part_is_ignored(path):
    """As after a power failure between the last two steps of `finish`."""
    start_or_resume(path, 6)
    beside(path, ".part").unlink()
    request = dataclasses.replace(REQUEST, inputs=("others",))
    assert find_interrupted(path, request, overwrite=False) is None


def test_folder_pipe_and_missing_folder_are_refused(path, tmp_path):
    path.mkdir()
    with pytest.raises(UserError, match="is a folder"):
        find_interrupted(path, REQUEST, overwrite=True)
    pipe = tmp_path / f"pipe{path.suffix}"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="is not a regular file"):
        find_interrupted(pipe, REQUEST, overwrite=True)
    with pytest.raises(UserError, match=r"can't be written \(No such file or directory\)"):
        open_file(tmp_path / "gone" / path.name)


def test_overwriting_resumes_and_leaves_the_old_file_until_the_end(path):
    path.write_text("old")
    with open_file(path, dataclasses.replace(REQUEST, overwrite=True)) as file:
        file.begin(MODE)
        file.add(predictions()[:6])
    assert path.read_text() == "old"
    with resume(path) as file:
        assert file.counts.rows == 6
        file.add(predictions(6))
        file.finish()
    assert path.read_bytes().endswith(FORMATS[path.suffix].rows(predictions()[-1:], 1))


@pytest.mark.parametrize("content", ["mine", None], ids=["file", "dangling link"])
def test_file_created_meanwhile_is_not_overwritten(path, content):
    with open_file(path) as file:
        file.begin(MODE)
        file.add(predictions())
        path.write_text(content) if content else path.symlink_to("gone")
        with pytest.raises(UserError, match=r"was created while .*\.part was written; move it"):
            file.finish()
    assert path.is_symlink() or path.read_text() == content
    path.unlink()
    start_or_resume(path)
    assert path.read_bytes() == whole(path)


def test_part_is_emptied_by_begin_and_not_before(path):
    """A model that can't be loaded, say, does not cost the rows that were there."""
    start_or_resume(path, 6)
    part = beside(path, ".part")
    rows = part.read_bytes()
    with open_file(path):
        assert part.read_bytes() == rows
    assert part.read_bytes() == rows
    with open_file(path) as file:
        file.begin(MODE)
        assert part.read_bytes() == FORMATS[path.suffix].header(1)


def test_failure_before_begin_leaves_no_file(path):
    with open_file(path):
        pass
    assert not list(path.parent.iterdir())


def test_second_process_is_refused(path):
    with open_file(path) as file:
        file.begin(MODE)
        with pytest.raises(UserError, match="another process is writing it"):
            open_file(path)
        file.add(predictions()[:6])
    start_or_resume(path)


def test_full_disk_is_reported_and_rows_stay(path, monkeypatch):
    """The system writes some of the bytes before it refuses."""
    start_or_resume(path, 6)
    write, space = os.write, [30]

    def limited_write(file, data):
        if not space[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(file, data[: space[0]])
        space[0] -= written
        return written

    monkeypatch.setattr(predictions_file.os, "write", limited_write)
    with pytest.raises(UserError) as caught:
        start_or_resume(path)
    message = str(caught.value)
    assert "can't be written (No space left on device); 6 rows are in answers" in message
    assert "free some space, then run the same command again" in message
    monkeypatch.undo()
    start_or_resume(path)
    assert path.read_bytes() == whole(path)


@pytest.mark.parametrize("kind", ["link", "foreign"])
def test_planted_part_is_refused_and_stays(path, monkeypatch, kind):
    victim = beside(path, ".part") if kind == "foreign" else path.with_name("victim")
    victim.write_bytes(b"theirs")
    if kind == "link":
        beside(path, ".part").symlink_to(victim)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: os.stat(victim).st_uid + 1)
    problem = {"link": "is a link", "foreign": "belongs to another user"}[kind]
    with pytest.raises(UserError, match=rf"can't be written \({path.name}.part {problem}\); name"):
        open_file(path)
    assert victim.read_bytes() == b"theirs"
