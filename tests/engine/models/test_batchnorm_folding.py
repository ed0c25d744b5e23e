"""A folded model equals the model: outputs, and the gradients of everything that learns.

tests/engine/test_backbone_families.py folds every backbone.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from engine.models import batchnorm_folding
from tests.engine import small
from tests.engine.backbone_families import relative_error

IMAGES = tf.constant(small.smooth_images(small.SIDE))


@pytest.fixture
def model():
    model = small.network().model
    small.enliven(model)
    return model


def test_kernel_scale_and_offset_get_the_same_gradients(model):
    variables = [variable.value for variable in model.trainable_variables]

    def gradients(function):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(function(IMAGES) ** 2)
        return tape.gradient(loss, variables)

    plain = gradients(lambda x: model(x, training=False))
    for one, other in zip(gradients(batchnorm_folding.fold(model)), plain, strict=True):
        assert relative_error(one, other) < 1e-4


def test_change_of_a_variable_takes_effect_at_once(model):
    folded = tf.function(batchnorm_folding.fold(model))
    before = folded(IMAGES)
    model.get_layer("low_norm").gamma.assign_add(tf.ones([4]))
    assert relative_error(folded(IMAGES), before) > 1e-3
    assert relative_error(folded(IMAGES), model(IMAGES, training=False)) < 1e-5


def test_convolutions_with_activation_or_other_readers_are_left():
    pixels = keras.Input((8, 8, 3))
    curved = keras.layers.Conv2D(4, 1, activation="relu")(pixels)
    shared = keras.layers.Conv2D(4, 1)(pixels)
    norms = [keras.layers.BatchNormalization()(conv) for conv in (curved, shared)]
    model = keras.Model(pixels, keras.layers.Add()([*norms, shared]))
    small.enliven(model)
    assert batchnorm_folding.foldable_pairs(model) == []
    np.testing.assert_array_equal(
        batchnorm_folding.fold(model)(IMAGES), model(IMAGES, training=False)
    )
