"""Averages of weights, in runs of the loop: against a replay of what each step and epoch left."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from engine.core.recipe import parse_phase
from engine.evaluation.evaluate import Evaluation
from engine.runs.checkpoints import TrainState
from engine.training import averaging, loop
from tests.engine.small_runs import Watcher, final, make_job, small_recipe


class Recorder(Watcher):
    """Copies the model's weights after every step, before the first and at the end of epochs."""

    def begin(self, job) -> None:
        self.model = job.classifier.model
        self.steps, self.epochs = [self._weights()], []

    def _weights(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self.model.weights]

    def step(self, moment):
        self.steps.append(self._weights())

    def epoch(self, row, evaluation, best):
        super().epoch(row, evaluation, best)
        self.epochs.append(self._weights())


def recorded(recipe, place) -> tuple:
    watcher = Recorder()
    job = make_job(recipe, place, watcher)
    watcher.begin(job)
    return job, watcher, loop.train(job).result


@pytest.mark.parametrize("warmup", ["true", "false"])
def test_ema_is_what_is_evaluated_and_saved(coloured, tmp_path, warmup):
    """TensorFlow's own average of the weights after each step, at the end of the best epoch."""
    text = f"one(trainable=top, epochs=3, learning_rate=1e-2, average=ema(0.8, warmup={warmup}))"
    job, watcher, result = recorded(small_recipe(coloured, [text]), tmp_path / "run")
    averaged = [tf.Variable(array) for array in watcher.steps[0]]
    count, averages = tf.Variable(0.0), []
    ema = tf.train.ExponentialMovingAverage(0.8, count if warmup == "true" else None)
    ema.apply(averaged)
    for step, weights in enumerate(watcher.steps[1:]):
        for variable, array in zip(averaged, weights, strict=True):
            variable.assign(array)
        count.assign(step)
        ema.apply(averaged)
        averages.append([ema.average(variable).numpy() for variable in averaged])
    saved, names = final(job.run)["best"], [v.path for v in job.classifier.model.weights]
    expected = averages[5 * result["best"]["epoch"] - 1]
    for name, one, other in zip(names, saved, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6, err_msg=name)
    opened = ("top_conv", "top_norm/gamma", "top_norm/beta", "logits")
    for name, one, other in zip(names, saved, watcher.steps[0], strict=True):
        assert name.startswith(opened) or np.array_equal(one, other), name
    assert not np.array_equal(saved[-1], watcher.steps[5 * result["best"]["epoch"]][-1])


def test_soup_is_saved_where_it_is_better(coloured, tmp_path, monkeypatch):
    """By a loss that is the distance to the mean of all epochs, known from a run without a soup."""
    text = "one(trainable=middle, epochs=3, optimizer=sgd, learning_rate=0.1{})"
    _, raw, _ = recorded(small_recipe(coloured, [text.format("")]), tmp_path / "raw")
    mean = [np.mean(arrays, axis=0) for arrays in zip(*raw.epochs, strict=True)]
    recipe, models = small_recipe(coloured, [text.format(", average=soup(3)")]), []

    def distance(step, batches, classes):
        pairs = zip(models[0].weights, target, strict=True)
        return Evaluation(sum(float(np.sum((v - t) ** 2)) for v, t in pairs), np.eye(2, dtype=int))

    monkeypatch.setattr(loop, "evaluate", distance)
    for name, target in (("all", mean), ("second", raw.epochs[1])):
        job, watcher = make_job(recipe, tmp_path / name, Recorder()), Recorder()
        watcher.begin(job)
        models[:] = [job.classifier.model]
        result = loop.train(dataclasses.replace(job, logger=watcher)).result
        for one, other in zip(watcher.epochs, raw.epochs, strict=True):
            assert all(map(np.array_equal, one, other)), "the soup moves no raw weight"
        for one, other in zip(final(job.run)["best"], target, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-7)
        soup = result["phases"][0].get("average", {})
        assert sorted(soup.get("epochs", [])) == ([1, 2, 3] if name == "all" else [])
        assert result["best"]["epoch"] == (3 if name == "all" else 2)


def greedy(epochs, accuracy, size):
    """Wortsman et al., recipe 1, in NumPy: the epochs that are averaged, best first."""
    order = sorted(range(len(epochs)), key=lambda i: -accuracy(epochs[i]))[:size]
    chosen = order[:1]
    for new in order[1:]:
        before, after = (np.mean([epochs[i] for i in some], 0) for some in (chosen, [*chosen, new]))
        chosen += [new] * (accuracy(after) >= accuracy(before))
    return chosen


@pytest.mark.parametrize("size", [2, 3, 5])
def test_soup_follows_the_published_recipe(size):
    """For random weights, and accuracies that fall with the distance from a point."""
    random, phase = np.random.default_rng(size), parse_phase(f"p(average=soup({size}))")
    gains = 0
    for _ in range(100):
        epochs, point = random.normal(size=(6, 4)).astype(np.float32), random.normal(size=4) / 2

        def evaluate(weights, point=point):
            right = round(1000 / (1 + np.linalg.norm(weights - point)))
            return Evaluation(0.0, np.array([[right, 1000 - right], [0, 0]]))

        variable = keras.Variable(epochs[0])
        average = averaging.make(phase, [variable], None, TrainState(), ())
        for number, weights in enumerate(epochs):
            variable.assign(weights)
            row = {"epoch": number, "val_accuracy": evaluate(weights).accuracy, "val_loss": 0.0}
            average.end_epoch(row)
        soup = average.end_phase(lambda: evaluate(variable.numpy()))  # noqa: B023
        chosen = greedy(epochs, lambda weights: evaluate(weights).accuracy, size)
        mean = epochs[chosen].mean(0, dtype=float)
        if evaluate(mean).accuracy > evaluate(epochs[chosen[0]]).accuracy:
            gains += 1
            assert soup["epochs"] == chosen
            np.testing.assert_allclose(variable.numpy(), mean, rtol=1e-6)
        else:
            assert soup is None
            np.testing.assert_array_equal(variable.numpy(), epochs[-1])
    assert 10 < gains < 100
