"""A phase whose network predicts differently in use than in training is reported."""

import math

import numpy as np
import pytest
import tensorflow as tf

from engine.frozen.array_store import CacheBudget
from engine.training import batchnorm_check
from engine.training.metrics import TrainMetrics
from tests.engine import small
from tests.engine.small_runs import Watcher, interrupt, small_recipe, train
from tests.engine.trainers import moved, trainer


def make_step(net, **recipe):
    recipe = small.recipe(batch_size=6, **recipe)
    return trainer("top", net=net, recipe=recipe, batch_norm="train").steps


def batches():
    return [small.stacked(small.batch(seed=seed)) for seed in range(2)]


def keras_loss(net, training: bool) -> float:
    """The mean cross-entropy that Keras computes layer by layer."""
    total = 0.0
    for batch in batches():
        x = tf.cast(batch.inputs[0], tf.float32)
        for layer in net.model.layers[1:]:
            x = layer(x, **({"training": training} if layer.name == "top_norm" else {}))
        right = tf.gather(tf.nn.log_softmax(x), batch.labels[0], batch_dims=1)
        total -= float(tf.reduce_mean(right)) / 2
    return total


def test_batchnorm_check_equals_keras_and_leaves_weights_unchanged():
    net = small.network()
    net.model.get_layer("top_norm").moving_mean.assign(np.linspace(-1, 1, 8))
    before = small.values(net.model.weights)
    check = batchnorm_check.check_batchnorm(make_step(net), batches())
    assert moved(net.model, before) == set()
    assert check.inference.loss == pytest.approx(keras_loss(net, False), rel=1e-5)
    assert check.training.loss == pytest.approx(keras_loss(net, True), rel=1e-5)
    assert "top_norm/moving_mean" in moved(net.model, before), "as Keras trains, they move"


@pytest.mark.parametrize("microbatches", [1, 2, 6])
def test_batchnorm_check_training_loss_equals_train_step(microbatches):
    """A microbatch has its own statistics; padding counts for them, and not for the loss."""
    step = make_step(small.network(), gradient_accumulation_steps=microbatches)
    batch = batches()[0]._replace(weights=tf.constant([[1.0, 1, 1, 1, 1, 0]]))
    check = batchnorm_check.check_batchnorm(step, [batch])
    step(batch, tf.zeros([1]))
    assert check.training.loss == pytest.approx(step.metrics.read().loss, rel=1e-5)
    assert check.training.examples == 5


@pytest.mark.parametrize(
    ("training", "inference", "gap"),
    [
        (1.0, 1.2, False),
        (1.0, 1.3, True),
        (0.01, 0.1, False),
        (0.01, 0.2, True),
        (2.0, 1.0, False),
        (1.0, math.nan, True),
        (1.0, math.inf, True),
    ],
)
def test_gap_is_a_clearly_higher_or_non_finite_loss(training, inference, gap):
    both = (TrainMetrics(training, 1.0, 9), TrainMetrics(inference, 1.0, 9))
    assert batchnorm_check.BatchNormCheck(*both).gap is gap


def test_run_logs_batchnorm_gap_with_its_cause(coloured, tmp_path):
    def spoil(job):
        job.classifier.model.get_layer("top_norm").moving_mean.assign([40.0] * 16)

    phases = (
        "transfer(epochs=1)",
        "tune(trainable=middle, epochs=2, batch_norm=train, learning_rate=1e-2)",
    )
    watcher = Watcher()
    _, result = train(small_recipe(coloured, phases), tmp_path / "run", watcher, change=spoil)
    head, tune = result["phases"]
    assert "batchnorm_check" not in head
    assert tune["batchnorm_check"]["training"]["examples"] == 4 * 8
    # Ten steps move running statistics by a tenth of the way.
    (line,) = [note for note in watcher.notes if "phase 'tune': loss" in note]
    for words in ("after 10 steps with batch_norm=train", "use batch_norm=frozen"):
        assert words in line


def test_resume_at_end_of_phase_repeats_batchnorm_check(coloured, tmp_path):
    """Though that phase has no steps left and its cache is empty."""
    phases = (
        "tune(trainable=middle, epochs=2, batch_norm=train, views=1, learning_rate=1e-3)",
        "more(epochs=1)",
    )
    recipe = small_recipe(coloured, phases, cache="features")
    settings = {"cache_budget": CacheBudget(10**9), "checkpoint_minutes": 10}
    _, steady = train(recipe, tmp_path / "steady", **settings)
    interrupt(recipe, tmp_path / "run", 12, **settings)
    _, resumed = train(recipe, tmp_path / "run", **settings)
    assert resumed["phases"][0]["batchnorm_check"] == steady["phases"][0]["batchnorm_check"]
