"""bin/evaluate --compare: several runs on the images that they have in common."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from engine.commands.split_predictions import EvaluationData
from engine.core.errors import UserError
from engine.runs.directory import RunDirectory
from pipelines.sources import sources
from tests.engine import saved_run
from tests.engine.commands.evaluated import CLASSES, expected_predictions, with_data


def test_compare_uses_test_splits_where_all_runs_have_one(evaluate, tested):
    rows = evaluate("--compare", tested.path, tested.path)
    assert [(row["split"], row["count"]) for row in rows] == [("test", 4)] * 2
    identities = [{"validation": "4 (1c)", "test": f"{count} (7e)"} for count in (4, 0)]
    assert EvaluationData().choose_split(identities) == "validation"


def correct_by_image(run: RunDirectory) -> dict[Path, bool]:
    """Which validation images the run predicts correctly, by where they really lie."""
    labels, probabilities = expected_predictions(run, "validation")
    paths = sources.load_examples(run.read_recipe().data).subset("validation").paths
    right = (probabilities.argmax(-1) == labels).tolist()
    return dict(zip((Path(path).resolve() for path in paths), right, strict=True))


def test_compare_uses_the_images_that_both_runs_have(call, evaluate, models, coloured, tmp_path):
    """One names the folder by a link: images are known by where they really lie."""
    (tmp_path / "link").symlink_to(coloured)
    one, other = models["one"], models["other"]
    recipe = with_data(one.read_recipe(), location=str(tmp_path / "link"))
    recipe = dataclasses.replace(recipe, seed=1)
    linked = saved_run.save(tmp_path / "linked", classes=CLASSES, recipe=recipe)
    rows = evaluate("--compare", one.path, linked.path, other.path)
    assert call.said.err == ""
    assert [row["run_dir"] for row in rows] == [str(run.path) for run in (one, linked, other)]
    assert rows[0]["against_first"] is None
    first = correct_by_image(one)
    for row, run in zip(rows[1:], (linked, other), strict=True):
        found, second = row["against_first"], correct_by_image(run)
        pairs = [(first[name], second[name]) for name in first.keys() & second.keys()]
        only = [pairs.count((True, False)), pairs.count((False, True))]
        assert [found["only_a"], found["only_b"]] == only
        assert found["common"] == len(pairs)
        assert found["right_a"] == sum(a for a, _ in pairs)
        assert row["accuracy"] == np.mean(list(second.values()))
    assert rows[1]["against_first"]["common"] == 13 > rows[2]["against_first"]["common"] > 0


def test_compare_names_runs_without_a_common_image(evaluate, models, coloured, tmp_path):
    copied = shutil.copytree(coloured, tmp_path / "copied")
    one = models["one"]
    recipe = with_data(one.read_recipe(), location=str(copied))
    third = saved_run.save(tmp_path / "third", classes=CLASSES, recipe=recipe)
    message = f"{one.path} and {third.path} have no image in common (of 13 and 13)"
    with pytest.raises(UserError, match=re.escape(message)):
        evaluate("--compare", one.path, third.path)


def test_compare_warns_of_images_that_runs_were_trained_on(call, models, coloured):
    one, other = (run.path for run in models.values())
    out = call("evaluate", "--compare", f"--data_dir={coloured}", one, other)
    header, row = out.splitlines()[:2]
    accuracy = re.search(r"\d+\.\d+%", row)
    assert header.index("accuracy") + len("accuracy") == accuracy.end(), "columns are aligned"
    for line, path in zip(call.said.err.splitlines(), (one, other), strict=True):
        assert line.startswith(f"{path} was trained on 39 of the 52 images")
    assert f"{other} against {one}" in out
    assert "of 52 images that both have" in out
    assert "McNemar" in out


def test_compare_refuses_runs_of_other_classes(call, models, tmp_path):
    recipe = models["one"].read_recipe()
    other = saved_run.save(tmp_path / "run", classes=("blue", "green"), recipe=recipe)
    with pytest.raises(UserError, match="different classes: blue, red and blue, green"):
        call("evaluate", "--compare", models["one"].path, other.path)
