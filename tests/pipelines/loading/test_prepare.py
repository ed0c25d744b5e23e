"""From a recipe to images that can be trained on, and what is written meanwhile."""

import dataclasses
import threading

import numpy as np
import pytest

from engine.core.errors import UserError
from engine.core.recipe import DataSpec, Phase, Recipe
from pipelines.loading import prepare
from pipelines.pixel_cache import pixel_cache, pixel_files
from pipelines.pixel_cache.pixel_plan import plan
from pipelines.pixel_cache.store import CacheLocation
from pipelines.sources import sources
from pipelines.sources.examples import from_columns
from tests.pipelines.cached import (
    PLENTY,
    SIZE,
    expected,
)


def recipe(folder):
    data = DataSpec("folders", str(folder), validation_fraction=0.25)
    phases = (Phase("transfer"),)
    return Recipe(data=data, phases=phases, backbone="efficientnet_lite0", image_size=SIZE)


def test_what_is_kept_for_later_runs_is_written_when_nothing_else_comes_first(paths, cache):
    asked, go_on = threading.Event(), threading.Event()

    def give_way():
        asked.set()
        assert go_on.wait(60)

    names = [str(path) for path in paths]
    examples = from_columns(names, [0] * len(names), ("a",), keys=names)
    place = CacheLocation(cache, PLENTY, give_way)
    pixels = pixel_cache.look(plan(examples, SIZE, "squash", 2, print, place)).pixels
    assert asked.wait(60)
    np.testing.assert_array_equal(pixels.rows, expected(paths))  # in memory, and taken already
    assert not [path for path in cache.glob("pixels-*") if pixel_files.PART not in path.name]
    go_on.set()
    pixels.wait()
    (folder,) = cache.glob("pixels-*")
    written = np.fromfile(folder / pixel_files.PIXELS, np.uint8)
    np.testing.assert_array_equal(written, expected(paths).reshape(-1))


@pytest.mark.parametrize("written", [False, True])
def test_what_the_end_of_the_program_interrupts_leaves_nothing_behind(paths, cache, written):
    """Before it is written, and before it is brought to the disk."""
    looks = iter([written])

    def give_way():
        if not next(looks, False):
            raise InterruptedError("the program ends")

    lines, names = [], [str(path) for path in paths]
    examples = from_columns(names, [0] * len(names), ("a",), keys=names)
    place = CacheLocation(cache, PLENTY, give_way)
    pixels = pixel_cache.look(plan(examples, SIZE, "squash", 2, lines.append, place)).pixels
    pixels.wait()
    assert not list(cache.glob("pixels-*"))
    assert len(lines) == 1, "nothing but that it decodes"


def test_from_a_recipe(coloured, cache, tmp_path):
    report = tmp_path / "bad.csv"
    lines = []
    place, given = CacheLocation(cache, PLENTY), sources.load_examples(recipe(coloured).data)
    examples, pixels = prepare.prepare_training_data(
        given, recipe(coloured), report, 2, lines.append, place
    )
    pixels.wait()
    for part in ("train", "validation"):
        some = examples.subset(part)
        np.testing.assert_array_equal(pixels.take(some.rows), expected(some.paths))
    found, pixels = prepare.prepare_evaluation_data(
        recipe(coloured), examples.classes, "validation", 2, lines.append, place
    )
    assert not pixels.in_memory
    np.testing.assert_array_equal(pixels.take(found.rows), expected(found.paths))
    assert len(lines) == 1
    elsewhere = CacheLocation(tmp_path / "none", PLENTY)
    for nowhere in (elsewhere, None):
        found, pixels = prepare.prepare_evaluation_data(
            recipe(coloured), examples.classes, "all", 2, lines.append, nowhere
        )
        assert pixels is None
        assert len(found) == 52
        assert (found.rows == -1).all()
    examples, pixels = prepare.prepare_training_data(
        sources.load_examples(recipe(coloured).data), recipe(coloured), report, 2, lines.append
    )
    assert pixels is None
    assert len(examples) == 52


@pytest.mark.parametrize("gone", [1, 2])
def test_files_that_a_manifest_only_names_are_said_not_to_exist(coloured, tmp_path, gone):
    """In one line, and not as broken images that could be replaced."""
    rows = [f"{path},{path.parent.name}" for path in sorted(coloured.glob("*/*"))]
    rows += [f"gone/{number}.jpg,{rows[0].split(',')[1]}" for number in range(gone)]
    data = DataSpec("manifest", str(tmp_path / "list.csv"), validation_fraction=0.25)
    data = dataclasses.replace(data, manifest_root="/")
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    whole = dataclasses.replace(recipe(coloured), data=data)
    lines = []
    prepare.prepare_training_data(
        sources.load_examples(data), whole, tmp_path / "bad.csv", 2, lines.append
    )
    (line,) = [line for line in lines if "left out" in line]
    for words in (f"{gone} of {len(rows)} files", "exist", "gone/", f"count from {tmp_path};"):
        assert words in line
    assert ("does not" if gone == 1 else "do not") in line


def test_a_part_of_which_nothing_can_be_used_is_not_called_empty(coloured, tmp_path):
    """Its own files are counted, not all that the manifest names."""
    rows = [f"{path},{path.parent.name},train" for path in sorted(coloured.glob("*/*"))]
    rows += [f"{name}/{n}.jpg,{name},test" for name in ("blue", "red") for n in range(2)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    data = DataSpec("manifest", str(tmp_path / "list.csv"), manifest_root="/")
    whole, lines = dataclasses.replace(recipe(tmp_path), data=data), []
    with pytest.raises(UserError, match=r"^4 of 4 images can't be used; mend or remove what"):
        prepare.prepare_evaluation_data(whole, ("blue", "red"), "test", 2, lines.append)
    assert "4 of 4 files that were looked for do not exist" in lines[0]
    with pytest.raises(UserError, match="--part=test: the data has no such examples"):
        prepare.prepare_evaluation_data(recipe(coloured), ("blue", "red"), "test", 2, lines.append)


def test_a_class_that_is_broken_is_told_beside_files_that_do_not_exist(coloured, tmp_path):
    """Else who corrects the paths is stopped again, by what was there to be seen."""
    rows = [f"{path},blue" for path in sorted(coloured.glob("blue/*"))]
    rows += ["gone.jpg,blue", *(f"{n}.jpg,red" for n in range(4))]
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(b"bad")
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    data = DataSpec("manifest", str(tmp_path / "list.csv"), validation_fraction=0.25)
    data = dataclasses.replace(data, manifest_root="/")
    whole = dataclasses.replace(recipe(tmp_path), data=data)
    with pytest.raises(UserError) as caught:
        prepare.prepare_training_data(
            sources.load_examples(whole.data), whole, tmp_path / "bad.csv", 2, print
        )
    assert "no image of class 'red' in train can be used" in str(caught.value)
    assert "1 of 31 files that were looked for does not exist" in str(caught.value)


def test_where_all_files_of_a_manifest_are_elsewhere_that_is_the_error(tmp_path):
    rows = [f"{label}{number}.jpg,{label}" for label in "ab" for number in range(4)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    data = DataSpec("manifest", str(tmp_path / "list.csv"), validation_fraction=0.25)
    whole = dataclasses.replace(recipe(tmp_path), data=data)
    with pytest.raises(UserError, match=rf"8 of 8 files .* do not exist.*a0.*from {tmp_path};"):
        prepare.prepare_training_data(
            sources.load_examples(data), whole, tmp_path / "bad.csv", 2, print
        )
