"""What every run says of its images before it begins."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.core.recipe import DataSpec
from pipelines.decode import headers
from pipelines.doctor import census, examine, kinds
from pipelines.pixel_cache import pixel_cache
from pipelines.pixel_cache.pixel_plan import plan
from pipelines.pixel_cache.store import CacheLocation, Pixels
from pipelines.sources import sources
from pipelines.sources.examples import from_columns
from tests.pipelines.cached import spoil
from tests.pipelines.doctor.scenes import SCENES, scene
from tests.pipelines.encoded_images import COLOUR, saved

SPEC = DataSpec("manifest", "nowhere.csv")


def examples(labels, splits=None):
    names = [f"{number}.jpg" for number in range(len(labels))]
    return from_columns(names, labels, ("cats", "dogs"), keys=names, splits=splits)


def pixels(fingerprints, images=None):
    count = len(fingerprints)
    if images is None:
        images = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)
    rows = np.array([(b"JPEG", 100, 100, 1)] * count, headers.COLUMN)
    return Pixels(
        (16, 16, 3), np.array(fingerprints), np.ones(count, np.uint8), rows, memory=images
    )


def in_short(examples, pixels, spec=SPEC):
    return list(census.in_short(spec, examples, pixels))


def test_nothing_is_said_where_nothing_is_wrong():
    assert in_short(examples([0, 1, 0, 1]), pixels([1, 2, 3, 4])) == []
    assert in_short(examples([0, 1]), None) == []


def test_copies_under_two_labels_are_said_and_plain_copies_are_counted():
    line, note = in_short(examples([0, 1, 0, 0]), pixels([7, 7, 3, 3]))
    for words in ("different labels", "0.jpg (train, cats), 1.jpg (train, dogs)", "bin/doctor"):
        assert words in line
    assert note == "note: 1 file that is there more than once; bin/doctor shows all"


def test_copies_in_two_parts_are_said():
    (line,) = in_short(examples([0, 1, 0], [0, 0, 2]), pixels([7, 3, 7]))
    assert "in training and in what it is measured on" in line


@pytest.mark.parametrize("levels", [0, 3])
def test_one_colour_is_said(levels):
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    images[1] = 99
    images[1, 3, 5] += levels
    (line,) = in_short(examples([0, 1, 0]), pixels([1, 2, 3], images))
    assert "of one colour" in line
    assert "1.jpg" in line


def test_a_single_dot_between_the_probes_is_more_than_one_colour():
    images = np.full((2, 16, 16, 3), 99, np.uint8)
    images[:, 3, 5] = 200
    assert in_short(examples([0, 1]), pixels([1, 2], images)) == []


@pytest.mark.parametrize(("few", "said"), [(10, False), (9, True)])
def test_a_class_with_a_tenth_of_the_others_is_said(few, said):
    lines = in_short(examples([0] * 100 + [1] * few), None)
    assert len(lines) == said
    assert not said or "100 to train on" in lines[0]


@pytest.fixture
def odd(tmp_path):
    """Folders of sound images with one of everything that is unusual."""
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {f"{name}/{n}.jpg": scene(n + 10 * (name == "b")) for name in "ab" for n in range(4)}
    files |= {
        "a/tiny.png": saved(SCENES[30].resize((20, 16)), "PNG"),
        "a/long.png": saved(SCENES[31].resize((400, 40)), "PNG"),
        "a/named.png": scene(32),
        "a/moving.webp": saved(COLOUR, "WEBP", save_all=True, append_images=[COLOUR.rotate(180)]),
        "b/turned.jpg": saved(SCENES[34], "JPEG", exif=turned),
        "stray.jpg": scene(35),
    }
    for name, contents in files.items():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(contents)
    with open(os.fsencode(tmp_path / "data" / "b") + b"/\xff.jpg", "wb") as file:
        file.write(scene(36))
    (tmp_path / "outside.jpg").write_bytes(scene(37))
    (tmp_path / "data" / "a" / "out.jpg").symlink_to(tmp_path / "outside.jpg")
    (tmp_path / "data" / "a" / "round").symlink_to(tmp_path / "data")
    return tmp_path / "data"


def said(lines) -> dict[str, int]:
    """Kind -> how many, from the lines; every line is of a known kind."""
    titles = {kind.title: name for name, kind in kinds.KINDS.items()}
    titles |= {kind.one: name for name, kind in kinds.KINDS.items() if kind.one}
    counts = {}
    for line in lines:
        level, rest = line.split(": ", 1)
        assert level in ("warning", "note"), "a run that goes on names no error"
        rest = rest.split("; bin/doctor")[0]
        parts = re.split(r", (?=\d)", rest) if level == "note" else [rest]  # titles have commas
        for part in parts:
            count, words = re.fullmatch(r"(?:([\d,]+) )?(.*)", part).groups()
            name = titles[words if level == "note" else words.split(", as ")[0]]
            counts[name] = int(count) if count else None
            one = kinds.KINDS[name].one
            assert words.startswith(one) if count == "1" else not one or not words.startswith(one)
    return counts


@pytest.mark.parametrize("memory", [10**9, 0], ids=["in memory", "on the disk"])
def test_a_run_says_what_the_doctor_finds(odd, tmp_path, memory):
    spec = DataSpec("folders", str(odd))
    examined = examine.examine(spec, 2, lambda *_: None)
    found = {one.name: len(one.entries) for one in examined.findings}
    assert set(found) == {
        *("tiny", "narrow", "link_outside", "link_circle", "wrong_name", "several_frames"),
        *("turned", "odd_name", "stray"),
    }
    examples = sources.load(spec)
    place = CacheLocation(tmp_path / "cache", memory)

    def lines() -> list[str]:
        job = plan(examples, (24, 20), "squash", 2, lambda _: None, place)
        seen = pixel_cache.look(job)
        assert seen.broken == []
        seen.pixels.wait()
        return in_short(seen.examples, seen.pixels, spec)

    first = lines()
    assert said(first) == found
    for path in examples.paths:
        spoil(Path(path))
    assert lines() == first, "kept, and no image is opened"


def test_without_pixels_headers_are_read_all_the_same(odd):
    spec = DataSpec("folders", str(odd))
    counts = said(in_short(sources.load(spec), None, spec))
    assert counts["tiny"] == counts["narrow"] == counts["wrong_name"] == 1


def test_of_very_many_a_sample_is_looked_at_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(headers, "MOST", 4)
    names = [str(tmp_path / f"{number}.png") for number in range(8)]
    for name in names:
        Path(name).write_bytes(saved(SCENES[0].resize((20, 16)), "PNG"))
    found = from_columns(names, [0, 1] * 4, ("cats", "dogs"), keys=names)
    warning, last = in_short(found, None)
    assert warning.startswith("warning: 4 images so small")
    assert last == "sizes and formats are those of 4 of the 8 images"
