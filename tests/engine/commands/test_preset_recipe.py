"""Recipes by a preset, and of runs that are trained further: from Python and from flags."""

from __future__ import annotations

import dataclasses
import json

import pytest

from engine.cli import train as cli_train
from engine.commands import preset_recipe as command
from engine.core.errors import UserError
from engine.core.recipe import DataSpec, parse_phase
from engine.runs.directory import RunDirectory
from engine.runtime import hardware
from pipelines.sources import sources

TINY = ("--backbone=tiny", "--weights=none", "--image_size=32", "--batch_size=8", "--noreport")


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    monkeypatch.setattr(hardware, "device_memory", lambda: 16 * 10**9)


@pytest.mark.parametrize(
    "changes",
    [{}, {"validation_fraction": 0.25}, {"validation_fraction": 11.0}, {"limit_examples": 5}],
)
def test_images_are_counted_as_training_counts_them(coloured, changes):
    spec = DataSpec("folders", str(coloured), **changes)
    images = len(sources.load_examples(spec).subset("train"))
    assert command._count_training_images(spec) == (pytest.approx(images, abs=1), 2)


def test_own_splits_are_counted_apart(coloured, tmp_path):
    rows = [f"red/{n:02}.jpg,red,{'train' if n < 9 else 'val'}" for n in range(20)]
    rows += [f"blue/{n:02}.jpg,blue,{'train' if n < 5 else 'test'}" for n in range(20)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    spec = DataSpec("manifest", str(tmp_path / "list.csv"), manifest_root=str(coloured))
    assert command._count_training_images(spec) == (14, 2)


def test_flags_override_what_a_preset_chose(coloured):
    flags = (f"--data_dir={coloured}", "--dropout=0.4", "--augment=none", "--epochs=3", "--seed=9")
    recipe = cli_train.recipe_from_flags(*flags, "--backbone=mobilenet", "--image_size=96")
    same = command.preset_recipe(
        DataSpec("folders", str(coloured)),
        backbone="mobilenet",
        epochs=3,
        image_size=(96, 96),
        dropout=0.4,
        augment=(),
        seed=9,
    )
    assert recipe == same
    assert (recipe.label_smoothing, recipe.phases[1].epochs) == (0.05, 3)
    plain = cli_train.recipe_from_flags(f"--data_dir={coloured}", "--batch_size=auto")
    assert (plain.dropout, plain.batch_size, len(plain.augment)) == (0.2, 32, 8)


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--preset=thorough", "--budget=90s", "--deterministic", "--split_seed=3"),
        ("--preset=quick", "--validation_fraction=9", "--weights=none", "--resize=pad"),
        ("--phase=a(trainable=0.5, average=soup(2))", "--augment=rotate(3)|flip", "--seed=4"),
    ],
    ids=lambda flags: " ".join(flags),
)
def test_printed_flags_make_the_same_recipe(call, coloured, write, flags):
    given = (f"--data_dir={coloured}", *flags)
    printed = call("train", *given, "--print_flags")
    again = cli_train.recipe_from_flags(write(printed))
    assert again == cli_train.recipe_from_flags(*given)
    assert call.said.err == ""
    preset = not any(flag.startswith("--phase") for flag in flags)
    assert sum(line.startswith("# ") for line in printed.splitlines()) == 3 * preset


@pytest.mark.parametrize("changes", [{"epochs": 3}, {"learning_rate": 1e-3}])
def test_quick_has_neither_epochs_nor_a_rate(coloured, changes):
    with pytest.raises(UserError, match="the preset quick solves the head, without epochs or a"):
        command.preset_recipe(DataSpec("folders", str(coloured)), "quick", **changes)


@pytest.mark.parametrize(
    ("phase", "rate"),
    [
        ("b(epochs=4, optimizer=sgd, momentum=0.9, learning_rate=1e-2)", 1e-2),
        ("b(epochs=4, optimizer=adam, learning_rate=1e-2, schedule=cosine, warmup_epochs=1)", 1e-3),
        ("b(epochs=4, learning_rate=1e-2, schedule=linear, end=0.4, skip_if_solved=0.9)", 4e-3),
    ],
)
def test_run_trained_further_starts_at_its_final_rate(trained_run, monkeypatch, phase, rate):
    phases = (parse_phase("a(epochs=1)"), parse_phase(phase), parse_phase("c(epochs=0)"))
    before = dataclasses.replace(trained_run.job.recipe, phases=phases, budget=60.0)
    monkeypatch.setattr(RunDirectory, "read_recipe", lambda run: before)
    recipe = command.further_recipe(trained_run.path, 5)
    (more,) = recipe.phases
    assert (more.name, more.epochs, more.schedule) == ("b", 5, "cosine")
    assert more.learning_rate == pytest.approx(rate)
    assert more.options["warmup_epochs"] == 0.5
    assert more.options.get("momentum") == phases[1].options.get("momentum")
    assert (recipe.init_from, more.skip_if_solved) == (str(trained_run.path), None)
    expected = dataclasses.replace(before, phases=(more,), init_from=recipe.init_from, budget=None)
    assert recipe == expected


def test_solved_run_is_not_trained_further(trained_run, monkeypatch):
    phases = (parse_phase("head(optimizer=lbfgs)"),)
    recipe = dataclasses.replace(trained_run.job.recipe, phases=phases)
    monkeypatch.setattr(RunDirectory, "read_recipe", lambda run: recipe)
    with pytest.raises(UserError, match="its last phase is solved, not trained in epochs; omit"):
        command.further_recipe(trained_run.path, 5)


def test_preset_trains_resumes_and_is_trained_further(call, coloured, tmp_path):
    run, longer = tmp_path / "run", tmp_path / "longer"
    flags = (*TINY, f"--data_dir={coloured}", f"--run_dir={run}", "--preset=thorough", "--epochs=2")
    out = call("train", *flags)
    assert out.startswith("preset thorough, by 42 training images, 2 classes (21 images each)")
    history = [line.split(",")[0] for line in (run / "history.csv").read_text().splitlines()[1:]]
    assert history == ["head", "fine_tune", "fine_tune"]
    with pytest.raises(UserError, match="holds this run, finished"):
        call("train", *flags)
    out = call("train", f"--init_from={run}", "--epochs=1", f"--run_dir={longer}", "--noreport")
    assert "head included" in out
    recipe = json.loads((longer / "recipe.json").read_text())
    assert [phase["name"] for phase in recipe["phases"]] == ["fine_tune"]
    assert recipe["data"]["location"] == str(coloured)
