"""A phase whose network predicts differently in use than in training is reported."""

import math

import numpy as np
import pytest
import tensorflow as tf

from engine.core.recipe import Phase
from engine.frozen.precision import ComputeMode
from engine.models import freezing
from engine.optim import optimizers
from engine.optim.phase_options import phase_options
from engine.training import batchnorm_check
from engine.training.metrics import MetricAccumulator, TrainMetrics
from engine.training.train_step import TrainStep
from tests.engine import small, small_runs


def make_step(net, batch_norm="train", trainable="top", gradient_accumulation_steps=1) -> TrainStep:
    phase = Phase("tune", trainable, batch_norm=batch_norm)
    recipe = small.recipe(
        phases=(phase,), batch_size=6, gradient_accumulation_steps=gradient_accumulation_steps
    )
    partition = freezing.partition_model(net, trainable)
    options = phase_options(phase).optimizer
    optimizer = optimizers.build(phase, options, partition.variables, scale_loss=False)
    below = tf.function(lambda batch: [partition.trunk(tf.cast(batch.inputs, tf.float32))])
    return TrainStep(
        recipe, phase, partition, ComputeMode(), below, optimizer, [1.0] * 3, MetricAccumulator()
    )


def batches(count=2):
    return [small.stacked(small.batch(seed=seed)) for seed in range(count)]


def norm(net):
    return next(layer for layer in net.model.layers if layer.name == "top_norm")


def plain_losses(net, mode) -> float:
    """The mean cross-entropy that Keras computes layer by layer."""
    total = 0.0
    for batch in batches():
        x = tf.cast(batch.inputs[0], tf.float32)
        for layer in net.model.layers[1:]:
            more = {"training": mode} if layer.name == "top_norm" else {}
            x = layer(x, **more)
        right = tf.gather(tf.nn.log_softmax(x), batch.labels[0], batch_dims=1)
        total -= float(tf.reduce_mean(right)) / 2
    return total


def test_batchnorm_check_losses_equal_keras():
    net = small.network()
    norm(net).moving_mean.assign(np.linspace(-1, 1, 8))
    check = batchnorm_check.check_batchnorm(make_step(net), batches())
    assert check.inference.loss == pytest.approx(plain_losses(net, False), rel=1e-5)
    moving = norm(net).moving_mean.numpy()
    assert check.training.loss == pytest.approx(plain_losses(net, True), rel=1e-5)
    assert not np.array_equal(norm(net).moving_mean.numpy(), moving), "as Keras trains, they move"


def test_batchnorm_check_leaves_weights_unchanged():
    net = small.network()
    before = small.values(net.model.weights)
    batchnorm_check.check_batchnorm(make_step(net), batches(3))
    after = small.values(net.model.weights)
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_lagging_statistics_are_reported_with_cause():
    net = small.network()
    norm(net).moving_variance.assign(np.full(8, 1e-4))
    check = batchnorm_check.check_batchnorm(make_step(net), batches())
    assert check.gap
    line = check.complaint(Phase("tune"), 12)
    for words in ("phase 'tune'", "after 12 steps with batch_norm=train", "batch_norm=frozen"):
        assert words in line


def test_fitting_statistics_are_no_gap():
    net = small.network()
    step = make_step(net)
    seen = []
    for batch in batches():
        x = tf.cast(batch.inputs[0], tf.float32)
        for layer in net.model.layers[1:]:
            if layer.name == "top_norm":
                seen.append(x)
            x = layer(x)
    x = tf.concat(seen, 0)
    norm(net).moving_mean.assign(tf.reduce_mean(x, [0, 1, 2]))
    norm(net).moving_variance.assign(tf.math.reduce_variance(x, [0, 1, 2]))
    assert not batchnorm_check.check_batchnorm(step, batches()).gap


@pytest.mark.parametrize(("batch_norm", "trainable"), [("frozen", "top"), ("train", "head")])
def test_batchnorm_check_of_frozen_statistics_agrees_exactly(batch_norm, trainable):
    check = batchnorm_check.check_batchnorm(
        make_step(small.network(), batch_norm, trainable), batches()
    )
    assert check.training == check.inference


@pytest.mark.parametrize("microbatches", [1, 2, 6])
def test_batchnorm_check_training_loss_equals_train_step(microbatches):
    """A microbatch has its own statistics; padding counts for them, and not for the loss."""
    net = small.network()
    step = make_step(net, gradient_accumulation_steps=microbatches)
    (batch,) = batches(1)
    batch = batch._replace(weights=tf.constant([[1.0, 1, 1, 1, 1, 0]]))
    check = batchnorm_check.check_batchnorm(step, [batch])
    step(batch, tf.zeros([1]))
    assert check.training.loss == pytest.approx(step.metrics.read().loss, rel=1e-5)
    assert check.training.examples == 5


def test_resume_at_end_of_phase_repeats_batchnorm_check(coloured, tmp_path):
    """Though that phase has no steps left and its cache is empty."""
    from engine.frozen.array_store import CacheBudget
    from engine.training import loop

    phases = (
        "tune(trainable=middle, epochs=2, batch_norm=train, views=1, learning_rate=1e-3)",
        "more(epochs=1)",
    )
    recipe = small_runs.small_recipe(coloured, phases, cache="features")

    def make_job(name, stop_at=None):
        watcher = small_runs.Watcher(stop_at)
        return small_runs.make_job(
            recipe, tmp_path / name, watcher, cache_budget=CacheBudget(10**9)
        )

    whole = loop.train(make_job("whole")).result
    with pytest.raises(InterruptedError):
        loop.train(make_job("parts", 12))
    parts = loop.train(make_job("parts")).result
    assert parts["phases"][0]["batchnorm_check"] == whole["phases"][0]["batchnorm_check"]


@pytest.mark.parametrize(
    ("trained", "used", "gap"),
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
def test_gap_threshold(trained, used, gap):
    both = (TrainMetrics(trained, 1.0, 9), TrainMetrics(used, 1.0, 9))
    assert batchnorm_check.BatchNormCheck(*both).gap is gap


def test_run_logs_batchnorm_gap_after_phase(coloured, tmp_path):
    from engine.training import loop

    phases = (
        "transfer(epochs=1)",
        "tune(trainable=middle, epochs=2, batch_norm=train, learning_rate=1e-2)",
    )
    watcher = small_runs.Watcher()
    job = small_runs.make_job(small_runs.small_recipe(coloured, phases), tmp_path / "r", watcher)
    job.classifier.model.get_layer("top_norm").moving_mean.assign([40.0] * 16)
    result = loop.train(job).result
    head, tune = result["phases"]
    assert "batchnorm_check" not in head
    assert tune["batchnorm_check"]["training"]["examples"] == 4 * 8
    # Ten steps move running statistics by a tenth of the way.
    assert any("phase 'tune': loss" in note for note in watcher.notes)
