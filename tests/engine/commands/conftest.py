"""Runs to evaluate; a run to serve, and the service of it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from engine.core.digests import write
from engine.evaluation.decision_rule import DecisionRule
from engine.runs import best_model, checkpoints
from engine.runs.directory import RunDirectory
from pipelines.loading import batches
from pipelines.sources import sources
from tests.engine import saved_run
from tests.engine.commands import serving
from tests.engine.commands.evaluated import CLASSES, predict_both_classes, with_data
from tests.engine.small_runs import small_recipe


@pytest.fixture(scope="session")
def made_run(tmp_path_factory) -> Path:
    """A finished run of the backbone tiny with random weights."""
    place = tmp_path_factory.mktemp("served") / "run"
    return saved_run.save(place, DecisionRule(temperature=1.5), serving.CLASSES).path


@pytest.fixture(scope="session")
def service(made_run):
    with serving.served(f"--run_dir={made_run}") as it:
        yield it
        status, out, err = it.end()
        assert (status, out, err) == (0, "", ""), "whatever was sent to it"


@pytest.fixture(scope="session")
def models(coloured, tmp_path_factory) -> dict[str, RunDirectory]:
    """Two runs with random weights: right about as often as wrong."""
    folder = tmp_path_factory.mktemp("models")
    recipe = dataclasses.replace(small_recipe(coloured), seed=2)
    other = with_data(dataclasses.replace(recipe, seed=6), split_seed=3)
    runs = {
        "one": saved_run.save(folder / "one", DecisionRule(2.5), CLASSES, recipe),
        "other": saved_run.save(folder / "other", classes=CLASSES, recipe=other),
    }
    for run in runs.values():
        predict_both_classes(run)
    return runs


@pytest.fixture
def run(models, tmp_path) -> RunDirectory:
    """One that may be changed."""
    return RunDirectory(shutil.copytree(models["one"].path, tmp_path / "run"))


@pytest.fixture
def evaluate(call):
    """What bin/evaluate prints as JSON."""
    return lambda *flags: json.loads(call("evaluate", "--format=json", *flags))


@pytest.fixture
def tested(coloured, tmp_path) -> RunDirectory:
    """A run whose data has a test split of 4 images."""
    rows = ["path,label,split"]
    for number in range(8):
        split = ("train", "validation", "test", "train")[number // 2]
        rows += [f"{name}/{number:02}.jpg,{name},{split}" for name in CLASSES]
    (coloured / "splits.csv").write_text("\n".join(rows))
    recipe = with_data(
        small_recipe(coloured), source="manifest", location=str(coloured / "splits.csv")
    )
    run = saved_run.save(tmp_path / "tested", classes=CLASSES, recipe=recipe)
    arrays, values = best_model.load_best_model(run)
    values["data"] = batches.ImageDataLoader(sources.load_examples(recipe.data), recipe, 1).identity
    write(run.best, checkpoints.pack({"model": arrays}, values))
    yield run
    (coloured / "splits.csv").unlink()
