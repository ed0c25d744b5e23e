import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.core.recipe import DataSpec
from pipelines.decode import decode, headers
from pipelines.doctor import examine, quick_check
from pipelines.pixel_cache.build import PixelCacheBuilder
from pipelines.pixel_cache.cache import CacheLocation, PixelCache
from pipelines.sources import sources
from pipelines.sources.examples import from_columns
from tests.pipelines.cached import blank_index, recipe_of, spoil
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
    index = blank_index(count)
    index.facts["fingerprint"], index.facts["orientation"] = fingerprints, 1
    index.facts["header"] = np.array((b"JPEG", 100, 100, 1), headers.COLUMN)
    return PixelCache((16, 16, 3), index, memory=images)


def check(examples, pixels, spec=SPEC):
    return list(quick_check.quick_check(spec, examples, pixels))


def test_check_of_sound_images_says_nothing():
    assert check(examples([0, 1, 0, 1]), pixels([1, 2, 3, 4])) == []
    assert check(examples([0, 1]), None) == []


def test_duplicates_under_two_labels_are_a_warning_and_others_a_note():
    line, note = check(examples([0, 1, 0, 0]), pixels([7, 7, 3, 3]))
    for words in ("different labels", "0.jpg (train, cats), 1.jpg (train, dogs)", "bin/doctor"):
        assert words in line
    assert note == "note: 1 file with further copies; bin/doctor shows all"


def test_duplicates_in_two_splits_are_a_warning():
    (line,) = check(examples([0, 1, 0], [0, 0, 2]), pixels([7, 3, 7]))
    assert "in training and in validation or test" in line


@pytest.mark.parametrize("levels", [0, 3])
def test_image_of_one_colour_is_a_warning(levels):
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    images[1] = 99
    images[1, 3, 5] += levels
    (line,) = check(examples([0, 1, 0]), pixels([1, 2, 3], images))
    assert "of one colour" in line
    assert "1.jpg" in line


def test_image_with_one_dot_between_the_probes_is_not_of_one_colour():
    images = np.full((2, 16, 16, 3), 99, np.uint8)
    images[:, 3, 5] = 200
    assert check(examples([0, 1]), pixels([1, 2], images)) == []


@pytest.mark.parametrize(("few", "reported"), [(10, False), (9, True)])
def test_class_below_a_tenth_of_another_is_a_warning(few, reported):
    lines = check(examples([0] * 100 + [1] * few), None)
    assert len(lines) == reported
    assert not reported or "100 to train on" in lines[0]


@pytest.fixture
def odd(tmp_path):
    """Folders of readable images with one of everything that is unusual."""
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


def reported(lines) -> set[str]:
    """The `Finding.counted` of each line, and of each part of the line of notes."""
    assert all(line.startswith(("warning: ", "note: ")) for line in lines), "never an error"
    texts = [line.split(": ", 1)[1].split(", such as ")[0] for line in lines]
    return {part for text in texts for part in text.split("; bin/doctor")[0].split("; ")}


@pytest.mark.parametrize("memory", [10**9, 0], ids=["in memory", "on the disk"])
def test_check_before_a_run_agrees_with_the_doctor(odd, tmp_path, memory):
    spec = DataSpec("folders", str(odd))
    findings = examine.examine(spec, 2, lambda *_: None).summary.findings
    assert {one.name for one in findings} == {
        *("tiny", "narrow", "link_outside", "link_circle", "wrong_name", "several_frames"),
        *("turned", "odd_name", "stray", "passed_over"),
    }
    examples = sources.load_examples(spec)
    place = CacheLocation(tmp_path / "cache", memory)

    def lines() -> list[str]:
        result = PixelCacheBuilder(examples, recipe_of(), 2, lambda _: None, place).build()
        assert result.broken == []
        result.pixels.wait()
        return check(result.examples, result.pixels, spec)

    first = lines()
    # A run says what is passed over in a line of its own, by kind.
    assert reported(first) == {one.counted for one in findings if one.name != "passed_over"}
    for path in examples.paths:
        spoil(Path(path))
    assert lines() == first, "cached, and no image is opened"


def test_check_without_cached_pixels_reads_headers(odd):
    spec = DataSpec("folders", str(odd))
    lines = reported(check(sources.load_examples(spec), None, spec))
    assert {"1 image with little to see, so small", "1 image of extreme aspect ratio"} <= lines


def test_check_of_many_images_reads_a_sample_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(headers, "MAX_READ", 4)
    names = [str(tmp_path / f"{number}.png") for number in range(8)]
    for name in names:
        Path(name).write_bytes(saved(SCENES[0].resize((20, 16)), "PNG"))
    examples = from_columns(names, [0, 1] * 4, ("cats", "dogs"), keys=names)
    warning, last = check(examples, None)
    assert warning.startswith("warning: 4 images with little to see")
    assert last == "sizes and formats are those of 4 of the 8 images"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    for name in ("cats", "dogs"):
        (root / name).mkdir(parents=True)
        (root / name / "one.jpg").write_bytes(saved(COLOUR, "JPEG"))
    return root


def list_findings(root) -> dict[str, list[str]]:
    spec = DataSpec("folders", str(root))
    findings = quick_check.check_paths(spec, sources.list_examples(spec))
    return {
        one.name: sorted(os.path.basename(case.places[0]) for case in one.cases) for one in findings
    }


def test_paths_below_the_home_folder_are_checked(folder, tmp_path, monkeypatch):
    (folder / "cats" / "out").symlink_to(tmp_path)
    (folder / "stray.jpg").write_bytes(saved(COLOUR, "JPEG"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert list_findings("~/data") == {"link_circle": ["out"], "stray": ["stray.jpg"]}


def test_links_are_sorted_by_target(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "other.jpg").write_bytes(saved(COLOUR, "JPEG"))
    (folder / "cats" / "folder_out").symlink_to(tmp_path / "elsewhere")
    (folder / "cats" / "file_out.jpg").symlink_to(tmp_path / "other.jpg")
    (folder / "cats" / "up").symlink_to(folder)
    (folder / "cats" / "itself").symlink_to("itself")
    (folder / "cats" / "inside.jpg").symlink_to(folder / "dogs" / "one.jpg")
    assert list_findings(folder) == {
        "link_outside": ["file_out.jpg", "folder_out"],
        "link_circle": ["itself", "up"],
    }


def test_folder_with_the_root_as_prefix_is_outside(folder, tmp_path):
    (tmp_path / "data2").mkdir()
    (folder / "cats" / "near").symlink_to(tmp_path / "data2")
    assert list_findings(folder) == {"link_outside": ["near"]}


def test_images_beside_class_folders_of_a_split_are_strays(tmp_path):
    for part in ("train", "val"):
        for name in ("cats", "dogs"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "one.jpg").write_bytes(saved(COLOUR, "JPEG"))
    (tmp_path / "train" / "forgotten.jpg").write_bytes(saved(COLOUR, "JPEG"))
    (tmp_path / "train" / "readme.txt").write_text("no image")
    assert list_findings(tmp_path) == {"stray": ["forgotten.jpg"]}


def test_folders_inside_class_folders_are_reported_with_their_class(folder):
    (folder / "dogs" / "small" / "brown").mkdir(parents=True)
    (folder / "dogs" / "small" / "brown" / "two.jpg").write_bytes(saved(COLOUR, "JPEG"))
    spec = DataSpec("folders", f"{folder}/")
    (finding,) = quick_check.check_paths(spec, sources.list_examples(spec))
    assert (finding.name, finding.cases[0].detail) == ("nested", "read as class 'dogs'")
    assert finding.cases[0].places == (f"{folder}/dogs/small/brown",)


@pytest.mark.parametrize(
    ("header", "unread"),
    [
        ("path,label,data_split,patient_id,note", ["data_split", "patient_id"]),
        ("path,label,fold,split,group,folder,session", []),
    ],
)
def test_unread_columns_that_look_like_splits_or_groups_are_reported(tmp_path, header, unread):
    (tmp_path / "list.csv").write_text(f"{header}\nx,a\ny,b\n")
    spec = DataSpec("manifest", str(tmp_path / "list.csv"))
    findings = quick_check.check_paths(spec, sources.list_examples(spec))
    assert [case.places[0] for one in findings for case in one.cases] == unread
    assert {one.name for one in findings} == ({"unread_column"} if unread else set())


def test_deep_png_of_twelve_bits_is_a_warning_with_its_share(tmp_path):
    levels = np.random.default_rng(0).integers(0, 4096, (40, 40), np.uint16)
    deep = {"twelve.png": levels, "sixteen.png": levels * 16, "dark.png": levels // 256}
    deep["dark.png"] = deep["dark.png"].astype(np.uint8)
    paths = [str(tmp_path / name) for name in deep]
    for path, image in zip(paths, deep.values(), strict=True):
        Image.fromarray(image).save(path)
    listed = from_columns(paths, [0, 1, 0], ("cats", "dogs"), keys=paths)
    images = np.stack([decode.decode(Path(path).read_bytes(), 16, 16).numpy() for path in paths])
    (line,) = [line for line in check(listed, pixels([1, 2, 3], images)) if "levels" in line]
    assert line.startswith("warning: 1 PNG of 16 bits that uses few of its levels")
    assert re.search(r"twelve\.png: uses about [56]% of the range; multiply its levels", line)
    examined = examine.examine(
        DataSpec("manifest", str(_manifest(tmp_path, deep))), 1, lambda *_: None
    )
    (finding,) = [one for one in examined.summary.findings if one.name == "shallow"]
    assert [case.places for case in finding.cases] == [(paths[0],)]


def _manifest(folder: Path, names) -> Path:
    rows = [f"{name},{number % 2}" for number, name in enumerate(names)]
    (folder / "all.csv").write_text("\n".join(["path,label", *rows]))
    return folder / "all.csv"
