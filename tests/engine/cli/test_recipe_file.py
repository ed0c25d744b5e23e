"""Runs from a `recipe.json`: what is taken from it, and what the errors about a wrong one say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.cli import command_line, recipe_file
from engine.cli import flags as cli_flags
from engine.cli import train as cli_train
from engine.cli.parsed_flags import FlagError
from engine.core import digests
from engine.core.recipe import digest, to_json
from engine.runs.directory import RunDirectory

ALL = (
    "--data_dir=x", "--backbone=mobilenet_v2", "--image_size=32x40", "--augment=rotate(10)|flip",
    "--dropout=0.1", "--phase=a(epochs=2, schedule=cosine, warmup_steps=3, views=2, refresh=0.5)",
    "--phase=b(trainable=all, optimizer=sgd, momentum=0.9)", "--class_weights=balanced", "--seed=7",
)  # fmt: skip
RECIPE = cli_flags.build_recipe(command_line.parse("[flags]", cli_flags.RUN, ["bin/train", *ALL]))


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    """One that has decided nothing yet."""
    made = RunDirectory(tmp_path / "cells")
    made.path.mkdir()
    made.recipe.write_text(to_json(RECIPE))
    return made


def train_options(file: Path, *flags: str, explicit: str | None = None):
    """explicit: a flag that the user gave as well, whatever its value."""
    argv = ["train", f"--recipe={file}", *flags]
    parsed = command_line.parse("[flags]", cli_train.ALL, argv)
    parsed.explicit += [explicit] if explicit else []
    return cli_train.train_options(parsed, argv)


def refused(file: Path, *flags: str, explicit: str | None = None) -> str:
    with pytest.raises(FlagError) as caught:
        train_options(file, *flags, explicit=explicit)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_recipe_file_has_the_recipe_of_the_flags(run):
    assert recipe_file.read(str(run.recipe)) == recipe_file.RecipeFile(RECIPE, "cells")


def test_recipe_of_a_run_comes_with_its_plan(run):
    plan = json.dumps({"recipe": digest(RECIPE), "trials": {}}).encode()
    run.plan.write_bytes(plan)
    assert recipe_file.read(str(run.recipe)).plan == plan


@pytest.mark.parametrize(
    "plan", [b"{}", b"[]", b"decided", b"\xff", b'{"recipe": "0123"}'], ids=range(5)
)
def test_plan_of_another_recipe_is_ignored(run, plan):
    run.plan.write_bytes(plan)
    assert recipe_file.read(str(run.recipe)) == recipe_file.RecipeFile(RECIPE, "cells")


def test_edited_recipe_of_a_run_has_no_plan(run):
    run.plan.write_text(json.dumps({"recipe": digest(RECIPE), "trials": {}}))
    run.recipe.write_text(changed(seed=8))
    contents = recipe_file.read(str(run.recipe))
    assert (contents.recipe.seed, contents.plan) == (8, None)


@pytest.mark.parametrize("damaged", ["recipe.json", "plan.json"])
def test_recipe_edited_in_its_run_is_read_with_a_note(run, damaged, capsys):
    for path, text in (
        (run.recipe, to_json(RECIPE)),
        (run.plan, json.dumps({"recipe": digest(RECIPE)})),
    ):
        digests.write(path, text.encode())
    assert recipe_file.read(str(run.recipe)).plan
    assert capsys.readouterr().err == ""
    with open(run.path / damaged, "a") as file:
        file.write("\n")
    assert recipe_file.read(str(run.recipe)).plan is None
    assert capsys.readouterr().err == (
        f"{run.path / damaged}: doesn't match its SHA-256 in digests.json, so it was damaged or "
        "edited; training by the recipe as it is, without plan.json\n"
    )


def test_copied_recipe_has_no_plan_and_names_the_run(run):
    run.plan.write_text(json.dumps({"recipe": digest(RECIPE), "trials": {}}))
    copy = run.path / "mine.json"
    copy.write_text("\ufeff" + run.recipe.read_text(), "utf-8")  # editors on Windows add a mark
    assert recipe_file.read(str(copy)) == recipe_file.RecipeFile(RECIPE, "mine")


def test_recipe_in_the_working_directory_names_the_run(run, monkeypatch):
    monkeypatch.chdir(run.path)
    assert recipe_file.read("recipe.json").name == "cells"


def test_flag_of_the_recipe_is_refused(run):
    for name in cli_flags.recipe_flags():
        message = refused(run.recipe, "--threads=1", explicit=name)
        assert message.startswith(f"--{name} belongs to the recipe, which --recipe gives whole")


def test_other_flags_are_allowed(run):
    alone = set(command_line.flag_names(cli_flags.RUN)) - set(cli_flags.recipe_flags())
    assert alone == {"threads", "cache_memory", "cache_dir"}
    flags = ("--threads=1", "--cache_memory=1GB", "--cache_dir=none", "--run_dir=r", "--overwrite")
    assert train_options(run.recipe, *flags).recipe == RECIPE


def test_negated_flag_is_refused(run):
    message = refused(run.recipe, "--nodeterministic")
    assert message.startswith("--deterministic belongs to the recipe")


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
def test_file_that_is_no_recipe_is_refused(tmp_path, content, message):
    file = tmp_path / "mine.json"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    error = refused(file)
    assert error.startswith(f"--recipe={file}: ")
    assert message in error
