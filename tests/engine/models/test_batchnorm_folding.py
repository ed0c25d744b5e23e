"""Folded equals unfolded: the results, and the gradients of everything that learns."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from engine.models import batchnorm_folding
from tests.engine import small
from tests.engine.models.test_freezing import FAMILIES, OTHERS, build

# How many normalisations stand behind a linear convolution that nobody else reads.
COUNTS = {
    "efficientnet_lite0": 49,
    "inception_v3": 94,
    "densenet121": 59,
    "resnet50_v2": 32,
    "xception": 40,
    "nasnet_mobile": 188,  # of 192: the four `adjust_bn_…` stand behind a concatenation
}


def apart(one, other) -> float:
    """Relative L2 distance."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


@pytest.mark.parametrize("name", [*FAMILIES, *OTHERS])
def test_folded_equals_unfolded_with_lively_statistics(name):
    model = build(name).model
    small.enliven(model)
    pixels = small.smooth_images(model.input.shape[1])
    assert apart(batchnorm_folding.fold(model)(pixels), model(pixels, training=False)) < 1e-4
    if name in COUNTS:
        assert len(batchnorm_folding.foldable_pairs(model)) == COUNTS[name]


def test_kernel_scale_and_offset_get_the_same_gradients():
    made = small.network()
    small.enliven(made.model)
    pixels = tf.constant(small.smooth_images(small.SIDE))
    variables = [variable.value for variable in made.model.trainable_variables]

    def gradients(model):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(pixels) ** 2)
        return tape.gradient(loss, variables)

    plain = gradients(lambda x: made.model(x, training=False))
    for mine, other in zip(gradients(batchnorm_folding.fold(made.model)), plain, strict=True):
        assert apart(mine, other) < 1e-4


def test_a_change_of_a_variable_is_seen_at_once():
    made = small.network()
    folded = tf.function(batchnorm_folding.fold(made.model))
    pixels = tf.constant(small.smooth_images(small.SIDE))
    before = folded(pixels)
    made.model.get_layer("low_norm").gamma.assign_add(tf.ones([4]))
    assert apart(folded(pixels), before) > 1e-3
    assert apart(folded(pixels), made.model(pixels, training=False)) < 1e-5


def test_what_can_not_be_folded_exactly_is_left():
    pixels = keras.Input((8, 8, 3))
    curved = keras.layers.Conv2D(4, 1, activation="relu")(pixels)
    shared = keras.layers.Conv2D(4, 1)(pixels)
    sum_of_both = keras.layers.Add()(
        [
            keras.layers.BatchNormalization()(curved),
            keras.layers.BatchNormalization()(shared),
            shared,
        ]
    )
    model = keras.Model(pixels, sum_of_both)
    small.enliven(model)
    assert batchnorm_folding.foldable_pairs(model) == []
    images = small.smooth_images(8)
    np.testing.assert_array_equal(
        batchnorm_folding.fold(model)(images), model(images, training=False)
    )
