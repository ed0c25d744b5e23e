import os

import pytest

from engine.core.recipe import DataSpec
from pipelines.doctor import path_checks
from pipelines.sources import sources
from tests.pipelines.encoded_images import COLOUR, saved


@pytest.fixture
def data(tmp_path):
    root = tmp_path / "data"
    for name in ("cats", "dogs"):
        (root / name).mkdir(parents=True)
        (root / name / "one.jpg").write_bytes(saved(COLOUR, "JPEG"))
    return root


def found(root) -> dict[str, list[str]]:
    spec = DataSpec("folders", str(root))
    findings = path_checks.check_paths(spec, sources.list_examples(spec))
    return {
        one.name: sorted(os.path.basename(case.places[0]) for case in one.cases) for one in findings
    }


def test_plain_folder_has_no_findings(data):
    assert found(data) == {}


def test_links_are_sorted_by_target(data, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "other.jpg").write_bytes(saved(COLOUR, "JPEG"))
    (data / "cats" / "folder_out").symlink_to(tmp_path / "elsewhere")
    (data / "cats" / "file_out.jpg").symlink_to(tmp_path / "other.jpg")
    (data / "cats" / "up").symlink_to(data)
    (data / "cats" / "itself").symlink_to("itself")
    (data / "cats" / "sound.jpg").symlink_to(data / "dogs" / "one.jpg")
    assert found(data) == {
        "link_outside": ["file_out.jpg", "folder_out"],
        "link_circle": ["itself", "up"],
    }


def test_folder_with_the_root_as_prefix_is_outside(data, tmp_path):
    (tmp_path / "data2").mkdir()
    (data / "cats" / "near").symlink_to(tmp_path / "data2")
    assert found(data) == {"link_outside": ["near"]}


def test_images_beside_class_folders_are_strays(data):
    (data / "forgotten.png").write_bytes(saved(COLOUR, "PNG"))
    (data / "readme.txt").write_text("no image")
    assert found(data) == {"stray": ["forgotten.png"]}


def test_images_beside_class_folders_of_a_split_are_strays(tmp_path):
    for part in ("train", "val"):
        for name in ("cats", "dogs"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "one.jpg").write_bytes(saved(COLOUR, "JPEG"))
    (tmp_path / "train" / "forgotten.jpg").write_bytes(saved(COLOUR, "JPEG"))
    assert found(tmp_path) == {"stray": ["forgotten.jpg"]}


def test_names_not_in_utf8_are_odd(data):
    path = os.path.join(os.fsencode(data), b"cats", b"\xff.jpg")
    with open(path, "wb") as file:
        file.write(saved(COLOUR, "JPEG"))
    assert found(data) == {"odd_name": ["\\xff.jpg"]}
