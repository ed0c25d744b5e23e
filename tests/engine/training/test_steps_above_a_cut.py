"""Steps above a frozen trunk, and several steps or microbatches of a batch in one call."""

import numpy as np
import pytest
import tensorflow as tf

from engine.core.call_syntax import Call, parse_calls
from engine.core.recipe import Phase
from engine.evaluation import eval_step
from engine.frozen import trunk
from engine.frozen.array_store import CacheBudget
from engine.frozen.feature_cache import FeatureCache
from engine.frozen.forward import FrozenForward
from engine.frozen.precision import ComputeMode
from engine.frozen.view_schedule import ViewSchedule
from engine.models import freezing
from engine.training import train_step
from pipelines.augment import augmentations
from tests.engine import small
from tests.engine.backbone_families import relative_error
from tests.engine.trainers import FLOAT32, RATE, moved, trainer


@pytest.mark.parametrize("microbatches", [2, 3, 6])
@pytest.mark.parametrize("trainable", ["head", "top"])
def test_microbatches_give_same_update(trainable, microbatches):
    """With all kinds of weights; the last of three microbatches is all padding."""
    changes = {"batch_size": 6, "label_smoothing": 0.1, "dropout": 0.3}
    batches = [small.batch(seed=seed) for seed in range(2)]
    batches[1] = batches[1]._replace(weights=tf.constant([1.0, 1, 1, 1, 0, 0]))
    phase_trainer = []
    for gradient_accumulation_steps in (1, microbatches):
        recipe = small.recipe(**changes, gradient_accumulation_steps=gradient_accumulation_steps)
        options = {"momentum": 0.9}
        net = small.network(hidden_units=12)
        small.enliven(net.model)
        phase_trainer.append(
            trainer(
                trainable, net=net, recipe=recipe, class_weights=(0.5, 2.0, 7.0), options=options
            )
        )
        before = small.values(net.model.weights)
        for batch in batches:
            phase_trainer[-1].step(batch, RATE)
        assert len(moved(net.model, before)) == {"head": 4, "top": 8}[trainable]
    for one, other in zip(*(each.net.model.weights for each in phase_trainer), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    whole, in_pieces = (each.metrics.read() for each in phase_trainer)
    assert in_pieces.loss == pytest.approx(whole.loss, rel=1e-6)
    assert (in_pieces.accuracy, in_pieces.examples) == (whole.accuracy, 10)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("lengths", [(5,), (2, 2, 1)])
def test_steps_in_one_call_equal_single_calls(optimizer, lengths):
    """Bit for bit, with a learning rate, draws and weights of each step's own."""
    batches = [
        small.batch(seed=seed)._replace(epochs=tf.fill([6], seed), views=tf.fill([6], seed))
        for seed in range(5)
    ]
    batches[3] = batches[3]._replace(weights=tf.constant([1.0, 1, 0, 0, 0, 0]))
    rates = tf.constant([0.1, 0.05, 0.2, 0.0, 0.03])
    recipe = small.recipe(dropout=0.3, batch_size=6)
    change = augmentations.compose([Call("rotate"), Call("flip")])
    one, many = (trainer("top", optimizer, recipe=recipe, augment=change) for _ in range(2))
    for batch, rate in zip(batches, rates, strict=True):
        one.step(batch, rate)
    start = 0
    for length in lengths:
        stop = start + length
        many.steps(small.stacked(*batches[start:stop]), rates[start:stop])
        start = stop
    for mine, other in zip(many.net.model.weights, one.net.model.weights, strict=True):
        assert np.array_equal(mine, other), mine.path
    for mine, other in zip(many.optimizer.variables, one.optimizer.variables, strict=True):
        assert np.array_equal(mine, other), mine.path
    assert many.metrics.read() == one.metrics.read()


@pytest.mark.parametrize(
    ("text", "views"), [("rotate", ViewSchedule(0, 2, 0.5, 4)), ("flip", None)]
)
def test_cached_features_train_as_images(text, views):
    """Three epochs over the same views, once through the trunk and once from the cache."""
    loader, change = small.InMemoryDataLoader(10, 4), augmentations.compose(parse_calls(text))
    recipe = small.recipe(dropout=0.3, batch_size=4)
    plain = trainer("top", "adam", recipe=recipe, augment=change)
    frozen_forward = FrozenForward(
        recipe.seed, change, trunk.compile_frozen(plain.partition.trunk, FLOAT32)
    )
    slots = views.count if views else change.outcomes
    views = views or ViewSchedule(0, None, 0.0, 4)
    features = FeatureCache(loader, frozen_forward, views, slots, CacheBudget(10**6))
    kept = trainer("top", "adam", recipe=recipe, frozen_forward=features.restore)
    for epoch in range(3):
        features.fill(epoch)
        steps = 3 * epoch, 3 * epoch + 3, 2
        for batches in loader.train_batches(*steps, views):
            plain.steps(batches, tf.fill([len(batches.labels)], 0.01))
        for batches in loader.train_batches(*steps, views, features.lookup):
            kept.steps(batches, tf.fill([len(batches.labels)], 0.01))
    for one, other in zip(kept.net.model.weights, plain.net.model.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, err_msg=one.path)
    assert kept.metrics.read().loss == pytest.approx(plain.metrics.read().loss, rel=1e-5)


@pytest.mark.parametrize("program", [FLOAT32, ComputeMode("mixed_bfloat16")], ids=str)
@pytest.mark.parametrize("trainable", ["head", "top"])
def test_tail_eval_step_equals_whole_model(trainable, program):
    net, batch = small.network(hidden_units=5), small.batch()
    small.enliven(net.model)
    cut = freezing.partition_model(net, trainable)
    pixels = tf.cast(batch.inputs, tf.float32)
    boundary = tf.nest.flatten(cut.trunk(pixels, training=False))
    result = train_step.make_tail_eval_step(cut, program)(boundary, batch.labels)
    expected = eval_step.make_eval_step(net.model)(batch.inputs, batch.labels)
    tolerance = 1e-5 if program is FLOAT32 else 0.02
    for one, other in zip(result, expected, strict=True):
        assert one.dtype == tf.float32
        np.testing.assert_allclose(one, other, atol=tolerance)
    assert (program is FLOAT32) == np.allclose(result[0], expected[0], atol=1e-5)


@pytest.mark.parametrize("program", [FLOAT32, ComputeMode("mixed_bfloat16")], ids=str)
def test_trial_equals_gradient_tape(program):
    """Against a tape around the model; all labels are 0."""
    net, batch = small.network(), small.batch()
    small.enliven(net.model)
    cut, phase = freezing.partition_model(net, "top"), Phase("tune", "top")
    pixels = tf.cast(batch.inputs, tf.float32)
    boundary = tf.nest.flatten(cut.trunk(pixels, training=False))
    before = small.values(net.model.weights)
    logits, gradient = train_step.make_trial(small.recipe(), phase, cut, program)(boundary)
    with tf.GradientTape() as tape:
        expected = net.model(pixels, training=False)
        loss = tf.reduce_mean(-tf.nn.log_softmax(expected)[:, 0])
    tolerance = 1e-5 if program is FLOAT32 else 0.05
    assert relative_error(logits, expected) < tolerance
    assert relative_error(gradient, tape.gradient(loss, cut.variables[0].value)) < tolerance
    assert cut.variables[0].path == "top_conv/kernel"
    assert moved(net.model, before) == set()
