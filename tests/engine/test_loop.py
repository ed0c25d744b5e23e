"""The loop, whole: small real pictures, a small real network, phases, interruptions."""

from __future__ import annotations

import csv
import dataclasses
import gc
import json
import resource

import numpy as np
import pytest

from engine import checkpoints, classifier, loop, results
from engine.rundir import RunDir, claim
from engine.specs import DataSpec, Recipe, UserError, parse_calls, parse_phase
from pipelines import augment, batches, sources

PHASES = (
    "transfer(epochs=2, learning_rate=1e-2)",
    "fine_tune(trainable=block_16, epochs=2, optimizer=sgd, momentum=0.9, learning_rate=1e-2)",
)


class Watcher:
    """Remembers what it was told; may interrupt at a step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.notes, self.moments, self.rows, self.memory = stop_at, [], [], [], []

    def note(self, line):
        self.notes.append(line)

    def step(self, moment):
        self.moments.append(moment)
        if moment.step == self.stop_at:
            raise InterruptedError

    def end(self):
        pass

    def epoch(self, row, evaluation, best):
        self.rows.append(row)
        gc.collect()
        self.memory.append(resident_bytes())


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def small_recipe(place, phases=PHASES, **changes) -> Recipe:
    recipe = Recipe(
        data=DataSpec("folders", str(place), validation_fraction=0.25),
        phases=tuple(parse_phase(text) for text in phases),
        backbone="mobilenet_v2",
        image_size=(32, 32),
        weights="none",
        augment=parse_calls("rotate(10)|flip|brightness(0.1)"),
        dropout=0.2,
        batch_size=8,
    )
    return dataclasses.replace(recipe, **changes)


def job(recipe, place, watcher, **settings) -> loop.Job:
    run = RunDir(place)
    claim(run, recipe, overwrite=False)
    feed = batches.make_feed(sources.load(recipe.data), recipe, threads=2)
    made = classifier.build(recipe, len(feed.classes))
    changes = augment.compose(recipe.augment)
    settings = {"log_steps": 1, **settings}
    return loop.Job(recipe, made, feed, changes, run, watcher, **settings)


@pytest.fixture(scope="module")
def undisturbed(coloured, tmp_path_factory):
    watcher = Watcher()
    made = job(small_recipe(coloured), tmp_path_factory.mktemp("run") / "run", watcher)
    return made, watcher, loop.train(made)


def final_weights(run: RunDir) -> list[np.ndarray]:
    return checkpoints.load(run)[1]["model"]


def test_history_has_one_row_for_each_epoch(undisturbed):
    made, watcher, _ = undisturbed
    with open(made.run.history) as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(results.COLUMNS)
    assert [(row["phase"], int(row["epoch"])) for row in rows] == [
        ("transfer", 1),
        ("transfer", 2),
        ("fine_tune", 1),
        ("fine_tune", 2),
    ]
    assert [int(row["step"]) for row in rows] == [5, 10, 15, 20]
    assert [row["step"] for row in watcher.rows] == [5, 10, 15, 20]


def test_result_says_what_was_trained(undisturbed):
    made, _, result = undisturbed
    assert json.loads(made.run.result.read_text()) == result
    assert result["status"] == "finished"
    assert result["classes"] == ["blue", "red"]
    transfer, fine_tune = result["phases"]
    assert transfer["trainable_variables"] == 2
    assert transfer["trainable_parameters"] == 1280 * 2 + 2
    assert fine_tune["trainable_parameters"] > transfer["trainable_parameters"]
    best = max(
        made.run.history.open().read().splitlines()[1:], key=lambda r: float(r.split(",")[6])
    )
    assert result["best"]["val_accuracy"] == float(best.split(",")[6])


def test_the_saved_best_model_scores_what_the_result_says(undisturbed):
    from engine import evaluation, runs, steps

    made, _, result = undisturbed
    opened = runs.reopen(made.run)
    again = evaluation.evaluate(steps.make_eval_step(opened.model), made.feed.validation(), 2)
    assert again.accuracy == result["best"]["val_accuracy"]
    assert again.loss == result["best"]["val_loss"]


@pytest.mark.parametrize("step", [3, 5, 10, 13])
def test_a_run_that_was_stopped_ends_with_the_same_bits(coloured, undisturbed, tmp_path, step):
    recipe = small_recipe(coloured)
    with pytest.raises(InterruptedError):
        loop.train(job(recipe, tmp_path / "run", Watcher(stop_at=step), checkpoint_minutes=0))
    again = job(recipe, tmp_path / "run", Watcher())
    resumed = loop.train(again)
    for mine, other in zip(
        final_weights(again.run), final_weights(undisturbed[0].run), strict=True
    ):
        np.testing.assert_array_equal(mine, other)
    assert resumed["best"] == undisturbed[2]["best"]
    timeless = [
        [[row[c] for c in results.COLUMNS[:8]] for row in checkpoints.load(run)[0].history]
        for run in (again.run, undisturbed[0].run)
    ]
    assert timeless[0] == timeless[1]


def test_a_damaged_newest_checkpoint_is_passed_over(coloured, undisturbed, tmp_path):
    recipe = small_recipe(coloured)
    with pytest.raises(InterruptedError):
        loop.train(job(recipe, tmp_path / "run", Watcher(stop_at=12)))
    run = RunDir(tmp_path / "run")
    newest = max(run.checkpoints.glob("step_*.npz"))
    newest.write_bytes(newest.read_bytes()[:-1000])
    loop.train(job(recipe, tmp_path / "run", Watcher()))
    for mine, other in zip(final_weights(run), final_weights(undisturbed[0].run), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_a_run_that_only_has_to_conclude_warns_of_nothing(coloured, undisturbed, tmp_path):
    """Killed between its last checkpoint and its result, it makes no step when it is taken up."""
    recipe = small_recipe(coloured)
    made = job(recipe, tmp_path / "run", Watcher())
    loop.train(made)
    made.run.result.unlink()
    watcher = Watcher()
    again = loop.train(job(recipe, tmp_path / "run", watcher))
    assert again["best"] == undisturbed[2]["best"]
    assert not any("did not move" in note for note in watcher.notes)
    assert watcher.rows == []


def test_early_stop_ends_the_phase_and_the_next_one_begins(coloured, tmp_path):
    phases = (
        "stuck(epochs=9, learning_rate=1e-30, early_stop=2)",
        "next(epochs=1, learning_rate=1e-2)",
    )
    watcher = Watcher()
    result = loop.train(job(small_recipe(coloured, phases), tmp_path / "run", watcher))
    assert [phase["epochs"] for phase in result["phases"]] == [3, 1]
    assert any("did not move" in note for note in watcher.notes)


def test_a_loss_that_is_no_number_ends_the_run_with_its_phase(coloured, tmp_path):
    recipe = small_recipe(coloured, ("wild(epochs=2, optimizer=sgd, learning_rate=1e38)",))
    with pytest.raises(UserError, match=r"phase 'wild'.*lower the phase's learning_rate"):
        loop.train(job(recipe, tmp_path / "run", Watcher()))


def test_resident_memory_is_flat_from_epoch_to_epoch(coloured, tmp_path):
    watcher = Watcher()
    recipe = small_recipe(coloured, ("transfer(epochs=12, learning_rate=1e-3)",))
    made = job(recipe, tmp_path / "run", watcher)
    loop.train(made)
    growth = watcher.memory[-1] - watcher.memory[3]
    assert growth < 16 * 2**20


def test_each_step_is_traced_once(coloured, tmp_path, monkeypatch):
    seen = []
    original = loop.steps.make_train_step
    monkeypatch.setattr(
        loop.steps, "make_train_step", lambda *a: seen.append(original(*a)) or seen[-1]
    )
    loop.train(job(small_recipe(coloured), tmp_path / "run", Watcher()))
    assert [step.experimental_get_tracing_count() for step in seen] == [1, 1]
