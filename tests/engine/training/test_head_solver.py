"""A phase whose head is solved: a dense layer like others, an epoch of history, exact on resume."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from engine.core.errors import UserError
from engine.frozen.array_store import CacheBudget
from engine.frozen.forward import FrozenForward
from engine.optim import losses
from engine.runs import checkpoints
from engine.runs.directory import RunDirectory
from engine.runtime.shutdown import Shutdown, ShutdownRequested
from engine.training import head_solver, loop, memory_fit
from tests.engine import small
from tests.engine.small_runs import (
    Watcher,
    final,
    interrupt,
    make_job,
    same_end,
    small_recipe,
    timeless,
    train,
)

SOLVED = "transfer(optimizer=lbfgs{})"
PHASES = (SOLVED.format(""), "fine_tune(trainable=middle, optimizer=sgd, learning_rate=1e-3)")
ROOM = {"cache_budget": CacheBudget(10**8)}


@pytest.fixture(scope="module")
def solved_run(coloured, tmp_path_factory):
    """The job, the watcher and the result of a solved phase and one that fine-tunes."""
    place, watcher = tmp_path_factory.mktemp("solved") / "run", Watcher()
    recipe = small_recipe(coloured, PHASES, label_smoothing=0.1, class_weights="balanced")
    job = make_job(recipe, place, watcher, **ROOM)
    return job, watcher, loop.train(job).result


def pooled_features(job, split="train"):
    """By the model itself, in float32 and without augmentation."""
    network, columns = job.classifier, []
    trunk = tf.keras.Model(network.model.inputs, network.features)
    for batch in job.loader.split_batches(split):
        real = np.asarray(batch.weights) > 0
        rows = trunk(tf.cast(batch.inputs, tf.float32), training=False)
        columns.append((np.asarray(rows)[real], np.asarray(batch.labels)[real]))
    features, labels = map(np.concatenate, zip(*columns, strict=True))
    return features.astype(np.float64), labels


@pytest.mark.parametrize("policy", ["none", "balanced"])
def test_saved_head_equals_scikit_learn_on_standardised_features(coloured, tmp_path, policy):
    recipe = small_recipe(coloured, [SOLVED.format(", l2=0.1")], class_weights=policy)
    job = make_job(recipe, tmp_path / "run", Watcher(), **ROOM)
    loop.train(job)
    features, labels = pooled_features(job)
    weights = losses.class_weights(policy, job.loader.class_counts)
    scaler = StandardScaler().fit(features)
    # Its penalty for two classes is on the difference of the columns: twice the sum over both.
    regression = LogisticRegression(C=1 / (0.05 * len(labels)), tol=1e-9, max_iter=10_000)
    rows = scaler.transform(features)
    regression.fit(rows, labels, sample_weight=np.array(weights)[labels])
    arrays = checkpoints.unpack(job.run.best)[0]["model"]
    logits = features @ arrays[-2] + arrays[-1]
    expected = regression.decision_function(rows)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected, atol=1e-3)


def test_solved_phase_is_a_phase_like_others(solved_run):
    job, watcher, result = solved_run
    first, last = watcher.rows
    assert (first["phase"], first["epoch"], first["step"]) == ("transfer", 1, job.steps_per_epoch)
    assert last["step"] == 2 * job.steps_per_epoch
    [solved, stepped] = result["phases"]
    assert solved["epochs"] == 1
    assert len(solved["solved"]["fold_accuracies"]) == 5
    assert "solved" not in stepped
    assert json.loads(job.run.result.read_text())["phases"][0]["solved"] == solved["solved"]
    assert len(job.run.history.read_text().splitlines()) == 3
    [line] = [note for note in watcher.notes if "head solved" in note]
    assert "by cross-validation" in line
    assert any("without augment and dropout and label_smoothing" in n for n in watcher.notes)


def test_resume_after_solving_does_not_solve_again(coloured, solved_run, tmp_path, monkeypatch):
    job, _, result = solved_run
    interrupt(job.recipe, tmp_path / "run", job.steps_per_epoch + 2, **ROOM)
    monkeypatch.setattr(loop, "solve_head", None)
    run, resumed = train(job.recipe, tmp_path / "run", **ROOM)
    assert same_end(run, job.run)
    keys = ("l2", "fold_accuracies", "iterations")
    one, other = (r["phases"][0]["solved"] for r in (resumed, result))
    assert [one[key] for key in keys] == [other[key] for key in keys]


def test_resume_after_kill_while_solving_solves_to_the_same_bits(solved_run, tmp_path, monkeypatch):
    job, place = solved_run[0], tmp_path / "run"
    original = head_solver.lbfgs.solve_head

    def killed(*columns, **settings):
        original(*columns, **settings)
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(head_solver.lbfgs, "solve_head", killed)
        with pytest.raises(InterruptedError):
            train(job.recipe, place, **ROOM)
    assert same_end(train(job.recipe, place, **ROOM)[0], job.run)


def test_shutdown_while_solving_is_saved(solved_run, tmp_path, monkeypatch):
    job, place, shutdown = solved_run[0], tmp_path / "run", Shutdown()
    original = head_solver.lbfgs.solve_head

    def request(*columns, **settings):
        shutdown.request("the test")
        return original(*columns, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(head_solver.lbfgs, "solve_head", request)
        with pytest.raises(ShutdownRequested):
            train(job.recipe, place, shutdown=shutdown, **ROOM)
    assert checkpoints.load(RunDirectory(place))[0].epoch == 0
    assert same_end(train(job.recipe, place, **ROOM)[0], job.run)


def test_features_on_disk_and_in_pieces_solve_the_same(solved_run, tmp_path, monkeypatch):
    job = solved_run[0]
    monkeypatch.setattr(head_solver, "PIECE_BYTES", 1000)
    disk = CacheBudget(0, tmp_path / "cache")
    run, _ = train(job.recipe, tmp_path / "run", cache_budget=disk)
    assert timeless(run)[0][1:] == pytest.approx(timeless(job.run)[0][1:], rel=1e-4)


def test_constant_features_are_left_out(coloured, tmp_path):
    """A ReLU that is always 0, and a feature that varies by rounding alone."""

    def deaden(job):
        layer = job.classifier.model.get_layer("top_norm")
        layer.gamma.assign(layer.gamma.numpy() * (np.arange(16) > 1))
        layer.beta.assign(np.where(np.arange(16) > 0, layer.beta.numpy(), -1))

    run, result = train(
        small_recipe(coloured, [SOLVED.format("")]), tmp_path / "run", change=deaden, **ROOM
    )
    kernel = final(run)["best"][-2]
    assert np.isfinite(kernel).all()
    np.testing.assert_array_equal(kernel[0], 0)
    assert result["validation"]["accuracy"] > 0.5


def test_non_finite_features_name_the_image(coloured, tmp_path, monkeypatch):
    def plain(forward, images):
        return [tf.where(tf.range(8)[:, None] == 3, np.inf, tf.ones([8, 16]))]

    monkeypatch.setattr(FrozenForward, "plain", plain)
    recipe = small_recipe(coloured, [SOLVED.format("")])
    name = make_job(recipe, tmp_path / "other", Watcher()).loader.example_name(3)
    with pytest.raises(UserError, match=f"'transfer': the features of {name} are NaN or infinite"):
        train(recipe, tmp_path / "run", **ROOM)


def test_features_without_room_are_refused(coloured, tmp_path):
    with pytest.raises(UserError, match=r"'transfer': the features take .*; raise --cache_memory"):
        train(small_recipe(coloured, [SOLVED.format("")]), tmp_path / "run")


def test_memory_probe_tries_a_solved_phase(coloured):
    recipe = small_recipe(coloured, PHASES)
    memory_fit.try_out(recipe, "abc", small.PLAIN, tf.distribute.get_strategy())
