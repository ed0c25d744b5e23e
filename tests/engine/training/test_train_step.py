"""One step of training against plain Keras and NumPy, and what it must not change."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from engine.frozen.precision import ComputeMode
from engine.optim.optimizers import OPTIMIZERS, SOLVER
from engine.runtime import stateless_random
from pipelines.augment.augmentations import Augmentation
from tests.engine import small
from tests.engine.trainers import RATE, agree, moved, trainer


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != SOLVER])
@pytest.mark.parametrize("trainable", ["head", "top", "all"])
def test_step_moves_trainable_variables_only(optimizer, trainable):
    phase_trainer = trainer(trainable, optimizer, small.network(hidden_units=5))
    model = phase_trainer.net.model
    before = small.values(model.weights)
    phase_trainer.step(small.batch(), RATE)
    opened = {"head": ("hidden", "logits"), "top": ("top", "hidden", "logits"), "all": ("",)}
    expected = {v.path for v in model.trainable_variables if v.path.startswith(opened[trainable])}
    assert moved(model, before) == expected


def test_batch_norm_train_moves_statistics_of_trainable_layers():
    phase_trainer = trainer("top", batch_norm="train")
    before = small.values(phase_trainer.net.model.weights)
    phase_trainer.step(small.batch(), RATE)
    statistics = {path for path in moved(phase_trainer.net.model, before) if "moving" in path}
    assert statistics == {"top_norm/moving_mean", "top_norm/moving_variance"}


def test_three_steps_equal_keras():
    net = small.network()
    plain = compiled_copy(net.model)
    phase_trainer = trainer("all", net=net, batch_norm="train", options={"momentum": 0.9})
    for seed in range(3):
        batch = small.batch(seed=seed)
        phase_trainer.step(batch, RATE)
        plain.train_on_batch(np.array(batch.inputs, np.float32), np.array(batch.labels))
    agree(net.model, plain)


def test_frozen_batchnorm_step_equals_keras():
    net, batch = small.network(), small.batch()
    plain = compiled_copy(net.model, trainable=("top_conv", "logits"))
    trainer("top", net=net).step(batch, RATE)
    plain.train_on_batch(np.array(batch.inputs, np.float32), np.array(batch.labels))
    for name in ("top_conv", "logits"):  # in the first step scale and offset stand still for both
        agree(net.model.get_layer(name), plain.get_layer(name))


def test_step_of_norms_follows_the_gradients_of_the_whole_model():
    """Their convolutions are folded; TensorFlow's gradients of the unfolded model don't know."""
    net, batch = small.network(), small.batch()
    small.enliven(net.model)
    names = ("low_norm", "top_norm", "logits")
    variables = [v for name in names for v in net.model.get_layer(name).trainable_variables]
    with tf.GradientTape() as tape:
        logits = net.model(tf.cast(batch.inputs, tf.float32), training=False)
        each = tf.nn.sparse_softmax_cross_entropy_with_logits(batch.labels, logits)
        loss = tf.reduce_mean(each)
    gradients = tape.gradient(loss, [variable.value for variable in variables])
    before = small.values(net.model.weights)
    expected = [v.numpy() - 0.1 * g for v, g in zip(variables, gradients, strict=True)]
    trainer("norms", net=net).step(batch, RATE)
    assert moved(net.model, before) == {variable.path for variable in variables}
    for variable, value in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable, value, atol=1e-5, err_msg=variable.path)


def compiled_copy(model, trainable=None) -> keras.Model:
    """Compiled as Keras' own, with the phase's optimizer; all layers train by default."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    for layer in copy.layers:
        layer.trainable = trainable is None or layer.name in trainable
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    copy.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    return copy


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
    batch = small.batch(6)
    ours, theirs = trainer("top"), trainer("top")
    ours.step(batch._replace(weights=tf.constant([1.0, 1, 1, 1, 0, 0])), RATE)
    theirs.step(small.taken(batch, [0, 1, 2, 3]), RATE)
    agree(ours.net.model, theirs.net.model, atol=1e-6)
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


def test_augmentation_gets_draws_of_its_examples():
    draws = []

    def apply(images, numbers):
        tf.py_function(lambda n: draws.append(n.numpy()), [numbers], [])
        return tf.cast(images, tf.float32)

    batch = small.batch()._replace(epochs=tf.fill([6], 4), views=tf.range(6) + 7)
    phase_trainer = trainer(recipe=small.recipe(seed=9), augment=Augmentation(5, apply))
    phase_trainer.step(batch, RATE)
    expected = stateless_random.uniform(
        9, stateless_random.AUGMENT, tf.range(6) + 7, batch.examples, 5
    )
    assert np.array_equal(draws[0], expected)


def test_network_sees_augmented_images():
    batch = small.batch()
    grey = Augmentation(0, lambda images, numbers: tf.fill(images.shape, 100.0))
    ours, theirs = trainer("all", augment=grey), trainer("all")
    ours.step(batch, RATE)
    pixels = tf.fill(batch.inputs.shape, tf.constant(100, tf.uint8))
    theirs.step(batch._replace(inputs=pixels), RATE)
    agree(ours.net.model, theirs.net.model)


def test_variable_without_gradient_raises():
    stray = keras.Variable([1.0], name="stray")
    phase_trainer = trainer(extra=(stray,))
    before = small.values(phase_trainer.net.model.weights)
    with pytest.raises(RuntimeError, match=r"phase 'test': no gradient reaches .*stray"):
        phase_trainer.step(small.batch(), RATE)
    assert moved(phase_trainer.net.model, before) == set()


def test_float16_trains_close_to_float32_and_skips_overflow():
    half = trainer("top", mode=ComputeMode("mixed_float16"), scale_loss=True)
    full = trainer("top")
    model, before = half.net.model, small.values(half.net.model.weights)
    half.optimizer.dynamic_scale.assign(2.0**100)
    half.step(small.batch(), RATE)
    assert moved(model, before) == set()
    assert float(half.optimizer.dynamic_scale.numpy()) == 2.0**99
    half.optimizer.dynamic_scale.assign(2.0**15)
    half.step(small.batch(), RATE)
    full.step(small.batch(), RATE)
    assert len(moved(model, before)) == 6
    agree(model, full.net.model, atol=2e-3)
