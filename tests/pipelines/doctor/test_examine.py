"""A data set with one of everything, looked at by the doctor; its list, its page and its JSON."""

import dataclasses
import html.parser
import json
import os
from collections import Counter

import numpy as np
import pytest

from engine.core.errors import UserError
from engine.core.recipe import DataSpec
from pipelines.doctor import examine, page, report
from pipelines.sources import sources
from tests.pipelines.doctor.scenes import scene


def names(entry) -> str:
    return " ".join(sorted(os.path.basename(place.split(" (")[0]) for place in entry.places))


def test_everything_is_found_once_under_its_kind(examined):
    found = {one.name: [names(entry) for entry in one.entries] for one in examined.findings}
    refused = found.pop("refused")
    assert refused == ["data"]  # the same file in two parts, which training does not take
    assert found == {
        "empty": ["empty.jpg"],
        "no_image": ["other.jpg", "text.jpg"],
        "bomb": ["bomb.png"],
        "damaged": ["cut.jpg"],
        "copies_across_parts": ["20.jpg leak.jpg"],
        "copies_of_other_label": ["1.jpg of_other_label.jpg"],
        "likeness_across_parts": ["21.jpg near_leak.jpg"],
        "likeness_of_other_label": ["22.jpg near_label.jpg"],
        "one_colour": ["black.png"],
        "tiny": ["tiny.png"],
        "narrow": ["long.png"],
        "imbalance": ["cats", "dogs"],
        "copies": ["0.jpg copy.jpg"],
        "likeness": ["2.jpg again.png"],
        "wrong_name": ["named.png"],
        "several_frames": ["moving.gif"],
        "turned": ["turned.jpg"],
    }


def test_what_training_would_say_is_said_and_the_rest_looked_at_all_the_same(data, examined):
    with pytest.raises(UserError) as caught:
        sources.load(DataSpec("folders", str(data)))
    assert examined.findings[0].name == "refused"
    assert examined.findings[0].entries[0].detail == str(caught.value)


def test_a_limit_holds_where_training_would_refuse_too(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for number in range(6):
            (tmp_path / name / f"{number}.jpg").write_bytes(scene(number))
    found = examine.examine(
        DataSpec("folders", str(tmp_path), limit_examples=1), 2, lambda *_: None
    )
    assert found.findings[0].name == "refused"
    assert len(found.examples) == 2


def test_a_place_that_is_not_utf_8_is_told_all_the_same(tmp_path):
    place = os.path.join(os.fsencode(tmp_path), b"\xff", b"only")
    os.makedirs(place)
    with open(os.path.join(place, b"a.jpg"), "wb") as file:
        file.write(scene(0))
    spec = DataSpec("folders", os.fsdecode(os.path.dirname(place)))
    found = examine.examine(spec, 2, lambda *_: None)
    assert found.findings[0].name == "refused"
    assert b"\\xff" in page.page(found, 1.0).encode()


def test_findings_stand_from_the_gravest_to_the_least(examined):
    levels = [one.kind.level for one in examined.findings]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)


class Reader(html.parser.HTMLParser):
    """What a browser would make of a page, as far as these tests ask."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.images, self.open = Counter(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        if tag == "img":
            self.images.append(dict(attributes))
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_alone_with_a_image_of_each_sound_case(examined):
    text = page.page(examined, 1.5)
    read = Reader(text)
    assert not read.open, "every tag that opens closes"
    assert not {"script", "link", "iframe"} & set(read.tags)
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in read.images)
    assert all(image["alt"] for image in read.images)
    shown = Counter(os.path.basename(image["alt"]) for image in read.images)
    assert {"20.jpg", "leak.jpg", "black.png", "turned.jpg"} <= set(shown)
    assert not {"empty.jpg", "cut.jpg", "bomb.png"} & set(shown)


def test_a_name_of_a_file_is_never_markup(tmp_path):
    for name in ("cats", "dogs<b>"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(scene(1 if name == "cats" else 2))
    (tmp_path / "cats" / '"><script>alert(1)<').write_bytes(b"bad")
    found = examine.examine(DataSpec("folders", str(tmp_path)), 2, lambda *_: None)
    read = Reader(page.page(found, 1.0))
    assert not {"script", "b"} & set(read.tags)


def test_json_lists_every_case(examined):
    value = json.loads(json.dumps(report.as_json(examined, 2.0)))
    assert value["images"] == len(examined.examples)
    assert value["sound"] == value["images"] - 5
    assert value["classes"]["validation"] == {"cats": 4, "dogs": 5}
    cases = {one["kind"]: len(one["cases"]) for one in value["findings"]}
    assert cases == {one.name: len(one.entries) for one in examined.findings}


def test_the_terminal_shows_some_of_each_and_counts_the_rest(examined):
    text = "\n".join(report.lines(examined, 2.0))
    assert "images in" in text
    assert "train: 27 cats, 2 dogs" in text
    assert "train/cats/empty.jpg: empty file" in text
    assert "train/cats/other.jpg: TIFF, which is not read here" in text
    assert text.endswith("7 errors, 6 warnings, 5 notes")
    many = examine.Finding("empty", tuple(examine.Entry((f"{n}.jpg",)) for n in range(9)))
    short = examine.ExaminedDataset(
        examined.examples, True, examined.sound, np.zeros(0), (), (many,)
    )
    assert "  and 6 more" in report.lines(short, 1.0)


def test_the_page_names_the_place_and_says_where_nothing_is_wrong(examined, data):
    assert f"in {data}/" in page.page(examined, 1.0)
    assert "All is well" not in page.page(examined, 1.0)
    sound = dataclasses.replace(examined, findings=())
    text = page.page(sound, 1.0)
    assert "All is well" in text
    assert Reader(text).tags["table"] == 1, "that of the classes alone"


def test_the_page_has_colours_of_its_own_for_links_in_the_dark(examined):
    light, dark = page.page(examined, 1.0).split("prefers-color-scheme: dark")
    assert "color-scheme: light dark" in light
    assert "a { color:" in light
    assert "a { color:" in dark
