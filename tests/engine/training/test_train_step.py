"""One step of training against plain Keras and NumPy, and what it must not change."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from engine.evaluation import eval_step
from engine.optim.optimizers import OPTIMIZERS
from engine.runtime import stateless_random
from pipelines.augment.augmentations import Augmentation
from tests.engine import small
from tests.engine.trainers import RATE, agree, moved, trainer


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("trainable", ["head", "top", "all"])
def test_step_moves_trainable_variables_only(optimizer, trainable):
    phase_trainer = trainer(trainable, optimizer, small.network(hidden_units=5))
    model = phase_trainer.net.model
    before = small.values(model.weights)
    phase_trainer.step(small.batch(), RATE)
    opened = {"head": ("hidden", "logits"), "top": ("top", "hidden", "logits"), "all": ("",)}
    expected = {v.path for v in model.trainable_variables if v.path.startswith(opened[trainable])}
    assert moved(model, before) == expected


def test_frozen_batchnorm_trains_scale_and_offset_only():
    phase_trainer = trainer("all")
    before = small.values(phase_trainer.net.model.weights)
    phase_trainer.step(small.batch(), RATE)
    changed = moved(phase_trainer.net.model, before)
    assert {"low_norm/gamma", "low_norm/beta", "top_norm/gamma", "top_norm/beta"} <= changed
    assert not any("moving" in path for path in changed)


def test_batch_norm_train_moves_statistics_of_trainable_layers():
    phase_trainer = trainer("top", batch_norm="train")
    before = small.values(phase_trainer.net.model.weights)
    phase_trainer.step(small.batch(), RATE)
    statistics = {path for path in moved(phase_trainer.net.model, before) if "moving" in path}
    assert statistics == {"top_norm/moving_mean", "top_norm/moving_variance"}


def test_three_steps_equal_keras():
    net = small.network()
    plain = keras.models.clone_model(net.model)
    plain.set_weights(net.model.get_weights())
    compile_as_ours(plain)
    phase_trainer = trainer("all", net=net, batch_norm="train", options={"momentum": 0.9})
    for seed in range(3):
        batch = small.batch(seed=seed)
        phase_trainer.step(batch, RATE)
        plain.train_on_batch(np.array(batch.inputs, np.float32), np.array(batch.labels))
    agree(net.model, plain)


def test_frozen_batchnorm_step_equals_keras():
    net = small.network()
    plain = keras.models.clone_model(net.model)
    plain.set_weights(net.model.get_weights())
    for layer in plain.layers:
        layer.trainable = layer.name in ("top_conv", "logits")
    compile_as_ours(plain)
    batch = small.batch()
    trainer("top", net=net).step(batch, RATE)
    plain.train_on_batch(np.array(batch.inputs, np.float32), np.array(batch.labels))
    for name in ("top_conv", "logits"):  # in the first step scale and offset stand still for both
        agree(net.model.get_layer(name), plain.get_layer(name))


def compile_as_ours(model) -> None:
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def head_update(net, batch, weights, smoothing=0.0) -> tuple[np.ndarray, np.ndarray]:
    """The gradient of the weighted mean loss for the last layer's kernel and bias, in NumPy."""
    pixels = np.array(batch.inputs, np.float32)
    x = np.array(keras.Model(net.model.inputs[0], net.vector)(pixels), float)
    kernel, bias = small.values(net.head.weights)
    targets = np.eye(3)[np.array(batch.labels)] * (1 - smoothing) + smoothing / 3
    difference = (special.softmax(x @ kernel + bias, -1) - targets) * weights[:, None]
    return x.T @ difference / weights.sum(), difference.sum(0) / weights.sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("of_class", [(1.0, 1.0, 1.0), (0.5, 2.0, 7.0)])
def test_class_weights_and_label_smoothing_equal_numpy(smoothing, of_class):
    net, batch = small.network(), small.batch()
    weights = np.array(of_class)[np.array(batch.labels)]
    gradients = head_update(net, batch, weights, smoothing)
    before = small.values(net.head.weights)
    recipe = small.recipe(label_smoothing=smoothing)
    trainer(net=net, recipe=recipe, class_weights=of_class).step(batch, RATE)
    for old, gradient, new in zip(before, gradients, net.head.weights, strict=True):
        np.testing.assert_allclose(new, old - 0.1 * gradient, atol=1e-6)


def test_padding_does_not_change_step():
    whole = small.batch(6)
    filled = whole._replace(weights=tf.constant([1.0, 1, 1, 1, 0, 0]))
    ours, theirs = trainer("top", net=small.network()), trainer("top", net=small.network())
    ours.step(filled, RATE)
    theirs.step(small.taken(whole, [0, 1, 2, 3]), RATE)
    for one, other in zip(ours.net.model.weights, theirs.net.model.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert ours.metrics.read().examples == 4
    np.testing.assert_allclose(ours.metrics.read().loss, theirs.metrics.read().loss, rtol=1e-6)


def test_metrics_are_those_before_the_update():
    phase_trainer, batch = trainer(), small.batch()
    logits = np.array(phase_trainer.net.model(np.array(batch.inputs, np.float32)), float)
    labels = np.array(batch.labels)
    losses = -special.log_softmax(logits, -1)[np.arange(6), labels]
    phase_trainer.step(batch, RATE)
    metrics = phase_trainer.metrics.read()
    assert metrics.loss == pytest.approx(losses.mean(), abs=1e-6)
    assert metrics.accuracy == pytest.approx((logits.argmax(-1) == labels).mean())
    assert metrics.examples == 6


def test_step_is_traced_once_for_any_number_of_steps():
    phase_trainer = trainer("top", "adam")
    for count in (1, 4, 2, 1):
        batches = [small.batch(seed=seed) for seed in range(count)]
        phase_trainer.steps(small.stacked(*batches), tf.linspace(0.1, 0.05, count))
    assert phase_trainer.steps.compiled.experimental_get_tracing_count() == 1


def test_learning_rate_is_that_of_the_call():
    phase_trainer = trainer(learning_rate=5.0)
    before = small.values(phase_trainer.net.head.weights)
    phase_trainer.step(small.batch(), tf.constant(0.0))
    assert all(
        np.array_equal(a, b) for a, b in zip(before, phase_trainer.net.head.weights, strict=True)
    )


def test_augmentation_gets_draws_of_its_examples():
    seen = []

    def apply(images, numbers):
        tf.py_function(lambda n: seen.append(n.numpy()), [numbers], [])
        return tf.cast(images, tf.float32)

    batch = small.batch()._replace(epochs=tf.fill([6], 4), views=tf.range(6) + 7)
    phase_trainer = trainer(recipe=small.recipe(seed=9), augment=Augmentation(5, apply))
    phase_trainer.step(batch, RATE)
    expected = stateless_random.uniform(
        9, stateless_random.AUGMENT, tf.range(6) + 7, batch.examples, 5
    )
    assert np.array_equal(seen[0], expected)


def test_network_sees_augmented_images():
    batch = small.batch()
    grey = Augmentation(0, lambda images, numbers: tf.fill(images.shape, 100.0))
    ours = trainer("all", augment=grey)
    theirs = trainer("all")
    ours.step(batch, RATE)
    theirs.step(
        batch._replace(inputs=tf.fill(batch.inputs.shape, tf.constant(100, tf.uint8))), RATE
    )
    agree(ours.net.model, theirs.net.model)


def test_variable_without_gradient_raises():
    stray = keras.Variable([1.0], name="stray")
    phase_trainer = trainer(extra=(stray,))
    before = small.values(phase_trainer.net.model.weights)
    with pytest.raises(RuntimeError, match=r"phase 'test': no gradient reaches .*stray"):
        phase_trainer.step(small.batch(), RATE)
    assert moved(phase_trainer.net.model, before) == set()


def test_eval_step_returns_losses_and_logits():
    net, batch = small.network(), small.batch()
    for variable in net.model.weights:
        if "moving" in variable.path:
            variable.assign(variable + 0.5)  # so that the batch's own statistics would be wrong
    losses, result = eval_step.make_eval_step(net.model)(batch.inputs, batch.labels)
    logits = np.array(net.model(np.array(batch.inputs, np.float32), training=False), float)
    np.testing.assert_allclose(result, logits, atol=1e-5)
    expected = -special.log_softmax(logits, -1)[np.arange(6), np.array(batch.labels)]
    np.testing.assert_allclose(losses, expected, atol=1e-5)
