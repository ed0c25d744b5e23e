"""Image files below folders: by name, by contents, behind links; and what is passed over."""

import io
import os
import random

import pytest
from PIL import Image

from engine.core.recipe import DataSpec
from pipelines.decode import formats, headers
from pipelines.predict.list_inputs import list_inputs
from pipelines.sources import find_images as finder
from pipelines.sources import sources
from pipelines.sources.find_images import describe_passed_over, find_images
from tests.pipelines.encoded_images import saved

RED = Image.new("RGB", (9, 7), (200, 10, 20))


def fill(root, *names, contents=b"no image"):
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(contents)


def names_below(folder):
    return [os.fsencode(os.path.relpath(path, folder)) for path in find_images(str(folder)).files]


def reasons(folder):
    return {os.path.relpath(p.path, folder): p.reason for p in find_images(str(folder)).passed_over}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "GIF", "WEBP"])
@pytest.mark.parametrize("name", ["image", "image.jpg_large", "1.5"])
def test_file_without_an_ending_is_an_image_by_its_contents(tmp_path, format, name):
    fill(tmp_path, name, contents=saved(RED, format))
    fill(tmp_path, "notes", "BMW.doc", contents=b"BMW 2002, a car")
    assert names_below(tmp_path) == [name.encode()]
    assert reasons(tmp_path) == dict.fromkeys(["notes", "BMW.doc"], finder.NO_IMAGE)


def test_every_format_that_is_decoded_or_named_by_the_doctor_has_its_endings_and_contents():
    endings = {ending for names in headers.NAMES.values() for ending in names}
    assert endings <= finder.ENDINGS
    Image.init()
    for ending in ("jpg", "jfif", "png", "bmp", "gif", "webp"):  # those of Pillow's own
        buffer = io.BytesIO()
        RED.save(buffer, Image.EXTENSION[f".{ending}"])
        assert finder._IMAGE.match(buffer.getvalue()[: finder._BYTES])
    for form in formats.OTHERS.values():
        head = b"RIFF" * bool(form.magic_at)
        head = head.ljust(form.magic_at, b"\0") + form.magic + b"\0" * 16
        assert finder._IMAGE.match(head[: finder._BYTES])


def test_names_of_images_are_not_opened(tmp_path, monkeypatch):
    names = ["a.jpg", "b.JFIF", "c.jpe", "d.mpo", "e.heic", "f.TIF"]
    fill(tmp_path, *names)
    monkeypatch.setattr(finder, "open_regular", None)
    assert names_below(tmp_path) == [os.fsencode(name) for name in names]


def test_junk_is_passed_over_whatever_it_holds(tmp_path):
    folders = (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".thumbnails", "lost+found")
    folders += ("$RECYCLE.BIN", "System Volume Information", "sub/@eaDir")
    fill(tmp_path, *(f"{name}/x.jpg" for name in folders), "sub/y.jpg", contents=saved(RED, "JPEG"))
    files = ("Thumbs.db", ".DS_Store", "._y.jpg", "desktop.ini")
    fill(tmp_path, *files)
    assert names_below(tmp_path) == [b"sub/y.jpg"]
    assert reasons(tmp_path) == dict.fromkeys([*folders, *files], finder.JUNK)


def test_linked_folders_are_read_once_and_circles_end(tmp_path):
    fill(tmp_path, "data/a/1.jpg", "far/2.jpg", "data/z.jpg")
    data = tmp_path / "data"
    for name, target in {"far": "../far", "more": "../far", "up": "..", "self": "."}.items():
        (data / name).symlink_to(target)
    (data / "a" / "top").symlink_to("/")
    (data / "round").symlink_to("round")
    assert names_below(data) == [b"a/1.jpg", b"far/2.jpg", b"round", b"z.jpg"]
    assert reasons(data) == dict.fromkeys(["a/top", "more", "self", "up"], finder.READ_ALREADY)
    assert len(find_images(f"{data}/").files) == 4


def test_folder_with_a_relative_name_is_read(tmp_path, monkeypatch):
    fill(tmp_path, "a.jpg", "b/c.jpg")
    monkeypatch.chdir(tmp_path)
    assert find_images(".").files == ["./a.jpg", "./b/c.jpg"]
    assert find_images("b").files == ["b/c.jpg"]


def test_odd_names_and_links_to_files_are_listed(tmp_path):
    odd = [b"\xff.jpg", b"two\nlines.jpg", b"=1+1.jpg", "große Katze.jpg".encode()]
    fill(tmp_path, *map(os.fsdecode, odd), "notes.txt")
    links = {"link.jpg": "notes.txt", "nowhere.jpg": "gone", "nowhere": "gone"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "to_pipe.jpg").symlink_to("pipe.jpg")
    assert sorted(names_below(tmp_path)) == sorted([*odd, *map(os.fsencode, links)])
    special = dict.fromkeys(["pipe.jpg", "to_pipe.jpg"], finder.SPECIAL)
    assert reasons(tmp_path) == {"notes.txt": finder.NO_IMAGE, **special}


def test_training_and_prediction_read_the_same_files(tmp_path):
    """Random trees of names, contents and links, some of them in circles."""
    draw = random.Random(5)
    names = ("a.jpg", "b.JPE", "c.mpo", "d", "e.txt", ".f.jpg", "Thumbs.db", "g.jpg_large")
    folders = [tmp_path / "data" / name for name in ("cat", "dog", "cat/x", "cat/.git", "dog/y z")]
    for folder in folders:
        for name in draw.sample(names, 6):
            contents = draw.choice([saved(RED, "JPEG"), b"no image"])
            fill(folder, name, contents=contents)
        (folder / f"link{draw.randrange(3)}").symlink_to(draw.choice(folders))
    examples = sources.list_examples(DataSpec("folders", str(tmp_path / "data")))
    each = [list_inputs([str(folder)], print) for folder in folders[:2]]
    assert examples.paths.tolist() == [*each[0], *each[1]]


def test_what_is_passed_over_is_described_in_one_line_by_kind(tmp_path):
    fill(tmp_path, "a.txt", "b.TXT", "c.json", "d", ".e\n", "@eaDir/f.jpg", "g/@eaDir/h", "i.jpg")
    line = describe_passed_over(find_images(str(tmp_path)).passed_over)
    assert line == (
        "passed over 7 files or folders: "
        "4 without an image's name or contents (.txt 2, .json 1, no ending 1), "
        r"3 hidden or of the system (@eaDir 2, .e\n 1)"
    )
    assert describe_passed_over([]) == ""
