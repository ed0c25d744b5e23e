"""The whole loop on small images and a small network: results, caches, memory."""

from __future__ import annotations

import csv
import itertools
import json
import statistics
import weakref

import numpy as np
import pytest

from engine.core.errors import UserError
from engine.evaluation import calibration, eval_step
from engine.evaluation import evaluate as evaluation
from engine.evaluation.decision_rule import DecisionRule
from engine.frozen import array_store, trunk
from engine.frozen.array_store import CacheBudget
from engine.frozen.precision import FLOAT32
from engine.runs import history
from engine.runs.checkpoints import TrainState
from engine.runs.directory import RunDirectory
from engine.runs.load_run import load_run
from engine.training import checkpoint_writer, loop, phase
from tests.engine.small_runs import (
    LONGER,
    PHASES,
    Watcher,
    final,
    make_job,
    small_recipe,
    timeless,
    train,
)


def test_history_has_one_row_for_each_epoch(undisturbed):
    job, watcher, _ = undisturbed
    with open(job.run.history) as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(history.COLUMNS)
    assert [(row["phase"], int(row["epoch"])) for row in rows] == [
        ("transfer", 1),
        ("transfer", 2),
        ("fine_tune", 1),
        ("fine_tune", 2),
    ]
    assert [int(row["step"]) for row in rows] == [5, 10, 15, 20]
    assert [row["step"] for row in watcher.rows] == [5, 10, 15, 20]


def test_layer_decay_scales_the_updates_of_lower_stages(coloured, tmp_path):
    """In one step of SGD, to rounding; the stage below the top is the lowest that trains."""
    changes = []
    for name, decay in (("plain", ""), ("decayed", ", layer_decay=0.5")):
        text = f"one(trainable=middle, optimizer=sgd, learning_rate=1{decay})"
        job = make_job(small_recipe(coloured, [text], batch_size=40), tmp_path / name, Watcher())
        before = [variable.numpy() for variable in job.classifier.model.trainable_variables]
        loop.train(job)
        after = job.classifier.model.trainable_variables
        changes.append({v.path: v.numpy() - old for v, old in zip(after, before, strict=True)})
    for path, change in changes[0].items():
        stage = path.split("_")[0]
        expected = change * {"middle": 0.25, "top": 0.5}.get(stage, 1.0)
        np.testing.assert_allclose(changes[1][path], expected, atol=1e-6, err_msg=path)
    assert {
        path.split("_")[0] for path, change in changes[0].items() if np.abs(change).max() > 1e-4
    } == {"middle", "top", "logits/kernel", "logits/bias"}


def test_saved_rule_has_the_temperature_of_validation_where_it_helps(undisturbed):
    job, _, result = undisturbed
    run, batches = load_run(job.run), job.loader.split_batches("validation")
    step = eval_step.make_eval_step(run.model)
    predictions = evaluation.collect_predictions(step, batches, run.classes)
    trial = calibration.try_temperature(predictions.logits, predictions.labels)
    values = result["calibration"]
    assert values["fitted_temperature"] == pytest.approx(trial.temperature, rel=1e-4)
    expected = values["fitted_temperature"] if trial.helps else 1
    assert run.rule == DecisionRule(expected) == DecisionRule(values["temperature"])


def test_result_lists_trained_phases(undisturbed):
    job, _, result = undisturbed
    assert json.loads(job.run.result.read_text()) == result
    assert result["status"] == "finished"
    assert result["classes"] == ["blue", "red"]
    transfer, fine_tune = result["phases"]
    assert transfer["trainable_variables"] == 2
    assert transfer["trainable_parameters"] == 16 * 2 + 2
    assert fine_tune["trainable_parameters"] > transfer["trainable_parameters"]
    best = max(job.run.history.open().read().splitlines()[1:], key=lambda r: float(r.split(",")[6]))
    assert result["best"]["val_accuracy"] == float(best.split(",")[6])


def test_saved_model_scores_as_result_says(undisturbed):
    job, _, result = undisturbed
    step = eval_step.make_eval_step(load_run(job.run).model)
    again = evaluation.evaluate(step, job.loader.split_batches("validation"), 2)
    found = [result["validation"][name] for name in ("accuracy", "loss", "count")]
    assert found == pytest.approx([again.accuracy, again.loss, 13], rel=1e-6)
    assert result["validation"]["accuracy_interval"] == list(again.accuracy_interval)
    # While it trained, the frozen layers were compiled apart.
    assert again.accuracy == result["best"]["val_accuracy"]
    assert again.loss == pytest.approx(result["best"]["val_loss"], rel=1e-4)
    assert "test" not in result


@pytest.mark.parametrize(
    ("augment", "more"), [("rotate(10)|brightness(0.1)", ", views=2, refresh=0.3"), ("flip", "")]
)
def test_cached_features_train_as_images(coloured, tmp_path, augment, more):
    """With the same views, up to rounding: a cached row was computed in another batch."""
    ends = []
    for cache, slots in (("none", 0), ("features", 2)):
        recipe = small_recipe(
            coloured, [text.format(more) for text in LONGER], augment, cache=cache
        )
        run, _ = train(recipe, tmp_path / cache, cache_budget=CacheBudget(10**9))
        plans = json.loads(run.plan.read_text())["phases"].values()
        assert [plan["cache"]["slots"] for plan in plans] == [slots, slots]
        ends.append((final(run)["model"], timeless(run)))
    for one, other in zip(*(model for model, _ in ends), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    for one, other in zip(*(rows for _, rows in ends), strict=True):
        assert one[3] == pytest.approx(other[3], rel=1e-3), "train_loss"
        assert one[5] == pytest.approx(other[5], rel=1e-3), "val_loss"


def test_full_disk_for_cache_runs_trunk_each_step(coloured, tmp_path, monkeypatch):
    phases = ("transfer(epochs=4, views=2)",)
    plain, _ = train(small_recipe(coloured, phases, cache="none"), tmp_path / "plain")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(array_store, "allocate", full)
    watcher, recipe = Watcher(), small_recipe(coloured, phases)
    run, _ = train(recipe, tmp_path / "full", watcher, cache_budget=CacheBudget(10**9))
    assert any("can't be cached (No space left on device)" in note for note in watcher.notes)
    assert all(map(np.array_equal, final(run)["model"], final(plain)["model"]))


def test_phase_without_epochs_is_skipped(coloured, tmp_path):
    phases = ("transfer(epochs=0)", "fine_tune(trainable=middle, epochs=1)")
    run, result = train(small_recipe(coloured, phases), tmp_path / "run")
    assert [phase["name"] for phase in result["phases"]] == ["fine_tune"]
    assert set(json.loads(run.plan.read_text())["phases"]) == {"fine_tune"}


def test_early_stopping_starts_next_phase(coloured, tmp_path):
    phases = (
        "stuck(epochs=9, learning_rate=1e-30, early_stopping_patience=2)",
        "next(epochs=1, learning_rate=1e-2)",
    )
    watcher = Watcher()
    _, result = train(small_recipe(coloured, phases), tmp_path / "run", watcher)
    assert [phase["epochs"] for phase in result["phases"]] == [3, 1]
    assert any("did not move" in note for note in watcher.notes)


def test_nan_validation_loss_is_never_best(coloured, tmp_path, monkeypatch):
    """Neither for the best model nor for early stopping."""
    losses = iter([np.nan, 0.5, np.nan, 0.4])

    def evaluate(*arguments):
        return evaluation.Evaluation(next(losses), np.diag([9, 4]))

    monkeypatch.setattr(loop, "evaluate", evaluate)
    phase = "transfer(epochs=4, learning_rate=1e-2, early_stopping_patience=2)"
    watcher = Watcher()
    _, result = train(small_recipe(coloured, [phase]), tmp_path / "run", watcher)
    assert len(watcher.rows) == 4
    assert result["best"]["epoch"] == 4


def test_nan_predictions_fail_the_run(coloured, tmp_path, monkeypatch):
    original = eval_step.make_eval_step

    def make_eval_step(model):
        step = original(model)

        def nan_step(images, labels):
            losses, logits = step(images, labels)
            return losses, logits * np.nan

        return nan_step

    monkeypatch.setattr(eval_step, "make_eval_step", make_eval_step)
    with pytest.raises(UserError, match="logits are NaN or infinite for 13 of 13 images; train"):
        train(small_recipe(coloured, ["transfer(epochs=1)"]), tmp_path / "run")
    assert not RunDirectory(tmp_path / "run").finished()


def test_phase_frees_cache_before_next_phase(coloured, tmp_path, monkeypatch):
    caches, alive = [], []

    class PhaseTrainer(loop.PhaseTrainer):
        def __init__(self, *arguments):
            alive.append(sum(rows() is not None for rows in caches))
            super().__init__(*arguments)
            caches.extend(weakref.ref(store.rows) for store in self.features.stores)

    monkeypatch.setattr(loop, "PhaseTrainer", PhaseTrainer)
    phases = [
        f"{name}(trainable={trainable}, epochs=1, views=1)"
        for name, trainable in (("a", "head"), ("b", "middle"), ("c", "head"))
    ]
    recipe = small_recipe(coloured, phases, cache="features")
    train(recipe, tmp_path / "run", cache_budget=CacheBudget(10**9))
    assert (len(caches), alive) == (3, [0, 0, 0])


def test_phase_takes_its_trunk_compiled_before(coloured, tmp_path):
    """It holds the weights of that time, so that no later phase may take it."""
    job = make_job(small_recipe(coloured), tmp_path / "run", Watcher())
    transfer, fine_tune = job.recipe.phases
    ready = trunk.compile_ahead(job.classifier, job.recipe, (transfer,))["transfer", FLOAT32]
    job.compiled_trunks.update({(phase.name, FLOAT32): ready for phase in (transfer, fine_tune)})
    trainers = [loop.PhaseTrainer(job, phase, TrainState(), {}) for phase in (transfer, fine_tune)]
    assert [trainer.frozen_forward.trunk is ready for trainer in trainers] == [True, False]
    assert job.compiled_trunks == {}


class Meter(Watcher):
    measures = True

    def growth(self, first: int) -> int:
        """Bytes added after so many epochs."""
        return self.memory[-1] - self.memory[first // 4 - 1]

    def leak(self, first: int) -> float:
        """The median of the bytes that an epoch adds, after so many; a single rise is no leak."""
        later = itertools.pairwise(self.memory[first // 4 - 1 :])
        return statistics.median(after - before for before, after in later) / 4


def test_memory_is_constant_over_epochs(coloured, tmp_path):
    meter = Meter()
    recipe = small_recipe(coloured, ("transfer(epochs=8, learning_rate=1e-3)",))
    train(recipe, tmp_path / "run", meter, from_files=True)
    assert len(meter.memory) == 2
    assert meter.growth(4) < 8 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "augment", "more"),
    [("memory", "flip", ""), ("disk", "rotate", ", views=2, refresh=0.2")],
)
def test_memory_is_constant_over_epochs_of_cached_features(
    coloured, tmp_path, monkeypatch, where, augment, more
):
    """Of all views, and of some that are partly recomputed each epoch."""
    # The first checkpoint loads what draws images.
    monkeypatch.setattr(checkpoint_writer, "MIN_SECONDS", 1e9)
    meter = Meter()
    budget = CacheBudget(10**9) if where == "memory" else CacheBudget(0, tmp_path / "cache")
    recipe = small_recipe(coloured, (f"transfer(epochs=50{more})",), augment)
    train(recipe, tmp_path / "run", meter, cache_budget=budget, steps_per_execution=5)
    assert {"memory": "in memory", "disk": "on disk"}[where] in "".join(meter.notes)
    assert len(meter.memory) == 12
    assert meter.leak(12) < 2**16
    assert meter.growth(12) < 32 * 2**20


def test_train_step_is_traced_once_per_phase(coloured, tmp_path, monkeypatch):
    steps, original = [], phase.TrainStep
    monkeypatch.setattr(
        phase, "TrainStep", lambda **fields: steps.append(original(**fields)) or steps[-1]
    )
    recipe = small_recipe(coloured, [*PHASES, "again(trainable=middle, epochs=2, views=1)"])
    settings = {"steps_per_execution": 4, "cache_budget": CacheBudget(10**9)}
    train(recipe, tmp_path / "run", **settings)
    assert [step.compiled.experimental_get_tracing_count() for step in steps] == [1, 1, 1]
