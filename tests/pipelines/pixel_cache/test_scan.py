"""The scan: names every broken file once and no other, and never hangs."""

import os

import numpy as np
import pytest
from PIL import Image

from pipelines.decode import decode
from pipelines.pixel_cache import scan
from tests.pipelines.cached import listed
from tests.pipelines.encoded_images import saved

pytestmark = pytest.mark.usefixtures("quick_decoding")

RNG = np.random.default_rng(3)


def encoded(kind):
    return saved(Image.fromarray(RNG.integers(0, 255, (40, 30, 3), np.uint8)), kind)


def decode_small(contents):
    return decode.decode_oriented(contents, 24, 24)


def scanned(paths, collect=lambda *_: None, **columns):
    return scan.scan_images(listed(paths, **columns), decode_small, 2, collect)


@pytest.fixture
def files(tmp_path):
    """Name -> path; names that begin with `bad` are of files that can't be used."""
    contents = {
        "1.jpg": encoded("JPEG"),
        "2.png": encoded("PNG"),
        "3.webp": encoded("WEBP"),
        "png-in-truth.jpg": encoded("PNG"),
        "bad-empty.jpg": b"",
        "bad-text.jpg": b"not an image at all",
        "bad-cut.jpg": encoded("JPEG")[:200],
        "bad-cut.png": encoded("PNG")[:-900],
        "bad-noise.png": RNG.bytes(5000),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "bad-pipe.jpg")
    (tmp_path / "bad-folder.jpg").mkdir()
    (tmp_path / "bad-loop.jpg").symlink_to(tmp_path / "bad-loop.jpg")
    (tmp_path / "bad-film.jpg").touch()
    os.truncate(tmp_path / "bad-film.jpg", 10**12)
    names = [*contents, "bad-pipe.jpg", "bad-folder.jpg", "bad-loop.jpg", "bad-none.jpg"]
    names.append("bad-film.jpg")
    return {name: tmp_path / name for name in names}


@pytest.mark.usefixtures("real_decode")
def test_every_broken_file_is_named_with_a_reason(files):
    broken = scanned(files.values())
    bad = [index for index, name in enumerate(files) if name.startswith("bad")]
    assert [image.index for image in broken] == bad
    assert [image.path for image in broken] == [str([*files.values()][index]) for index in bad]
    reasons = {os.path.basename(image.path): image.reason for image in broken}
    assert reasons["bad-empty.jpg"] == "empty file"
    assert reasons["bad-none.jpg"] == "no such file or directory"
    assert reasons["bad-pipe.jpg"] == reasons["bad-folder.jpg"] == "not a regular file"
    assert reasons["bad-film.jpg"] == "larger than 256 MB"
    assert "JPEG" in reasons["bad-cut.jpg"]
    assert all(reason and "\n" not in reason for reason in reasons.values())


def test_broken_byte_ranges_of_a_file_are_named(tmp_path):
    good, cut = encoded("JPEG"), encoded("JPEG")[:150]
    path = tmp_path / "records"
    path.write_bytes(b"head" + good + cut + good)
    lengths = [len(good), len(cut), len(good), 10]
    offsets = [4, 4 + len(good), 4 + len(good) + len(cut), 10**6]
    broken = scanned([path] * 4, offsets=offsets, lengths=lengths)
    assert [image.index for image in broken] == [1, 3]
    assert broken[0].path == f"{path}@{offsets[1]}"
    assert "ends before byte" in broken[1].reason


@pytest.mark.parametrize(
    ("name", "count", "broken"), [("1.jpg", 400, 0), ("bad-text.jpg", 5, 5), ("1.jpg", 0, 0)]
)
def test_all_none_and_no_images_are_broken(files, name, count, broken):
    assert len(scanned([files[name]] * count)) == broken


@pytest.mark.usefixtures("real_decode")
@pytest.mark.parametrize("attempt", ["first", "second"])
def test_every_decoded_image_is_collected_once(files, monkeypatch, attempt):
    if attempt == "second":
        monkeypatch.setattr(scan, "_read_all", lambda *_: [])
    collected = {}

    def collect(numbers, facts):
        assert not set(numbers.tolist()) & set(collected)
        columns = (facts.pixels, facts.orientations, facts.fingerprints)
        collected.update(zip(numbers.tolist(), zip(*columns, strict=True), strict=True))

    paths = list(files.values()) * 3
    broken = scanned(paths, collect)
    assert sorted([*collected, *(image.index for image in broken)]) == list(range(len(paths)))
    for number, (pixels, orientation, fingerprint) in collected.items():
        np.testing.assert_array_equal(pixels, decode_small(paths[number].read_bytes())[0])
        assert orientation == 1
        assert (fingerprint == collected[0][2]) == (paths[number] == paths[0])


@pytest.mark.usefixtures("real_decode")
def test_photographs_are_not_broken(cats_dogs):
    paths = sorted((cats_dogs / "val" / "cats").iterdir())[:100]
    assert scanned(paths) == []
