"""The file of answers: torn anywhere it ends as one that was never torn; what is foreign stays."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.core.errors import UserError
from engine.inference import predictions_file
from engine.inference.predict import NO_NUMBER, Prediction
from engine.inference.predictions_file import PredictionsFile, PredictionsRequest, begun
from engine.inference.predictions_format import FORMATS, Row

BATCH = 3
STRETCH = 7
PLACES = tuple(f'{n}\n,".jpg' for n in range(11))
ORDER = PredictionsRequest(
    {"best.npz": "abc"}, ("images",), {"top_k": 1, "precision": "auto"}, PLACES
)
PROGRAM = {"policy": "float32", "xla": False}
BAD = {0, 4, 5, 10}


def answers(first: int) -> list[Prediction]:
    """Those from place `first` on; what they are depends on who shares their batch of sound ones.

    As answers of a network may, in the last bit.
    """
    found, company = [], []
    for number, place in list(enumerate(PLACES))[first:]:
        if number % STRETCH == 0:
            company = []
        if number in BAD:
            found.append(Prediction(place, problem="empty\nfile"))
            continue
        company = [*company, number] if len(company) < BATCH else [number]
        share = 1 / (number + 1 + company[0] / 7)
        found.append(Prediction(place, (("cat", share),), "cat"))
    return found


def go_on(path: Path, rows: int | None = None) -> PredictionsFile:
    """Begins or goes on, and writes so many rows, or all with the end."""
    found = begun(path, ORDER, overwrite=False)
    with PredictionsFile(path, found or ORDER, BATCH, STRETCH, going_on=bool(found)) as file:
        if not found:
            file.begin(PROGRAM)
        lacking = answers(file.tally.rows)
        if rows is not None:
            file.add(lacking[:rows])
            return file
        for answer in lacking:
            file.add([answer])
        file.finish()
    return file


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No test here pulls the plug, so none has to wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture(params=FORMATS)
def path(request, tmp_path) -> Path:
    return tmp_path / f"answers{request.param}"


def names(path: Path) -> set[str]:
    return {entry.name.removeprefix(path.name) for entry in path.parent.iterdir()}


def test_it_is_whole_and_says_beside_it_what_it_was_made_with(path):
    file = go_on(path)
    assert names(path) == {"", ".json"}
    form = FORMATS[path.suffix]
    assert path.read_bytes() == form.head(1) + form.rows(answers(0), 1)
    made = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert made["program"] == PROGRAM
    assert (made["images"], made["unreadable"]) == (11, 4)
    assert file.tally.first == tuple(Row(PLACES[n], "empty\nfile") for n in sorted(BAD))


def test_torn_at_any_byte_it_ends_as_if_nothing_had_been(path, tmp_path):
    go_on(path)
    wanted = path.read_bytes()
    for end in range(len(wanted) + 1):
        other = tmp_path / f"{end}" / path.name
        other.parent.mkdir()
        go_on(other, 0)
        part = other.with_name(f"{other.name}.part")
        part.write_bytes(wanted[:end])
        file = go_on(other)
        assert other.read_bytes() == wanted
        assert (file.tally.rows, file.tally.unread) == (11, 4)
        assert len(file.tally.first) == 4


@pytest.mark.parametrize("rubbish", [b"\0" * 600, b'"', b"x\n" * 9, b'"gone.jpg","","","",""\n'])
def test_what_a_crash_left_behind_does_not_pass_for_rows(path, rubbish):
    """A file system may give blocks of zeros back for what it had not written."""
    go_on(path)
    wanted = path.read_bytes()
    for end in (0, 70, len(wanted) // 2, len(wanted)):
        path.unlink()
        path.with_name(f"{path.name}.json").unlink()
        go_on(path, 0)
        path.with_name(f"{path.name}.part").write_bytes(wanted[:end] + rubbish)
        go_on(path)
        assert path.read_bytes() == wanted


def test_it_goes_on_after_the_last_full_batch(path):
    """Rows 0 to 5 and the first of the next batch: the batch is made anew as a whole."""
    go_on(path, 6)
    with PredictionsFile(path, begun(path, ORDER, False), BATCH, STRETCH, going_on=True) as file:
        assert file.tally.rows == 6  # bad 0, sound 1 2 3, bad 4 5
        assert file.tally.unread == 3


def test_it_goes_on_at_the_end_of_a_stretch_however_full_the_batch_was(path):
    go_on(path, 9)
    with PredictionsFile(path, begun(path, ORDER, False), BATCH, STRETCH, going_on=True) as file:
        assert file.tally.rows == 7  # a batch that is row 6 alone


@pytest.mark.parametrize(("written", "kept"), [(2, 1), (5, 5)])
def test_a_image_that_there_is_no_number_for_was_one_of_its_batch(path, written, kept):
    """Else those after it would have other company than where nothing came between."""
    rows = answers(0)[:written]
    rows[1] = Prediction(PLACES[1], problem=NO_NUMBER)
    with PredictionsFile(path, ORDER, BATCH, STRETCH, going_on=False) as file:
        file.begin(PROGRAM)
        file.add(rows)
    with PredictionsFile(path, begun(path, ORDER, False), BATCH, STRETCH, going_on=True) as file:
        assert file.tally.rows == kept


def test_all_rows_and_no_end_is_only_brought_to_its_end(path):
    go_on(path, 11)
    with PredictionsFile(path, begun(path, ORDER, False), BATCH, STRETCH, going_on=True) as file:
        assert file.tally.rows == 11


def test_the_list_is_that_of_the_beginning(path):
    go_on(path, 4)
    later = dataclasses.replace(ORDER, places=(*PLACES, "new.jpg"))
    found = begun(path, later, overwrite=False)
    assert found.places == PLACES
    assert found.program == PROGRAM


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"best.npz": "other"}}, "begun with another model"),
        ({"words": ("others",)}, "begun with other files, folders or addresses"),
        ({"options": {"top_k": 2, "precision": "auto"}}, "begun with --top_k=1"),
        ({"options": {"top_k": 1, "precision": "float32"}}, "begun with --precision=auto"),
        ({"options": {"top_k": 1, "precision": "auto", "tta": "flip"}}, "begun with no --tta"),
        ({"folder": "/elsewhere"}, "begun with names that count from another folder"),
        ({"version": 0}, "begun with another version of Unfreeze"),
    ],
)
def test_a_part_of_something_else_is_refused_and_untouched(path, changes, words):
    go_on(path, 4)
    before = {entry: entry.read_bytes() for entry in path.parent.iterdir()}
    with pytest.raises(UserError, match=words) as caught:
        begun(path, dataclasses.replace(ORDER, **changes), overwrite=False)
    assert "--overwrite" in str(caught.value)
    assert {entry: entry.read_bytes() for entry in path.parent.iterdir()} == before
    assert begun(path, dataclasses.replace(ORDER, **changes), overwrite=True) is None


@pytest.mark.parametrize("left", ["", ".json"])
def test_what_is_there_is_not_written_over(path, left):
    other = path.with_name(path.name + left)
    other.write_text("mine")
    with pytest.raises(UserError, match=r"exists; name another file, or add --overwrite"):
        begun(path, ORDER, overwrite=False)
    assert other.read_text() == "mine"


def test_a_part_without_its_order_is_refused(path):
    part, order = (path.with_name(path.name + end) for end in (".part", ".part.json"))
    part.write_bytes(b"rows")
    for content in (None, b"", b"{}", b"[1]", b"\xff", b"[" * 5000):
        if content is not None:
            order.write_bytes(content)
        with pytest.raises(UserError, match=r"nothing says what"):
            begun(path, ORDER, overwrite=False)


def test_a_folder_and_a_place_that_is_none_are_refused(path, tmp_path):
    path.mkdir()
    with pytest.raises(UserError, match="is a folder"):
        begun(path, ORDER, overwrite=True)
    pipe = tmp_path / f"pipe{path.suffix}"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="is no regular file"):
        begun(pipe, ORDER, overwrite=True)
    with pytest.raises(UserError, match=r"can't be written \(No such file or directory\)"):
        PredictionsFile(tmp_path / "gone" / path.name, ORDER, BATCH, STRETCH, going_on=False)


def test_overwriting_can_be_gone_on_with_and_leaves_the_old_until_the_end(path):
    path.write_text("old")
    order = dataclasses.replace(ORDER, replaces=True)
    with PredictionsFile(path, order, BATCH, STRETCH, going_on=False) as file:
        file.begin(PROGRAM)
        file.add(answers(0)[:6])
    assert path.read_text() == "old"
    found = begun(path, ORDER, overwrite=False)
    with PredictionsFile(path, found, BATCH, STRETCH, going_on=True) as file:
        assert file.tally.rows == 6
        file.add(answers(6))
        file.finish()
    assert path.read_bytes().endswith(FORMATS[path.suffix].rows(answers(0)[-1:], 1))


@pytest.mark.parametrize("left", ["mine", None])
def test_what_came_to_lie_there_meanwhile_is_not_written_over(path, left):
    """A file, or a link to one that is yet to be."""
    with PredictionsFile(path, ORDER, BATCH, STRETCH, going_on=False) as file:
        file.begin(PROGRAM)
        file.add(answers(0))
        path.write_text(left) if left else path.symlink_to("gone")
        with pytest.raises(UserError, match=r"came to be while .*\.part was written; move it away"):
            file.finish()
    assert path.is_symlink() or path.read_text() == left
    path.unlink()
    go_on(path)
    assert path.read_bytes().endswith(FORMATS[path.suffix].rows(answers(0)[-1:], 1))


def test_a_part_lasts_until_what_takes_its_place_begins(path):
    """A model that can't be loaded, say, costs nobody the rows that were there."""
    go_on(path, 6)
    part = path.with_name(f"{path.name}.part")
    rows = part.read_bytes()
    with PredictionsFile(path, ORDER, BATCH, STRETCH, going_on=False):
        assert part.read_bytes() == rows
    assert part.read_bytes() == rows
    with PredictionsFile(path, ORDER, BATCH, STRETCH, going_on=False) as file:
        file.begin(PROGRAM)
        assert part.read_bytes() == FORMATS[path.suffix].head(1)


def test_of_what_failed_before_it_began_nothing_is_left(path):
    with PredictionsFile(path, ORDER, BATCH, STRETCH, going_on=False):
        pass
    assert not names(path)


def test_an_order_without_its_part_is_no_beginning(path):
    """As it stays where the power fails between the last two steps of `finish`."""
    go_on(path, 6)
    path.with_name(f"{path.name}.part").unlink()
    assert begun(path, dataclasses.replace(ORDER, words=("others",)), overwrite=False) is None


def test_one_process_at_a_time(path):
    with PredictionsFile(path, ORDER, BATCH, STRETCH, going_on=False) as file:
        file.begin(PROGRAM)
        with pytest.raises(UserError, match="another process is at work there"):
            PredictionsFile(path, ORDER, BATCH, STRETCH, going_on=False)
        file.add(answers(0)[:6])
    go_on(path)


def test_a_full_disk_is_one_line_and_what_was_written_stays(path, monkeypatch):
    """It takes a part of the bytes, as the system does, before it refuses."""
    go_on(path)
    wanted = path.read_bytes()
    path.unlink()
    path.with_name(f"{path.name}.json").unlink()
    go_on(path, 6)
    real, cache_budget = os.write, [30]

    def write(file, data):
        if not cache_budget[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = real(file, data[: cache_budget[0]])
        cache_budget[0] -= written
        return written

    monkeypatch.setattr(predictions_file.os, "write", write)
    with pytest.raises(UserError) as caught:
        go_on(path)
    message = str(caught.value)
    assert "can't be written (No space left on device); 6 rows are in answers" in message
    assert "make room, then start the same command again" in message
    monkeypatch.undo()
    go_on(path)
    assert path.read_bytes() == wanted


def test_it_needs_no_tensorflow():
    """So that what is refused is refused at once."""
    module = "engine.inference.predictions_file"
    code = f"import sys, {module}; print({{'tensorflow', 'keras'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
