"""Images named on a command line: what is found, and what becomes of broken ones."""

import errno
import os

import pytest
from PIL import Image

from engine.core.errors import UserError
from pipelines.predict import find_images
from tests.pipelines.encoded_images import saved

RED = Image.new("RGB", (9, 7), (200, 10, 20))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("b.png", "a.PNG", "below/c.png", ".hidden.png"):
        (tmp_path / name).write_bytes(saved(RED, "PNG"))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_folder_stands_for_the_sorted_images_below(folder):
    expected = [str(folder / name) for name in ("a.PNG", "b.png", "below/c.png")]
    assert find_images.find_images([str(folder)]) == expected


def test_words_keep_their_order(folder):
    words = [str(folder / "below"), "https://example.org/cat", str(folder / "notes.txt")]
    assert find_images.find_images(words) == [str(folder / "below/c.png"), *words[1:]]


def test_missing_path_is_refused(folder):
    with pytest.raises(UserError, match=r"nowhere\.png: no such file or folder"):
        find_images.find_images([str(folder / "nowhere.png")])


def test_folder_without_images_is_refused(folder):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no images below it; allowed: \.jpg, "):
        find_images.find_images([str(folder / "empty")])


def test_unreadable_folder_is_listed_itself(folder, monkeypatch):
    """As one without permission is, which an administrator is never refused."""
    scan, closed = os.scandir, str(folder / "below")

    def scandir(place):
        if place == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), place)
        return scan(place)

    monkeypatch.setattr(os, "scandir", scandir)
    names = [str(folder / name) for name in ("a.PNG", "b.png")]
    assert find_images.find_images([str(folder)]) == [*names, closed]
    assert find_images.find_images([closed]) == [closed]


def test_circular_link_is_not_followed(folder):
    (folder / "below" / "up").symlink_to(folder)
    assert len(find_images.find_images([str(folder)])) == 3


def test_odd_names_and_links_are_listed(folder):
    odd = [b"\xff.jpg", b"two\nlines.jpg", b"=1+1.jpg", "große Katze.jpg".encode()]
    for name in odd:
        (folder / os.fsdecode(name)).write_bytes(b"x")
    (folder / "link.jpg").symlink_to(folder / "notes.txt")
    (folder / "nowhere.jpg").symlink_to(folder / "gone")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "seen.jpg").write_bytes(b"x")
    names = [
        os.fsencode(os.path.relpath(path, folder))
        for path in find_images.find_images([str(folder)])
    ]
    plain = [b"a.PNG", b"b.png", b"below/c.png", b"link.jpg", b"nowhere.jpg", b".hidden/seen.jpg"]
    assert sorted(names) == sorted(odd + plain)
