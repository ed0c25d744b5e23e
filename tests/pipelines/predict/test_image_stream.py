"""Images for prediction: in their order, through the pipeline, past bad ones."""

import os
import threading
import weakref

import numpy as np
import pytest
from PIL import Image

from engine.core.errors import UserError
from pipelines.decode import bounds, unsupported
from pipelines.predict import fetch, image_stream
from pipelines.predict.image_stream import ImageStream
from tests.pipelines import bad_images
from tests.pipelines.encoded_images import saved

SIZE = (4, 6)


def coloured(number: int) -> bytes:
    """An image of one colour that tells its number."""
    return saved(Image.new("RGB", (9, 7), (number, 255 - number, 7)), "PNG")


def laid(folder, contents: dict[str, bytes]) -> list[str]:
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [str(folder / name) for name in contents]


def read(places, batch_size=4, first=0, **settings) -> list[image_stream.ImageGroup]:
    return list(ImageStream(places, SIZE, "squash", 2, **settings).groups(batch_size, first))


def flat(groups) -> list[tuple]:
    """(place, first red value or None, problem) of each."""
    rows = []
    for places, problems, images in groups:
        reds = iter(np.asarray(images)[:, 0, 0, 0].tolist())
        assert len(images) == sum(problem is None for problem in problems)
        rows += [
            (place, None if problem else next(reds), problem)
            for place, problem in zip(places, problems, strict=True)
        ]
    return rows


@pytest.fixture
def mixed(tmp_path):
    """Twenty places, of which every third can't be read."""
    names = {f"{n:02}.png": b"bad" if n % 3 == 1 else coloured(n) for n in range(20)}
    return laid(tmp_path, names)


def test_groups_have_every_place_once_in_order_for_any_batch_size(mixed):
    stream = ImageStream(mixed, SIZE, "squash", 2)
    wanted = [(p, None if n % 3 == 1 else n) for n, p in enumerate(mixed)]
    for batch_size in (1, 3, 64):
        groups = list(stream.groups(batch_size))
        assert [row[:2] for row in flat(groups)] == wanted
        assert {row[2] for row in flat(groups)} == {None, unsupported.NOT_AN_IMAGE}
        full, rest = divmod(13, batch_size)
        counts = [len(group.images) for group in groups]
        assert counts == [batch_size] * full + [rest] * (rest > 0) + [0], "the last place is bad"


def test_group_of_unreadable_images_ends_at_the_flush_interval(tmp_path):
    """Else a folder of broken images would say nothing until its end, and keep nothing."""
    good, bad = laid(tmp_path, {"good.png": coloured(8), "bad.png": b"bad"})
    length = image_stream.flush_interval(2)
    places = [bad] * (2 * length + 5) + [good] + [bad] * length
    groups = read(places, 2)
    assert [group.places for group in groups[:2]] == [[bad] * length] * 2
    assert max(len(group.places) for group in groups) <= length
    assert [place for group in groups for place in group.places] == places
    assert [row[1] for row in flat(groups) if row[1]] == [8]
    later = read(places, 2, first=length + 3)
    assert len(later[0].places) == length - 3, "they end where they would have from the first on"
    assert flat(later) == flat(groups)[length + 3 :]


def test_groups_from_a_later_place_are_those_of_the_whole(mixed):
    stream = ImageStream(mixed, SIZE, "squash", 2)
    whole = flat(stream.groups(4))
    for first in (1, 7, 19, 20):
        assert flat(stream.groups(4, first)) == whole[first:]


def test_bad_images_are_problems_and_others_follow(tmp_path):
    laid_out = bad_images.lay_out(tmp_path / "bad")
    places = [str(path) for path in (*laid_out.bad, *laid_out.odd)]
    odd = [str(tmp_path / "bad" / "pipe.jpg"), "/dev/zero", str(tmp_path)]
    film = tmp_path / "film.jpg"
    film.touch()
    os.truncate(film, 10**12)
    places += [*odd, str(tmp_path / "gone.png"), str(film)]
    rows = flat(read(places, 32))
    assert [place for place, _, _ in rows] == places
    problems = {place: problem for place, _, problem in rows}
    assert all(problems[str(path)] for path in laid_out.bad)
    assert {problems[place] for place in odd} == {"can't be read: not a regular file"}
    assert problems[str(film)] == "can't be read: larger than 256 MB"
    assert problems[str(tmp_path / "gone.png")] == "can't be read: No such file or directory"
    reasons = set(filter(None, problems.values()))
    assert all(reason.isprintable() and len(reason) < 80 for reason in reasons), "one short line"
    assert not any("{{" in reason for reason in reasons), "no names of operations"


def test_files_of_odd_names_are_read(tmp_path):
    names = [b"\xff\xfe.png", b"two\nlines.png", b"%s{}.png", "🐈.png".encode()]
    places = [os.path.join(str(tmp_path), os.fsdecode(name)) for name in names]
    for number, place in enumerate(places):
        with open(place, "wb") as file:
            file.write(coloured(number))
    assert flat(read(places)) == [(place, n, None) for n, place in enumerate(places)]


def test_image_that_decodes_the_second_time_is_in_its_place(tmp_path, monkeypatch):
    places = laid(tmp_path, {f"{n}.png": coloured(n) for n in range(6)})
    late = {places[n]: coloured(100 + n) for n in (1, 2, 5)}
    for place in late:
        os.truncate(place, 0)
    monkeypatch.setattr(image_stream, "read_bytes", late.__getitem__)
    reds = [red for _, red, _ in flat(read(places, 3))]
    assert reds == [0, 101, 102, 3, 4, 105]


def test_url_among_files_is_fetched_once(tmp_path, monkeypatch):
    requested = []

    def answer(url, allow_private):
        assert allow_private
        requested.append(url)
        if url.endswith("good"):
            return coloured(9)
        if url.endswith("text"):
            return b"this is text"
        raise UserError(f"{url}: returns text/html; allowed: the URL of an image itself")

    monkeypatch.setattr(fetch, "fetch", answer)
    (file,) = laid(tmp_path, {"file.png": coloured(3)})
    address = "http://127.0.0.1/"
    places = [f"{address}page", file, f"{address}good", f"{address}text", file]
    rows = flat(read(places, allow_private=True))
    assert [row[1:] for row in rows] == [
        (None, "returns text/html; allowed: the URL of an image itself"),
        (3, None),
        (9, None),
        (None, unsupported.NOT_AN_IMAGE),
        (3, None),
    ]
    assert sorted(requested) == sorted({f"{address}{name}" for name in ("page", "good", "text")})


def test_private_host_is_not_requested_by_default(server):
    ((_, _, problem),) = flat(read([server.address("image")]))
    assert "--allow_private_urls allows it" in problem
    assert server.paths == []


def test_bomb_from_the_web_is_not_decoded(server):
    """It is 50 kB long, and 400 million pixels large."""
    ((_, image, problem),) = flat(read([server.address("bomb")], allow_private=True))
    assert image is None
    assert problem == bounds.TOO_LARGE


def test_groups_are_released(mixed):
    """By the stream too: all of them would fill the memory."""
    references, maximum = [], 0
    for group in ImageStream(mixed * 5, SIZE, "squash", 2).groups(4):
        references.append(weakref.ref(group.images))
        maximum = max(maximum, sum(ref() is not None for ref in references))
    assert len(references) > 15
    assert maximum <= 2, "the one at hand and the one before it"


def test_fetched_bytes_are_released_with_their_group(monkeypatch):
    monkeypatch.setattr(fetch, "fetch", lambda url, allow_private: coloured(5))
    stream = ImageStream(["http://a.org/b"] * 200, SIZE, "squash", 2)
    maximum = 0
    for _ in stream.groups(4):
        maximum = max(maximum, len(stream._fetched))
    assert maximum < 100
    assert not stream._fetched


def test_closed_stream_leaves_no_thread(mixed):
    before = threading.active_count()
    groups = ImageStream(mixed * 50, SIZE, "squash", 2).groups(4)
    next(groups)
    groups.close()
    assert threading.active_count() <= before + 1
