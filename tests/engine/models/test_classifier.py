"""The classifier: scaling against Keras' own, float32 where it counts, names and first weights."""

import functools

import keras
import numpy as np
import pytest

from engine.models import classifier
from engine.models.backbones import BACKBONES, SCALINGS
from tests.engine import small

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3)).astype(np.float32)

# Where keras.applications has a `preprocess_input` that does something, by the beginning of names.
PREPROCESSED = {
    "inception_v3": "inception_v3",
    "inception_resnet": "inception_resnet_v2",
    "xception": "xception",
    "vgg16": "vgg16",
    "vgg19": "vgg19",
    "resnet50_v2": "resnet_v2",
    "resnet101_v2": "resnet_v2",
    "resnet152_v2": "resnet_v2",
    "resnet": "resnet",
    "densenet": "densenet",
    "mobilenet_v3": None,
    "mobilenet_v2": "mobilenet_v2",
    "mobilenet": "mobilenet",
    "nasnet": "nasnet",
}
# The others scale by layers of their own: a model that shows them, and the last of these layers.
BUILT_IN = {
    "mobilenet_v3": ("MobileNetV3Small", "rescaling"),
    "efficientnet_v2_b": ("EfficientNetV2B0", "normalization"),
    "efficientnet_v2": ("EfficientNetV2S", "rescaling"),
    "convnext": ("ConvNeXtTiny", "convnext_tiny_prestem_normalization"),
}
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def scaled(scaling: str) -> np.ndarray:
    pixels = keras.Input((6, 5, 3))
    result = classifier.scale(pixels, SCALINGS[scaling])
    return np.array(keras.Model(pixels, result)(PIXELS))


def by_beginning(name: str, table: dict):
    return next((value for start, value in table.items() if name.startswith(start)), None)


def preprocessed(name: str) -> np.ndarray:
    """The random pixels as the network's authors scale them, by code that is not ours."""
    module = by_beginning(name, PREPROCESSED)
    if module:
        return getattr(keras.applications, module).preprocess_input(PIXELS.copy())
    if name.startswith("efficientnet_lite"):
        return (PIXELS - 127) / 128
    if name.startswith("efficientnet_b"):
        # The layers of Keras divide by the square root of the deviation, twice.
        return (PIXELS / 255 - IMAGENET_MEAN) / IMAGENET_DEVIATION
    return built_in(*by_beginning(name, BUILT_IN))


@functools.cache
def built_in(kind: str, last: str) -> np.ndarray:
    keras.backend.clear_session()
    model = getattr(keras.applications, kind)(
        weights=None, include_top=False, include_preprocessing=True
    )
    layers = {layer.name: layer for layer in model._flatten_layers()}
    x = PIXELS
    for name in ("rescaling", last):
        if name in layers:
            x = layers.pop(name)(x)
    return np.array(x)


def slow_if_large(name: str):
    """Networks that have to be built to show their scaling."""
    marks = pytest.mark.slow if name.startswith(("efficientnet_v2", "convnext")) else ()
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [*map(slow_if_large, BACKBONES)])
def test_pixels_are_scaled_as_the_weights_were_trained(name):
    np.testing.assert_allclose(
        scaled(BACKBONES[name].scaling), preprocessed(name), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("precision", ["auto", "mixed_bfloat16", "mixed_float16"])
def test_model_is_float32_whatever_the_precision(precision):
    before = keras.config.dtype_policy().name
    net = classifier.build(small.recipe(precision=precision, backbone="tiny"), 3)
    assert keras.config.dtype_policy().name == before
    assert {layer.compute_dtype for layer in net.model.layers} == {"float32"}
    assert {variable.dtype for variable in net.model.weights} == {"float32"}
    assert net.model(np.zeros((1, 32, 32, 3), np.float32)).dtype == "float32"


def test_dropout_of_the_backbone_is_off():
    net = classifier.build(small.recipe(backbone="efficientnet_b0"), 3)
    layers = [layer for layer in net.model.layers if isinstance(layer, keras.layers.Dropout)]
    assert layers  # else there is nothing to turn off
    ones = np.ones((50, 4, 4, 2), np.float32)
    for layer in layers:
        assert np.array_equal(layer(ones, training=True), ones)


def test_seed_decides_the_weights_whatever_was_built_before():
    def build(seed: int) -> keras.Model:
        return classifier.build(small.recipe(seed=seed, backbone="tiny"), 3).model

    first = build(3)
    keras.layers.Dense(3).build((None, 4))
    build(8)
    again = build(3)
    assert all(np.array_equal(a, b) for a, b in zip(first.weights, again.weights, strict=True))
    other = build(4)
    assert not np.array_equal(first.weights[-2], other.weights[-2])
    assert not np.array_equal(first.weights[0], other.weights[0])


def test_automatic_layer_names_start_over_with_each_classifier():
    keras.layers.Conv2D(1, 1)
    classifier.build(small.recipe(backbone="tiny"), 3)
    assert keras.layers.Conv2D(1, 1).name == "conv2d"


@pytest.mark.parametrize("hidden_units", [0, 12])
def test_head_follows_the_recipe(hidden_units):
    net = classifier.build(small.recipe(hidden_units=hidden_units, backbone="tiny"), 5)
    assert net.model.input_shape == (None, 32, 32, 3)
    pixels = np.random.default_rng(2).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    inner = keras.Model(net.model.inputs[0], [net.features, net.vector])
    features, vector = (np.array(part) for part in inner(pixels, training=False))
    assert features.shape == (2, 16)
    if hidden_units:
        kernel, bias = small.values(net.model.get_layer("hidden").weights)
        np.testing.assert_allclose(vector, np.maximum(features @ kernel + bias, 0), atol=1e-5)
    assert vector.shape == (2, hidden_units or 16)
    kernel, bias = small.values(net.model.get_layer("logits").weights)
    assert net.head is net.model.get_layer("logits")
    logits = net.model(pixels, training=False)
    np.testing.assert_allclose(logits, vector @ kernel + bias, atol=1e-5)


def test_stages_are_in_the_order_of_computation():
    net = classifier.build(small.recipe(), 3)
    assert list(net.stages) == [f"block_{number}" for number in range(1, 17)]
    sides = [tensor.shape[1] for tensor in net.stages.values()]
    assert sides == sorted(sides, reverse=True)
