"""Pictures named on a command line: what is found, and what becomes of broken ones."""

import numpy as np
import pytest
from PIL import Image

from engine.specs import UserError
from pipelines import fetch, pictures
from tests.pipelines.pictures import saved

RED = Image.new("RGB", (9, 7), (200, 10, 20))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("b.png", "a.PNG", "below/c.png", ".hidden.png"):
        (tmp_path / name).write_bytes(saved(RED, "PNG"))
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_folder_means_the_pictures_below_it_sorted(folder):
    expected = [str(folder / name) for name in ("a.PNG", "b.png", "below/c.png")]
    assert pictures.find([str(folder)]) == expected


def test_words_keep_their_order(folder):
    words = [str(folder / "below"), "https://example.org/cat", str(folder / "notes.txt")]
    assert pictures.find(words) == [str(folder / "below/c.png"), *words[1:]]


def test_a_path_that_does_not_exist_is_named(folder):
    with pytest.raises(UserError, match=r"nowhere\.png: no such file or folder"):
        pictures.find([str(folder / "nowhere.png")])


def test_a_folder_without_pictures_is_named(folder):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no pictures below it; allowed: \.jpg, "):
        pictures.find([str(folder / "empty")])


def test_a_broken_picture_is_a_problem_and_the_others_go_on(folder):
    contents = {
        "short.png": saved(RED, "PNG")[:40],
        "text.jpg": b"not a picture at all",
        "empty.jpg": b"",
        "good.png": saved(RED, "PNG"),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    places = [str(folder / name) for name in contents]
    places.insert(2, str(folder / "gone.png"))
    read = list(pictures.read(places, (4, 6), "squash"))
    assert [place for place, _, _ in read] == places
    problems = [problem for _, _, problem in read]
    assert problems[2] == "can't be read: No such file or directory"
    assert all(problem and "\n" not in problem for problem in problems[:4])
    assert all(image is None for _, image, _ in read[:4])
    assert problems[4] is None
    assert read[4][1].dtype == np.uint8
    assert np.array_equal(read[4][1], np.broadcast_to([200, 10, 20], (4, 6, 3)))


def test_an_address_is_fetched_and_its_problem_is_told_without_naming_it_twice(monkeypatch):
    def answer(url, allow_private):
        assert allow_private
        if url.endswith("good"):
            return saved(RED, "PNG")
        raise UserError(f"{url}: gives text/html; allowed: the address of a picture itself")

    monkeypatch.setattr(fetch, "fetch", answer)
    places = ["http://127.0.0.1/page", "http://127.0.0.1/good"]
    page, good = pictures.read(places, (4, 4), "squash", allow_private=True)
    assert page == (places[0], None, "gives text/html; allowed: the address of a picture itself")
    assert np.array_equal(good[1], np.broadcast_to([200, 10, 20], (4, 4, 3)))


def test_a_picture_from_the_web_that_would_unpack_to_gigabytes_is_not_decoded(server):
    """It is 50 kB long, and 400 million pixels large."""
    ((_, image, problem),) = pictures.read([server.address("bomb")], (4, 6), "squash", True)
    assert image is None
    assert problem == "more than 178,956,970 pixels"
