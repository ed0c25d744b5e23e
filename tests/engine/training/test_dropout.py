"""Dropout: each example's mask depends on its number, epoch and seed alone."""

import dataclasses

import keras
import numpy as np
import pytest
from scipy import special

from engine.frozen.precision import ComputeMode
from engine.runtime import stateless_random
from engine.training import train_step
from tests.engine import small
from tests.engine.trainers import FLOAT32, RATE, trainer

RECIPE = small.recipe(dropout=0.3, seed=2)
BATCH = small.batch()


def mask(batch=BATCH, recipe=RECIPE):
    return train_step.dropout_mask(recipe, batch, 400).numpy()


def test_mask_follows_example():
    order = [3, 0, 5, 1, 4, 2]
    assert np.array_equal(mask(small.taken(BATCH, order)), mask()[order])


def test_mask_draws_differ_from_augmentation():
    own, others = (
        stateless_random.uniform(2, stream, BATCH.epochs, BATCH.examples, 400).numpy() >= 0.3
        for stream in (stateless_random.DROPOUT, stateless_random.AUGMENT)
    )
    assert np.array_equal(mask() > 0, own)
    assert not np.array_equal(own, others)


def test_mask_differs_by_example_epoch_and_seed_and_not_by_view():
    """Otherwise each cached view would always lose the same features."""
    later = BATCH._replace(epochs=BATCH.epochs + 1)
    other = dataclasses.replace(RECIPE, seed=3)
    masks = np.concatenate([mask(), mask(later), mask(recipe=other)])
    assert len(np.unique(masks, axis=0)) == 18
    assert np.array_equal(mask(BATCH._replace(views=BATCH.views + 1)), mask())


def test_mask_preserves_mean():
    factors = mask()
    assert set(np.unique(factors)) == {np.float32(0), np.float32(1) / np.float32(0.7)}
    # 2,400 draws: the share is within four standard deviations
    assert abs((factors == 0).mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / factors.size)


@pytest.mark.parametrize(
    ("mode", "tolerance"),
    [
        (FLOAT32, 1e-6),
        (ComputeMode("mixed_bfloat16"), 1e-3),
        (ComputeMode("mixed_float16"), 1e-4),
    ],
    ids=str,
)
def test_step_with_dropout_equals_numpy(mode, tolerance):
    """Half precision rounds the features, of 0 to 1, by up to a 512th and a 4096th."""
    net = small.network(hidden_units=40)
    kernel, bias = small.values(net.head.weights)
    features = keras.Model(net.model.inputs[0], net.vector)(np.array(BATCH.inputs, np.float32))
    x = np.array(features) * train_step.dropout_mask(RECIPE, BATCH, 40).numpy()
    difference = special.softmax(x @ kernel + bias, -1) - np.eye(3)[BATCH.labels]
    trainer(net=net, recipe=RECIPE, mode=mode).step(BATCH, RATE)
    np.testing.assert_allclose(net.head.weights[1], bias - 0.1 * difference.mean(0), atol=tolerance)
