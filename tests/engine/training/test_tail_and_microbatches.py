"""The tail alone, and several microbatches of a batch or steps of a call."""

import numpy as np
import pytest
import tensorflow as tf

from engine.core.call_syntax import Call
from engine.core.recipe import Phase
from engine.evaluation import eval_step
from engine.frozen.precision import ComputeMode
from engine.models import freezing
from engine.training import train_step
from pipelines.augment import augmentations
from tests.engine import small
from tests.engine.backbone_families import relative_error
from tests.engine.trainers import FLOAT32, RATE, agree, moved, trainer


@pytest.mark.parametrize("microbatches", [2, 3, 6])
@pytest.mark.parametrize("trainable", ["head", "top"])
def test_microbatches_give_same_update(trainable, microbatches):
    """With all kinds of weights; the last of three microbatches is all padding."""
    batches = [small.batch(seed=seed) for seed in range(2)]
    batches[1] = batches[1]._replace(weights=tf.constant([1.0, 1, 1, 1, 0, 0]))
    trainers = []
    for count in (1, microbatches):
        recipe = small.recipe(
            batch_size=6, label_smoothing=0.1, dropout=0.3, gradient_accumulation_steps=count
        )
        net = small.network(hidden_units=12)
        small.enliven(net.model)
        settings = {"class_weights": (0.5, 2.0, 7.0), "options": {"momentum": 0.9}}
        trainers.append(trainer(trainable, net=net, recipe=recipe, **settings))
        before = small.values(net.model.weights)
        for batch in batches:
            trainers[-1].step(batch, RATE)
        assert len(moved(net.model, before)) == {"head": 4, "top": 8}[trainable]
    agree(*(each.net.model for each in trainers), atol=1e-6)
    whole, accumulated = (each.metrics.read() for each in trainers)
    assert accumulated.loss == pytest.approx(whole.loss, rel=1e-6)
    assert (accumulated.accuracy, accumulated.examples) == (whole.accuracy, 10)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("lengths", [(5,), (2, 2, 1)])
def test_several_steps_per_execution_equal_single_ones(optimizer, lengths):
    """Bit for bit, with a learning rate, draws and weights of each step's own."""
    batches = [
        small.batch(seed=seed)._replace(epochs=tf.fill([6], seed), views=tf.fill([6], seed))
        for seed in range(5)
    ]
    batches[3] = batches[3]._replace(weights=tf.constant([1.0, 1, 0, 0, 0, 0]))
    rates = tf.constant([0.1, 0.05, 0.2, 0.0, 0.03])
    recipe = small.recipe(dropout=0.3, batch_size=6)
    augment = augmentations.compose([Call("rotate"), Call("flip")])
    single, several = (trainer("top", optimizer, recipe=recipe, augment=augment) for _ in range(2))
    for batch, rate in zip(batches, rates, strict=True):
        single.step(batch, rate)
    start = 0
    for length in lengths:
        stop = start + length
        several.steps(small.stacked(*batches[start:stop]), rates[start:stop])
        start = stop
    agree(several.net.model, single.net.model, atol=0)
    for one, other in zip(several.optimizer.variables, single.optimizer.variables, strict=True):
        assert np.array_equal(one, other), one.path
    assert several.metrics.read() == single.metrics.read()


@pytest.fixture
def net():
    network = small.network(hidden_units=5)
    small.enliven(network.model)
    return network


MODES = pytest.mark.parametrize("mode", [FLOAT32, ComputeMode("mixed_bfloat16")], ids=str)


@MODES
@pytest.mark.parametrize("trainable", ["head", "top"])
def test_tail_eval_step_equals_whole_model(net, trainable, mode):
    batch, partition = small.batch(), freezing.partition_model(net, trainable)
    boundary = partition.trunk(tf.cast(batch.inputs, tf.float32), training=False)
    step = train_step.make_tail_eval_step(partition, mode)
    result = step(tf.nest.flatten(boundary), batch.labels)
    expected = eval_step.make_eval_step(net.model)(batch.inputs, batch.labels)
    for one, other in zip(result, expected, strict=True):
        assert one.dtype == tf.float32
        np.testing.assert_allclose(one, other, atol=1e-5 if mode is FLOAT32 else 0.02)
    assert (mode is FLOAT32) == np.allclose(result[0], expected[0], atol=1e-5)


@MODES
def test_trial_equals_gradient_tape(net, mode):
    """Against a tape around the model."""
    partition, phase = freezing.partition_model(net, "top"), Phase("tune", "top")
    pixels = tf.cast(small.batch().inputs, tf.float32)
    boundary = tf.nest.flatten(partition.trunk(pixels, training=False))
    before = small.values(net.model.weights)
    trial = train_step.make_trial(small.recipe(), phase, partition, mode)
    logits, *gradients = trial(boundary)
    with tf.GradientTape() as tape:
        expected = net.model(pixels, training=False)
        labels = tf.one_hot([0, 1, 2, 0, 1, 2], 3)
        loss = -tf.reduce_mean(tf.reduce_sum(tf.nn.log_softmax(expected) * labels, -1))
    tolerance = 1e-5 if mode is FLOAT32 else 0.05
    assert relative_error(logits, expected) < tolerance
    plain = tape.gradient(loss, [variable.value for variable in partition.variables])
    for variable, one, other in zip(partition.variables, gradients, plain, strict=True):
        assert relative_error(one, other) < tolerance, variable.path
    assert moved(net.model, before) == set()
