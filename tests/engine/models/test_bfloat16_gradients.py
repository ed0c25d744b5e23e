"""A tail's gradients by other operations equal TensorFlow's."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from engine.models import bfloat16_gradients
from engine.models.bfloat16_gradients import depthwise_conv, fuse_gradient
from tests.engine import small
from tests.engine.backbone_families import relative_error


def random(*shape, dtype="float64"):
    return tf.constant(np.random.default_rng(len(shape)).normal(size=shape), dtype)


def gradients(function, *tensors):
    """The outputs, and the gradients of their sum with fixed random weights."""
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        outputs = function(*tensors)
        loss = tf.reduce_sum(outputs * random(*outputs.shape, dtype=outputs.dtype))
    return outputs, *tape.gradient(loss, tensors)


def test_depthwise_gradients_equal_tensorflow():
    """In float64, so that only an error of the formulas could show."""
    kernels = [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (7, 7), (3, 5), (9, 3)]
    sizes = [(9, 10), (11, 9), (12, 15)]
    cases = itertools.product(kernels, sizes, (1, 2, 3), ("same", "valid"))
    for kernel, size, stride, padding in cases:
        tensors = random(2, *size, 3), random(*kernel, 3, 1)
        settings = ((stride, stride), padding, "channels_last", (1, 1))
        ours = gradients(functools.partial(with_settings, depthwise_conv, settings), *tensors)
        plain = functools.partial(with_settings, tf.nn.depthwise_conv2d)
        settings = ([1, stride, stride, 1], padding.upper())
        for one, other in zip(
            ours, gradients(functools.partial(plain, settings), *tensors), strict=True
        ):
            np.testing.assert_allclose(one, other, atol=1e-12, err_msg=f"{kernel, size, settings}")


def with_settings(convolve, settings, inputs, kernel):
    return convolve(inputs, kernel, *settings)


@pytest.mark.parametrize(("multiplier", "dilation"), [(2, 1), (1, 2)])
def test_other_depthwise_convolutions_are_those_of_keras(multiplier, dilation):
    case = (random(2, 9, 10, 3), random(5, 5, 3, multiplier))
    settings = ((1, 1), "same", "channels_last", (dilation, dilation))
    ours = gradients(lambda x, w: depthwise_conv(x, w, *settings), *case)
    plain = gradients(lambda x, w: keras.ops.depthwise_conv(x, w, *settings), *case)
    for one, other in zip(ours, plain, strict=True):
        assert np.array_equal(one, other)


def network() -> keras.Model:
    """All kinds of layers that are replaced, with and without a normalization to fold."""
    layers = keras.layers
    inputs = keras.Input((9, 10, 4))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, groups=4)(inputs))
    x = layers.Activation("silu")(x)
    x = layers.BatchNormalization()(layers.DepthwiseConv2D(5, 1, "same", use_bias=False)(x))
    x = layers.Add()([layers.Activation("hard_silu")(x), layers.DepthwiseConv2D(1)(x)])
    x = layers.BatchNormalization()(layers.SeparableConv2D(8, 7, 2, "same")(x))
    x = layers.Conv2D(8, 2, groups=2)(layers.SeparableConv2D(8, 3, 1, "same", activation="relu")(x))
    x = layers.Conv2D(6, 1, activation="silu")(layers.BatchNormalization()(layers.ReLU()(x)))
    model = keras.Model(inputs, layers.Dense(5, "relu")(layers.GlobalAveragePooling2D()(x)))
    for place, variable in enumerate(model.weights):
        numbers = np.random.default_rng(place).uniform(0.5, 1.5, variable.shape)
        signs = np.random.default_rng(-place % 99).choice([-1, 1], variable.shape)
        variable.assign(numbers if "variance" in variable.path else 0.3 * numbers * signs)
    return model


@pytest.mark.parametrize("training", [False, True])
def test_function_equals_model(training):
    model, inputs = network(), random(4, 9, 10, 4, dtype="float32")
    variables = [variable.value for variable in model.trainable_variables]
    before = small.values(model.weights)
    function, results = bfloat16_gradients.make_function(model, training), []
    for run in (lambda: function([inputs]), lambda: model(inputs, training=training)):
        for variable, value in zip(model.weights, before, strict=True):
            variable.assign(value)
        with tf.GradientTape() as tape:
            outputs = run()
            loss = tf.reduce_sum(outputs**2)
        results.append([outputs, *tape.gradient(loss, variables), *small.values(model.weights)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert np.linalg.norm(results[0][0]) > 0.1
    assert training != all(map(np.array_equal, before, small.values(model.weights)))


def test_grouped_convolution_with_a_channel_in_each_group_is_depthwise():
    inputs = keras.Input((9, 10, 4))
    model = keras.Model(inputs, keras.layers.Conv2D(4, 7, padding="same", groups=4)(inputs))
    function = tf.function(bfloat16_gradients.make_function(model), autograph=False)
    graph = function.get_concrete_function([tf.zeros([2, 9, 10, 4])]).graph
    assert [op.type for op in graph.get_operations() if "Conv" in op.type] == [
        "DepthwiseConv2dNative"
    ]


@pytest.mark.parametrize("name", ["silu", "hard_silu"])
def test_fused_gradient_equals_keras(name):
    activation = keras.activations.get(name)
    inputs = tf.constant(np.linspace(-8, 8, 320).reshape(4, 80), tf.float32)
    for one, other in zip(
        gradients(fuse_gradient(activation), inputs), gradients(activation, inputs), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("kind", ["Conv2D", "Dense"])
def test_bias_gradient_is_summed_in_float32(kind):
    """TensorFlow's own of BiasAdd is half off here."""
    inputs = keras.Input((64, 64, 2))
    layer = keras.layers.Dense(3) if kind == "Dense" else keras.layers.Conv2D(3, 1)
    model = keras.Model(inputs, layer(inputs))
    layer.dtype_policy = "mixed_bfloat16"
    function = tf.function(bfloat16_gradients.make_function(model), autograph=False)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.cast(function([tf.ones([8, 64, 64, 2])]), tf.float32))
    assert relative_error(tape.gradient(loss, layer.bias.value), tf.fill([3], 8.0 * 64 * 64)) < 0.01
