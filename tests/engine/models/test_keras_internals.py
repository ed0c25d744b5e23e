"""Keras's private API: used in one module only, and what each use of it promises."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from engine.models import keras_internals
from tests.engine import small

ROOT = Path(__file__).resolve().parents[3]
PRIVATE = re.compile(
    r"keras\.src|_keras_history|_inbound_nodes|_outbound_nodes|_flatten_layers"
    r"|_run_through_graph|\b(?:layer|optimizer|operation)\._[a-z]"
)


def test_private_keras_is_used_in_one_module():
    paths = [path for tree in ("engine", "pipelines") for path in (ROOT / tree).rglob("*.py")]
    users = [path.name for path in paths if PRIVATE.search(path.read_text())]
    assert users == ["keras_internals.py"]


@pytest.fixture(scope="module")
def model():
    """Two readers of `low`: a convolution, and a sum with the convolution's output."""
    pixels = keras.Input((4, 4, 3))
    low = keras.layers.Conv2D(3, 1, name="low")(pixels)
    top = keras.layers.Conv2D(3, 1, name="top")(low)
    return keras.Model(pixels, keras.layers.Add(name="sum")([top, low]))


def test_edges_of_the_graph(model):
    low, top, total = (model.get_layer(name) for name in ("low", "top", "sum"))
    assert keras_internals.producer(low.output) is low
    assert [keras_internals.producer(t) for t in keras_internals.input_tensors(total)] == [top, low]
    assert keras_internals.consumers(model, low) == {top, total}
    part = keras.Model(model.input, low.output)
    assert keras_internals.consumers(part, low) == set(), "only the model's own"


def test_nested_layers_are_those_of_inner_models_too():
    inner = keras.Sequential([keras.layers.Dense(3, name="inside")])
    pixels = keras.Input((4,))
    outer = keras.Model(pixels, inner(pixels))
    assert "inside" in {layer.name for layer in keras_internals.nested_layers(outer)}
    assert outer not in keras_internals.nested_layers(outer)


def test_run_graph_replaces_operations(model):
    images = np.ones((2, 4, 4, 3), np.float32)
    total = keras_internals.run_graph(model, [images], {model.get_layer("top"): tf.zeros_like})
    np.testing.assert_array_equal(total, model.get_layer("low")(images))


def test_substituted_values_are_read_instead_of_variables():
    dense = keras.layers.Dense(2, use_bias=False)
    dense.build((None, 2))
    with keras_internals.substituted_values([(dense.kernel, tf.eye(2))]):
        inside = np.array(dense(np.ones((1, 2), np.float32)))
    assert np.array_equal(inside, [[1, 1]])
    assert not np.array_equal(dense(np.ones((1, 2), np.float32)), inside)


def test_disabled_gradient_reduction_returns_the_gradients():
    optimizer = keras.optimizers.SGD()
    keras_internals.disable_gradient_reduction(optimizer)
    gradients = [tf.ones(2)]
    assert optimizer._all_reduce_sum_gradients(gradients) == gradients
    variable = keras.Variable(tf.ones(2))
    optimizer.build([variable])
    optimizer.apply(gradients, [variable])
    np.testing.assert_allclose(variable, 0.99)


def test_image_data_generator_is_the_legacy_class():
    flow = keras_internals.image_data_generator()(horizontal_flip=True)
    images = flow.flow(small.smooth_images(8), batch_size=8, shuffle=False)
    assert next(images).shape == (8, 8, 8, 3)
