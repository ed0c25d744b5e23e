"""A data set with one of everything, looked at by the doctor; its list, its page and its JSON."""

import csv
import html.parser
import json
import os
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from engine.specs import DataSpec, UserError
from pipelines import sources
from pipelines.doctor import clean, examine, page, report
from tests.pipelines import bad_pictures
from tests.pipelines.doctor.test_likeness import SCENES, jpeg
from tests.pipelines.pictures import COLOUR, saved


def scene(number: int) -> bytes:
    return saved(SCENES[number], "JPEG", quality=90)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """train/ and val/ of cats and dogs, with most of what can be wrong."""
    root = tmp_path_factory.mktemp("doctor") / "data"
    files = {f"train/cats/{number}.jpg": scene(number) for number in range(12)}
    files |= {f"train/dogs/{number}.jpg": scene(number) for number in range(12, 13)}
    files |= {f"val/cats/{number}.jpg": scene(number) for number in range(20, 24)}
    files |= {f"val/dogs/{number}.jpg": scene(number) for number in range(24, 28)}
    files |= {
        "train/cats/copy.jpg": scene(0),
        "train/dogs/of_other_label.jpg": scene(1),
        "train/cats/leak.jpg": scene(20),
        "train/cats/near_leak.jpg": saved(jpeg(SCENES[21], 40), "JPEG"),
        "val/dogs/near_label.jpg": saved(jpeg(SCENES[22], 40), "JPEG"),
        "train/cats/again.png": saved(SCENES[2].resize((200, 150)), "PNG"),
        "train/cats/black.png": saved(Image.new("RGB", (90, 90)), "PNG"),
        "train/cats/tiny.png": saved(SCENES[30].resize((20, 16)), "PNG"),
        "train/cats/long.png": saved(SCENES[31].resize((400, 40)), "PNG"),
        "train/cats/named.png": scene(32),
        "train/cats/moving.gif": saved(
            COLOUR.quantize(64), "GIF", save_all=True, append_images=[COLOUR.rotate(180)]
        ),
        "train/cats/empty.jpg": b"",
        "train/cats/text.jpg": b"no picture",
        "train/cats/other.jpg": saved(COLOUR, "TIFF"),
        "train/cats/cut.jpg": scene(33)[:3000],
        "train/cats/bomb.png": bad_pictures.png_bomb(None),
    }
    turned = Image.Exif()
    turned[0x0112] = 6
    files["train/cats/turned.jpg"] = saved(SCENES[34], "JPEG", exif=turned)
    for name, contents in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(contents)
    return root


@pytest.fixture(scope="module")
def examined(data):
    before = sorted((path, path.stat().st_mtime_ns) for path in data.rglob("*"))
    seen = []
    spec = DataSpec("folders", str(data))
    found = examine.examine(spec, 2, lambda *progress: seen.append(progress))
    assert sorted((path, path.stat().st_mtime_ns) for path in data.rglob("*")) == before
    assert seen[-1] == (int(found.sound.sum()), len(found.examples))
    return found


def names(entry) -> str:
    return " ".join(sorted(os.path.basename(place.split(" (")[0]) for place in entry.places))


def test_everything_is_found_once_under_its_kind(examined):
    found = {one.name: [names(entry) for entry in one.entries] for one in examined.findings}
    refused = found.pop("refused")
    assert refused == ["data"]  # the same file in two parts, which training does not take
    assert found == {
        "empty": ["empty.jpg"],
        "no_picture": ["other.jpg", "text.jpg"],
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


def test_findings_stand_from_the_gravest_to_the_least(examined):
    levels = [one.kind.level for one in examined.findings]
    assert levels == sorted(levels, key=["error", "warning", "note"].index)


def test_the_clean_list_is_what_training_takes(examined, data, tmp_path):
    file = data.parent / "clean.csv"
    contents, count = clean.manifest(examined, str(file))
    file.write_bytes(contents)
    rows = list(csv.DictReader(file.open()))
    assert len(rows) == count
    listed = Counter(os.path.basename(row["path"]) for row in rows)
    assert set(listed.values()) == {1}
    for gone in ("empty", "text", "cut", "bomb", "of_other_label", "1", "leak", "near_leak"):
        assert not {f"{gone}.jpg", f"{gone}.png"} & set(listed), gone
    assert ("0.jpg" in listed) != ("copy.jpg" in listed), "one of two copies stays"
    assert {"20.jpg", "21.jpg"} <= set(listed), "what is measured on stays"
    groups = {os.path.basename(row["path"]): row["group"] for row in rows}
    assert groups["2.jpg"] == groups["again.png"] != ""
    assert {row["split"] for row in rows} == {"train", "validation"}
    examples = sources.load(DataSpec("manifest", str(file)))
    assert len(examples) == count
    assert all(os.path.exists(path) for path in examples.paths)


def test_the_list_leaves_it_to_training_to_take_a_validation_part(tmp_path):
    for name, first in (("cats", 0), ("dogs", 10)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(first, first + 6):
            (tmp_path / "data" / name / f"{number}.jpg").write_bytes(scene(number))
    found = examine.examine(DataSpec("folders", str(tmp_path / "data")), 2, lambda *_: None)
    assert found.findings == ()
    contents, count = clean.manifest(found, str(tmp_path / "list.csv"))
    rows = list(csv.DictReader(contents.decode().splitlines()))
    assert count == 12
    assert {row["split"] for row in rows} == {""}
    assert all(row["path"].startswith("data/") for row in rows), "both can move together"


def test_a_list_elsewhere_says_which_root_it_takes(examined, data, tmp_path):
    assert (
        clean.flags(examined.examples, f"{data.parent}/a.csv") == f"--manifest={data.parent}/a.csv"
    )
    given = clean.flags(examined.examples, str(tmp_path / "a.csv")).split("--manifest_root=")[1]
    (tmp_path / "a.csv").write_bytes(clean.manifest(examined, str(tmp_path / "a.csv"))[0])
    spec = DataSpec("manifest", str(tmp_path / "a.csv"), manifest_root=given)
    assert len(sources.load(spec)) == clean.manifest(examined, "a.csv")[1]


def test_pictures_in_record_files_can_not_be_listed(examined):
    inside = examined.examples.replace(lengths=np.full(len(examined.examples), 9))
    records = examine.Examined(inside, True, examined.sound, examined.fingerprints, (), ())
    with pytest.raises(UserError, match="record files"):
        clean.manifest(records, "list.csv")


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


def test_the_page_stands_alone_with_a_picture_of_each_sound_case(examined):
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
    assert value["pictures"] == len(examined.examples)
    assert value["sound"] == value["pictures"] - 5
    assert value["classes"]["validation"] == {"cats": 4, "dogs": 5}
    cases = {one["kind"]: len(one["cases"]) for one in value["findings"]}
    assert cases == {one.name: len(one.entries) for one in examined.findings}


def test_the_terminal_shows_some_of_each_and_counts_the_rest(examined):
    text = "\n".join(report.lines(examined, 2.0))
    assert "pictures in" in text
    assert "train: 27 cats, 2 dogs" in text
    assert "train/cats/empty.jpg: empty file" in text
    assert "train/cats/other.jpg: TIFF, which is not read here" in text
    assert text.endswith("7 errors, 6 warnings, 5 notes")
    many = examine.Finding("empty", tuple(examine.Entry((f"{n}.jpg",)) for n in range(9)))
    short = examine.Examined(examined.examples, True, examined.sound, np.zeros(0), (), (many,))
    assert "  and 6 more" in report.lines(short, 1.0)
