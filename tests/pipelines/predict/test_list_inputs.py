"""Images named on a command line: what is listed, and what is said of the rest."""

import errno
import os

import pytest
from PIL import Image

from engine.core.errors import UserError
from pipelines.predict.list_inputs import list_inputs
from tests.pipelines.encoded_images import saved

RED = Image.new("RGB", (9, 7), (200, 10, 20))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("b.png", "a.PNG", "below/c.png", ".hidden.png"):
        (tmp_path / name).write_bytes(saved(RED, "PNG"))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_folder_stands_for_the_sorted_images_below_and_a_line_for_the_rest(folder):
    lines = []
    expected = [str(folder / name) for name in ("a.PNG", "b.png", "below/c.png")]
    assert list_inputs([str(folder)], lines.append) == expected
    assert [line.split(": ")[0] for line in lines] == ["passed over 2 files or folders"]


def test_words_keep_their_order(folder):
    words = [str(folder / "below"), "https://example.org/cat", str(folder / "notes.txt")]
    assert list_inputs(words, print) == [str(folder / "below/c.png"), *words[1:]]


def test_missing_path_is_refused(folder):
    with pytest.raises(UserError, match=r"nowhere\.png: no such file or folder"):
        list_inputs([str(folder / "nowhere.png")], print)


def test_folder_without_images_is_refused_with_what_it_holds(folder):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no images below it; give a folder"):
        list_inputs([str(folder / "empty")], print)
    (folder / "empty" / "notes.txt").write_text("no image")
    with pytest.raises(UserError, match=r"below it; passed over 1 file or folder: .*\.txt"):
        list_inputs([str(folder / "empty")], print)


def test_unreadable_folder_is_listed_itself(folder, monkeypatch):
    """As one without permission is, which an administrator is never refused."""
    scan, closed = os.scandir, str(folder / "below")

    def scandir(place):
        if place == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), place)
        return scan(place)

    monkeypatch.setattr(os, "scandir", scandir)
    names = [str(folder / name) for name in ("a.PNG", "b.png")]
    assert list_inputs([str(folder)], print) == [*names, closed]
    assert list_inputs([closed], print) == [closed]
