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
from engine.frozen import array_store
from engine.frozen.array_store import CacheBudget
from engine.runs import history
from engine.runs.load_run import load_run
from engine.training import checkpoint_writer, loop, phase
from tests.engine.small_runs import LONGER, PHASES, Watcher, final, make_job, small_recipe, timeless


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


def test_saved_rule_has_temperature_of_validation_split(undisturbed):
    job, _, result = undisturbed
    opened = load_run(job.run)
    step, read = (
        eval_step.make_eval_step(opened.model),
        job.loader.split_batches("validation"),
    )
    answers = evaluation.collect_predictions(step, read, opened.classes)
    fitted = calibration.fit_temperature(answers.logits, answers.labels)
    assert opened.rule.temperature == pytest.approx(fitted, rel=1e-4)
    assert opened.rule == DecisionRule(result["calibration"]["temperature"])
    assert opened.rule.temperature != 1


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
    opened = load_run(job.run)
    again = evaluation.evaluate(
        eval_step.make_eval_step(opened.model), job.loader.split_batches("validation"), 2
    )
    assert result["validation"] == pytest.approx(
        {"accuracy": again.accuracy, "loss": again.loss, "count": 13}, rel=1e-6
    )
    # While it trained, the frozen part was a program of its own.
    assert again.accuracy == result["best"]["val_accuracy"]
    assert again.loss == pytest.approx(result["best"]["val_loss"], rel=1e-4)
    assert "test" not in result


def test_cached_features_train_as_images(coloured, tmp_path):
    """With the same views, up to rounding: a cached row was computed in another batch."""
    phases = [text.format(", views=2, refresh=0.3") for text in LONGER]
    ends = []
    for cache in ("none", "features"):
        recipe = small_recipe(coloured, phases, cache=cache)
        job = make_job(recipe, tmp_path / cache, Watcher(), cache_budget=CacheBudget(10**9))
        loop.train(job)
        plans = json.loads(job.run.plan.read_text())["phases"].values()
        assert [plan["cache"]["slots"] for plan in plans] == [{"none": 0, "features": 2}[cache]] * 2
        ends.append((final(job.run)["model"], timeless(job.run)))
    for one, other in zip(*(model for model, _ in ends), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    for one, other in zip(*(rows for _, rows in ends), strict=True):
        assert one[3] == pytest.approx(other[3], rel=1e-3), "train_loss"
        assert one[5] == pytest.approx(other[5], rel=1e-3), "val_loss"


def test_full_disk_for_cache_runs_trunk_each_step(coloured, tmp_path, monkeypatch):
    phases = ("transfer(epochs=4, views=2)",)
    plain = make_job(small_recipe(coloured, phases, cache="none"), tmp_path / "plain", Watcher())
    loop.train(plain)

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(array_store, "allocate", full)
    watcher = Watcher()
    recipe = small_recipe(coloured, phases)
    job = make_job(recipe, tmp_path / "full", watcher, cache_budget=CacheBudget(10**9))
    loop.train(job)
    assert any("can't be cached (No space left on device)" in note for note in watcher.notes)
    ours, theirs = final(job.run), final(plain.run)
    assert all(map(np.array_equal, ours["model"], theirs["model"]))


def test_phase_without_epochs_is_skipped(coloured, tmp_path):
    phases = ("transfer(epochs=0)", "fine_tune(trainable=middle, epochs=1)")
    job = make_job(small_recipe(coloured, phases), tmp_path / "run", Watcher())
    result = loop.train(job).result
    assert [phase["name"] for phase in result["phases"]] == ["fine_tune"]
    assert set(json.loads(job.run.plan.read_text())["phases"]) == {"fine_tune"}


def test_early_stopping_starts_next_phase(coloured, tmp_path):
    phases = (
        "stuck(epochs=9, learning_rate=1e-30, early_stopping_patience=2)",
        "next(epochs=1, learning_rate=1e-2)",
    )
    watcher = Watcher()
    result = loop.train(make_job(small_recipe(coloured, phases), tmp_path / "run", watcher)).result
    assert [phase["epochs"] for phase in result["phases"]] == [3, 1]
    assert any("did not move" in note for note in watcher.notes)


def test_nan_validation_loss_is_never_best(coloured, tmp_path, monkeypatch):
    """Neither for the best model nor for early stopping."""
    losses = iter([np.nan, 0.5, np.nan, 0.4])

    def evaluate(*arguments):
        return evaluation.Evaluation(next(losses), np.diag([9, 4]))

    monkeypatch.setattr(loop, "evaluate", evaluate)
    recipe = small_recipe(
        coloured, ["transfer(epochs=4, learning_rate=1e-2, early_stopping_patience=2)"]
    )
    watcher = Watcher()
    result = loop.train(make_job(recipe, tmp_path / "run", watcher)).result
    assert len(watcher.rows) == 4
    assert result["best"]["epoch"] == 4


def test_nan_predictions_fail_the_run(coloured, tmp_path, monkeypatch):
    real = eval_step.make_eval_step

    def spoiled(model):
        step = real(model)

        def answer(images, labels):
            losses, logits = step(images, labels)
            return losses, logits * np.nan

        return answer

    monkeypatch.setattr(eval_step, "make_eval_step", spoiled)
    job = make_job(small_recipe(coloured, ["transfer(epochs=1)"]), tmp_path / "run", Watcher())
    with pytest.raises(UserError, match="logits are NaN or infinite for 13 of 13 images; train"):
        loop.train(job)
    assert not job.run.finished()


def test_phase_frees_cache_before_next_phase(coloured, tmp_path, monkeypatch):
    kept, alive = [], []
    original = loop.PhaseTrainer

    def begin(*given):
        alive.append(sum(table() is not None for table in kept))
        stage = original(*given)
        kept.extend(weakref.ref(table.rows) for table in stage.features.stores)
        return stage

    monkeypatch.setattr(loop, "PhaseTrainer", begin)
    phases = [
        f"{name}(trainable={open_}, epochs=1, views=1)"
        for name, open_ in (("a", "head"), ("b", "middle"), ("c", "head"))
    ]
    recipe = small_recipe(coloured, phases, cache="features")
    loop.train(make_job(recipe, tmp_path / "run", Watcher(), cache_budget=CacheBudget(10**9)))
    assert (len(kept), alive) == (3, [0, 0, 0])


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
    loop.train(make_job(recipe, tmp_path / "run", meter, from_files=True))
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
    monkeypatch.setattr(
        checkpoint_writer, "MIN_SECONDS", 1e9
    )  # the first checkpoint loads what draws images
    meter = Meter()
    cache_budget = CacheBudget(10**9) if where == "memory" else CacheBudget(0, tmp_path / "kept")
    recipe = small_recipe(coloured, (f"transfer(epochs=50{more})",), augment)
    loop.train(
        make_job(recipe, tmp_path / "run", meter, cache_budget=cache_budget, steps_per_execution=5)
    )
    assert {"memory": "in memory", "disk": "on disk"}[where] in "".join(meter.notes)
    assert len(meter.memory) == 12
    assert meter.leak(12) < 2**16
    assert meter.growth(12) < 32 * 2**20


def test_train_step_is_traced_once_per_phase(coloured, tmp_path, monkeypatch):
    steps, original = [], phase.TrainStep
    monkeypatch.setattr(
        phase, "TrainStep", lambda **fields: steps.append(original(**fields)) or steps[-1]
    )
    phases = [*PHASES, "again(trainable=middle, epochs=2, views=1)"]
    settings = {"steps_per_execution": 4, "cache_budget": CacheBudget(10**9)}
    loop.train(make_job(small_recipe(coloured, phases), tmp_path / "run", Watcher(), **settings))
    assert [step.compiled.experimental_get_tracing_count() for step in steps] == [1, 1, 1]
