"""Runs that begin from a `recipe.json`: what is taken from it, and what is said of a wrong one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli import flags as cli_flags
from engine.cli import recipe_file
from engine.core.recipe import digest, to_json
from engine.runs.directory import RunDirectory

ALL = (
    "--data_dir=x", "--backbone=mobilenet_v2", "--image_size=32x40", "--augment=rotate(10)|flip",
    "--dropout=0.1", "--phase=a(epochs=2, schedule=cosine, warmup_steps=3, views=2, refresh=0.5)",
    "--phase=b(trainable=all, optimizer=sgd, momentum=0.9)", "--class_weights=balanced", "--seed=7",
)  # fmt: skip
RECIPE = cli_flags.recipe(cli_flags.parse("[flags]", cli_flags.RUN, ["bin/train", *ALL]))


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    """One that has decided nothing yet."""
    made = RunDirectory(tmp_path / "cells")
    made.path.mkdir()
    made.recipe.write_text(to_json(RECIPE))
    return made


def refused(file: Path, *given: str) -> str:
    with pytest.raises(cli_flags.FlagError) as caught:
        recipe_file.read(str(file), given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_is_the_recipe_that_the_flags_made(run):
    assert recipe_file.read(str(run.recipe), []) == recipe_file.Beginning(RECIPE, "cells")


def test_a_runs_own_brings_what_the_run_decided(run):
    plan = json.dumps({"recipe": digest(RECIPE), "trials": {}}).encode()
    run.plan.write_bytes(plan)
    assert recipe_file.read(str(run.recipe), []).plan == plan


@pytest.mark.parametrize(
    "plan", [b"{}", b"[]", b"decided", b"\xff", b'{"recipe": "0123"}'], ids=range(5)
)
def test_a_plan_of_another_recipe_or_of_none_is_left_alone(run, plan):
    run.plan.write_bytes(plan)
    assert recipe_file.read(str(run.recipe), []) == recipe_file.Beginning(RECIPE, "cells")


def test_a_recipe_that_was_edited_in_place_has_all_measured_anew(run):
    run.plan.write_text(json.dumps({"recipe": digest(RECIPE), "trials": {}}))
    run.recipe.write_text(changed(seed=8))
    found = recipe_file.read(str(run.recipe), [])
    assert (found.recipe.seed, found.plan) == (8, None)


def test_a_copy_decides_for_itself_and_gives_the_run_its_name(run):
    run.plan.write_text(json.dumps({"recipe": digest(RECIPE), "trials": {}}))
    copy = run.path / "mine.json"
    copy.write_text("\ufeff" + run.recipe.read_text(), "utf-8")  # editors on Windows add a mark
    assert recipe_file.read(str(copy), []) == recipe_file.Beginning(RECIPE, "mine")


def test_in_the_working_directory_the_run_is_named_all_the_same(run, monkeypatch):
    monkeypatch.chdir(run.path)
    assert recipe_file.read("recipe.json", []).name == "cells"


@pytest.mark.parametrize("name", cli_flags.of_a_recipe())
def test_no_flag_changes_it(run, name):
    message = refused(run.recipe, "threads", name)
    assert message.startswith(f"--{name} goes into the recipe, which --recipe gives whole; leave")


def test_flags_of_the_run_alone_may_stand_beside_it(run):
    alone = set(cli_flags.of_a_run()) - set(cli_flags.of_a_recipe())
    assert alone == {"threads", "cache_memory", "cache_dir"}
    beside = {*alone, "run_dir", "overwrite"}
    assert recipe_file.read(str(run.recipe), beside).recipe == RECIPE


def test_a_flag_that_says_no_is_given_as_well(run):
    given = cli_flags.parse("[flags]", cli_flags.RUN, ["train", "--nodeterministic"]).given
    assert refused(run.recipe, *given).startswith("--deterministic goes into the recipe")


def changed(**values) -> str:
    return json.dumps({**json.loads(to_json(RECIPE)), **values})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "can't be read (No such file or directory)"),
        (b"\xff\xfe\x00", "can't be read (it is no text in UTF-8)"),
        (b"{", "no recipe of this version of Unfreeze (not JSON: "),
        (b"[]", "Recipe is list; allowed: an object"),
        (b"{}", "key 'data' is missing"),
        (changed(seeds=1), "key 'seeds' does not exist (did you mean 'seed'?)"),
        (changed(batch_size="8"), "Recipe.batch_size='8'; allowed: a whole number"),
        (changed(backbone="mobilnet"), "did you mean 'mobilenet'"),
        (changed(augment=["rotat(3)"]), "(did you mean 'rotate'?)"),
        (changed(phases=[]), "the recipe has no phase"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path, content, message):
    file = tmp_path / "mine.json"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = refused(file)
    assert found.startswith(f"--recipe={file}: ")
    assert message in found
