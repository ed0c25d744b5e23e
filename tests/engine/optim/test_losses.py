"""The loss against SciPy and Keras, class weights against scikit-learn's formula by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from scipy import special

from engine.optim.losses import class_weights, cross_entropy

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(0, 3, (7, 5)).astype(np.float32)
LABELS = RANDOM.integers(0, 5, 7).astype(np.int32)


def test_cross_entropy_equals_scipy():
    expected = -special.log_softmax(LOGITS.astype(np.float64), axis=1)[np.arange(7), LABELS]
    loss = cross_entropy(LABELS, LOGITS)
    assert loss.dtype == "float32"
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.3, 0.9])
def test_label_smoothing_equals_keras(smoothing):
    keras_loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=smoothing, reduction="none"
    )
    expected = keras_loss(np.eye(5, dtype=np.float32)[LABELS], LOGITS)
    np.testing.assert_allclose(cross_entropy(LABELS, LOGITS, smoothing), expected, rtol=1e-5)


def test_large_logits_do_not_overflow():
    logits = np.array([[1e4, 0.0], [1e4, 0.0]], np.float32)
    np.testing.assert_allclose(cross_entropy(np.array([0, 1]), logits), [0.0, 1e4])


def test_balanced_class_weights_equal_scikit_learn():
    """n_samples / (n_classes * bincount), for 12 examples of 3 classes: 12/18, 12/9, 12/9."""
    counts = (6, 3, 3)
    weights = class_weights("balanced", counts)
    assert weights == pytest.approx([2 / 3, 4 / 3, 4 / 3])
    assert np.average(weights, weights=counts) == pytest.approx(1)


def test_class_weights_without_policy_are_one():
    assert class_weights("none", (6, 3, 3)) == [1.0, 1.0, 1.0]
